"""The apex of an expression without an annotated one: the frame that has moved most since the onset."""

from collections.abc import Sequence

import cv2
import numpy as np

from mbert.shards.image import Image
from mbert.shards.optical_flow import optical_flow

_SIDE = 112  # pixels: enough for a motion of a pixel of the crop, at a quarter of the time
_PERCENTILE = 95  # of the motion over the face, of which a brow is a twentieth
_SMOOTHED = 3  # frames over which the motion is averaged, so that noise in one frame is not decisive


def spot_apex(crops: Sequence[Image]) -> int:
    """Position of the apex among crops from onset to offset, at least 1; the length of the optical flow decides.

    (H, W, 3) uint8 RGB each; at least two. Except in short expressions, frames near both ends, which the average over
    neighbours leaves out, are never the apex.
    """
    small = [cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for crop in crops]
    motion = [0.0]
    for crop in small[1:]:
        length = np.linalg.norm(optical_flow(small[0], crop), axis=-1)
        motion.append(float(np.percentile(length, _PERCENTILE)))
    if len(motion) < _SMOOTHED + 2:
        return max(1, int(np.argmax(motion)))
    averaged = np.convolve(motion, np.full(_SMOOTHED, 1 / _SMOOTHED), mode="valid")
    return int(np.argmax(averaged)) + _SMOOTHED // 2
