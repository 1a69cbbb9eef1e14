"""Faults that only faces reveal: a recording that is upside down, or that holds two pictures for two eyes.

Landmarks are also found in an upside-down face, but they are nonsense. The detector's confidence reveals it: 0.69 to
0.97 upright and 0.50 to 0.83 upside down on 40 clips, and on each of them higher upright by 0.1 or more.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction

import cv2
import numpy as np

from mbert.pipeline.faces.landmarks import Face, Landmarker
from mbert.pipeline.faces.track import Span
from mbert.pipeline.video.decode import Fixes
from mbert.shards.image import Image

_SURE = 0.88  # from this median score on, the orientation is not doubted
_BETTER = 0.1  # how much higher the score has to be upside down
_SHORTER_SIDE_PX = 480  # of the pictures kept
_MOST_KEPT = 12
_ALIKE = 0.9  # correlation of two pictures of one scene for two eyes
_SHIFT = 0.1  # between them, in widths


@dataclasses.dataclass(slots=True)
class Doubts:
    """Keeps a few of the measured pictures, and decides afterwards whether the input was read wrongly."""

    _ticks: int = 0
    _scores: list[float] = dataclasses.field(default_factory=list)
    _kept: list[tuple[Image, list[Face]]] = dataclasses.field(default_factory=list)

    def watch(self, spans: Iterable[Span]) -> Iterator[Span]:
        """Pass on the spans unchanged."""
        for span in spans:
            faces = span.stop.faces
            self._scores += [face.score for face in faces[:1] if face.score is not None]
            # Numbers 0, 1, 2, 4, 8, ...: a few from all over the input.
            is_kept = self._ticks & (self._ticks - 1) == 0 and len(self._kept) < _MOST_KEPT
            self._ticks += 1
            if is_kept:
                self._kept.append(_small(span.stop.frame.rgb(), faces))
            yield span

    def fixes(self, landmarker: Landmarker) -> Fixes | None:
        """How to read the input again; None if it was read correctly, or this cannot be decided."""
        if packing := self._packing(landmarker):
            return packing
        if self._scores and np.median(self._scores) >= _SURE:
            return None
        upright, turned = (
            np.array([_best(landmarker.detect(np.ascontiguousarray(image[::step, ::step]))) for image, _ in self._kept])
            for step in (1, -1)
        )
        seen = np.maximum(upright, turned) > 0
        if not seen.any() or np.median(turned[seen]) < np.median(upright[seen]) + _BETTER:
            return None
        return Fixes(turned=180) if np.mean((turned > upright)[seen]) > 0.5 else None

    def _packing(self, landmarker: Landmarker) -> Fixes | None:
        """The packing, if most pictures with faces have two halves that show the same face."""
        seen = [kept for kept in self._kept if kept[1]]
        eyes = [image[:, : image.shape[1] // 2] for image, faces in seen if _has_like_halves(image, faces)]
        if not eyes or len(eyes) <= len(seen) / 2:
            return None
        # A face squeezed to half its width scores lower.
        as_stored, widened = (
            np.mean([_best(landmarker.detect(cv2.resize(eye, None, fx=width, fy=1))) for eye in eyes])
            for width in (1, 2)
        )
        return Fixes(packing="side by side", eye_aspect=Fraction(2 if widened > as_stored else 1))


def _small(image: Image, faces: list[Face]) -> tuple[Image, list[Face]]:
    scale = _SHORTER_SIDE_PX / min(image.shape[:2])
    if scale >= 1:
        return image, faces
    small: Image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return small, [dataclasses.replace(face, points=face.points * scale) for face in faces]


def _best(faces: list[Face]) -> float:
    return max((face.score or 0.0 for face in faces), default=0.0)


def _has_like_halves(image: Image, faces: list[Face]) -> bool:
    """Whether a picture has two halves that show one scene, with a face in each."""
    half = image.shape[1] // 2
    if not any(face.points[:, 0].max() < half or face.points[:, 0].min() > half for face in faces):
        return False
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    halves = grey[:, :half], grey[:, half : 2 * half]
    left, right = (cv2.resize(each, (96, 64), interpolation=cv2.INTER_AREA) for each in halves)
    shift = round(96 * _SHIFT)
    return bool(cv2.matchTemplate(left, right[:, shift:-shift], cv2.TM_CCOEFF_NORMED).max() >= _ALIKE)
