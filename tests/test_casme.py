import pytest
from lookalike import expression_frames, write_book, write_images

from mbert import ManifestError
from mbert.manifests.labels.table import checked
from mbert.pipeline.corpora.casme import CORPUS
from mbert.pipeline.corpora.registry import CORPORA, list_corpus
from mbert.pipeline.video.folder import FrameFolder

HEADER = ["Subject", "Filename", None, "OnsetF", "ApexF1", "ApexF2", "OffsetF", None, "AU", "Emotion"]
ROWS = [
    # subject, clip, onset, both apexes, offset, AUs, emotion, digits of image numbers
    (1, "EP01_5", 95, 99, 0, 106, "4+7", "tense", "d"),  # unpadded across 99
    (2, "EP01_5", 69, 73, 76, 80, 12, "happiness", "03d"),  # a clip name of another subject; padded
    (2, "EP03_2f", 1, "/", 6, 12, "R14，L4", "contempt", "03d"),  # the first apex is missing; a full-width comma
    (3, "EP07_1", 40, 30, None, 52, "?", "Repression ", "03d"),  # apex before onset
    (3, "EP08_1", 60, 65, None, 50, "1+2", "surprise", "03d"),  # offset before onset
    (3, "EP09_1", "about 5", 8, None, 12, "4", "disgust", "03d"),  # a frame in words
    (4, "EP02_3", 5, 8, None, 12, "4", "disgust", None),  # its folder is missing
]


@pytest.fixture(scope="session")
def casme(synthetic_videos, tmp_path_factory):
    """A CASME look-alike: raw and cropped images of six clips, one folder without a row."""
    root = tmp_path_factory.mktemp("data") / "CASME"
    raw, cropped = root / "CASME_raw_selected", root / "Cropped"
    for subject, clip, onset, _, _, offset, _, _, digits in ROWS[:-1]:
        numbers = range(1, 11) if isinstance(onset, str) or offset < onset else range(onset, offset + 1)
        names = [f"{clip}-{number:{digits}}.jpg" for number in numbers]
        frames = expression_frames(synthetic_videos, subject - 1, "disgust")
        write_images(raw / f"sub{subject:02d}" / clip, names, frames)
        write_images(cropped / f"sub{subject:02d}" / clip, [f"reg_{name}" for name in names], frames)
    write_images(raw / "sub01" / "EP19_1", [f"EP19_1-{number:03d}.jpg" for number in range(1, 9)], frames)
    sheet = [
        HEADER,
        *([s, c, None, on, a1, a2, off, None, aus, emotion] for s, c, on, a1, a2, off, aus, emotion, _ in ROWS),
        [None, "the sheet ends here"],
    ]
    write_book(root / "casme.xlsx", {"Sheet1": sheet})
    return root


def labels_of(listing):
    return {(label.subject, label.sample): checked(label) for label in listing.labels}


def test_the_layout_is_recognised_by_image_names_which_are_not_those_of_casme2(casme):
    for root in (casme, casme.parent, casme / "CASME_raw_selected"):
        assert [name for name, corpus in CORPORA.items() if corpus.recognise(root)] == ["casme"]
    listing = list_corpus(casme)
    assert listing.notes[0].startswith("taken as CASME: ")
    assert {source.path.split("/")[0] for source in listing.sources} == {"CASME_raw_selected"}
    assert {(source.dataset, source.fps) for source in listing.sources} == {("casme", 60.0)}


def test_cropped_images_on_request(casme):
    listing = list_corpus(casme, dataset="casme", distribution="cropped")
    assert {source.path.split("/")[0] for source in listing.sources} == {"Cropped"}
    assert len(listing.labels) == len(ROWS)


def test_frames_are_found_by_number_padded_or_not(casme):
    by_path = {source.path: source.location for source in list_corpus(casme).sources}
    unpadded = FrameFolder(by_path["CASME_raw_selected/sub01/EP01_5"], fps=60)
    assert [frame.index for frame in unpadded] == list(range(95, 107))
    padded = FrameFolder(by_path["CASME_raw_selected/sub02/EP01_5"], fps=60)
    assert [frame.index for frame in padded] == list(range(69, 81))


def test_images_named_by_their_number_alone_are_recognised(casme, synthetic_videos, tmp_path):
    frames = expression_frames(synthetic_videos, 0, "disgust")
    write_images(tmp_path / "sub01" / "EP01_5", ["069.jpg", "070.jpg"], frames)
    assert [name for name, corpus in CORPORA.items() if corpus.recognise(tmp_path)] == ["casme"]
    (source,) = CORPUS.read(tmp_path, casme / "casme.xlsx", "auto").sources
    assert [frame.index for frame in FrameFolder(source.location, fps=60)] == [69, 70]


def test_subjects_are_text_with_a_prefix_and_clip_names_belong_to_them(casme):
    labels = labels_of(list_corpus(casme))
    assert labels["casme/sub01", "EP01_5"].emotion == "tense"
    assert labels["casme/sub02", "EP01_5"].emotion == "happiness"
    assert labels["casme/sub02", "EP01_5"].path == "CASME_raw_selected/sub02/EP01_5"


def test_the_first_apex_counts_and_the_second_where_there_is_no_first(casme):
    labels = labels_of(list_corpus(casme))
    assert labels["casme/sub01", "EP01_5"].apex == 99
    assert labels["casme/sub02", "EP01_5"].apex == 73
    assert labels["casme/sub02", "EP03_2f"].apex == 6


def test_frames_that_contradict_each_other_and_words_are_told(casme):
    labels = labels_of(list_corpus(casme))
    assert labels["casme/sub03", "EP07_1"].apex is None
    assert "apex 30 does not lie between onset 40 and offset 52" in labels["casme/sub03", "EP07_1"].remark
    assert labels["casme/sub03", "EP08_1"].offset is None
    assert "offset 50 does not lie after onset 60" in labels["casme/sub03", "EP08_1"].remark
    words = {label.sample: label for label in list_corpus(casme).labels}["EP09_1"]
    assert words.fault == "label line 7: OnsetF is 'about 5', not a frame number"


def test_emotions_and_action_units_stay_as_annotated(casme):
    labels = labels_of(list_corpus(casme))
    assert [label.action_units for label in labels.values()] == ["4+7", "12", "R14，L4", "?", "1+2", "4", "4"]
    assert labels["casme/sub03", "EP07_1"].emotion == "Repression"


def test_a_row_without_a_folder_and_a_folder_without_a_row_are_both_there(casme):
    listing = list_corpus(casme)
    subjects = {source.path: source.subject for source in listing.sources}
    assert labels_of(listing)["casme/sub04", "EP02_3"].path not in subjects
    without_row = subjects.keys() - {label.path for label in listing.labels}
    assert {path: subjects[path] for path in without_row} == {"CASME_raw_selected/sub01/EP19_1": "casme/sub01"}


def test_the_annotation_of_casme2_is_not_taken(casme, tmp_path):
    (tmp_path / "images").symlink_to(casme / "Cropped")
    write_book(tmp_path / "CASME2-coding-20140508.xlsx", {"Sheet1": [HEADER]})
    with pytest.raises(ManifestError, match=r"annotation file of CASME is neither .* like casme.xlsx"):
        CORPUS.read(tmp_path, None, "auto")
