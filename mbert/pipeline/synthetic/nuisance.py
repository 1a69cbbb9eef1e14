"""Disturbances of a recording of a face: noise, light, tone, the head, blinks, gaze, speech, hair and background.

Each disturbance has a strength, 0 for none, and its own random stream: changing the strength changes only its size.
"""

import dataclasses
import functools
import statistics

import cv2
import numpy as np
import numpy.typing as npt

from mbert import ConfigError
from mbert.pipeline.faces.landmarks import MESH, Points
from mbert.pipeline.synthetic.facial_motion import (
    CROP_PX,
    ActiveUnit,
    Field,
    face_axes,
    hill_at,
    pixel_grid,
    unit_velocity,
)
from mbert.shards.image import Image

Course = npt.NDArray[np.float64]  # (N,): strength in each frame

# Seconds that a lid closes, stays and opens.
_BLINK_SECONDS = (0.10, 0.04, 0.16)
_LID_RATE = 2.0  # of the upper lid's velocity to its distance from the lower one: it closes to a line
_SACCADES_PER_SECOND = 2.0
_SACCADE_SECONDS = 0.04
_SPEECH_HERTZ = (2.0, 6.0)  # syllables
_SCENE_HERTZ = (0.3, 2.0)
_SCENE_HILLS = 12
_MAINS_HERTZ = 100.0  # lamps flicker at twice the mains' 50 Hz


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Nuisance:
    """Strengths; 0 is off. Pixels are those of a 224 px crop."""

    noise: float = 2.0  # of the sensor: standard deviation in each channel, 0-255
    crf: int = 10  # of H.264, 0 (lossless) to 51; frame folders are JPEG instead
    light: float = 0.01  # slow drift of the brightness and of its slope over the face, standard deviation, 1 = all
    flicker: float = 0.0  # of the lamps, amplitude, 1 = all
    tone: float = 0.01  # slow drift of white balance and gamma, standard deviation, 1 = all
    head_px: float = 1.0  # slow drift of the head, standard deviation of x and of y
    head_degrees: float = 0.3  # slow rotation within the image, standard deviation
    blinks: float = 0.1  # per second
    gaze_px: float = 0.0  # jumps of the eyes, standard deviation of x
    mouth_px: float = 0.0  # speech-like motion of lips and chin
    scene_px: float = 0.0  # motion in hair and background

    def __post_init__(self) -> None:
        for name in (field.name for field in dataclasses.fields(self)):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 (off) or more")
        if self.crf > 51:
            raise ConfigError(f"crf is {self.crf}; it must be 0 (lossless) to 51")


@dataclasses.dataclass(frozen=True, slots=True)
class LocalMotion:
    """Something that moves in place: how strongly in each frame, and its velocity (H, W, 2) at strength 1."""

    course: Course
    velocity: Field


def head_path(nuisance: Nuisance, mesh: Points, seconds: Course, seed: int) -> Points:
    """The motion of the head: matrices (N, 2, 3) from pixels of the still picture to those of each frame."""
    rng = np.random.default_rng([seed, 1])
    shift = _slow_walk(rng, seconds, 2) * nuisance.head_px * _crop_pixel(mesh)
    angle = np.radians(_slow_walk(rng, seconds, 1)[:, 0] * nuisance.head_degrees)
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1).reshape(-1, 2, 2)
    center = mesh.mean(axis=0)
    return np.concatenate([turn, (center - turn @ center + shift)[..., None]], axis=-1)


def local_motions(
    nuisance: Nuisance, mesh: Points, shape: tuple[int, int], seconds: Course, seed: int
) -> list[LocalMotion]:
    """Motions of blinks, gaze, mouth, hair and background, for an (H, W) picture and N frames."""
    makers = {"blinks": _blink, "gaze_px": _gaze, "mouth_px": _mouth, "scene_px": _scene}
    motions = []
    for stream, (name, make) in enumerate(makers.items()):
        if strength := getattr(nuisance, name):
            motions += make(strength, mesh, shape, seconds, np.random.default_rng([seed, 2, stream]))
    return [motion for motion in motions if motion.course.any()]


