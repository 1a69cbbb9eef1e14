import shutil

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

HEADER = ["Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Emotion", "EmotionId", "Fps", "AU"]
TRAIN = [
    ("sub0003", "sub0003_01", 0, 6, 14, "surprise", 6, 500, "AU1+AU2"),
    ("sub0003", "sub0003_02", 95, 100, 106, "disgust", 2, 200, "AD38"),
    (7, "sub0007_01", 0, 0, 12, "happiness", 4, 300, "M58"),  # apex on the onset; the subject as a number
    ("sub0007", "sub0007_04", 0, 6, 12, "happiness", 4, 300, 12),  # its folder is missing; AUs as a number
]
TEST_A = [("sub0412", "sub0412_02", 2, "", 10, "contempt", 1, 200, "AD31,AD39")]


@pytest.fixture(scope="session")
def dfme(synthetic_videos, tmp_path_factory):
    """A DFME look-alike: two splits with their sheets, one folder without a row."""
    root = tmp_path_factory.mktemp("data") / "DFME"

    def clip(folder, subject, indices):
        frames = expression_frames(synthetic_videos, subject, "surprise")
        write_images(root / folder, [f"{index:05d}.png" for index in indices], frames)

    clip("training/sub0003_01", 0, range(15))
    clip("training/sub0003_02", 0, range(95, 107))
    clip("training/sub0007_01", 1, [index for index in range(13) if index != 4])
    clip("testA/sub0412_02", 2, range(12))
    clip("testA/sub0413_01", 2, range(12))
    write_book(root / "training_full_with_AU.xlsx", {"Sheet1": [HEADER, *TRAIN]})
    write_book(root / "testA_full_with_AU.xlsx", {"Sheet1": [HEADER, *TEST_A]})
    return root


def labels_of(listing):
    return {label.sample: checked(label) for label in listing.labels}


def test_the_layout_is_recognised_at_every_level(dfme):
    for folder in (dfme.parent, dfme, dfme / "testA"):
        assert list_corpus(folder).notes[0].startswith("taken as DFME: ")


def test_all_splits_are_read_each_with_its_sheet(dfme):
    listing = list_corpus(dfme)
    assert [file.name for file in listing.annotations] == ["training_full_with_AU.xlsx", "testA_full_with_AU.xlsx"]
    assert {source.path.split("/")[0] for source in listing.sources} == {"training", "testA"}
    assert set(labels_of(listing)) == {row[1] for row in (*TRAIN, *TEST_A)}
    assert {source.dataset for source in listing.sources} == {"dfme"}


def test_each_clip_has_its_own_rate_and_one_without_a_row_has_none(dfme):
    listing = list_corpus(dfme)
    rates = {source.path.split("/")[-1]: source.fps for source in listing.sources}
    assert rates == {
        "sub0003_01": 500.0,
        "sub0003_02": 200.0,
        "sub0007_01": 300.0,
        "sub0412_02": 200.0,
        "sub0413_01": None,
    }
    assert any("no sheet has the frame rate of 1 clips" in note for note in listing.notes)


def test_subjects_are_text_with_a_prefix_however_the_sheet_writes_them(dfme):
    listing = list_corpus(dfme)
    assert {label.subject for label in listing.labels} == {"dfme/sub0003", "dfme/sub0007", "dfme/sub0412"}
    subjects = {source.path.split("/")[-1]: source.subject for source in listing.sources}
    assert subjects["sub0413_01"] == "dfme/sub0413"
    assert subjects["sub0007_01"] == "dfme/sub0007"


def test_an_onset_of_zero_is_a_frame(dfme):
    listing = list_corpus(dfme)
    label = labels_of(listing)["sub0003_01"]
    assert (label.onset, label.apex, label.offset, label.fault) == (0, 6, 14, None)
    (source,) = [s for s in listing.sources if s.path == label.path]
    assert next(iter(FrameFolder(source.location, fps=500))).index == 0


