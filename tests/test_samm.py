import pytest
from lookalike import expression_frames, write_book, write_images

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.errata import apply_errata
from mbert.manifests.labels.table import checked
from mbert.manifests.schema import ClipRow, LabelRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.registry import CORPORA, list_corpus
from mbert.pipeline.corpora.samm import CORPUS
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.folder import FrameFolder

HEADER = [
    "Subject",
    "Filename",
    "Inducement Code",
    "Onset Frame",
    "Apex Frame",
    "Offset Frame",
    "Duration",
    "Micro",
    "Action Units",
    "Estimated Emotion",
    "Objective Classes",
    "Notes",
]
ROWS = [
    # subject, clip, onset, apex, offset, AUs, emotion, objective class, frame numbers of the images
    ("006", "006_1_2", 5560, 5566, 5575, "R12 or R14", "Other", 7, "05d"),
    ("006", "006_2_1", 995, 1000, 1010, 4, "Others", 2, "04d"),  # AUs as a number; across 999
    (9, "009_3_5", 3570, 3500, 3590, "12A+A/L12", "Happiness", 1, "04d"),  # a subject as a number; apex below onset
    ("013", "013_1_9", 5700, 5710, 5800, "1+2", "Surprise", 3, "05d"),  # the offset that has an erratum
    ("013", "013_6_1", 10, "/", "/", "7D+ref(43)", "Anger ", 5, "05d"),  # its folder is missing; so are apex and offset
    ("032", "032_3_9", 100, 104, 110, "14", "Contempt", 8, "05d"),  # its folder is empty
]


def write_samm(root, videos):
    for place, (_, clip, onset, _, offset, _, _, _, digits) in enumerate(ROWS[:4]):
        folder = root / "SAMM" / clip[:3] / clip
        numbers = [number for number in range(onset, min(offset, onset + 40) + 1) if number != 5563]
        names = [f"{clip[:3]}_{number:{digits}}.jpg" for number in numbers]
        write_images(folder, names, expression_frames(videos, place % 3, "happiness"), gray=True)
    (root / "SAMM/032/032_3_9").mkdir(parents=True)
    write_images(root / "SAMM/006/006_7_7", ["006_0001.jpg"], expression_frames(videos, 0, "disgust"), gray=True)
    preamble = [["Micro-expressions of the look-alike"], *([None] for _ in range(12))]
    rows = [
        [
            subject,
            clip,
            clip[4],
            onset,
            apex,
            offset,
            f"=SUM(F{line}-D{line})+1",
            "Micro - 1/2",
            aus,
            emotion,
            which,
            None,
        ]
        for line, (subject, clip, onset, apex, offset, aus, emotion, which, _) in enumerate(ROWS, start=15)
    ]
    footer = [[], [None, None, "Notes are those of the coders"]]
    write_book(root / "SAMM_Micro_FACS_Codes_v2.xlsx", {"MICRO_ONLY": [*preamble, HEADER, *rows, *footer]})


@pytest.fixture(scope="session")
def samm(synthetic_videos, tmp_path_factory):
    """A SAMM look-alike: four gray clips, an empty one, one without a row, a row without a folder."""
    root = tmp_path_factory.mktemp("data") / "SAMM_dataset"
    write_samm(root, synthetic_videos)
    return root


def labels_of(listing):
    return {label.sample: label for label in listing.labels}


def test_the_layout_is_recognised_from_above_and_from_the_tree_itself(samm):
    for root in (samm, samm.parent, samm / "SAMM"):
        assert [name for name, corpus in CORPORA.items() if corpus.recognise(root)] == ["samm"]
    listing = list_corpus(samm)
    assert listing.notes[0].startswith("taken as SAMM: ")
    assert {(source.dataset, source.fps) for source in listing.sources} == {("samm", 200.0)}


def test_the_sheet_beside_the_tree_is_found(samm):
    listing = list_corpus(samm / "SAMM")
    assert listing.annotations == (samm / "SAMM_Micro_FACS_Codes_v2.xlsx",)
    assert labels_of(listing)["006_1_2"].path == "006/006_1_2"


def test_rows_are_found_below_the_preamble_and_text_after_them_is_none(samm):
    listing = list_corpus(samm)
    assert [label.sample for label in listing.labels] == [row[1] for row in ROWS]
    assert [label.line for label in listing.labels] == list(range(15, 21))
    assert all(label.fault is None for label in listing.labels)  # also with formulas that have no value


