import pytest

from mbert import ManifestError
from mbert.manifests.labels.label_file import read_labels
from mbert.manifests.labels.table import (
    Label,
    checked,
    digest_of_frames,
    is_cut,
    join_labels,
    labels_by_input,
    span_keys,
)
from mbert.manifests.schema import ClipRow, VideoRow
from mbert.manifests.subject import Subject

S1 = Subject("videos", "s1")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def video(last_frame=100, first_frame=0, kept_whole=None):
    return VideoRow(
        video_id="v",
        dataset="videos",
        path="a.mp4",
        kind="video",
        status="ok",
        first_frame=first_frame,
        last_frame=last_frame,
        kept_whole=kept_whole,
    )


def join(clips, labels, *, subject=None, **of_video):
    return join_labels(video(**of_video), clips, labels, subject=subject)


def clip(name, first, last, face_px=100.0, track=0):
    return ClipRow(
        clip_id=name,
        video_id="v",
        dataset="videos",
        shard="000000",
        track=track,
        first_frame=first,
        last_frame=last,
        num_frames=last - first + 1,
        fps=30.0,
        align="clip",
        face_px=face_px,
        jitter_px=0.1,
    )


def label(line=2, onset=10, apex=15, offset=20, subject=S1, emotion="happiness", **more):
    frames = {"onset": onset, "apex": apex, "offset": offset}
    more = {"path": "a.mp4", "dataset": "videos", "sample": f"a_{onset}", **more}
    return Label(line=line, subject=subject, emotion=emotion, **frames, **more)


def test_labels_are_read_with_missing_cells_and_slashes(tmp_path):
    file = write(
        tmp_path / "labels.csv",
        "path,subject,onset,apex,offset,emotion,action_units\n./a/b.mp4,01,46,/,90,Happiness,4+7\nc/,s2,,,,,\n",
    )
    first, second = read_labels(file, "videos").labels
    assert (first.path, first.subject, first.onset, first.apex, first.offset) == ("a/b.mp4", "videos/01", 46, None, 90)
    assert (first.emotion, first.action_units, first.line) == ("Happiness", "4+7", 2)
    assert (second.path, second.span, second.emotion) == ("c", None, None)