class Camera:
    """Applies light, tone and sensor effects to the frames of one clip, one after another."""

    def __init__(self, nuisance: Nuisance, shape: tuple[int, int], seconds: Course, seed: int) -> None:
        self._noise = np.float32(nuisance.noise) * _normal_quantiles()
        self._rng = np.random.default_rng([seed, 3, 0])
        light = np.random.default_rng([seed, 3, 1])
        walk = nuisance.light * _slow_walk(light, seconds, 2)
        angle = light.uniform(0, 2 * np.pi)
        across = (pixel_grid(shape) / max(shape) - 0.5) @ np.array([np.cos(angle), np.sin(angle)], np.float32)
        self._slope, self._across = 2 * walk[:, 1], np.repeat(across[..., None], 3, axis=-1)
        tone = nuisance.tone * _slow_walk(np.random.default_rng([seed, 3, 2]), seconds, 4)
        lamps = np.random.default_rng([seed, 3, 3])
        hertz = _MAINS_HERTZ + lamps.normal(0, 0.5)
        phase = lamps.uniform(0, 2 * np.pi)
        lamp = nuisance.flicker * (
            0.8 * np.sin(2 * np.pi * hertz * seconds + phase) + 0.4 * lamps.normal(size=len(seconds))
        )
        self._gain = (1 + walk[:, :1]) * (1 + lamp[:, None]) * (1 + tone[:, :3])
        self._gamma = np.exp(tone[:, 3])

    def take(self, image: Image, frame: int) -> Image:
        """The picture (H, W, 3) as captured in frame number `frame`; frames must be taken in order."""
        levels = np.arange(256) / 255
        curve = 255 * levels[:, None] ** self._gamma[frame] * self._gain[frame]
        lit = cv2.LUT(image, curve.astype(np.float32)[None])
        if self._slope[frame]:
            lit *= 1 + np.float32(self._slope[frame]) * self._across
        if self._noise.any():
            # Takes a fifth of the time of a generator's normal numbers.
            lit += cv2.LUT(np.frombuffer(self._rng.bytes(lit.size), np.uint8).reshape(lit.shape), self._noise)
        # Rounds and clips like a sensor.
        taken: Image = cv2.convertScaleAbs(np.maximum(lit, 0))
        return taken


@functools.cache
def _normal_quantiles() -> npt.NDArray[np.float32]:
    """(256,): equally probable values of mean 0 and standard deviation 1, from a normal distribution."""
    normal = statistics.NormalDist()
    values = np.array([normal.inv_cdf((place + 0.5) / 256) for place in range(256)], np.float32)
    values /= values.std()
    return values


def _crop_pixel(mesh: Points) -> float:
    """Pixels of the image per pixel of a 224 px crop."""
    return face_axes(mesh)[0] / CROP_PX


def _slow_walk(rng: np.random.Generator, seconds: Course, columns: int) -> Points:
    """Smooth random motion, (N, columns), standard deviation about 1, periods of two seconds and longer."""
    return _waves(rng, seconds, columns, (0.15, 0.3, 0.5))


def _waves(rng: np.random.Generator, seconds: Course, columns: int, all_hertz: tuple[float, ...]) -> Points:
    walk = np.zeros((len(seconds), columns))
    for hertz in all_hertz:
        walk += rng.normal(size=columns) * np.sin(2 * np.pi * (hertz * seconds[:, None] + rng.random(columns)))
    walk *= np.sqrt(2 / len(all_hertz))
    return walk


def _step(seconds: Course, start: float, length: float) -> Course:
    """0 before `start`, 1 from `length` seconds later, smooth in between."""
    rise: Course = np.sin(0.5 * np.pi * np.clip((seconds - start) / length, 0, 1)) ** 2
    return rise


def _blink(
    per_second: float, mesh: Points, shape: tuple[int, int], seconds: Course, rng: np.random.Generator
) -> list[LocalMotion]:
    close, stay, reopen = _BLINK_SECONDS
    course = np.zeros(len(seconds))
    for start in np.cumsum(rng.exponential(size=64)) / per_second - close:
        course = np.maximum(course, _step(seconds, start, close) - _step(seconds, start + close + stay, reopen))
    _, axes = face_axes(mesh)
    field = np.zeros((*shape, 2), np.float32)
    for window, lower_lid, opening in _eyes(mesh, shape, height=2.0):
        distance = ((lower_lid - pixel_grid(shape)) @ axes[1]).astype(np.float32)
        # The skin above the lid follows less and less towards the brow.
        distance = np.minimum(distance, opening)
        field += (_LID_RATE * distance * window)[..., None] * axes[1].astype(np.float32)
    return [LocalMotion(course, field)]


