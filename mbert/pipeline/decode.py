"""Video file or frame folder -> frames in presentation order, with index and time."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt

from mbert import InputError
from mbert.pipeline.corpora.videos import Source, frame_files
from mbert.shards.image import Image


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame; converted to RGB only when asked."""

    index: int
    pts_seconds: float
    picture: Any  # av.VideoFrame, or an RGB array

    def rgb(self) -> Image:
        """(H, W, 3) uint8 RGB, upright (the file's rotation flag applied), contiguous."""
        if isinstance(self.picture, np.ndarray):
            return self.picture
        image = self.picture.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(image, (self.picture.rotation // 90) % 4))

    def signature(self) -> npt.NDArray[np.int16]:
        """(16, 16) coarse samples of the first plane: enough to see a scene cut, next to nothing to compute."""
        if isinstance(self.picture, np.ndarray):
            plane = self.picture[:, :, 1]
        else:
            first = self.picture.planes[0]
            plane = np.frombuffer(first, np.uint8).reshape(first.height, first.line_size)
        rows = np.linspace(0, plane.shape[0] - 1, 16).astype(int)
        columns = np.linspace(0, plane.shape[1] - 1, 16).astype(int)
        samples: npt.NDArray[np.int16] = plane[np.ix_(rows, columns)].astype(np.int16)
        return samples


@dataclasses.dataclass(kw_only=True, slots=True)
class StreamInfo:
    """What the header says, and, once the frames were read, what was found."""

    codec: str
    width: int
    height: int
    rotation: int = 0
    num_frames_from_header: int | None = None
    seconds_from_header: float | None = None
    num_frames: int = 0
    first_pts_seconds: float | None = None
    last_pts_seconds: float | None = None
    remarks: list[str] = dataclasses.field(default_factory=list)

    def saw(self, frame: Frame) -> None:
        """Take note of a decoded frame."""
        self.num_frames += 1
        self.last_pts_seconds = frame.pts_seconds
        if self.first_pts_seconds is None:
            self.first_pts_seconds = frame.pts_seconds

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


def open_source(source: Source, *, folder_fps: float, num_threads: int = 0) -> Decoder:
    """Open an input. Raises InputError with the status and the reason when it cannot be read.

    `folder_fps` is the frame rate of frame folders, which carry no time. `num_threads` 0 lets FFmpeg choose.
    """
    if source.kind == "frames":
        return FrameFolder(source.location, fps=folder_fps)
    return VideoFile(source.location, num_threads=num_threads)


class VideoFile:
    """A video file, decoded by PyAV; time is the presentation timestamp."""

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
            for index, picture in enumerate(self._pictures()):
                if index == 0:
                    self._note_geometry(picture)
                frame = Frame(index, self._time(index, picture), picture)
                self.info.saw(frame)
                yield frame
        finally:
            self._container.close()
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

    def _note_geometry(self, picture: av.VideoFrame) -> None:
        self.info.rotation = int(picture.rotation)
        turned = picture.rotation % 180 != 0
        self.info.width, self.info.height = (
            (picture.height, picture.width) if turned else (picture.width, picture.height)
        )

    def _time(self, index: int, picture: av.VideoFrame) -> float:
        if picture.time is not None:
            return float(picture.time)
        rate = self._stream.average_rate or self._stream.guessed_rate or 25
        return index / float(rate)


class FrameFolder:
    """A folder of images; the frame index is the last integer in the file name, gaps stay gaps."""

    def __init__(self, path: Path, *, fps: float) -> None:
        try:
            self._files = list(frame_files(path))
        except OSError as exc:
            raise InputError("unreadable", f"the folder cannot be read: {exc.strerror}") from exc
        if not self._files:
            raise InputError("empty", "the folder holds no numbered image")
        for (index, file), (next_index, next_file) in itertools.pairwise(self._files):
            if index == next_index:
                raise InputError(
                    "unreadable", f"two images have frame number {index}: {file.name} and {next_file.name}"
                )
        self._fps = fps
        self.info = StreamInfo(
            codec=self._files[0][1].suffix.lower().removeprefix("."),
            width=0,
            height=0,
            num_frames_from_header=len(self._files),
            seconds_from_header=(self._files[-1][0] - self._files[0][0]) / fps,
        )

    def __iter__(self) -> Iterator[Frame]:
        damaged = []
        for index, file in self._files:
            image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if file.stat().st_size else None
            if image is None:
                damaged.append(file.name)
                continue
            height, width = image.shape[:2]
            if not self.info.num_frames:
                self.info.width, self.info.height = width, height
            elif (width, height) != (self.info.width, self.info.height):
                raise InputError(
                    "unreadable",
                    f"{file.name} is {width}x{height}, the frames before it are {self.info.width}x{self.info.height}",
                )
            frame = Frame(index, index / self._fps, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            self.info.saw(frame)
            yield frame
        if damaged:
            self.info.remarks.append(f"{len(damaged)} images cannot be decoded, the first is {damaged[0]}")


def _refuse_empty(path: Path) -> None:
    try:
        if path.stat().st_size == 0:
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
            for _, file in frame_files(source.location):
                digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
                _hash_file(file, digest)
    except OSError:
        return None
    return digest.hexdigest()


def _hash_file(path: Path, digest: Any) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
