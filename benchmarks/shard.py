"""How fast is `mbert shard --pairs`? Against `cp` of the same bytes on the same disk, and how much memory it takes.

A corpus of crops is made up (random bytes as large as crops are: sharding copies them, it does not look), then in one
run, alternating: `mbert shard --pairs` as users run it, and `cp` of the tars that it wrote. Both end with the bytes
synced to disk. Peak memory is that of the largest process, on this corpus and on a quarter of it.

    python benchmarks/shard.py

The last line of the output is one JSON object.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mbert.manifests.files import write_json
from mbert.manifests.schema import ClipRow, FrameRow, VideoRow, clip_key, video_key
from mbert.manifests.store import write_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.shards.writer import writing_tar

FPS, CLIP_SECONDS = 30, 10


def generate(folder, num_videos, frames_per_video):
    workspace = Workspace(folder)
    rng = np.random.default_rng(0)
    videos, clips = [], []
    for number in range(num_videos):
        key, shard = video_key("videos", f"take{number:05d}.mp4"), f"{number:06d}"
        tar, twin = twin_paths(workspace.frames, shard)
        rows = []
        with writing_tar(tar) as writer:
            for index in range(frames_per_video):
                clip = clip_key(key, 0, index // (FPS * CLIP_SECONDS))
                offset, size = writer.add(f"{clip}.{index:07d}.jpg", rng.bytes(int(rng.normal(16_000, 1_500))))
                rows.append(frame(clip, key, index, shard, offset, size))
        write_rows(twin, FrameRow, rows)
        videos.append(
            VideoRow(video_id=key, dataset="videos", path=f"{key}.mp4", kind="video", status="ok", shard=shard)
        )
        for start in range(0, frames_per_video, FPS * CLIP_SECONDS):
            stop = min(start + FPS * CLIP_SECONDS, frames_per_video)
            clips.append(
                ClipRow(
                    clip_id=clip_key(key, 0, start // (FPS * CLIP_SECONDS)), video_id=key, dataset="videos",
                    shard=shard, track=0, first_frame=start, last_frame=stop - 1, num_frames=stop - start, fps=FPS,
                    align="smooth", face_px=200.0, jitter_px=0.1,
                )
            )  # fmt: skip
    write_rows(workspace.videos, VideoRow, videos)
    write_rows(workspace.clips, ClipRow, clips)
    write_json(workspace.corpus_config, {"options": {}, "root": "videos"})
    return workspace


def frame(clip, video, index, shard, offset, size):
    return FrameRow(
        clip_id=clip, video_id=video, frame_index=index, pts_seconds=index / FPS, shard=shard, offset=offset,
        size=size, transform=(1.0,) * 6, landmarks=(1.0,) * 10, landmarks_measured=False, face_px=200.0, yaw=0.0,
        pitch=0.0, roll=0.0, sharpness=100.0, brightness=128.0, clipped=0.0, eye_open=0.3, mouth_open=0.0, score=0.9,
    )  # fmt: skip


def shard(workspace, workers):
    """Run the command as users do. Returns seconds, its summary, and the peak memory of its largest process in MB."""
    shutil.rmtree(workspace.pairs, ignore_errors=True)
    words = ["shard", "--pairs", "-w", str(workspace.root), "--workers", str(workers), "--json"]
    # In a shell of its own, so that the peak is that of this run's processes.
    script = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'mbert.cli', *sys.argv[1:]], capture_output=True, check=True)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024\n"
        "print(json.dumps([json.loads(done.stdout), peak]))\n"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, check=True)
    seconds = time.perf_counter() - began
    summary, peak = json.loads(done.stdout)
    os.sync()
    return seconds, summary, peak


def copy(workspace, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tars = sorted(str(tar) for tar in workspace.pairs.glob("*.tar"))
    began = time.perf_counter()
    subprocess.run(["cp", *tars, str(folder)], check=True)
    for tar in folder.iterdir():  # the shards are synced to disk too
        with tar.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--videos", type=int, default=120)
    parser.add_argument("--frames", type=int, default=1_500, help="of each video")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    ratios, rates = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = generate(folder / "small", arguments.videos // 4, arguments.frames)
        _, few, small_peak = shard(small, arguments.workers)
        shutil.rmtree(small.root)
        workspace = generate(folder / "large", arguments.videos, arguments.frames)
        for number in range(arguments.rounds):
            seconds, summary, peak = shard(workspace, arguments.workers)
            copying = copy(workspace, folder / "copies")
            ratios.append(copying / seconds)
            rates.append(summary["num_pairs"] / seconds)
            print(
                f"round {number + 1}: {summary['num_pairs']} pairs, {summary['num_bytes'] / 1e6:.0f} MB: shard "
                f"{seconds:.2f} s ({summary['seconds']:.2f} s without start-up), cp {copying:.2f} s",
                flush=True,
            )
        print(f"peak memory: {few['num_pairs']} pairs {small_peak:.0f} MB, {summary['num_pairs']} pairs {peak:.0f} MB")
    result = {
        "shard_over_cp": round(float(np.median(ratios)), 3),
        "pairs_per_s": round(float(np.median(rates))),
        "peak_rss_mb": round(max(peak, small_peak)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
