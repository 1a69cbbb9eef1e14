"""Checkpoints: safetensors and JSON in a folder, written whole or not at all. Nothing is ever unpickled."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, optim

from mbert import ConfigError, ManifestError, ModelError
from mbert.manifests.store import read_json, replacing, sync_folder, write_json
from mbert.model.micron_bert import MicronBert, MicronBertConfig

_WEIGHTS = "model.safetensors"
_CONFIG = "config.json"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """Where a run stands, and what the weights have seen."""

    step: int  # steps done
    seed: int
    preset: str
    corpus: str  # fingerprint of the corpus
    subjects: tuple[str, ...]  # whose frames were in the training shards
    losses: dict[str, float]  # of the last step


def save_checkpoint(folder: Path, model: MicronBert, optimizer: optim.Optimizer, state: TrainingState) -> Path:
    """Write `folder/step-<n>`, then point `folder/last` at it and remove the older ones. Returns the new folder."""
    target = folder / f"step-{state.step:07d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(weights, temporary / _WEIGHTS, metadata={"format": "pt"})
    safetensors.torch.save_file(_optimizer_tensors(model, optimizer), temporary / _OPTIMIZER)
    _write(temporary / _CONFIG, dataclasses.asdict(model.config))
    _write(temporary / _STATE, dataclasses.asdict(state))
    for file in temporary.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    link = folder / ".last.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(folder / "last")
    sync_folder(folder)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def save_model(folder: Path, model: MicronBert, state: TrainingState) -> None:
    """Write a checkpoint without an optimiser: for use, not for going on with training."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(folder / _WEIGHTS) as temporary:
        safetensors.torch.save_file(weights, temporary, metadata={"format": "pt"})
    write_json(folder / _STATE, dataclasses.asdict(state))
    write_json(folder / _CONFIG, dataclasses.asdict(model.config))


def load_model(path: Path) -> MicronBert:
    """Load a model from a checkpoint folder or from a run that has one; raises ModelError when that is not possible."""
    folder = _checkpoint_folder(path)
    try:
        config = MicronBertConfig(**read_json(folder / _CONFIG))
        weights = safetensors.torch.load_file(folder / _WEIGHTS)
        model = MicronBert(config)
        model.load_state_dict(weights)
    except (ManifestError, ConfigError, TypeError, SafetensorError, OSError, RuntimeError) as exc:
        raise ModelError(f"{folder} is not a μ-BERT checkpoint of this version: {exc}") from exc
    return model


def load_state(path: Path) -> TrainingState:
    """The training state beside the weights; raises ModelError when there is none."""
    folder = _checkpoint_folder(path)
    try:
        value = read_json(folder / _STATE)
        return TrainingState(**{**value, "subjects": tuple(value["subjects"])})
    except (ManifestError, TypeError, KeyError) as exc:
        raise ModelError(f"{folder / _STATE} cannot be read: {exc}") from exc


def load_optimizer(path: Path, model: MicronBert, optimizer: optim.Optimizer) -> None:
    """Restore the optimiser's moments saved by `save_checkpoint`; raises ModelError when they do not fit."""
    file = _checkpoint_folder(path) / _OPTIMIZER
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    try:
        tensors = safetensors.torch.load_file(file)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                kinds = ("step", "exp_avg", "exp_avg_sq")
                optimizer.state[parameter] = {
                    kind: tensors[f"{name}/{kind}"].to("cpu" if kind == "step" else parameter.device) for kind in kinds
                }
    except (KeyError, SafetensorError, OSError) as exc:
        raise ModelError(f"{file} does not fit the model: {exc}") from exc


def _optimizer_tensors(model: MicronBert, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{kind}": tensor.detach().cpu().contiguous()
        for parameter, moments in optimizer.state.items()
        for kind, tensor in moments.items()
    }


def _checkpoint_folder(path: Path) -> Path:
    """The folder that holds the weights: `path` itself, or the last checkpoint of the run `path`."""
    for folder in (path, path / "checkpoints" / "last"):
        if (folder / _WEIGHTS).exists():
            return folder
    raise ModelError(f"there is no checkpoint in {path}: run `mbert train pretrain`, or name another with --checkpoint")


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
