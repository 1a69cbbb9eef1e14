"""One synthetic clip: a still picture of a face, moved and disturbed as specified by its row -> frames, truth.

All motion within the face, from the expression and from distractors, is one velocity per frame; the head then moves the
whole picture, and the camera captures it.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mbert.manifests.schema import TruthRow
from mbert.pipeline.faces.landmarks import Points
from mbert.pipeline.synthetic.facial_motion import (
    CROP_PX,
    ActiveUnit,
    Field,
    face_axes,
    follow,
    pixel_grid,
    sampled,
    unit_velocity,
    with_amplitude,
)
from mbert.pipeline.synthetic.nuisance import Camera, Course, LocalMotion, Nuisance, head_path, local_motions
from mbert.shards.image import Image

_COARSE = 2  # fields are smooth: evaluated on every second pixel, in a quarter of the time
# Linear interpolation in a picture this many times finer is as sharp as cubic in the original, in a third of the time.
_FINE = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Portrait:
    """A still face and its landmarks, framed for a video."""

    image: Image
    mesh: Points


def active_units(row: TruthRow) -> tuple[ActiveUnit, ...]:
    """The units of a clip with the strengths of their sides."""
    numbers = [int(number) for number in (row.action_units or "").split("+") if number]
    sides = zip(numbers, row.left_strengths, row.right_strengths, strict=True)
    return tuple(ActiveUnit(number=number, left=left, right=right) for number, left, right in sides)


def expression_course(row: TruthRow) -> Course:
    """Strength of the expression in each frame, (N,): 0 up to the onset, 1 at the apex, 0 from the offset on."""
    if row.onset is None or row.apex is None or row.offset is None:
        return np.zeros(row.num_frames)
    frames = np.arange(row.num_frames)
    rise = np.clip((frames - row.onset) / (row.apex - row.onset), 0, 1)
    fall = np.clip((row.offset - frames) / (row.offset - row.apex), 0, 1)
    strength: Course = np.sin(0.5 * np.pi * np.minimum(rise, fall)) ** 2
    return strength


def onset_and_apex(row: TruthRow) -> tuple[int, int]:
    """The frames between which the truth is given; for a neutral clip the first and the middle one."""
    return row.onset or 0, row.num_frames // 2 if row.apex is None else row.apex


class Scene:
    """All motion of one clip, from its row and portrait."""

    def __init__(self, portrait: Portrait, row: TruthRow) -> None:
        self.portrait, self.row = portrait, row
        self.nuisance = nuisance_of(row)
        shape = portrait.image.shape[0], portrait.image.shape[1]
        seconds = np.arange(row.num_frames) / row.fps
        self.strength = expression_course(row)
        self.head = head_path(self.nuisance, portrait.mesh, seconds, row.seed)
        self.distractors = local_motions(self.nuisance, portrait.mesh, shape, seconds, row.seed)
        self.expression = np.zeros((*shape, 2), np.float32)
        if units := active_units(row):
            amplitude = row.amplitude_px * face_axes(portrait.mesh)[0] / CROP_PX
            self.expression = with_amplitude(unit_velocity(units, portrait.mesh, shape), amplitude)
        self._camera = Camera(self.nuisance, shape, seconds, row.seed)

    def frames(self) -> Iterator[Image]:
        """The frames, (H, W, 3) each, as the camera captures them; can be iterated once."""
        image = self.portrait.image
        motions = [LocalMotion(self.strength, self.expression), *self.distractors]
        coarse = [LocalMotion(motion.course, _shrunk(motion.velocity)) for motion in motions]
        grid = pixel_grid(image.shape)
        size = image.shape[1] * _FINE, image.shape[0] * _FINE
        fine = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        for index in range(self.row.num_frames):
            # Backwards: where in the still picture does each pixel of this frame come from?
            places = cv2.transform(grid, cv2.invertAffineTransform(self.head[index]))
            velocity = _total(coarse, index)
            if velocity.any():
                coarse_places = _shrunk(places - (_COARSE - 1) / 2)
                places += _grown(sampled(follow(-velocity), coarse_places), grid.shape)
            places = places * _FINE + (_FINE - 1) / 2
            moved = cv2.remap(fine, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            yield self._camera.take(moved, index)

    def truth(self) -> dict[str, npt.NDArray[Any]]:
        """The motion from onset to apex, to compare measurements with; see docs/synthetic.md.

        - `expression`, `distractor`: (H, W, 2) float16, x and y in pixels of the video: displacement of the skin at
          each pixel of the onset frame until the apex, by the expression alone, and by blinks, gaze, mouth, hair and
          background. Neither includes the head's motion. For a neutral clip, from the first frame to the middle one.
        - `head`: (N, 2, 3) float32, maps pixels of the still picture to those of each frame.
        - `strength`: (N,) float32, of the expression.
        """
        onset, apex = onset_and_apex(self.row)
        before, after = (_total(self.distractors, frame) for frame in (onset, apex))
        distractor = np.zeros_like(self.expression)
        if self.distractors:
            back = follow(-before)
            distractor = back + sampled(follow(after), pixel_grid(back.shape) + back)
        head = self.head[onset]
        places = cv2.transform(pixel_grid(self.portrait.image.shape), cv2.invertAffineTransform(head))
        expression, distractor = (
            cv2.transform(sampled(field, places), head[:, :2]).astype(np.float16)
            for field in (follow(self.expression), distractor)
        )
        return {
            "expression": expression,
            "distractor": distractor,
            "head": self.head.astype(np.float32),
            "strength": self.strength.astype(np.float32),
        }


def nuisance_of(row: TruthRow) -> Nuisance:
    """The nuisances of a clip."""
    return Nuisance(**{field.name: getattr(row, field.name) for field in dataclasses.fields(Nuisance)})


def _total(motions: list[LocalMotion], frame: int) -> Field:
    total: Field = sum(
        (np.float32(motion.course[frame]) * motion.velocity for motion in motions if motion.course[frame]),
        np.zeros((1, 1, 2), np.float32),
    )
    return total


def _shrunk(field: Field) -> Field:
    height, width = field.shape[:2]
    small: Field = cv2.resize(field, (width // _COARSE, height // _COARSE), interpolation=cv2.INTER_AREA)
    return small / np.float32(_COARSE)


def _grown(field: Field, shape: tuple[int, ...]) -> Field:
    large: Field = cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return large * np.float32(_COARSE)
