"""Odd folders of images through `mbert ingest` and `mbert shard --pairs`: crops, times and pairs are right, or said."""

import shutil

import cv2
import numpy as np
import pyarrow as pa
import pytest
import tifffile

from mbert.manifests.schema import ClipRow, FrameRow, PairRow, VideoRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import Workspace, twin_paths

NUM_FRAMES = 16


def names_of(form, **fields):
    """As many names, 40 ms apart."""
    return [
        form.format(i=index, ms=(300 + 40 * index) % 1000, s=(300 + 40 * index) // 1000, **fields)
        for index in range(NUM_FRAMES)
    ]


NAMING = {  # folder: (names, where the times come from, frame indices begin with, milliseconds between frames)
    "clock": (names_of("cam2_23-59-{s:02d}.{ms:03d}.jpg"), "names", 0, 40),
    "epoch": ([f"{1700000000000 + 25 * index}.jpg" for index in range(NUM_FRAMES)], "names", 0, 25),
    "nanoseconds": ([f"{17 * 10**17 + 20_000_001 * index}.jpg" for index in range(NUM_FRAMES)], "names", 0, 20),
    "iso": (names_of("2023-11-30T08_15_{s:02d}.{ms:03d}000.jpg"), "names", 0, 40),
    "no_rate": ([f"20231130081500{10000 + 7 * i:06d}.jpg" for i in range(NUM_FRAMES)], "assumed", 0, 1000 / 30),
    "size_behind": ([f"img_{i + 95}_512.jpg" for i in range(NUM_FRAMES)], "assumed", 95, 1000 / 30),
    "huge": ([f"{31 * 10**18 + i + 7}.jpg" for i in range(NUM_FRAMES)], "assumed", 7, 1000 / 30),
    "far_apart": ([f"{i if i < 12 else i + 900_000_000}.jpg" for i in range(NUM_FRAMES)], "assumed", 0, None),
}
REFUSED = {
    "two_cameras": [f"cam{camera}_{index}.jpg" for camera in "LR" for index in range(8)],
    "twice": ["1.jpg", "01.jpg", *(f"{index}.jpg" for index in range(2, 12))],
    "party": ["beach.jpg", "dinner 2.jpg", "us.jpg"],
}


@pytest.fixture(scope="module")
def steady(face):
    """Frames of a face, 256 x 256."""
    portrait = np.ascontiguousarray(face[10:266, 96:352])
    return [np.roll(portrait, index % 3, axis=1) for index in range(NUM_FRAMES)]


@pytest.fixture(scope="module")
def ingested(steady, run_mbert, tmp_path_factory):
    """Rows, workspace and what was printed."""
    folder = tmp_path_factory.mktemp("odd")
    videos = folder / "videos"
    for name, names in {**{name: kind[0] for name, kind in NAMING.items()}, **REFUSED}.items():
        (videos / name).mkdir(parents=True)
        for image, file in zip(steady, names, strict=False):
            cv2.imwrite(str(videos / name / file), image[:, :, ::-1])
    for name in ("plain", "twelve", "float"):
        (videos / name).mkdir()
        for index, image in enumerate(steady):
            gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            deep = {"plain": gray, "twelve": gray.astype(np.uint16) * 16 + 9, "float": gray.astype(np.float32) / 255}[
                name
            ]
            tifffile.imwrite(videos / name / f"{index}.tif", deep)
    done = [run_mbert(*words, cwd=folder) for words in (("ingest", "videos", "--workers", "2"), ("shard", "--pairs"))]
    assert [each.returncode for each in done] == [0, 0], done
    workspace = Workspace(folder / "workspace")
    return {row.path: row for row in read_rows(workspace.videos, VideoRow)}, workspace, done[0].stdout


@pytest.mark.parametrize("name", NAMING)
def test_frames_have_the_index_and_time_that_their_names_tell(name, ingested):
    rows, workspace, _ = ingested
    _, times_from, first, apart = NAMING[name]
    row = rows[name]
    assert (row.status, row.times_from, row.first_frame, row.num_frames) == ("ok", times_from, first, NUM_FRAMES), row
    frames = read_table(twin_paths(workspace.frames, row.shard)[1], FrameRow)
    index, seconds = (np.array(frames[column]) for column in ("frame_index", "pts_seconds"))
    if apart is not None:
        assert index.tolist() == list(range(first, first + NUM_FRAMES))
        assert np.allclose(np.diff(seconds), apart / 1000, atol=1e-5)
    assert (row.reason is None) == (name == "size_behind") or name == "far_apart"


def test_no_pair_is_of_a_frame_with_itself_or_of_other_distances(ingested):
    rows, workspace, _ = ingested
    pairs = pa.concat_tables(read_table(twin, PairRow) for twin in sorted(workspace.pairs.glob("[0-9]*.parquet")))
    assert (np.array(pairs["t1"]) > np.array(pairs["t0"])).all()
    deltas = np.array(pairs["delta_seconds"])
    assert deltas.min() >= 0.1665
    assert deltas.max() <= 0.3675
    paired = set(pairs["clip_id"].to_pylist())
    of_video = {clip.video_id for clip in read_rows(workspace.clips, ClipRow) if clip.clip_id in paired}
    assert of_video == {row.video_id for row in rows.values() if row.status == "ok"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_recording_is_a_row_with_a_reason(name, ingested):
    rows, _, told = ingested
    assert (rows[name].status, rows[name].num_clips) == ("unreadable" if name == "twice" else "no_video", 0)
    assert f"{name}: {rows[name].reason}" in told


def test_twelve_bits_look_as_eight_and_floats_are_refused(ingested):
    rows, workspace, told = ingested
    plain, twelve = (
        read_table(twin_paths(workspace.frames, rows[name].shard)[1], FrameRow) for name in ("plain", "twelve")
    )
    assert np.allclose(plain["brightness"], twelve["brightness"], atol=1)
    assert (rows["plain"].bit_depth, rows["twelve"].bit_depth) == (8, 12)
    assert "twelve: samples padded to 16 bits reach" in told
    assert rows["float"].status == "unreadable"
    assert rows["float"].reason.startswith("0.tif has samples of type float32, which state no range")


def test_the_small_cases_end_right(cases, run_mbert, tmp_path):
    videos = tmp_path / "videos"
    for name in ("bits12", "names", "heic", "thumbs", "anim", "symlink"):
        shutil.copytree(cases / name, videos / name)
    (videos / "symlink" / "alias").unlink()
    (videos / "symlink" / "alias").symlink_to("real")
    done = run_mbert("ingest", "videos", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row.path: row for row in read_rows(Workspace(tmp_path / "workspace").videos, VideoRow)}
    heic = rows.pop("heic/s1")
    assert heic.status == "unreadable"
    assert "IMG_1.HEIC" in heic.reason  # three headers without an image
    assert {row.status for row in rows.values()} == {"ok"}
    folders = {path: row for path, row in rows.items() if row.kind == "frames"}
    assert {path: (row.num_frames, row.bit_depth, row.times_from) for path, row in folders.items()} == {
        "bits12/f": (8, 12, "assumed"),
        "names/nanoseconds": (12, 8, "names"),
        "names/strftime_f": (12, 8, "assumed"),
        "names/suffix224": (12, 8, "assumed"),
        "names/timestamps": (24, 8, "names"),
    }
    assert {path: row.num_frames for path, row in rows.items() if row.kind == "video"} == {
        "anim/clip1.webp": 8,
        "heic/ok.mp4": 30,
        "heic/raw.h264": 30,
        "symlink/real/x.mp4": 30,
        "thumbs/a.mp4": 30,
    }
    assert "thumbs: 4 images (clip1.jpg, ...) are no clip (next to videos)" in done.stderr
    assert "symlink/alias is another name of symlink/real: one input" in done.stderr
    assert "--fps names it" in rows["names/strftime_f"].reason
