import shutil

import pytest
from lookalike import expression_frames, write_book, write_images

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.errata import apply_errata
from mbert.manifests.labels.table import Label, checked
from mbert.manifests.schema import ClipRow, LabelRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.subject import Subject
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.casme3 import CORPUS
from mbert.pipeline.corpora.registry import list_corpus
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.folder import FrameFolder

HEADER = ["Subject", "Filename", "Onset", "Apex", "Offset", "AU", "Objective class", "emotion"]
ROWS = [
    # All cells are text.
    ("spNO.1", "a", "98", "102", "108", "4", "IV", "disgust"),
    ("spNO.1", "a", "110", "114", "120", "1+2", "II", "Others"),  # a second one of the video
    ("spNO.2", "J", "20", "12", "30", "12", "I", "happy"),  # video in capitals; the apex lies before the onset
    ("spNO.2", "b", "0", "4", "12", "4/7", "VII", "fear"),  # images begin with 1
    ("spNO.3", "c", "5", "11", "0", "9", "IV", "sad"),  # the offset is 0
    ("spNO.3", "d", "5", "5", "15", "R12", "I", "anger"),  # the apex is the onset; no such folder
    ("spNO.3", "e", "x", "", "15", "1", "II", "surprise"),  # a frame that is no number
]
# folder of the video, its images (numbers), subject and emotion of the synthetic video, without these
VIDEOS = [
    ("spNO.1/a", range(95, 125), 0, "disgust", {103}),
    ("spNo.2/j", range(18, 34), 1, "happiness", {}),
    ("spNo.2/b", range(1, 14), 1, "disgust", {}),
    ("spNO.3/c", range(1, 14), 2, "disgust", {}),
    ("spNO.3/f", range(1, 9), 2, "surprise", {}),  # without a row
]
CRIME_HEADER = ["sub", "count", "onset", "offset", "au", "emotion"]
CRIME_ROWS = [
    (1, 1, 373, 384, "R4,5", "negative"),
    ("2", 1, 5, 12, "4，11", "others"),  # a full-width comma
    (2, 2, 30, 41, 12, "positive"),
]


@pytest.fixture(scope="session")
def casme3(synthetic_videos, tmp_path_factory):
    """A CAS(ME)^3 look-alike: parts A, B and C."""
    root = tmp_path_factory.mktemp("data") / "CASME3"
    for folder, indices, subject, emotion, missing in VIDEOS:
        video = root / "part_A" / "data" / "part_A" / folder
        names = [f"{index}.jpg" for index in indices if index not in missing]
        write_images(video / "color", names, expression_frames(synthetic_videos, subject, emotion))
        (video / "depth").mkdir()
        (video / "depth" / "1.png").write_bytes(b"not a face")
    (root / "part_A" / "data" / "part_A" / "spNO.1" / "a" / "color" / "97.jpg").write_bytes(b"damaged")
    faces = expression_frames(synthetic_videos, 0, "surprise")
    write_images(root / "part_B" / "data" / "spNo.117" / "m" / "color", [f"{i}.jpg" for i in range(1, 12)], faces)
    write_images(root / "part_C" / "01" / "a" / "color", [f"{i}.jpg" for i in range(370, 388)], faces)
    write_images(root / "part_C" / "02" / "a" / "color", [f"{i}.jpg" for i in range(1, 14)], faces)
    junk = [["Subject", "Filename"], ["spNO.9", "a"]]
    write_book(
        root / "annotation" / "partA" / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx",
        {"Sheet1": junk, "label": [HEADER, *ROWS], "Sheet3": [HEADER, ["spNO.9", "a", "1", "2", "3", "", "", "sad"]]},
    )
    write_book(
        root / "annotation" / "partA" / "CAS(ME)3_part_A_wrongly_labeled_me_in_V1.xlsx", {"Sheet1": [["spNO.1", "a"]]}
    )
    write_book(root / "annotation" / "CAS(ME)3_part_C_ME.xlsx", {"mockCrimeME": [CRIME_HEADER, *CRIME_ROWS]})
    return root


