import pytest
from lookalike import expression_frames, write_book, write_images

from mbert import ManifestError
from mbert.manifests.labels.table import checked
from mbert.manifests.schema import LabelRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.casme_sq import CORPUS
from mbert.pipeline.corpora.registry import list_corpus
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.folder import FrameFolder

ROWS = [
    # number of the subject, video and number within it, onset, apex, offset, AUs, emotion, type, self-report
    (1, "disgust1_1", 995, 1000, 1008, "4+9", "negative", "micro-expression", "disgust"),
    (1, "disgust1_2", 1012, 1020, 0, 4, "negative", "macro-expression", "disgust"),  # offset 0: the apex
    (2, "anger1_1", 5, 10, 0, "4", "others", "micro-expression", "anger"),  # offset 0 here too
    (3, "happy1_1", 1, 6, 12, 12, "positive", "micro-expression", "happiness"),  # folder with another's number
    (3, "happy2_1", 1, 6, 12, 12, "positive", "macro-expression", "happiness"),  # no such folder
    (9, "disgust1_1", 1, 6, 12, 4, "negative", "micro-expression", "disgust"),  # a subject without a folder
    (2, "fear1_1", 1, 6, 12, 4, "negative", "micro-expression", "fear"),  # a video without a code
]
PEOPLE = [(15, "s15", 1), (1, "s1", 2), (19, "s19", 3)]
CODES = [("0101", "disgust1"), (401, "anger1"), ("0502", "happy1"), ("0503", "happy2")]
VIDEOS = [
    ("s15/15_0101disgustingteeth", range(990, 1030), 0, "disgust"),
    ("s1/01_0401crash", range(1, 21), 1, "disgust"),
    ("s19/23_0502funnyclip", range(1, 14), 2, "happiness"),
    ("s19/19_0507climbing", range(1, 9), 2, "surprise"),  # without a row
]


@pytest.fixture(scope="session")
def casme_sq(synthetic_videos, tmp_path_factory):
    """A CAS(ME)^2 look-alike: raw, cropped and selected images."""
    root = tmp_path_factory.mktemp("data") / "CASME_sq"
    for folder, indices, subject, emotion in VIDEOS:
        frames = expression_frames(synthetic_videos, subject, emotion)
        for tree in ("rawpic", "cropped", "selectedpic"):
            write_images(root / tree / folder, [f"img{index:03d}.jpg" for index in indices], frames)
    write_book(
        root / "CAS(ME)^2code_final.xlsx",
        {"CASFEcode_final": ROWS, "naming rule1": PEOPLE, "naming rule2": CODES},
    )
    write_book(root / "CAS(ME)^2blink-code.xlsx", {"Sheet1": [(1, "disgust1_1", 1, 2, 3)]})
    return root


def labels_of(listing):
    return {(label.subject, label.sample): checked(label) for label in listing.labels}


def test_raw_images_are_recognised_and_selected_ones_are_no_distribution(casme_sq):
    listing = list_corpus(casme_sq)
    assert listing.notes[0].startswith("taken as CAS(ME)^2: ")
    assert listing.notes[2] == (f"CAS(ME)^2: not read, because samples must not count twice: {casme_sq / 'cropped'}")
    assert {source.path for source in listing.sources} == {f"rawpic/{folder}" for folder, *_ in VIDEOS}
    assert {(source.dataset, source.fps) for source in listing.sources} == {("casme_sq", 30.0)}
    assert CORPUS.recognise(casme_sq / "selectedpic") is None


def test_cropped_images_on_request(casme_sq):
    listing = list_corpus(casme_sq, distribution="cropped")
    assert {source.path.split("/")[0] for source in listing.sources} == {"cropped"}


def test_rows_without_a_header_lead_to_folders_by_the_other_two_sheets(casme_sq):
    labels = labels_of(list_corpus(casme_sq))
    first = labels["casme_sq/s15", "disgust1_1_995"]
    assert first.path == "rawpic/s15/15_0101disgustingteeth"
    assert (first.onset, first.apex, first.offset) == (995, 1000, 1008)
    assert (first.emotion, first.action_units, first.expression, first.line) == ("negative", "4+9", "micro", 1)


