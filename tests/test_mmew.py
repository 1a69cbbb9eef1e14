import pytest
from lookalike import expression_frames, write_book, write_images

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.table import checked
from mbert.manifests.schema import LabelRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.mmew import CORPUS
from mbert.pipeline.corpora.registry import CORPORA, list_corpus
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.folder import FrameFolder

HEADER = [
    "Subject",
    "Filename",
    "OnsetFrame",
    "ApexFrame",
    "OffsetFrame",
    "Action Units",
    "Estimated Emotion",
    "remarks",
]
ROWS = [
    # subject, clip, onset, apex, offset, AUs, emotion, folder, numbers of its images
    ("S01", "S01-01-001", 3, 7, 14, "6+12", "happiness", "happiness", range(1, 17)),
    (1, "S01-02-001", 1, 5, 12, 4, "others", "repression", range(1, 13)),  # the folder has another name
    (2, "S02-03-002", 95, 99, 110, "1+2", "surprise", "surprise", range(1, 17)),  # counted from the start of a video
    (2, "S02-03-001", 95, 99, 112, "L4/R7", "Surprise", "surprise", range(1, 17)),  # that, but longer than its folder
    ("03", "S03-04-001", 20, 12, 31, "4，7", "disgust", "disgust", range(1, 13)),  # that, and an apex before the onset
    ("03", "S03-05-009", 2, "/", 9, "1", "fear", "fear", None),  # its folder is missing
]


def write_mmew(root, videos, folder_of):
    for subject, clip, _, _, _, _, _, emotion, numbers in ROWS[:-1]:
        frames = expression_frames(videos, int(str(subject).strip("S")) - 1, "surprise")
        write_images(folder_of(clip, emotion), [f"{number}.jpg" for number in numbers], frames)
    frames = expression_frames(videos, 2, "disgust")
    write_images(folder_of("S03-02-007", "repression"), [f"{number}.jpg" for number in range(1, 9)], frames)
    write_images(folder_of("S03-02-007", "repression").parent, ["S03-02-008.jpg"], frames)  # a macro-expression's apex
    write_book(root / "MMEW_Micro_Exp.xlsx", {"Sheet1": [HEADER, *([*row[:7], None] for row in ROWS)]})


@pytest.fixture(scope="session")
def mmew(synthetic_videos, tmp_path_factory):
    """An MMEW look-alike with folders of emotions: five clips, a folder without a row, a row without a folder."""
    root = tmp_path_factory.mktemp("data") / "MMEW_Final"
    write_mmew(root, synthetic_videos, lambda clip, emotion: root / "Micro_Expression" / emotion / clip)
    return root


@pytest.fixture(scope="session")
def mmew_of_people(synthetic_videos, tmp_path_factory):
    """The same with folders of people above those of emotions."""
    root = tmp_path_factory.mktemp("data") / "MMEW"
    write_mmew(root, synthetic_videos, lambda clip, emotion: root / clip[:3] / emotion / clip)
    return root


def labels_of(listing):
    return {label.sample: label for label in listing.labels}


def test_both_layouts_are_recognised_from_above_and_from_the_tree_itself(mmew, mmew_of_people):
    for root in (mmew, mmew.parent, mmew / "Micro_Expression", mmew_of_people, mmew_of_people.parent):
        assert [name for name, corpus in CORPORA.items() if corpus.recognise(root)] == ["mmew"]
    listing = list_corpus(mmew_of_people)
    assert listing.notes[0].startswith("taken as MMEW: ")
    assert {(source.dataset, source.fps) for source in listing.sources} == {("mmew", 90.0)}


def test_both_layouts_hold_the_same(mmew, mmew_of_people):
    with_people, without = list_corpus(mmew_of_people), list_corpus(mmew)
    assert labels_of(with_people)["S01-01-001"].path == "S01/happiness/S01-01-001"
    assert labels_of(without)["S01-01-001"].path == "Micro_Expression/happiness/S01-01-001"
    for listing in (with_people, without):
        assert sorted((source.location.name, source.subject) for source in listing.sources) == [
            ("S01-01-001", "mmew/s01"),
            ("S01-02-001", "mmew/s01"),
            ("S02-03-001", "mmew/s02"),
            ("S02-03-002", "mmew/s02"),
            ("S03-02-007", "mmew/s03"),  # without a row
            ("S03-04-001", "mmew/s03"),
        ]
        assert [label.subject for label in listing.labels] == [f"mmew/s0{number}" for number in (1, 1, 2, 2, 3, 3)]


def test_others_lie_in_the_folder_of_repression_or_of_others(mmew, synthetic_videos, tmp_path):
    other = labels_of(list_corpus(mmew))["S01-02-001"]
    assert (other.path, other.emotion) == ("Micro_Expression/repression/S01-02-001", "others")
    frames = expression_frames(synthetic_videos, 0, "surprise")
    for emotion in ("others", "repression"):  # of two copies the one that is named as in the sheet
        write_images(tmp_path / emotion / "S01-02-001", ["1.jpg", "2.jpg"], frames)
    assert labels_of(CORPUS.read(tmp_path, mmew / "MMEW_Micro_Exp.xlsx", "auto"))["S01-02-001"].path.startswith(
        "others"
    )


