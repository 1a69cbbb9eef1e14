"""Video file -> frames in presentation order, with index and time; the output of every decoder."""

import dataclasses
import stat
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import av.error

from mbert import InputError
from mbert.manifests.schema import Packing, TimesFrom
from mbert.pipeline.video.colour import UNTOLD, Colour, ToneMap, assumed_matrix, check_colour
from mbert.pipeline.video.frame import Frame
from mbert.pipeline.video.planes import in_eight_bits
from mbert.pipeline.video.presentation import (
    PLAIN,
    Orientation,
    Presentation,
    believable_aspect,
    eye_aspect,
    packing_of,
)
from mbert.pipeline.video.streams import Timing, choose_stream, message_of, open_container, timing_of
from mbert.pipeline.video.timing import Clock


@dataclasses.dataclass(kw_only=True, slots=True)
class StreamInfo:
    """Facts from the header and, once the frames were read, what was found and what was done to each picture."""

    codec: str
    width: int  # upright, of square pixels
    height: int
    rotation: int = 0  # degrees, as the file requests
    is_mirrored: bool = False
    aspect: float = 1.0  # width of a stored pixel by its height
    stream: int | None = None  # its number in the file
    colour: Colour = UNTOLD
    is_tone_mapped: bool = False
    slowdown: float = 1.0  # what the times of the file were divided by
    turned: int = 0  # degrees, in addition to what the file requests
    packing: Packing | None = None
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
        """Record a decoded frame."""
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
    """An opened input: iterate over it once for its frames; `info` is complete afterwards."""

    info: StreamInfo

    def __iter__(self) -> Iterator[Frame]: ...


_LOOKED_AT = 6  # pictures of an HDR file that determine its brightness


@dataclasses.dataclass(frozen=True, slots=True)
class Fixes:
    """Fixes that only faces reveal, not the file."""

    turned: int = 0  # degrees: 180 if the recording is upside down
    packing: Packing | None = None  # of the pictures for the two eyes
    eye_aspect: Fraction | None = None  # of the pixels of one eye


class VideoFile:
    """A video file, decoded by PyAV; time is the presentation timestamp. `num_threads` 0 lets FFmpeg choose.

    `rate` is the true rate of capture in pictures per second, None: as the file says. `fixes` is what the faces of the
    input revealed about it. Raises InputError with the status and the reason if it cannot be read.
    """

    def __init__(
        self, path: Path, *, num_threads: int = 0, rate: float | None = None, fixes: Fixes | None = None
    ) -> None:
        _refuse_empty(path)
        self._path, self._fixes = path, fixes or Fixes()
        self._container = open_container(path)
        try:
            self._stream, choice = choose_stream(self._container)
            self._timing = timing_of(path, self._container, self._stream, rate)
        except InputError:
            self._container.close()
            raise
        self._stream.thread_type = "AUTO"
        context = self._stream.codec_context
        context.thread_count = num_threads
        self._errors: list[str] = []
        self._decoded = self._decode()
        self.presentation = PLAIN
        self.info = StreamInfo(
            codec=context.name,
            width=context.width,
            height=context.height,
            stream=self._stream.index,
            slowdown=self._timing.slowdown,
            num_frames_from_header=self._stream.frames or None,
            seconds_from_header=self._header_seconds(),
            remarks=[remark for remark in (choice, self._timing.remark) if remark],
        )

    def _header_seconds(self) -> float | None:
        if self._stream.duration and self._stream.time_base:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / av.time_base
        else:
            return None
        return seconds / self._timing.slowdown

    def look(self) -> av.VideoFrame | None:
        """The first picture; sets `presentation` and all of `info` that does not depend on later ones."""
        first = next(self._decoded, None)
        if first is None:
            return None
        check_colour(first)
        info, remarks = self.info, self.info.remarks
        aspect, remark = believable_aspect(self._stream.sample_aspect_ratio)
        packing = self._fixes.packing or packing_of(first)
        if packing:
            aspect = self._fixes.eye_aspect or eye_aspect(packing, aspect, first.width, first.height)
            info.packing = packing
            remarks.append(f"stereo, {packing}: the picture of one eye was taken")
        orientation = Orientation.of(first)
        info.rotation, info.is_mirrored = int(first.rotation), orientation.is_mirrored
        tone_map = ToneMap.of([first]) and ToneMap.of([first, *_spread_pictures(self._path, self._stream.index)])
        remarks += [text for text in (remark, tone_map and tone_map.remark) if text]
        self.presentation = Presentation(orientation, aspect, tone_map, packing)
        info.bit_depth = first.format.components[0].bits
        info.aspect, info.colour, info.is_tone_mapped = float(aspect), Colour.of(first), tone_map is not None
        eye = self.presentation.one_eye(first)
        info.width, info.height = self.presentation.size(eye.width, eye.height)
        self._decoded = _again(first, self._decoded)
        return first

    @property
    def timing(self) -> Timing:
        """The timing of the chosen stream."""
        return self._timing

    def close(self) -> None:
        """Close the file; iterating to the end does so, too."""
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        damaged: list[int] = []
        try:
            if self.look() is not None:
                yield from present(self._timed(damaged), self.info, self.presentation, self._timing)
        finally:
            self._container.close()
        if damaged:
            self.info.remarks.append(f"{len(damaged)} frames are damaged, the first is frame {damaged[0]}")
        if self._errors:
            self.info.remarks.append(f"{len(self._errors)} packets could not be decoded: {self._errors[-1]}")
        note_count(self.info, self.info.num_frames_from_header)

    def _timed(self, damaged: list[int]) -> Iterator[tuple[float | None, av.VideoFrame]]:
        """Each picture with its time in the file."""
        # AVI stores no presentation times. Those filled in are wrong if frames are reordered. A tick is a picture
        # there, also for pictures that remain after the last packet.
        is_avi = self._container.format.name == "avi"
        tick = self._stream.time_base
        last: int | None = None
        for index, picture in enumerate(self._decoded):
            if picture.is_corrupt:
                damaged.append(index)
            ticks = picture.dts if is_avi else picture.pts
            if is_avi and ticks is None and last is not None:
                ticks = last + 1
            last = ticks
            yield None if ticks is None or tick is None else float(ticks * tick), picture

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Every frame that can be decoded; a damaged packet is skipped and noted."""
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
                self._errors.append(message_of(exc))
                if len(self._errors) > 1000:  # a reader that cannot advance must not loop forever
                    break
                continue
            yield from pictures


class Turned:
    """The frames of another decoder, upside down."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self.info = decoder, decoder.info
        self.info.turned = 180

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._decoder:
            yield frame.turned()
        self.info.remarks.append("stood on its head, without a flag: turned by 180 degrees")


