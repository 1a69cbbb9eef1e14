"""One picture that shows what an input is, for people who wonder why it was rejected."""

import itertools

import numpy as np

from mbert.pipeline.video.decode import Decoder
from mbert.shards.image import Image

_MOST_FRAMES = 25  # that are checked: recordings often begin black
_PLAIN = 8.0  # standard deviation of the luma below which a picture shows nothing


def telling_frame(decoder: Decoder) -> tuple[int, Image] | None:
    """The first frame that is not plain, else the least plain of the first ones: its index and (H, W, 3) uint8 RGB.

    None if no frame can be decoded. Raises InputError if the input cannot be read.
    """
    best, most = None, -1.0
    for frame in itertools.islice(decoder, _MOST_FRAMES):
        contrast = float(np.std(frame.luma()[::4, ::4]))
        if contrast > most:
            best, most = frame, contrast
        if contrast > _PLAIN:
            break
    return None if best is None else (best.index, best.rgb())
