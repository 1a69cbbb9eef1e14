"""The options of an ingest, the decoder and landmarker that follow from them, and the work on one input."""

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Literal

from mbert import ConfigError, InputError
from mbert.manifests.labels.table import Label
from mbert.manifests.schema import AlignMode, VideoRow
from mbert.pipeline.faces.landmarkers import LandmarkerName, open_landmarker
from mbert.pipeline.faces.landmarks import Landmarker
from mbert.pipeline.video.animation import AnimatedImage
from mbert.pipeline.video.decode import Decoder, Fixes, Turned, VideoFile
from mbert.pipeline.video.decode_ffmpeg import FfmpegFile, check_ffmpeg_options
from mbert.pipeline.video.folder import FrameFolder
from mbert.pipeline.video.source import ANIMATED_SUFFIXES, Source
from mbert.shards.image import JPEG_QUALITY

_MAX_RATE = 1e6  # pictures per second


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions:
    """The options that affect the bytes of a corpus; a different choice needs another corpus."""

    size: int = 224  # width and height of a crop in pixels
    jpeg_quality: int = JPEG_QUALITY  # of the crops
    # clip: one transform per clip, the median of the landmarks. smooth: landmarks low-passed, then registered.
    # auto: `clip` where the head is still, else `smooth`. frame: each measurement as it is, for comparison.
    align: AlignMode = "auto"
    landmarker: LandmarkerName = "mediapipe"
    landmarker_model: str | None = None  # a face_landmarker.task for MediaPipe's Tasks API
    landmark_hz: float = 5.0  # landmark measurements per second of video
    max_faces: int | None = None  # followed at a time, the largest; None: all
    decoder: Literal["pyav", "ffmpeg"] = "pyav"
    hwaccel: str | None = None  # for ffmpeg: a name from `ffmpeg -hwaccels`
    filters: str | None = None  # for ffmpeg: a filter graph, as for `ffmpeg -vf`
    # For frame folders of datasets without a known rate; None: the times in the image names, else 30.
    folder_fps: float | None = None
    rate: float | None = None  # true pictures per second of video files, if they play slower; None: as the files state
    bit_depth: int | None = None  # of images padded to 16 bits; None: the smallest that holds all samples of a folder
    max_clip_seconds: float = 10.0  # longer tracks are cut, but never inside a labelled expression

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise ConfigError(f"crop size is {self.size}; allowed are 32 to 1024 pixels")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality is {self.jpeg_quality}; allowed are 1 to 100")
        for name in ("landmark_hz", "folder_fps", "max_clip_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        if self.bit_depth is not None and not 8 <= self.bit_depth <= 16:
            raise ConfigError(f"the bit depth is {self.bit_depth}; allowed are 8 to 16")
        if self.rate is not None and not 0 < self.rate <= _MAX_RATE:
            raise ConfigError(f"rate is {self.rate:g} pictures per second; allowed is above 0, up to {_MAX_RATE:g}")
        if self.max_faces is not None and self.max_faces < 1:
            raise ConfigError(f"{self.max_faces} faces are to be followed; it must be at least 1")
        if (self.hwaccel or self.filters) and self.decoder != "ffmpeg":
            raise ConfigError("hardware decoding and filters need --decoder ffmpeg")

    def check(self) -> None:
        """Check what depends on this machine. Raises ConfigError if ffmpeg or weights are missing or refuse."""
        if self.decoder == "ffmpeg":
            check_ffmpeg_options(self.hwaccel, self.filters)
        if self.landmarker != "mediapipe" or self.landmarker_model:
            self.open_landmarker().close()

    def open_landmarker(self) -> Landmarker:
        """The landmarker that these options select."""
        return open_landmarker(self.landmarker, model=Path(self.landmarker_model) if self.landmarker_model else None)

    def open_decoder(self, source: Source, num_threads: int = 0, *, fixes: Fixes | None = None) -> Decoder:
        """Open an input; `fixes` are those found by an earlier pass, or `fixes_of` its row.

        Raises InputError with the status and the reason when it cannot be read.
        """
        decoder = self._open(source, num_threads, fixes)
        return Turned(decoder) if fixes and fixes.turned else decoder

    def _open(self, source: Source, num_threads: int, fixes: Fixes | None) -> Decoder:
        is_animated = source.location.suffix.lower() in ANIMATED_SUFFIXES
        if fixes and fixes.packing and (source.kind == "frames" or is_animated):
            raise InputError("unreadable", f"is stereo, {fixes.packing}: cut its images to those of one eye")
        if source.kind == "frames":
            return FrameFolder(source.location, fps=source.fps or self.folder_fps, bit_depth=self.bit_depth)
        if is_animated:
            return AnimatedImage(source.location)
        if self.decoder == "ffmpeg":
            return FfmpegFile(
                source.location,
                hwaccel=self.hwaccel,
                filters=self.filters,
                num_threads=num_threads,
                rate=self.rate,
                fixes=fixes,
            )
        return VideoFile(source.location, num_threads=num_threads, rate=self.rate, fixes=fixes)


def fixes_of(row: VideoRow) -> Fixes:
    """The fixes with which an ingested input must be read again."""
    aspect = Fraction(row.aspect) if row.aspect and row.stereo else None
    return Fixes(turned=row.turned or 0, packing=row.stereo, eye_aspect=aspect)


@dataclasses.dataclass(frozen=True, slots=True)
class IngestTask:
    """One input and where its crops go."""

    source: Source
    shard: str
    frames_folder: Path
    options: IngestOptions
    labels: tuple[Label, ...]
    num_threads: int = 1  # for decoding, and for cutting crops
    max_frames: int | None = None  # for a rehearsal
