"""`mbert ingest`: raw videos and frame folders -> aligned crops in tars, with manifests.

Each input is one independent task that writes one tar of crops and then its Parquet twin, the commit mark. The plan
(which input gets which tar) is in `videos.parquet` before the first task starts, so a killed run goes on with the same
plan and ends with the same bytes. `videos.parquet` and `clips.parquet` are gathered from the twins.
"""

import dataclasses
import errno
import functools
import importlib.metadata
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbert import ConfigError, InputError, MbertError, __version__
from mbert.manifests.labels import LABELS_NAME, Label, join_labels, labels_by_path, read_labels
from mbert.manifests.schema import SCHEMA_VERSION, AlignMode, ClipRow, FrameRow, VideoRow, clip_key, video_key
from mbert.manifests.store import read_extra, read_json, read_rows, write_json, write_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.align import fit_pose, pose_matrices, stable_poses, warp
from mbert.pipeline.corpora.videos import DATASET, Listing, Source, list_sources, natural_order
from mbert.pipeline.decode import StreamInfo, content_hash, open_source
from mbert.pipeline.engine import run_tasks
from mbert.pipeline.landmarks import Landmarker, MediaPipeMesh, Points
from mbert.pipeline.quality import jitter_px, luma, rigid_region, sharpness
from mbert.pipeline.track import Clip, CutRules, follow_faces, spans
from mbert.shards.image import JPEG_QUALITY, JPEG_SUBSAMPLING, encode_jpeg
from mbert.shards.writer import TarWriter, writing_tar

_MAX_CLIP_BYTES = 256 << 20  # of regions held until a clip ends: the memory bound of a worker
_TICKS_PER_INPUT = 8  # short inputs are measured more often than `landmark_hz`, or they would have two or three ticks
_OUTCOME_ENTRY = "mbert_outcome"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestOptions:
    """What decides the bytes of a corpus; another choice needs another corpus."""

    size: int = 224  # width and height of a crop in pixels
    align: AlignMode = "auto"  # see `align.stable_poses`
    landmark_hz: float = 5.0  # landmark measurements per second of video
    folder_fps: float = 30.0  # frame rate of frame folders; video files carry their own times
    max_clip_seconds: float = 10.0  # longer tracks are cut, but never inside a labelled expression

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 1024:
            raise ConfigError(f"crop size is {self.size}; allowed are 32 to 1024 pixels")
        for name in ("landmark_hz", "folder_fps", "max_clip_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")


@dataclasses.dataclass(frozen=True, slots=True)
class IngestTask:
    """One input and where its crops go."""

    source: Source
    shard: str
    frames_folder: Path
    options: IngestOptions
    labels: tuple[Label, ...]
    num_threads: int


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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestPlan:
    """What a run is going to do; handed to the caller before it starts."""

    num_inputs: int
    num_done_before: int
    num_bytes: int  # of the inputs that are still to do
    num_to_do: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestSummary:
    """The state of the corpus after a run, and what this run did."""

    statuses: dict[str, int]  # inputs by status, all runs
    num_new: int  # inputs done by this run
    num_clips: int
    num_crops: int
    num_frames_decoded: int  # by this run
    seconds: float  # wall time of this run
    num_labelled_clips: int
    label_remarks: int
    changed: tuple[str, ...]  # inputs whose file is not the one that was ingested
    ignored: tuple[str, ...]  # files that are no inputs
    failures: dict[str, str]  # path -> reason
    labels_path: str
    corpus: str