@pytest.fixture(scope="session")
def excerpts(casme3, tmp_path_factory):
    """The package of excerpts: two expressions of part A, with depth beside."""
    root = tmp_path_factory.mktemp("data") / "Part_A_ME_clip"
    for folder, clip, last in (("spNO.1/a", "spNO.1_a_98", 108), ("spNo.2/j", "spNO.2_J_20", 30)):
        color = casme3 / "part_A" / "data" / "part_A" / folder / "color"
        (root / "frame" / clip).mkdir(parents=True)
        (root / "depth" / clip).mkdir(parents=True)
        (root / "depth" / clip / "1.png").write_bytes(b"not a face")
        for file in color.iterdir():
            if int(clip.split("_")[-1]) <= int(file.stem) <= last:
                shutil.copy2(file, root / "frame" / clip / file.name)
    shutil.copy2(casme3 / "annotation" / "partA" / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx", root)
    return root


def labels_of(listing):
    return {(label.dataset, label.subject, label.sample): checked(label) for label in listing.labels}


def paths_of(listing):
    return {source.path for source in listing.sources}


def test_all_parts_are_read_each_under_its_own_name_and_depth_is_not(casme3):
    listing = list_corpus(casme3)
    assert listing.notes[0].startswith("taken as CAS(ME)^3: ")
    assert [note.partition(" in ")[0] for note in listing.notes[1:]] == [
        "CAS(ME)^3: part C",
        "CAS(ME)^3: part B",
        "CAS(ME)^3: part A",
    ]
    assert {source.dataset: source.path for source in listing.sources if "spNo.2/" not in source.path} == {
        "casme3": "part_A/data/part_A/spNO.3/f/color",
        "casme3b": "part_B/data/spNo.117/m/color",
        "casme3c": "part_C/02/a/color",
    }
    assert len(listing.sources) == len(VIDEOS) + 1 + 2
    assert {source.fps for source in listing.sources} == {30.0}
    assert not any("depth" in path for path in paths_of(listing))
    assert [file.name for file in listing.annotations] == [
        "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx",
        "CAS(ME)3_part_C_ME.xlsx",
    ]


@pytest.mark.parametrize("below", ["part_A/data/part_A", "part_A/data", "part_C", "part_B"])
def test_a_part_alone_is_recognised_wherever_one_points(casme3, below):
    assert "holds folders like spNO.1/a/color/166.jpg" in CORPUS.recognise(casme3 / below)


def test_part_b_has_no_labels_and_needs_no_annotation(casme3):
    listing = CORPUS.read(casme3 / "part_B", None, "auto")
    assert (listing.labels, listing.annotations) == ((), ())
    assert [source.subject for source in listing.sources] == ["casme3/spno.117"]


def test_subjects_are_one_whatever_the_case_and_those_of_part_c_are_others(casme3):
    listing = list_corpus(casme3)
    of_a = {"casme3/spno.1", "casme3/spno.2", "casme3/spno.3"}
    of_c = {"casme3c/01", "casme3c/02"}
    assert {source.subject for source in listing.sources} == of_a | of_c | {"casme3/spno.117"}
    assert {label.subject for label in listing.labels} == of_a | of_c


def test_folders_are_found_whatever_the_case_of_subject_and_video(casme3):
    labels = labels_of(list_corpus(casme3))
    assert labels["casme3", "casme3/spno.2", "j_20"].path == "part_A/data/part_A/spNo.2/j/color"


def test_expressions_of_one_video_are_told_apart_by_their_onset(casme3):
    labels = labels_of(list_corpus(casme3))
    first, second = (labels["casme3", "casme3/spno.1", sample] for sample in ("a_98", "a_110"))
    assert first.path == second.path == "part_A/data/part_A/spNO.1/a/color"
    assert (first.emotion, second.emotion) == ("disgust", "Others")
    assert (first.action_units, first.objective_class, second.action_units) == ("4", "IV", "1+2")


def test_text_cells_are_frames_and_what_is_none_is_a_fault_of_its_row(casme3):
    labels = labels_of(list_corpus(casme3))
    good = labels["casme3", "casme3/spno.1", "a_98"]
    assert (good.onset, good.apex, good.offset, good.fault) == (98, 102, 108, None)
    bad = labels["casme3", "casme3/spno.3", "e_line8"]
    assert bad.fault == "label line 8: Onset is 'x', not a frame number"


def test_apex_before_the_onset_on_the_onset_and_offset_zero_become_missing(casme3):
    labels = labels_of(list_corpus(casme3))
    before = labels["casme3", "casme3/spno.2", "j_20"]
    assert (before.apex, "apex 12 does not lie between onset 20" in before.remark) == (None, True)
    on_onset = labels["casme3", "casme3/spno.3", "d_5"]
    assert (on_onset.apex, on_onset.offset, on_onset.fault) == (None, 15, None)
    zero = labels["casme3", "casme3/spno.3", "c_5"]
    assert (zero.apex, zero.offset, zero.fault) == (11, None, None)


def test_junk_sheets_and_lists_of_exceptions_are_not_labels(casme3):
    assert "casme3/spno.9" not in {label.subject for label in list_corpus(casme3).labels}


def test_a_row_without_a_folder_says_where_it_is_expected_and_a_folder_without_a_row_is_there(casme3):
    listing = list_corpus(casme3)
    missing = labels_of(listing)["casme3", "casme3/spno.3", "d_5"]
    assert missing.path == "part_A/data/part_A/spNO.3/d/color"
    assert missing.path not in paths_of(listing)
    assert "part_A/data/part_A/spNO.3/f/color" in paths_of(listing) - {label.path for label in listing.labels}


def test_frames_go_by_number_across_ninety_nine_with_their_gaps(casme3):
    (source,) = [source for source in list_corpus(casme3).sources if source.path.endswith("spNO.1/a/color")]
    indices = [frame.index for frame in FrameFolder(source.location, fps=30)]
    assert indices == [index for index in range(95, 125) if index not in (97, 103)]  # 97 is damaged


def test_part_c_has_no_apex_and_keeps_its_action_units(casme3):
    labels = labels_of(list_corpus(casme3))
    of_c = {key[1:]: label for key, label in labels.items() if key[0] == "casme3c"}
    assert {key: label.action_units for key, label in of_c.items()} == {
        ("casme3c/01", "a_373"): "R4,5",
        ("casme3c/02", "a_5"): "4，11",
        ("casme3c/02", "a_30"): "12",
    }
    assert all(label.apex is None for label in of_c.values())
    assert of_c["casme3c/01", "a_373"].path == "part_C/01/a/color"


def test_excerpts_are_found_by_their_onset_and_depth_is_not_read(excerpts):
    listing = list_corpus(excerpts)
    assert paths_of(listing) == {"frame/spNO.1_a_98", "frame/spNO.2_J_20"}
    labels = labels_of(listing)
    assert labels["casme3", "casme3/spno.1", "a_98"].path == "frame/spNO.1_a_98"
    assert labels["casme3", "casme3/spno.2", "j_20"].path == "frame/spNO.2_J_20"
    assert labels["casme3", "casme3/spno.2", "b_0"].path == "frame/spNO.2_b_0"  # lacks in the package
    assert {source.subject for source in listing.sources} == {"casme3/spno.1", "casme3/spno.2"}


def test_excerpts_are_left_out_beside_the_whole_videos(casme3, excerpts, tmp_path):
    (tmp_path / "part_A").symlink_to(casme3 / "part_A" / "data" / "part_A")
    (tmp_path / "Part_A_ME_clip").symlink_to(excerpts)
    listing = CORPUS.read(tmp_path, None, "auto")
    assert len(listing.sources) == len(VIDEOS)
    assert (
        f"not read, because samples must not count twice: {tmp_path / 'Part_A_ME_clip' / 'frame'}" in listing.notes[1]
    )


def test_macro_expressions_are_told_with_the_sheet_of_their_own(casme3, tmp_path):
    (tmp_path / "part_A").symlink_to(casme3 / "part_A")
    (tmp_path / "ME.xlsx").symlink_to(casme3 / "annotation" / "partA" / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx")
    write_book(
        tmp_path / "cas(me)3_part_A_MaE_label_JpgIndex_v2_emotion.xlsx",
        {"Sheet1": [["sub", "seq", "onset", "apex", "offset", "emotion"], ["spNO.1", "a", 98, 110, 120, "happy"]]},
    )
    listing = CORPUS.read(tmp_path, tmp_path / "ME.xlsx", "auto")
    (macro,) = [label for label in listing.labels if label.expression == "macro"]
    assert (macro.sample, macro.onset, macro.path) == ("a_98_macro", 98, "part_A/data/part_A/spNO.1/a/color")
    assert len(listing.labels) == len(ROWS) + 1


def test_missing_and_misplaced_annotations_are_told(casme3):
    with pytest.raises(ManifestError, match=r"annotation file of CAS\(ME\)\^3 part A .*JpgIndex_v2"):
        CORPUS.read(casme3 / "part_A", None, "auto")
    with pytest.raises(ManifestError, match=r"is of a part of .* that is not in .*; there: part B"):
        CORPUS.read(casme3 / "part_B", casme3 / "annotation" / "CAS(ME)3_part_C_ME.xlsx", "auto")
    with pytest.raises(ConfigError, match="has no cropped images"):
        CORPUS.read(casme3, None, "cropped")


@pytest.mark.parametrize(
    ("subject", "sample", "frames", "right"),
    [
        ("spNO.149", "d_112", (112, 83, 358), (112, 123, 358)),
        ("spno.214", "c_5", (5, 5, 3460), (5, 5, 34)),
        ("spno.216", "d_3647", (3647, 2668, 2694), (2647, 2668, 2694)),
        ("spno.216", "e_0", (0, 0, 25), (1, 1, 25)),
        ("spno.40", "e_1812", (1812, 1820, 0), (1812, 1820, 1845)),
        ("spno.40", "e_1812", (1812, 1820, 1840), (1812, 1820, 1840)),  # an edition that is mended
    ],
)
def test_published_mistakes_are_corrected_where_they_are(subject, sample, frames, right):
    onset, apex, offset = frames
    label = Label(
        line=2, path="x", dataset="casme3", subject=Subject("casme3", subject), sample=sample,
        onset=onset, apex=apex, offset=offset, emotion=None,
    )  # fmt: skip
    (corrected,) = apply_errata([label], "default")
    assert (corrected.onset, corrected.apex, corrected.offset) == right
    assert (corrected.errata != ()) == (frames != right)


def test_two_expressions_lie_in_one_clip_and_no_frame_is_moved_to_the_images(casme3, tmp_path):
    workspace = Workspace(tmp_path)
    (tmp_path / "A").symlink_to(casme3 / "part_A" / "data" / "part_A")
    (tmp_path / "A.xlsx").symlink_to(casme3 / "annotation" / "partA" / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx")
    (tmp_path / "A.xlsx").rename(tmp_path / "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx")
    run_ingest(tmp_path / "A", workspace, IngestOptions(size=96))
    statuses = {row.path: row.status for row in read_rows(workspace.videos, VideoRow)}
    assert statuses == {
        **{f"{folder}/color": "ok" for folder, *_ in VIDEOS},
        "spNO.3/d/color": "missing",
        "spNO.3/e/color": "missing",
    }
    labels = {label.sample: label for label in read_rows(workspace.labels, LabelRow)}
    assert labels["a_98"].clip_id == labels["a_110"].clip_id is not None
    clips = {clip.clip_id: clip for clip in read_rows(workspace.clips, ClipRow)}
    assert (clips[labels["b_0"].clip_id].subject, labels["b_0"].onset) == ("casme3/spno.2", 0)
    assert "onset 0 does not exist: the nearest crop stands in, of frames 1-13" in labels["b_0"].remark
    assert labels["d_5"].clip_id is None
    assert "no such file or folder" in labels["d_5"].remark
