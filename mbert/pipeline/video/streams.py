"""The content of a container, and which part is the recording: the stream, its rate, its true rate."""

import dataclasses
import itertools
import re
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from mbert import InputError

_STILL_CODECS = frozenset(["bmp", "gif", "jpegxl", "mjpeg", "png", "tiff", "webp"])
_NO_TIMESTAMPS, _SPLICED = 0x80, 0x200  # AVFMT_NOTIMESTAMPS, AVFMT_TS_DISCONT
_IMAGES = re.compile(r"(?<!yuv4mpeg)pipe$")  # images one after the other, without times: `jpeg_pipe`
_CAPTURE_RATE = re.compile(r"(^|[._])capture[._]?(fps|frame_?rate)$", re.IGNORECASE)  # `com.android.capture.fps`
_TIME_LAPSE, _SLOW_MOTION = 0.5, 1.9  # beyond these; in between, a camera in low light lowers its rate
_ROUNDING = 0.005  # of times in milliseconds
_LOOKED_AT = 60  # packets from which the rate of a file is measured
_DEFAULT_RATE = 25.0  # FFmpeg's value for a file that does not say


def open_container(path: Path) -> InputContainer:
    """Open a file. Raises InputError if it is not a video."""
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as exc:
        raise InputError("unreadable", f"cannot be opened as a video: {message_of(exc)}") from exc


def message_of(exc: Exception) -> str:
    """FFmpeg's message about a fault."""
    return str(getattr(exc, "strerror", None) or exc)


def choose_stream(container: InputContainer) -> tuple[VideoStream, str | None]:
    """The video stream that is the recording, and a remark if there was a choice.

    Skips attached pictures, and still pictures next to moving ones; of several streams, takes the one that the file
    flags as the default, else the first. Raises InputError if there is none.
    """
    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not streams:
        raise InputError("no_video", "holds no video stream")
    moving = [stream for stream in streams if not _is_attached(stream)]
    if not moving:
        raise InputError("no_video", "holds no video, only an attached picture")
    if len(moving) > 1 and not all(_is_still(stream) for stream in moving):
        moving = [stream for stream in moving if not _is_still(stream)]
    default = [stream for stream in moving if stream.disposition & Disposition.default]
    chosen = (default or moving)[0]
    if len(streams) == 1:
        return chosen, None
    why = "the default" if len(moving) > 1 and default else "the first" if len(moving) > 1 else "the recording"
    others = ", ".join(f"{stream.index} ({_told(stream)})" for stream in streams if stream is not chosen)
    return chosen, f"stream {chosen.index} was taken, {why}; others: {others}"


def _is_attached(stream: VideoStream) -> bool:
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _is_still(stream: VideoStream) -> bool:
    """A track of one picture, like a cover in Matroska: with an image codec, and without a second picture."""
    if stream.codec_context.name not in _STILL_CODECS:
        return False
    if stream.disposition & Disposition.still_image or stream.frames == 1:
        return True
    try:
        with av.open(stream.container.name) as again:
            packets = again.demux(again.streams[stream.index])
            return sum(1 for packet in itertools.islice(packets, 2) if packet.size) < 2
    except (av.error.FFmpegError, OSError, ValueError):
        return False


def _told(stream: VideoStream) -> str:
    kind = "attached picture" if _is_attached(stream) else f"{stream.width}x{stream.height}"
    return f"{stream.codec_context.name}, {kind}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """The timing of a stream, and how much slower than real time it plays."""

    rate: float  # nominal pictures per second of the file
    slowdown: float = 1.0
    has_times: bool = True
    is_spliced: bool = False
    remark: str | None = None


def timing_of(path: Path, container: InputContainer, stream: VideoStream, true_rate: float | None) -> Timing:
    """How a stream is timed; `true_rate` is the rate of capture if given by the user."""
    flags = int(container.format.flags)
    has_times = not (flags & _NO_TIMESTAMPS or _IMAGES.search(container.format.name))
    is_spliced = bool(flags & _SPLICED)
    rate = float(stream.guessed_rate or stream.average_rate or _DEFAULT_RATE)
    if not has_times:
        if true_rate:
            return Timing(rate=true_rate, has_times=False, remark=f"{true_rate:g} pictures per second, as --rate says")
        is_stated = bool(stream.codec_context.framerate)
        if not is_stated:
            rate = _DEFAULT_RATE
        how = "no times" if is_stated else f"neither times nor a rate: taken for {rate:g} pictures per second (--rate)"
        return Timing(rate=rate, has_times=False, remark=None if is_stated else f"holds {how}")
    captured = true_rate or _capture_rate(container, stream)
    if captured is None:
        return Timing(rate=rate, is_spliced=is_spliced)
    measured = _measured_rate(path, stream.index) or rate
    played = rate if abs(measured / rate - 1) < _ROUNDING else measured
    slowdown = captured / played
    if true_rate is None and _TIME_LAPSE < slowdown < _SLOW_MOTION:
        return Timing(rate=rate, is_spliced=is_spliced)
    source = "--rate" if true_rate else "the file"
    remark = f"captured at {captured:g} pictures per second, as {source} says, and stored at {played:.5g}: times are "
    remark += f"divided by {slowdown:.4g}"
    return Timing(rate=rate, slowdown=slowdown, is_spliced=is_spliced, remark=remark if slowdown != 1 else None)


def _capture_rate(container: InputContainer, stream: VideoStream) -> float | None:
    """The rate of capture that cameras store with slow motion."""
    for key, value in (*stream.metadata.items(), *container.metadata.items()):
        if _CAPTURE_RATE.search(key):
            try:
                rate = float(value)
            except ValueError:
                continue
            if 0 < rate < 1e6:
                return rate
    return None


def _measured_rate(path: Path, index: int) -> float | None:
    """Pictures per second from the times of the first packets: headers may be wrong."""
    times = []
    try:
        with av.open(str(path)) as container:
            for packet in itertools.islice(container.demux(container.streams[index]), _LOOKED_AT):
                if packet.pts is not None and packet.time_base is not None:
                    times.append(float(packet.pts * packet.time_base))
    except (av.error.FFmpegError, OSError, ValueError):
        return None
    times = sorted(set(times))[: max(2, len(times) - 8)]  # near the end, frames in between may still be missing
    if len(times) < 2:
        return None
    steps = np.diff(times)
    middle = steps[np.abs(steps - np.median(steps)) <= 0.5 * np.median(steps)]  # without gaps
    return float(1 / middle.mean())
