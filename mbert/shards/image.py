"""The image codec of all shards: JPEG without chroma subsampling, by default with quality 95."""

import numpy as np
import numpy.typing as npt
import simplejpeg

from mbert import ShardError

JPEG_QUALITY = 95
JPEG_SUBSAMPLING = "444"

Image = npt.NDArray[np.uint8]


def encode_jpeg(image: Image, quality: int = JPEG_QUALITY) -> bytes:
    """Encode (H, W, 3) uint8 RGB; quality from 1 to 100."""
    return bytes(
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(image), quality=quality, colorspace="RGB", colorsubsampling=JPEG_SUBSAMPLING
        )
    )


def decode_jpeg(data: bytes | memoryview, *, into: Image | None = None) -> Image:
    """Decode to (H, W, 3) uint8 RGB; raises ShardError if the bytes are not a JPEG.

    With `into`, an image of the same size is decoded into that memory: allocation costs a tenth of decoding.
    """
    try:
        if into is not None and simplejpeg.decode_jpeg_header(data)[:2] != into.shape[:2]:
            into = None
        image: Image = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=into)
    except ValueError as exc:
        raise ShardError(f"not a JPEG: {exc}") from exc
    return image
