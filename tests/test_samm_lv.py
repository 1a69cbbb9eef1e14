import pytest
from lookalike import expression_frames, write_book, write_images

from mbert import ManifestError
from mbert.manifests.schema import LabelRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.registry import CORPORA, list_corpus
from mbert.pipeline.corpora.samm_lv import CORPUS
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.folder import FrameFolder

HEADER = [
    "Subject",
    "Filename",
    "Inducement Code",
    "Onset",
    "Apex",
    "Offset",
    "Duration",
    "Type",
    "Action Units",
    "Notes",
]
ROWS = [
    # subject, expression, onset, apex, offset, type, AUs
    ("006", "006_1_1", 3, 8, 14, "Micro - 1/2", "4"),
    ("006", "006_1_2", 22, 28, 34, "Micro - 1/2", "R12 or R14"),  # another one of the same video
    ("006", "006_1_2", 36, 40, 58, "Macro", 12),  # a macro-expression of that name; AUs as a number
    ("006", "006_1_3", 0, 0, 58, "Macro", "12"),  # too long to have an onset
    (9, "009_3_1", 9995, "/", 10005, "Micro - 1/2", "1+2"),  # a subject as a number; apex missing
    ("011", "011_5_1", 20, 25, 30, "Micro - 1/2", "4"),  # its video is missing
]
MICRO_HEADER = ["Subject", "Filename", "Onset Frame", "Apex Frame", "Offset Frame", "Estimated Emotion"]
EMOTIONS = {"006_1_1": "Anger", "006_1_2": "Other", "009_3_1": "Surprise"}


def write_book_of_rows(path, header, rows):
    sheet = [
        [s, name, name[4], on, apex, off, "=F12-D12", kind, aus, None] for s, name, on, apex, off, kind, aus in rows
    ]
    preamble = [["Long videos of the look-alike"], *([None] for _ in range(9))]
    return write_book(path, {"Sheet1": [*preamble, header, *sheet]})


@pytest.fixture(scope="session")
def samm_lv(synthetic_videos, tmp_path_factory):
    """A look-alike of SAMM's long videos: two videos, one without a row, rows without a video, SAMM's own sheet."""
    root = tmp_path_factory.mktemp("data") / "SAMM_LV"
    folder = root / "SAMM_longvideos"
    there_and_back = expression_frames(synthetic_videos, 0, "disgust")
    there_and_back = [*there_and_back, *reversed(there_and_back)]
    write_images(folder / "006_1", [f"006_1_{number:04d}.jpg" for number in range(1, 61)], there_and_back, gray=True)
    names = [f"009_3_{number:04d}.jpg" for number in range(9990, 10011)]
    write_images(folder / "009_3", names, expression_frames(synthetic_videos, 1, "surprise"), gray=True)
    names = [f"010_2_{number:04d}.jpg" for number in range(1, 6)]
    write_images(folder / "010_2", names, expression_frames(synthetic_videos, 2, "surprise"), gray=True)
    write_book_of_rows(root / "SAMM_LongVideos_V2_Release.xlsx", HEADER, ROWS)
    micro = [["006", name, 5000, 5010, 5020, emotion] for name, emotion in EMOTIONS.items()]
    write_book(root / "SAMM_Micro_FACS_Codes_v2.xlsx", {"MICRO_ONLY": [["a preamble"], MICRO_HEADER, *micro]})
    return root


def labels_of(listing):
    return {label.sample: label for label in listing.labels}


def test_the_layout_is_recognised_and_not_taken_for_samm(samm_lv):
    for root in (samm_lv, samm_lv.parent, samm_lv / "SAMM_longvideos"):
        assert [name for name, corpus in CORPORA.items() if corpus.recognise(root)] == ["samm_lv"]
    listing = list_corpus(samm_lv)
    assert {(source.dataset, source.fps) for source in listing.sources} == {("samm_lv", 200.0)}
    assert len(listing.sources) == 3


def test_several_expressions_are_of_one_video(samm_lv):
    labels = list_corpus(samm_lv).labels
    assert [label.path for label in labels[:4]] == ["SAMM_longvideos/006_1"] * 4
    assert labels[-1].path == "SAMM_longvideos/011_5"  # which is missing


def test_expressions_of_one_name_are_told_apart_by_their_onset(samm_lv):
    assert list(labels_of(list_corpus(samm_lv))) == [
        *("006_1_1", "006_1_2_22", "006_1_2_36", "006_1_3", "009_3_1", "011_5_1")
    ]