def test_codes_that_lost_their_zero_and_subjects_of_one_digit_are_found(casme_sq):
    listing = list_corpus(casme_sq)
    assert labels_of(listing)["casme_sq/s01", "anger1_1_5"].path == "rawpic/s1/01_0401crash"
    assert "casme_sq/s01" in {source.subject for source in listing.sources}


def test_a_video_in_the_folder_of_a_subject_is_of_the_subject_whatever_number_it_has(casme_sq):
    listing = list_corpus(casme_sq)
    assert labels_of(listing)["casme_sq/s19", "happy1_1_1"].path == "rawpic/s19/23_0502funnyclip"
    (source,) = [source for source in listing.sources if source.path.endswith("funnyclip")]
    assert source.subject == "casme_sq/s19"


def test_an_offset_of_zero_is_the_apex(casme_sq):
    labels = labels_of(list_corpus(casme_sq))
    assert (labels["casme_sq/s01", "anger1_1_5"].apex, labels["casme_sq/s01", "anger1_1_5"].offset) == (10, 10)
    assert labels["casme_sq/s15", "disgust1_2_1012"].offset == 1020


def test_macro_expressions_are_told_apart(casme_sq):
    expressions = {label.sample: label.expression for label in list_corpus(casme_sq).labels}
    assert {sample for sample, expression in expressions.items() if expression == "macro"} == {
        "disgust1_2_1012",
        "happy2_1_1",
    }


def test_rows_without_folder_subject_or_code_are_there_and_say_so(casme_sq):
    listing = list_corpus(casme_sq)
    labels = labels_of(listing)
    assert labels["casme_sq/s19", "happy2_1_1"].path == "rawpic/s19/19_0503"
    assert labels[None, "disgust1_1_1"].fault == "label line 6: the second sheet has no folder for the subject '9'"
    assert (
        labels["casme_sq/s01", "fear1_1_1"].fault == "label line 7: the third sheet has no code for the video 'fear1_1'"
    )
    assert "rawpic/s19/19_0507climbing" in {source.path for source in listing.sources}


def test_frames_go_by_number_where_three_digits_become_four(casme_sq):
    (source,) = [source for source in list_corpus(casme_sq).sources if "0101" in source.path]
    assert [frame.index for frame in FrameFolder(source.location, fps=30)] == list(range(990, 1030))


def test_the_list_of_blinks_is_no_annotation(casme_sq, tmp_path):
    (tmp_path / "rawpic").symlink_to(casme_sq / "rawpic")
    (tmp_path / "CAS(ME)^2blink-code.xlsx").symlink_to(casme_sq / "CAS(ME)^2blink-code.xlsx")
    with pytest.raises(ManifestError, match=r"annotation file of CAS\(ME\)\^2 is neither"):
        CORPUS.read(tmp_path, None, "auto")


def test_ingest_joins_micro_expressions_and_tells_macro_expressions(casme_sq, tmp_path):
    workspace = Workspace(tmp_path)
    run_ingest(casme_sq, workspace, IngestOptions(size=96))
    statuses = {row.path: row.status for row in read_rows(workspace.videos, VideoRow)}
    assert {path for path, status in statuses.items() if status == "ok"} == {
        f"rawpic/{folder}" for folder, *_ in VIDEOS
    }
    labels = {label.sample: label for label in read_rows(workspace.labels, LabelRow)}
    micro = {name for name, label in labels.items() if label.expression == "micro" and label.clip_id}
    assert micro == {"disgust1_1_995", "anger1_1_5", "happy1_1_1"}
    assert labels["anger1_1_5"].offset == 10
    assert labels["disgust1_2_1012"].expression == "macro"
    assert labels["happy2_1_1"].remark.endswith("there is no such file or folder")
