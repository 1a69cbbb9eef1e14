"""Random videos, made here by ffmpeg, through both decoders: index, time, geometry and colour must come out right.

Each picture has its number burnt in as bits, a disk, and patches of known colours. What a video is made of comes from
the seed alone: a failure names it.
"""

import dataclasses
import random
import subprocess
from fractions import Fraction

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from mbert.pipeline.video.decode import VideoFile
from mbert.pipeline.video.decode_ffmpeg import FfmpegFile

BITS = 5
COLOURS = [(200, 120, 60), (60, 150, 190), (128, 128, 128), (170, 80, 150), (90, 160, 80), (225, 205, 180)]
FINE = 4  # pictures are drawn with so many pixels for each
X264 = {"c:v": "libx264", "preset": "ultrafast", "crf": 3, "x264-params": "aq-mode=0"}
X265 = {"c:v": "libx265", "preset": "ultrafast", "crf": 3}
LIMITED, TAGGED = ("tv",), ("bt709", "smpte170m", "bt2020nc", None)
EIGHT, MORE = ("yuv420p", "yuv422p", "yuv444p"), ("yuv420p10le", "yuv422p10le", "yuv444p10le")


@dataclasses.dataclass(frozen=True)
class Codec:
    """What ffmpeg is asked for, and what the codec in its container can carry."""

    suffix: str
    options: dict
    formats: tuple
    ranges: tuple = LIMITED
    matrices: tuple = (None,)
    has_aspect: bool = True
    is_turned: bool = False
    num_b_frames: int = 0
    has_offset: bool = True
    may_be_cut: bool = False


