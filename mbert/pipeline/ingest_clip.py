"""One clip of an input -> its aligned crops in the tar, and its rows."""

import concurrent.futures
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np

from mbert.manifests.schema import AlignMode, ClipRow, FrameRow
from mbert.pipeline.faces.align import fit_pose, is_still, pose_matrices, stable_poses, warp
from mbert.pipeline.faces.landmarks import Face, Points
from mbert.pipeline.faces.quality import Region as RigidRegion
from mbert.pipeline.faces.quality import brightness, clipped, jitter_px, luma, rigid_region, sharpness
from mbert.pipeline.faces.register import register_poses
from mbert.pipeline.faces.track import Clip, Region, onto_region
from mbert.pipeline.ingest_options import IngestOptions, IngestTask
from mbert.pipeline.video.repeats import Repeats
from mbert.shards.image import encode_jpeg
from mbert.shards.writer import TarWriter


def write_clip(
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
    """One crop as written, and its quality."""

    jpeg: bytes
    rigid: RigidRegion
    sharpness: float
    brightness: float
    clipped: float


def _cut_crops(clip: Clip, matrices: Points, task: IngestTask) -> Iterator[_Crop]:
    """The crops of a clip in order, with the input's number of threads."""
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
    """The values interpolated between measured frames: five points (10 numbers), then 7 columns of the frame row."""
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
