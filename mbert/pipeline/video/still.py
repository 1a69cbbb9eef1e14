"""One image file -> its pixels, upright, and what was done to get them.

Pillow and tifffile read the header, which selects the decoder: OpenCV is fast and keeps 16 bits, but gets some kinds of
TIFF wrong and does not support AVIF or HEIF. Kinds that no decoder gets right are refused by name.
"""

import dataclasses
import datetime
import io
import struct
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image as Pillow

from mbert import InputError
from mbert.pipeline.video.presentation import Orientation

UPRIGHT = 1
_ORIENTATION_TAG = 274
_EXIF_IFD, _TAKEN_TAG = 0x8769, 0x9003
ORIENTATIONS = {  # by EXIF number
    1: Orientation(),
    2: Orientation(flip_x=True),
    3: Orientation(flip_x=True, flip_y=True),
    4: Orientation(flip_y=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, flip_x=True),
    7: Orientation(transposed=True, flip_x=True, flip_y=True),
    8: Orientation(transposed=True, flip_y=True),
}
ROTATIONS = {3: 180, 6: -90, 8: 90}  # degrees, as for a video, of the orientations without mirroring
_DEPTHS = (8, 10, 12, 14, 16)
_HEIF = frozenset([".heic", ".heif", ".hif"])
_BY_PILLOW = _HEIF | {".avif"}
_TIFF = frozenset([".tif", ".tiff"])
_TIFF_COLOURS = frozenset(["MINISWHITE", "MINISBLACK", "RGB", "PALETTE", "SEPARATED", "YCBCR"])


@dataclasses.dataclass(frozen=True, slots=True)
class Still:
    """An image as stored, turned upright. `depths` are the bits per sample that it may have, ascending."""

    pixels: npt.NDArray[Any]  # (H, W) or (H, W, 3) RGB; uint8 or uint16
    orientation: int  # EXIF's number of what was undone
    depths: tuple[int, ...]
    done: tuple[str, ...]  # what else was done to the pixels


@dataclasses.dataclass(frozen=True, slots=True)
class StillHeader:
    """Facts from a header: width and height, upright, and when the image was taken, if stated."""

    size: tuple[int, int]
    taken: datetime.datetime | None


class DamagedImage(Exception):
    """An image that cannot be decoded, although its kind is supported."""


def read_header(file: Path) -> StillHeader | None:
    """The header of an image; None if it cannot be read. Raises InputError for an unsupported kind."""
    data = file.read_bytes()
    try:
        if file.suffix.lower() in _TIFF:
            page, orientation, _ = _tiff_header(file, data)
            width, height, taken = page.imagewidth, page.imagelength, None
        else:
            image = open_image(file, data)
            orientation = UPRIGHT if file.suffix.lower() in _HEIF else _orientation(image)
            (width, height), taken = image.size, _taken(image)
    except DamagedImage:
        return None
    size = (height, width) if ORIENTATIONS[orientation].transposed else (width, height)
    return StillHeader(size, taken)


def read_still(file: Path) -> Still:
    """Decode an image. Raises InputError for an unsupported kind, DamagedImage if it cannot be decoded."""
    data = file.read_bytes()
    suffix = file.suffix.lower()
    if suffix in _TIFF:
        return _read_tiff(file, data)
    image = open_image(file, data)
    orientation = _orientation(image)
    if suffix in _BY_PILLOW:
        pixels, done = flat_pixels(image)
        orientation = UPRIGHT if suffix in _HEIF else orientation  # libheif has already turned it
    else:
        pixels, done = _by_opencv(file, data)
        if image.mode == "CMYK":
            done = (*done, "CMYK converted to RGB without a profile")
    return Still(ORIENTATIONS[orientation].upright(pixels), orientation, _depths(pixels, data), done)


def open_image(file: Path, data: bytes) -> Any:
    """The header of an image, read by Pillow without decoding. Raises as `read_still`."""
    if file.suffix.lower() in _HEIF:
        _register_heif(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about images large enough to be an attack on a web server
            return Pillow.open(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError, struct.error, Pillow.DecompressionBombError) as exc:
        raise DamagedImage(f"{file.name}: {exc}") from exc


def _register_heif(file: Path) -> None:
    try:
        import pi_heif
    except ImportError as exc:
        raise InputError("unreadable", f"{file.name} is a HEIF image: pip install 'mbert[heif]'") from exc
    pi_heif.register_heif_opener()


def _orientation(image: Any) -> int:
    """EXIF's orientation; invalid values count as upright."""
    # For a PNG, reading EXIF decodes the image, unless the header already has it.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return UPRIGHT
    try:
        found = image.getexif().get(_ORIENTATION_TAG, UPRIGHT)
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return UPRIGHT
    return found if found in ORIENTATIONS else UPRIGHT


def _taken(image: Any) -> datetime.datetime | None:
    """When a camera took the image; frames of a video do not say."""
    if image.format not in ("JPEG", "MPO", "HEIF"):
        return None
    try:
        text = image.getexif().get_ifd(_EXIF_IFD).get(_TAKEN_TAG)
        return datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return None


def _by_opencv(file: Path, data: bytes) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DamagedImage(file.name)
    if pixels.ndim == 2:
        return pixels, ()
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), ()
    return _opaque(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))


