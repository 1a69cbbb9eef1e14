"""One decoded frame, shown upright and with square pixels."""

import dataclasses
import threading
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from mbert.pipeline.video.planes import Box, can_cut, cut, first_plane
from mbert.pipeline.video.presentation import PLAIN, Presentation
from mbert.shards.image import Image

_KEPT = threading.local()  # one converter per thread, because it keeps its tables between frames


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame; converted to RGB only on request, and only the requested part.

    Everything it returns is upright and has square pixels, the coordinates of every manifest.
    """

    index: int
    pts_seconds: float
    picture: Any  # av.VideoFrame as stored, or an RGB array as shown
    presentation: Presentation = PLAIN

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        if isinstance(self.picture, np.ndarray):
            return self.picture.shape[1], self.picture.shape[0]
        return self.presentation.size(self.picture.width, self.picture.height)

    @property
    def num_bytes(self) -> int:
        """The memory it occupies."""
        if isinstance(self.picture, np.ndarray):
            return self.picture.nbytes
        return sum(plane.buffer_size for plane in self.picture.planes)

    def rgb(self) -> Image:
        """(H, W, 3) uint8 RGB, contiguous."""
        if isinstance(self.picture, np.ndarray):
            return self.picture
        if self.presentation.tone_map is not None:
            return self.presentation.shown(self.presentation.tone_map.rgb(self.picture))
        picture = _converter().reformat(self.picture, format="rgb24", threads=1)
        return self.presentation.shown(picture.to_ndarray().view(np.uint8))

    def luma(self) -> npt.NDArray[np.uint8]:
        """(H, W) uint8: the first plane unchanged if there is one, so its range is the video's."""
        if isinstance(self.picture, np.ndarray):
            gray: npt.NDArray[np.uint8] = cv2.cvtColor(self.picture, cv2.COLOR_RGB2GRAY)
            return gray
        return self.presentation.shown(first_plane(self.picture))

    def part(self, box: Box, shrink: int = 1) -> "Frame":
        """The frame inside a box with even edges, averaged over `shrink` x `shrink` pixels; converts nothing.

        With `shrink` 1, its `rgb()` equals that part of the whole frame's.
        """
        left, top, right, bottom = box
        size = ((right - left) // shrink, (bottom - top) // shrink)
        if isinstance(self.picture, np.ndarray) or not self._can_cut:
            image = self.rgb()[top:bottom, left:right]
            image = image.copy() if shrink == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            return Frame(self.index, self.pts_seconds, image)
        orientation = self.presentation.orientation
        if orientation.transposed:
            size = size[::-1]
        return dataclasses.replace(self, picture=cut(self.picture, orientation.stored(box, *self.size), size))

    def turned(self) -> "Frame":
        """The frame upside down."""
        if isinstance(self.picture, np.ndarray):
            return dataclasses.replace(self, picture=np.ascontiguousarray(self.picture[::-1, ::-1]))
        orientation = self.presentation.orientation.turned()
        return dataclasses.replace(self, presentation=dataclasses.replace(self.presentation, orientation=orientation))

    @property
    def _can_cut(self) -> bool:
        """Whether a part has exactly the pixels of the whole."""
        return self.presentation.is_square and can_cut(self.picture)

    def signature(self) -> npt.NDArray[np.int16]:
        """Up to (16, 16) coarse samples of the first plane: enough to see a scene cut, next to nothing to compute."""
        plane = self.picture[:, :, 1] if isinstance(self.picture, np.ndarray) else first_plane(self.picture)
        step_y, step_x = (max(1, side // 16) for side in plane.shape)
        samples: npt.NDArray[np.int16] = plane[step_y // 2 :: step_y, step_x // 2 :: step_x][:16, :16].astype(np.int16)
        return samples


def _converter() -> VideoReformatter:
    if not hasattr(_KEPT, "converter"):
        _KEPT.converter = VideoReformatter()
    found: VideoReformatter = _KEPT.converter
    return found