def test_frames_are_found_by_number_across_ninety_nine_and_a_gap_stays_one(dfme):
    places = {source.path: source.location for source in list_corpus(dfme).sources}
    across = FrameFolder(places["training/sub0003_02"], fps=200)
    assert [frame.index for frame in across] == list(range(95, 107))
    assert 4 not in [frame.index for frame in FrameFolder(places["training/sub0007_01"], fps=300)]


def test_an_apex_that_is_missing_or_on_the_onset_is_missing(dfme):
    labels = labels_of(list_corpus(dfme))
    assert labels["sub0412_02"].apex is None
    assert labels["sub0412_02"].remark is None
    assert labels["sub0007_01"].apex is None
    assert "apex 0 does not lie between onset 0 and offset 12" in labels["sub0007_01"].remark


def test_action_descriptors_stay_as_annotated(dfme):
    units = {name: label.action_units for name, label in labels_of(list_corpus(dfme)).items()}
    assert units["sub0003_02"] == "AD38"
    assert units["sub0007_01"] == "M58"
    assert units["sub0007_04"] == "12"
    assert units["sub0412_02"] == "AD31,AD39"


def test_the_emotion_is_the_word_not_the_number(dfme):
    assert labels_of(list_corpus(dfme))["sub0003_02"].emotion == "disgust"


def test_a_row_without_a_folder_is_expected_in_its_split_and_a_folder_without_a_row_is_there(dfme):
    listing = list_corpus(dfme)
    paths = {source.path for source in listing.sources}
    assert labels_of(listing)["sub0007_04"].path == "training/sub0007_04"
    assert "training/sub0007_04" not in paths
    assert "testA/sub0413_01" in paths - {label.path for label in listing.labels}


def test_a_clip_that_is_there_twice_counts_once(dfme, tmp_path):
    shutil.copytree(dfme, tmp_path / "DFME")
    shutil.copytree(dfme / "testA", tmp_path / "DFME" / "testA_copy")
    listing = list_corpus(tmp_path)
    names = [source.path.split("/")[-1] for source in listing.sources]
    assert sorted(names) == sorted(set(names))
    assert any("2 clips in" in note and "testA_copy not read" in note for note in listing.notes)


def test_one_sheet_may_be_given(dfme):
    listing = list_corpus(dfme, dataset="dfme", labels_path=dfme / "testA_full_with_AU.xlsx")
    assert set(labels_of(listing)) == {"sub0412_02"}


def test_what_is_missing_is_told(dfme, tmp_path):
    with pytest.raises(ConfigError, match="holds no images of DFME; looked for sub0003_01"):
        list_corpus(tmp_path, dataset="dfme")
    (tmp_path / "training").symlink_to(dfme / "training")
    with pytest.raises(ManifestError, match="annotation file of DFME is neither"):
        list_corpus(tmp_path)
    with pytest.raises(ConfigError, match="holds no cropped images of DFME"):
        list_corpus(tmp_path, distribution="cropped")


def test_ingest_takes_times_from_the_rate_of_each_clip(dfme, tmp_path):
    workspace = Workspace(tmp_path)
    run_ingest(dfme, workspace, IngestOptions(size=64), choice=CorpusChoice(dataset="dfme"))
    of_clip = {row.clip_id: row.sample for row in read_rows(workspace.labels, LabelRow)}
    clips = {of_clip.get(row.clip_id): row for row in read_rows(workspace.clips, ClipRow)}
    assert {name: round(clip.fps) for name, clip in clips.items()} == {
        "sub0003_01": 500,
        "sub0003_02": 200,
        "sub0007_01": 275,  # 300, but one of 13 images is missing
        "sub0412_02": 200,
        None: 30,  # nobody says: as of any frame folder
    }
    labels = {row.sample: row for row in read_rows(workspace.labels, LabelRow)}
    assert (labels["sub0003_01"].onset, labels["sub0003_01"].apex) == (0, 6)
    assert labels["sub0007_04"].clip_id is None
    assert "apex 0 does not lie" in labels["sub0007_01"].remark
