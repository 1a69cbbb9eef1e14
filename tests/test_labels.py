import pytest

from mbert import ManifestError
from mbert.manifests.labels import Label, join_labels, labels_by_path, read_labels
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


def label(line=2, onset=10, apex=15, offset=20, subject="s1", emotion="happiness"):
    return Label(line=line, path="a.mp4", subject=subject, onset=onset, apex=apex, offset=offset, emotion=emotion)


def test_labels_are_read_with_missing_cells_and_slashes(tmp_path):
    file = write(
        tmp_path / "labels.csv",
        "path,subject,onset,apex,offset,emotion,action_units\n./a/b.mp4,01,46,/,90,Happiness,4+7\nc/,s2,,,,,\n",
    )
    first, second = read_labels(file)
    assert (first.path, first.subject, first.onset, first.apex, first.offset) == ("a/b.mp4", "01", 46, None, 90)
    assert (first.emotion, first.action_units, first.line) == ("Happiness", "4+7", 2)
    assert (second.path, second.span, second.emotion) == ("c", None, None)


def test_a_byte_order_mark_and_windows_separators_are_understood(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_bytes("﻿path,subject,onset,apex,offset,emotion\r\na\\b.mp4,s,1,2,3,x\r\n".encode())
    assert read_labels(file)[0].path == "a/b.mp4"


def test_missing_columns_are_named(tmp_path):
    file = write(tmp_path / "labels.csv", "path,subject,emotion\n")
    with pytest.raises(ManifestError, match="lacks the columns onset, apex, offset"):
        read_labels(file)


def test_a_frame_that_is_no_number_is_named_with_its_line(tmp_path):
    file = write(tmp_path / "labels.csv", "path,subject,onset,apex,offset,emotion\na,s,1,2,3,x\nb,s,1,two,3,x\n")
    with pytest.raises(ManifestError, match="line 3: apex is 'two'"):
        read_labels(file)


def test_a_label_joins_the_clip_that_holds_it_and_the_subject_all_clips():
    clips, remarks = join_labels([clip("c0", 0, 30), clip("c1", 31, 60)], [label(onset=40, apex=45, offset=50)])
    assert remarks == []
    assert [(c.emotion, c.onset, c.subject) for c in clips] == [
        (None, None, "videos/s1"),
        ("happiness", 40, "videos/s1"),
    ]


def test_of_two_faces_the_larger_one_is_labelled():
    clips, _ = join_labels([clip("small", 0, 60, 80.0), clip("large", 0, 60, 200.0)], [label()])
    assert {c.clip_id: c.emotion for c in clips} == {"small": None, "large": "happiness"}


def test_labels_that_fit_no_clip_are_remarked_not_dropped():
    clips, remarks = join_labels(
        [clip("c0", 0, 60)],
        [label(line=2, onset=20, apex=10), label(line=3, onset=55, apex=58, offset=70), label(line=4), label(line=5)],
    )
    assert remarks == [
        "label line 2: onset 20 lies after apex 10",
        "label line 3: no clip holds frames 55-70",
        "label line 5: its clip already holds the expression of line 4; "
        "ingest with --overwrite to cut the clips between the expressions",
    ]
    assert [(c.onset, c.apex) for c in clips] == [(10, 15)]


def test_labels_of_an_input_are_grouped_in_time():
    groups = labels_by_path([label(line=2, onset=50, apex=55, offset=60), label(line=3)])
    assert [item.line for item in groups["a.mp4"]] == [3, 2]