def present(
    pictures: Iterable[tuple[float | None, av.VideoFrame]],
    info: StreamInfo,
    presentation: Presentation,
    timing: Timing,
) -> Iterator[Frame]:
    """Stored pictures and their times in the file -> frames; anything notable goes to `info`."""
    clock = Clock(
        step=1 / timing.rate, slowdown=timing.slowdown, has_times=timing.has_times, is_spliced=timing.is_spliced
    )
    sizes: list[tuple[int, tuple[int, int]]] = []
    for index, (seconds, stored) in enumerate(clock.put_right(pictures)):
        stored.colorspace = assumed_matrix(stored)
        picture = stored if presentation.tone_map else in_eight_bits(stored)  # HDR needs all bits
        frame = Frame(index, seconds, presentation.one_eye(picture), presentation)
        if not sizes or frame.size != sizes[-1][1]:
            sizes.append((index, frame.size))
            if index == 0:
                info.width, info.height = frame.size
        info.saw(frame)
        yield frame
    info.remarks += clock.remarks
    if len(sizes) > 1:
        told = ", ".join(f"to {width}x{height} at frame {index}" for index, (width, height) in sizes[1:4])
        info.remarks.append(f"the size changes {told}{', ...' if len(sizes) > 4 else ''}: clips end there")


def note_count(info: StreamInfo, claimed: int | None) -> None:
    """Note a wrong number of frames in the header."""
    if claimed and claimed != info.num_frames:
        info.remarks.append(f"the header says {claimed} frames, {info.num_frames} decode")


def _again(first: av.VideoFrame, others: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    yield from others


def _spread_pictures(path: Path, stream: int) -> Iterator[av.VideoFrame]:
    """A few key frames from all over a file; fewer if seeking fails."""
    try:
        with av.open(str(path)) as container:
            video = next(each for each in container.streams.video if each.index == stream)
            for place in range(1, _LOOKED_AT):
                if not container.duration:
                    return
                start = container.start_time or 0
                container.seek(start + container.duration * place // _LOOKED_AT)
                yield next(container.decode(video))
    except (av.error.FFmpegError, OSError, ValueError, StopIteration):
        return


def _refuse_empty(path: Path) -> None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block forever
            raise InputError("unreadable", "is not a regular file")
        if status.st_size == 0:
            raise InputError("empty", "the file has no bytes")
    except OSError as exc:
        raise InputError("unreadable", f"cannot be read: {exc.strerror}") from exc
