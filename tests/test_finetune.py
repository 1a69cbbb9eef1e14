import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from mbert import ConfigError, ManifestError, ModelError
from mbert.cli import app
from mbert.manifests.files import read_json
from mbert.model.data.augment import AugmentConfig
from mbert.model.data.labelled import LabelledLoader, decode_pairs, read_labelled
from mbert.model.data.pixels import normalize
from mbert.model.network.classifier import Classifier, ClassifierConfig
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.features import num_features, pair_inputs
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import TrainingState, read_state, write_model
from mbert.model.training.checkpoint import read_progress
from mbert.model.training.finetune import FinetuneConfig, run_finetune
from mbert.model.training.label_loss import balanced_weights, mix, mixing_shares, soft_targets, weighted_cross_entropy
from mbert.model.training.optim import adamw
from mbert.model.training.run_log import read_reports
from mbert.model.training.settings import read_settings, with_settings
from mbert.shards.source import open_source

TINY = MicronBertConfig(
    image_size=56, dim=32, depth=2, heads=2, decoder_dim=16, decoder_depth=1, decoder_heads=2, agent="mse_ema"
)
QUICK = FinetuneConfig(steps=12, batch_size=6, save_every=5, picture_every=0)


def tensors(run, name="model"):
    return safetensors.torch.load_file(run / "checkpoints" / "last" / f"{name}.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_key_bias(found):
    """The softmax of attention does not see it: its gradient is rounding alone, which AdamW blows up to whole steps."""
    width = len(found.get("encoder.contextual_token", [[[]]])[0][0])
    return {
        name: torch.cat([tensor[:width], tensor[2 * width :]]) if name.endswith("qkv.bias") else tensor
        for name, tensor in found.items()
    }


def losses(run):
    return [report.loss for report in read_reports(run)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with an untrained μ-BERT."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    state = TrainingState(step=3, seed=0, preset="tiny", corpus="elsewhere", subjects=("videos/s09",), losses={})
    write_model(folder, MicronBert(TINY).state_dict(), TINY, state)
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus, encoder, tmp_path_factory):
    run = tmp_path_factory.mktemp("finetune") / "run"
    return run, run_finetune(corpus.expressions, corpus.labels, encoder, run, QUICK)


@pytest.fixture(scope="module")
def labelled(corpus):
    return read_labelled(open_source(corpus.expressions), corpus.labels)


def test_the_labels_of_eighteen_expressions_are_learned(corpus, encoder, labelled, tmp_path):
    config = FinetuneConfig(steps=60, lr=3e-3, augment=AugmentConfig(flip=0.0), picture_every=30)
    summary = run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path, config)
    assert list(summary.classes.values()) == [6, 6, 6]
    assert summary.first.loss == pytest.approx(np.log(3), abs=0.3)
    assert summary.last.loss < 0.05
    assert summary.train_accuracy == 1.0
    model = Classifier.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = model(*(normalize(images) for images in decode_pairs(labelled.pairs, 56)))
    assert [model.config.classes[place] for place in logits.argmax(1)] == [
        labelled.classes[label] for label in labelled.labels
    ]
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_a_frozen_encoder_stays_bitwise_as_it_was_and_the_head_learns(corpus, encoder, tmp_path):
    config = dataclasses.replace(QUICK, frozen=True, head="mlp", average_decay=0.9)
    summary = run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path, config)
    assert equal(tensors(tmp_path), safetensors.torch.load_file(encoder / "model.safetensors"))
    assert equal(tensors(tmp_path, "ema/model"), tensors(tmp_path))
    assert not equal(tensors(tmp_path, "ema/head"), tensors(tmp_path, "head"))
    assert read_json(tmp_path / "config.json")["identity"]["lr"] == 1e-3
    assert summary.last.loss < summary.first.loss
    model = Classifier.from_pretrained(tmp_path, frozen=True).train()
    assert not any(module.training for module in model.backbone.modules())
    assert read_state(tmp_path).labelled_subjects == ()  # the encoder knows nothing of labels


