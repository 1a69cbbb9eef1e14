import subprocess
import sys
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from mbert import ConfigError, InputError
from mbert.pipeline.video import decode_ffmpeg
from mbert.pipeline.video.decode import VideoFile
from mbert.pipeline.video.decode_ffmpeg import FfmpegFile, check_ffmpeg_options


def textured_frames(num_frames, height=96, width=128):
    """A smooth coloured pattern that moves: every colour, and edges for the chroma planes."""
    rng = np.random.default_rng(1)
    pattern = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return [np.roll(pattern, 3 * i, axis=1) for i in range(num_frames)]


CODECS = {
    "h264": ("a.mp4", {"bf": 3}),
    "h264-bt709": ("a.mp4", {"colorspace": "bt709", "vf": "scale=out_color_matrix=bt709"}),
    "h264-full-range": ("a.mp4", {"color_range": "pc", "vf": "scale=out_range=pc"}),
    "h264-mpegts": ("a.ts", {"bf": 3}),
    "hevc": ("a.mp4", {"vcodec": "libx265", "x265-params": "log-level=none"}),
    "vp9": ("a.webm", {"vcodec": "libvpx-vp9", "deadline": "realtime"}),
    "mjpeg": ("a.avi", {"vcodec": "mjpeg", "pix_fmt": "yuvj422p", "q:v": 3}),
}


@pytest.mark.parametrize("codec", CODECS)
def test_both_decoders_give_the_same_frames(codec, tmp_path, write_video):
    name, options = CODECS[codec]
    path = write_video(tmp_path / name, textured_frames(12), fps=29.97, **options)
    expected, found = VideoFile(path), FfmpegFile(path)
    pairs = list(zip(expected, found, strict=True))
    assert len(pairs) == 12
    for one, other in pairs:
        assert (one.index, one.pts_seconds) == (other.index, other.pts_seconds)
        assert cv2.norm(one.rgb(), other.rgb(), cv2.NORM_INF) <= 2
    assert found.info == expected.info


@pytest.mark.parametrize("turn", [0, 90, 270])
def test_chroma_lies_where_the_codec_puts_it(turn, tmp_path, write_video):
    """Ten bits are interpolated: chroma half a sample off would be seen."""
    stored = write_video(tmp_path / "a.mp4", textured_frames(4), pix_fmt="yuv420p10le")
    path = tmp_path / "turned.mp4"
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run(
        [program, "-v", "error", "-display_rotation", str(turn), "-i", stored, "-c", "copy", path], check=True
    )
    for one, other in zip(VideoFile(path), FfmpegFile(path), strict=True):
        # An ffmpeg older than 8 rounds otherwise, but not by as much.
        assert np.abs(one.rgb().astype(float) - other.rgb()).mean() < 0.5


def test_real_clips_are_the_same_in_both(media):
    for name in (
        "derived_rot_meta.mp4",
        "media3_sample_rotate_and_reflect.mp4",
        "media3_sample.flv",
        "derived_vfr.mp4",
    ):
        expected, found = VideoFile(media / "videos" / name), FfmpegFile(media / "videos" / name)
        for one, other in zip(expected, found, strict=True):
            assert one.pts_seconds == other.pts_seconds
            assert cv2.norm(one.rgb(), other.rgb(), cv2.NORM_INF) <= 2
        assert found.info == expected.info


@pytest.mark.parametrize("content", [b"", b"this is text, not video\n" * 50])
def test_files_that_are_no_video_are_refused_alike(content, tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    assert refusal(FfmpegFile, path) == refusal(VideoFile, path)


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "x.mp4"
    subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2", path], check=True
    )
    assert refusal(FfmpegFile, path) == ("no_video", "holds no video stream") == refusal(VideoFile, path)


def refusal(kind, path):
    with pytest.raises(InputError) as caught:
        kind(path)
    return caught.value.status, caught.value.reason


