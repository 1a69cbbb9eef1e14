"""Every kind of input ends as correct frames or as a row with a reason: one folder with all of them, ingested once."""

import os
import subprocess

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from mbert.manifests.schema import ClipRow, FrameRow, VideoRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.shards.engine import Engine
from mbert.shards.integrity import verify_frames

NUM_FRAMES = 24
AWKWARD = ["a b.mp4", "日本語 ü.mp4", 'it\'s "quoted".mp4', "new\nline.mp4", "-rf.mp4", "50%d.mp4"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, face):
    """The folder of all inputs."""
    folder = tmp_path_factory.mktemp("bad") / "videos"
    folder.mkdir()
    portrait = np.ascontiguousarray(face[10:266, 96:352])
    steady = [np.roll(portrait, index % 3, axis=1) for index in range(NUM_FRAMES)]
    noise = list(np.random.default_rng(0).integers(0, 255, (NUM_FRAMES, 96, 128, 3), np.uint8))
    good = encode(folder / "good.mp4", steady, movflags="+faststart", g=6)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "truncated.mp4").write_bytes(good.read_bytes()[: good.stat().st_size * 6 // 10])
    damaged = bytearray(good.read_bytes())
    middle = len(damaged) * 6 // 10
    damaged[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
    (folder / "damaged.mp4").write_bytes(damaged)
    program = imageio_ffmpeg.get_ffmpeg_exe()
    sound = folder / "sound.mp4"
    subprocess.run([program, "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2", sound], check=True)
    encode(folder / "one_frame.mp4", steady[:1])
    encode(folder / "no_face.mp4", noise)
    blank = [np.full_like(portrait, 90)] * 60
    encode(folder / "face_in_the_middle.mp4", [*blank, *steady, *steady, *blank])
    encode(folder / "two_faces.mp4", [np.concatenate([frame, frame[:, ::-1]], axis=1) for frame in steady])
    large = [cv2.resize(portrait, (4320, 4320), interpolation=cv2.INTER_LINEAR)] * 3
    encode(folder / "8k.mp4", [np.pad(frame, ((0, 0), (1680, 1680), (0, 0))) for frame in large], preset="ultrafast")
    encode(folder / "tiny.mp4", [frame[:16, :16] for frame in steady])
    for name in AWKWARD:
        (folder / name).write_bytes(good.read_bytes())
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "same.mp4").write_bytes(good.read_bytes())
    (folder / "one" / "loop").symlink_to(folder)
    (folder / "circle.mp4").symlink_to(folder / "circle.mp4")
    (folder / "secret.mp4").write_bytes(good.read_bytes())
    (folder / "secret.mp4").chmod(0)
    (folder / "directory.mp4").mkdir()
    (folder / "nothing").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    gray_frames(folder, portrait)
    return folder


def gray_frames(folder, portrait):
    gray = cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY)
    for name in ("gray", "deep", "padding", "sizes", "gap"):
        (folder / name).mkdir()
    for index in range(12):
        cv2.imwrite(str(folder / "gray" / f"{index:03d}.png"), gray)
        cv2.imwrite(str(folder / "deep" / f"{index:03d}.png"), portrait[:, :, ::-1].astype(np.uint16) * 257)
        cv2.imwrite(str(folder / "padding" / f"s20_{index + 5}.bmp"), portrait[:, :, ::-1])
        cv2.imwrite(str(folder / "sizes" / f"{index}.jpg"), portrait[: 256 - 2 * (index > 8), :, ::-1])
        cv2.imwrite(str(folder / "gap" / f"{index if index < 6 else index + 4}.jpg"), portrait[:, :, ::-1])


def encode(path, frames, **options):
    height, width = frames[0].shape[:2]
    words = ["-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "30", "-i", "pipe:"]
    options = {"pix_fmt": "yuv420p", "crf": 12, **options}
    words += [word for name, value in options.items() for word in (f"-{name}", str(value))]
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, *words, f"file:{path}"], input=np.stack(frames).tobytes(), check=True)
    return path


@pytest.fixture(scope="module")
def workspace(videos, tmp_path_factory):
    """Where all of them are ingested."""
    workspace = Workspace(tmp_path_factory.mktemp("bad") / "workspace")
    run_ingest(videos, workspace, IngestOptions(), engine=Engine(workers=2))
    return workspace


