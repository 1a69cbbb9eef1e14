"""Which input the path of a label means: matched where there is no doubt, else the nearest is named."""

import os
import unicodedata

import pytest

from mbert.manifests.labels.inputs import Inputs
from mbert.manifests.labels.table import Label

PATHS = (
    "s01/clip1.mp4",
    "s01/clip2.mp4",
    "s01/take/",
    "s02/Clip1.MOV",
    "s02/clip 3.avi",
    "s02/clip 3.mkv",
    "café/x.mp4",
)


@pytest.fixture
def folder(tmp_path):
    """A folder `videos` with inputs, files that are none, and a frame folder."""
    root = tmp_path / "data" / "videos"
    for path in (*PATHS, "s01/notes.txt", "s01/raw.h264", "heic/1.HEIC", "heic/2.heic", "heic/a.jp2", ".hidden/a.mp4"):
        file = root / path
        (file if path.endswith("/") else file.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            file.write_bytes(path.encode())
    (root / "s01" / "take" / "img1.png").write_bytes(b"")
    return root


def place(root, written, *, paths=PATHS, is_whole=True):
    label = Label(
        line=2, path=written, dataset="d", subject=None, sample="", onset=1, apex=2, offset=3, emotion="x"
    )  # fmt: skip
    return Inputs(root, [path.rstrip("/") for path in paths], is_whole=is_whole).placed(label)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("s01/clip1.mp4", "s01/clip1.mp4"),
        ("./s01//clip1.mp4", "s01/clip1.mp4"),
        ("s01\\clip1.mp4", "s01/clip1.mp4"),
        ("s02/../s01/take/", "s01/take"),
        (unicodedata.normalize("NFD", "café/x.mp4"), "café/x.mp4"),
    ],
)
def test_what_means_the_same_matches_without_a_word(folder, written, path):
    label = place(folder, written)
    assert (label.path, label.remark, label.absent) == (path, None, None)


def test_names_on_disk_may_be_decomposed(folder):
    on_disk = unicodedata.normalize("NFD", "größe/é.mp4")
    label = place(folder, "größe/é.mp4", paths=(*PATHS, on_disk))
    assert (label.path, label.remark, label.absent) == (on_disk, None, None)
    both = (*PATHS, on_disk, "größe/é.mp4")
    assert [place(folder, written, paths=both).path for written in both[-2:]] == list(both[-2:])


@pytest.mark.parametrize(
    ("written", "path", "why"),
    [
        ("videos/s01/clip1.mp4", "s01/clip1.mp4", "it begins with the ingested folder, videos/"),
        ("data/videos/s01/take", "s01/take", "it begins with the ingested folder, data/videos/"),
        ("C:\\Users\\me\\videos\\s01\\clip2.mp4", "s01/clip2.mp4", "the ingested folder, C:/Users/me/videos/"),
        ("../videos/s01/clip2.mp4", "s01/clip2.mp4", "the ingested folder, ../videos/"),
        ("s01/clip1", "s01/clip1.mp4", "its suffix is left out"),
        ("videos/s02/Clip1", "s02/Clip1.MOV", "videos/; its suffix is left out"),
    ],
)
def test_what_can_mean_one_input_only_matches_with_a_remark(folder, written, path, why):
    label = place(folder, written)
    assert (label.path, label.absent) == (path, None)
    assert why in label.remark
    assert f"is taken as {path!r}" in label.remark


