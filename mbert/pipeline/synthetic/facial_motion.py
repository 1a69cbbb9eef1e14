"""Facial action units -> how the skin moves, as smooth local fields over a still picture of a face.

A unit moves the skin around a few landmarks of MediaPipe's mesh; the motion falls off smoothly to zero. Fields are
velocities: skin follows one for one unit of time (`follow`). So motion can be undone, never folds, and simultaneous
motions add up. Lengths are in crop widths and directions in the axes of the face (see `align`): the motion is the same
in the aligned crop whatever the size and tilt of the face.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mbert.pipeline.faces.align import fit_pose
from mbert.pipeline.faces.landmarks import Points

CROP_PX = 224  # amplitudes are given in pixels of the default crop
Field = npt.NDArray[np.float32]  # (H, W, 2): x, y in pixels

_SQUARINGS = 3  # the flow consists of 2**3 small steps


@dataclasses.dataclass(frozen=True, slots=True)
class Pull:
    """Skin around some points moves one way. Left is the image's left; there x points to the middle of the face."""

    left: tuple[int, ...]
    right: tuple[int, ...]  # the mirror images of `left`
    direction: tuple[float, float]  # its length is the strength among the pulls of a unit
    spread: float = 0.055  # standard deviation of the fall-off, in crop widths


@dataclasses.dataclass(frozen=True, slots=True)
class UnitMotion:
    """One action unit."""

    name: str
    pulls: tuple[Pull, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ActiveUnit:
    """An active unit; each side of the image has its own strength, at most 1."""

    number: int
    left: float = 1.0
    right: float = 1.0


_LIP_CORNER = ((61,), (291,))
_LOWER_LIP = ((84, 181), (314, 405))
_UPPER_LIP = ((37, 39), (267, 269))
_INNER_BROW = ((107, 55, 66), (336, 285, 296))
_OUTER_BROW = ((70, 63, 105), (300, 293, 334))

# Which skin moves where: the appearance changes that the FACS manual lists for each unit (Ekman & Friesen 1978; Ekman,
# Friesen & Hager 2002), as far as they are motion within the image.
ACTION_UNITS: dict[int, UnitMotion] = {
    1: UnitMotion("inner brow raiser", (Pull(*_INNER_BROW, (-0.05, -1.0)),)),
    2: UnitMotion("outer brow raiser", (Pull(*_OUTER_BROW, (-0.15, -1.0)),)),
    4: UnitMotion("brow lowerer", (Pull(*_INNER_BROW, (0.55, 0.85)), Pull((105,), (334,), (0.3, 0.5)))),
    5: UnitMotion("upper lid raiser", (Pull((159, 158, 160), (386, 385, 387), (0.0, -1.0), 0.022),)),
    6: UnitMotion(
        "cheek raiser",
        (Pull((117, 118, 101), (346, 347, 330), (0.1, -1.0), 0.05), Pull((226,), (446,), (0.6, 0.0), 0.04)),
    ),
    7: UnitMotion(
        "lid tightener",
        (
            Pull((145, 144, 153), (374, 373, 380), (0.0, -1.0), 0.022),
            Pull((159, 158, 160), (386, 385, 387), (0.0, 0.4), 0.018),
        ),
    ),
    9: UnitMotion(
        "nose wrinkler",
        (
            Pull((98, 129), (327, 358), (0.15, -1.0), 0.045),
            Pull((107, 55), (336, 285), (0.3, 0.4), 0.045),
            Pull((37,), (267,), (0.0, -0.4), 0.04),
        ),
    ),
    10: UnitMotion(
        "upper lip raiser",
        (
            Pull((39, 40), (269, 270), (-0.05, -1.0), 0.04),
            Pull((37,), (267,), (0.0, -0.3), 0.035),
            Pull((203,), (423,), (-0.1, -0.5), 0.04),
        ),
    ),
    12: UnitMotion("lip corner puller", (Pull(*_LIP_CORNER, (-0.75, -0.65)), Pull((205,), (425,), (-0.25, -0.45)))),
    14: UnitMotion(
        "dimpler", (Pull(*_LIP_CORNER, (-0.95, -0.1), 0.035), Pull((212, 216), (432, 436), (0.7, 0.0), 0.04))
    ),
    15: UnitMotion(
        "lip corner depressor",
        (Pull(*_LIP_CORNER, (-0.1, 1.0), 0.045), Pull((204,), (424,), (0.0, 0.5), 0.045)),
    ),
    17: UnitMotion(
        "chin raiser", (Pull((199, 208), (199, 428), (0.0, -1.0)), Pull((17, 84), (17, 314), (0.0, -0.7), 0.04))
    ),
    20: UnitMotion("lip stretcher", (Pull(*_LIP_CORNER, (-1.0, 0.15), 0.05), Pull((181,), (405,), (-0.35, 0.15)))),
    23: UnitMotion(
        "lip tightener",
        (
            Pull(*_LIP_CORNER, (1.0, 0.0), 0.035),
            Pull(*_UPPER_LIP, (0.1, 0.4), 0.03),
            Pull(*_LOWER_LIP, (0.1, -0.5), 0.03),
        ),
    ),
    24: UnitMotion(
        "lip pressor",
        (
            Pull(*_UPPER_LIP, (0.0, 0.8), 0.03),
            Pull(*_LOWER_LIP, (0.0, -1.0), 0.03),
            Pull(*_LIP_CORNER, (0.25, 0.0), 0.03),
        ),
    ),
    25: UnitMotion("lips part", (Pull(*_LOWER_LIP, (0.0, 1.0), 0.035), Pull(*_UPPER_LIP, (0.0, -0.3), 0.03))),
    26: UnitMotion("jaw drop", (Pull((199, 208), (199, 428), (0.0, 1.0), 0.07), Pull(*_LOWER_LIP, (0.0, 0.8), 0.04))),
}

# Combinations of units that show an emotion. The first of each is its prototype, after EMFACS (Friesen & Ekman 1983);
# the others are those of classes I (happiness) to V (sadness) of Davison et al. 2018 ("Objective classes for
# micro-facial expression recognition"). Combinations whose motion cannot be distinguished from another emotion or a
# nuisance are left out (1, 4, 6, 25 alone). The list was not compared with the printed tables.
EMOTIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "happiness": ((6, 12), (12,), (7, 12), (6, 7, 12)),
    "surprise": ((1, 2, 5), (1, 2), (5,), (1, 2, 25), (25, 26)),
    "anger": ((4, 5, 7), (4, 5), (4, 7), (23,), (17, 24)),
    "disgust": ((4, 9, 10), (9,), (10,), (4, 9), (4, 7, 9), (4, 7, 10), (4, 9, 17), (7, 10)),
    "sadness": ((1, 4, 15), (1, 4), (15,), (15, 17), (6, 15)),
}
EMOTION_SETS: dict[str, tuple[str, ...]] = {
    "three": ("disgust", "happiness", "surprise"),
    "five": ("anger", "disgust", "happiness", "sadness", "surprise"),
}


