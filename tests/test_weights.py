"""The model that comes with the package, the list of models, and how such a model is made."""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import mbert
from mbert import ConfigError, api
from mbert.manifests.regions import PARTS
from mbert.model.movement.action_units import ActionUnitBases
from mbert.model.movement.calibration import Calibration
from mbert.model.network.config import PRESETS, VARIANTS, MicronBertConfig
from mbert.model.network.inventory import list_models
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import read_state, write_model
from mbert.pipeline.synthetic.facial_motion import ACTION_UNITS
from mbert.prediction.build import BuildOptions, build_weights
from mbert.shards.engine import Engine
from mbert.weights import BUILT_IN

SHAPES = "facial_motion.safetensors"
FILES = {
    "README.md", "action_units.safetensors", "calibration.json", "config.json", "model.safetensors", "recipe.json",
    "state.json",
}  # fmt: skip
SMALL = MicronBertConfig(
    image_size=112, dim=32, depth=1, heads=2, decoder_dim=32, decoder_depth=1, decoder_heads=2, motion_dim=32,
    **VARIANTS["motion"],
)  # fmt: skip
QUICK = BuildOptions(steps=2, subjects_per_photo=1, clips_per_emotion=1, still_clips=1, still_seconds=1.0)


def files_of(folder):
    """What is in a folder of weights, without what Python puts there and without what training draws from."""
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and file.suffix != ".py" and file.name != SHAPES
    }


def recipe_of(folder):
    return json.loads((folder / "recipe.json").read_text())


def check_folder(folder):
    """Weights, what was measured about them, recipe and card say the same."""
    assert set(files_of(folder)) == FILES
    weights = (folder / "model.safetensors").read_bytes()
    recipe, card = recipe_of(folder), (folder / "README.md").read_text(encoding="utf-8")
    digest = hashlib.sha256(weights).hexdigest()
    assert recipe["weights_sha256"] == digest
    assert digest in card
    model = mbert.load_model(folder)
    assert model.config == dataclasses.replace(PRESETS["tiny"], **VARIANTS["motion"], image_size=224, patch_size=16)
    assert model.config == MicronBertConfig(**json.loads((folder / "config.json").read_text()))
    state = read_state(folder)
    assert state == model.state
    assert (state.preset, state.seed) == ("tiny", recipe["options"]["seed"])
    assert len(state.subjects) == recipe["options"]["subjects_per_photo"] * len(recipe["photos"])
    assert f"{len(state.subjects)} synthetic people" in card
    assert state.labelled_subjects == ()
    calibration = Calibration.read(folder)
    assert f"{calibration.minutes:.1f} minutes" in card
    for part in PARTS:
        assert list(calibration.speeds[part]) == sorted(calibration.speeds[part], reverse=True)
        assert f"| {part} | {calibration.threshold(part, 1.0):.2f} | {len(calibration.speeds[part])} |" in card
    bases = ActionUnitBases.read(folder)
    assert bases.numbers == tuple(ACTION_UNITS)
    assert bases.fields.shape == (len(ACTION_UNITS), 14, 14, 2)
    np.testing.assert_allclose(np.linalg.norm(bases.fields.reshape(len(ACTION_UNITS), -1), axis=1), 1, atol=1e-5)
    return model, recipe, calibration


# -- the built-in model ------------------------------------------------------------------------------------------------


def test_the_built_in_folder_is_complete_small_and_agrees_with_itself():
    model, recipe, calibration = check_folder(BUILT_IN)
    assert sum(map(len, files_of(BUILT_IN).values())) <= 5_000_000
    assert recipe["options"] == dataclasses.asdict(BuildOptions())  # anybody makes it with the defaults
    assert recipe["photos"] == ["skimage.data.astronaut()"]
    assert recipe["versions"]["mbert"] == mbert.__version__
    assert model.state.step >= 200
    assert calibration.minutes > 5
    texts = [data.decode() for name, data in files_of(BUILT_IN).items() if name.endswith((".json", ".md"))]
    assert len(texts) == 5
    assert not any(str(folder) in text for text in texts for folder in (Path.home(), Path(tempfile.gettempdir())))