def test_an_absolute_path_and_a_link_match_with_a_remark(folder):
    label = place(folder, str(folder / "s01" / "clip1.mp4"))
    assert (label.path, label.remark) == ("s01/clip1.mp4", f"label line 2: '{folder}/s01/clip1.mp4' is taken as "
                                          "'s01/clip1.mp4': it is absolute")  # fmt: skip
    (folder / "link.mp4").symlink_to(folder / "s01" / "clip2.mp4")
    label = place(folder, "link.mp4")
    assert label.path == "s01/clip2.mp4"
    assert "the same file" in label.remark


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("s01/CLIP1.mp4", "the nearest is 's01/clip1.mp4', which differs in case"),
        ("s01/clip1.avi", "the nearest is 's01/clip1.mp4', which differs in its suffix"),
        ("s02/CLIP1.mp4", "the nearest is 's02/Clip1.MOV', which differs in case and suffix"),
        ("s02/clip 3", "the nearest is 's02/clip 3.avi' (or 's02/clip 3.mkv'), which differs in its suffix"),
        ("s01/clpi1.mp4", "the nearest is 's01/clip1.mp4', which differs in spelling"),
        ("so1/clip2.mp4", "the nearest is 's01/clip2.mp4', which differs in"),
        ("other/s01/clip1.mp4", "the nearest is 's01/clip1.mp4', which differs in what stands before it"),
        ("/elsewhere/s01/clip1.mp4", "the nearest is 's01/clip1.mp4', which differs in what stands before it"),
        ("clip2.mp4", "the nearest is 's01/clip2.mp4', which differs in its folder"),
        ("Videos/s01/clip1.mp4", "the nearest is 's01/clip1.mp4', which differs in what stands before it"),
    ],
)
def test_what_may_be_meant_is_named_and_not_taken(folder, written, told):
    label = place(folder, written)
    assert label.absent.startswith("there is no such file or folder; ")
    assert told in label.absent


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("s01/raw.h264", "it exists, but its suffix '.h264' is not read"),
        ("heic", "it exists, but no suffix of its files is read: 2 .heic, 1 .jp2"),
        (".hidden/a.mp4", "it exists, but hidden files and folders are not read"),
        ("s01/take/img1.png", "it exists, but it is in the input 's01/take': name that"),
        ("s02", "it exists, but it is a folder that holds 3 inputs: name each, as 's02/Clip1.MOV'"),
        ("nothing/like.it", "there is no such file or folder"),
        ("../../../etc/passwd", "there is no such file or folder"),
        ("/etc/passwd", "there is no such file or folder"),
    ],
)
def test_what_is_there_but_no_input_is_said(folder, written, told):
    assert place(folder, written).absent == told


def test_of_a_run_on_one_file_other_inputs_are_elsewhere_and_not_missing(folder):
    one = ("s01/clip1.mp4",)
    for written in (
        "s01/clip2.mp4",
        "s01\\clip2",
        "videos/s02/clip 3",
        "s01/take",
        unicodedata.normalize("NFD", PATHS[-1]),
    ):
        label = place(folder, written, paths=one, is_whole=False)
        assert (label.is_elsewhere, label.absent) == (True, None)
    assert place(folder, "s01/clip1", paths=one, is_whole=False).path == "s01/clip1.mp4"
    label = place(folder, "s01/clip7.mp4", paths=one, is_whole=False)
    assert not label.is_elsewhere
    assert label.absent.endswith("the nearest is 's01/clip2.mp4', which differs in spelling")  # of all that is there


def test_a_folder_whose_name_is_no_utf_8_is_named_by_what_it_means_or_by_its_escapes(tmp_path):
    path = "%D5%C5/x.mp4"  # 张 in GBK, as manifests write it
    label = place(tmp_path, "张/x.mp4", paths=(path, "b/x.mp4"))
    assert (label.path, "its name on disk is not UTF-8" in label.remark) == (path, True)
    assert place(tmp_path, path, paths=(path, "b/x.mp4")).path == path
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / os.fsdecode(b"x.\xd5")).touch()
    assert place(tmp_path, "other").absent == "it exists, but no suffix of its files is read: 1 .%d5"


def test_thousands_of_paths_that_are_not_there_take_no_time(tmp_path):
    paths = [f"s{person:03d}/clip{number}.mp4" for person in range(100) for number in range(50)]
    inputs = Inputs(tmp_path, paths, is_whole=True)
    label = place(tmp_path, "x")
    found = [inputs.placed(_named(label, path.replace("clip", "clp"))) for path in paths[::10]]
    assert {(one.path.replace("clp", "clip") in one.absent) for one in found} == {True}


def _named(label, path):
    return Label(
        line=label.line, path=path, dataset="d", subject=None, sample="", onset=1, apex=2, offset=3, emotion="x"
    )
