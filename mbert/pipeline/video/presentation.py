"""How stored pictures must be shown: their orientation, the width of their pixels, which eye, which colours."""

import dataclasses
from fractions import Fraction

import av
import cv2
import numpy as np

from mbert import InputError
from mbert.manifests.schema import Packing
from mbert.pipeline.video.colour import ToneMap
from mbert.pipeline.video.planes import Box, can_cut, copy_tags, cut
from mbert.shards.image import Image

_BELIEVABLE = Fraction(4)  # no anamorphic format has wider or higher pixels
_SQUARE = 0.005  # a pixel with less deviation is square
_PACKINGS = {1: "side by side", 2: "one above the other"}  # of AVStereo3D.type; the others interleave the eyes
_SQUEEZED = 1.2, 1.95  # width by height of a packed picture whose halves are squeezed to fit a usual screen


@dataclasses.dataclass(frozen=True, slots=True)
class Orientation:
    """How to turn a stored picture upright: transpose first, then mirror."""

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, picture: av.VideoFrame) -> "Orientation":
        """From the display matrix of a frame; players only support quarter turns and mirroring."""
        matrix = picture.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        xx, xy, _, yx, yy, *_ = np.frombuffer(matrix, np.int32)  # type: ignore[call-overload]  # x' = xx x + yx y, y' = xy x + yy y
        if abs(xy) > abs(xx):
            return cls(True, bool(yx < 0), bool(xy < 0))
        return cls(False, bool(xx < 0), bool(yy < 0))

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right are swapped, apart from any turn."""
        return self.transposed ^ self.flip_x ^ self.flip_y

    def turned(self) -> "Orientation":
        """The same, then upside down."""
        return dataclasses.replace(self, flip_x=not self.flip_x, flip_y=not self.flip_y)

    def upright(self, image: Image) -> Image:
        """Turn a picture, (H, W) or (H, W, 3); contiguous."""
        image = image.swapaxes(0, 1) if self.transposed else image
        image = image[:, ::-1] if self.flip_x else image
        return np.ascontiguousarray(image[::-1] if self.flip_y else image)

    def stored(self, box: Box, width: int, height: int) -> Box:
        """The box of the stored picture that shows a box of the upright one, which is `width` x `height`."""
        left, top, right, bottom = box
        if self.flip_y:
            top, bottom = height - bottom, height - top
        if self.flip_x:
            left, right = width - right, width - left
        return (top, left, bottom, right) if self.transposed else (left, top, right, bottom)


AS_STORED = Orientation()


@dataclasses.dataclass(frozen=True, slots=True)
class Presentation:
    """What is done to each stored picture of an input before it is used."""

    orientation: Orientation = AS_STORED
    aspect: Fraction = Fraction(1)  # width of a stored pixel by its height
    tone_map: ToneMap | None = None
    packing: Packing | None = None  # for stereo: the first of the two pictures, the left eye's, is used

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height, upright and of square pixels, of a stored picture."""
        aspect = self.aspect
        if self.orientation.transposed:
            width, height, aspect = height, width, 1 / aspect
        return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))

    def shown(self, image: Image) -> Image:
        """Turn a stored image, (H, W) or (H, W, 3), and make its pixels square; contiguous."""
        size = self.size(image.shape[1], image.shape[0])
        image = self.orientation.upright(image)
        if size == (image.shape[1], image.shape[0]):
            return image
        wide: Image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        return wide

    @property
    def is_square(self) -> bool:
        """Whether the stored pixels are as wide as high."""
        return self.aspect == 1

    def one_eye(self, picture: av.VideoFrame) -> av.VideoFrame:
        """The half of a packed stereo picture that is used; any other picture unchanged."""
        if self.packing is None:
            return picture
        width, height = picture.width, picture.height
        if self.packing == "side by side":
            width = width // 4 * 2
        else:
            height = height // 4 * 2
        if can_cut(picture):
            return cut(picture, (0, 0, width, height), (width, height))
        name = "rgb24" if self.tone_map is None else "rgb48le"
        half = np.ascontiguousarray(picture.reformat(format=name, threads=1).to_ndarray()[:height, :width])
        eye = av.VideoFrame.from_ndarray(half, name)
        copy_tags(picture, eye)
        eye.color_range = 2
        return eye


PLAIN = Presentation()


def believable_aspect(aspect: Fraction | None) -> tuple[Fraction, str | None]:
    """The pixel aspect that a file states, and a remark if it cannot be right; 1 if it states none."""
    if aspect is None or aspect <= 0 or abs(float(aspect) - 1) < _SQUARE:
        return Fraction(1), None
    if not 1 / _BELIEVABLE <= aspect <= _BELIEVABLE:
        told = f"{aspect.numerator}:{aspect.denominator}"
        return Fraction(1), f"pixels of {told} cannot be right: they are taken for square"
    return aspect, None


def packing_of(picture: av.VideoFrame) -> Packing | None:
    """How a stereo picture is packed, according to the file. Raises InputError if it cannot be separated."""
    data = picture.side_data.get("STEREO3D")
    if data is None:
        return None
    kind = int(np.frombuffer(data, np.int32)[0])  # type: ignore[call-overload]
    if kind == 0:
        return None
    if kind not in _PACKINGS:
        raise InputError("unreadable", "is stereo whose two pictures are interleaved, which cannot be taken apart")
    return _PACKINGS[kind]  # type: ignore[return-value]


def eye_aspect(packing: Packing, aspect: Fraction, width: int, height: int) -> Fraction:
    """The pixel aspect of one eye. Pictures of a usual shape hold two that are squeezed to half."""
    low, high = _SQUEEZED
    if not low <= float(width * aspect / height) <= high:
        return aspect
    return aspect * 2 if packing == "side by side" else aspect / 2
