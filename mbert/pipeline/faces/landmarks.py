"""A face and its landmarks: names of the points, and what can be derived from them. Pure numpy.

The programs that find them are in `landmarkers.py`.
"""

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mbert.shards.image import Image

Points = npt.NDArray[np.float64]
Pair = tuple[int, int]

# A face turned to the camera, measured like the rigid points below: how far the tip of the nose is below the eyes, and
# how far in front of them.
_NOSE_BELOW_EYES = 0.50
_NOSE_BEFORE_EYES = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The meaning of a landmarker's points, by index. "Left" is the left side of the image."""

    num_points: int
    rigid: tuple[int, ...]  # points that expressions hardly move
    frontal: Points  # (R, 2): the rigid points of a frontal face, from the middle between the eyes, in eye distances
    left_eye: Pair  # its corners
    right_eye: Pair
    nose_tip: int
    mouth: Pair  # its corners
    left_lids: tuple[Pair, ...]  # points of the upper lid with their opposites
    right_lids: tuple[Pair, ...]
    lips: Pair  # middle of the inner lips
    regions: tuple[tuple[int, ...], ...]  # points around the centre of each of `manifests.regions.REGIONS`


# MediaPipe's face mesh. Its rigid points are eye corners, bridge of the nose, temples and cheekbones: medians over 42
# near-frontal photos, mirrored and averaged.
MESH = Layout(
    num_points=468,
    rigid=(33, 133, 362, 263, 168, 6, 197, 195, 127, 356, 234, 454),
    frontal=np.array(
        [
            (-0.722, -0.013),
            (-0.279, 0.013),
            (0.279, 0.013),
            (0.722, -0.013),
            (0.0, -0.085),
            (0.0, 0.045),
            (0.0, 0.159),
            (0.0, 0.268),
            (-1.098, 0.067),
            (1.098, 0.067),
            (-1.086, 0.310),
            (1.086, 0.310),
        ]
    ),
    left_eye=(33, 133),
    right_eye=(362, 263),
    nose_tip=4,
    mouth=(61, 291),
    left_lids=((160, 144), (158, 153)),
    right_lids=((385, 380), (387, 373)),
    lips=(13, 14),
    regions=(
        *((70, 46, 63, 53), (107, 55, 66, 65), (336, 285, 296, 295), (300, 276, 293, 283)),  # brows
        *((159, 158, 160, 145, 144, 153), (386, 385, 387, 374, 373, 380)),  # lids
        *((5, 4, 45, 275), (50, 101, 205), (280, 330, 425)),  # nose, cheeks
        *((61, 57), (291, 287), (0, 13, 37, 267), (17, 14, 84, 314), (152, 199, 200, 175)),  # lips, chin
    ),
)
# The 68 points of the 300-W challenge, as FAN finds them. The eye corners are as in the mesh; the bridge of
# the nose is annotated in even steps down to the tip.
FAN68 = Layout(
    num_points=68,
    rigid=(36, 39, 42, 45, 27, 28, 29),
    frontal=np.concatenate([MESH.frontal[:4], [(0.0, -0.04), (0.0, 0.14), (0.0, 0.32)]]),
    left_eye=(36, 39),
    right_eye=(42, 45),
    nose_tip=30,
    mouth=(48, 54),
    left_lids=((37, 41), (38, 40)),
    right_lids=((43, 47), (44, 46)),
    lips=(62, 66),
    regions=(
        *((17, 18, 19), (20, 21), (22, 23), (24, 25, 26)),
        *((37, 38, 40, 41), (43, 44, 46, 47)),
        *((30, 33), (31, 41, 48), (35, 46, 54)),  # no point is on a cheek: use points between eye, nose and mouth
        *((48,), (54,), (50, 51, 52, 62), (56, 57, 58, 66), (7, 8, 9, 57)),
    ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Face:
    """One face in a frame."""

    points: Points  # (P, 2): x, y in upright source pixels
    layout: Layout = MESH
    score: float | None = None  # the landmarker's confidence, 0-1: low if the face is partly hidden

    def enlarged(self, factor: int) -> "Face":
        """The same face in a picture with `factor` x `factor` pixels for each original one."""
        # A pixel's centre is in the middle of those it represents.
        return dataclasses.replace(self, points=self.points * factor + (factor - 1) / 2)

    @property
    def center(self) -> Points:
        """Middle of the landmarks' box, (2,)."""
        middle: Points = (self.points.min(axis=0) + self.points.max(axis=0)) / 2
        return middle

    @property
    def size_px(self) -> float:
        """Longer side of the landmarks' box."""
        return float((self.points.max(axis=0) - self.points.min(axis=0)).max())

    @property
    def five_points(self) -> Points:
        """Eye centres, nose tip, mouth corners: (5, 2), image left before image right."""
        eyes = [self.points[list(eye)].mean(axis=0) for eye in (self.layout.left_eye, self.layout.right_eye)]
        return np.stack([*eyes, self.points[self.layout.nose_tip], *self.points[list(self.layout.mouth)]])

    @property
    def pose_degrees(self) -> tuple[float, float, float]:
        """Yaw, pitch, roll from the nose's position below the eyes: for filtering, not for measuring.

        Against the depth of MediaPipe's mesh, on 172 frames and photos of all poses: yaw within 1, pitch within 4
        degrees (medians).
        """
        left, right, nose, *_ = self.five_points @ [1, 1j]
        eyes = right - left
        nose = (nose - (left + right) / 2) / eyes  # in eye distances, roll undone
        yaw = np.degrees(np.arctan2(nose.real, _NOSE_BEFORE_EYES))
        pitch = np.degrees(np.arctan2(_NOSE_BELOW_EYES - nose.imag, _NOSE_BEFORE_EYES))
        return float(yaw), float(pitch), float(np.degrees(np.angle(eyes)))

    @property
    def eye_open(self) -> float:
        """Eye aspect ratio (Soukupova & Cech 2016), mean of both eyes: about 0.3 when open, below 0.2 in a blink."""
        return float(np.mean(self.eyes_open))

    @property
    def eyes_open(self) -> tuple[float, float]:
        """The aspect ratio of the eye at the image's left, and of that at its right."""
        layout = self.layout
        left, right = (
            float(np.mean([self._distance(lid) / self._distance(eye) for lid in lids]))
            for eye, lids in ((layout.left_eye, layout.left_lids), (layout.right_eye, layout.right_lids))
        )
        return left, right

    @property
    def region_centres(self) -> Points:
        """The centres of the regions of `mbert.manifests.regions.REGIONS`, (R, 2)."""
        return np.stack([self.points[list(region)].mean(axis=0) for region in self.layout.regions])

    @property
    def mouth_open(self) -> float:
        """Distance of the inner lips, in mouth widths: about 0 when closed."""
        return self._distance(self.layout.lips) / self._distance(self.layout.mouth)

    def _distance(self, pair: Pair) -> float:
        return float(np.linalg.norm(self.points[pair[0]] - self.points[pair[1]])) + 1e-9


class Landmarker(Protocol):
    """Finds faces in one frame, without memory of earlier frames."""

    name: str  # with the version: it affects the bytes of a corpus

    def detect(self, rgb: Image) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB frame, largest first."""
        ...

    def forget(self) -> None:
        """Called before another video: only affects a landmarker that follows a face."""
        ...

    def close(self) -> None:
        """Free the native resources."""
        ...
