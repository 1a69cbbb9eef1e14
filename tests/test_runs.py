import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mbert import ConfigError, ModelError, ShardError
from mbert.manifests.files import exclusive, read_json
from mbert.manifests.workspace import twin_paths
from mbert.model.data.pixels import denormalize, normalize
from mbert.model.device import Compute, Processes, pick_compute
from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import MicronBert, patchify, unpatchify
from mbert.model.training.objective import ObjectiveConfig
from mbert.model.training.pictures import picture_pairs
from mbert.model.training.pretrain import PretrainConfig, estimate_pretrain, run_pretrain
from mbert.model.training.run_log import StepReport, read_reports
from mbert.model.training.runs import list_runs

CONFIG = PretrainConfig(preset="tiny", steps=4, batch_size=2, picture_every=2, save_every=2)


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    """Runs of all kinds: finished, stopped, killed, failed, and a folder that is none."""
    runs = tmp_path_factory.mktemp("runs")
    run_pretrain(corpus.pairs, runs / "whole", CONFIG)
    run_pretrain(corpus.pairs, runs / "stopped", dataclasses.replace(CONFIG, max_minutes=1e-9))
    shutil.copytree(runs / "stopped", runs / "killed", symlinks=True)
    (runs / "killed" / "status.json").write_text(json.dumps({"state": "running", "reason": "", "at": ""}))
    with pytest.raises(ModelError):
        run_pretrain(corpus.pairs, runs / "failed", dataclasses.replace(CONFIG, lr=1e30, steps=50))
    (runs / "other").mkdir()
    (runs / "other" / "config.json").write_text("{}")
    return runs


def test_runs_are_listed_with_their_step_loss_and_state(folder):
    found = {row.name: row for row in list_runs(folder)}
    assert {name: row.state for name, row in found.items()} == {
        "whole": "finished",
        "stopped": "stopped",
        "killed": "killed",
        "failed": "failed",
    }
    assert [(row.step, row.steps) for row in (found["whole"], found["stopped"])] == [(4, 4), (1, 4)]
    assert found["whole"].loss == read_reports(folder / "whole")[-1].loss
    assert "the loss is" in found["failed"].reason
    assert found["stopped"].reason == "the time limit"
    with exclusive(folder / "killed"):
        assert {row.name: row.state for row in list_runs(folder)}["killed"] == "running"


def test_the_command_lists_them_too(folder, tmp_path, run_mbert):
    (tmp_path / "workspace").mkdir()
    empty = run_mbert("runs", cwd=tmp_path)
    assert (empty.returncode, "there are no runs in workspace/runs" in empty.stdout) == (0, True)
    shutil.copytree(folder, tmp_path / "workspace" / "runs", symlinks=True)
    done = run_mbert("runs", cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()].count("whole") == 1
    assert "step 4/4" in done.stdout
    assert len(json.loads(run_mbert("runs", "--json", cwd=tmp_path).stdout)) == 4


def test_tensorboard_has_every_step_and_the_pictures(folder):
    events = EventAccumulator(str(folder / "whole" / "tensorboard")).Reload()
    tags = events.Tags()
    assert {"loss", "loss_reconstruction", "token_std", "lr", "data_wait_share"} <= set(tags["scalars"])
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(report.step, report.loss) for report in read_reports(folder / "whole")]
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    assert [event.step for event in events.Images("pairs")] == [2, 4]
    assert sorted(path.name for path in (folder / "whole" / "pictures").iterdir()) == [
        "step-0000002.png",
        "step-0000004.png",
    ]
    picture = cv2.imread(str(folder / "whole" / "pictures" / "step-0000002.png"))
    assert picture.shape == (16 + 2 * 116, 6 * 116, 3)


def test_reports_come_back_as_they_were_written(folder, corpus):
    steps_per_epoch = estimate_pretrain(corpus.pairs, CONFIG).steps_per_epoch
    report = read_reports(folder / "whole")[1]
    assert StepReport.from_line(json.loads(json.dumps(report.to_line()))) == report
    assert report.parts.keys() == {"loss_reconstruction", "loss_agent", "loss_motion", "token_std"}
    assert 0 <= report.data_wait_share <= 1
    assert report.epoch == 2 / steps_per_epoch


