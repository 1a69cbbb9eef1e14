"""Can the plans carry a large corpus? Manifests of 8 million frames in 3,000 videos: rows generated, no pixels.

    plan     all pairs planned from the manifests, and the shards dealt
    resume   what a second `mbert ingest` does before its first task: read the rows, find the tars that are there
    where    the same plan under a condition over frames, clips and videos

Each runs in a process of its own, so that its peak memory is its own.

    python benchmarks/scale.py

The last line of the output is one JSON object.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from mbert.manifests.files import write_json
from mbert.manifests.schema import ClipRow, FrameRow, VideoRow, arrow_schema, clip_key, video_key
from mbert.manifests.store import read_rows, write_rows, write_table
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.ingest_input import committed_outcome
from mbert.pipeline.ingest_summary import Outcome
from mbert.pipeline.pairs.plan import PairOptions, dealt_pairs, pair_condition, plan_sampled

FPS, CLIP_SECONDS = 30, 10
FRAME_BYTES = 16_384


def generate(folder, num_frames, num_videos):
    workspace = Workspace(folder)
    rng = np.random.default_rng(0)
    per_video = num_frames // num_videos
    videos, clips = [], []
    for number in range(num_videos):
        path = f"person{number % 200:03d}/take{number:05d}.mp4"
        key, shard = video_key("videos", path), f"{number:06d}"
        ours = clips_of(key, shard, per_video, rng)
        video = VideoRow(
            video_id=key, dataset="videos", path=path, kind="video", status="ok", shard=shard, fps=FPS,
            num_frames=per_video, num_clips=len(ours), num_crops=per_video, num_bytes=1 << 24, sha256=f"{number:064x}",
        )  # fmt: skip
        outcome = Outcome(video, tuple(ours))
        table = frames_of(key, shard, ours, per_video, rng)
        twin = twin_paths(workspace.frames, shard)[1]
        write_table(twin, table, row_type=FrameRow, extra={"mbert_outcome": outcome.to_json()})
        videos.append(video)
        clips += ours
    write_rows(workspace.videos, VideoRow, videos)
    write_rows(workspace.clips, ClipRow, clips)
    write_json(workspace.corpus_config, {"options": {}, "root": "videos"})


def clips_of(key, shard, num_frames, rng):
    length = FPS * CLIP_SECONDS
    return [
        ClipRow(
            clip_id=clip_key(key, 0, index), video_id=key, dataset="videos", shard=shard, track=0, first_frame=start,
            last_frame=min(start + length, num_frames) - 1, num_frames=min(length, num_frames - start), fps=FPS,
            align="smooth", face_px=float(rng.uniform(80, 300)), jitter_px=float(rng.uniform(0.02, 0.6)),
        )
        for index, start in enumerate(range(0, num_frames, length))
    ]  # fmt: skip


def frames_of(key, shard, clips, num_frames, rng):
    index = np.arange(num_frames)
    owner = pa.array(index // (FPS * CLIP_SECONDS), pa.int32())
    noise = rng.normal(size=num_frames).astype(np.float32)
    columns = {
        "clip_id": pa.DictionaryArray.from_arrays(owner, [clip.clip_id for clip in clips]).cast(pa.string()),
        "video_id": pa.array([key] * num_frames),
        "frame_index": index,
        "pts_seconds": index / FPS,
        "shard": pa.array([shard] * num_frames),
        "offset": 512 + index * (FRAME_BYTES + 512),
        "size": np.full(num_frames, FRAME_BYTES),
        "transform": pa.array(np.tile(noise[:, None], 6).astype(float).tolist(), pa.list_(pa.float64(), 6)),
        "landmarks": pa.array(np.tile(noise[:, None], 10).tolist(), pa.list_(pa.float32(), 10)),
        "landmarks_measured": index % 6 == 0,
    }
    schema = arrow_schema(FrameRow)
    columns |= {name: 150 + 30 * noise for name in schema.names if name not in columns}
    return pa.table({name: pa.array(columns[name]) for name in schema.names}).cast(schema)


def plan(folder, where=None):
    workspace = Workspace(folder)
    options = PairOptions(where=where)
    clips = read_rows(workspace.clips, ClipRow)
    done = plan_sampled(workspace, clips, options, pair_condition(workspace, options), folder / "plan")
    starts = range(0, done.num_pairs, options.pairs_per_shard)
    for start in starts:
        dealt_pairs(folder / "plan", range(start, min(start + options.pairs_per_shard, done.num_pairs)), seed=0)
    return f"{done.num_pairs} pairs in {len(starts)} shards"


def where(folder):
    return plan(folder, "jitter_px < 0.2 and face_px > 120 and yaw between 100 and 200 and codec is null")


def resume(folder):
    workspace = Workspace(folder)
    rows = read_rows(workspace.videos, VideoRow)
    read_rows(workspace.clips, ClipRow)
    found = [committed_outcome(workspace.frames, row) for row in rows]
    return f"{sum(outcome is not None for outcome in found)} tars found"


def measured(work, folder, answers):
    began = time.perf_counter()
    told = work(folder)
    seconds = time.perf_counter() - began
    answers.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, told))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=8_000_000)
    parser.add_argument("--videos", type=int, default=3_000)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    seconds, peaks = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        generate(folder, arguments.frames, arguments.videos)
        print(f"generated in {time.perf_counter() - began:.0f} s", flush=True)
        for work in (plan, resume, where):
            answers = context.SimpleQueue()
            process = context.Process(target=measured, args=(work, folder, answers))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{work.__name__} failed")
            seconds[work.__name__], peak, told = answers.get()
            peaks.append(peak)
            print(f"{work.__name__}: {seconds[work.__name__]:.1f} s, {peak:.0f} MB, {told}", flush=True)
    result = {"frames": arguments.frames}
    result |= {f"{name}_seconds": round(value, 1) for name, value in seconds.items()}
    print(json.dumps({**result, "peak_rss_mb": round(max(peaks))}))


if __name__ == "__main__":
    main()
