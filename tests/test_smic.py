import pytest
from lookalike import expression_frames, write_images

from mbert import ConfigError
from mbert.manifests.labels.table import checked
from mbert.manifests.schema import ClipRow, LabelRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.registry import list_corpus
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.folder import FrameFolder

RAW, CROPPED = "SMIC_all_raw", "SMIC_all_cropped"
GAP = range(257900, 257912)


@pytest.fixture(scope="session")
def smic(synthetic_videos, tmp_path_factory):
    """A SMIC look-alike: three cameras raw, HS also cropped, one clip with a gap, one without any image."""
    root = tmp_path_factory.mktemp("data") / "SMIC"

    def clip(folder, subject, emotion, indices, prefix="image", suffix="bmp"):
        frames = expression_frames(synthetic_videos, subject, emotion)
        write_images(root / folder, [f"{prefix}{index:06d}.{suffix}" for index in indices], frames)

    with_gap = [index for index in GAP if index != 257904]
    clip(f"{RAW}/HS/s1/micro/negative/s1_ne_01", 0, "disgust", with_gap)
    clip(f"{RAW}/HS/s1/micro/positive/s1_po_01", 0, "happiness", range(95, 105))  # across 99, padded to 6 digits
    clip(f"{RAW}/HS/s20/micro/surprise/s20_sur_05", 1, "surprise", range(999995, 1000005))  # grows to 7 digits
    (root / f"{RAW}/HS/s20/micro/negative/s20_ne_02").mkdir(parents=True)
    clip(f"{RAW}/HS/s1/non_micro/s1_non_01", 0, "surprise", range(8))
    clip(f"{RAW}/VIS/s01/micro/negative/s1_ne_01", 0, "disgust", range(1, 9))  # the folder of the person is padded
    clip(f"{RAW}/NIR/s1/micro/negative/s01_ne_01", 0, "disgust", range(1, 9))  # or the clip
    clip(f"{CROPPED}/HS/s1/micro/negative/s1_ne_01", 0, "disgust", with_gap, "reg_image")
    return root


def labels_of(listing):
    return {(label.dataset, label.sample): checked(label) for label in listing.labels}


def test_the_layout_is_recognised_at_every_level(smic):
    for folder in (smic.parent, smic, smic / RAW, smic / RAW / "HS"):
        assert list_corpus(folder).notes[0].startswith("taken as SMIC: ")


def test_each_camera_is_a_dataset_with_its_rate(smic):
    rates = {(source.dataset, source.fps) for source in list_corpus(smic).sources}
    assert rates == {("smic", 100.0), ("smic_vis", 25.0), ("smic_nir", 25.0)}


def test_a_camera_is_known_from_the_folder_that_is_given(smic):
    assert {source.dataset for source in list_corpus(smic / RAW / "NIR").sources} == {"smic_nir"}


def test_all_cameras_show_the_same_people_and_padding_makes_no_other(smic):
    listing = list_corpus(smic)
    assert {label.subject for label in listing.labels} == {"smic/s01", "smic/s20"}
    assert {source.subject for source in listing.sources} == {"smic/s01", "smic/s20"}


def test_samples_have_the_unpadded_name(smic):
    labels = labels_of(list_corpus(smic))
    assert {key for key in labels if key[1] == "s1_ne_01"} == {
        (name, "s1_ne_01") for name in ("smic", "smic_vis", "smic_nir")
    }
    assert labels["smic_nir", "s1_ne_01"].path.endswith("s01_ne_01")


def test_the_name_tells_the_class(smic):
    emotions = {label.sample: label.emotion for label in list_corpus(smic).labels}
    assert emotions == {
        "s1_ne_01": "negative",
        "s1_po_01": "positive",
        "s20_sur_05": "surprise",
        "s20_ne_02": "negative",
    }


def test_an_expression_lasts_from_the_first_image_to_the_last_and_has_no_apex(smic):
    labels = labels_of(list_corpus(smic))
    frames = {key[1]: (label.onset, label.apex, label.offset) for key, label in labels.items() if key[0] == "smic"}
    assert frames == {
        "s1_ne_01": (257900, None, 257911),
        "s1_po_01": (95, None, 104),
        "s20_sur_05": (999995, None, 1000004),
        "s20_ne_02": (None, None, None),
    }


def test_frames_are_found_by_number_and_a_gap_stays_one(smic):
    places = {source.path: source.location for source in list_corpus(smic).sources}
    by_padding = FrameFolder(places[f"{RAW}/HS/s20/micro/surprise/s20_sur_05"], fps=100)
    assert [frame.index for frame in by_padding] == list(range(999995, 1000005))
    with_gap = FrameFolder(places[f"{RAW}/HS/s1/micro/negative/s1_ne_01"], fps=100)
    assert [frame.index for frame in with_gap] == [index for index in GAP if index != 257904]


def test_clips_without_an_expression_are_inputs_without_a_label(smic):
    listing = list_corpus(smic)
    path = f"{RAW}/HS/s1/non_micro/s1_non_01"
    assert path in {source.path for source in listing.sources if source.subject == "smic/s01"}
    assert path not in {label.path for label in listing.labels}


def test_cropped_images_on_request_and_only_where_all_cameras_have_them(smic):
    assert list_corpus(smic / CROPPED, distribution="cropped").sources[0].path == "HS/s1/micro/negative/s1_ne_01"
    with pytest.raises(ConfigError, match="no cropped images of SMIC VIS"):
        list_corpus(smic, distribution="cropped")
    assert any("must not count twice" in note and CROPPED in note for note in list_corpus(smic).notes)


def test_a_label_file_is_refused_as_there_is_none(smic, tmp_path):
    with pytest.raises(ConfigError, match="the names of SMIC's clips are its labels"):
        list_corpus(smic, dataset="smic", labels_path=tmp_path / "sheet.xlsx")


def test_a_folder_without_smic_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(ConfigError, match="holds no images of SMIC; looked for HS/s1/micro"):
        list_corpus(tmp_path, dataset="smic")


def test_ingest_keeps_clips_with_gaps_and_says_which_is_empty(smic, tmp_path):
    workspace = Workspace(tmp_path)
    run_ingest(smic / RAW / "HS", workspace, IngestOptions(size=64), choice=CorpusChoice(dataset="smic"))
    statuses = {row.path.split("/")[-1]: row.status for row in read_rows(workspace.videos, VideoRow)}
    assert statuses == {
        "s1_ne_01": "ok",
        "s1_po_01": "ok",
        "s1_non_01": "ok",
        "s20_sur_05": "ok",
        "s20_ne_02": "empty",
    }
    labels = {row.sample: row for row in read_rows(workspace.labels, LabelRow)}
    assert labels["s20_ne_02"].clip_id is None
    assert "no numbered image" in labels["s20_ne_02"].remark
    gap = labels["s1_ne_01"]
    assert (gap.onset, gap.apex, gap.offset) == (GAP[0], None, GAP[-1])
    clips = {row.clip_id: row for row in read_rows(workspace.clips, ClipRow)}
    assert clips[gap.clip_id].num_frames == len(GAP) - 1
    (unlabelled,) = clips.keys() - {row.clip_id for row in labels.values()}
    assert clips[unlabelled].subject == "smic/s01"