def test_only_the_encoder_and_the_head_change(undisturbed, encoder):
    before, after = safetensors.torch.load_file(encoder / "model.safetensors"), tensors(undisturbed[0])
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder"}


def test_each_depth_gets_its_share_of_the_learning_rate():
    config = ClassifierConfig(classes=("a", "b"), num_features=num_features(TINY), image_size=56)
    model = Classifier(MicronBert(TINY), config)
    optimizer = adamw(model, weight_decay=0.1, lr_scale=lambda name: model.lr_scale(name, 0.5))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    shares = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)].removeprefix("backbone.encoder.")
            shares.setdefault(".".join(name.split(".")[: 2 if "blocks" in name else 1]), set()).add(group["lr_scale"])
    assert shares == {
        "head": {1.0},
        "norm": {0.5},
        "blocks.1": {0.5},
        "blocks.0": {0.25},
        "patch_embed": {0.125},
        "contextual_token": {0.125},
    }


def test_weights_smoothing_and_mixing_agree_with_hand_arithmetic():
    assert balanced_weights([1, 3, 4]).tolist() == pytest.approx([8 / 3, 8 / 9, 2 / 3])
    targets = soft_targets(torch.tensor([0, 2]), 3, 0.3)
    assert targets.tolist() == [pytest.approx([0.8, 0.1, 0.1]), pytest.approx([0.1, 0.1, 0.8])]
    mixed = mix(targets[:1], targets[1:], torch.tensor([0.25]))
    assert mixed[0].tolist() == pytest.approx([0.25 * 0.8 + 0.75 * 0.1, 0.1, 0.25 * 0.1 + 0.75 * 0.8])
    images = mix(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), torch.tensor([0.25]))
    assert torch.equal(images, torch.full((1, 3, 2, 2), 0.75))
    logits, weights = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), np.array([2.0, 1.0, 0.5])
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -(weights * targets.numpy() * logs).sum(1).mean()
    given = weighted_cross_entropy(torch.tensor(logits), targets, torch.tensor(weights, dtype=torch.float32))
    assert float(given) == pytest.approx(expected, rel=1e-5)