@pytest.mark.parametrize("name", ["-y.mp4", "http:b.mp4", "50%d %03d.mp4", "a|b;$(c) 'é'.mp4"])
def test_any_file_name_is_only_a_name(name, tmp_path, write_video, monkeypatch):
    write_video(tmp_path / "plain.mp4", textured_frames(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(list(FfmpegFile(Path(name)))) == 3


def test_the_program_is_gone_when_the_reader_leaves(tmp_path, write_video, monkeypatch):
    path = write_video(tmp_path / "a.mp4", textured_frames(60, 480, 640))
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    decoder = FfmpegFile(path)
    decode_ffmpeg._each_picture.cache_clear()
    started.clear()
    frames = iter(decoder)
    next(frames)
    (process,) = started
    assert process.poll() is None  # 55 MB do not fit into a pipe: it waits for its reader
    frames.close()
    assert process.returncode is not None
    assert process.stdout.closed


def test_filters_see_upright_frames_and_may_change_size_and_rate(tmp_path, write_video):
    frames = [np.zeros((64, 96, 3), np.uint8) for _ in range(30)]
    for frame in frames:
        frame[:, :48] = 255
    stored = write_video(tmp_path / "a.mp4", frames)
    path = tmp_path / "turned.mp4"
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, "-v", "error", "-display_rotation", "-90", "-i", stored, "-c", "copy", path], check=True)
    decoder = FfmpegFile(path, filters="crop=64:40:0:0,fps=10")
    found = list(decoder)
    assert np.allclose([frame.pts_seconds for frame in found], np.arange(10) / 10)
    assert (decoder.info.width, decoder.info.height, decoder.info.num_frames) == (64, 40, 10)
    assert decoder.info.remarks == []
    assert all(frame.rgb().min() > 240 for frame in found)  # turned clockwise, the white half is on top


def test_semi_planar_frames_of_a_graphics_card_are_converted_alike(tmp_path, write_video):
    """What `hwaccel` puts first gives the pixels of software decoding; the card is played by `format=nv12`."""
    path = write_video(tmp_path / "a.mp4", textured_frames(3))
    for one, other in zip(
        VideoFile(path), FfmpegFile(path, filters=f"format=nv12,{decode_ffmpeg._PLANAR}"), strict=True
    ):
        assert cv2.norm(one.rgb(), other.rgb(), cv2.NORM_INF) <= 2


def test_options_are_checked_before_the_work():
    check_ffmpeg_options()
    check_ffmpeg_options(filters="hqdn3d,scale=640:-2")
    with pytest.raises(ConfigError, match="hwaccel is 'warp'; allowed here are "):
        check_ffmpeg_options(hwaccel="warp")
    with pytest.raises(ConfigError, match=r"ffmpeg refuses the filters 'scale=x:y:z,nonsense': .*nonsense"):
        check_ffmpeg_options(filters="scale=x:y:z,nonsense")


def test_a_device_that_does_not_open_is_said(monkeypatch):
    monkeypatch.setattr(decode_ffmpeg, "_refusal", lambda program, *, device: f"no {device} here")
    listed = subprocess.CompletedProcess([], 0, stdout="Hardware acceleration methods:\ncuda\nvaapi\n\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: listed)
    with pytest.raises(ConfigError, match="hwaccel 'cuda' does not work on this machine: no cuda here"):
        check_ffmpeg_options(hwaccel="cuda")
    with pytest.raises(ConfigError, match=r"allowed here are cuda, vaapi$"):
        check_ffmpeg_options(hwaccel="drm")


def test_the_program_of_the_system_comes_first_and_none_is_an_error(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert decode_ffmpeg.ffmpeg_program() == "/bin/ffmpeg"

    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(ConfigError, match="pip install imageio-ffmpeg"):
        decode_ffmpeg.ffmpeg_program()


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for ffmpeg is a shell script")
@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("4.4.2-0ubuntu0", {"vsync": "passthrough"}),
        ("5.1.6", {"fps_mode": "passthrough"}),
        ("n9.0.2-17-g2a571b6068", {"fps_mode": "passthrough"}),
        ("N-117000-g0123456789", {"fps_mode": "passthrough"}),
    ],
)
def test_options_fit_the_version(version, options, tmp_path):
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\necho 'ffmpeg version {version} Copyright (c)'\n")
    program.chmod(0o755)
    assert decode_ffmpeg._each_picture(str(program)) == options
