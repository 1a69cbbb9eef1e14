import shutil

import pytest
from lookalike import expression_frames, write_book, write_images

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.table import checked
from mbert.manifests.schema import LabelRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.registry import list_corpus
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions

HS = "SMIC-E_raw image/HS_long/SMIC-HS-E"
HEADER = [
    "Subject",
    "Filename",
    *(f"{name}{which}F" for which in ("", "2", "3") for name in ("Onset", "Offset")),
    "FirstF",
    "LastF",
    *(f"TotalMF{number}" for number in (1, 2, 3)),
    "TotalVL",
    "Emotion",
]
ROWS = [
    # two expressions in one clip, of which the camera's numbers are those of the images
    (1, "s1_ne_01", 559745, 559757, 559765, 559777, None, None, 559740, 559789, 13, 13, None, 50, "negative"),
    # the images are numbered anew, from 1; zeros where there is no further expression
    (3, "s3_po_02", 76525, 76535, 0, 0, 0, 0, 76518, 76542, 11, 0, 0, 25, "positive"),
    # text in FirstF, and the name padded
    (3, "s03_sur_04", 32615570, 32615580, None, None, None, None, "see notes", None, None, None, None, 20, "surprise"),
    # its folder is missing
    (20, "s20_sur_05", 1000, 1030, None, None, None, None, 900, 1200, 31, None, None, 301, "surprise"),
]


@pytest.fixture(scope="session")
def smic_e(synthetic_videos, tmp_path_factory):
    """A SMIC-E look-alike: HS with three clips of which one has no row, VIS and NIR with one each."""
    root = tmp_path_factory.mktemp("data") / "SMIC-E"

    def clip(folder, subject, emotion, indices):
        frames = expression_frames(synthetic_videos, subject, emotion)
        there_and_back = [*frames, *frames[::-1]]
        write_images(root / folder, [f"image{index:06d}.jpg" for index in indices], there_and_back)

    clip(f"{HS}/s01/s1_ne_01", 0, "disgust", [index for index in range(559740, 559790) if index != 559750])
    clip(f"{HS}/s03/s3_po_02", 1, "happiness", range(1, 26))
    clip(f"{HS}/s03/s3_sur_04", 1, "surprise", range(32615565, 32615585))
    clip(f"{HS}/s03/s3_ne_09", 1, "disgust", range(1, 9))
    clip("SMIC-E_raw image/VIS_long/SMIC_VIS_E/s01/s1_ne_01", 0, "disgust", range(100, 110))
    clip("SMIC-E_raw image/NIR_long/SMIC-NIR-E/s01/s1_ne_01", 0, "disgust", range(100, 110))
    trailer = [[], ["Note: frames are camera counters"], [None, "s1_ne_01 has two"], ["TotalMF1: length", None, 1]]
    write_book(root / "SMIC-HS-E_annotation.xlsx", {"Sheet1": [HEADER, *ROWS, *trailer]})
    for camera in ("SMIC_VIS_E", "SMIC-NIR-E"):
        row = (1, "s1_ne_01", 102, 108, None, None, None, None, 100, 109, 7, None, None, 10, "negative")
        write_book(root / f"{camera}_annotation.xlsx", {"Sheet1": [HEADER, row]})
    return root


def labels_of(listing):
    return {(label.dataset, label.sample): checked(label) for label in listing.labels}


def frames_of(label):
    return label.onset, label.apex, label.offset


def test_the_layout_is_recognised_with_a_level_more_or_less(smic_e, tmp_path):
    assert list_corpus(smic_e).notes[0].startswith("taken as SMIC-E: ")
    given = list_corpus(smic_e / HS, labels_path=smic_e / "SMIC-HS-E_annotation.xlsx")
    assert {source.path.count("/") for source in given.sources} == {1}
    further = tmp_path / "SMIC-E" / "HS" / "SMIC_HS_E"
    further.parent.mkdir(parents=True)
    further.symlink_to(smic_e / HS)
    shutil.copy(smic_e / "SMIC-HS-E_annotation.xlsx", tmp_path / "SMIC-E" / "SMIC_HS_E_annotation_2019.xlsx")
    assert {source.dataset for source in list_corpus(tmp_path).sources} == {"smic_e"}


def test_each_camera_is_a_dataset_with_its_rate_and_its_sheet(smic_e):
    listing = list_corpus(smic_e)
    rates = {(source.dataset, source.fps) for source in listing.sources}
    assert rates == {("smic_e", 100.0), ("smic_e_vis", 25.0), ("smic_e_nir", 25.0)}
    assert len(listing.annotations) == 3
    assert frames_of(labels_of(listing)["smic_e_vis", "s1_ne_01"]) == (102, None, 108)


def test_the_people_are_those_of_the_short_clips(smic_e):
    listing = list_corpus(smic_e)
    assert {label.subject for label in listing.labels} == {"smic/s01", "smic/s03", "smic/s20"}
    assert {source.subject for source in listing.sources} == {"smic/s01", "smic/s03"}


def test_further_expressions_of_a_clip_have_their_onset_in_the_name(smic_e):
    labels = labels_of(list_corpus(smic_e))
    assert frames_of(labels["smic_e", "s1_ne_01"]) == (559745, None, 559757)
    assert frames_of(labels["smic_e", "s1_ne_01_559765"]) == (559765, None, 559777)
    assert labels["smic_e", "s1_ne_01_559765"].path == labels["smic_e", "s1_ne_01"].path
    assert labels["smic_e", "s1_ne_01_559765"].emotion == "negative"