CODECS = [
    Codec("mp4", X264, (*EIGHT, *MORE), ("tv", "pc"), TAGGED, is_turned=True, num_b_frames=3, may_be_cut=True),
    Codec("mov", X264, (*EIGHT, *MORE), ("tv", "pc"), TAGGED, is_turned=True, num_b_frames=3, may_be_cut=True),
    Codec("mkv", X264, (*EIGHT, *MORE), ("tv", "pc"), TAGGED, is_turned=True, num_b_frames=3),
    Codec("ts", X264, (*EIGHT, *MORE), ("tv", "pc"), TAGGED, num_b_frames=3),
    Codec("mp4", X265, (*EIGHT, *MORE, "yuv420p12le"), ("tv", "pc"), TAGGED, is_turned=True, num_b_frames=3),
    Codec("mkv", {"c:v": "ffv1"}, (*EIGHT, *MORE, "yuv422p12le"), ("tv", "pc"), TAGGED, is_turned=True),
    Codec(
        "webm",
        {"c:v": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "crf": 4, "b:v": 0},
        (*EIGHT, *MORE),
        ("tv", "pc"),
        TAGGED,
    ),
    Codec(
        "avi",
        {"c:v": "mjpeg", "q:v": 1},
        ("yuvj420p", "yuvj422p", "yuvj444p"),
        ("pc",),
        has_aspect=False,
        has_offset=False,
    ),
    Codec("mov", {"c:v": "prores_ks", "profile:v": 3}, ("yuv422p10le",), LIMITED, TAGGED, is_turned=True),
    Codec("ts", {"c:v": "mpeg2video", "q:v": 1}, ("yuv420p", "yuv422p"), LIMITED, TAGGED, num_b_frames=2),
    Codec("avi", {"c:v": "mpeg4", "q:v": 1}, ("yuv420p",), has_aspect=False, num_b_frames=2, has_offset=False),
    Codec("mov", {"c:v": "png"}, ("rgb24",), ("pc",), is_turned=True),
]
ASPECTS = [Fraction(1), Fraction(1), Fraction(16, 11), Fraction(8, 9), Fraction(4, 3), Fraction(2), Fraction(1, 2)]
RATES = ["5", "10", "24000/1001", "25", "30000/1001", "50", "120", "240"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a random video is made from."""

    codec: Codec
    format: str
    range: str
    matrix: str | None
    aspect: Fraction
    turn: int
    is_mirrored: bool
    rate: Fraction
    num_b_frames: int
    offset: float
    is_cut: bool
    stored: tuple[int, int]
    num_frames: int

    @classmethod
    def of(cls, seed):
        rng = random.Random(seed)
        codec = CODECS[seed % len(CODECS)]
        rate, aspect = Fraction(rng.choice(RATES)), rng.choice(ASPECTS) if codec.has_aspect else Fraction(1)
        stored = rng.randrange(96, 162, 2), rng.randrange(96, 130, 2)
        if codec.options["c:v"] == "mpeg2video":  # knows few rates, and few aspects of whole pictures
            rate = min(max(rate, Fraction(24000, 1001)), Fraction(50))
            aspect = rng.choice([Fraction(stored[0], stored[1]), Fraction(4, 3), Fraction(16, 9)])
            aspect *= Fraction(stored[1], stored[0])
        return cls(
            codec=codec,
            format=rng.choice(codec.formats),
            range=rng.choice(codec.ranges),
            matrix=rng.choice(codec.matrices),
            aspect=aspect,
            turn=rng.choice([0, 90, 180, 270]) if codec.is_turned else 0,
            is_mirrored=codec.is_turned and rng.random() < 0.3,
            rate=rate,
            num_b_frames=rng.randint(0, codec.num_b_frames),
            offset=rng.choice([0, 0, 1.5, 7]) if codec.has_offset else 0,
            is_cut=codec.may_be_cut and rng.random() < 0.4,
            stored=stored,
            num_frames=rng.randint(6, 10),
        )

    @property
    def shown(self):
        """Width and height as a player shows it."""
        width, height = self.stored
        if self.aspect > 1:
            width = round(width * self.aspect)
        else:
            height = round(height / self.aspect)
        return (height, width) if self.turn in (90, 270) else (width, height)


def draw(number, size):
    """The upright picture, in fine pixels."""
    width, height = (FINE * side for side in size)
    image = np.full((height, width, 3), 30, np.uint8)
    for place, colour in enumerate(COLOURS):
        image[height * 2 // 3 :, width * place // 6 : width * (place + 1) // 6] = colour
    for bit in range(BITS):
        if number >> bit & 1:
            image[: height // 6, width * bit // BITS : width * (bit + 1) // BITS] = 220
    centre, radius = disk(size)
    return cv2.circle(image, [round(FINE * side) for side in centre], round(FINE * radius), (220, 220, 220), -1)


def disk(size):
    """Centre and radius of the disk, in pixels as shown."""
    width, height = size
    return (width / 2, height * 5 / 12), min(width / 2, height / 4) * 0.9


def stored_picture(recipe, number):
    shown = draw(number, recipe.shown)
    if recipe.is_mirrored:
        shown = shown[:, ::-1]
    stored = np.ascontiguousarray(np.rot90(shown, -recipe.turn // 90))
    return cv2.resize(stored, recipe.stored, interpolation=cv2.INTER_AREA)


def ffmpeg(*words, pictures=None):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, words)]
    subprocess.run(command, input=pictures, check=True)


def encode(recipe, path):
    """Write the video in one go, and in a second one what only a remuxer can write."""
    codec = recipe.codec
    width, height = recipe.stored
    pictures = b"".join(stored_picture(recipe, number).tobytes() for number in range(1, recipe.num_frames + 1))
    matrix = {"bt709": "bt709", "bt2020nc": "bt2020"}.get(recipe.matrix, "smpte170m")
    scale = f"scale=out_color_matrix={matrix}:out_range={recipe.range}:flags=accurate_rnd+full_chroma_int"
    filters = [scale, f"format={recipe.format}", f"setsar={recipe.aspect.numerator}/{recipe.aspect.denominator}"]
    options = dict(codec.options)
    if codec.num_b_frames:
        options |= {"bf": recipe.num_b_frames, "g": 12}
        if "libx264" in options["c:v"]:
            options["x264-params"] += f":b-adapt=0:keyint=12:bframes={recipe.num_b_frames}"
    if options["c:v"] == "libx265":
        options.pop("bf")
        options["x265-params"] = f"log-level=none:bframes={recipe.num_b_frames}:b-adapt=0"
    if recipe.format != "rgb24":
        options["color_range"] = recipe.range
    if recipe.matrix:
        options |= {"colorspace": recipe.matrix, "color_primaries": "bt709", "color_trc": "bt709"}
    filters.append(f"setparams=colorspace={recipe.matrix or 'unknown'}")
    words = [word for name, value in options.items() for word in (f"-{name}", value)]
    plain = path.with_name(f"plain.{codec.suffix}")
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", recipe.rate, "-i", "pipe:0"),
        *("-vf", ",".join(filters), *words, "-output_ts_offset", recipe.offset if not recipe.is_cut else 0, plain),
        pictures=pictures,
    )
    if not (recipe.turn or recipe.is_mirrored or recipe.is_cut):
        return plain
    flags = ["-display_rotation", recipe.turn, *(["-display_hflip"] if recipe.is_mirrored else [])]
    start = ["-ss", float(2.5 / recipe.rate)] if recipe.is_cut else []  # an edit list hides the pictures before
    ffmpeg(
        *(flags if codec.is_turned else []), *start, *([] if start else ["-copyts"]), "-i", plain, "-c", "copy", path
    )
    return path


def number_of(image):
    height, width = image.shape[:2]
    return sum(int(image[height // 12, round(width * (bit + 0.5) / BITS)].mean() > 125) << bit for bit in range(BITS))


def roundness(image, size):
    """Width by height of the disk from its moments, and how far its centre is from where it was drawn, in pixels."""
    centre, _ = disk(size)
    top, bottom = round(size[1] / 6) + 1, round(size[1] * 2 / 3) - 1
    level = np.clip((image[top:bottom].mean(axis=2) - 30) / 190, 0, 1)
    moments = cv2.moments(level)
    middle = np.array([moments["m10"], moments["m01"]]) / moments["m00"] + (0.5, 0.5 + top)
    return (moments["mu20"] / moments["mu02"]) ** 0.5, float(np.abs(middle - centre).max())


def check(seed, folder):
    recipe = Recipe.of(seed)
    path = encode(recipe, folder / f"{seed}.{recipe.codec.suffix}")
    found = [VideoFile(path), FfmpegFile(path)]
    both = [list(decoder) for decoder in found]
    told = f"seed {seed}: {recipe}"
    assert found[0].info == found[1].info, told
    for frames, decoder in zip(both, found, strict=True):
        numbers = [number_of(frame.rgb()) for frame in frames]
        times = np.array([frame.pts_seconds for frame in frames])
        assert numbers == list(range(numbers[0], recipe.num_frames + 1)), told
        assert (numbers[0] > 1) == recipe.is_cut, told
        assert [frame.index for frame in frames] == list(range(len(frames))), told
        assert np.allclose(times - times[0], np.arange(len(frames)) / float(recipe.rate), atol=1.1e-3), told
        if recipe.codec.suffix in ("mp4", "mov", "mkv", "webm") and not recipe.is_cut:
            assert times[0] == pytest.approx(recipe.offset, abs=2e-3), told
        info = decoder.info
        # Matroska has the aspect as a size in whole pixels.
        assert (info.width, info.height) == frames[0].size == pytest.approx(recipe.shown, abs=1), told
        assert info.aspect == pytest.approx(float(recipe.aspect), rel=5e-3), told
        assert info.is_mirrored == recipe.is_mirrored, told
        assert info.colour.matrix == ("rgb" if recipe.format == "rgb24" else expected_matrix(recipe)), told
        image = frames[len(frames) // 2].rgb()
        ratio, off = roundness(image, frames[0].size)
        assert ratio == pytest.approx(1, abs=0.01), told
        assert off < 0.5, told
        height, width = image.shape[:2]
        for place, colour in enumerate(COLOURS):
            column = round(width * (place + 0.5) / 6)
            patch = image[height * 5 // 6 - 1 : height * 5 // 6 + 2, column - 1 : column + 2].reshape(-1, 3)
            assert np.abs(patch.mean(axis=0) - colour).max() <= 3, f"{colour} is {patch.mean(axis=0)}, {told}"
    for one, other in zip(*both, strict=True):
        assert one.pts_seconds == other.pts_seconds, told
        assert np.array_equal(one.rgb(), other.rgb()), told


def expected_matrix(recipe):
    """MJPEG always has one."""
    return "bt470bg" if recipe.codec.options["c:v"] == "mjpeg" else recipe.matrix


@pytest.mark.parametrize("seed", range(60))
def test_a_random_video_comes_out_right(seed, tmp_path):
    check(seed, tmp_path)


@pytest.mark.many
@pytest.mark.parametrize("seed", range(60, 600))
def test_many_random_videos_come_out_right(seed, tmp_path):
    check(seed, tmp_path)