def test_mixing_shares_belong_to_places_whoever_holds_them():
    whole = mixing_shares(0.4, range(8), 8, seed=1, step=5)
    assert torch.equal(mixing_shares(0.4, range(1, 8, 2), 8, seed=1, step=5), whole[1::2])
    assert not torch.equal(mixing_shares(0.4, range(8), 8, seed=1, step=6), whole)
    many = mixing_shares(0.4, range(20000), 20000, seed=0, step=0)
    assert float(many.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(many.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # of Beta(a, a)


def test_batches_are_the_same_for_any_number_of_ranks_and_from_any_step(labelled):
    def read(count, **where):
        loader = LabelledLoader(labelled, batch_size=8, image_size=16, seed=3, has_partners=True, **where)
        return list(itertools.islice(loader, count)), loader

    whole, loader = read(9)
    assert loader.position.to_json() == {"step": 9}
    assert loader.steps_per_epoch == 18 / 8
    stream = [key for batch in whole for key in batch.keys]
    every = sorted(pair.key for pair in labelled.pairs)
    assert [sorted(stream[start : start + 18]) for start in range(0, 72, 18)] == [every] * 4
    assert stream[:18] != stream[18:36]
    parts = [read(9, rank=rank, world=2)[0] for rank in (0, 1)]
    later = read(2, step=7)[0]
    for step, batch in enumerate(whole):
        for name in ("t0", "t1", "draws", "labels"):
            for part in (batch, batch.partners):
                get = (lambda b: b) if part is batch else (lambda b: b.partners)
                joined = torch.stack([getattr(get(p[step]), name) for p in parts], dim=1).flatten(0, 1)
                assert torch.equal(joined, getattr(part, name))
                if step >= 7:
                    assert torch.equal(getattr(get(later[step - 7]), name), getattr(part, name))
    assert [batch.keys for batch in whole] != [batch.partners.keys for batch in whole]
    assert whole[0].labels.dtype == torch.int64


def test_a_batch_may_be_larger_than_the_set(labelled):
    batch = next(iter(LabelledLoader(labelled, batch_size=40, image_size=8, seed=0)))
    assert sorted(batch.keys[:18]) == sorted(batch.keys[18:36]) == sorted(pair.key for pair in labelled.pairs)
    with pytest.raises(ConfigError, match="batch_size is 3; it must be a multiple of the 2 ranks"):
        LabelledLoader(labelled, batch_size=3, image_size=8, seed=0, world=2)


@pytest.mark.parametrize(
    "changes", [{}, {"mixup": 0.4, "head": "mlp", "dropout": 0.2, "accumulate": 2}], ids=["plain", "all"]
)
def test_a_stopped_run_continues_to_the_same_bits(corpus, encoder, undisturbed, tmp_path, changes):
    config = dataclasses.replace(QUICK, **changes)
    whole = undisturbed[0]
    if changes:
        whole = tmp_path / "whole"
        run_finetune(corpus.expressions, corpus.labels, encoder, whole, config)
    run = tmp_path / "run"
    for stop in (1, 2):
        summary = run_finetune(
            corpus.expressions, corpus.labels, encoder, run, dataclasses.replace(config, max_minutes=1e-9)
        )
        assert (summary.stopped, summary.steps_done) == ("the time limit", stop)
    summary = run_finetune(corpus.expressions, corpus.labels, encoder, run, config, resume=True)
    assert (summary.steps_done, summary.steps_done_now) == (12, 10)
    for name in ("model", "head", "optimizer"):
        assert equal(tensors(run, name), tensors(whole, name))
    assert losses(run) == losses(whole)


def test_two_processes_learn_what_one_learns_with_twice_the_batch(corpus, encoder, tmp_path):
    config = dataclasses.replace(QUICK, steps=6, mixup=0.4, label_smoothing=0.1)
    run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path / "one", config)
    (tmp_path / "run.yaml").write_text(json.dumps({**dataclasses.asdict(config), "batch_size": 3}))
    words = ["--workspace", str(corpus.root), "--checkpoint", str(encoder), "--out", "two", "--config", "run.yaml"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "mbert", "train", "finetune", *words, "--json"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps_done"] == 6
    assert read_progress(tmp_path / "two").world == 2
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for name in ("model", "head"):
        mine, theirs = (without_key_bias(tensors(tmp_path / run, name)) for run in ("one", "two"))
        assert max(float((mine[key] - theirs[key]).abs().max()) for key in mine) < 1e-4


def test_the_folder_is_that_of_a_micron_bert_and_of_a_classifier(undisturbed, corpus, labelled, tmp_path):
    run, _ = undisturbed
    folder = run / "checkpoints" / "last"
    assert sorted(path.name for path in folder.iterdir()) == [
        "classifier.json", "config.json", "head.safetensors", "model.safetensors", "optimizer.safetensors",
        "state.json", "training.json",
    ]  # fmt: skip
    frames = [normalize(images) for images in decode_pairs(labelled.pairs[:4], 56)]
    classifier, model = Classifier.from_pretrained(run).eval(), MicronBert.from_pretrained(run).eval()
    with torch.no_grad():
        logits = classifier(*frames)
        assert torch.equal(classifier.head(pair_inputs(model, *frames)), logits)
        pair = model.encode_pair(*frames)  # the features are what this gives
        weighted = ((pair.t1 - pair.t0) * pair.interest[..., None]).view(4, 7, 7, 32).permute(0, 3, 1, 2).flatten(1)
    assert torch.equal(pair_inputs(model, *frames).detach(), weighted)
    classifier.save(tmp_path, model.state)
    with torch.no_grad():
        assert torch.equal(Classifier.from_pretrained(tmp_path).eval()(*frames), logits)
    assert classifier.config.classes == labelled.classes
    assert model.state.subjects == ("videos/s01", "videos/s02", "videos/s03", "videos/s09")
    assert model.state.labelled_subjects == ("videos/s01", "videos/s02", "videos/s03")
    assert (model.state.step, model.state.corpus) == (12, read_json(corpus.pairs / "pairs.json")["corpus"])


def test_held_out_subjects_are_not_learned_from(corpus, encoder, tmp_path):
    config = dataclasses.replace(QUICK, steps=1, exclude_subjects=("videos/s02",))
    summary = run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path, config)
    assert (sum(summary.classes.values()), summary.num_subjects) == (12, 2)
    assert read_state(tmp_path).labelled_subjects == ("videos/s01", "videos/s03")
    run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path, config)  # goes on: it is the same run
    with pytest.raises(ConfigError, match=r"exclude_subjects: run \['videos/s02'\], requested \[\]"):
        run_finetune(
            corpus.expressions, corpus.labels, encoder, tmp_path, dataclasses.replace(config, exclude_subjects=())
        )