def _opaque(rgba: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Pixels without their alpha: transparency is put on black."""
    most = np.iinfo(rgba.dtype).max
    alpha = rgba[:, :, 3:]
    if (alpha == most).all():
        return np.ascontiguousarray(rgba[:, :, :3]), ()
    mixed = (rgba[:, :, :3].astype(np.float32) * (alpha / np.float32(most))).round().astype(rgba.dtype)
    return mixed, ("transparent parts put on black",)


def flat_pixels(image: Any) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """The pixels of an opened image as gray or RGB, uint8, and what was done to them. Raises DamagedImage."""
    try:
        done = ("CMYK converted to RGB without a profile",) if image.mode == "CMYK" else ()
        if image.has_transparency_data:
            pixels, more = _opaque(np.asarray(image.convert("RGBA")))
            return pixels, (*done, *more)
        return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB")), done
    except (OSError, SyntaxError, ValueError, struct.error) as exc:
        raise DamagedImage(str(exc)) from exc


def _read_tiff(file: Path, data: bytes) -> Still:
    page, orientation, data = _tiff_header(file, data)
    bits = page.bitspersample
    if problem := _why_not_read(page):
        raise InputError("unreadable", f"{file.name} has {problem}: save it with 8 or 16 bits, gray or RGB")
    if bits <= 8:
        pixels, done = flat_pixels(open_image(file, data))
    else:
        pixels, done = _by_opencv(file, data)
        pixels = pixels >> (16 - bits)  # OpenCV moves them to the upper end
        if page.photometric.name == "MINISWHITE":
            pixels = ((1 << bits) - 1) - pixels
    pixels = ORIENTATIONS[orientation].upright(pixels)
    return Still(pixels, orientation, (bits,) if 8 < bits < 16 else _depths(pixels, b""), done)


def _tiff_header(file: Path, data: bytes) -> tuple[Any, int, bytes]:
    """The only page of a TIFF, its orientation, and the file without it, because only some decoders apply it."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page: Any = tiff.pages.first
            num_pages = max(len(tiff.pages), (tiff.imagej_metadata or {}).get("images", 1))
            order = tiff.byteorder
        tag = page.tags.get(_ORIENTATION_TAG)
    except (OSError, ValueError, KeyError, AttributeError, IndexError, struct.error, tifffile.TiffFileError) as exc:
        raise DamagedImage(f"{file.name}: {exc}") from exc
    if num_pages > 1:
        raise InputError("unreadable", f"{file.name} holds {num_pages} images; a frame is a file of its own")
    if tag is None or tag.value not in ORIENTATIONS:
        return page, UPRIGHT, data
    upright = bytearray(data)
    struct.pack_into(f"{order}H", upright, tag.valueoffset, UPRIGHT)
    return page, int(tag.value), bytes(upright)


def _why_not_read(page: Any) -> str | None:
    """What prevents reading a TIFF correctly, or None."""
    colours = page.photometric.name
    if page.dtype not in (np.uint8, np.uint16, np.bool_):
        return f"samples of type {page.dtype}, which state no range"
    if colours not in _TIFF_COLOURS:
        return f"{colours} colours"
    if page.bitspersample > 8 and page.samplesperpixel > 1 and page.planarconfig != 1:
        return "its colours in planes"
    if page.bitspersample == 16 and colours == "MINISWHITE":  # the range in which samples are inverted is unknown
        return "white at 0 in 16 bits"
    return None


def _depths(pixels: npt.NDArray[Any], data: bytes) -> tuple[int, ...]:
    """The bits per sample that an image may have: those stated in the file, or all that are padded to 16."""
    if pixels.dtype == np.uint8:
        return (8,)
    place = data.find(b"sBIT", 0, 4096)
    if data.startswith(b"\x89PNG") and place > 0:
        (length,) = struct.unpack_from(">I", data, place - 4)
        return tuple(sorted({max(data[place + 4 : place + 4 + length], default=16), 16}))
    place = data.find(b"\xff\x4f\xff\x51", 0, 65536)  # JPEG 2000: start, then the sizes; 8 numbers precede it
    if place >= 0 and 8 <= (bits := (data[place + 42] & 127) + 1) < 16:
        return (bits,)
    return _DEPTHS