def unit_velocity(units: Sequence[ActiveUnit], mesh: Points, shape: tuple[int, int]) -> Field:
    """The combined velocity of the units, (H, W, 2) in pixels of the image.

    The strongest pull of a unit at full strength is about one pixel of a 224 px crop.
    """
    field = np.zeros((*shape, 2), np.float32)
    crop_width, axes = face_axes(mesh)
    for unit in units:
        for pull in ACTION_UNITS[unit.number].pulls:
            for points, mirror, strength in ((pull.left, 1.0, unit.left), (pull.right, -1.0, unit.right)):
                if strength:
                    direction = np.array([pull.direction[0] * mirror, pull.direction[1]]) @ axes * strength
                    hills = np.zeros(shape, np.float32)
                    for point in points:
                        where, hill = hill_at(mesh[point], pull.spread * crop_width, shape)
                        hills[where] += hill
                    field += (hills / max(1, hills.max()))[..., None] * direction.astype(np.float32)
    return field * np.float32(crop_width / CROP_PX)


def with_amplitude(velocity: Field, amplitude: float) -> Field:
    """The velocity scaled so that the largest displacement of the skin is `amplitude` pixels."""
    scaled = velocity * np.float32(amplitude / np.linalg.norm(velocity, axis=-1).max())
    for _ in range(2):  # skin leaves the place of highest velocity on its way
        scaled *= np.float32(amplitude / np.linalg.norm(follow(scaled), axis=-1).max())
    return scaled


def follow(velocity: Field) -> Field:
    """The displacement, (H, W, 2) in pixels, of skin at each pixel that follows a velocity for one unit of time.

    The result for `-velocity` is the inverse: where skin at each pixel came from (scaling and squaring, Arsigny et al.,
    MICCAI 2006).
    """
    grid = pixel_grid(velocity.shape)
    step = velocity / np.float32(2**_SQUARINGS)
    moved = sampled(step, grid + step / 2)  # with the velocity half-way, as in the midpoint method
    for _ in range(_SQUARINGS):
        moved = moved + sampled(moved, grid + moved)
    return moved


def sampled(field: Field, places: Field) -> Field:
    """The values of a field (H, W, 2) at places (H, W, 2), interpolated linearly; border values are repeated."""
    found: Field = cv2.remap(field, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found


def face_axes(mesh: Points) -> tuple[float, Points]:
    """The width of the crop in pixels of the image, and the axes of the face: (2, 2), rows are its x and y."""
    pose = fit_pose(mesh)
    cos, sin = np.cos(pose[3]), np.sin(pose[3])
    return float(np.exp(-pose[2])), np.array([[cos, sin], [-sin, cos]])


def hill_at(
    center: Points, spread: float, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], npt.NDArray[np.float32]]:
    """A hill of height 1 in an (H, W) picture: the part where it is nonzero, and its heights there.

    It approximates a Gaussian, but is exactly 0 beyond 2.83 standard deviations.
    """
    reach = np.sqrt(8) * spread
    (x0, y0), (x1, y1) = np.clip([center - reach, center + reach + 1], 0, shape[::-1]).astype(int)
    ys, xs = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    distance = ((xs - center[0]) ** 2 + (ys - center[1]) ** 2) / reach**2
    return (slice(y0, y1), slice(x0, x1)), (np.maximum(0, 1 - distance) ** 4).astype(np.float32)


def pixel_grid(shape: tuple[int, ...]) -> Field:
    """The coordinates of each pixel of an (H, W, ...) picture, (H, W, 2)."""
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return np.stack([xs, ys], axis=-1)
