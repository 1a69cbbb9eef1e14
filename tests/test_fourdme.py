import pytest
from lookalike import expression_frames, write_book, write_images

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.table import checked
from mbert.manifests.schema import ClipRow, LabelRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.registry import list_corpus
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.folder import FrameFolder

SHEET = "4DME_Labelling_Micro_release v1.xlsx"
UNITS = ["AU1", "AU4", "AU7"]
KINDS = ["Positive", "Negative", "Surprise", "Repression", "Others"]
HEADER = ["sub_ID", "fold_name", "Onset", "Apex", "Offset", "AUs", *UNITS, "Emotion", *KINDS, "eye blink", "Total"]
ROWS = [
    ("sub01", "clip_1", 95, 100, 106, "AU1+AU2", "Surprise+Positive"),
    (1, "clip_2", 10, 8, 20, "AU4(k)+L7", "Negative"),  # the subject is a number; apex before onset
    ("sub01", "Clip_3 ", 10, 15, 20, 12, "Others"),  # AUs as a number; case and space of the name differ
    ("sub02", "clip_1", 10, "/", 20, "4", "Repression"),  # a name of another subject; no apex
    (2, "clip_9", 10, 15, 20, "4", "Negative"),  # its folder is missing
]
FOLDERS = {"sub01/clip_1": (95, 106), "sub01/clip_2": (8, 22), "sub01/clip_3": (10, 20), "sub02/clip_1": (10, 20)}


@pytest.fixture(scope="session")
def fourdme(synthetic_videos, tmp_path_factory):
    """A 4DME look-alike: gray images and crops of four clips, one folder without a row."""
    root = tmp_path_factory.mktemp("data") / "4DMicro"
    for folder, (first, last) in {**FOLDERS, "sub02/clip_7": (1, 9)}.items():
        frames = expression_frames(synthetic_videos, int(folder[4]) - 1, "surprise")
        names = [f"{index}.jpg" for index in range(first, last + 1)]
        write_images(root / "gray_micro" / folder, names, frames, gray=True)
        write_images(root / "gray_micro_crop" / folder, names, frames, gray=True)
    rows = [[*row[:6], None, 1, None, row[6], *[0] * 5, None, 1] for row in ROWS]
    below = [["Sum", None, None], [None, "clips", 5]]
    write_book(root / SHEET, {"labels": [HEADER, *rows, *below], "counts": [["AU1", 3]]})
    return root


def labels_of(listing):
    return {(label.subject, label.sample): checked(label) for label in listing.labels}


def test_the_layout_is_recognised_at_every_level_and_raw_images_come_first(fourdme):
    for folder in (fourdme, fourdme.parent, fourdme / "gray_micro"):
        listing = list_corpus(folder, labels_path=fourdme / SHEET)
        assert listing.notes[0].startswith("taken as 4DME: ")
        assert not any("gray_micro_crop" in source.path for source in listing.sources)
    assert {(source.dataset, source.fps) for source in listing.sources} == {("4dme", 60.0)}


def test_cropped_images_on_request(fourdme):
    listing = list_corpus(fourdme, distribution="cropped")
    assert {source.path.split("/")[0] for source in listing.sources} == {"gray_micro_crop"}


def test_subjects_are_text_with_a_prefix_however_the_sheet_writes_them(fourdme):
    listing = list_corpus(fourdme)
    assert {label.subject for label in listing.labels} == {"4dme/01", "4dme/02"}
    assert {source.subject for source in listing.sources} == {"4dme/01", "4dme/02"}


def test_folders_are_found_by_subject_and_name(fourdme):
    labels = labels_of(list_corpus(fourdme))
    assert labels["4dme/01", "clip_1"].path == "gray_micro/sub01/clip_1"
    assert labels["4dme/02", "clip_1"].path == "gray_micro/sub02/clip_1"
    assert labels["4dme/01", "Clip_3"].path == "gray_micro/sub01/clip_3"


def test_mixed_emotions_and_action_units_stay_as_annotated(fourdme):
    labels = labels_of(list_corpus(fourdme))
    assert labels["4dme/01", "clip_1"].emotion == "Surprise+Positive"
    assert labels["4dme/01", "clip_2"].action_units == "AU4(k)+L7"
    assert labels["4dme/01", "Clip_3"].action_units == "12"


def test_an_apex_that_is_missing_or_before_the_onset_is_missing(fourdme):
    labels = labels_of(list_corpus(fourdme))
    assert labels["4dme/02", "clip_1"].apex is None
    assert labels["4dme/02", "clip_1"].remark is None
    assert labels["4dme/01", "clip_2"].apex is None
    assert "apex 8 does not lie between onset 10 and offset 20" in labels["4dme/01", "clip_2"].remark


def test_a_cell_that_is_no_frame_is_a_fault_of_its_row_alone(fourdme, tmp_path):
    rows = [["sub01", "clip_1", "95?", 100, 106], ["sub01", "clip_2", 10, 15, 20]]
    sheet = write_book(tmp_path / "sheet.xlsx", {"labels": [HEADER, *rows]})
    bad, good = list_corpus(fourdme, dataset="4dme", labels_path=sheet).labels
    assert bad.fault == "label line 2: Onset is '95?', not a frame number"
    assert good.fault is None


def test_text_below_the_table_is_left_out(fourdme):
    assert len(list_corpus(fourdme).labels) == len(ROWS)


def test_frames_are_found_by_number_across_ninety_nine(fourdme):
    (source,) = [s for s in list_corpus(fourdme).sources if s.path.endswith("sub01/clip_1")]
    assert [frame.index for frame in FrameFolder(source.location, fps=60)] == list(range(95, 107))


def test_a_row_without_a_folder_and_a_folder_without_a_row_are_both_there(fourdme):
    listing = list_corpus(fourdme)
    paths = {source.path for source in listing.sources}
    assert labels_of(listing)["4dme/02", "clip_9"].path == "gray_micro/sub02/clip_9"
    assert "gray_micro/sub02/clip_9" not in paths
    assert "gray_micro/sub02/clip_7" in paths - {label.path for label in listing.labels}


def test_a_missing_sheet_or_tree_is_told(fourdme, tmp_path):
    with pytest.raises(ConfigError, match="holds no images of 4DME; looked for gray_micro"):
        list_corpus(tmp_path, dataset="4dme")
    (tmp_path / "gray_micro").symlink_to(fourdme / "gray_micro")
    with pytest.raises(ManifestError, match="annotation file of 4DME is neither"):
        list_corpus(tmp_path)


def test_ingest_of_gray_images_joins_the_labels(fourdme, tmp_path):
    workspace = Workspace(tmp_path)
    run_ingest(fourdme, workspace, IngestOptions(size=64), choice=CorpusChoice(dataset="4dme"))
    labels = {(row.subject, row.sample): row for row in read_rows(workspace.labels, LabelRow)}
    assert [key for key, row in labels.items() if row.clip_id is None] == [("4dme/02", "clip_9")]
    mixed = labels["4dme/01", "clip_1"]
    assert (mixed.onset, mixed.apex, mixed.offset, mixed.emotion) == (95, 100, 106, "Surprise+Positive")
    clips = {row.clip_id for row in read_rows(workspace.clips, ClipRow)}
    assert len(clips - {row.clip_id for row in labels.values()}) == 1  # sub02/clip_7
