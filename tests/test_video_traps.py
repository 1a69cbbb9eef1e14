"""Files that have fooled decoders before, through both of ours; each is made here."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from mbert.pipeline.video.decode import VideoFile
from mbert.pipeline.video.decode_ffmpeg import FfmpegFile

STEP = 6  # grey levels from frame to frame


def step_frames(num_frames, height=64, width=96):
    """Frame i is plain grey of level 20 + 6 i: its index can be read off its pixels."""
    return [np.full((height, width, 3), 20 + STEP * i, np.uint8) for i in range(num_frames)]


def quarters(num_frames, height=64, width=96):
    """Four quarters: red and green above, blue and white below."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2, 0] = 255
    frame[: height // 2, width // 2 :, 1] = 255
    frame[height // 2 :, : width // 2, 2] = 255
    frame[height // 2 :, width // 2 :] = 255
    return [frame] * num_frames


def ffmpeg(*words):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, words)], check=True)


@pytest.fixture(params=[VideoFile, FfmpegFile])
def decode(request):
    """All frames and the info of a file, after the checks that hold for every file."""

    def decode(path):
        decoder = request.param(path)
        frames = list(decoder)
        assert [frame.index for frame in frames] == list(range(len(frames)))
        assert all(np.diff([frame.pts_seconds for frame in frames]) > 0)
        assert {frame.rgb().shape for frame in frames} <= {(decoder.info.height, decoder.info.width, 3)}
        assert all(frame.rgb().dtype == np.uint8 for frame in frames)
        return frames, decoder.info

    return decode


def levels(frames):
    """The index that the pixels of each frame tell."""
    return [round((float(frame.rgb().mean()) - 20) / STEP) for frame in frames]


def times(frames):
    return [frame.pts_seconds for frame in frames]


def test_variable_rate_with_a_long_gap(decode, tmp_path, write_video):
    graph = "select='not(mod(n,2))+gt(n,20)',setpts='PTS+gt(N,8)*4/TB'"
    path = write_video(tmp_path / "a.mp4", step_frames(30), vf=graph, fps_mode="vfr")
    frames, info = decode(path)
    kept = [i for i in range(30) if i % 2 == 0 or i > 20]
    assert levels(frames) == kept
    assert times(frames) == pytest.approx([i / 30 + (4 if n > 8 else 0) for n, i in enumerate(kept)], abs=1e-3)
    assert info.seconds == pytest.approx(29 / 30 + 4, abs=1e-3)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("turn", ["90", "180", "270", "90+hflip", "vflip"])
def test_turned_and_mirrored_files_come_upright(decode, turn, pix_fmt, tmp_path, write_video):
    shown = quarters(1)[0]
    stored = {
        "90": np.rot90(shown, -1),
        "180": np.rot90(shown, 2),
        "270": np.rot90(shown, 1),
        "90+hflip": np.rot90(shown, -1)[::-1],
        "vflip": shown[::-1],
    }[turn]
    angle, _, mirror = turn.partition("+")
    if angle == "vflip":
        flags = ["-display_vflip"]
    else:
        flags = ["-display_rotation", angle, *(["-display_hflip"] if mirror else [])]
    plain = write_video(tmp_path / "plain.mp4", [np.ascontiguousarray(stored)] * 3, pix_fmt=pix_fmt)
    ffmpeg(*flags, "-i", plain, "-c", "copy", tmp_path / "a.mp4")
    frames, info = decode(tmp_path / "a.mp4")
    assert len(frames) == 3
    assert (info.width, info.height) == (96, 64)
    assert_quarters(frames[2].rgb())


