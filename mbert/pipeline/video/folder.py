"""Frame folder -> frames in presentation order, with index and time, upright and in 8 bits."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mbert import InputError
from mbert.pipeline.video.decode import StreamInfo
from mbert.pipeline.video.frame import Frame
from mbert.pipeline.video.numbering import number_images
from mbert.pipeline.video.source import image_names
from mbert.pipeline.video.still import ROTATIONS, UPRIGHT, DamagedImage, Still, read_header, read_still
from mbert.shards.image import Image

ASSUMED_FPS = 30.0
_SAMPLED = 32  # images checked for the most common size, and first for their samples
_APART_SECONDS = 10.0  # tolerance between the times when images were taken and the frames' own


class FrameFolder:
    """A folder of images; the frame index is the number in their names, gaps stay gaps.

    `fps` is the frame rate, which images do not carry; None: the times in their names, else 30. `bit_depth` is that of
    samples padded to 16 bits; None: the smallest that holds all samples in the folder. Raises InputError like
    `VideoFile`, also during iteration.
    """

    def __init__(self, path: Path, *, fps: float | None = None, bit_depth: int | None = None) -> None:
        try:
            names = image_names(path)
        except OSError as exc:
            raise InputError("unreadable", f"the folder cannot be read: {exc.strerror}") from exc
        series = number_images(names)
        self._files = [path / name for name in series.names]
        self._indices = series.indices
        told = series.seconds if fps is None else None
        rate = fps or ASSUMED_FPS
        self._seconds = told or [tick / rate for tick in series.clock or series.indices]
        self._bit_depth = bit_depth
        self.info = StreamInfo(
            codec=self._files[0].suffix.lower().removeprefix("."),
            width=0,
            height=0,
            num_frames_from_header=len(self._files),
            seconds_from_header=self._seconds[-1] - self._seconds[0],
            times_from="names" if told else "assumed" if fps is None else "fps",
            remarks=list(series.remarks),
        )

    def __iter__(self) -> Iterator[Frame]:
        self._expect()
        left, done = _LeftOut(len(self._files)), _Done()
        table = None  # from 16 bits to 8
        for index, seconds, file in zip(self._indices, self._seconds, self._files, strict=True):
            try:
                still = read_still(file)
            except DamagedImage:
                left.damaged.append(file.name)
                continue
            height, width = still.pixels.shape[:2]
            if not self.info.width:
                self.info.width, self.info.height = width, height
            if (width, height) != (self.info.width, self.info.height):
                left.add_odd(file.name, f"{width}x{height}", f"{self.info.width}x{self.info.height}")
                continue
            done.take(still)
            if still.pixels.dtype == np.uint16 and table is None:
                table = self._table(still.depths)
            frame = Frame(index, seconds, _rgb(still.pixels, table, file))
            self.info.bit_depth = self.info.bit_depth or 8
            self.info.saw(frame)
            yield frame
        self.info.rotation = done.rotation
        self.info.remarks += [*done.remarks(), *left.remarks()]

    def _expect(self) -> None:
        """Set the size that most images have. Raises InputError if the headers show that they are photos."""
        found = []
        for place in _spread(len(self._files)):
            if header := read_header(self._files[place]):
                found.append((self._seconds[place], header))
        if found:
            self.info.width, self.info.height = Counter(header.size for _, header in found).most_common(1)[0][0]
        taken = [(seconds, time) for seconds, header in found if (time := header.taken) is not None]
        for (before, earlier), (after, later) in itertools.pairwise(taken):
            apart = abs((later - earlier).total_seconds())
            if self.info.times_from == "assumed" and apart > _APART_SECONDS + 2 * (after - before):
                raise InputError(
                    "no_video",
                    f"the images were taken {apart:.0f} s apart: they are photos, and no recording at "
                    f"{ASSUMED_FPS:g} frames per second; if they are one, --fps names its rate",
                )

    def _table(self, depths: tuple[int, ...]) -> npt.NDArray[np.int16]:
        """The table from 16-bit samples to 8 bits, one scale for the whole folder; -1 beyond it. Sets the bit depth."""
        if self._bit_depth is not None:
            depths = (self._bit_depth,)
        depth = self.info.bit_depth = depths[0]
        if len(depths) > 1:
            largest, used = _samples_of(self._files, enough=1 << depths[-2])
            depth = next(depth for depth in depths if largest < 1 << depth)
            self.info.bit_depth = depth
            if depth == depths[-1]:
                lowest = (used & -used).bit_length() - 1  # lowest bit in use
                self.info.bit_depth = depths[0] if len(depths) == 2 else max(depths[0], depth - lowest // 2 * 2)
            elif len(depths) > 2:
                self.info.remarks.append(
                    f"samples padded to 16 bits reach {largest}: taken as {depth} bits, though a dark input of more "
                    "bits looks the same; --bit-depth names another depth"
                )
        values = np.arange(1 << 16)
        table = (values * (255.0 / ((1 << depth) - 1))).round()
        return np.where(values < 1 << depth, table, -1).astype(np.int16)


@dataclasses.dataclass(slots=True)
class _Done:
    """What was done, and to how many images."""

    orientations: Counter[int] = dataclasses.field(default_factory=Counter)
    bits: Counter[int] = dataclasses.field(default_factory=Counter)
    others: Counter[str] = dataclasses.field(default_factory=Counter)

    def take(self, still: Still) -> None:
        self.orientations[still.orientation] += 1
        self.bits[8 * still.pixels.itemsize] += 1
        self.others.update(still.done)

    @property
    def rotation(self) -> int:
        """Degrees, as for a video, if all images were turned alike."""
        return ROTATIONS.get(next(iter(self.orientations)), 0) if len(self.orientations) == 1 else 0

    def remarks(self) -> Iterator[str]:
        for number, count in sorted(self.orientations.items()):
            if number != UPRIGHT:
                yield f"{_images(count)} turned upright by EXIF orientation {number}"
        if len(self.bits) > 1:
            yield f"{_images(self.bits[8])} of 8 bits among those of 16"
        for what, count in sorted(self.others.items()):
            yield f"{what} in {_images(count)}"


@dataclasses.dataclass(slots=True)
class _LeftOut:
    """Images that yield no frame."""

    num_images: int
    damaged: list[str] = dataclasses.field(default_factory=list)
    odd: list[str] = dataclasses.field(default_factory=list)

    def add_odd(self, name: str, size: str, usual: str) -> None:
        """Raises InputError when more than one in eight images has another size."""
        self.odd.append(f"{name} is {size}, most images are {usual}")
        if len(self.odd) * 8 > self.num_images:
            raise InputError("unreadable", f"the images differ in size: {self.odd[0]}")

    def remarks(self) -> Iterator[str]:
        if self.damaged:
            yield f"{len(self.damaged)} images cannot be decoded, the first is {self.damaged[0]}"
        if self.odd:
            yield f"{_images(len(self.odd))} of another size left out: {self.odd[0]}"


def _spread(total: int) -> range:
    """Evenly spread places among `total`, starting with the first."""
    return range(0, total, max(1, -(-total // _SAMPLED)))


def _samples_of(files: Sequence[Path], *, enough: int) -> tuple[int, int]:
    """The largest of all 16-bit samples, and which bits are in use. Stops when a sample reaches `enough`."""
    sampled = _spread(len(files))
    largest = used = 0
    for place in (*sampled, *(place for place in range(len(files)) if place not in sampled)):
        if largest >= enough and place not in sampled:
            break
        try:
            pixels = read_still(files[place]).pixels
        except DamagedImage:
            continue
        if pixels.dtype == np.uint16:
            largest, used = max(largest, int(pixels.max())), used | int(np.bitwise_or.reduce(pixels, axis=None))
    return largest, used


def _rgb(pixels: npt.NDArray[Any], table: npt.NDArray[np.int16] | None, file: Path) -> Image:
    """(H, W, 3) uint8. Raises InputError for samples beyond the table."""
    if pixels.dtype == np.uint16:
        assert table is not None
        values = table[pixels]
        if values.min() < 0:
            raise InputError(
                "unreadable", f"{file.name} has samples up to {pixels.max()}, more than the bit depth holds"
            )
        pixels = values.astype(np.uint8)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
