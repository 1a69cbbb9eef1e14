"""An MP4 that is written picture by picture, each at its time, with the sound of another file."""

import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.audio import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.reformatter import Colorspace, VideoReformatter

from mbert import MbertError
from mbert.shards.image import Image

_CLOCK = 90_000  # ticks per second: what MPEG counts in, exact for all usual rates
_LONGEST_LEAD = 10.0  # seconds for which a player may show nothing before the first picture
_X264 = {"preset": "superfast", "crf": "23"}
_PICTURES_PER_GROUP = 60  # between key frames: so that players seek quickly
_COPIED = frozenset(["aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"])  # supported by players in MP4
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_REFUSED = (av.error.ArgumentError, av.error.InvalidDataError)  # raised by a muxer; not for a full disk


class Film:
    """An MP4 (H.264) that is being written; see `writing_film`."""

    def __init__(
        self, file: OutputContainer, sound: InputContainer | None, thread: ThreadPoolExecutor, num_threads: int
    ) -> None:
        self._file, self._source, self._num_threads = file, sound, num_threads
        self._thread, self._writing = thread, Future[None]()  # each picture is encoded while the next one is drawn
        self._writing.set_result(None)
        self._converter = VideoReformatter()  # reused, because it keeps its tables between pictures
        self._stream: Any = None
        self._sound: _Sound | None = None
        self._start = 0.0
        self._last, self._step = -1, _CLOCK // 30

    def add(self, image: Image, seconds: float) -> None:
        """Append a picture, (H, W, 3) RGB with constant even sides, and the sound that precedes it."""
        if self._stream is None:
            self._begin(image, seconds)
        ticks = max(self._last + 1, round((seconds - self._start) * _CLOCK))
        if self._last >= 0:
            self._step = ticks - self._last
        self._last = ticks
        picture = av.VideoFrame.from_numpy_buffer(image, format="rgb24")
        picture = self._converter.reformat(
            picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=1, threads=1
        )
        picture.pts, picture.time_base = ticks, Fraction(1, _CLOCK)
        self._writing.result()  # one at a time: drawing must not run ahead
        self._writing = self._thread.submit(self._write, picture, ticks / _CLOCK, self._step)

    def finish(self) -> None:
        """Write the encoder's remaining pictures, and the rest of the sound."""
        self._writing.result()
        if self._stream is not None:
            self._encode(None, self._step)
        if self._sound:
            self._sound.write(float("inf"))

    def _write(self, picture: av.VideoFrame, seconds: float, step: int) -> None:
        if self._sound:
            self._sound.write(seconds)
        self._encode(picture, step)

    def _begin(self, image: Image, first: float) -> None:
        self._start = 0.0 if 0 <= first <= _LONGEST_LEAD else first
        stream = self._file.add_stream("libx264", rate=30, options=_X264)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _CLOCK)
        context.max_b_frames = 0  # so that pictures are stored in the order of their times
        context.gop_size = _PICTURES_PER_GROUP
        context.thread_count = self._num_threads
        # State it in the file, because players would guess it from the size.
        context.color_range = 1  # 16-235
        context.colorspace = context.color_primaries = context.color_trc = int(Colorspace.ITU709)
        self._stream = stream
        if self._source is not None and self._source.streams.audio:
            with contextlib.suppress(av.error.FFmpegError, ValueError):  # without a decoder or rate, no sound
                self._sound = _Sound(self._source, self._file, self._start)

    def _encode(self, picture: av.VideoFrame | None, step: int) -> None:
        for packet in self._stream.encode(picture):
            packet.duration = step  # used for the last picture; the others last until the next
            self._file.mux(packet)


@contextlib.contextmanager
def writing_film(path: Path, *, sound: Path | None, num_threads: int) -> Iterator[Film]:
    """Write an MP4 from pictures and the first audio stream of the file `sound`, if there is one that can be read.

    Pictures keep their times, but if the first is negative or later than 10 s, all are counted from it. The sound stays
    in sync. It is copied, or converted to AAC if players do not support its codec in MP4; it ends where it cannot be
    read. Raises MbertError if PyAV has no H.264 encoder.
    """
    if "libx264" not in av.codecs_available:
        raise MbertError("PyAV has no H.264 encoder here: `pip install --force-reinstall av` brings one with libx264")
    # Set the film's own clock, too, or its start would be rounded to milliseconds.
    options = {"movflags": "+faststart", "movie_timescale": str(_CLOCK)}
    with contextlib.ExitStack() as stack:
        source = None
        if sound is not None:
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                source = stack.enter_context(av.open(str(sound)))
        file = stack.enter_context(av.open(str(path), "w", format="mp4", options=options))
        film = Film(file, source, stack.enter_context(ThreadPoolExecutor(1)), num_threads)
        yield film
        film.finish()


class _Sound:
    """The first audio stream of a file on its way into a film."""

    def __init__(self, source: InputContainer, film: OutputContainer, start: float) -> None:
        self._source, self._film, self._start = source, film, start
        self._stream = source.streams.audio[0]
        self._target: Any
        if _can_be_copied(self._stream):
            self._target = film.add_stream_from_template(self._stream)
            self._packets = self._copied()
        else:
            rate = next((rate for rate in _AAC_RATES if rate >= self._stream.rate), _AAC_RATES[-1])
            self._target = film.add_stream("aac", rate=rate, layout="mono" if self._stream.channels == 1 else "stereo")
            self._packets = self._encoded()
        self._next: Any = None

    def write(self, until: float) -> None:
        """Write the packets up to a time in seconds of the film."""
        try:
            while (packet := self._next or next(self._packets, None)) is not None:
                self._next = packet
                if float(packet.dts * packet.time_base) > until:
                    return
                self._next = None
                self._film.mux(packet)
        except _REFUSED:
            self._packets = iter(())

    def _copied(self) -> Iterator[Any]:
        last = None
        with contextlib.suppress(av.error.FFmpegError):
            for packet in self._source.demux(self._stream):
                if packet.dts is None or packet.pts is None:  # the empty packet at the end, or a damaged one
                    continue
                if last is not None and packet.dts <= last:
                    continue
                last = packet.dts
                shift = round(Fraction(self._start) / packet.time_base)
                packet.dts, packet.pts, packet.stream = packet.dts - shift, packet.pts - shift, self._target
                yield packet

    def _encoded(self) -> Iterator[Any]:
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            for sound in self._decoded():
                yield from self._target.encode(sound)
            yield from self._target.encode(None)

    def _decoded(self) -> Iterator[av.AudioFrame]:
        for packet in self._source.demux(self._stream):
            with contextlib.suppress(av.error.FFmpegError):  # a damaged packet loses only itself
                for sound in packet.decode():
                    if sound.pts is not None and sound.time_base is not None:
                        sound.pts -= round(Fraction(self._start) / sound.time_base)
                    yield sound


def _can_be_copied(stream: AudioStream) -> bool:
    """Whether MP4 can hold a stream unchanged; tested, because it depends on more than the codec."""
    if stream.codec_context.codec.canonical_name not in _COPIED:
        return False
    try:
        with av.open(io.BytesIO(), "w", format="mp4") as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