def test_the_people_are_those_of_samm(samm_lv):
    listing = list_corpus(samm_lv)
    assert {source.path: source.subject for source in listing.sources} == {
        "SAMM_longvideos/006_1": "samm/006",
        "SAMM_longvideos/009_3": "samm/009",
        "SAMM_longvideos/010_2": "samm/010",  # without a row
    }
    assert labels_of(listing)["009_3_1"].subject == "samm/009"


def test_frames_are_numbers_also_where_they_grow_longer(samm_lv):
    (source,) = [source for source in list_corpus(samm_lv).sources if source.path.endswith("009_3")]
    assert [frame.index for frame in FrameFolder(source.location, fps=200)] == list(range(9990, 10011))


def test_micro_and_macro_expressions_are_told_apart_and_one_without_an_onset_is_no_use(samm_lv):
    labels = labels_of(list_corpus(samm_lv))
    assert [label.expression for label in labels.values()] == ["micro", "micro", "macro", "macro", "micro", "micro"]
    assert [label.fault is None for label in labels.values()] == [True, True, True, False, True, True]
    assert labels["006_1_3"].fault.startswith("label line 15: onset is 0")
    assert (labels["009_3_1"].apex, labels["009_3_1"].action_units) == (None, "1+2")


def test_emotions_of_micro_expressions_come_from_the_sheet_of_samm(samm_lv):
    listing = list_corpus(samm_lv)
    assert [label.emotion for label in listing.labels] == ["Anger", "Other", None, None, "Surprise", None]
    assert [file.name for file in listing.annotations] == [
        *("SAMM_LongVideos_V2_Release.xlsx", "SAMM_Micro_FACS_Codes_v2.xlsx")
    ]


def test_without_the_sheet_of_samm_there_are_no_emotions_and_a_note(samm_lv, tmp_path):
    (tmp_path / "images").symlink_to(samm_lv / "SAMM_longvideos")
    write_book_of_rows(tmp_path / "SAMM_LongVideos_V1_Release.xlsx", HEADER, ROWS)
    listing = CORPUS.read(tmp_path, None, "auto")
    assert {label.emotion for label in listing.labels} == {None}
    assert "without emotions" in listing.notes[-1]


def test_the_latest_release_is_read_whatever_it_calls_its_columns(samm_lv, tmp_path):
    (tmp_path / "images").symlink_to(samm_lv / "SAMM_longvideos")
    write_book_of_rows(tmp_path / "SAMM_LongVideos_V2_Release.xlsx", HEADER, ROWS)
    renamed = [
        {"Onset": "Onset Frame", "Apex": "Apex Frame", "Offset": "Offset Frame"}.get(name, name) for name in HEADER
    ]
    write_book_of_rows(tmp_path / "SAMM_LongVideos_V3_Release.xlsx", renamed, ROWS[:1])
    (label,) = CORPUS.read(tmp_path, None, "auto").labels
    assert (label.onset, label.apex, label.offset) == (3, 8, 14)


def test_a_sheet_without_a_column_is_refused_with_all_its_names(samm_lv, tmp_path):
    file = write_book_of_rows(
        tmp_path / "labels.xlsx", [name and name.replace("Onset", "Start") for name in HEADER], ROWS
    )
    with pytest.raises(ManifestError, match="columns Subject, Filename, Onset or Onset Frame, Offset or Offset Frame"):
        CORPUS.read(samm_lv, file, "auto")


def test_each_micro_expression_has_its_clip(samm_lv, tmp_path):
    workspace = Workspace(tmp_path)
    run_ingest(samm_lv, workspace, IngestOptions(size=64))
    status = {row.path: row.status for row in read_rows(workspace.videos, VideoRow)}
    assert status == {
        "SAMM_longvideos/006_1": "ok",
        "SAMM_longvideos/009_3": "ok",
        "SAMM_longvideos/010_2": "ok",
        "SAMM_longvideos/011_5": "missing",
    }
    labels = {row.sample: row for row in read_rows(workspace.labels, LabelRow) if row.expression == "micro"}
    assert {name: (row.subject, row.onset, row.apex, row.offset) for name, row in labels.items() if row.clip_id} == {
        "006_1_1": ("samm/006", 3, 8, 14),
        "006_1_2_22": ("samm/006", 22, 28, 34),
        "009_3_1": ("samm/009", 9995, None, 10005),
    }
    labels = {row.sample: row for row in read_rows(workspace.labels, LabelRow)}
    assert labels["006_1_2_36"].clip_id is not None  # a macro-expression is told, and its clip is no sample
    assert labels["006_1_3"].clip_id is None
    assert "there is no such file or folder" in labels["011_5_1"].remark
