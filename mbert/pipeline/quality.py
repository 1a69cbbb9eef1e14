"""How good a crop or a clip is: pure functions."""

from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt

from mbert.shards.image import Image

# The bridge and root of the nose: skin on bone, the least moved by expressions. In crop widths.
_RIGID_REGION = (0.34, 0.28, 0.66, 0.60)

Luma = npt.NDArray[np.uint8]


def luma(crop: Image) -> Luma:
    """(H, W) uint8 luma of an RGB crop."""
    gray: Luma = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return gray


def sharpness(gray: Luma) -> float:
    """Variance of the Laplacian: low for blurred crops; depends on content, so compare within a corpus."""
    return float(cv2.Laplacian(gray, cv2.CV_16S).var())


def rigid_region(gray: Luma) -> npt.NDArray[np.float32]:
    """The part of a crop in which motion means that the alignment moved."""
    height, width = gray.shape
    left, top, right, bottom = _RIGID_REGION
    region = gray[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    return region.astype(np.float32)


def jitter_px(regions: Iterable[npt.NDArray[np.float32]]) -> float | None:
    """RMS motion between consecutive rigid regions by sub-pixel phase correlation; None for fewer than two."""
    squares = []
    previous = window = None
    for region in regions:
        if previous is not None:
            if window is None:
                window = cv2.createHanningWindow(region.shape[::-1], cv2.CV_32F)
            (shift_x, shift_y), _ = cv2.phaseCorrelate(previous, region, window)
            squares.append(shift_x**2 + shift_y**2)
        previous = region
    return float(np.sqrt(np.mean(squares))) if squares else None