def test_another_encoder_is_another_run(undisturbed, corpus, encoder, tmp_path):
    model = MicronBert.from_pretrained(encoder)
    with torch.no_grad():
        model.encoder.norm.bias += 1e-3
    write_model(tmp_path, model.state_dict(), model.config, model.state)
    with pytest.raises(ConfigError, match=r"encoder: run .*'weights': .*--overwrite"):
        run_finetune(corpus.expressions, corpus.labels, tmp_path, undisturbed[0], QUICK)
    with pytest.raises(ConfigError, match="holds the checkpoint that is to be finetuned"):
        run_finetune(
            corpus.expressions,
            corpus.labels,
            undisturbed[0] / "checkpoints" / "last",
            undisturbed[0],
            QUICK,
            overwrite=True,
        )


def test_what_the_head_looks_at_is_learned_saved_and_part_of_the_run(corpus, encoder, tmp_path):
    config = with_settings(QUICK, read_settings(None, ["inputs=[dma, map]", "steps=2"]))
    summary = run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path / "run", config)
    assert summary.steps_done == 2
    before, after = safetensors.torch.load_file(encoder / "model.safetensors"), tensors(tmp_path / "run")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder", "micro_attention"}
    assert Classifier.from_pretrained(tmp_path / "run").config.inputs == ("dma", "map")
    again = run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path / "run", config)
    assert again.steps_done_now == 0
    other = dataclasses.replace(config, inputs=("dma",))
    with pytest.raises(ConfigError, match=r"inputs: run \['dma', 'map'\], requested \['dma'\]"):
        run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path / "run", other)
    with pytest.raises(ConfigError, match=r"looks at dma, map, requested is dma: not even --force"):
        run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path / "run", other, force=True)
    model = MicronBert.from_pretrained(encoder)
    with torch.no_grad():
        model.micro_attention.to_q.weight += 1e-3
    write_model(tmp_path / "moved", model.state_dict(), model.config, model.state)
    with pytest.raises(ConfigError, match=r"encoder: run .*'weights': "):
        run_finetune(corpus.expressions, corpus.labels, tmp_path / "moved", tmp_path / "run", config)