def test_frames_are_numbers_without_padding(mmew):
    by_name = {source.location.name: source.location for source in list_corpus(mmew).sources}
    assert [frame.index for frame in FrameFolder(by_name["S01-01-001"], fps=90)] == list(range(1, 17))


def test_frames_that_fit_into_the_folder_stay_as_annotated(mmew):
    label = labels_of(list_corpus(mmew))["S01-01-001"]
    assert (label.onset, label.apex, label.offset, label.remark) == (3, 7, 14, None)


def test_frames_counted_from_the_start_of_a_video_are_counted_as_in_the_trimmed_folder(mmew):
    label = labels_of(list_corpus(mmew))["S02-03-002"]
    assert (label.onset, label.apex, label.offset) == (1, 5, 16)
    assert label.remark == "label line 4: frames 95-110 are the images 1-16 of its folder"
    unclear = labels_of(list_corpus(mmew))["S02-03-001"]  # two frames longer than its folder: nothing is made up
    assert (unclear.onset, unclear.offset, unclear.remark) == (95, 112, None)


def test_what_was_counted_anew_and_what_contradicts_itself_are_both_told(mmew):
    label = checked(labels_of(list_corpus(mmew))["S03-04-001"])
    assert (label.onset, label.apex, label.offset) == (1, None, 12)
    assert label.remark == (
        "label line 6: frames 20-31 are the images 1-12 of its folder; "
        "apex -7 does not lie between onset 1 and offset 12: taken as missing"
    )


def test_emotions_and_action_units_stay_as_annotated(mmew):
    labels = labels_of(list_corpus(mmew)).values()
    assert [label.emotion for label in labels] == ["happiness", "others", "surprise", "Surprise", "disgust", "fear"]
    assert [label.action_units for label in labels] == ["6+12", "4", "1+2", "L4/R7", "4，7", "1"]


def test_a_row_without_a_folder_is_expected_in_the_folder_of_its_emotion(mmew):
    label = labels_of(list_corpus(mmew))["S03-05-009"]
    assert (label.path, label.apex, label.fault) == ("Micro_Expression/fear/S03-05-009", None, None)


def test_a_folder_of_crops_is_the_cropped_distribution(mmew, synthetic_videos, tmp_path):
    with pytest.raises(ConfigError, match="holds no cropped images of MMEW"):
        CORPUS.read(mmew, None, "cropped")
    (tmp_path / "Micro_Expression_crop").symlink_to(mmew / "Micro_Expression")
    (tmp_path / "Micro_Expression").symlink_to(mmew / "Micro_Expression")
    sheet = mmew / "MMEW_Micro_Exp.xlsx"
    assert CORPUS.read(tmp_path, sheet, "cropped").sources[0].path.startswith("Micro_Expression_crop/")
    assert CORPUS.read(tmp_path, sheet, "auto").sources[0].path.startswith("Micro_Expression/")


def test_a_missing_annotation_file_is_told_with_what_was_looked_for(mmew, tmp_path):
    (tmp_path / "images").symlink_to(mmew / "Micro_Expression")
    with pytest.raises(ManifestError, match=r"annotation file of MMEW .* like MMEW_Micro_Exp"):
        CORPUS.read(tmp_path, None, "auto")


def test_the_second_edition_of_the_sheet_comes_first(mmew, tmp_path):
    (tmp_path / "images").symlink_to(mmew / "Micro_Expression")
    for name, rows in (("MMEW_Micro_Exp.xlsx", ROWS), ("MMEW_Micro_Exp_v2.xlsx", ROWS[:2])):
        write_book(tmp_path / name, {"Sheet1": [HEADER, *([*row[:7], None] for row in rows)]})
    assert len(CORPUS.read(tmp_path, None, "auto").labels) == 2


def test_every_row_tells_what_became_of_it(mmew, tmp_path):
    workspace = Workspace(tmp_path)
    run_ingest(mmew, workspace, IngestOptions(size=64))
    status = {row.path.rpartition("/")[2]: row.status for row in read_rows(workspace.videos, VideoRow)}
    assert status.pop("S03-05-009") == "missing"
    assert set(status.values()) == {"ok"}
    labels = {row.sample: row for row in read_rows(workspace.labels, LabelRow)}
    assert {sample for sample, row in labels.items() if row.clip_id} == {
        *("S01-01-001", "S01-02-001", "S02-03-002", "S03-04-001")
    }
    assert labels["S02-03-001"].remark == "label line 5: no clip holds frames 95-112"
    frames = (labels["S02-03-002"].onset, labels["S02-03-002"].apex, labels["S02-03-002"].offset)
    assert frames == (1, 5, 16)
