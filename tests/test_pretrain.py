import dataclasses
import json
import shutil

import pytest
import safetensors.torch
import torch

from mbert import ConfigError, ModelError
from mbert.manifests.files import read_json
from mbert.manifests.schema import ClipRow, PairRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import twin_paths
from mbert.model.device import Processes, pick_compute
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import read_state
from mbert.model.training.objective import ObjectiveConfig
from mbert.model.training.pretrain import PretrainConfig, decide, estimate_pretrain, run_pretrain
from mbert.shards.exclude import without_subjects
from mbert.shards.reader import list_shards
from mbert.shards.source import open_source

SHORT = PretrainConfig(preset="tiny", steps=6, batch_size=4, save_every=2, picture_every=3)


def weights(run):
    return safetensors.torch.load_file(run / "checkpoints" / "last" / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def short_run(corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "pretrain"
    return run, run_pretrain(corpus.pairs, run, SHORT)


def test_a_run_leaves_config_metrics_and_a_checkpoint(short_run, corpus):
    run, summary = short_run
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss_reconstruction", "loss_agent", "token_std", "lr", "pairs_per_second"} <= lines[0].keys()
    assert (summary.steps, summary.steps_done_now) == (6, 6)
    assert read_json(run / "config.json")["identity"]["preset"] == "tiny"
    state = read_state(run)
    assert (state.step, state.subjects) == (6, ("videos/s01", "videos/s02", "videos/s03"))
    assert state.corpus == read_json(corpus.pairs / "pairs.json")["corpus"]
    checkpoint = run / "checkpoints" / "last"
    assert sorted(file.name for file in checkpoint.iterdir()) == [
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "training.json",
    ]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "last", "step-0000006"]


def test_running_again_does_nothing(short_run, corpus):
    run, _ = short_run
    before = weights(run)
    assert run_pretrain(corpus.pairs, run, SHORT).steps_done_now == 0
    assert equal(weights(run), before)


def test_another_configuration_is_refused_with_the_difference(short_run, corpus):
    run, _ = short_run
    with pytest.raises(
        ConfigError, match=r"seed: run 0, requested 5.*another --out, --overwrite to start again, or --force"
    ):
        run_pretrain(corpus.pairs, run, PretrainConfig(preset="tiny", steps=6, batch_size=4, seed=5))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(short_run, corpus, tmp_path):
    run, _ = short_run
    run_pretrain(corpus.pairs, tmp_path / "again", SHORT)
    run_pretrain(corpus.pairs, tmp_path / "other", PretrainConfig(preset="tiny", steps=6, batch_size=4, seed=1))
    assert equal(weights(run), weights(tmp_path / "again"))
    assert not equal(weights(run), weights(tmp_path / "other"))


def test_a_loss_that_is_not_finite_stops_with_step_and_keys(corpus, tmp_path):
    config = PretrainConfig(preset="tiny", steps=50, batch_size=2, lr=1e30)
    with pytest.raises(
        ModelError, match=r"the loss is (nan|inf) at step \d+, pairs videos-s0\S+, videos-s0\S+: lower --lr"
    ):
        run_pretrain(corpus.pairs, tmp_path / "run", config)


def test_a_setting_that_collapses_the_token_is_flagged_and_the_default_is_not(corpus, tmp_path):
    collapsed = {}
    for name, weight in (("default", None), ("heavy", 100.0)):
        config = PretrainConfig(
            preset="tiny", steps=60, batch_size=4, lr=1e-3, objective=ObjectiveConfig(agent_weight=weight)
        )
        collapsed[name] = run_pretrain(corpus.pairs, tmp_path / name, config).collapsed
    assert collapsed == {"default": False, "heavy": True}


@pytest.mark.parametrize("pattern", ["", "/{000000..000001}.tar"])
def test_excluded_subjects_are_in_the_run_and_not_in_its_checkpoint(corpus, tmp_path, pattern):
    config = dataclasses.replace(SHORT, steps=2, exclude_subjects=("videos/s02",))
    told = []
    run_pretrain(f"{corpus.pairs}{pattern}", tmp_path, config, on_plan=told.append)
    assert read_state(tmp_path).subjects == ("videos/s01", "videos/s03")
    saved = read_json(tmp_path / "config.json")
    assert saved["settings"]["exclude_subjects"] == saved["identity"]["exclude_subjects"] == ["videos/s02"]
    rows = [
        row
        for shard in (list_shards(corpus.pairs) if not pattern else ["000000", "000001"])
        for row in read_rows(twin_paths(corpus.pairs, shard)[1], PairRow)
    ]
    people = {clip.clip_id: clip.subject for clip in read_rows(corpus.clips, ClipRow)}
    num_kept = sum(people[row.clip_id] != "videos/s02" for row in rows)
    assert saved["num_pairs"] == num_kept
    assert f"{len(rows) - num_kept} of {len(rows)} pairs are left out: those of videos/s02" in told[0].notes
    estimate = estimate_pretrain(f"{corpus.pairs}{pattern}", config)
    assert (estimate.num_pairs, estimate.num_excluded) == (num_kept, len(rows) - num_kept)
    assert estimate.steps_per_epoch * 4 + estimate.pairs_dropped_per_epoch == num_kept


def test_other_excluded_subjects_are_told_and_what_was_seen_stays_seen(corpus, tmp_path):
    config = dataclasses.replace(SHORT, steps=2)
    run_pretrain(corpus.pairs, tmp_path, config)
    run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(config, exclude_subjects=()))
    fewer = dataclasses.replace(config, exclude_subjects=("videos/s02", "videos/s01"))
    with pytest.raises(ConfigError, match=r"exclude_subjects: run None, requested \['videos/s01', 'videos/s02'\]"):
        run_pretrain(corpus.pairs, tmp_path, fewer)
    run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(fewer, steps=4), force=True)
    assert read_state(tmp_path).step == 4
    assert read_state(tmp_path).subjects == ("videos/s01", "videos/s02", "videos/s03")
    other_order = dataclasses.replace(fewer, steps=4, exclude_subjects=("videos/s01", "videos/s02"))
    assert run_pretrain(corpus.pairs, tmp_path, other_order).steps_done_now == 0
    with pytest.raises(ConfigError, match=r"exclude_subjects: run \['videos/s01', 'videos/s02'\], requested None"):
        run_pretrain(corpus.pairs, tmp_path, dataclasses.replace(config, steps=4))


