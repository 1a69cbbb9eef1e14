"""The planes of a decoded picture: read, cut and filled without converting it."""

from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are excluded

# One sample per plane and pixel, in native order: 8 bits in a byte, more in two.
_EIGHT = frozenset(
    f"yuv{full}{sampling}p" for full in ("", "j") for sampling in ("410", "411", "420", "422", "440", "444")
) | {"gray"}
_MORE = frozenset(
    f"{kind}{bits}le" for kind in ("gray", "yuv420p", "yuv422p", "yuv440p", "yuv444p") for bits in (10, 12)
) | {"gray16le"}
PACKED = {"rgb24": 3, "rgb48le": 6}  # bytes per pixel
# Formats that may be requested from ffmpeg, by every version's names.
PIPED = ("rgb24", "rgb48le", *sorted(_EIGHT - {"yuvj410p"}), *sorted(_MORE))


def is_planar(picture: av.VideoFrame) -> bool:
    """Whether `samples` can read its planes."""
    return picture.format.name in _EIGHT or picture.format.name in _MORE


def in_eight_bits(picture: av.VideoFrame) -> av.VideoFrame:
    """A picture with more than 8 bits per sample, rounded to 8; any other unchanged."""
    name = picture.format.name
    if name not in _MORE:
        return picture
    num_bits = picture.format.components[0].bits
    eight = av.VideoFrame(picture.width, picture.height, name.removesuffix(f"{num_bits}le"))
    copy_tags(picture, eight)
    is_full = picture.color_range == 2 or len(picture.planes) == 1
    scale = 255 / ((1 << num_bits) - 1) if is_full else 1 / (1 << (num_bits - 8))
    for number, (source, target) in enumerate(zip(picture.planes, eight.planes, strict=True)):
        zero = 128 - (scale * (1 << (num_bits - 1))) if number else 0.0  # of chroma
        samples(target)[:] = cv2.convertScaleAbs(samples(source, num_bits), alpha=scale, beta=zero)
    return eight


def samples(plane: Any, num_bits: int = 8) -> npt.NDArray[Any]:
    """The samples of a plane without the padding of its rows, (height, width) uint8 or uint16: a view."""
    values = np.frombuffer(plane, np.uint8 if num_bits <= 8 else np.uint16)
    return values.reshape(-1, plane.line_size // values.itemsize)[: plane.height, : plane.width]


def first_plane(picture: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """The first plane in 8 bits, luma if there is one; with more bits, the low ones are noise."""
    plane, num_bits = picture.planes[0], picture.format.components[0].bits
    values = samples(plane, num_bits)
    if num_bits <= 8:
        return values
    high: npt.NDArray[np.uint8] = (values >> (num_bits - 8)).astype(np.uint8)
    return high


def can_cut(picture: av.VideoFrame) -> bool:
    """Whether the planes can be cut at even places and averaged."""
    step_x, step_y = _steps(picture)
    return is_planar(picture) and max(step_x, step_y) <= 2 and picture.width % 2 == picture.height % 2 == 0


def cut(picture: av.VideoFrame, box: Box, size: tuple[int, int]) -> av.VideoFrame:
    """The part of a picture inside a box with even edges, averaged to a size; tags are kept."""
    left, top, right, bottom = box
    is_whole = size == (right - left, bottom - top)
    name, num_bits = picture.format.name, picture.format.components[0].bits
    if not is_whole and len(picture.planes) > 1:
        name = "yuv444p" + ("" if num_bits == 8 else f"{num_bits}le")
    part = av.VideoFrame(*size, name)
    copy_tags(picture, part)
    for source, target in zip(picture.planes, part.planes, strict=True):
        step_x, step_y = picture.width // source.width, picture.height // source.height
        pixels = samples(source, num_bits)[top // step_y : bottom // step_y, left // step_x : right // step_x]
        samples(target, num_bits)[:] = pixels if is_whole else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return part


def copy_tags(source: av.VideoFrame, target: av.VideoFrame) -> None:
    """Give a picture the colour tags of another."""
    target.colorspace, target.color_range = source.colorspace, source.color_range
    target.color_trc, target.color_primaries = source.color_trc, source.color_primaries
    if source.format.name.startswith("yuvj"):  # the name says that they use all of 0-255
        target.color_range = 2


def num_raw_bytes(picture: av.VideoFrame) -> int:
    """The number of bytes of a picture's samples, without padding."""
    return sum(plane.height * _row_bytes(picture, plane) for plane in picture.planes)


def fill(picture: av.VideoFrame, raw: npt.NDArray[np.uint8]) -> None:
    """Copy the samples of all planes, one after the other and without padding, into a picture."""
    start = 0
    for plane in picture.planes:
        row = _row_bytes(picture, plane)
        stop = start + plane.height * row
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)  # type: ignore[call-overload]  # a buffer
        rows[: plane.height, :row] = raw[start:stop].reshape(-1, row)
        start = stop


def _row_bytes(picture: av.VideoFrame, plane: Any) -> int:
    name = picture.format.name
    width: int = plane.width
    return width * PACKED.get(name, 2 if name in _MORE else 1)


def _steps(picture: av.VideoFrame) -> tuple[int, int]:
    """How many pixels a sample of the last plane covers, across and down."""
    plane = picture.planes[-1]
    return -(-picture.width // plane.width), -(-picture.height // plane.height)