def test_numbers_of_four_and_five_digits_are_frame_numbers(samm):
    by_path = {source.path: source for source in list_corpus(samm).sources}
    for path, first, last in (("SAMM/006/006_1_2", 5560, 5575), ("SAMM/006/006_2_1", 995, 1010)):
        indices = [frame.index for frame in FrameFolder(by_path[path].location, fps=200)]
        assert indices == [number for number in range(first, last + 1) if number != 5563]  # that one is missing


def test_subjects_have_three_digits_and_a_prefix_however_the_sheet_writes_them(samm):
    listing = list_corpus(samm)
    assert labels_of(listing)["009_3_5"].subject == "samm/009"
    subjects = {source.path: source.subject for source in listing.sources}
    assert subjects["SAMM/009/009_3_5"] == "samm/009"
    assert subjects["SAMM/006/006_7_7"] == "samm/006"  # of a clip without a row


def test_emotions_action_units_and_objective_classes_stay_as_annotated(samm):
    labels = labels_of(list_corpus(samm))
    assert [label.emotion for label in labels.values()] == [
        *("Other", "Others", "Happiness", "Surprise", "Anger", "Contempt")
    ]
    assert [label.action_units for label in labels.values()] == [
        *("R12 or R14", "4", "12A+A/L12", "1+2", "7D+ref(43)", "14")
    ]
    assert [label.objective_class for label in labels.values()] == ["7", "2", "1", "3", "5", "8"]


def test_an_apex_before_the_onset_and_slashes_are_missing(samm):
    labels = labels_of(list_corpus(samm))
    assert (labels["013_6_1"].apex, labels["013_6_1"].offset) == (None, None)
    before = checked(labels["009_3_5"])
    assert before.apex is None
    assert "apex 3500 does not lie between onset 3570 and offset 3590" in before.remark


def test_the_offset_of_one_clip_has_an_erratum(samm):
    labels = {label.sample: label for label in apply_errata(list_corpus(samm).labels, "default")}
    assert (labels["013_1_9"].offset, labels["013_1_9"].errata) == (5739, ("samm-013-1-9-offset",))
    assert all(label.errata == () for sample, label in labels.items() if sample != "013_1_9")


def test_a_row_without_a_folder_and_a_folder_without_a_row_are_both_there(samm):
    listing = list_corpus(samm)
    paths = {source.path for source in listing.sources}
    assert labels_of(listing)["013_6_1"].path == "SAMM/013/013_6_1"
    assert "SAMM/013/013_6_1" not in paths
    assert "SAMM/006/006_7_7" in paths - {label.path for label in listing.labels}


def test_there_is_no_cropped_distribution(samm):
    with pytest.raises(ConfigError, match="holds no cropped images of SAMM"):
        CORPUS.read(samm, None, "cropped")


def test_a_missing_annotation_file_is_told_with_what_was_looked_for(samm, tmp_path):
    (tmp_path / "images").symlink_to(samm / "SAMM")
    with pytest.raises(ManifestError, match=r"annotation file of SAMM .*SAMM_Micro_FACS_Codes"):
        CORPUS.read(tmp_path, None, "auto")


def test_gray_images_become_clips_and_every_row_tells_what_became_of_it(samm, tmp_path):
    workspace = Workspace(tmp_path)
    summary = run_ingest(samm, workspace, IngestOptions(size=64))
    status = {row.path: row.status for row in read_rows(workspace.videos, VideoRow)}
    assert status["SAMM/013/013_6_1"] == "missing"
    assert status["SAMM/032/032_3_9"] == "empty"
    assert status["SAMM/006/006_7_7"] == "too_short"
    assert sorted(status.values()).count("ok") == summary.num_labels_in_clips == 4
    labels = {row.sample: row for row in read_rows(workspace.labels, LabelRow)}
    assert labels.keys() == {row[1] for row in ROWS}
    assert {sample for sample, row in labels.items() if row.clip_id} == {row[1] for row in ROWS[:4]}
    assert (labels["013_1_9"].subject, labels["013_1_9"].offset) == ("samm/013", 5739)
    clips = {row.clip_id: row for row in read_rows(workspace.clips, ClipRow)}
    assert (labels["006_1_2"].onset, clips[labels["006_1_2"].clip_id].num_frames) == (5560, 15)  # an image is missing
