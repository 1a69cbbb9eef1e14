import pytest

from mbert import ManifestError
from mbert.manifests.labels.table import Label, checked, join_labels, labels_by_input, read_labels
from mbert.manifests.schema import ClipRow


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def clip(name, first, last, face_px=100.0):
    return ClipRow(
        clip_id=name,
        video_id="v",
        dataset="videos",
        shard="000000",
        track=0,
        first_frame=first,
        last_frame=last,
        num_frames=last - first + 1,
        fps=30.0,
        align="clip",
        face_px=face_px,
        jitter_px=0.1,
    )


def label(line=2, onset=10, apex=15, offset=20, subject="videos/s1", emotion="happiness", **more):
    frames = {"onset": onset, "apex": apex, "offset": offset}
    more = {"path": "a.mp4", "dataset": "videos", "sample": f"a_{onset}", **more}
    return Label(line=line, subject=subject, emotion=emotion, **frames, **more)


def test_labels_are_read_with_missing_cells_and_slashes(tmp_path):
    file = write(
        tmp_path / "labels.csv",
        "path,subject,onset,apex,offset,emotion,action_units\n./a/b.mp4,01,46,/,90,Happiness,4+7\nc/,s2,,,,,\n",
    )
    first, second = read_labels(file, "videos")
    assert (first.path, first.subject, first.onset, first.apex, first.offset) == ("a/b.mp4", "videos/01", 46, None, 90)
    assert (first.emotion, first.action_units, first.line) == ("Happiness", "4+7", 2)
    assert (second.path, second.span, second.emotion) == ("c", None, None)


def test_a_byte_order_mark_and_windows_separators_are_understood(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_bytes("﻿path,subject,onset,apex,offset,emotion\r\na\\b.mp4,s,1,2,3,x\r\n".encode())
    assert read_labels(file, "videos")[0].path == "a/b.mp4"


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
    assert [item.sample for item in read_labels(file, "mine")] == ["a.mp4_1", "a.mp4_11", "b.mp4"]


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


def test_a_label_joins_the_clip_that_holds_it_and_the_subject_all_clips():
    clips, rows = join_labels([clip("c0", 0, 30), clip("c1", 31, 60)], [label(onset=40, apex=45, offset=50)])
    assert [(row.clip_id, row.remark) for row in rows] == [("c1", None)]
    assert [(c.emotion, c.onset, c.subject) for c in clips] == [
        (None, None, "videos/s1"),
        ("happiness", 40, "videos/s1"),
    ]


def test_of_two_faces_the_larger_one_is_labelled():
    clips, _ = join_labels([clip("small", 0, 60, 80.0), clip("large", 0, 60, 200.0)], [label()])
    assert {c.clip_id: c.emotion for c in clips} == {"small": None, "large": "happiness"}


def test_labels_that_fit_no_clip_are_remarked_not_dropped():
    labels = [
        checked(label(line=2, onset=30, apex=None)),
        label(line=3, onset=55, apex=58, offset=90),
        label(line=4),
        label(line=5),
    ]
    clips, rows = join_labels([clip("c0", 0, 60)], labels)
    assert [(row.line, row.clip_id, row.remark) for row in rows] == [
        (2, None, "label line 2: onset 30 does not lie before offset 20"),
        (3, None, "label line 3: no clip holds frames 55-90"),
        (4, "c0", None),
        (
            5,
            None,
            "label line 5: its clip already holds the expression of line 4; "
            "ingest with --overwrite to cut the clips between the expressions",
        ),
    ]
    assert [(c.onset, c.apex) for c in clips] == [(10, 15)]


def test_frames_that_are_not_there_are_moved_to_the_nearest_and_a_missing_apex_is_missing():
    (joined,), (row,) = join_labels([clip("c0", 1, 60)], [label(onset=0, apex=50, offset=70)])
    assert (joined.onset, joined.apex, joined.offset) == (row.onset, row.apex, row.offset) == (1, 50, 60)
    assert row.remark == ("label line 2: onset 0, offset 70 is outside of the clip (1-60): taken as onset 1, offset 60")
    (joined,), (row,) = join_labels([clip("c0", 0, 45)], [label(onset=20, apex=50, offset=60)])
    assert (joined.onset, joined.apex, joined.offset) == (20, None, 45)
    assert row.remark.endswith("taken as apex missing, offset 45")


def test_macro_expressions_are_told_but_do_not_label_a_clip():
    clips, rows = join_labels([clip("c0", 0, 60)], [label(line=2, expression="macro"), label(line=3)])
    assert [(row.expression, row.clip_id) for row in rows] == [("macro", "c0"), ("micro", "c0")]
    assert clips[0].sample == rows[1].sample


def test_a_subject_known_without_a_label_is_that_of_every_clip():
    clips, _ = join_labels([clip("c0", 0, 60), clip("c1", 61, 90)], [], subject="casme2/sub01")
    assert {item.subject for item in clips} == {"casme2/sub01"}


def test_labels_of_an_input_are_grouped_in_time():
    first = label(line=2, onset=50, apex=55, offset=60)
    groups = labels_by_input([first, label(line=3)])
    assert [item.line for item in groups[first.video_id]] == [3, 2]