def test_pairs_of_nobody_beside_excluded_people_are_told(write_pairs, tmp_path):
    folder = write_pairs(tmp_path, [100], size=112, subjects=["samm/s01", "samm", "samm/s02", "casme2"])
    source = without_subjects(open_source(folder), ["samm/s01"])
    assert decide(SHORT, pick_compute(), Processes(), source).notes == (
        "25 of 100 pairs are left out: those of samm/s01",
        "25 pairs without a known subject are kept, from datasets with excluded subjects: "
        "exclude these datasets as a whole to be sure",
    )


def test_too_few_pairs_without_the_excluded_people_are_told(write_pairs, tmp_path):
    folder = write_pairs(tmp_path, [7], subjects=["samm/s01"] * 6 + ["samm/s02"])
    with pytest.raises(ConfigError, match="holds 1 pairs without the excluded subjects, too few for 2 processes"):
        decide(SHORT, pick_compute(), Processes(world=2), without_subjects(open_source(folder), ["samm/s01"]))
    with pytest.raises(ConfigError, match="exclude_subjects leaves nothing"):
        run_pretrain(folder, tmp_path / "run", dataclasses.replace(SHORT, exclude_subjects=("samm",)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [{"in_chans": 1}, {"patch_size": 16}, {"agent": "mse_ema"}, {"attention": "full", "poi": False}],
    ids=lambda changes: "-".join(changes),
)
def test_changed_models_are_pretrained_continued_and_loaded(corpus, tmp_path, changes):
    config = PretrainConfig(preset="tiny", steps=2, batch_size=2, model=changes, grad_checkpointing=True)
    summary = run_pretrain(corpus.pairs, tmp_path, config)
    assert summary.last.loss < 10
    model = MicronBert.from_pretrained(tmp_path)
    assert {name: getattr(model.config, name) for name in changes} == changes
    assert run_pretrain(corpus.pairs, tmp_path, config).steps_done_now == 0


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="not both"):
        PretrainConfig(steps=3, epochs=1)
    with pytest.raises(ConfigError, match="preset is 'huge'; allowed are tiny, small, base"):
        PretrainConfig(preset="huge")
    with pytest.raises(ConfigError, match="batch_size is 0"):
        PretrainConfig(batch_size=0)


def test_what_is_no_checkpoint_is_refused_with_the_reason(short_run, tmp_path):
    with pytest.raises(ModelError, match=r"there is no checkpoint in .*mbert train pretrain"):
        MicronBert.from_pretrained(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(short_run[0] / "checkpoints" / "last", folder)
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "surprise": 1}))
    with pytest.raises(ModelError, match=r"not a μ-BERT checkpoint of this version.*surprise"):
        MicronBert.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**config, "depth": 3}))
    with pytest.raises(ModelError, match="Missing key"):
        MicronBert.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights_file = folder / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="not a μ-BERT checkpoint"):
        MicronBert.from_pretrained(folder)
