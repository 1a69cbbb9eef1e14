"""The meaning of a picture's numbers: the colour tags of video, and HDR converted for a normal screen.

HDR is converted here for all decoders: to light in nits, to the colours of BT.709, to a screen of gamma 2.4.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from mbert import InputError
from mbert.pipeline.video.planes import is_planar, samples
from mbert.shards.image import Image

# The names are those of FFmpeg, the numbers those of ITU-T H.273.
_TRANSFERS = {
    1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316",
    11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084",
    17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
_PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020", 10: "smpte428",
    11: "smpte431", 12: "smpte432", 22: "ebu3213",
}  # fmt: skip
_MATRICES = {
    0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc",
    10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp", 15: "ipt-c2",
    16: "ycgco-re", 17: "ycgco-ro",
}  # fmt: skip
_RANGES = {1: "limited", 2: "full"}
_UNSPECIFIED, _BT709, _BT601, _HLG, _PQ, _BT2020 = 2, 1, 6, 18, 16, 9
_CONVERTED = frozenset([0, 1, 2, 4, 5, 6, 7, 9, 10])  # matrices that can be undone

_DIFFUSE_WHITE = 203.0  # nits: the level of white paper in HDR in BT.2408
_SDR_WHITE = 100.0  # nits: white of SDR that was converted to HDR without making it brighter
_NOMINAL_PEAK = 1000.0  # nits
_KNEE = 0.75  # of white; brighter values are compressed if there are highlights
_PEAK_PERCENTILE = 99.9
_GAMMA = 2.4
_LEVELS = 4095  # steps of the tables
_TO_BT709 = np.array(  # light of BT.2020 primaries -> of BT.709 (BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMA_2020 = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
_LUMA_WEIGHTS = {_BT709: (0.2126, 0.0722), _BT601: (0.299, 0.114), _BT2020: (0.2627, 0.0593)}  # of red and blue

Numbers = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Colour:
    """The tags of a stream as names, None if the file does not say."""

    transfer: str | None = None
    primaries: str | None = None
    matrix: str | None = None
    range: str | None = None

    @classmethod
    def of(cls, picture: av.VideoFrame) -> "Colour":
        """The tags of a decoded picture."""
        is_full = picture.format.name.startswith("yuvj")  # indicated by their name
        return cls(
            _TRANSFERS.get(picture.color_trc),
            _PRIMARIES.get(picture.color_primaries),
            _MATRICES.get(picture.colorspace),
            "full" if is_full else _RANGES.get(picture.color_range),
        )


UNTOLD = Colour()


def check_colour(picture: av.VideoFrame) -> None:
    """Raises InputError if the colours of a picture cannot be shown correctly."""
    if picture.colorspace not in _CONVERTED:
        name = _MATRICES.get(picture.colorspace, str(picture.colorspace))
        raise InputError("unreadable", f"its colours are in the matrix {name}, which cannot be converted to RGB")
    side_data = {data.type.name for data in picture.side_data}  # type: ignore[attr-defined]  # an iterator of data
    if picture.color_trc == _UNSPECIFIED and side_data & {"DOVI_METADATA", "DOVI_RPU_BUFFER"}:
        raise InputError("unreadable", "is Dolby Vision without a picture for other screens (profile 5)")


def assumed_matrix(picture: av.VideoFrame) -> int:
    """The matrix of a picture; if the file does not say, as in players: BT.709 for HD, BT.601 below."""
    if picture.colorspace != _UNSPECIFIED or picture.format.is_rgb:
        return int(picture.colorspace)
    if picture.color_trc in (_HLG, _PQ):
        return _BT2020
    return _BT709 if picture.width >= 1280 or picture.height > 576 else _BT601


@dataclasses.dataclass(frozen=True, slots=True)
class ToneMap:
    """HDR (HLG or PQ) -> SDR with one curve for the whole input, so that nothing flickers."""

    transfer: int
    is_wide: bool  # primaries of BT.2020, not of BT.709
    white: float  # nits that map to white
    peak: float  # nits; above white there are highlights, which are compressed up to here

    @classmethod
    def of(cls, pictures: Iterable[av.VideoFrame]) -> "ToneMap | None":
        """The curve for an input, from some of its pictures; None if it is not HDR.

        An input without highlights that is nowhere brighter than the white of SDR was made from SDR, or is dark: its
        light is kept. In all others, white is where HDR has it.
        """
        found, brightest = None, 0.0
        for picture in pictures:
            if picture.color_trc not in (_HLG, _PQ):
                return None
            found = cls(picture.color_trc, picture.color_primaries in (_BT2020, _UNSPECIFIED), _SDR_WHITE, _SDR_WHITE)
            light = found._light(found._signal(picture))
            brightest = max(brightest, float(np.percentile(cv2.transform(light, _LUMA_2020), _PEAK_PERCENTILE)))
        if found is None or brightest <= 1.05 * _SDR_WHITE:
            return found
        has_highlights = brightest > 1.05 * _DIFFUSE_WHITE
        peak = max(_NOMINAL_PEAK, brightest) if has_highlights else _DIFFUSE_WHITE
        return dataclasses.replace(found, white=_DIFFUSE_WHITE, peak=peak)

    @property
    def remark(self) -> str:
        """A description of what was done."""
        name = "HLG" if self.transfer == _HLG else "PQ"
        return f"HDR ({name}) was tone-mapped, {self.white:.0f} nits to white"

    def rgb(self, picture: av.VideoFrame) -> Image:
        """(H, W, 3) uint8 RGB of a stored picture."""
        light = self._light(self._signal(picture))
        if self.is_wide:
            light = cv2.transform(light, _TO_BT709)
        light *= 1 / self.white
        if self.peak > self.white:
            light *= self._compression(light)
        roots = np.sqrt(np.clip(light, 0, 1, out=light), out=light)
        image: Image = _from_root()[(roots * _LEVELS + 0.5).astype(np.uint16)]
        return image

    def _compression(self, light: Numbers) -> Numbers:
        """The factor for each pixel, (H, W, 1), that maps the peak to white and keeps values below the knee."""
        level = np.maximum(light.max(axis=2, keepdims=True), 1e-6)
        room = 1 - _KNEE
        above = np.maximum(level - _KNEE, 0) / room
        bent = _KNEE + room * above / (1 + above * (1 - room / (self.peak / self.white - _KNEE)))
        factor: Numbers = np.where(level > _KNEE, bent / level, 1).astype(np.float32)
        return factor

    def _signal(self, picture: av.VideoFrame) -> npt.NDArray[np.uint16]:
        """R'G'B' as indices of the tables, (H, W, 3)."""
        if picture.format.is_rgb:
            rgb = picture.reformat(format="rgb48le", threads=1).to_ndarray()
            return (rgb.astype(np.uint32) * _LEVELS // 65535).astype(np.uint16)
        if not is_planar(picture) or len(picture.planes) < 3:
            picture = picture.reformat(format="yuv444p12le", threads=1)
        num_bits = picture.format.components[0].bits
        size = (picture.width, picture.height)
        luma, *chroma = (samples(plane, num_bits) for plane in picture.planes)
        blue, red = (cv2.resize(each, size, interpolation=cv2.INTER_NEAREST).astype(np.float32) for each in chroma)
        one = float(1 << (num_bits - 8))
        is_full = picture.color_range == 2 or picture.format.name.startswith("yuvj")
        black, luma_span, chroma_span = (0.0, 255 * one, 255 * one) if is_full else (16 * one, 219 * one, 224 * one)
        of_red, of_blue = _LUMA_WEIGHTS.get(picture.colorspace, _LUMA_WEIGHTS[_BT2020])
        y = (luma.astype(np.float32) - black) * (_LEVELS / luma_span)
        blue, red = ((each - 128 * one) * (_LEVELS / chroma_span) for each in (blue, red))
        red_part, blue_part = 2 * (1 - of_red) * red, 2 * (1 - of_blue) * blue
        green_part = (of_red * red_part + of_blue * blue_part) / (1 - of_red - of_blue)
        signal = cv2.merge([y + red_part, y - green_part, y + blue_part])
        found: npt.NDArray[np.uint16] = np.clip(signal + 0.5, 0, _LEVELS, out=signal).astype(np.uint16)
        return found

    def _light(self, signal: npt.NDArray[np.uint16]) -> Numbers:
        """Nits of R, G and B on a display of 1000 nits, (H, W, 3)."""
        light: Numbers = _to_light(self.transfer)[signal]
        if self.transfer == _HLG:  # the display's own gamma of 1.2 (BT.2100)
            scene = cv2.transform(light, _LUMA_2020)
            light *= (_NOMINAL_PEAK * np.maximum(scene, 1e-9) ** 0.2)[..., None]
        return light


@functools.cache
def _to_light(transfer: int) -> Numbers:
    """For each signal: for PQ the nits, for HLG the light of the scene from 0 to 1 (BT.2100)."""
    signal = np.linspace(0, 1, _LEVELS + 1)
    if transfer == _PQ:
        root = signal ** (32 / 2523)
        light = 10_000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    table: Numbers = light.astype(np.float32)
    return table


@functools.cache
def _from_root() -> Any:
    """For each square root of a share of white: the screen level, uint8."""
    root = np.linspace(0, 1, _LEVELS + 1)
    return (255 * root ** (2 / _GAMMA) + 0.5).astype(np.uint8)