def test_a_picture_shows_frames_swaps_and_maps():
    torch.manual_seed(0)
    model = MicronBert(PRESETS["tiny"]).train()
    t0 = torch.randint(0, 255, (1, 3, 112, 112), dtype=torch.uint8)
    t1 = 255 - t0
    picture = picture_pairs(model, normalize(t0), normalize(t1), ObjectiveConfig())
    columns = [picture[16 + 2 : 16 + 114, 116 * column + 2 : 116 * column + 114] for column in range(6)]
    first, second = (images[0].permute(1, 2, 0).numpy() for images in (t0, t1))
    assert np.array_equal(columns[0], first)
    assert np.array_equal(columns[1], second)
    swapped = (columns[2] == second).all(axis=2).mean()
    assert swapped == pytest.approx(0.5, abs=0.02)
    assert ((columns[2] == first).all(axis=2) | (columns[2] == second).all(axis=2)).all()
    assert columns[4].std() > 5
    assert columns[5].std() > 5
    assert model.training


def test_pixels_and_patches_have_a_way_back():
    images = torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)
    assert np.array_equal(denormalize(normalize(images)), images.permute(0, 2, 3, 1).numpy())
    assert denormalize(normalize(images, 1)).shape == (2, 16, 16, 3)
    plain = torch.randn(2, 3, 16, 16)
    assert torch.equal(unpatchify(patchify(plain, 4), 4, 3), plain)


def test_a_dry_run_says_what_a_run_would_cost_and_writes_nothing(corpus, tmp_path, run_mbert):
    estimate = estimate_pretrain(corpus.pairs, PretrainConfig(preset="small", epochs=2, batch_size=8))
    index = read_json(corpus.pairs / "pairs.json")
    assert estimate.num_pairs == index["num_pairs"]
    assert estimate.steps == round(2 * estimate.num_pairs / 8)  # whatever is left over depends on loader processes
    assert estimate.steps_per_epoch * 8 + estimate.pairs_dropped_per_epoch == estimate.num_pairs
    assert estimate.cost.num_learned == 26449606
    assert estimate.flops == estimate.cost.flops_per_pair * 8 * estimate.steps
    done = run_mbert("train", "pretrain", "--dry-run", "--workspace", str(corpus.root), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1.0 M parameters to learn" in done.stdout
    assert "steps of 16 pairs per epoch" in done.stdout
    assert not (tmp_path / "run").exists()


def test_without_labels_the_next_command_is_no_score(corpus, tmp_path, run_mbert):
    workspace = tmp_path / "w"
    shutil.copytree(corpus.pairs, workspace / "shards" / "pairs")
    words = ("train", "pretrain", "--workspace", "w", "--preset", "tiny", "--steps", "1", "--batch-size", "4")
    done = run_mbert(*words, cwd=tmp_path)
    assert "next: mbert predict VIDEO --model" in done.stdout, done.stderr
    shutil.copytree(corpus.expressions, workspace / "shards" / "expressions")
    done = run_mbert(*words, "--overwrite", cwd=tmp_path)
    assert "next: mbert eval --protocol loso" in done.stdout, done.stderr


def test_damaged_pairs_are_counted_and_too_many_stop_the_run(corpus, tmp_path):
    pairs = tmp_path / "pairs"
    shutil.copytree(corpus.pairs, pairs)
    tar, _ = twin_paths(pairs, "000000")
    data = bytearray(tar.read_bytes())
    data[:200_000] = bytes(200_000)
    tar.write_bytes(data)
    config = dataclasses.replace(CONFIG, batch_size=24, steps=11)  # one epoch
    with pytest.raises(ShardError, match=r"pairs of epoch 0 are bad by step \d+, more than the 1 that max_bad"):
        run_pretrain(pairs, tmp_path / "strict", config)
    summary = run_pretrain(pairs, tmp_path / "lenient", dataclasses.replace(config, max_bad=0.2))
    assert summary.steps_done == 11
    assert 3 < summary.num_bad < 20


def test_reporting_to_what_is_not_installed_stops_at_once(corpus, tmp_path):
    with pytest.raises(ConfigError, match="needs the package wandb: pip install wandb"):
        run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(CONFIG, report_to="wandb"))


def test_precision_is_chosen_by_the_hardware():
    assert pick_compute().precision == ("fp32" if not torch.cuda.is_available() else pick_compute().precision)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="precision is fp16, which needs a GPU"):
            pick_compute("fp16")
    assert Compute(torch.device("cpu"), "bf16").autocast() is not None
    assert Processes().gather(3) == [3]


def test_bf16_trains_on_a_cpu_too(corpus, tmp_path):
    plain = run_pretrain(corpus.pairs, tmp_path / "fp32", CONFIG)
    half = run_pretrain(corpus.pairs, tmp_path / "bf16", dataclasses.replace(CONFIG, precision="bf16"))
    assert half.last.loss != plain.last.loss
    assert half.last.loss == pytest.approx(plain.last.loss, rel=0.05)
