"""The second decoder: a video file through the ffmpeg program, for hardware decoding and filter graphs.

ffmpeg writes the decoded samples as stored to a pipe, and describes each picture on its other output: its exact time,
format and size. From there on both decoders share the same code, so that without options the frames are those of
`decode.VideoFile`.
"""

import contextlib
import dataclasses
import functools
import itertools
import queue
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from mbert import ConfigError
from mbert.pipeline.video.decode import Fixes, VideoFile, note_count, present
from mbert.pipeline.video.frame import Frame
from mbert.pipeline.video.planes import PACKED, PIPED, copy_tags, fill, num_raw_bytes
from mbert.pipeline.video.presentation import AS_STORED, Orientation, Presentation, believable_aspect, eye_aspect

_LOG: dict[str, str | None] = {"nostdin": None, "hide_banner": None, "nostats": None}
_TALKATIVE = "repeat+level+info"  # includes a line for each picture
# Frames from the graphics card are semi-planar. The first lossless format is taken.
_PLANAR = "format=" + "|".join(
    f"yuv{sampling}p{depth}" for depth in ("", "10le", "12le") for sampling in ("420", "422", "444")
)
_SHOWN = re.compile(
    r"\[Parsed_showinfo\S* @ \S+\] \[info\] n: *\d+ pts: *(?P<pts>-?\d+|NOPTS) .*fmt:(?P<format>\S+) .*"
    r"sar:(?P<aspect>\d+/\d+) s:(?P<width>\d+)x(?P<height>\d+) "
)
_CLOCK = re.compile(r"\[Parsed_showinfo.*config in time_base: (\d+/\d+)")
# Output times that do not grow are no fault: nobody reads them.
_ERROR = re.compile(r"\[(error|fatal|panic)\] (?!.*non monotonically increasing dts to muxer)")
_MOST_TOLD = 1000  # distinct errors that are kept


class FfmpegFile:
    """A video file, decoded by the ffmpeg program; the protocol is `decode.Decoder`.

    `hwaccel` is a name from `ffmpeg -hwaccels`, `filters` a filter graph as for `ffmpeg -vf`; it sees upright frames.
    The other options are those of `decode.VideoFile`. `check_ffmpeg_options` checks both once, before the work.
    """

    def __init__(
        self,
        path: Path,
        *,
        hwaccel: str | None = None,
        filters: str | None = None,
        num_threads: int = 0,
        rate: float | None = None,
        fixes: Fixes | None = None,
    ) -> None:
        path = path.absolute()
        header = VideoFile(path, num_threads=1, rate=rate, fixes=fixes)
        try:
            self._tags = header.look()  # the first picture determines how to show them all
        finally:
            header.close()
        self.info, self._timing, self._presentation = header.info, header.timing, header.presentation
        self._num_expected = None if filters else self.info.num_frames_from_header  # filters may change the rate
        chain = ["format=" + "|".join(PIPED)]
        self._is_filtered = filters is not None
        if filters is not None:
            # After filtering, the colours are described by the filters' output, not by the header.
            packed = "rgb24" if self._presentation.tone_map is None else "rgb48le"
            orientation = self._presentation.orientation
            chain = [*_turn(orientation), filters, "scale=flags=bilinear", f"format={packed}"]
        if hwaccel:
            chain.insert(0, _PLANAR)
        chain.append("showinfo=checksum=0")
        program = ffmpeg_program()
        decoding = {"threads": num_threads, **({"hwaccel": hwaccel} if hwaccel else {})}
        # With `file:` and an absolute path, no name is mistaken for an option, a protocol or a pattern.
        source = ffmpeg.input(f"file:{path}", copyts=None, noautorotate=None, loglevel=_TALKATIVE, **decoding, **_LOG)
        self._command: list[str] = ffmpeg.output(
            source[str(self.info.stream)], "pipe:1", format="rawvideo", vf=",".join(chain), noautoscale=None,
            **_each_picture(program),
        ).compile(cmd=program)  # fmt: skip

    def __iter__(self) -> Iterator[Frame]:
        if self._tags is None:
            return
        with _running(self._command) as (process, told):
            assert process.stdout is not None
            shown = iter(told.pictures.get, None)
            first = next(shown, None)
            if first is not None:
                presentation = self._filtered(first) if self._is_filtered else self._presentation
                pictures = self._pictures(process.stdout, itertools.chain([first], shown))
                yield from present(pictures, self.info, presentation, self._timing)
            process.stdout.close()  # if the stream broke off, ffmpeg must not wait for a reader
            status = process.wait()
        if told.errors:
            # Decoder threads report in any order; sorted, equal runs give equal remarks.
            distinct = "; ".join(sorted(told.errors)[:3])
            self.info.remarks.append(f"ffmpeg reports {told.errors.total()} errors: {distinct}")
        if status:
            self.info.remarks.append(f"ffmpeg ended with status {status}")
        note_count(self.info, self._num_expected)

    def _filtered(self, first: "_Shown") -> Presentation:
        """How to show the output of the filters, which is upright and in RGB."""
        packing = self._presentation.packing
        aspect, _ = believable_aspect(first.aspect)
        if packing:
            aspect = eye_aspect(packing, aspect, first.width, first.height)
        self.info.aspect = float(aspect)
        return dataclasses.replace(self._presentation, orientation=AS_STORED, aspect=aspect)

    def _pictures(self, pipe: IO[bytes], told: "Iterable[_Shown]") -> Iterator[tuple[float | None, av.VideoFrame]]:
        """Each picture with its time; ends where the stream ends or breaks off."""
        assert self._tags is not None
        for shown in told:
            picture = av.VideoFrame(shown.width, shown.height, shown.format)
            raw = _read(pipe, num_raw_bytes(picture))
            if raw is None:
                return
            fill(picture, raw)
            copy_tags(self._tags, picture)
            if shown.format in PACKED:
                picture.colorspace, picture.color_range = 0, 2
            yield shown.seconds, picture


