"""The second decoder: a video file through the ffmpeg program, for hardware decoding and filter graphs.

ffmpeg writes raw RGB frames in a NUT container to a pipe, PyAV takes them apart: NUT carries each frame's exact
timestamp, which raw video does not. Without options the frames are those of `decode.VideoFile`.
"""

import contextlib
import dataclasses
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import av.error
import ffmpeg
import imageio_ffmpeg
import numpy as np

from mbert import ConfigError
from mbert.pipeline.video.decode import Frame, Orientation, VideoFile
from mbert.shards.image import Image

_LOG: dict[str, str | None] = {"nostdin": None, "hide_banner": None, "loglevel": "repeat+error"}
# Frames from the graphics card are semi-planar, and swscale rounds those differently from the planar ones that
# software decoding gives. The first format that loses nothing is taken.
_PLANAR = "format=" + "|".join(
    f"yuv{sampling}p{depth}" for depth in ("", "10le", "12le") for sampling in ("420", "422", "444")
)
# These two put a chroma sample at the left of its pixels. VideoFile takes that from the frame; ffmpeg needs an option.
_CODECS_WITH_LEFT_CHROMA = frozenset(["h264", "hevc"])


class FfmpegFile:
    """A video file, decoded by the ffmpeg program; the protocol is `decode.Decoder`.

    `hwaccel` is a name from `ffmpeg -hwaccels`, `filters` a filter graph as for `ffmpeg -vf`; it sees upright frames.
    `num_threads` 0 lets FFmpeg choose. `check_ffmpeg_options` tells once, before the work, whether both can be used.
    """

    def __init__(
        self, path: Path, *, hwaccel: str | None = None, filters: str | None = None, num_threads: int = 0
    ) -> None:
        path = path.absolute()
        header = VideoFile(path, num_threads=1)
        turn: list[str] = []
        for frame in header:  # how to turn the pictures is known from the first one
            turn = _turn(frame.orientation)
            break
        self.info = dataclasses.replace(
            header.info, num_frames=0, first_pts_seconds=None, last_pts_seconds=None, remarks=[]
        )
        siting = ":in_h_chr_pos=0:in_v_chr_pos=128" if self.info.codec in _CODECS_WITH_LEFT_CHROMA else ""
        to_rgb = [f"scale=flags=bilinear{siting}", "format=rgb24"]
        # Filters see upright frames in the format of the file; without any, RGB is turned: that is exact.
        chain = [*turn, filters, *to_rgb] if filters else [*to_rgb, *turn]
        self._num_expected = None if filters else self.info.num_frames_from_header  # filters may change the rate
        if hwaccel:
            chain.insert(0, _PLANAR)
        program = ffmpeg_program()
        decoding = {"threads": num_threads, **({"hwaccel": hwaccel} if hwaccel else {})}
        # With `file:` and absolute, no name is taken for an option, a protocol or a pattern.
        source = ffmpeg.input(f"file:{path}", copyts=None, noautorotate=None, **decoding, **_LOG)
        self._command: list[str] = ffmpeg.output(
            source["v:0"], "pipe:1", format="nut", vcodec="rawvideo", pix_fmt="rgb24", avoid_negative_ts="disabled",
            vf=",".join(chain), **_times_as_they_are(program),
        ).compile(cmd=program)  # fmt: skip

    def __iter__(self) -> Iterator[Frame]:
        # A file takes what ffmpeg says: a second pipe could fill up and stop both programs.
        with tempfile.TemporaryFile() as log:
            with _running(self._command, log) as process:
                assert process.stdout is not None
                for index, (seconds, image) in enumerate(_frames_in_nut(process.stdout)):
                    self.info.height, self.info.width = image.shape[:2]
                    frame = Frame(index, seconds, image)
                    self.info.saw(frame)
                    yield frame
                process.stdout.close()  # should the stream have broken off, ffmpeg must not wait for a reader
                status = process.wait()
            self._note_errors(status, log)
        claimed = self._num_expected
        if claimed and claimed != self.info.num_frames:
            self.info.remarks.append(f"the header says {claimed} frames, {self.info.num_frames} decode")

    def _note_errors(self, status: int, log: IO[bytes]) -> None:
        log.seek(0)
        messages = [_without_origin(line.decode(errors="replace")) for line in log]
        if messages:
            # Decoder threads report in any order; sorted, equal runs give equal remarks.
            distinct = "; ".join(sorted(set(messages))[:3])
            self.info.remarks.append(f"ffmpeg reports {len(messages)} errors: {distinct}")
        if status:
            self.info.remarks.append(f"ffmpeg ended with status {status}")


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
    """Try both options of `FfmpegFile` without a video. Raises ConfigError that says what ffmpeg refuses and why."""
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
    """Why ffmpeg does not filter a test picture, or does not open a device; None when it does."""
    options = {**_LOG, **({"init_hw_device": device} if device else {})}
    picture = ffmpeg.input("testsrc2=size=1920x1080:duration=1,format=yuv420p", format="lavfi", **options)
    command = ffmpeg.output(picture, "-", format="null", vf=filters, **{"frames:v": 1}).compile(cmd=program)
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        return None
    lines = [_without_origin(line) for line in done.stderr.decode(errors="replace").splitlines()]
    return "; ".join(lines[:2]) or f"status {done.returncode}"


@functools.cache
def _times_as_they_are(program: str) -> dict[str, str]:
    """The output options that keep each frame and its timestamp; their names depend on the version."""
    text = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"ffmpeg version n?(\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2])) if found else (99, 0)  # builds from git carry no number: they are new
    return {
        "fps_mode" if version >= (5, 1) else "vsync": "passthrough",
        "enc_time_base": "filter" if version >= (6, 1) else "-1",
    }


@contextlib.contextmanager
def _running(command: list[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The running program; however the block is left, the program is gone afterwards."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, bufsize=0)
    with process:  # closes the pipe and waits
        try:
            yield process
        finally:
            process.kill()


def _frames_in_nut(pipe: IO[bytes]) -> Iterator[tuple[float, Image]]:
    """Time in seconds and RGB array of each frame, one at a time; ends where the stream ends or breaks off."""
    # A NUT header says all there is to know: nothing has to be read ahead to find it out.
    with (
        contextlib.suppress(av.error.FFmpegError),
        av.open(pipe, "r", format="nut", options={"probesize": "32"}) as nut,
    ):
        stream = nut.streams.video[0]
        shape = (stream.height, stream.width, 3)
        for packet in nut.demux(stream):
            if packet.size != np.prod(shape) or packet.pts is None:
                break  # the empty packet that ends the stream, or a frame that was cut off
            yield (
                float(packet.pts * (packet.time_base or Fraction(1))),
                np.frombuffer(memoryview(packet), np.uint8).reshape(shape),
            )


def _without_origin(line: str) -> str:
    """A line of ffmpeg's log without its `[h264 @ 0x55d0c8]`, which differs from run to run."""
    return re.sub(r"^(\[[^\]]*\] ?)+", "", line.strip())
