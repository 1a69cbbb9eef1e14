"""Video file -> frames in presentation order, with index and time; what every decoder gives."""

import dataclasses
import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, VideoReformatter

from mbert import InputError
from mbert.manifests.schema import TimesFrom
from mbert.pipeline.video.source import Source, image_names
from mbert.shards.image import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not in it


@dataclasses.dataclass(frozen=True, slots=True)
class Orientation:
    """How a stored picture has to be turned to stand upright: transposed first, then mirrored."""

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, picture: av.VideoFrame) -> "Orientation":
        """From the display matrix of a frame; only quarter turns and mirrors are known to players."""
        matrix = picture.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        xx, xy, _, yx, yy, *_ = np.frombuffer(matrix, np.int32)  # type: ignore[call-overload]  # x' = xx x + yx y, y' = xy x + yy y
        if abs(xy) > abs(xx):
            return cls(True, bool(yx < 0), bool(xy < 0))
        return cls(False, bool(xx < 0), bool(yy < 0))

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


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame; converted to RGB only when asked, and only as much of it."""

    index: int
    pts_seconds: float
    picture: Any  # av.VideoFrame, or an upright RGB array
    orientation: Orientation = Orientation()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, upright."""
        if isinstance(self.picture, np.ndarray):
            return self.picture.shape[1], self.picture.shape[0]
        width, height = self.picture.width, self.picture.height
        return (height, width) if self.orientation.transposed else (width, height)

    @property
    def num_bytes(self) -> int:
        """What it holds in memory."""
        if isinstance(self.picture, np.ndarray):
            return self.picture.nbytes
        return sum(plane.buffer_size for plane in self.picture.planes)

    def rgb(self) -> Image:
        """(H, W, 3) uint8 RGB, upright (the file's rotation and mirror flags applied), contiguous."""
        if isinstance(self.picture, np.ndarray):
            return self.picture
        picture = _CONVERTER.reformat(self.picture, format="rgb24", threads=1)
        return self.orientation.upright(picture.to_ndarray().view(np.uint8))

    def luma(self) -> npt.NDArray[np.uint8]:
        """(H, W) uint8, upright: the first plane as it is where there is one, so its range is the video's."""
        if isinstance(self.picture, np.ndarray):
            gray: npt.NDArray[np.uint8] = cv2.cvtColor(self.picture, cv2.COLOR_RGB2GRAY)
            return gray
        return self.orientation.upright(_pixels(self.picture.planes[0]))

    def part(self, box: Box, shrink: int = 1) -> "Frame":
        """The frame inside of a box whose edges are even, each `shrink` x `shrink` pixels averaged; converts nothing.

        With `shrink` 1, its `rgb()` is exactly the part of the whole frame's.
        """
        left, top, right, bottom = box
        size = ((right - left) // shrink, (bottom - top) // shrink)
        if isinstance(self.picture, np.ndarray) or not _can_cut(self.picture):
            image = self.rgb()[top:bottom, left:right]
            image = image.copy() if shrink == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            return Frame(self.index, self.pts_seconds, image)
        if self.orientation.transposed:
            size = size[::-1]
        picture = _cut(self.picture, self.orientation.stored(box, *self.size), size)
        return dataclasses.replace(self, picture=picture)

    def signature(self) -> npt.NDArray[np.int16]:
        """Up to (16, 16) coarse samples of the first plane: enough to see a scene cut, next to nothing to compute."""
        plane = self.picture[:, :, 1] if isinstance(self.picture, np.ndarray) else _high_bytes(self.picture)
        step_y, step_x = (max(1, side // 16) for side in plane.shape)
        samples: npt.NDArray[np.int16] = plane[step_y // 2 :: step_y, step_x // 2 :: step_x][:16, :16].astype(np.int16)
        return samples


@dataclasses.dataclass(kw_only=True, slots=True)
class StreamInfo:
    """What the header says, and, once the frames were read, what was found."""

    codec: str
    width: int
    height: int
    rotation: int = 0
    num_frames_from_header: int | None = None
    bit_depth: int | None = None
    times_from: TimesFrom | None = None
    seconds_from_header: float | None = None
    num_frames: int = 0
    first_frame: int | None = None  # indices
    last_frame: int | None = None
    first_pts_seconds: float | None = None
    last_pts_seconds: float | None = None
    remarks: list[str] = dataclasses.field(default_factory=list)

    def saw(self, frame: Frame) -> None:
        """Take note of a decoded frame."""
        self.num_frames += 1
        self.last_frame, self.last_pts_seconds = frame.index, frame.pts_seconds
        if self.first_pts_seconds is None:
            self.first_frame, self.first_pts_seconds = frame.index, frame.pts_seconds

    @property
    def seconds(self) -> float:
        """Presentation time from the first to the last decoded frame."""
        if self.first_pts_seconds is None or self.last_pts_seconds is None:
            return 0.0
        return self.last_pts_seconds - self.first_pts_seconds

    @property
    def fps(self) -> float | None:
        """Mean rate of the decoded frames; headers lie about it."""
        return (self.num_frames - 1) / self.seconds if self.seconds > 0 else None


class Decoder(Protocol):
    """An opened input: iterate it once for its frames, `info` is complete afterwards."""

    info: StreamInfo

    def __iter__(self) -> Iterator[Frame]: ...


_CONVERTER = VideoReformatter()  # one, because it keeps its tables from frame to frame
_PLANAR = frozenset(["yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"])


def _pixels(plane: Any, sample: type[Any] = np.uint8) -> npt.NDArray[Any]:
    """The first samples of a plane's rows, without the padding, (height, width): a view."""
    samples = np.frombuffer(plane, sample)
    return samples.reshape(-1, plane.line_size // samples.itemsize)[: plane.height, : plane.width]


def _high_bytes(picture: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """The first plane in 8 bits; of samples with more bits, the low ones are noise."""
    plane, num_bits = picture.planes[0], picture.format.components[0].bits
    if num_bits <= 8:
        return _pixels(plane)
    samples = _pixels(plane, np.uint16)
    high: npt.NDArray[np.uint8] = (samples >> (num_bits - 8)).astype(np.uint8)
    return high


def _can_cut(picture: av.VideoFrame) -> bool:
    """Whether the planes can be cut at even places, so that a part gives the pixels of the whole."""
    return picture.format.name in _PLANAR and picture.width % 2 == picture.height % 2 == 0


def _cut(picture: av.VideoFrame, box: Box, size: tuple[int, int]) -> av.VideoFrame:
    """Cut and average the planes: a face is a small part of most frames."""
    left, top, right, bottom = box
    is_whole = size == (right - left, bottom - top)
    part = av.VideoFrame(*size, picture.format.name if is_whole else "yuv444p")
    part.colorspace, part.color_range = picture.colorspace, picture.color_range
    if picture.format.name.startswith("yuvj"):  # these say by their name that they use all of 0-255
        part.color_range = int(ColorRange.JPEG)
    for source, target in zip(picture.planes, part.planes, strict=True):
        step_x, step_y = picture.width // source.width, picture.height // source.height
        pixels = _pixels(source)[top // step_y : bottom // step_y, left // step_x : right // step_x]
        _pixels(target)[:] = pixels if is_whole else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return part


class VideoFile:
    """A video file, decoded by PyAV; time is the presentation timestamp. `num_threads` 0 lets FFmpeg choose.

    Raises InputError with the status and the reason when it cannot be read.
    """

    def __init__(self, path: Path, *, num_threads: int = 0) -> None:
        _refuse_empty(path)
        try:
            self._container = av.open(str(path))
        except (av.error.FFmpegError, OSError, ValueError) as exc:
            raise InputError("unreadable", f"cannot be opened as a video: {_message(exc)}") from exc
        if not self._container.streams.video:
            self._container.close()
            raise InputError("no_video", "holds no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        context = self._stream.codec_context
        context.thread_count = num_threads
        self.info = StreamInfo(
            codec=context.name,
            width=context.width,
            height=context.height,
            num_frames_from_header=self._stream.frames or None,
            seconds_from_header=self._header_seconds(),
        )

    def _header_seconds(self) -> float | None:
        if self._stream.duration and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        return self._container.duration / av.time_base if self._container.duration else None

    def __iter__(self) -> Iterator[Frame]:
        try:
            orientation = Orientation()
            seconds: float | None = None
            damaged: list[int] = []
            for index, picture in enumerate(self._pictures()):
                if index == 0:
                    orientation = Orientation.of(picture)
                seconds = self._time(picture, seconds)
                frame = Frame(index, seconds, picture, orientation)
                if index == 0:
                    self.info.rotation = int(picture.rotation)
                    self.info.width, self.info.height = frame.size
                if picture.is_corrupt:
                    damaged.append(index)
                self.info.saw(frame)
                yield frame
        finally:
            self._container.close()
        if damaged:
            self.info.remarks.append(f"{len(damaged)} frames are damaged, the first is frame {damaged[0]}")
        claimed = self.info.num_frames_from_header
        if claimed and claimed != self.info.num_frames:
            self.info.remarks.append(f"the header says {claimed} frames, {self.info.num_frames} decode")

    def _pictures(self) -> Iterator[av.VideoFrame]:
        """Every frame that decodes; a damaged packet is passed over and remarked."""
        num_errors, message = 0, ""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                pictures = packet.decode()
            except StopIteration:
                break
            except av.error.EOFError:
                break
            except av.error.FFmpegError as exc:
                num_errors, message = num_errors + 1, _message(exc)
                if num_errors > 1000:  # a reader that cannot advance must not go on for ever
                    break
                continue
            yield from pictures
        if num_errors:
            self.info.remarks.append(f"{num_errors} packets could not be decoded: {message}")

    def _time(self, picture: av.VideoFrame, last: float | None) -> float:
        """Presentation time in seconds; it always grows, as the frames come in the order of presentation."""
        # AVI stores no presentation times. Those that are filled in are wrong where frames are reordered.
        ticks = picture.dts if self._container.format.name == "avi" else picture.pts
        seconds = None if ticks is None or picture.time_base is None else float(ticks * picture.time_base)
        if seconds is None or (last is not None and seconds <= last):  # without times, or damaged
            return 0.0 if last is None else last + float(1 / (self._stream.guessed_rate or 25))
        return seconds


def _refuse_empty(path: Path) -> None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise InputError("unreadable", "is not a regular file")
        if status.st_size == 0:
            raise InputError("empty", "the file has no bytes")
    except OSError as exc:
        raise InputError("unreadable", f"cannot be read: {exc.strerror}") from exc


def _message(exc: Exception) -> str:
    return str(getattr(exc, "strerror", None) or exc)


def content_hash(source: Source) -> str | None:
    """SHA-256 of a file, or of the names and bytes of a frame folder's images; None when it cannot be read."""
    digest = hashlib.sha256()
    try:
        if source.kind == "video":
            _hash_file(source.location, digest)
        else:
            for name in image_names(source.location):
                digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
                _hash_file(source.location / name, digest)
    except OSError:
        return None
    return digest.hexdigest()


def _hash_file(path: Path, digest: Any) -> None:
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