def test_what_a_model_cannot_give_is_said_before_a_run_begins(corpus, encoder, tmp_path):
    config = dataclasses.replace(TINY, attention="full", poi=False)
    write_model(tmp_path / "full", MicronBert(config).state_dict(), config, read_state(encoder))
    with pytest.raises(ConfigError, match=r"inputs has dma, which needs attention=.*can give change, map, distance"):
        run_finetune(
            corpus.expressions,
            corpus.labels,
            tmp_path / "full",
            tmp_path / "run",
            dataclasses.replace(QUICK, inputs=("dma",)),
        )
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_learned_is_said(corpus, encoder, write_pairs, tmp_path):
    unknown = dataclasses.replace(QUICK, exclude_subjects=("s7",))
    with pytest.raises(ConfigError, match=r"no labelled expression is of s7; the subjects are videos/s01, videos/s02"):
        run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path / "run", unknown)
    everybody = dataclasses.replace(QUICK, exclude_subjects=("videos/s01", "videos/s02", "videos/s03"))
    with pytest.raises(ConfigError, match=r"at least 2 classes, the 0 labelled .*have 0: none; label more"):
        run_finetune(corpus.expressions, corpus.labels, encoder, tmp_path / "run", everybody)
    with pytest.raises(ManifestError, match=r"pairs holds pairs sampled by time.*WORKSPACE/shards/expressions"):
        run_finetune(write_pairs(tmp_path / "pairs", [4]), corpus.labels, encoder, tmp_path / "run", QUICK)
    with pytest.raises(ModelError, match="there is no checkpoint"):
        run_finetune(corpus.expressions, corpus.labels, tmp_path, tmp_path / "run", QUICK)
    with pytest.raises(ModelError, match=r"holds no classifier.*mbert train finetune"):
        Classifier.from_pretrained(encoder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "deep"}, "head is 'deep'; allowed are linear, mlp"),
        ({"class_weights": "some"}, "class_weights is 'some'; allowed are balanced, none"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0; it must be above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"mixup": -1.0}, "mixup is -1.0; it must not be negative"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"inputs": ("pixels",)}, "inputs has 'pixels'; allowed are change, dma"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig(**changes)


def test_a_damaged_classifier_is_named(undisturbed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed[0] / "checkpoints" / "last", folder)
    about = read_json(folder / "classifier.json")
    for changed in ({"surprise": 1}, {"classes": ["a", "b"]}, {"num_features": 3}):
        (folder / "classifier.json").write_text(json.dumps({**about, **changed}))
        with pytest.raises(ModelError, match=r"copy is not a classifier of this version|the head takes 3 features"):
            Classifier.from_pretrained(folder)


def test_the_command_line_trains_tells_and_warns_of_leaking_scores(corpus, encoder, run_mbert, tmp_path, monkeypatch):
    words = ["train", "finetune", "--shards", str(corpus.expressions), "--labels", str(corpus.labels)]
    words += ["--checkpoint", str(encoder), "--steps", "4"]
    words += ["--workspace", "w", "--exclude-subject", "videos/s03", "--set", "augment.flip=0"]
    done = run_mbert(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for pattern in (
        r"classes: \w+ \d, \w+ \d, \w+ \d, of 2 subjects; held out: videos/s03",
        r"loss \d\.\d+ -> \d\.\d+ after 4 steps",
        r"\d+% of the training pairs named right.*Training accuracy is not a score.*mbert eval --protocol loso",
        r"in w/runs/finetune; next: mbert eval --protocol loso",
    ):
        assert re.search(pattern, done.stdout), done.stdout
    assert "encoder and linear head for 3 classes on cpu in fp32, 4 steps of 12 pairs" in done.stderr
    monkeypatch.chdir(tmp_path)
    again = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(again.stdout)["steps_done_now"] == 0
    listed = json.loads(CliRunner().invoke(app, ["runs", "-w", "w", "--json"]).stdout)
    assert [(row["kind"], row["state"], row["step"]) for row in listed] == [("finetune", "finished", 4)]
    scored = ["eval", "--workspace", str(corpus.root), "--checkpoint", "w/runs/finetune", "--out", "loso"]
    assert "finetuned on the labels of 2 of the 3 subjects" in CliRunner().invoke(app, scored).stdout
    wrong = CliRunner().invoke(app, [*words, "--head", "mlp"])
    assert (wrong.exit_code, "head: run linear, requested mlp" in wrong.output) == (2, True)
