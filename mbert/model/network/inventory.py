"""The available models: built in, in a workspace, in the cache of the hub."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mbert import MbertError, ModelError
from mbert.manifests.files import read_json
from mbert.manifests.workspace import Workspace
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.weights import CONFIG, STATE, WEIGHTS, model_folder, read_state
from mbert.weights import BUILT_IN


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """One model."""

    where: Literal["built in", "workspace", "hub"]
    name: str
    path: str
    about: str  # size, attention, what it has seen
    num_bytes: int


def list_models(workspace: Path) -> list[ModelEntry]:
    """The models that `load_model` finds without a download."""
    found = [_entry("built in", "default", BUILT_IN)]
    runs = Workspace(workspace).runs
    folders = sorted(folder for folder in runs.iterdir() if folder.is_dir()) if runs.is_dir() else []
    for run in folders:
        with contextlib.suppress(MbertError):  # an evaluation, or a run still without a checkpoint
            found.append(_entry("workspace", run.name, model_folder(run)))
    for name, folder in _cached():
        with contextlib.suppress(MbertError):  # another kind of model, or an incomplete one
            found.append(_entry("hub", name, folder))
    return found


def _cached() -> Iterator[tuple[str, Path]]:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    for file in sorted(cache.glob(f"models--*/snapshots/*/{WEIGHTS}")):
        yield file.parents[2].name.removeprefix("models--").replace("--", "/"), file.parent


def _entry(where: Literal["built in", "workspace", "hub"], name: str, folder: Path) -> ModelEntry:
    """The entry of a folder. Raises MbertError if it holds no μ-BERT."""
    try:
        config = MicronBertConfig(**read_json(folder / CONFIG))
    except TypeError as exc:
        raise ModelError(f"{folder / CONFIG} is not that of a μ-BERT: {exc}") from exc
    state = read_state(folder) if (folder / STATE).exists() else None
    num_bytes = (folder / WEIGHTS).stat().st_size
    seen = f", {len(state.subjects)} people, step {state.step}" if state else ""
    about = f"{num_bytes / 1e6:.1f} MB, {config.image_size} px, attention {config.attention}{seen}"
    return ModelEntry(where=where, name=name, path=str(folder), about=about, num_bytes=num_bytes)