def run_ingest(
    path: Path,
    workspace: Workspace,
    options: IngestOptions,
    *,
    workers: int = 1,
    limit: int | None = None,
    overwrite: bool = False,
    labels_path: Path | None = None,
    on_plan: Callable[[IngestPlan], None] = lambda plan: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> IngestSummary:
    """Ingest every input under `path` that the corpus does not have yet.

    Raises ConfigError, before any work, for a path without inputs or options that differ from those of the corpus, and
    ManifestError for a label file that cannot be read.
    """
    began = time.monotonic()
    listing = list_sources(path)
    labels_path = labels_path or listing.root / LABELS_NAME
    labels = labels_by_path(read_labels(labels_path)) if labels_path.exists() else {}
    if overwrite:
        _remove_corpus(workspace)
    _settle_config(workspace, listing.root, options)
    videos = {row.video_id: row for row in _read_if_there(workspace.videos, VideoRow)}
    clips = _by_video(_read_if_there(workspace.clips, ClipRow))
    _plan(videos, listing, labels, limit)
    _write_manifests(workspace, videos, clips, labels)

    sources = {source.video_id: source for source in listing.sources}
    pending = [row for row in videos.values() if row.status == "pending" and row.video_id in sources]
    outcomes = [outcome for row in pending if (outcome := _committed(workspace.frames, row))]
    recovered = {outcome.video.video_id for outcome in outcomes}
    pending = [row for row in pending if row.video_id not in recovered]
    tasks = [
        IngestTask(
            source=sources[row.video_id],
            shard=row.shard or "",
            frames_folder=workspace.frames,
            options=options,
            labels=tuple(labels.get(row.path, ())),
            num_threads=1 if workers > 1 else 0,
        )
        for row in sorted(pending, key=lambda row: row.shard or "")
    ]
    on_plan(
        IngestPlan(
            num_inputs=len(listing.sources),
            num_done_before=len(listing.sources) - len(tasks),
            num_bytes=sum(task.source.num_bytes for task in tasks),
            num_to_do=len(tasks),
        )
    )
    num_frames = 0
    try:
        for outcome in run_tasks(ingest_input, tasks, workers=workers):
            outcomes.append(outcome)
            num_frames += outcome.video.num_frames or 0
            on_outcome(outcome)
    finally:  # also on Ctrl-C: what is done is in the manifests
        for outcome in outcomes:
            videos[outcome.video.video_id] = outcome.video
            clips[outcome.video.video_id] = list(outcome.clips)
        rows, joined = _write_manifests(workspace, videos, clips, labels)
    return _summarise(workspace, listing, rows, joined, labels_path, len(tasks), num_frames, time.monotonic() - began)


def _settle_config(workspace: Workspace, root: Path, options: IngestOptions) -> None:
    """Write config.json, or check that the corpus was begun with the same folder and options."""
    wanted = {"root": str(root), "options": dataclasses.asdict(options)}
    if workspace.corpus_config.exists():
        found = read_json(workspace.corpus_config)
        old, new = {**found["options"], "folder": found["root"]}, {**wanted["options"], "folder": wanted["root"]}  # type: ignore[dict-item]
        differences = [
            f"{name}: corpus {old.get(name)}, asked {new[name]}" for name in new if old.get(name) != new[name]
        ]
        if differences:
            raise ConfigError(
                f"the corpus in {workspace.corpus} was made otherwise ({'; '.join(differences)}): "
                "use the same options, another --workspace, or --overwrite to make it anew"
            )
        return
    names = ("av", "mediapipe", "numpy", "opencv-contrib-python", "simplejpeg")
    write_json(
        workspace.corpus_config,
        {
            **wanted,
            "schema": SCHEMA_VERSION,
            "dataset": DATASET,
            "jpeg": {"quality": JPEG_QUALITY, "subsampling": JPEG_SUBSAMPLING},
            "versions": {"mbert": __version__, **{name: importlib.metadata.version(name) for name in names}},
        },
    )


def _remove_corpus(workspace: Workspace) -> None:
    """Delete what an ingest wrote, and nothing else."""
    ours = [workspace.videos, workspace.clips, workspace.corpus_config]
    for file in [*ours, *workspace.frames.glob("*.parquet"), *workspace.frames.glob("*.tar")]:
        file.unlink(missing_ok=True)


def _plan(videos: dict[str, VideoRow], listing: Listing, labels: dict[str, list[Label]], limit: int | None) -> None:
    """Add a pending row with its own tar number for each new input, and a row for each label without an input."""
    taken = [int(row.shard) for row in videos.values() if row.shard is not None]
    number = max(taken, default=-1) + 1
    new = [source for source in listing.sources if source.video_id not in videos or _came_back(videos[source.video_id])]
    for source in new[:limit]:
        videos[source.video_id] = VideoRow(
            video_id=source.video_id,
            dataset=source.dataset,
            path=source.path,
            kind=source.kind,
            status="pending",
            shard=f"{number:06d}",
            num_bytes=source.num_bytes,
            mtime_ns=source.mtime_ns,
        )
        number += 1
    paths = {source.path for source in listing.sources}
    for path, group in labels.items():
        key = video_key(DATASET, path)
        if path not in paths and key not in videos:
            lines = ", ".join(str(label.line) for label in group)
            reason = f"label line {lines} names it, but there is no such file or folder"
            videos[key] = VideoRow(
                video_id=key, dataset=DATASET, path=path, kind="video", status="missing", reason=reason
            )


def _came_back(row: VideoRow) -> bool:
    return row.status == "missing"


def ingest_input(task: IngestTask) -> Outcome:
    """Ingest one input; whatever is wrong with it becomes its row. Raises MbertError when writing fails."""
    info = StreamInfo(codec="", width=0, height=0)
    try:
        decoder = open_source(task.source, folder_fps=task.options.folder_fps, num_threads=task.num_threads)
        info = decoder.info
        return _write_input(task, decoder)
    except InputError as exc:
        return Outcome(_video_row(task, info, status=exc.status, remarks=[exc.reason, *info.remarks]))
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise MbertError(
                f"cannot write to {task.frames_folder}: {exc.strerror}; make room, then run the same command to go on"
            ) from exc
        return Outcome(_video_row(task, info, status="unreadable", remarks=[f"cannot be read: {exc.strerror}"]))
    except MemoryError:
        raise
    except Exception as exc:  # the one boundary: an unforeseen fault costs one input, not the run
        return Outcome(_video_row(task, info, status="error", remarks=[f"{type(exc).__name__}: {exc}"]))


def _write_input(task: IngestTask, decoder: Any) -> Outcome:
    options, info = task.options, decoder.info
    tick_seconds = 1 / options.landmark_hz
    if info.seconds_from_header:
        tick_seconds = min(tick_seconds, info.seconds_from_header / _TICKS_PER_INPUT)
    if options.align == "frame":
        tick_seconds = 0.0
    rules = CutRules.for_labels(task.labels, max_seconds=options.max_clip_seconds, max_bytes=_MAX_CLIP_BYTES)
    measured = spans(decoder, _landmarker(), tick_seconds=tick_seconds)
    tar, twin = twin_paths(task.frames_folder, task.shard)
    clips: list[ClipRow] = []
    frames: list[FrameRow] = []
    num_clips_of_track: Counter[int] = Counter()
    with writing_tar(tar) as writer:
        for clip in follow_faces(measured, crop_size=options.size, rules=rules):
            key = clip_key(task.source.video_id, clip.track, num_clips_of_track[clip.track])
            num_clips_of_track[clip.track] += 1
            row, frame_rows = _write_clip(clip, key, task, writer)
            clips.append(row)
            frames.extend(frame_rows)
    if not clips:
        raise _without_clip(info)
    video = _video_row(
        task, info, status="ok", remarks=info.remarks, num_clips=len(clips), num_crops=len(frames), shard=task.shard
    )
    outcome = Outcome(video, tuple(clips))
    write_rows(twin, FrameRow, frames, extra={_OUTCOME_ENTRY: outcome.to_json()})
    return outcome


def _without_clip(info: StreamInfo) -> InputError:
    if info.num_frames == 0:
        return InputError("unreadable", "opens, but no frame decodes")
    if info.num_frames == 1:
        return InputError("too_short", "has one frame; a pair needs two")
    return InputError("no_face", f"no face track in {info.num_frames} frames")


@functools.cache
def _landmarker() -> Landmarker:
    """One per process: its graph takes longer to open than a frame to measure."""
    return MediaPipeMesh()


def _write_clip(clip: Clip, key: str, task: IngestTask, writer: TarWriter) -> tuple[ClipRow, list[FrameRow]]:
    """Align, warp, encode and append the frames of one clip."""
    size = task.options.size
    tick_seconds = np.array([seconds for seconds, _ in clip.ticks.values()])
    faces = [face for _, face in clip.ticks.values()]
    frame_seconds = np.array([region.pts_seconds for region in clip.frames])
    tick_poses = np.stack([fit_pose(face.mesh) for face in faces])
    poses, done = stable_poses(tick_seconds, tick_poses, frame_seconds, task.options.align)
    matrices = pose_matrices(poses, size)
    measured = np.array(
        [[*face.five_points.ravel(), face.size_px, *face.pose_degrees, face.score] for face in faces]
    )  # (T, 15)
    between = np.stack([np.interp(frame_seconds, tick_seconds, column) for column in measured.T], axis=-1)
    rows = []
    rigid = []
    for region, matrix, values in zip(clip.frames, matrices, between, strict=True):
        crop = warp(region.image, _onto_region(matrix, region.origin, region.shrink), size)
        gray = luma(crop)
        rigid.append(rigid_region(gray))
        offset, num_bytes = writer.add(f"{key}.{region.frame_index:07d}.jpg", encode_jpeg(crop))
        points = values[:10].reshape(5, 2) @ matrix[:, :2].T + matrix[:, 2]
        face_px, yaw, pitch, roll, score = (float(value) for value in values[10:])
        rows.append(
            FrameRow(
                clip_id=key,
                video_id=task.source.video_id,
                frame_index=region.frame_index,
                pts_seconds=region.pts_seconds,
                shard=task.shard,
                offset=offset,
                size=num_bytes,
                transform=tuple(float(value) for value in matrix.ravel()),
                landmarks=tuple(float(value) for value in points.ravel()),
                landmarks_measured=region.frame_index in clip.ticks,
                face_px=face_px,
                yaw=yaw,
                pitch=pitch,
                roll=roll,
                sharpness=sharpness(gray),
                brightness=float(gray.mean()),
                score=score,
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


def _onto_region(matrix: Points, origin: tuple[int, int], shrink: int) -> Points:
    """The matrix for a part of the image that was cut out at `origin` and shrunk."""
    corner = np.array(origin) + (shrink - 1) / 2  # a shrunk pixel's centre lies in the middle of those it averages
    linear = matrix[:, :2]
    return np.concatenate([linear * shrink, (linear @ corner + matrix[:, 2])[:, None]], axis=1)


def _video_row(task: IngestTask, info: StreamInfo, *, status: str, remarks: Iterable[str], **more: Any) -> VideoRow:
    source = task.source
    return VideoRow(
        video_id=source.video_id,
        dataset=source.dataset,
        path=source.path,
        kind=source.kind,
        status=status,  # type: ignore[arg-type]
        reason="; ".join(remarks) or None,
        codec=info.codec or None,
        width=info.width or None,
        height=info.height or None,
        fps=info.fps,
        num_frames=info.num_frames,
        num_frames_from_header=info.num_frames_from_header,
        rotation=info.rotation if info.codec else None,
        seconds=info.seconds if info.num_frames else None,
        num_bytes=source.num_bytes,
        mtime_ns=source.mtime_ns,
        sha256=content_hash(source),
        **more,
    )


def _committed(frames_folder: Path, row: VideoRow) -> Outcome | None:
    """The outcome of a pending input whose twin a killed run had already written."""
    _, twin = twin_paths(frames_folder, row.shard or "")
    if not twin.exists():
        return None
    outcome = Outcome.from_json(read_extra(twin, FrameRow, _OUTCOME_ENTRY))
    return outcome if outcome.video.video_id == row.video_id else None


def _read_if_there(path: Path, row_type: type[Any]) -> list[Any]:
    return read_rows(path, row_type) if path.exists() else []


def _by_video(clips: Iterable[ClipRow]) -> dict[str, list[ClipRow]]:
    groups: dict[str, list[ClipRow]] = {}
    for clip in clips:
        groups.setdefault(clip.video_id, []).append(clip)
    return groups


def _write_manifests(
    workspace: Workspace,
    videos: dict[str, VideoRow],
    clips: dict[str, list[ClipRow]],
    labels: dict[str, list[Label]],
) -> tuple[list[VideoRow], list[ClipRow]]:
    """Join the labels as they are now and write `clips.parquet`, then `videos.parquet`. Returns their rows."""
    rows: list[VideoRow] = []
    joined: list[ClipRow] = []
    for row in sorted(videos.values(), key=lambda row: natural_order(row.path)):
        bare = [_without_labels(clip) for clip in clips.get(row.video_id, ())]
        remarks: list[str] = []
        if row.status == "ok":
            bare, remarks = join_labels(bare, labels.get(row.path, ()))
            kept = [part for part in (row.reason or "").split("; ") if part and not part.startswith("label line")]
            row = dataclasses.replace(row, reason="; ".join([*kept, *remarks]) or None)
        rows.append(row)
        joined.extend(bare)
    write_rows(workspace.clips, ClipRow, joined)
    write_rows(workspace.videos, VideoRow, rows)
    return rows, joined


def _without_labels(clip: ClipRow) -> ClipRow:
    return dataclasses.replace(clip, subject=None, onset=None, apex=None, offset=None, emotion=None, action_units=None)


def _summarise(
    workspace: Workspace,
    listing: Listing,
    rows: Sequence[VideoRow],
    clips: Sequence[ClipRow],
    labels_path: Path,
    num_new: int,
    num_frames: int,
    seconds: float,
) -> IngestSummary:
    by_id = {row.video_id: row for row in rows}
    changed = [
        source.path
        for source in listing.sources
        if (row := by_id.get(source.video_id)) and (row.num_bytes, row.mtime_ns) != (source.num_bytes, source.mtime_ns)
    ]
    return IngestSummary(
        statuses=dict(Counter(row.status for row in rows)),
        num_new=num_new,
        num_clips=len(clips),
        num_crops=sum(row.num_crops for row in rows),
        num_frames_decoded=num_frames,
        seconds=seconds,
        num_labelled_clips=sum(clip.emotion is not None for clip in clips),
        label_remarks=sum("label line" in (row.reason or "") for row in rows),
        changed=tuple(changed),
        ignored=listing.ignored,
        failures={row.path: row.reason or row.status for row in rows if row.status not in ("ok", "pending")},
        labels_path=str(labels_path) if labels_path.exists() else "",
        corpus=str(workspace.corpus),
    )
