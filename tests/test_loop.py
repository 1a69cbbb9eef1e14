"""The training loop, as users stop, kill, resume and spread it. Runs are forked off a process that has loaded torch."""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from mbert import ConfigError, MbertError, ModelError
from mbert.manifests.files import read_json
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.checkpoint import read_progress
from mbert.model.training.objective import ObjectiveConfig
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.model.training.run_log import read_reports

QUICK = PretrainConfig(
    preset="tiny",
    steps=40,
    batch_size=2,
    save_every=3,
    picture_every=0,
    average_decay=0.9,
    model={
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "decoder_dim": 12,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "agent": "mse_ema",
    },
)


def tensors(run, name="model"):
    return safetensors.torch.load_file(run / "checkpoints" / "last" / f"{name}.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(run):
    return [report.loss for report in read_reports(run)]


@pytest.fixture(scope="module")
def forks():
    """Starts processes that have torch loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mbert.model.training.pretrain", "torch.utils.tensorboard"])
    return context


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    run_pretrain(corpus.pairs, run, QUICK)
    return run


def start(forks, corpus, run, config=QUICK):
    process = forks.Process(target=run_pretrain, args=(corpus.pairs, run, config))
    process.start()
    return process


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_step(run, step, process):
    while len(losses(run)) < step and process.is_alive():
        time.sleep(0.005)


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.many)])
def test_kills_at_random_moments_change_nothing(forks, corpus, undisturbed, tmp_path, kills):
    rng = random.Random(0)
    run = tmp_path / "run"
    num_killed = 0
    for _ in range(kills):
        process = start(forks, corpus, run)
        wait_for_step(run, len(losses(run)) + rng.randrange(1, 4), process)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join()
        num_killed += process.exitcode == -signal.SIGKILL
    assert num_killed >= kills * 0.6  # the run may end before
    run_pretrain(corpus.pairs, run, QUICK)
    assert read_progress(run).step == 40
    assert equal(tensors(run), tensors(undisturbed))
    assert equal(tensors(run, "optimizer"), tensors(undisturbed, "optimizer"))
    assert equal(tensors(run, "ema/model"), tensors(undisturbed, "ema/model"))
    assert losses(run) == losses(undisturbed)
    assert [path.name for path in (run / "checkpoints").glob(".*")] == []


def test_a_scheduler_s_sigterm_saves_and_ends_with_0_and_the_way_on(corpus, undisturbed, tmp_path):
    settings = {**dataclasses.asdict(QUICK), "save_every": 1000}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))  # JSON is YAML
    words = ["train", "pretrain", "--shards", str(corpus.pairs), "--out", "run", "--config", "run.yaml"]
    words += ["--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mbert", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not losses(tmp_path / "run") and process.poll() is None:
        time.sleep(0.005)
    loaders = children_of(process.pid)
    for pid in (*loaders, process.pid, process.pid):  # as a scheduler does: everybody, and torchrun passes it on
        os.kill(pid, signal.SIGTERM)
    told, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len(loaders) >= 1
    step = read_progress(tmp_path / "run").step
    assert 0 < step < 40
    assert f"stopped by SIGTERM after step {step} of 40, all is saved" in told
    assert "resume with: mbert train pretrain --shards" in told
    assert read_json(tmp_path / "run" / "status.json")["state"] == "stopped"
    run_pretrain(corpus.pairs, tmp_path / "run", QUICK, resume=True)
    assert equal(tensors(tmp_path / "run"), tensors(undisturbed))


def test_ctrl_c_saves_too_and_the_time_limit_stops_alike(forks, corpus, undisturbed, tmp_path):
    config = dataclasses.replace(QUICK, save_every=1000)
    process = start(forks, corpus, tmp_path, config)
    wait_for_step(tmp_path, 2, process)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode != 0
    step = read_progress(tmp_path).step
    assert 2 <= step < 40
    summary = run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(config, max_minutes=1e-9))
    assert (summary.stopped, summary.steps_done) == ("the time limit", step + 1)
    run_pretrain(corpus.pairs, tmp_path, config)
    assert equal(tensors(tmp_path), tensors(undisturbed))


def test_what_the_process_did_before_changes_no_rounding(forks, corpus, tmp_path):
    config = dataclasses.replace(QUICK, steps=6)
    process = start(forks, corpus, tmp_path / "fresh", config)
    process.join()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the flow network of an evaluation does
    torch.set_num_threads(before)
    run_pretrain(corpus.pairs, tmp_path / "later", config)
    assert equal(tensors(tmp_path / "later"), tensors(tmp_path / "fresh"))


def test_accumulated_passes_make_the_same_step(corpus, undisturbed, tmp_path):
    config = dataclasses.replace(QUICK, batch_size=1, accumulate=2, steps=8)
    run_pretrain(corpus.pairs, tmp_path, config)
    whole = tmp_path / "whole"
    run_pretrain(corpus.pairs, whole, dataclasses.replace(QUICK, steps=8))
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=1e-4)
    with pytest.raises(ConfigError, match="global_batch: run 2, requested 4"):
        run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(config, batch_size=2))


def test_workers_and_checkpointing_may_change_on_the_way(corpus, undisturbed, tmp_path):
    run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(QUICK, max_minutes=1e-9))
    run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(QUICK, workers=2, grad_checkpointing=True, keep=3))
    assert losses(tmp_path) == pytest.approx(losses(undisturbed), rel=1e-5)
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert names[-3:] == ["step-0000036", "step-0000039", "step-0000040"]
    best = (tmp_path / "checkpoints" / "best").resolve().name
    assert set(names) == {*names[-3:], best}
    by_save = [losses(tmp_path)[start : start + 3] for start in range(0, 40, 3)]
    means = [sum(part) / len(part) for part in by_save]
    assert read_progress(tmp_path).best_loss == pytest.approx(min(means))


def test_averaged_weights_are_a_model_of_their_own(undisturbed):
    plain, averaged = (MicronBert.from_pretrained(undisturbed / "checkpoints" / "last" / name) for name in ("", "ema"))
    assert averaged.state == plain.state
    distance = (averaged.decoder_pred.weight - plain.decoder_pred.weight).abs().max()
    assert 0 < distance < 0.1


def test_other_settings_and_another_corpus_are_refused_unless_forced(corpus, tmp_path):
    config = dataclasses.replace(QUICK, steps=4)
    run_pretrain(corpus.pairs, tmp_path / "run", dataclasses.replace(config, max_minutes=1e-9))
    pairs = tmp_path / "pairs"
    shutil.copytree(corpus.pairs, pairs)
    index = read_json(pairs / "pairs.json")
    (pairs / "pairs.json").write_text(json.dumps({**index, "corpus": "another"}))
    other = dataclasses.replace(config, weight_decay=0.1)
    message = r"weight_decay: run 0\.05, requested 0\.1; corpus: run .*, requested another.*--force to resume"
    with pytest.raises(ConfigError, match=message):
        run_pretrain(pairs, tmp_path / "run", other)
    assert read_json(tmp_path / "run" / "status.json")["state"] == "stopped"  # what was refused did not touch it
    summary = run_pretrain(pairs, tmp_path / "run", other, force=True)
    assert (summary.steps_done, summary.steps_done_now) == (4, 3)
    (forced,) = read_json(tmp_path / "run" / "config.json")["forced"]
    assert forced["step"] == 1
    assert "weight_decay: run 0.05, requested 0.1" in forced["differences"]
    with pytest.raises(ConfigError, match="--resume: there is no run"):
        run_pretrain(corpus.pairs, tmp_path / "nothing", config, resume=True)


def fill_the_disk_and_train(pairs, run, config, answer):
    """No file may become larger than 60 kB, which is less than a checkpoint has."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        run_pretrain(pairs, run, config)
    except MbertError as exc:
        answer.put(str(exc))


def test_a_full_disk_keeps_the_checkpoint_before(forks, corpus, undisturbed, tmp_path):
    run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(QUICK, max_minutes=1e-9))
    answer = forks.SimpleQueue()
    process = forks.Process(target=fill_the_disk_and_train, args=(corpus.pairs, tmp_path, QUICK, answer))
    process.start()
    told = answer.get()
    process.join()
    assert "cannot write" in told
    assert "safetensors" in told
    assert read_progress(tmp_path).step == 1
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best", "last", "step-0000001"]
    status = read_json(tmp_path / "status.json")
    assert status["state"] == "failed"
    run_pretrain(corpus.pairs, tmp_path, QUICK)
    assert equal(tensors(tmp_path), tensors(undisturbed))


