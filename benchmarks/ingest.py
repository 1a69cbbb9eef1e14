"""How fast is `mbert ingest`? Against decoding alone, and against the loop that people write by hand.

Over copies of one clip, in one run, alternating, the best of some rounds each (machines are noisy):

    decode       every frame to RGB, by the same decoder with one thread: what no ingest can be faster than
    ingest       `run_ingest` with one worker
    handwritten  OpenCV capture, face mesh on every frame, warp by the eyes, PNG files

Then the whole command as processes of their own: 1 against 2 workers over several files, and the peak memory of one
worker on the clip and on a video eight times as long.

    python benchmarks/ingest.py [CLIP]

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

import av
import cv2
import ffmpeg
import imageio_ffmpeg
import numpy as np

from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.decode import VideoFile

MEDIA = Path(os.environ.get("MBERT_TEST_MEDIA", Path(__file__).parents[2] / "shared" / "media"))
EYES = np.array([[0.35, 0.40], [0.65, 0.40]]) * 224


def decode(clip, folder):
    num_frames = 0
    for frame in VideoFile(clip, num_threads=1):
        frame.rgb()
        num_frames += 1
    return num_frames


def ingest(clip, folder):
    return run_ingest(clip, Workspace(folder / "workspace"), IngestOptions()).num_frames_decoded


def handwritten(clip, folder):
    import mediapipe

    capture = cv2.VideoCapture(str(clip))
    num_frames = 0
    with mediapipe.solutions.face_mesh.FaceMesh() as mesh:
        while True:
            there, image = capture.read()
            if not there:
                return num_frames
            found = mesh.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).multi_face_landmarks
            num_frames += 1
            if not found:
                continue
            height, width = image.shape[:2]
            points = np.array([(p.x * width, p.y * height) for p in found[0].landmark])
            eyes = np.stack([points[[33, 133]].mean(0), points[[362, 263]].mean(0)])
            matrix, _ = cv2.estimateAffinePartial2D(eyes, EYES)
            if matrix is not None:
                cv2.imwrite(str(folder / f"{num_frames:06d}.png"), cv2.warpAffine(image, matrix, (224, 224)))


def rate(function, clip):
    """Frames per second, and frames per second of one core: the handwritten loop's libraries use all there are."""
    with tempfile.TemporaryDirectory() as folder:
        began, cpu_began = time.perf_counter(), time.process_time()
        num_frames = function(clip, Path(folder))
        return num_frames / (time.perf_counter() - began), num_frames / (time.process_time() - cpu_began)


def run_command(videos, workers):
    """Run the command as users do. Returns seconds and the peak memory of its largest process in MB."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["ingest", str(videos), "-w", folder, "--workers", str(workers)]
        began = time.perf_counter()
        command = [sys.executable, "-m", "mbert.cli", *words]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return time.perf_counter() - began, usage.ru_maxrss / 1024


def repeated(clip, times, path):
    """The clip several times after each other in one file, without encoding it again."""
    listing = path.with_suffix(".txt")
    listing.write_text(f"file '{clip}'\n" * times)
    stream = ffmpeg.input(str(listing), format="concat", safe=0).output(str(path), c="copy", an=None, loglevel="error")
    stream.run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    listing.unlink()
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clip", nargs="?", type=Path, default=MEDIA / "videos" / "latentsync_demo1_hevc.mp4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=24, help="copies of the clip for 1 against 2 workers")
    arguments = parser.parse_args()
    clip = arguments.clip.absolute()
    with av.open(str(clip)) as container:
        context = container.streams.video[0].codec_context
        print(f"{clip.name}: {context.name}, {context.width}x{context.height}; rounds: {arguments.rounds}")
    ways = (decode, ingest, handwritten)
    ingest(clip, Path(tempfile.mkdtemp()))  # opens the landmarker and imports what is imported late
    rounds = []
    for number in range(arguments.rounds):
        rounds.append({way.__name__: rate(way, clip) for way in ways})
        told = ", ".join(f"{name} {value:.0f} ({per_core:.0f})" for name, (value, per_core) in rounds[-1].items())
        print(f"round {number + 1}, frames/s (per core in use): {told}", flush=True)
    best = {way.__name__: max(one[way.__name__][0] for one in rounds) for way in ways}
    over_decode = np.median([one["ingest"][0] / one["decode"][0] for one in rounds])
    over_handwritten, over_handwritten_per_core = np.median(
        [np.divide(one["ingest"], one["handwritten"]) for one in rounds], axis=0
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = folder / "videos"
        videos.mkdir()
        for number in range(arguments.files):
            shutil.copy(clip, videos / f"{number:02d}{clip.suffix}")
        speedups = []
        for _ in range(arguments.rounds):
            (one, _), (two, _) = run_command(videos, 1), run_command(videos, 2)
            speedups.append(one / two)
            print(f"{arguments.files} files: 1 worker {one:.1f} s, 2 workers {two:.1f} s", flush=True)
        _, peak = run_command(clip, 1)
        _, peak_long = run_command(repeated(clip, 8, folder / f"long{clip.suffix}"), 1)
        print(f"peak memory of one worker: {peak:.0f} MB, of a video 8 times as long: {peak_long:.0f} MB")
    result = {
        "decode_fps": round(best["decode"], 1),
        "ingest_fps": round(best["ingest"], 1),
        "handwritten_fps": round(best["handwritten"], 1),
        "ingest_over_decode": round(float(over_decode), 3),
        "ingest_over_handwritten": round(float(over_handwritten), 2),
        "ingest_over_handwritten_per_core": round(float(over_handwritten_per_core), 2),
        "two_workers_speedup": round(float(np.median(speedups)), 2),
        "peak_rss_mb": round(max(peak, peak_long)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