def _turn(orientation: Orientation) -> list[str]:
    """The filters that turn a stored picture upright."""
    steps = {"transpose=cclock_flip": orientation.transposed, "hflip": orientation.flip_x, "vflip": orientation.flip_y}
    return [step for step, needed in steps.items() if needed]


def ffmpeg_program() -> str:
    """Path of the ffmpeg program: the system's, else imageio-ffmpeg's. Raises ConfigError when there is none."""
    program = shutil.which("ffmpeg")
    if program is None:
        try:
            program = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as exc:
            raise ConfigError(
                "no ffmpeg program was found: install ffmpeg so that it is on the PATH, or pip install imageio-ffmpeg"
            ) from exc
    return program


def check_ffmpeg_options(hwaccel: str | None = None, filters: str | None = None) -> None:
    """Try both options of `FfmpegFile` without a video. Raises ConfigError saying what ffmpeg refuses and why."""
    program = ffmpeg_program()
    if hwaccel is not None:
        listed = subprocess.run([program, "-hide_banner", "-hwaccels"], capture_output=True, text=True, check=False)
        allowed = listed.stdout.split("\n", 1)[-1].split()
        if hwaccel not in allowed:
            raise ConfigError(f"hwaccel is {hwaccel!r}; allowed here are {', '.join(allowed)}")
        if refusal := _refusal(program, device=hwaccel):
            raise ConfigError(f"hwaccel {hwaccel!r} does not work on this machine: {refusal}")
    if filters is not None and (refusal := _refusal(program, filters=filters)):
        raise ConfigError(f"ffmpeg refuses the filters {filters!r}: {refusal}")


def _refusal(program: str, *, filters: str = "null", device: str | None = None) -> str | None:
    """Why ffmpeg cannot filter a test picture or open a device; None if it can."""
    options = {**_LOG, "loglevel": "repeat+error", **({"init_hw_device": device} if device else {})}
    picture = ffmpeg.input("testsrc2=size=1920x1080:duration=1,format=yuv420p", format="lavfi", **options)
    command = ffmpeg.output(picture, "-", format="null", vf=filters, **{"frames:v": 1}).compile(cmd=program)
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        return None
    lines = [_without_origin(line) for line in done.stderr.decode(errors="replace").splitlines()]
    return "; ".join(lines[:2]) or f"status {done.returncode}"


@functools.cache
def _each_picture(program: str) -> dict[str, str]:
    """The output option to neither drop nor repeat pictures; its name depends on the version."""
    text = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"ffmpeg version n?(\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2])) if found else (99, 0)  # builds from git have no number: they are new
    return {"fps_mode" if version >= (5, 1) else "vsync": "passthrough"}


@contextlib.contextmanager
def _running(command: list[str]) -> "Iterator[tuple[subprocess.Popen[bytes], _Told]]":
    """The running program and its messages; the program is always terminated when the block is left."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:  # closes the pipes and waits
        assert process.stderr is not None
        told = _Told(process.stderr)
        told.start()
        try:
            yield process, told
        finally:
            process.kill()
            told.join()


@dataclasses.dataclass(frozen=True, slots=True)
class _Shown:
    """ffmpeg's description of a picture before it is in the pipe."""

    seconds: float | None
    format: str
    aspect: Fraction
    width: int
    height: int


class _Told(threading.Thread):
    """Reads ffmpeg's messages, so that it never waits for a reader: pictures, then None, and errors."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self.pictures: queue.SimpleQueue[_Shown | None] = queue.SimpleQueue()
        self.errors: Counter[str] = Counter()
        self._pipe = pipe

    def run(self) -> None:
        """Read to the end."""
        tick = Fraction(1)
        for raw in self._pipe:
            line = raw.decode(errors="replace")
            if found := _SHOWN.match(line):
                seconds = None if found["pts"] == "NOPTS" else float(int(found["pts"]) * tick)
                over, under = map(int, found["aspect"].split("/"))
                size = int(found["width"]), int(found["height"])
                self.pictures.put(_Shown(seconds, found["format"], Fraction(over, under or 1), *size))
            elif found := _CLOCK.match(line):
                tick = Fraction(found[1])
            elif _ERROR.search(line):
                text = _without_origin(line)
                if text in self.errors or len(self.errors) < _MOST_TOLD:
                    self.errors[text] += 1
        self.pictures.put(None)


def _read(pipe: IO[bytes], num_bytes: int) -> npt.NDArray[np.uint8] | None:
    """`num_bytes` from a pipe; None if it ends earlier."""
    raw = np.empty(num_bytes, np.uint8)
    view, place = memoryview(raw), 0  # type: ignore[arg-type]
    while place < num_bytes:
        count = pipe.readinto(view[place:])  # type: ignore[attr-defined]
        if not count:
            return None
        place += count
    return raw


def _without_origin(line: str) -> str:
    """A line of ffmpeg's log without its `[h264 @ 0x55d0c8]`, which differs from run to run."""
    return re.sub(r"^(\[[^\]]*\] ?)+", "", line.strip())