def assert_quarters(image, tolerance=6):
    height, width = image.shape[:2]
    for corner in [(1, 1), (1, 3), (3, 1), (3, 3)]:
        row, column = (corner[0] * height // 4, corner[1] * width // 4)
        expected = quarters(1, height, width)[0][row, column]
        assert np.abs(image[row, column].astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_interlaced_video_gives_whole_frames(decode, codec, tmp_path, write_video):
    path = write_video(
        tmp_path / "a.mkv", step_frames(20), fps=25, vcodec=codec, flags="+ilme+ildct", vf="setfield=tff"
    )
    frames, info = decode(path)
    assert levels(frames) == list(range(20))
    assert np.diff(times(frames)) == pytest.approx(np.full(19, 1 / 25), abs=2e-3)
    assert (info.width, info.height) == (96, 64)


ODD = {
    "h264-444": ("a.mp4", {"pix_fmt": "yuv444p"}),
    "vp9-420": ("a.webm", {"vcodec": "libvpx-vp9", "deadline": "realtime"}),
    "mjpeg": ("a.avi", {"vcodec": "mjpeg", "pix_fmt": "yuvj420p", "q:v": 2}),
}


@pytest.mark.parametrize("codec", ODD)
def test_odd_sizes_lose_no_row_and_no_column(decode, codec, tmp_path, write_video):
    name, options = ODD[codec]
    frames, info = decode(write_video(tmp_path / name, quarters(5, 241, 321), **options))
    assert (len(frames), info.width, info.height) == (5, 321, 241)
    assert_quarters(frames[4].rgb())


ALPHA = {
    "vp9": ("a.webm", {"vcodec": "libvpx-vp9", "pix_fmt": "yuva420p", "deadline": "realtime"}),
    "png": ("a.mov", {"vcodec": "png", "pix_fmt": "rgba"}),
    "qtrle": ("a.mov", {"vcodec": "qtrle", "pix_fmt": "argb"}),
}


@pytest.mark.parametrize("codec", ALPHA)
def test_transparency_is_left_out(decode, codec, tmp_path, write_video):
    name, options = ALPHA[codec]
    path = write_video(tmp_path / name, step_frames(10), vf="format=rgba,colorchannelmixer=aa=0.5", **options)
    frames, _ = decode(path)
    assert levels(frames) == list(range(10))


TEN_BITS = {
    "h264": ("a.mp4", {"pix_fmt": "yuv420p10le"}),
    "hevc": ("a.mp4", {"pix_fmt": "yuv420p10le", "vcodec": "libx265", "x265-params": "log-level=none"}),
    "vp9": ("a.webm", {"pix_fmt": "yuv420p10le", "vcodec": "libvpx-vp9", "deadline": "realtime"}),
}


@pytest.mark.parametrize("codec", TEN_BITS)
def test_ten_bits_become_eight(decode, codec, tmp_path, write_video):
    name, options = TEN_BITS[codec]
    frames, _ = decode(write_video(tmp_path / name, step_frames(12), **options))
    for index, frame in enumerate(frames):
        assert np.abs(frame.rgb().astype(int) - (20 + STEP * index)).max() <= 3
    assert len(frames) == 12


NO_TIMES = {
    "h264": ("a.h264", {"bf": 0}),
    "h264-b-frames": ("a.h264", {"bf": 3, "b_strategy": 0}),
    "avi": ("a.avi", {"vcodec": "libx264", "bf": 0}),
    "avi-b-frames": ("a.avi", {"vcodec": "libx264", "bf": 3, "b_strategy": 0}),
    "avi-mpeg4-b-frames": ("a.avi", {"vcodec": "mpeg4", "bf": 2, "q:v": 2}),
}


@pytest.mark.parametrize("kind", NO_TIMES)
def test_files_without_presentation_times_run_at_their_rate(decode, kind, tmp_path, write_video):
    name, options = NO_TIMES[kind]
    frames, info = decode(write_video(tmp_path / name, step_frames(20), fps=30, **options))
    assert levels(frames) == list(range(20))
    assert np.diff(times(frames)) == pytest.approx(np.full(19, 1 / 30), abs=1e-4)
    assert info.fps == pytest.approx(30, abs=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_first_time_that_is_not_zero_is_kept(decode, name, tmp_path, write_video):
    frames, info = decode(write_video(tmp_path / name, step_frames(10), fps=25, output_ts_offset=5))
    assert levels(frames) == list(range(10))
    start = 6.4 if name == "a.ts" else 5  # ffmpeg starts a transport stream at 1.4 s
    assert times(frames) == pytest.approx([start + i / 25 for i in range(10)], abs=2e-3)
    assert info.first_pts_seconds == times(frames)[0]


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_b_frames_come_in_the_order_of_their_times(decode, codec, tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", step_frames(30), fps=25, vcodec=codec, bf=3, b_strategy=0, g=12)
    frames, info = decode(path)
    assert levels(frames) == list(range(30))
    assert times(frames) == pytest.approx([i / 25 for i in range(30)], abs=1e-4)
    assert info.remarks == []


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le"])
def test_grey_video_has_three_equal_channels(decode, pix_fmt, tmp_path, write_video):
    frames, _ = decode(write_video(tmp_path / "a.mp4", step_frames(12), pix_fmt=pix_fmt))
    assert levels(frames) == list(range(12))
    assert all(np.ptp(frame.rgb().astype(int), axis=2).max() <= 1 for frame in frames)


COLOURS = {
    "limited": {"color_range": "tv"},
    "full": {"color_range": "pc", "vf": "scale=out_range=pc"},
    "bt709": {"colorspace": "bt709", "vf": "scale=out_color_matrix=bt709"},
    "bt709-full": {"colorspace": "bt709", "color_range": "pc", "vf": "scale=out_color_matrix=bt709:out_range=pc"},
    "mjpeg": {"vcodec": "mjpeg", "pix_fmt": "yuvj420p", "q:v": 1},
}


@pytest.mark.parametrize("kind", COLOURS)
def test_range_and_matrix_are_heeded(decode, kind, tmp_path, write_video):
    colour = (200, 120, 60)
    frames, _ = decode(write_video(tmp_path / "a.mov", [np.full((64, 96, 3), colour, np.uint8)] * 3, **COLOURS[kind]))
    assert len(frames) == 3
    assert np.abs(frames[1].rgb().astype(int) - colour).max() <= 3


def test_damage_in_the_middle_costs_only_some_frames(decode, tmp_path, write_video):
    rng = np.random.default_rng(2)
    pictures = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(60)]
    path = write_video(tmp_path / "a.mp4", pictures, g=10, bf=2)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + len(data) // 2
    data[middle : middle + len(data) // 10] = rng.bytes(len(data) // 10)
    path.write_bytes(data)
    frames, info = decode(path)
    assert 30 < len(frames) <= 60
    assert info.remarks


def test_a_truncated_file_gives_its_beginning(decode, tmp_path, write_video):
    path = write_video(tmp_path / "a.mp4", step_frames(36), movflags="+faststart", g=6, bf=2)
    path.write_bytes(path.read_bytes()[:-300])
    frames, info = decode(path)
    assert 6 < len(frames) < 36
    assert levels(frames) == list(range(len(frames)))
    assert f"the header says 36 frames, {len(frames)} decode" in info.remarks
