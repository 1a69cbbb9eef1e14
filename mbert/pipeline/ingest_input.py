"""One input -> one tar of aligned crops and its Parquet twin: the task that `ingest.py` runs many of.

Frames are decoded, faces followed, clips aligned, warped and encoded in a stream; the tar gets its name when complete,
the twin last. The twin's metadata carries the rows of the input and of its clips.
"""

import functools
import itertools
import multiprocessing
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
from threadpoolctl import threadpool_limits

from mbert import InputError, MbertError
from mbert.manifests.labels.table import span_keys
from mbert.manifests.paths import escaped
from mbert.manifests.schema import ClipRow, FrameRow, VideoRow, clip_key
from mbert.manifests.store import read_extra, writing_rows
from mbert.manifests.workspace import twin_paths
from mbert.pipeline.faces.fixes import Doubts
from mbert.pipeline.faces.landmarks import Landmarker
from mbert.pipeline.faces.track import CutRules, follow_faces, spans
from mbert.pipeline.ingest_clip import write_clip
from mbert.pipeline.ingest_options import IngestOptions, IngestTask
from mbert.pipeline.ingest_summary import Going, Outcome
from mbert.pipeline.video.decode import Decoder, Fixes, StreamInfo
from mbert.pipeline.video.repeats import Repeats
from mbert.pipeline.video.source import content_hash
from mbert.shards.engine import Loss, tell
from mbert.shards.writer import TAR_HASH_ENTRY, writing_tar

_MAX_CLIP_BYTES = 128 << 20  # of regions held until a clip ends: the memory bound of a worker
_TICKS_PER_INPUT = 8  # short inputs are measured more often than `landmark_hz`, or they would have two or three ticks
_OUTCOME_ENTRY = "mbert_outcome"


def ingest_input(task: IngestTask) -> Outcome:
    """Ingest one input; any problem with it is recorded in its row.

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
    """Write the tar and the twin. Raises _LookAgain, before anything gets its name, if `doubts` prove right."""
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
    # The tar is finished and named before the twin, which is the commit mark.
    with writing_rows(twin, FrameRow) as rows:
        with writing_tar(tar) as writer:
            for clip in follow_faces(measured, crop_size=options.size, rules=rules, max_faces=options.max_faces):
                key = clip_key(task.source.video_id, clip.track, num_clips_of_track[clip.track])
                num_clips_of_track[clip.track] += 1
                row, frame_rows = write_clip(clip, key, task, writer, repeats)
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
    """The duration that the input states; None if it states none or cannot be opened."""
    try:
        return task.options.open_decoder(task.source, 1).info.seconds_from_header
    except InputError:
        return None


def lost_outcome(task: IngestTask, loss: Loss) -> Outcome:
    """The outcome of an input whose process was killed."""
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
    """One per process: opening its graph takes longer than measuring a frame."""
    return options.open_landmarker()


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
        kept_whole=span_keys(task.labels),
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
