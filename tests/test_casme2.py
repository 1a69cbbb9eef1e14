import pytest

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.table import checked
from mbert.pipeline.corpora.casme2 import CORPUS
from mbert.pipeline.corpora.registry import list_corpus
from mbert.pipeline.video.folder import FrameFolder


def labels_of(listing):
    return {(label.subject, label.sample): checked(label) for label in listing.labels}


def test_the_layout_is_recognised_and_raw_images_come_first(casme2):
    listing = list_corpus(casme2)
    assert listing.notes[0].startswith("taken as CASME II: ")
    assert "raw images in" in listing.notes[1]
    assert "Cropped" in listing.notes[2]
    assert {source.path.split("/")[0] for source in listing.sources} == {"CASME2_RAW_selected"}
    assert {(source.dataset, source.fps) for source in listing.sources} == {("casme2", 200.0)}


def test_cropped_images_on_request(casme2):
    listing = list_corpus(casme2, dataset="casme2", distribution="cropped")
    assert {source.path.split("/")[0] for source in listing.sources} == {"Cropped"}
    assert all(label.path.startswith("Cropped/") for label in listing.labels if label.sample != "EP06_02_01")


def test_frames_are_found_by_number_across_ninety_nine(casme2):
    (source,) = [s for s in list_corpus(casme2).sources if s.path.endswith("sub01/EP02_01f")]
    indices = [frame.index for frame in FrameFolder(source.location, fps=200)]
    assert indices == list(range(95, 106))


def test_subjects_are_text_with_a_prefix_however_the_sheet_writes_them(casme2):
    listing = list_corpus(casme2)
    assert {label.subject for label in listing.labels} == {"casme2/sub01", "casme2/sub02", "casme2/sub03"}
    assert {source.subject for source in listing.sources} == {"casme2/sub01", "casme2/sub02", "casme2/sub03"}


def test_a_clip_name_that_recurs_belongs_to_its_own_subject(casme2):
    labels = labels_of(list_corpus(casme2))
    assert labels["casme2/sub01", "EP02_01f"].emotion == "happiness"
    assert labels["casme2/sub02", "EP02_01f"].emotion == "surprise"
    assert labels["casme2/sub02", "EP02_01f"].path.endswith("sub02/EP02_01f")


def test_apexes_that_are_missing_or_on_the_onset_are_missing_and_on_the_offset_are_kept(casme2):
    labels = labels_of(list_corpus(casme2))
    assert labels["casme2/sub02", "EP02_01f"].apex is None
    assert labels["casme2/sub02", "EP02_01f"].remark is None  # it does not contradict anything
    assert labels["casme2/sub02", "EP09f"].apex == 60
    on_onset = labels["casme2/sub03", "EP08_1"]
    assert on_onset.apex is None
    assert "apex 10 does not lie between onset 10 and offset 20" in on_onset.remark


def test_action_units_stay_as_annotated_also_numbers_and_question_marks(casme2):
    labels = labels_of(list_corpus(casme2))
    assert [labels["casme2/sub01", clip].action_units for clip in ("EP02_01f", "EP03_02")] == ["6+12", "4"]
    assert labels["casme2/sub02", "EP09f"].action_units == "?"


def test_a_row_without_a_folder_and_a_folder_without_a_row_are_both_there(casme2):
    listing = list_corpus(casme2)
    paths = {source.path for source in listing.sources}
    assert labels_of(listing)["casme2/sub03", "EP06_02_01"].path not in paths
    assert "CASME2_RAW_selected/sub03/EP19_01" in paths - {label.path for label in listing.labels}


def test_a_missing_annotation_file_is_told_with_what_was_looked_for(casme2, tmp_path):
    (tmp_path / "images").symlink_to(casme2 / "CASME2_RAW_selected")
    with pytest.raises(ManifestError, match=r"annotation file of CASME II.*--labels FILE"):
        CORPUS.read(tmp_path, None, "auto")
    given = CORPUS.read(tmp_path, casme2 / "CASME2-coding-20140508.xlsx", "auto")
    assert len(given.labels) == 6


def test_a_distribution_that_is_not_there_is_refused(casme2, tmp_path):
    (tmp_path / "images").symlink_to(casme2 / "CASME2_RAW_selected")
    with pytest.raises(ConfigError, match="holds no cropped images of CASME II"):
        CORPUS.read(tmp_path, None, "cropped")