def test_a_byte_order_mark_and_windows_separators_are_understood(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_bytes("﻿path,subject,onset,apex,offset,emotion\r\na\\b.mp4,s,1,2,3,x\r\n".encode())
    assert read_labels(file, "videos").labels[0].path == "a/b.mp4"


def test_missing_columns_are_named(tmp_path):
    file = write(tmp_path / "labels.csv", "path,subject,emotion\n")
    with pytest.raises(ManifestError, match="lacks the columns onset, apex, offset"):
        read_labels(file, "videos")


def test_a_frame_that_is_no_number_is_named_with_its_line(tmp_path):
    file = write(tmp_path / "labels.csv", "path,subject,onset,apex,offset,emotion\na,s,1,2,3,x\nb,s,1,two,3,x\n")
    with pytest.raises(ManifestError, match="line 3: apex is 'two'"):
        read_labels(file, "videos")


def test_several_expressions_of_one_input_are_told_apart_by_their_onset(tmp_path):
    lines = ["path,subject,onset,apex,offset,emotion", "a.mp4,s,1,2,3,x", "a.mp4,s,11,12,13,y", "b.mp4,s,1,2,3,x"]
    file = write(tmp_path / "labels.csv", "\n".join(lines))
    assert [item.sample for item in read_labels(file, "mine").labels] == ["a.mp4_1", "a.mp4_11", "b.mp4"]


def test_what_contradicts_itself_is_taken_as_missing_and_remarked():
    assert checked(label()) == label()
    for frames, apex, offset, told in (
        ((20, 10, 30), None, 30, "apex 10 does not lie between onset 20 and offset 30"),
        ((20, 40, 30), None, 30, "apex 40 does not lie between onset 20 and offset 30"),
        ((20, 20, 30), None, 30, "apex 20 does not lie between onset 20 and offset 30"),
        ((20, 25, 0), 25, None, "offset 0 does not lie after onset 20"),
    ):
        found = checked(label(onset=frames[0], apex=frames[1], offset=frames[2]))
        assert (found.fault, found.onset, found.apex, found.offset) == (None, 20, apex, offset)
        assert found.remark == f"label line 2: {told}: taken as missing"
    assert checked(label(apex=20)).apex == 20  # on the offset
    assert checked(label(onset=30, apex=None)).fault == "label line 2: onset 30 does not lie before offset 20"
    assert checked(label(onset=None)).fault == "label line 2: onset is missing"


def test_a_label_belongs_to_the_clip_that_holds_it_and_the_subject_to_all_clips():
    clips, rows = join([clip("c0", 0, 30), clip("c1", 31, 60)], [label(onset=40, apex=45, offset=50)])
    assert [(row.clip_id, row.remark, row.emotion) for row in rows] == [("c1", None, "happiness")]
    assert [c.subject for c in clips] == ["videos/s1", "videos/s1"]


def test_of_two_faces_the_larger_one_is_labelled():
    _, rows = join([clip("small", 0, 60, 80.0), clip("large", 0, 60, 200.0, track=1)], [label()])
    assert [row.clip_id for row in rows] == ["large"]


def test_labels_of_two_people_are_never_put_on_one_face():
    faces = [clip("small", 0, 60, 80.0), clip("large", 0, 60, 200.0, track=1)]
    both = [label(), label(line=3, onset=30, apex=35, offset=40, subject=Subject("videos", "s2"))]
    clips, rows = join(faces, both)
    assert [row.clip_id for row in rows] == ["large", "small"]
    assert {c.clip_id: c.subject for c in clips} == {"large": "videos/s1", "small": "videos/s2"}
    _, (first, second) = join(faces[1:], both)
    assert (first.clip_id, second.clip_id) == ("large", None)
    assert second.remark == "label line 3: no clip holds frames 30-40"


def test_a_label_that_names_nobody_may_lie_on_anybody_s_face():
    _, rows = join([clip("c0", 0, 60)], [label(), label(line=3, onset=30, apex=35, offset=40, subject=None)])
    assert [(row.clip_id, row.subject) for row in rows] == [("c0", "videos/s1"), ("c0", None)]


def test_one_clip_holds_several_expressions():
    _, rows = join([clip("c0", 0, 60)], [label(), label(line=3, onset=30, apex=35, offset=40)])
    assert [(row.sample, row.clip_id, row.remark) for row in rows] == [("a_10", "c0", None), ("a_30", "c0", None)]
    _, rows = join([clip("c0", 0, 60)], [label(), label(line=3)])
    assert [(row.clip_id, row.remark) for row in rows] == [
        ("c0", None),
        (None, "label line 3: line 2 has the same subject and sample"),
    ]


def test_labels_that_fit_no_clip_are_remarked_not_dropped():
    labels = [checked(label(line=2, onset=30, apex=None)), label(line=3, onset=55, apex=58, offset=90)]
    _, rows = join([clip("c0", 0, 60)], labels)
    assert [(row.line, row.clip_id, row.remark) for row in rows] == [
        (2, None, "label line 2: onset 30 does not lie before offset 20"),
        (3, None, "label line 3: no clip holds frames 55-90"),
    ]


def test_no_annotated_frame_is_moved():
    _, (row,) = join([clip("c0", 1, 60)], [label(onset=0, apex=50, offset=70)], first_frame=1, last_frame=60)
    assert (row.clip_id, row.onset, row.apex, row.offset) == ("c0", 0, 50, 70)
    assert row.remark == (
        "label line 2: onset 0 does not exist, offset 70 does not exist: "
        "the nearest crop stands in, of frames 1-60"
    )  # fmt: skip
    # The frame is there, but no face was followed on it: without its apex the expression is not what was annotated.
    _, (row,) = join([clip("c0", 0, 45)], [label(onset=20, apex=50, offset=60)])
    assert (row.clip_id, row.onset, row.apex, row.offset) == (None, 20, 50, 60)
    assert row.remark == "label line 2: apex 50 shows no face that is followed; the clip has frames 0-45"
    _, (row,) = join([clip("c0", 0, 45)], [label(onset=20, apex=40, offset=60)])  # nothing needs its offset
    assert (row.clip_id, row.offset) == ("c0", 60)
    _, (row,) = join([clip("c0", 0, 45)], [label(onset=20, apex=None, offset=60)])
    assert row.remark == "label line 2: offset 60 shows no face that is followed; the clip has frames 0-45"


def test_a_label_that_a_cut_goes_through_is_seen_and_not_used():
    """The case that was measured: clips of 240 frames, and later a label 230-260."""
    clips, late = [clip("c0", 0, 240), clip("c1", 241, 480)], label(onset=230, apex=245, offset=260)
    assert is_cut(video(480), clips, late)
    _, (row,) = join(clips, [late], last_frame=480)
    assert (row.clip_id, row.onset, row.apex, row.offset) == (None, 230, 245, 260)
    assert row.remark.startswith(
        "label line 2: the clips are cut inside of frames 230-260, as they were made before it"
    )
    assert not is_cut(video(480), clips, label())
    # Known when the input was ingested: the face was lost there, and another ingest would find the same.
    assert not is_cut(video(480, kept_whole=span_keys([label(), late])), clips, late)
    assert not is_cut(video(480), [clips[0], clip("other", 241, 480, track=1)], late)
    assert span_keys([label(), late, checked(label(onset=None))]) == "10-20 230-260"


def test_macro_expressions_are_there_beside_micro_expressions():
    _, rows = join([clip("c0", 0, 60)], [label(line=2, expression="macro", sample="long"), label(line=3)])
    assert [(row.expression, row.clip_id) for row in rows] == [("macro", "c0"), ("micro", "c0")]


def test_a_subject_known_without_a_label_is_that_of_every_clip():
    clips, _ = join([clip("c0", 0, 60), clip("c1", 61, 90)], [], subject=Subject("casme2", "sub01"))
    assert {item.subject for item in clips} == {"casme2/sub01"}


def test_the_digest_of_frames_knows_where_expressions_lie_and_no_class():
    def digest(*labels):
        return digest_of_frames(join([clip("c0", 0, 60)], labels)[1])

    before = digest(label(), label(line=3, onset=30, apex=35, offset=40))
    assert digest(label(emotion="anger", action_units="4"), label(line=9, onset=30, apex=35, offset=40)) == before
    assert digest(label(), label(line=3, onset=30, apex=36, offset=40)) != before
    assert digest(label()) != before
    assert digest(label(subject=Subject("videos", "s2")), label(line=3, onset=30, apex=35, offset=40)) != before


def test_labels_of_an_input_are_grouped_in_time():
    first = label(line=2, onset=50, apex=55, offset=60)
    groups = labels_by_input([first, label(line=3)])
    assert [item.line for item in groups[first.video_id]] == [3, 2]
