"""Checkpoints of a training run: folders with a model and everything needed to resume, written all or nothing.

checkpoints/step-0000400/   model.safetensors config.json state.json    the model, for use
                            optimizer.safetensors training.json         for resuming
                            ema/                                        the averaged weights, as a separate model
checkpoints/last, best      links
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn, optim

from mbert import ManifestError, ModelError
from mbert.manifests.files import naming_write_faults, read_json, sync_folder, write_json
from mbert.model.network.weights import write_tensors
from mbert.model.training.optim import AveragedWeights
from mbert.model.training.run_log import StepReport

_OPTIMIZER = "optimizer.safetensors"
_TRAINING = "training.json"
_AVERAGE = "average"
LAST, BEST, AVERAGED = "last", "best", "ema"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The progress of a run, apart from its tensors. Randomness needs no state: it comes from seed and step."""

    step: int  # steps done
    position: dict[str, Any]  # of the loader
    scaler: dict[str, Any]  # of fp16's loss scaling, else empty
    best_loss: float | None  # lowest mean loss between two checkpoints so far
    world: int
    revision: str | None  # of the code, if it is a git checkout


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """The tensors of a run. `save` writes a model's files into a folder, given tensors and the last step's report."""

    model: nn.Module
    optimizer: optim.Optimizer
    averaged: AveragedWeights | None
    save: Callable[[Path, Mapping[str, Tensor], StepReport], None]
    report: StepReport | None = None  # of the last step


def save_checkpoint(folder: Path, trained: Trained, progress: Progress, *, is_best: bool, keep: int) -> Path:
    """Write `folder/step-<n>`, point `last` (and `best`) at it, and remove all but the `keep` newest and the best.

    Raises MbertError if the disk is full or not writable; earlier checkpoints then stay untouched.
    """
    target = folder / f"step-{progress.step:07d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming_write_faults(target):
            temporary.mkdir(parents=True)
        assert trained.report is not None
        trained.save(temporary, trained.model.state_dict(), trained.report)
        if trained.averaged is not None:
            trained.save(temporary / AVERAGED, trained.averaged.tensors, trained.report)
        write_tensors(temporary / _OPTIMIZER, _training_tensors(trained))
        write_json(temporary / _TRAINING, dataclasses.asdict(progress))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    for link in (LAST, BEST) if is_best else (LAST,):
        _point(folder / link, target.name)
    sync_folder(folder)
    _remove_old(folder, keep)
    return target


def read_progress(run: Path) -> Progress | None:
    """The progress of a run, or None without a checkpoint; raises ModelError if that is damaged."""
    folder = run / "checkpoints" / LAST
    if not folder.exists():
        return None
    try:
        return Progress(**read_json(folder / _TRAINING))
    except (ManifestError, TypeError) as exc:
        raise ModelError(f"{folder / _TRAINING} cannot be read: {exc}; start again with --overwrite") from exc


def load_tensors(run: Path, trained: Trained) -> None:
    """Restore the optimiser's moments and the averages of the last checkpoint; raises ModelError when they do not fit.

    The caller loads the model itself.
    """
    file = run / "checkpoints" / LAST / _OPTIMIZER
    names = {id(parameter): name for name, parameter in trained.model.named_parameters()}
    try:
        tensors = safetensors.torch.load_file(file)
        for group in trained.optimizer.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                trained.optimizer.state[parameter] = {
                    kind: tensors[f"{name}/{kind}"].to(parameter.device) for kind in ("step", "exp_avg", "exp_avg_sq")
                }
        if trained.averaged is not None:
            for name, tensor in trained.averaged.tensors.items():
                tensor.copy_(tensors[f"{_AVERAGE}/{name}"])
    except (KeyError, RuntimeError, SafetensorError, OSError) as exc:
        raise ModelError(f"{file} does not fit the model: {exc}") from exc


def _training_tensors(trained: Trained) -> dict[str, Tensor]:
    names = {id(parameter): name for name, parameter in trained.model.named_parameters()}
    averages = trained.averaged.tensors if trained.averaged is not None else {}
    return {f"{_AVERAGE}/{name}": tensor for name, tensor in averages.items()} | {
        f"{names[id(parameter)]}/{kind}": tensor
        for parameter, moments in trained.optimizer.state.items()
        for kind, tensor in moments.items()
    }


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _remove_old(folder: Path, keep: int) -> None:
    linked = {(folder / link).resolve() for link in (LAST, BEST)}
    steps = sorted(folder.glob("step-*"))
    for old in steps[: max(0, len(steps) - keep)]:
        if old.resolve() not in linked:
            shutil.rmtree(old, ignore_errors=True)
    for left in folder.glob(".step-*.tmp"):
        with contextlib.suppress(OSError):
            shutil.rmtree(left)
