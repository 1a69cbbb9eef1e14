"""Checkpoints of a training run: a model and its optimiser in a folder, written whole or not at all."""

import shutil
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, optim

from mbert import ModelError
from mbert.manifests.store import sync_folder
from mbert.model.micron_bert import MicronBert
from mbert.model.weights import TrainingState, model_folder, write_model, write_tensors

_OPTIMIZER = "optimizer.safetensors"


def save_checkpoint(folder: Path, model: MicronBert, optimizer: optim.Optimizer, state: TrainingState) -> Path:
    """Write `folder/step-<n>`, then point `folder/last` at it and remove the older ones. Returns the new folder."""
    target = folder / f"step-{state.step:07d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_model(temporary, model.state_dict(), model.config, state)
    write_tensors(temporary / _OPTIMIZER, _optimizer_tensors(model, optimizer))
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


def load_optimizer(path: Path, model: MicronBert, optimizer: optim.Optimizer) -> None:
    """Restore the optimiser's moments saved by `save_checkpoint`; raises ModelError when they do not fit."""
    file = model_folder(path) / _OPTIMIZER
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
        f"{names[id(parameter)]}/{kind}": tensor
        for parameter, moments in optimizer.state.items()
        for kind, tensor in moments.items()
    }
