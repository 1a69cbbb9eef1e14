"""Real data for the tests: videos encoded here, a corpus ingested once, real clips where they are at hand."""

import hashlib
import os
import subprocess
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # a process for each core: threads of their own would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Sequence
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest
import skimage.data
from lookalike import write_casme2
from typer.testing import CliRunner

from mbert.cli import app
from mbert.manifests.files import write_json
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, PairRow, pair_key
from mbert.manifests.store import write_rows
from mbert.manifests.workspace import PAIRS_CLIPS, PAIRS_INDEX, Workspace, twin_paths
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthetic.nuisance import Nuisance
from mbert.pipeline.synthetic.synthesize import SynthesisOptions, synthesize
from mbert.shards.engine import Engine
from mbert.shards.image import encode_jpeg
from mbert.shards.pair import FramePair
from mbert.shards.writer import TAR_HASH_ENTRY, writing_tar

MEDIA = Path(os.environ.get("MBERT_TEST_MEDIA", Path(__file__).parents[2] / "shared" / "media"))
CASES = Path(os.environ.get("MBERT_TEST_CASES", MEDIA.parent / "cases"))
SYNTHETIC = SynthesisOptions(
    prototypes=True,
    subjects_per_photo=3,
    clips_per_emotion=2,
    neutral_clips=0,
    fps=30,
    min_seconds=1.4,
    max_seconds=2.0,
    min_phase_ms=200,
    max_phase_ms=400,
    min_amplitude_px=1.5,
    max_amplitude_px=3.0,
    nuisance=Nuisance(crf=16, tone=0, blinks=0),
)


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real clips and photos; tests that need it skip where it is not."""
    if not MEDIA.is_dir():
        pytest.skip(f"needs the real clips in {MEDIA} (or MBERT_TEST_MEDIA)")
    return MEDIA


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of small odd inputs; tests that need it skip where it is not."""
    if not CASES.is_dir():
        pytest.skip(f"needs the small inputs in {CASES} (or MBERT_TEST_CASES)")
    return CASES


@pytest.fixture(scope="session")
def synthetic_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 18 labelled videos: 3 subjects, 3 emotions, 2 takes. Read only."""
    folder = tmp_path_factory.mktemp("synthetic") / "videos"
    synthesize(folder, SYNTHETIC, engine=Engine(workers=2))
    return folder


@pytest.fixture(scope="session")
def corpus(synthetic_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the synthetic videos are ingested and sharded. Read only."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    run_ingest(synthetic_videos, workspace, IngestOptions(), engine=Engine(workers=2))
    run_shard(workspace, PairOptions(pairs_per_shard=100), engine=Engine(workers=2))
    return workspace


@pytest.fixture(scope="session")
def casme2(synthetic_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like CASME II; see lookalike.py. Read only."""
    return write_casme2(tmp_path_factory.mktemp("data") / "CASME2", synthetic_videos)


@pytest.fixture(scope="session")
def face() -> np.ndarray:
    """(512, 512, 3) uint8 RGB: a public-domain portrait with one face."""
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Encode RGB frames with the ffmpeg program: `write_video(path, frames, fps=30, **output_options)`."""

    def write(path: Path, frames: Sequence[np.ndarray], *, fps: float = 30, **options: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = frames[0].shape[:2]
        options = {"pix_fmt": "yuv420p", "crf": 12, **options}
        command = (
            ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=fps)
            .output(str(path), loglevel="error", **options)
            .overwrite_output()
            .compile(cmd=imageio_ffmpeg.get_ffmpeg_exe())
        )
        subprocess.run(command, input=np.stack(frames).tobytes(), check=True)
        return path

    return write


@pytest.fixture(scope="session")
def run_mbert() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own: `run_mbert("ingest", "videos/", cwd=folder)`."""

    def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mbert.cli", *words]
        env = {**os.environ, **environment}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `run_mbert`, but in this process: seconds of start-up less. For what depends on no process of its own."""

    def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        done = CliRunner().invoke(app, list(words))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def write_pairs() -> Callable[..., Path]:
    """Write small pair shards, as `mbert shard --pairs` does: `write_pairs(folder, [40, 40, 7], size=24)`.

    Pair i of all is a ramp that rises to the right from a level of its own; t1 is a little brighter than t0. It shows
    person i of `subjects`, which are repeated as often as needed; one without a slash is a dataset: nobody said who.
    """

    def write(
        folder: Path, counts: Sequence[int], *, size: int = 24, subjects: Sequence[str] = ("videos/s01",)
    ) -> Path:
        number = 0
        clips = []
        for shard, count in enumerate(counts):
            tar, twin = twin_paths(folder, f"{shard:06d}")
            rows = []
            with writing_tar(tar) as writer:
                for _ in range(count):
                    dataset, _, person = (subject := subjects[number % len(subjects)]).partition("/")
                    clip = f"{dataset}-take_f00_c{number:05d}"
                    key = pair_key(clip, 0, 6)
                    frames = [encode_jpeg(pair_image(number, is_t1=is_t1, size=size)) for is_t1 in (False, True)]
                    t0, t1, _ = writer.add_all(FramePair.of(key, *frames, {"key": key}).members())
                    rows.append(
                        PairRow(
                            key=key, shard=f"{shard:06d}", clip_id=clip,
                            t0=0, t1=6, delta_seconds=0.2, kind="sampled", dataset=dataset,
                            t0_offset=t0[0], t0_size=t0[1], t1_offset=t1[0], t1_size=t1[1],
                        )
                    )  # fmt: skip
                    clips.append(
                        ClipRow(
                            clip_id=clip, video_id=f"{dataset}-take", dataset=dataset, shard="000000", track=0,
                            first_frame=0, last_frame=6, num_frames=7, fps=30.0, align="clip", face_px=size,
                            jitter_px=None, subject=subject if person else None,
                        )
                    )  # fmt: skip
                    number += 1
            write_rows(twin, PairRow, rows, extra={TAR_HASH_ENTRY: writer.sha256})
        index = {
            "schema": SCHEMA_VERSION,
            "num_pairs": number,
            "options": {"pairs_per_shard": counts[0]},
            "corpus": hashlib.sha256(str(counts).encode()).hexdigest(),
            "plan": hashlib.sha256(str(counts).encode()).hexdigest(),
            "subjects": sorted({subject for subject in subjects if "/" in subject}),
            "shards": [f"{shard:06d}" for shard in range(len(counts))],
        }
        write_rows(folder / PAIRS_CLIPS, ClipRow, clips)
        write_json(folder / PAIRS_INDEX, index)
        return folder

    return write


def pair_image(number: int, *, is_t1: bool, size: int) -> np.ndarray:
    """(size, size, 3) uint8: what `write_pairs` draws."""
    ramp = np.linspace(0, 60, size)[None, :, None] + np.array([number % 13, number % 17, number % 11]) * 10
    return np.broadcast_to(ramp + 8 * is_t1, (size, size, 3)).clip(0, 255).astype(np.uint8)
