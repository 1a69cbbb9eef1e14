"""What all adapters share: finding folders, frames and cells, whatever the dataset."""

import os

import pytest
from lookalike import write_book

from mbert import ManifestError
from mbert.pipeline.corpora.layout import find_trees, folders_below, subfolders
from mbert.pipeline.corpora.sheet import columns_by_place
from mbert.pipeline.corpora.videos import list_videos
from mbert.pipeline.video.source import frames_source


def touch(folder, names, content=b"x"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)


def test_a_folder_of_frames_is_not_looked_into(tmp_path):
    touch(tmp_path / "a" / "frames", [f"{index}.jpg" for index in range(40)])
    touch(tmp_path / "a" / "few", ["cover.jpg"])
    (tmp_path / "a" / "few" / "inside").mkdir()
    below = {str(folder.relative_to(tmp_path)) for folder in folders_below(tmp_path)}
    assert below == {".", "a", "a/few", "a/few/inside"}


def test_nothing_is_searched_inside_of_a_tree_that_was_found(tmp_path):
    (tmp_path / "data" / "tree" / "tree").mkdir(parents=True)
    asked = []

    def is_tree(folder):
        asked.append(folder.name)
        return folder.name == "tree"

    (found,) = find_trees(tmp_path, is_tree, lambda folder: False)
    assert found.folder == tmp_path / "data" / "tree"
    assert asked == [tmp_path.name, "data", "tree"]


def test_a_link_to_itself_hides_nothing(tmp_path):
    touch(tmp_path / "clip", ["1.jpg"])
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert subfolders(tmp_path) == [tmp_path / "clip"]
    assert [source.path for source in list_videos(tmp_path).sources] == ["clip"]


def test_the_size_of_a_small_folder_is_exact_and_of_a_large_one_an_estimate_that_repeats(tmp_path):
    touch(tmp_path / "small", [f"{index}.jpg" for index in range(64)], b"12345")
    touch(tmp_path / "large", [f"{index}.jpg" for index in range(1000)], b"12345")
    assert frames_source(tmp_path, tmp_path / "small", "x").num_bytes == 64 * 5
    large = frames_source(tmp_path, tmp_path / "large", "x")
    assert large.num_bytes == 1000 * 5
    assert large == frames_source(tmp_path, tmp_path / "large", "x")


@pytest.mark.parametrize("change", ["added", "removed", "replaced", "rewritten"])
def test_a_change_of_a_frame_folder_shows_in_its_size_or_time(tmp_path, change):
    folder = tmp_path / "clip"
    touch(folder, [f"{index}.jpg" for index in range(200)], b"12345")
    for file in (*folder.iterdir(), folder):
        os.utime(file, ns=(10**18, 10**18))
    before = frames_source(tmp_path, folder, "x")
    if change == "added":
        (folder / "200.jpg").write_bytes(b"")
    elif change == "removed":
        (folder / "199.jpg").unlink()
    elif change == "replaced":  # as copying programs do it: write beside it, then rename
        (tmp_path / "new").write_bytes(b"54321")
        (tmp_path / "new").rename(folder / "1.jpg")
    else:  # all of them in place
        for file in folder.iterdir():
            file.write_bytes(b"54321")
    after = frames_source(tmp_path, folder, "x")
    assert (before.num_bytes, before.mtime_ns) != (after.num_bytes, after.mtime_ns)


def test_columns_of_a_sheet_without_a_header_go_by_their_place(tmp_path):
    path = write_book(
        tmp_path / "codes.xlsx", {"codes": [[1, "a_1", 5], [None, None, None], [2, "b"]], "rule": [["0101", "a"]]}
    )
    rows = columns_by_place(path, 0, ("subject", "video", "onset"))
    assert [(row.line, row.text("subject"), row.text("video"), row.number("onset")) for row in rows] == [
        (1, "1", "a_1", 5),
        (3, "2", "b", None),
    ]
    assert [row.text("code") for row in columns_by_place(path, 1, ("code", "name"))] == ["0101"]
    with pytest.raises(ManifestError, match=r"codes\.xlsx has 2 sheets; sheet 3 is needed"):
        columns_by_place(path, 2, ("code",))
