"""One input -> one tar of aligned crops and its Parquet twin: the task that `ingest.py` runs many of.

Frames are decoded, faces followed, clips aligned, warped and encoded as they come; the tar gets its name when it is
complete, the twin last. The twin's metadata carries the rows of the input and of its clips.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from mbert import ConfigError, InputError, MbertError
from mbert.manifests.labels.table import Label, told_spans
from mbert.manifests.paths import escaped
from mbert.manifests.schema import AlignMode, ClipRow, FrameRow, VideoRow, clip_key
from mbert.manifests.store import read_extra, writing_rows
from mbert.manifests.workspace import twin_paths
from mbert.pipeline.faces.align import fit_pose, is_still, pose_matrices, stable_poses, warp
from mbert.pipeline.faces.fixes import Doubts
from mbert.pipeline.faces.landmarkers import LandmarkerName, open_landmarker
from mbert.pipeline.faces.landmarks import Face, Landmarker, Points
from mbert.pipeline.faces.quality import Region as RigidRegion
from mbert.pipeline.faces.quality import brightness, clipped, jitter_px, luma, rigid_region, sharpness
from mbert.pipeline.faces.register import register_poses
from mbert.pipeline.faces.track import Clip, CutRules, Region, follow_faces, onto_region, spans
from mbert.pipeline.video.animation import ANIMATED_SUFFIXES, AnimatedImage
from mbert.pipeline.video.decode import Decoder, Fixes, StreamInfo, Turned, VideoFile, content_hash
from mbert.pipeline.video.decode_ffmpeg import FfmpegFile, check_ffmpeg_options
from mbert.pipeline.video.folder import FrameFolder
from mbert.pipeline.video.repeats import Repeats
from mbert.pipeline.video.source import Source
from mbert.shards.engine import Loss, tell
from mbert.shards.image import JPEG_QUALITY, encode_jpeg
from mbert.shards.writer import TAR_HASH_ENTRY, TarWriter, writing_tar

_MAX_CLIP_BYTES = 128 << 20  # of regions held until a clip ends: the memory bound of a worker
_TICKS_PER_INPUT = 8  # short inputs are measured more often than `landmark_hz`, or they would have two or three ticks
_MAX_RATE = 1e6  # pictures per second
_OUTCOME_ENTRY = "mbert_outcome"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions:
    """What decides the bytes of a corpus; another choice needs another corpus."""

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
    # Of frame folders whose dataset does not say; None: the times in the names of their images, else 30.
    folder_fps: float | None = None
    rate: float | None = None  # true pictures per second of video files, where they play slower; None: as files say
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
        """Try what only this machine can tell. Raises ConfigError when ffmpeg or weights are missing or refuse."""
        if self.decoder == "ffmpeg":
            check_ffmpeg_options(self.hwaccel, self.filters)
        if self.landmarker != "mediapipe" or self.landmarker_model:
            self.open_landmarker().close()

    def open_landmarker(self) -> Landmarker:
        """The landmarker that these options ask for."""
        return open_landmarker(self.landmarker, model=Path(self.landmarker_model) if self.landmarker_model else None)

    def open_decoder(self, source: Source, num_threads: int = 0, *, fixes: Fixes | None = None) -> Decoder:
        """Open an input; `fixes` are those of an earlier look at it, `fixes_of` its row.

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
    """How an input that was ingested has to be looked at again."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class Going:
    """How far an input has come."""

    video_id: str
    num_bytes: int  # of the input, done so far
    num_frames: int  # decoded so far


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input."""

    video: VideoRow
    clips: tuple[ClipRow, ...] = ()

    def to_json(self) -> str:
        """For the metadata of the twin."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """Inverse of `to_json`."""
        value = json.loads(text)
        return cls(VideoRow(**value["video"]), tuple(ClipRow(**clip) for clip in value["clips"]))


def ingest_input(task: IngestTask) -> Outcome:
    """Ingest one input; whatever is wrong with it becomes its row.

    Raises MbertError when writing fails or the landmarker cannot be opened.
    """
    info = StreamInfo(codec="", width=0, height=0)
    if multiprocessing.parent_process() is not None:  # a worker shares the machine with others
        cv2.setNumThreads(task.num_threads)
    try:
        decoder = task.options.open_decoder(task.source, task.num_threads)
        info = decoder.info
        with threadpool_limits(1, user_api="blas"):  # products of a few numbers: threads would wait for each other
            try:
                return _write_input(task, decoder, Doubts())
            except _LookAgain as again:
                decoder = task.options.open_decoder(task.source, task.num_threads, fixes=again.fixes)
                info = decoder.info
                return _write_input(task, decoder, None)
    except InputError as exc:
        return _failure(task, info, exc.status, exc.reason, *info.remarks)
    except OSError as exc:
        return _failure(task, info, "unreadable", f"cannot be read: {exc.strerror}")
    except (MbertError, MemoryError):
        raise
    except Exception as exc:  # the one boundary: an unforeseen fault costs one input, not the run
        return _failure(task, info, "error", f"{type(exc).__name__}: {exc}")


def _failure(task: IngestTask, info: StreamInfo, status: str, *remarks: str) -> Outcome:
    return Outcome(_video_row(task, info, status=status, remarks=remarks, sha256=content_hash(task.source)))


class _LookAgain(Exception):
    def __init__(self, fixes: Fixes) -> None:
        super().__init__()
        self.fixes = fixes


def _write_input(task: IngestTask, decoder: Decoder, doubts: Doubts | None) -> Outcome:
    """Write the tar and the twin. Raises _LookAgain, before anything has its name, if `doubts` turn out to be right."""
    options, info = task.options, decoder.info
    tick_seconds = 1 / options.landmark_hz
    if info.seconds_from_header:
        tick_seconds = min(tick_seconds, info.seconds_from_header / _TICKS_PER_INPUT)
    if options.align == "frame":
        tick_seconds = 0.0
    rules = CutRules.for_labels(task.labels, max_seconds=options.max_clip_seconds, max_bytes=_MAX_CLIP_BYTES)
    repeats = Repeats()
    frames = repeats.watch(itertools.islice(decoder, task.max_frames))
    measured = spans(frames, _landmarker(options), tick_seconds=tick_seconds)
    if doubts is not None:
        measured = doubts.watch(measured)
    tar, twin = twin_paths(task.frames_folder, task.shard)
    clips: list[ClipRow] = []
    num_clips_of_track: Counter[int] = Counter()
    # The tar ends, and gets its name, before the twin: that is the commit mark.
    with writing_rows(twin, FrameRow) as rows:
        with writing_tar(tar) as writer:
            for clip in follow_faces(measured, crop_size=options.size, rules=rules, max_faces=options.max_faces):
                key = clip_key(task.source.video_id, clip.track, num_clips_of_track[clip.track])
                num_clips_of_track[clip.track] += 1
                row, frame_rows = _write_clip(clip, key, task, writer, repeats)
                clips.append(row)
                rows.add(frame_rows)
                tell(_going(task, info))
            if doubts is not None and (fixes := doubts.fixes(_landmarker(options))):
                raise _LookAgain(fixes)
            if not clips:
                raise _without_clip(info)
        true_fps = info.fps and info.fps * (1 - repeats.share)
        if repeats.share:
            info.remarks.append(f"{repeats.share:.0%} of the frames repeat the picture before: they are in no pair")
        video = _video_row(
            task, info, status="ok", remarks=info.remarks, num_clips=len(clips), num_crops=rows.num_rows,
            shard=task.shard, true_fps=true_fps, sha256=content_hash(task.source),
        )  # fmt: skip
        outcome = Outcome(video, tuple(clips))
        rows.finish({_OUTCOME_ENTRY: outcome.to_json(), TAR_HASH_ENTRY: writer.sha256})
    return outcome


def seconds_from_header(task: IngestTask) -> float | None:
    """How long the input says it is; None when it does not, or cannot be opened."""
    try:
        return task.options.open_decoder(task.source, 1).info.seconds_from_header
    except InputError:
        return None


def lost_outcome(task: IngestTask, loss: Loss) -> Outcome:
    """The row of an input whose process was ended."""
    reasons = {
        "timeout": "took longer than --timeout; try it alone with a larger one: --retry-failed --timeout SECONDS",
        "crashed": "the process that worked on it died twice (out of memory, or a fault in a native library)",
    }
    info = StreamInfo(codec="", width=0, height=0)
    return Outcome(_video_row(task, info, status=loss, remarks=[reasons[loss]]))


def _going(task: IngestTask, info: StreamInfo) -> Going:
    share = min(1.0, info.seconds / info.seconds_from_header) if info.seconds_from_header else 0.0
    return Going(task.source.video_id, int(share * task.source.num_bytes), info.num_frames)


def _without_clip(info: StreamInfo) -> InputError:
    if info.num_frames == 0:
        return InputError("unreadable", "opens, but no frame decodes")
    if info.num_frames == 1:
        return InputError("too_short", "has one frame; a pair needs two")
    return InputError("no_face", f"no face track in {info.num_frames} frames")


@functools.cache
def _landmarker(options: IngestOptions) -> Landmarker:
    """One per process: its graph takes longer to open than a frame to measure."""
    return options.open_landmarker()


def _write_clip(
    clip: Clip, key: str, task: IngestTask, writer: TarWriter, repeats: Repeats
) -> tuple[ClipRow, list[FrameRow]]:
    """Align, warp, encode and append the frames of one clip."""
    size = task.options.size
    tick_seconds = np.array([seconds for seconds, _ in clip.ticks.values()])
    faces = [face for _, face in clip.ticks.values()]
    frame_seconds = np.array([region.frame.pts_seconds for region in clip.frames])
    poses, done = _place_crops(clip, task.options.align)
    matrices = pose_matrices(poses, size)
    measured = np.array([_measurements(face) for face in faces])  # (T, 17)
    between = np.stack([np.interp(frame_seconds, tick_seconds, column) for column in measured.T], axis=-1)
    is_repeated = repeats.among([region.frame.index for region in clip.frames])
    rows = []
    rigid = []
    for region, crop, matrix, values, repeated in zip(
        clip.frames, _cut_crops(clip, matrices, task), matrices, between, is_repeated, strict=True
    ):
        rigid.append(crop.rigid)
        offset, num_bytes = writer.add(f"{key}.{region.frame.index:07d}.jpg", crop.jpeg)
        points = values[:10].reshape(5, 2) @ matrix[:, :2].T + matrix[:, 2]
        face_px, yaw, pitch, roll, eye_open, mouth_open, score = (float(value) for value in values[10:])
        rows.append(
            FrameRow(
                clip_id=key,
                video_id=task.source.video_id,
                frame_index=region.frame.index,
                pts_seconds=region.frame.pts_seconds,
                shard=task.shard,
                offset=offset,
                size=num_bytes,
                transform=tuple(float(value) for value in matrix.ravel()),
                landmarks=tuple(float(value) for value in points.ravel()),
                landmarks_measured=region.frame.index in clip.ticks,
                face_px=face_px,
                yaw=yaw,
                pitch=pitch,
                roll=roll,
                sharpness=crop.sharpness,
                brightness=crop.brightness,
                clipped=crop.clipped,
                eye_open=eye_open,
                mouth_open=mouth_open,
                score=None if np.isnan(score) else score,
                repeated=repeated,
            )
        )
    duration = float(frame_seconds[-1] - frame_seconds[0])
    row = ClipRow(
        clip_id=key,
        video_id=task.source.video_id,
        dataset=task.source.dataset,
        shard=task.shard,
        track=clip.track,
        first_frame=rows[0].frame_index,
        last_frame=rows[-1].frame_index,
        num_frames=len(rows),
        fps=(len(rows) - 1) / duration if duration > 0 else 0.0,
        align=done,
        face_px=float(np.median(between[:, 10])),
        jitter_px=jitter_px(rigid),
    )
    return row, rows


@dataclasses.dataclass(frozen=True, slots=True)
class _Crop:
    """One crop as it is written, and how good it is."""

    jpeg: bytes
    rigid: RigidRegion
    sharpness: float
    brightness: float
    clipped: float


def _cut_crops(clip: Clip, matrices: Points, task: IngestTask) -> Iterator[_Crop]:
    """The crops of a clip in order, by as many threads as the input has."""
    if task.num_threads <= 1:
        yield from (
            _cut_crop(region, matrix, task.options) for region, matrix in zip(clip.frames, matrices, strict=True)
        )
        return
    with concurrent.futures.ThreadPoolExecutor(task.num_threads) as threads:
        yield from threads.map(_cut_crop, clip.frames, matrices, itertools.repeat(task.options))


def _cut_crop(region: Region, matrix: Points, options: IngestOptions) -> _Crop:
    crop = warp(region.frame.rgb(), onto_region(matrix, region), options.size)
    gray = luma(crop)
    jpeg = encode_jpeg(crop, options.jpeg_quality)
    return _Crop(jpeg, rigid_region(gray), sharpness(gray), brightness(gray), clipped(gray))


def _measurements(face: Face) -> list[float]:
    """What is interpolated between measured frames: five points (10 numbers), then 7 columns of the frame row."""
    score = float("nan") if face.score is None else face.score
    return [*face.five_points.ravel(), face.size_px, *face.pose_degrees, face.eye_open, face.mouth_open, score]


def _place_crops(clip: Clip, mode: AlignMode) -> tuple[Points, Literal["clip", "smooth", "frame"]]:
    """One pose per frame, (N, 4), and how they were made; see `IngestOptions.align`."""
    tick_seconds = np.array([seconds for seconds, _ in clip.ticks.values()])
    tick_poses = np.stack([fit_pose(face.points, face.layout) for _, face in clip.ticks.values()])
    frame_seconds = np.array([region.frame.pts_seconds for region in clip.frames])
    if mode in ("clip", "frame"):
        return stable_poses(tick_seconds, tick_poses, frame_seconds, mode), mode
    track = register_poses(clip.frames, stable_poses(tick_seconds, tick_poses, frame_seconds, "smooth"))
    if mode == "auto" and is_still(track):
        return stable_poses(tick_seconds, tick_poses, frame_seconds, "clip"), "clip"
    return track, "smooth"


def _video_row(task: IngestTask, info: StreamInfo, *, status: str, remarks: Iterable[str], **more: Any) -> VideoRow:
    source = task.source
    return VideoRow(
        video_id=source.video_id,
        dataset=source.dataset,
        path=source.path,
        kind=source.kind,
        status=status,  # type: ignore[arg-type]
        reason=escaped("; ".join(remarks)) or None,
        codec=info.codec or None,
        width=info.width or None,
        height=info.height or None,
        fps=info.fps,
        num_frames=info.num_frames,
        num_frames_from_header=info.num_frames_from_header,
        bit_depth=info.bit_depth,
        times_from=info.times_from,
        rotation=info.rotation if info.codec else None,
        mirrored=info.is_mirrored if info.codec else None,
        turned=info.turned if info.codec else None,
        aspect=info.aspect if info.codec else None,
        stereo=info.packing,
        stream=info.stream,
        transfer=info.colour.transfer,
        primaries=info.colour.primaries,
        matrix=info.colour.matrix,
        range=info.colour.range,
        tone_mapped=info.is_tone_mapped if info.codec else None,
        rate=info.slowdown if info.codec else None,
        seconds=info.seconds if info.num_frames else None,
        first_frame=info.first_frame,
        last_frame=info.last_frame,
        kept_whole=told_spans(task.labels),
        num_bytes=source.num_bytes,
        mtime_ns=source.mtime_ns,
        root=source.root,
        **more,
    )


def committed_outcome(frames_folder: Path, row: VideoRow) -> Outcome | None:
    """The outcome of a planned input whose twin is already there; None when it is still to do."""
    _, twin = twin_paths(frames_folder, row.shard or "")
    if not twin.exists():
        return None
    outcome = Outcome.from_json(read_extra(twin, FrameRow, _OUTCOME_ENTRY))
    return outcome if outcome.video.video_id == row.video_id else None
