"""How fast `mbert predict` is, against ingest alone and against real time, and what it holds in memory.

    python benchmarks/predict.py VIDEO... [--rounds 3] [--real-time VIDEO] [--seconds 30]

Each round runs ingest, predict without the overlay and predict with it on the same videos, one after the other, each
as the command a user types, in a process of its own; times are those of the commands without their start (a run on a
video of one frame). Ratios are medians over the rounds. `real_time` is the length of a 1280 x 720 video at 30 frames
per second over the time it takes; without `--real-time` one is made from the first video, repeated. `peak_rss_mb` is
the most that all processes of predict held while they worked on it.

The last line of the output is one JSON object.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import imageio_ffmpeg

COMMANDS = {
    "ingest": ["ingest"],
    "predict": ["predict", "--no-overlay"],
    "predict_overlay": ["predict"],
}


def run(words, folder, where):
    """Seconds and peak memory of a command and all its processes."""
    place = ["--workspace", folder / "ws"] if words[0] == "ingest" else ["--out", folder / "out"]
    command = [sys.executable, "-m", "mbert.cli", *words, where, *place, "--json"]
    began = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process, peak), daemon=True)
    watcher.start()
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    value = json.loads(said)
    return time.monotonic() - began, value["seconds"], peak[0] / 1e6


def watch(process, peak):
    """The most that a process and its children hold: shared pages are counted once, by their share."""
    while process.poll() is None:
        peak[0] = max(peak[0], sum(held_by(pid) for pid in family(process.pid)))
        time.sleep(0.5)  # adding up pages stops the process that they belong to


def family(pid):
    """A process and all below it."""
    found = [pid]
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [one for each in child.read_text().split() for one in family(int(each))]
    return found


def held_by(pid):
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


def make_720p(video, out, seconds):
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    scale = "scale=1280:720:force_original_aspect_ratio=decrease,pad=1280:720:(ow-iw)/2:(oh-ih)/2,fps=30,format=yuv420p"
    command = [ffmpeg, "-v", "error", "-stream_loop", "-1", "-i", video, "-t", str(seconds), "-vf", scale, "-an", out]
    subprocess.run([str(word) for word in command], check=True)
    return out


def num_frames(out):
    return sum(json.loads(file.read_text())["num_frames"] for file in out.rglob("summary.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--real-time", type=Path, help="a 1280 x 720 video at 30 frames per second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the video that is made")
    arguments = parser.parse_args()
    times = {name: [] for name in COMMANDS}
    frames = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        videos = work / "videos"
        videos.mkdir()
        for video in arguments.videos:
            (videos / video.name).symlink_to(video.resolve())
        for number in range(arguments.rounds):
            for kind, words in COMMANDS.items():
                folder = work / f"{kind}-{number}"
                folder.mkdir()
                _, seconds, _ = run(words, folder, videos)
                times[kind].append(seconds)
                print(f"round {number}: {kind} {seconds:.1f} s", flush=True)
                frames = num_frames(folder / "out") or frames
        real = arguments.real_time or make_720p(arguments.videos[0], work / "real.mp4", arguments.seconds)
        rates, peak = {}, 0.0
        for kind in ("predict", "predict_overlay"):
            found = []
            for number in range(arguments.rounds):
                folder = work / f"real-{kind}-{number}"
                folder.mkdir()
                _, seconds, memory = run(COMMANDS[kind], folder, real)
                summary = json.loads(next((folder / "out").rglob("summary.json")).read_text())
                found.append(summary["seconds"] / seconds)
                peak = max(peak, memory)
            rates[kind] = round(statistics.median(found), 2)
            print(f"720p30: {kind} {rates[kind]} times real time, {peak:.0f} MB", flush=True)
    middle = {kind: statistics.median(found) for kind, found in times.items()}
    ratios = [one / other for one, other in zip(times["ingest"], times["predict"], strict=True)]
    print(
        json.dumps(
            {
                "predict_fps": round(frames / middle["predict"], 1),
                "predict_overlay_fps": round(frames / middle["predict_overlay"], 1),
                "ingest_fps": round(frames / middle["ingest"], 1),
                "predict_over_ingest": round(statistics.median(ratios), 3),
                "real_time": rates["predict"],
                "real_time_overlay": rates["predict_overlay"],
                "peak_rss_mb": round(peak),
                "frames": frames,
            }
        )
    )


if __name__ == "__main__":
    main()