def _gaze(
    strength: float, mesh: Points, shape: tuple[int, int], seconds: Course, rng: np.random.Generator
) -> list[LocalMotion]:
    starts = np.cumsum(rng.exponential(1 / _SACCADES_PER_SECOND, size=64))
    targets = np.concatenate([np.zeros((1, 2)), rng.normal(size=(64, 2)) * (1.0, 0.4)])
    courses = np.zeros((len(seconds), 2))
    for start, jump in zip(starts, np.diff(targets, axis=0), strict=True):
        courses += _step(seconds, start, _SACCADE_SECONDS)[:, None] * jump
    (left, *_), (right, *_) = _eyes(mesh, shape, height=0.9)
    _, axes = face_axes(mesh)
    size = strength * _crop_pixel(mesh)
    return [
        LocalMotion(courses[:, place], (size * (left + right)[..., None] * axes[place]).astype(np.float32))
        for place in (0, 1)
    ]


def _mouth(
    strength: float, mesh: Points, shape: tuple[int, int], seconds: Course, rng: np.random.Generator
) -> list[LocalMotion]:
    motions = []
    for numbers, share in (((25, 26), 1.0), ((20,), 0.5)):
        course = _waves(rng, seconds, 1, tuple(rng.uniform(*_SPEECH_HERTZ, size=3)))[:, 0] * share
        velocity = unit_velocity([ActiveUnit(number=number) for number in numbers], mesh, shape)
        peak = np.linalg.norm(velocity, axis=-1).max()
        motions.append(LocalMotion(course, velocity * np.float32(strength * _crop_pixel(mesh) / peak)))
    return motions


def _scene(
    strength: float, mesh: Points, shape: tuple[int, int], seconds: Course, rng: np.random.Generator
) -> list[LocalMotion]:
    crop_width, _ = face_axes(mesh)
    outline = np.zeros(shape, np.uint8)
    cv2.fillConvexPoly(outline, cv2.convexHull(mesh.round().astype(np.int32)), 1)
    away = cv2.distanceTransform(1 - outline, cv2.DIST_L2, 5) / crop_width  # from the face, in crop widths
    outside = np.sin(0.5 * np.pi * np.clip((away - 0.02) / 0.08, 0, 1)) ** 2
    motions = []
    for _ in range(2):
        field = np.zeros((*shape, 2), np.float32)
        for center in rng.uniform(0, 1, size=(_SCENE_HILLS, 2)) * shape[::-1]:
            where, hill = hill_at(center, rng.uniform(0.05, 0.10) * crop_width, shape)
            field[where] += hill[..., None] * rng.normal(size=2).astype(np.float32)
        field *= outside[..., None].astype(np.float32)
        peak = max(1e-6, float(np.linalg.norm(field, axis=-1).max()))
        course = _waves(rng, seconds, 1, tuple(rng.uniform(*_SCENE_HERTZ, size=3)))[:, 0]
        motions.append(LocalMotion(course, field * np.float32(strength * _crop_pixel(mesh) / peak)))
    return motions


def _eyes(mesh: Points, shape: tuple[int, int], *, height: float) -> list[tuple[Field, Points, float]]:
    """For each eye a smooth window (H, W) around it, a point of the lower lid, and the distance between the lids.

    The window is an ellipse that reaches `height` openings up and down and a little beyond the corners.
    """
    _, axes = face_axes(mesh)
    eyes = []
    for corners, lids in ((MESH.left_eye, MESH.left_lids), (MESH.right_eye, MESH.right_lids)):
        upper, lower = (mesh[[pair[place] for pair in lids]].mean(axis=0) for place in (0, 1))
        width = float(np.linalg.norm(mesh[corners[0]] - mesh[corners[1]]))
        opening = max(float(np.linalg.norm(upper - lower)), 0.1 * width)
        away = (pixel_grid(shape) - (upper + lower) / 2) @ axes.T / (0.65 * width, height * opening)
        window = np.maximum(0, 1 - (away**2).sum(axis=-1)) ** 1.5
        eyes.append((window.astype(np.float32), lower, opening))
    return eyes
