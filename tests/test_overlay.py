"""The overlay video, read back with PyAV: times, sound, what is drawn where."""

import math
import subprocess

import av
import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from mbert import InputError, MbertError
from mbert.pipeline.video.decode import StreamInfo, VideoFile
from mbert.pipeline.video.decode_ffmpeg import FfmpegFile
from mbert.pipeline.video.folder import FrameFolder
from mbert.pipeline.video.frame import Frame
from mbert.pipeline.video.overlay import OverlayFace, write_overlay

SIZE = (320, 240)  # width and height of most videos here


def ffmpeg(*words):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, words)], check=True)


def grey(num_frames, level=128, size=SIZE):
    return [np.full((size[1], size[0], 3), level, np.uint8)] * num_frames


def steps(num_frames, size=(64, 48)):
    """Frame i is grey of level 20 + 6 i."""
    return [np.full((size[1], size[0], 3), 20 + 6 * i, np.uint8) for i in range(num_frames)]


def face_at(face_id=0, box=(100, 60, 80, 100), *, movement=1.0, label="", heat=None, transform=None):
    """A face whose crop is its box, 224 pixels wide, unless a transform says otherwise."""
    x, y, width, height = box
    if transform is None:
        transform = np.array([[224 / width, 0, -x * 224 / width], [0, 224 / height, -y * 224 / height]])
    heat = np.zeros((14, 14), np.uint8) if heat is None else heat
    return OverlayFace(
        face_id=face_id, box=box, transform=transform, crop_size=224, heat=heat, movement=movement, label=label
    )


def overlay(source, out, faces=(), *, sound=None, decoder=None, **options):
    """Write an overlay with the same faces in every frame; gives its frames as (times, RGB images)."""
    decoder = VideoFile(source) if decoder is None else decoder
    calls = []
    count = write_overlay(decoder, out, lambda index: faces, sound=sound, on_frame=lambda: calls.append(1), **options)
    times, images = read(out)
    assert count == len(times) == len(calls)
    return times, images


def read(path):
    with av.open(str(path)) as file:
        pictures = list(file.decode(video=0))
        return [float(p.pts * p.time_base) for p in pictures], [p.to_ndarray(format="rgb24") for p in pictures]


class Frames:
    """A decoder of frames at given times."""

    def __init__(self, times, size=(64, 48)):
        self.info = StreamInfo(codec="none", width=size[0], height=size[1])
        self._times, self._size = times, size

    def __iter__(self):
        for index, seconds in enumerate(self._times):
            yield Frame(index, seconds, np.full((self._size[1], self._size[0], 3), 90, np.uint8))


