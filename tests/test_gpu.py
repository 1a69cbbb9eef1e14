"""What is prepared for a machine with a GPU, rehearsed on the CPU; training without what ingest needs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mbert.model.device import Compute, Processes, joined_processes
from mbert.model.training.loop import LoopConfig, LoopPlan, _Reports

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Importing one of these fails: the machine has PyTorch, and nothing that reads videos or finds faces.
WITHOUT_INGEST = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mediapipe", "face_alignment", "av", "ffmpeg", "imageio_ffmpeg", "duckdb", "ray"}:
            raise ModuleNotFoundError(f"{name} is not here")

sys.meta_path.insert(0, Absent())
import mbert.manifests, mbert.shards, mbert.model
names = [
    module.name
    for room in (mbert.manifests, mbert.shards, mbert.model)
    for module in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
]
for name in names:
    importlib.import_module(name)
print(len(names), file=sys.stderr)
from mbert.cli import main
sys.argv = ["mbert", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def bundle(corpus, synthetic_videos, tmp_path_factory):
    """As gpu_bundle.py makes it, from what the other tests have ingested."""
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    folder.mkdir()
    (folder / "pairs").symlink_to(corpus.pairs)
    save = (
        "import sys; from pathlib import Path; from gpu_bundle import *\n"
        "videos, workspace, file = map(Path, sys.argv[1:])\n"
        "save_test(file, thinned(list(true_pairs(videos, Workspace(workspace))), 6))"
    )
    paths = [synthetic_videos, corpus.corpus.parent, folder / "test.npz"]
    subprocess.run([sys.executable, "-c", save, *paths], cwd=BENCHMARKS, check=True)
    return folder


def run_gpu(*words):
    command = [sys.executable, BENCHMARKS / "gpu.py", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_bundle_holds_test_pairs_with_their_truth(bundle):
    with np.load(bundle / "test.npz") as test:
        assert test["t0"].shape == test["t1"].shape == (6, 224, 224, 3)
        assert test["moved"].shape == test["still"].shape == (6, 14, 14)
        assert test["moved"].any(axis=(1, 2)).all()
        assert not (test["moved"] & test["still"]).any()
        assert len(test["people"]) == 6


@pytest.mark.many  # a minute and a half: run it before a card is at hand
def test_the_program_for_a_gpu_runs_on_a_cpu(bundle, tmp_path):
    done = run_gpu(
        "--rehearse", "--bundle", bundle, "--out", tmp_path, "--stages", "equality,speed,feeding,learn,encode"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert told == found["summary"]
    assert told["stages"] == dict.fromkeys(("equality", "speed", "feeding", "learn", "encode"), "ok")
    rows = {name: {row["name"]: row for row in stage["rows"]} for name, stage in found["stages"].items()}
    # A process that is killed and goes on, and one that torchrun started, learn what an unbroken one learns.
    assert rows["equality"]["killed and resumed"]["weights"] == 0
    assert rows["equality"]["killed and resumed"]["killed_at"] < 30
    assert rows["equality"]["one process by torchrun"]["weights"] == 0
    assert [rows["equality"][name]["fp32"] for name in ("motion", "paper", "released")] == [0, 0, 0]
    assert told["released_speedup"] > 0 and told["paper_speedup"] > 0
    assert 0 <= told["wait_share"] <= 1
    end, middle = rows["learn"]["end"], rows["learn"]["middle"]
    assert middle["step"] < middle["of"]  # it stopped, and the second part resumed it
    assert end["step"] == end["of"] == 12
    assert end["test_reconstruction"] < rows["learn"]["start"]["test_reconstruction"]
    assert told["reconstruction_over_copy"] == pytest.approx(end["test_reconstruction"] / end["test_copy"], abs=1e-3)
    assert (tmp_path / "paper-0-of-1.safetensors").stat().st_size < 15e6
    assert "idle" in (tmp_path / "profiles.txt").read_text()


def test_a_stage_that_fails_is_told_and_the_next_one_runs(tmp_path):
    (tmp_path / "bundle").mkdir()
    words = ["--rehearse", "--bundle", tmp_path / "bundle", "--out", tmp_path / "out"]
    done = run_gpu(*words, "--stages", "learn,encode")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout.splitlines()[-1])["stages"]
    assert "test.npz" in stages["learn"]
    assert stages["encode"] == "ok"
    refused = run_gpu(*words, "--stages", "encode,sped")
    assert refused.returncode == 2
    assert "--stages names sped; allowed are sanity, equality" in refused.stderr
    missing = run_gpu("--rehearse", "--bundle", tmp_path / "nothing", "--out", tmp_path / "out")
    assert (missing.returncode, "is no folder: make it with" in missing.stderr) == (2, True)


def test_training_needs_nothing_that_ingest_needs(corpus, tmp_path):
    words = ["train", "pretrain", "--shards", corpus.pairs, "--out", tmp_path / "run", "--steps", "2", "--json"]
    command = [sys.executable, "-c", WITHOUT_INGEST, *words, "--batch-size", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.splitlines()[0]) > 60
    assert json.loads(done.stdout)["steps_done"] == 2


def test_a_process_that_torchrun_started_alone_joins(monkeypatch):
    with joined_processes() as processes:
        assert not processes.are_joined
    monkeypatch.setenv("WORLD_SIZE", "1")  # a scheduler's, without torchrun
    with joined_processes() as processes:
        assert not processes.are_joined
    for name, value in {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with joined_processes() as processes:
        assert processes.are_joined
        assert processes.gather(3) == [3]
        assert processes.sum(torch.tensor([2.0])).tolist() == [2.0]
    assert not torch.distributed.is_initialized()


def reports_on(device):
    plan = LoopPlan(
        steps=2,
        batch_size=1,
        global_batch=1,
        lr=1.0,
        config=LoopConfig(),
        compute=Compute(torch.device(device), "fp32"),
        workers=0,
        world=1,
        num_pairs=1,
        corpus="",
    )
    return _Reports(plan, Processes(), 1.0)


def test_a_cpu_is_not_busy_when_a_step_has_returned():
    reports, numbers = reports_on("cpu"), {"loss": torch.ones(()), "grad_norm": torch.ones(())}
    assert not reports.is_card_busy
    assert [report.loss for report in reports.add(0, numbers, ["key"], 1.0, 0.0, "")] == [1.0]
    assert not reports.is_card_busy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nobody_waits_for_the_numbers_of_a_step_that_a_gpu_works_on():
    reports = reports_on("cuda")
    torch.cuda._sleep(10**9)  # half a second of work
    numbers = {name: torch.ones((), device="cuda") for name in ("loss", "grad_norm")}
    assert reports.add(0, numbers, ["key"], 1.0, 0.0, "") == []
    assert reports.is_card_busy
    assert [report.loss for report in reports.rest()] == [1.0]
    assert not reports.is_card_busy