def test_text_below_the_table_and_zeros_are_no_expressions(smic_e):
    hs = {sample for dataset, sample in labels_of(list_corpus(smic_e)) if dataset == "smic_e"}
    assert hs == {"s1_ne_01", "s1_ne_01_559765", "s3_po_02", "s3_sur_04", "s20_sur_05"}


def test_images_that_are_numbered_anew_are_noticed_and_the_frames_follow(smic_e):
    label = labels_of(list_corpus(smic_e))["smic_e", "s3_po_02"]
    assert frames_of(label) == (8, None, 18)
    assert label.remark == "label line 3: the images are renumbered, so 76517 was taken from its frames"


def test_both_is_told_where_frames_were_moved_and_the_apex_cannot_be(smic_e, tmp_path):
    row = (3, "s3_po_02", 76525, 76525, 76535, *[None] * 4, 76518, *[None] * 5, "positive")
    sheet = write_book(tmp_path / "sheet.xlsx", {"Sheet1": [[*HEADER[:3], "ApexF", *HEADER[3:]], row]})
    (label,) = map(checked, list_corpus(smic_e / HS, dataset="smic_e", labels_path=sheet).labels)
    assert frames_of(label) == (8, None, 18)
    assert label.remark == (
        "label line 2: the images are renumbered, so 76517 was taken from its frames; "
        "apex 8 does not lie between onset 8 and offset 18: taken as missing"
    )


def test_numbers_of_the_camera_are_kept_where_the_images_have_them(smic_e):
    labels = labels_of(list_corpus(smic_e))
    assert labels["smic_e", "s1_ne_01"].remark is None
    assert frames_of(labels["smic_e", "s3_sur_04"]) == (32615570, None, 32615580)  # FirstF is a text
    assert labels["smic_e", "s3_sur_04"].fault is None


def test_a_row_without_a_folder_and_a_folder_without_a_row_are_both_there(smic_e):
    listing = list_corpus(smic_e)
    paths = {source.path for source in listing.sources}
    missing = labels_of(listing)["smic_e", "s20_sur_05"]
    assert missing.path == f"{HS}/s20/s20_sur_05"
    assert missing.path not in paths
    assert f"{HS}/s03/s3_ne_09" in paths - {label.path for label in listing.labels}


def test_an_apex_is_read_from_the_edition_that_has_it(smic_e, tmp_path):
    header = [*HEADER[:3], "ApexF", *HEADER[3:]]
    rows = [[*row[:3], apex, *row[3:]] for row, apex in zip(ROWS, (559751, 76530, "/", None), strict=True)]
    sheet = write_book(tmp_path / "SMIC-HS-E_annotation_2019.xlsx", {"Sheet1": [header, *rows]})
    labels = labels_of(list_corpus(smic_e / HS, dataset="smic_e", labels_path=sheet))
    assert frames_of(labels["smic_e", "s1_ne_01"]) == (559745, 559751, 559757)
    assert frames_of(labels["smic_e", "s3_po_02"]) == (8, 13, 18)
    assert frames_of(labels["smic_e", "s3_sur_04"]) == (32615570, None, 32615580)


def test_a_row_without_an_onset_is_a_fault_not_the_whole_clip(smic_e, tmp_path):
    sheet = write_book(tmp_path / "sheet.xlsx", {"Sheet1": [HEADER, (1, "s1_ne_01", "/", "/", *[None] * 10, "x")]})
    (label,) = list_corpus(smic_e / HS, dataset="smic_e", labels_path=sheet).labels
    assert label.fault == "label line 2: onset is missing"


def test_a_given_sheet_is_for_the_camera_in_its_name(smic_e, tmp_path):
    row = (1, "s1_ne_01", 103, 107, *[None] * 10, "negative")
    named = write_book(tmp_path / "SMIC-NIR-E_mine.xlsx", {"Sheet1": [HEADER, row]})
    labels = labels_of(list_corpus(smic_e, dataset="smic_e", labels_path=named))
    assert frames_of(labels["smic_e_nir", "s1_ne_01"]) == (103, None, 107)
    assert frames_of(labels["smic_e_vis", "s1_ne_01"]) == (102, None, 108)
    with pytest.raises(ConfigError, match="does not say for which of the cameras it is"):
        list_corpus(smic_e, dataset="smic_e", labels_path=tmp_path / "mine.xlsx")


def test_a_missing_sheet_is_told_with_the_camera(smic_e, tmp_path):
    (tmp_path / "SMIC-HS-E").symlink_to(smic_e / HS)
    with pytest.raises(ManifestError, match="annotation file of SMIC-E HS is neither"):
        list_corpus(tmp_path, dataset="smic_e")


def test_a_long_clip_holds_all_its_expressions(smic_e, tmp_path):
    workspace = Workspace(tmp_path)
    choice = CorpusChoice(dataset="smic_e", labels_path=smic_e / "SMIC-HS-E_annotation.xlsx")
    run_ingest(smic_e / HS, workspace, IngestOptions(size=64), choice=choice)
    labels = {row.sample: row for row in read_rows(workspace.labels, LabelRow)}
    assert labels["s1_ne_01"].clip_id == labels["s1_ne_01_559765"].clip_id is not None
    assert labels["s3_sur_04"].onset == 32615570
    assert "renumbered" in labels["s3_po_02"].remark
    assert labels["s20_sur_05"].clip_id is None
    assert "there is no such file or folder" in labels["s20_sur_05"].remark
