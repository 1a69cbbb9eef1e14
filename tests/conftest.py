"""Real data for the tests: videos encoded here, a corpus ingested once, real clips where they are at hand."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest
import skimage.data

from mbert.manifests.workspace import Workspace
from mbert.pipeline.engine import Engine
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_input import IngestOptions
from mbert.pipeline.pair_plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthesize import SynthesisOptions, synthesize

MEDIA = Path(os.environ.get("MBERT_TEST_MEDIA", Path(__file__).parents[2] / "shared" / "media"))
SYNTHETIC = SynthesisOptions(num_subjects=3, clips_per_emotion=2)


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real clips and photos; tests that need it skip where it is not."""
    if not MEDIA.is_dir():
        pytest.skip(f"needs the real clips in {MEDIA} (or MBERT_TEST_MEDIA)")
    return MEDIA


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
def face() -> np.ndarray:
    """(512, 512, 3) uint8 RGB: a public-domain portrait with one face."""
    return skimage.data.astronaut()


@pytest.fixture
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
