"""The files of a model: `model.safetensors`, `config.json`, and `state.json` with what the weights have seen.

Nothing is ever unpickled.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mbert import ConfigError, ManifestError, ModelError
from mbert.manifests.files import read_json, replacing, write_json
from mbert.model.network.config import MicronBertConfig

WEIGHTS, CONFIG, STATE = "model.safetensors", "config.json", "state.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """The progress of a run, and what the weights have seen."""

    step: int  # steps done
    seed: int
    preset: str
    corpus: str  # fingerprint of the corpus
    subjects: tuple[str, ...]  # with frames in the training shards
    losses: dict[str, float]  # of the last step
    labelled_subjects: tuple[str, ...] = ()  # with labels that the encoder has learned from
    forgotten: tuple[str, ...] = ()  # ids of inputs that it has, or may have, seen and that were forgotten since


def write_model(
    folder: Path, tensors: Mapping[str, Tensor], config: MicronBertConfig, state: TrainingState | None
) -> None:
    """Write a model's files, each atomically, the configuration last."""
    write_tensors(folder / WEIGHTS, tensors)
    if state is not None:
        write_json(folder / STATE, dataclasses.asdict(state))
    write_json(folder / CONFIG, dataclasses.asdict(config))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically; raises MbertError when the disk is full."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata={"format": "pt"})
        except SafetensorError as exc:  # safetensors has the system's error number only in its text
            raise ModelError(f"cannot write {path}: {exc}") from exc


def hash_weights(*modules: nn.Module) -> str:
    """SHA-256 of names and values, independent of where they were loaded from."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def read_model(path: Path) -> tuple[MicronBertConfig, dict[str, Tensor]]:
    """Configuration and tensors of a model, of a run's last checkpoint, or of a safetensors file next to its config.

    Raises ModelError when that fails.
    """
    file = path if path.is_file() else model_folder(path) / WEIGHTS
    try:
        return MicronBertConfig(**read_json(file.parent / CONFIG)), safetensors.torch.load_file(file)
    except (ManifestError, ConfigError, TypeError, SafetensorError, OSError) as exc:
        raise ModelError(f"{file} is not a μ-BERT checkpoint of this version: {exc}") from exc


def is_safetensors(file: Path) -> bool:
    """Checked by name or content: the length of a header in 8 bytes, then the header, which is JSON.

    Raises ModelError when it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return file.suffix == ".safetensors" or opened.read(9)[8:] == b"{"
    except OSError as exc:
        raise ModelError(f"{file} cannot be read: {exc.strerror}") from exc


def read_state(path: Path) -> TrainingState:
    """The training state stored with a model's weights; raises ModelError if there is none."""
    folder = path if (path / STATE).exists() else model_folder(path)  # the weights next to it may have another name
    try:
        value = read_json(folder / STATE)
        labelled = tuple(value.get("labelled_subjects", ()))  # absent in files from before finetuning existed
        lists = {"subjects": value["subjects"], "labelled_subjects": labelled, "forgotten": value.get("forgotten", ())}
        return TrainingState(**{**value, **{name: tuple(found) for name, found in lists.items()}})
    except (ManifestError, TypeError, KeyError) as exc:
        raise ModelError(f"{folder / STATE} cannot be read: {exc}") from exc


def model_folder(path: Path) -> Path:
    """The folder that holds the weights: `path` itself, or the last checkpoint of the run `path`."""
    for folder in (path, path / "checkpoints" / "last"):
        if (folder / WEIGHTS).exists():
            return folder
    raise ModelError(f"there is no checkpoint in {path}: run `mbert train pretrain`, or name another with --checkpoint")