def test_the_built_in_weights_are_finite_and_of_every_part_of_the_model():
    tensors = safetensors.torch.load_file(BUILT_IN / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    untrained = MicronBert(MicronBertConfig(**json.loads((BUILT_IN / "config.json").read_text())))
    assert set(tensors) == set(untrained.state_dict())
    moved = mbert.load_model(BUILT_IN).micro_attention.motion.state_dict()
    start = untrained.micro_attention.motion.state_dict()
    assert not any(torch.equal(moved[name], start[name]) for name in moved if moved[name].dim() > 1)


def small_model(seed=0):
    torch.manual_seed(seed)
    return MicronBert(SMALL)


def write_run(workspace, name="pretrain", seed=0):
    """A run as pretraining leaves it, as far as one who loads it can see."""
    folder = workspace / "runs" / name / "checkpoints" / "last"
    model = small_model(seed)
    write_model(folder, model.state_dict(), model.config, None)
    return model


def is_same(one, other):
    return one.config == other.config and all(
        torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
    )


def test_without_a_run_the_built_in_model_is_loaded_else_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    built_in = mbert.load_model()
    assert is_same(built_in, mbert.load_model(BUILT_IN))
    assert not built_in.training
    write_run(tmp_path / "workspace", "finetune")  # is no pretraining
    assert is_same(mbert.load_model(), built_in)
    run = write_run(tmp_path / "workspace")
    assert is_same(mbert.load_model(), run)
    assert is_same(mbert.load_model(workspace="other"), built_in)
    assert is_same(mbert.load_model(BUILT_IN, workspace="workspace"), built_in)


# -- which models there are --------------------------------------------------------------------------------------------


def write_snapshot(cache, name, model=None, config=None):
    """A model in the cache of the hub, as huggingface_hub leaves it."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(snapshot.name)
    (model or small_model()).save_pretrained(snapshot)
    if config is not None:
        (snapshot / "config.json").write_text(config)
    return snapshot


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A workspace with two runs, one of them without a checkpoint yet, and a cache with one μ-BERT and others."""
    workspace, cache = tmp_path / "workspace", tmp_path / "hub"
    write_run(workspace)
    (workspace / "runs" / "begun").mkdir()
    (workspace / "runs" / "note.txt").write_text("no run")
    snapshot = write_snapshot(cache, "someone/micron-bert", small_model(1))
    write_snapshot(cache, "other/bert", config='{"hidden_size": 768}')
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return workspace, cache, snapshot


def test_built_in_runs_and_cached_models_are_listed(places):
    workspace, cache, snapshot = places
    found = list_models(workspace)
    run = workspace / "runs" / "pretrain" / "checkpoints" / "last"
    assert [(model.where, model.name, model.path) for model in found] == [
        ("built in", "default", str(BUILT_IN)),
        ("workspace", "pretrain", str(run)),
        ("hub", "someone/micron-bert", str(snapshot)),
    ]
    assert [model.num_bytes for model in found] == [
        Path(model.path, "model.safetensors").stat().st_size for model in found
    ]
    state = read_state(BUILT_IN)
    about = f"4.6 MB, 224 px, attention motion, {len(state.subjects)} people, step {state.step}"
    assert found[0].about == about
    assert is_same(mbert.load_model(found[1].path), mbert.load_model(workspace=workspace))
    # The name is the one that the hub's own cache knows it by.
    cached = MicronBert.from_pretrained(found[2].name, cache_dir=cache, local_files_only=True)
    assert is_same(cached, small_model(1))


def test_without_workspace_and_cache_the_built_in_model_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    assert [model.name for model in list_models(tmp_path / "workspace")] == ["default"]


@pytest.mark.parametrize(
    ("variable", "below"), [("HF_HUB_CACHE", "."), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")]
)
def test_the_cache_is_looked_for_where_the_hub_has_it(tmp_path, monkeypatch, variable, below):
    write_snapshot(tmp_path / "cache" / below, "someone/micron-bert")
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    assert [model.name for model in list_models(tmp_path / "workspace")] == ["default", "someone/micron-bert"]


@pytest.mark.parametrize("config", ["", '{"attention": "motion", "poi"', "[]", '{"attention": "motion", "poi": true}'])
def test_a_damaged_model_in_the_cache_does_not_hide_the_others(places, config):
    workspace, cache, _ = places
    write_snapshot(cache, "a/damaged", config=config)
    names = [model.name for model in list_models(workspace)]
    assert [name for name in names if name != "a/damaged"] == ["default", "pretrain", "someone/micron-bert"]


def test_a_damaged_run_does_not_hide_the_others(places):
    workspace, _, _ = places
    write_run(workspace, "broken")
    (workspace / "runs" / "broken" / "checkpoints" / "last" / "config.json").write_text("{")
    assert "pretrain" in [model.name for model in list_models(workspace)]


def test_the_command_lists_models_for_people_and_programs(places, invoke, tmp_path):
    workspace, _, snapshot = places
    told = invoke("weights", "--workspace", str(workspace), cwd=tmp_path)
    assert told.returncode == 0
    lines = told.stdout.splitlines()
    assert [line.split()[:3] for line in lines[::2]] == [
        ["built", "in", "default"],
        ["workspace", "pretrain", f"{small_size(workspace):.1f}"],
        ["hub", "someone/micron-bert", f"{small_size(workspace):.1f}"],
    ]
    assert lines[1].strip() == str(BUILT_IN)
    assert lines[5].strip() == str(snapshot)
    as_json = json.loads(invoke("weights", "--workspace", str(workspace), "--json", cwd=tmp_path).stdout)
    assert as_json == [dataclasses.asdict(model) for model in list_models(workspace)]


def small_size(workspace):
    return (workspace / "runs" / "pretrain" / "checkpoints" / "last" / "model.safetensors").stat().st_size / 1e6


# -- how it is made ----------------------------------------------------------------------------------------------------


def test_the_same_recipe_gives_the_same_bytes_twice_in_a_folder_that_everything_reads(tmp_path):
    """Far too little of everything, so one test: two builds take their time."""
    folders, notes = [tmp_path / "first", tmp_path / "second"], []
    summary, again = (
        build_weights(folder, QUICK, engine=Engine(workers=0), on_note=notes.append) for folder in folders
    )
    assert files_of(folders[0]) == files_of(folders[1])
    assert again == dataclasses.replace(summary, folder=str(folders[1]))
    assert notes[: len(notes) // 2] == notes[len(notes) // 2 :]
    assert "measuring still faces" in notes

    model, recipe, calibration = check_folder(folders[0])
    assert recipe["options"] == dataclasses.asdict(QUICK)
    assert recipe["people"]["subjects_per_photo"] == 1
    assert recipe["versions"]["mbert"] == mbert.__version__
    assert model.state.step == 2
    assert summary.folder == str(folders[0])
    assert summary.sha256 == recipe["weights_sha256"] != recipe_of(BUILT_IN)["weights_sha256"]
    assert summary.num_bytes == sum(map(len, files_of(folders[0]).values()))
    assert summary.subjects == model.state.subjects
    assert summary.calibrated_minutes == calibration.minutes == pytest.approx(1 / 60, rel=0.1)
    card = (folders[0] / "README.md").read_text(encoding="utf-8")
    assert "astronaut that scikit-image carries (NASA, public domain)" in card
    assert "no lie detector" in card


def test_without_a_photo_nothing_is_made(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match="holds no photo"):
        api.build_weights(tmp_path / "out", photos=tmp_path / "photos", workers=1)
    assert not (tmp_path / "out").exists()