def test_a_run_in_use_is_not_touched(forks, corpus, tmp_path):
    process = start(forks, corpus, tmp_path, dataclasses.replace(QUICK, steps=100000))
    wait_for_step(tmp_path, 1, process)
    with pytest.raises(MbertError, match="another mbert command is at work in"):
        run_pretrain(corpus.pairs, tmp_path, QUICK)
    process.kill()
    process.join()


def test_damaged_moments_and_positions_are_named(corpus, tmp_path):
    config = dataclasses.replace(QUICK, steps=4)
    run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(config, max_minutes=1e-9))
    file = tmp_path / "checkpoints" / "last" / "optimizer.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(ModelError, match=r"optimizer\.safetensors does not fit the model"):
        run_pretrain(corpus.pairs, tmp_path, config)
    file.write_bytes(whole)
    (tmp_path / "checkpoints" / "last" / "training.json").write_text("{}")
    with pytest.raises(ModelError, match=r"training\.json cannot be read.*--overwrite"):
        run_pretrain(corpus.pairs, tmp_path, config)
    assert run_pretrain(corpus.pairs, tmp_path, config, overwrite=True).steps_done_now == 4


def torchrun(world, *words, cwd):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-m", "mbert", "train", "pretrain", *words],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("variant", ["motion", "paper", "released"])
def test_two_processes_learn_what_one_learns_with_twice_the_batch(corpus, tmp_path, variant):
    config = dataclasses.replace(
        QUICK,
        variant=variant,
        steps=6,
        batch_size=4,
        objective=ObjectiveConfig(swap_distribution="uniform"),
        model={"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2},
    )
    run_pretrain(corpus.pairs, tmp_path / "one", config)
    half = {**dataclasses.asdict(config), "batch_size": 2}
    (tmp_path / "run.yaml").write_text(json.dumps(half))
    process = torchrun(2, "--shards", str(corpus.pairs), "--out", "two", "--config", "run.yaml", "--json", cwd=tmp_path)
    told, errors = process.communicate()
    assert process.returncode == 0, errors
    assert json.loads(told)["steps_done"] == 6
    one, two = read_reports(tmp_path / "one"), read_reports(tmp_path / "two")
    assert [report.loss for report in two] == pytest.approx([report.loss for report in one], rel=1e-4)
    assert [report.grad_norm for report in two] == pytest.approx([report.grad_norm for report in one], rel=1e-3)
    mine, theirs = tensors(tmp_path / "one"), tensors(tmp_path / "two")
    # Of six steps of 1e-3. AdamW makes whole steps of gradients that are rounding alone, so a few weights differ by
    # more than the losses do.
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 5e-4


def test_two_killed_processes_go_on_alike_and_on_one_too(corpus, tmp_path):
    config = dataclasses.replace(QUICK, steps=1000)
    (tmp_path / "run.yaml").write_text(json.dumps({**dataclasses.asdict(config), "batch_size": 1}))
    words = ["--shards", str(corpus.pairs), "--out", "run", "--config", "run.yaml"]
    process = torchrun(2, *words, cwd=tmp_path)
    while read_progress(tmp_path / "run") is None and process.poll() is None:
        time.sleep(0.02)
    workers = children_of(process.pid)
    for pid in (process.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert len(workers) == 2
    progress = read_progress(tmp_path / "run")
    assert progress is not None, errors
    assert (progress.world, progress.step % 3) == (2, 0)
    shutil.copytree(tmp_path / "run", tmp_path / "alone", symlinks=True)
    stop = progress.step + 6
    # On one process with twice the batch; the same global batches come, so the same is learned.
    limited = dataclasses.replace(config, batch_size=2)
    alone = start(multiprocessing.get_context("forkserver"), corpus, tmp_path / "alone", limited)
    wait_for_step(tmp_path / "alone", stop, alone)
    alone.kill()
    alone.join()
    again = torchrun(2, *words, cwd=tmp_path)
    while len(losses(tmp_path / "run")) < stop and again.poll() is None:
        time.sleep(0.02)
    again.send_signal(signal.SIGTERM)
    _, errors = again.communicate()
    assert len(losses(tmp_path / "run")) >= stop, errors
    assert losses(tmp_path / "run")[:stop] == pytest.approx(losses(tmp_path / "alone")[:stop], rel=1e-3)
    assert read_progress(tmp_path / "run").step > progress.step  # the scheduler's signal saved what was learned


def test_an_error_of_two_processes_is_told_once(corpus, tmp_path):
    process = torchrun(2, "--shards", str(tmp_path / "nothing"), "--out", "run", cwd=tmp_path)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert errors.count("there are no finished pair shards in") in (1, 2)
    ready = torchrun(2, "--shards", str(corpus.pairs), "--out", "run", "--resume", cwd=tmp_path)
    _, errors = ready.communicate()
    assert ready.returncode != 0
    assert errors.count("--resume: there is no run with a checkpoint") == 1