CLOCKS = {
    "constant": ("a.mp4", {}, []),
    "ntsc": ("a.mp4", {"fps": 30000 / 1001}, []),
    "fast": ("a.mp4", {"fps": 200}, []),
    "variable": ("a.mp4", {"vf": "select='not(mod(n,2))+gt(n,20)',setpts='PTS+gt(N,8)*4/TB'", "fps_mode": "vfr"}, []),
    "late": ("a.mkv", {}, ["-output_ts_offset", "5.25"]),
    "transport-stream": ("a.ts", {}, []),
    "b-frames": ("a.mp4", {"bf": 3, "b_strategy": 0}, []),
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_every_frame_keeps_its_time(kind, tmp_path, write_video):
    name, options, more = CLOCKS[kind]
    source = write_video(tmp_path / "plain.mp4", steps(36), **options)
    if name != "a.mp4":
        ffmpeg("-i", source, "-c", "copy", *more, tmp_path / name)
        source = tmp_path / name
    expected = [frame.pts_seconds for frame in VideoFile(source)]
    levels = [frame.rgb().mean() for frame in VideoFile(source)]
    times, images = overlay(source, tmp_path / "out.mp4")
    assert times == pytest.approx(expected, abs=0.5e-3)
    assert [image[:48].mean() for image in images] == pytest.approx(levels, abs=3)
    assert kind not in ("late", "transport-stream") or times[0] > 1


@pytest.mark.parametrize("first", [-0.5, 12.0, 36000.0])
def test_a_player_does_not_wait_for_a_first_frame_that_is_far_from_zero(first, tmp_path):
    times, _ = overlay(None, tmp_path / "out.mp4", decoder=Frames([first, first + 0.04, first + 1]))
    assert times == pytest.approx([0, 0.04, 1], abs=1e-4)


def test_real_clips_keep_their_times(media, tmp_path):
    for name in ("facerec_short_hamilton_clip.mp4", "derived_vfr.mp4", "grid_bbaf2n.mpg"):
        source = media / "videos" / name
        expected = [frame.pts_seconds for frame in VideoFile(source)]
        write_overlay(
            VideoFile(source), tmp_path / "out.mp4", lambda index: [], sound=source, max_side=160, on_frame=int
        )
        with av.open(str(tmp_path / "out.mp4")) as file:
            video = file.streams.video[0]
            times = sorted(float(p.pts * p.time_base) for p in file.demux(video) if p.pts is not None)
        assert times == pytest.approx(expected, abs=0.5e-3)
        assert has_sound(tmp_path / "out.mp4") == has_sound(source)


def has_sound(path):
    with av.open(str(path)) as file:
        return bool(file.streams.audio)


def with_sound(path, video, *options, tone="sine=frequency=440:sample_rate=44100:duration=2", before=()):
    ffmpeg(
        "-i", video, *before, "-f", "lavfi", "-i", tone, "-map", "0:v", "-map", "1:a", "-c:v", "copy", *options, path
    )
    return path


def packets(path):
    """(codec, [(seconds, bytes)]) of the first audio stream."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        found = [(float(p.pts * p.time_base), bytes(p)) for p in file.demux(stream) if p.size]
        return stream.codec_context.codec.canonical_name, found


def heard(path):
    """Seconds at which the sound begins, at which its tone does, and at which it ends."""
    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
    start, end = (float(frame.pts * frame.time_base) for frame in (frames[0], frames[-1]))
    volume = np.concatenate([np.abs(frame.to_ndarray().reshape(-1, frame.samples)[0]) for frame in _planar(frames)])
    tone = start + np.argmax(volume > 0.1) / frames[0].sample_rate
    return start, tone, end + frames[-1].samples / frames[-1].sample_rate


def _planar(frames):
    to_float = av.AudioResampler(format="fltp")
    return [out for frame in frames for out in to_float.resample(frame)]


COPIED = {
    "aac": ("a.mp4", ["-c:a", "aac"], []),
    "aac-late": ("a.mp4", ["-c:a", "aac"], ["-itsoffset", "0.7"]),
    "aac-adts": ("a.ts", ["-c:a", "aac"], []),
    "mp3": ("a.mp4", ["-c:a", "libmp3lame"], []),
    "opus": ("a.mkv", ["-c:a", "libopus", "-ar", "48000"], []),
    "flac": ("a.mkv", ["-c:a", "flac"], []),
}


@pytest.mark.parametrize("kind", COPIED)
def test_sound_that_mp4_takes_is_copied(kind, tmp_path, write_video):
    name, options, before = COPIED[kind]
    video = write_video(tmp_path / "plain.mp4", steps(36), fps=25)
    source = with_sound(tmp_path / name, video, *options, before=before)
    times, _ = overlay(source, tmp_path / "out.mp4", sound=source)
    (codec, before), (same, after) = packets(source), packets(tmp_path / "out.mp4")
    assert codec == same
    if kind == "aac-adts":  # each packet had a header of 7 bytes, which MP4 does without
        before = [(seconds, data[7:]) for seconds, data in before]
    assert [data for _, data in before] == [data for _, data in after]
    assert [seconds for seconds, _ in after] == pytest.approx([seconds for seconds, _ in before], abs=1e-3)
    assert times == pytest.approx([frame.pts_seconds for frame in VideoFile(source)], abs=0.5e-3)
    assert heard(tmp_path / "out.mp4") == pytest.approx(heard(source), abs=0.03)


ENCODED = {
    "pcm": ("a.mov", ["-c:a", "pcm_s16le"], []),
    "pcm-late": ("a.mov", ["-c:a", "pcm_s16le"], ["-itsoffset", "0.7"]),
    "pcm-8-khz": ("a.mov", ["-c:a", "pcm_s16le", "-ar", "8000", "-ac", "1"], []),
    "pcm-96-khz-surround": ("a.mkv", ["-c:a", "pcm_s24le", "-ar", "96000", "-ac", "6"], []),
    "mp2": ("a.mkv", ["-c:a", "mp2"], []),
    "vorbis": ("a.mkv", ["-c:a", "libvorbis"], []),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_other_sound_becomes_aac_at_its_place(kind, tmp_path, write_video):
    name, options, before = ENCODED[kind]
    video = write_video(tmp_path / "plain.mp4", steps(36), fps=25)
    source = with_sound(tmp_path / name, video, *options, before=before)
    overlay(source, tmp_path / "out.mp4", sound=source)
    codec, _ = packets(tmp_path / "out.mp4")
    assert codec == "aac"
    start, tone, end = heard(source)
    found = heard(tmp_path / "out.mp4")
    assert found[0] == pytest.approx(start, abs=0.03)  # before it may be a packet in which AAC gets going
    assert found[1] == pytest.approx(tone, abs=0.005)
    assert -0.01 < found[2] - end < 0.15  # the last packet is filled up with silence: 1024 samples of 8 kHz are 128 ms


def test_sound_moves_with_the_pictures_when_all_times_are_counted_from_the_first(tmp_path, write_video):
    video = write_video(tmp_path / "plain.mp4", steps(36), fps=25)
    source = with_sound(tmp_path / "a.mkv", video, "-c:a", "aac", "-output_ts_offset", "100")
    times, _ = overlay(source, tmp_path / "out.mp4", sound=source)
    first = next(iter(VideoFile(source))).pts_seconds
    assert first > 99 and times[0] == 0
    assert heard(tmp_path / "out.mp4")[0] == pytest.approx(heard(source)[0] - first, abs=2e-3)


def test_no_sound_where_there_is_none_or_none_can_be_read(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", steps(10))
    (tmp_path / "text.mp4").write_text("no video")
    for sound in (None, source, tmp_path / "text.mp4", tmp_path / "missing.mp4", tmp_path):
        overlay(source, tmp_path / "out.mp4", sound=sound)
        assert not has_sound(tmp_path / "out.mp4")


@pytest.mark.parametrize("codec", ["aac", "mp2", "pcm_s16le"])
def test_damaged_sound_does_not_end_the_work(codec, tmp_path, write_video):
    rng = np.random.default_rng(0)
    video = write_video(tmp_path / "plain.mp4", steps(36), fps=25)
    source = with_sound(tmp_path / "a.mkv", video, "-c:a", codec)
    data = bytearray(source.read_bytes())
    for place in rng.integers(len(data) // 3, len(data), 60):
        data[place : place + 20] = rng.bytes(20)
    source.write_bytes(bytes(data[: len(data) * 4 // 5]))
    times, _ = overlay(video, tmp_path / "out.mp4", sound=source)
    assert len(times) == 36


@pytest.mark.parametrize(("size", "picture"), [((65, 49), (65, 49)), ((1600, 300), (800, 150)), ((30, 999), (24, 800))])
def test_sizes_become_even_and_no_larger_than_asked(size, picture, tmp_path, write_video):
    half = np.zeros((size[1], size[0], 3), np.uint8)
    half[size[1] // 2 :] = 200
    source = write_video(tmp_path / "a.mp4", [half] * 3, pix_fmt="yuv444p")
    _, images = overlay(source, tmp_path / "out.mp4", max_side=800)
    height, width = images[0].shape[:2]
    assert width % 2 == height % 2 == 0
    assert 0 <= width - picture[0] <= 1
    assert height > picture[1] + 50  # the strip
    assert np.abs(images[1][: picture[1] // 2 - 2].astype(int)).max() < 12
    assert np.abs(images[1][picture[1] // 2 + 2 : picture[1] - 2].astype(int) - 200).max() < 12  # to the last column


def test_boxes_lie_where_the_upright_video_has_them(tmp_path, write_video):
    plain = write_video(tmp_path / "plain.mp4", grey(3))
    ffmpeg("-display_rotation", "90", "-i", plain, "-c", "copy", tmp_path / "a.mp4")
    _, images = overlay(tmp_path / "a.mp4", tmp_path / "out.mp4", [face_at(box=(60, 200, 100, 80))])
    picture = images[1][:320]
    assert picture.shape == (320, 240, 3)
    rows, columns = np.nonzero(blue(picture))
    assert (columns.min(), columns.max()) == pytest.approx((60, 160), abs=2)
    assert rows.max() == pytest.approx(280, abs=2)
    assert 170 < rows.min() < 190  # the number stands above


def blue(image):
    """Pixels in the colour of face 0."""
    return (image[..., 2].astype(int) - image[..., 0]) > 40


@pytest.mark.parametrize("max_side", [1280, 160])
def test_heat_lies_on_its_patch_and_only_in_the_crop(max_side, tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", grey(3))
    angle = math.radians(20)
    turn = 224 / 120 * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    transform = np.hstack([turn, (np.array([112, 112]) - turn @ [150, 120])[:, None]])  # the crop's middle: (150, 120)
    heat = np.zeros((14, 14), np.uint8)
    heat[2, 9] = 255
    far_box = (-500, -500, 1, 1)
    face = face_at(box=far_box, transform=transform, heat=heat)
    _, images = overlay(source, tmp_path / "out.mp4", [face], max_side=max_side)
    zoom = min(1, max_side / 320)
    _, plain = overlay(source, tmp_path / "plain_out.mp4", [], max_side=max_side)
    height = round(240 * zoom)
    change = np.abs(images[1][:height].astype(int) - plain[1][:height]).sum(2)
    change[: round(40 * zoom), : round(40 * zoom)] = 0  # there is the number of the box
    rows, columns = np.nonzero(change > 60)
    expected = cv2.invertAffineTransform(transform) @ [9 * 16 + 7.5, 2 * 16 + 7.5, 1]
    assert (columns.mean() / zoom, rows.mean() / zoom) == pytest.approx(tuple(expected), abs=2)
    full = face_at(box=far_box, transform=transform, heat=np.full((14, 14), 255, np.uint8))
    _, images = overlay(source, tmp_path / "out.mp4", [full], max_side=max_side)
    change = np.abs(images[1][:height].astype(int) - plain[1][:height]).sum(2) > 60
    y, x = np.mgrid[:height, : round(320 * zoom)] / zoom
    crop = np.stack([x, y, np.ones_like(x)], axis=-1) @ transform.T
    inside = (np.abs(crop - 112) < 106).all(-1)
    outside = (np.abs(crop - 112) > 120).any(-1) & ((x > 40) | (y > 40))
    assert change[inside].all()
    assert not change[outside].any()


def test_a_crop_that_leaves_the_frame_or_is_no_crop_is_no_fault(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", grey(3))
    heat = np.full((14, 14), 200, np.uint8)
    faces = [
        face_at(0, (-40, -30, 100, 100), heat=heat, label="micro: brows"),
        face_at(1, (280, 200, 100, 100), heat=heat, movement=float("nan")),
        face_at(2, (1000, 1000, 50, 50), heat=heat),
        face_at(3, transform=np.zeros((2, 3)), heat=heat),
    ]
    _, images = overlay(source, tmp_path / "out.mp4", faces)
    assert len(images) == 3


def test_the_curve_shows_the_last_seconds_against_the_scale_line(tmp_path):
    strip_height, text_height = 56, 17
    for movement, expected in [(0.0, "bottom"), (2.0, "middle"), (50.0, "top")]:
        faces = [face_at(box=(-500, -500, 1, 1), movement=movement)]
        decoder = Frames([i / 10 for i in range(80)], SIZE)
        _, images = overlay(None, tmp_path / "out.mp4", faces, decoder=decoder, scale_px_per_100ms=2.0)
        strip = images[-1][-strip_height:]
        rows, columns = np.nonzero(blue(strip[text_height:]))  # below the time code
        share = np.median(rows) / (strip_height - text_height)
        assert {"bottom": share > 0.8, "middle": 0.3 < share < 0.7, "top": share < 0.2}[expected]
        assert columns.max() - columns.min() > 250  # five seconds fill the width
    rows, columns = np.nonzero(blue(images[25][-strip_height + text_height :]))
    assert columns.min() == pytest.approx(160, abs=8)  # half of them are over


def test_any_label_and_any_path_will_do(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", grey(3))
    folder = tmp_path / 'it\'s "<script>" \n 日本 %d a:b #1?'
    label = "micro: <script>\n\"'& 日本語 " + "x" * 300
    times, _ = overlay(source, folder / "overlay.mp4", [face_at(label=label)], sound=source)
    assert len(times) == 3
    assert [path.name for path in folder.iterdir()] == ["overlay.mp4"]


def test_the_other_decoders_serve_as_well(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", steps(5))
    for number in (3, 4, 9):
        (tmp_path / "frames").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "frames" / f"{number}.png"), np.full((48, 64, 3), 10 * number, np.uint8))
    asked = []
    write_overlay(
        FrameFolder(tmp_path / "frames", fps=200),
        tmp_path / "out.mp4",
        lambda index: asked.append(index) or [],
        sound=None,
        on_frame=int,
    )
    assert asked == [3, 4, 9]
    assert read(tmp_path / "out.mp4")[0] == pytest.approx([3 / 200, 4 / 200, 9 / 200], abs=1e-4)
    times, _ = overlay(source, tmp_path / "out.mp4", decoder=FfmpegFile(source))
    assert times == pytest.approx([i / 30 for i in range(5)], abs=0.5e-3)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_breaks_off_leaves_nothing_and_spares_the_old_file(error, tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", grey(20))
    out = tmp_path / "out" / "overlay.mp4"
    out.parent.mkdir()
    out.write_text("old")

    def faces_at(index):
        if index == 12:
            raise error
        return [face_at()]

    with pytest.raises(error):
        write_overlay(VideoFile(source), out, faces_at, sound=source, on_frame=int)
    assert [path.name for path in out.parent.iterdir()] == ["overlay.mp4"]
    assert out.read_text() == "old"


def test_what_cannot_be_written_says_so(tmp_path, write_video, monkeypatch):
    with pytest.raises(InputError, match="no frame decodes"):
        write_overlay(Frames([]), tmp_path / "out.mp4", lambda index: [], sound=None, on_frame=int)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(MbertError, match=r"no H\.264 encoder here: `pip install"):
        write_overlay(Frames([0, 1]), tmp_path / "out.mp4", lambda index: [], sound=None, on_frame=int)
    assert list(tmp_path.iterdir()) == []


def test_a_player_can_begin_before_it_has_all(tmp_path, write_video):
    source = write_video(tmp_path / "a.mp4", grey(3))
    overlay(source, tmp_path / "out.mp4")
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "out.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.duration * stream.time_base == pytest.approx(3 / 30)  # the last frame lasts as long as the others