@pytest.fixture(scope="module")
def rows(workspace):
    return {row.path: row for row in read_rows(workspace.videos, VideoRow)}


EXPECTED = {
    "good.mp4": ("ok", None),
    "empty.mp4": ("empty", "no bytes"),
    "text.mp4": ("unreadable", "cannot be opened as a video"),
    "truncated.mp4": ("ok", "the header says 24 frames"),
    "damaged.mp4": ("ok", "1 frames are damaged, the first is frame 12"),
    "sound.mp4": ("no_video", "no video stream"),
    "one_frame.mp4": ("too_short", "one frame"),
    "no_face.mp4": ("no_face", "no face track in 24 frames"),
    "face_in_the_middle.mp4": ("ok", None),
    "two_faces.mp4": ("ok", None),
    "8k.mp4": ("ok", None),
    "tiny.mp4": ("no_face", "no face track"),
    **dict.fromkeys(AWKWARD, ("ok", None)),
    "one/same.mp4": ("ok", None),
    "two/same.mp4": ("ok", None),
    "circle.mp4": ("unreadable", "symbolic links"),
    "directory.mp4": ("empty", "no numbered image"),
    "nothing": ("empty", "no numbered image"),
    "pipe.mp4": ("unreadable", "not a regular file"),
    "gray": ("ok", None),
    "deep": ("ok", None),
    "padding": ("ok", None),
    "sizes": ("unreadable", "9.jpg is 256x254, most images are 256x256"),
    "gap": ("ok", None),
}


@pytest.mark.parametrize("path", EXPECTED)
def test_the_row_says_what_became_of_it(path, rows):
    status, reason = EXPECTED[path]
    assert rows[path].status == status, rows[path].reason
    if reason is None:
        assert rows[path].reason is None
    else:
        assert reason in rows[path].reason


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_that_may_not_be_read_is_a_row(rows):
    assert (rows["secret.mp4"].status, "Permission denied" in rows["secret.mp4"].reason) == ("unreadable", True)


def test_nothing_is_lost_and_nothing_is_invented(videos, rows, workspace):
    assert set(rows) == {*EXPECTED, "secret.mp4"}
    tars = {tar.stem for tar in workspace.frames.glob("*.tar")}
    assert tars == {row.shard for row in rows.values() if row.status == "ok"}
    assert all(verify_frames(workspace.frames, tar) for tar in tars)
    assert [file for file in workspace.frames.iterdir() if file.name.startswith(".")] == []


def frames_of(workspace, row):
    return read_table(twin_paths(workspace.frames, row.shard)[1], FrameRow)


@pytest.mark.parametrize("path", ["good.mp4", *AWKWARD, "one/same.mp4", "two/same.mp4"])
def test_whole_files_give_every_frame(path, rows, workspace):
    assert frames_of(workspace, rows[path])["frame_index"].to_pylist() == list(range(NUM_FRAMES))


def test_a_face_in_the_middle_gives_the_middle(rows, workspace):
    index = frames_of(workspace, rows["face_in_the_middle.mp4"])["frame_index"].to_pylist()
    assert 60 <= index[0] <= 70
    assert 97 <= index[-1] <= 107
    assert index == list(range(index[0], index[-1] + 1))


def test_two_faces_give_two_tracks(rows, workspace):
    clips = [clip for clip in read_rows(workspace.clips, ClipRow) if clip.video_id == rows["two_faces.mp4"].video_id]
    assert sorted(clip.track for clip in clips) == [0, 1]
    assert {clip.num_frames for clip in clips} == {NUM_FRAMES}


def test_a_gap_in_a_frame_folder_stays_a_gap(rows, workspace):
    assert frames_of(workspace, rows["gap"])["frame_index"].to_pylist() == [*range(6), *range(10, 16)]
    assert frames_of(workspace, rows["padding"])["frame_index"].to_pylist() == list(range(5, 17))


@pytest.mark.parametrize(("faces", "expected"), [(1, 1), (2, 2), (None, 2)])
def test_as_many_faces_are_followed_as_are_asked_for(faces, expected, videos, tmp_path):
    workspace = Workspace(tmp_path)
    run_ingest(videos / "two_faces.mp4", workspace, IngestOptions(max_faces=faces))
    assert len(read_rows(workspace.clips, ClipRow)) == expected
