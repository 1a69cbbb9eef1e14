"""A training run as its page shows it: read from the run's folder, finished or in progress."""

import contextlib
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mbert import ManifestError, ModelError
from mbert.manifests.files import read_json
from mbert.manifests.runs import RunEntry, RunPicture, TrainingFacts
from mbert.model.network.weights import TrainingState, read_state
from mbert.model.training.checkpoint import LAST
from mbert.model.training.objective import is_collapsed
from mbert.model.training.places import linked_run
from mbert.model.training.run_log import StepReport, read_reports
from mbert.model.training.runs import RunRow, read_run
from mbert.shards.image import encode_jpeg

_MOST_PICTURES = 8
_JPEG_QUALITY = 85
_RECENT = 20  # steps
_MUCH_WAITING = 0.2  # share of the time
_CURVE_POINTS = 120
_OWN = ("epoch", "loss", "grad_norm", "lr", "pairs_per_second", "data_wait_share", "memory_mb")


def read_training(run: Path) -> TrainingFacts:
    """The facts of a training run. Raises ManifestError or ModelError naming the file that cannot be read."""
    config, reports = read_json(run / "config.json"), read_reports(run)
    row = read_run(run, reports)
    state = _state(run)
    try:
        return _facts(run, config, row, reports, state)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ManifestError(f"{run / 'config.json'} is not of a run of this version of mbert ({exc!r})") from exc


def read_entry(run: Path) -> RunEntry:
    """The run as a row of a table; raises as `read_training`."""
    config, reports = read_json(run / "config.json"), read_reports(run)
    row = read_run(run, reports)
    recent = reports[-max(1, len(reports) // _RECENT) :]
    names = ["loss", *(reports[-1].parts if reports else ())]
    lines = [{"loss": report.loss, **report.parts} for report in recent]
    places = np.unique(np.linspace(0, len(reports) - 1, min(len(reports), _CURVE_POINTS)).astype(int))
    return RunEntry(
        name=run.name,
        kind=row.kind,
        state=row.state,
        reason=row.reason,
        at=row.at,
        step=row.step,
        steps=row.steps,
        losses=tuple(reports[place].loss for place in places.tolist()),
        final={name: float(np.mean([line.get(name, math.nan) for line in lines])) for name in names if lines},
        settings=_settings(config),
    )


def _facts(
    run: Path, config: dict[str, Any], row: RunRow, reports: list[StepReport], state: TrainingState | None
) -> TrainingFacts:
    settings = config.get("settings", {})
    series = _series(reports)
    global_batch = int(config["identity"]["global_batch"])
    pictures = sorted((run / "pictures").glob("step-*.png"))
    rates = series.get("pairs_per_second", np.empty(0))
    return TrainingFacts(
        name=run.name,
        kind=row.kind,
        state=row.state,
        reason=row.reason,
        at=row.at,
        step=row.step,
        steps=row.steps,
        at_steps=np.array([report.step for report in reports], np.int64),
        series=series,
        seconds=float((global_batch / rates[rates > 0]).sum()),
        num_seen=global_batch * len(reports),
        epochs=reports[-1].epoch if reports else 0.0,
        num_parameters=_num_parameters(run),
        device=str(config.get("device", "")),
        precision=str(config.get("precision", "")),
        processes=int(config.get("processes", 1)),
        num_pairs=int(config["num_pairs"]),
        subjects=_subjects(config, state),
        excluded=tuple(settings.get("exclude_subjects") or ()),
        classes=config.get("classes", {}),
        num_forgotten=len(state.forgotten) if state else 0,
        pictures=tuple(_pictures(pictures)),
        num_pictures=len(pictures),
        warnings=tuple(_warnings(config, row, reports, state)),
        files=frozenset(path.name for path in run.iterdir()),
        settings=_settings(config),
        versions=config.get("versions", {}),
        start=linked_run(config["checkpoint"], config.get("place"), run) if row.kind == "finetune" else None,
    )


def _series(reports: list[StepReport]) -> dict[str, npt.NDArray[np.float64]]:
    parts = list(dict.fromkeys(name for report in reports for name in report.parts))
    lines = [report.to_line() for report in reports]
    found = {
        name: np.array([math.nan if line.get(name) is None else line[name] for line in lines], np.float64)
        for name in ("loss", *parts, *_OWN)
    }
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def _state(run: Path) -> TrainingState | None:
    with contextlib.suppress(ModelError):  # it has no checkpoint yet
        return read_state(run / "checkpoints" / LAST)
    return None


def _subjects(config: dict[str, Any], state: TrainingState | None) -> tuple[str, ...] | None:
    if config["kind"] == "finetune":
        return tuple(config["identity"].get("subjects", ()))
    return state.subjects if state and state.subjects else None


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The given settings, with those chosen by the hardware and the number of pairs."""
    identity = config.get("identity", {})
    chosen = {name: identity[name] for name in ("lr", "steps", "preset", "global_batch") if name in identity}
    corpus = str(identity.get("corpus", ""))[:12]
    given = {**config.get("settings", {}), **chosen, "num_pairs": config.get("num_pairs"), "corpus": corpus}
    return {**given, "model": config.get("model", {})}


def _num_parameters(run: Path) -> int | None:
    """The number of parameters of the last checkpoint, from the headers of its files."""
    folder = run / "checkpoints" / LAST
    files = [file for file in folder.glob("*.safetensors") if file.name != "optimizer.safetensors"]
    try:
        found = 0
        for file in files:
            with safe_open(file, "pt") as tensors:
                found += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        return found or None
    except (SafetensorError, OSError):
        return None


def _pictures(files: list[Path]) -> list[RunPicture]:
    """The first, the last and some between, small enough for a page; unreadable ones are left out."""
    places = np.unique(np.linspace(0, len(files) - 1, min(len(files), _MOST_PICTURES)).round().astype(int))
    found = []
    for file in (files[place] for place in places.tolist()):
        image = cv2.imread(str(file))
        if image is not None:
            step = int(file.stem.removeprefix("step-"))
            found.append(RunPicture(step=step, jpeg=encode_jpeg(image[..., ::-1], _JPEG_QUALITY)))
    return found


def _warnings(
    config: dict[str, Any], row: RunRow, reports: list[StepReport], state: TrainingState | None
) -> list[tuple[str, str]]:
    found = []
    if row.state == "killed":
        found.append(
            ("Killed", "The run ended without a word: power, memory or a signal. The same command resumes it.")
        )
    elif row.state in ("failed", "stopped"):
        found.append((row.state.capitalize(), f"{row.reason or 'No reason is known'}."))
    for forced in config.get("forced", ()):
        found.append(("Changed", f"Resumed with --force after step {forced['step']}: {forced['differences']}."))
    spread = [report.parts["token_std"] for report in reports[-_RECENT:] if "token_std" in report.parts]
    if spread and is_collapsed(float(np.median(spread))):
        found.append(
            (
                "Collapsed",
                f"The contextual token says nearly the same of every face (spread {np.median(spread):.4f}), so the "
                "Patch of Interest means little: lower objective.agent_weight, or use more people.",
            )
        )
    waiting = [report.data_wait_share for report in reports[len(reports) // 2 :]]
    if waiting and (share := float(np.mean(waiting))) > _MUCH_WAITING:
        found.append(
            ("Waiting", f"The device waited for data {share:.0%} of the time: raise --workers, or use a faster disk.")
        )
    if state and state.forgotten:
        found.append(
            ("Forgotten", f"It has seen {len(state.forgotten)} inputs that were forgotten since: train it again.")
        )
    return found
