"""The page of a training run."""

from pathlib import Path

import numpy as np

from mbert.manifests.runs import TrainingFacts
from mbert.reports.charts import Chart, line_chart, number
from mbert.reports.page import data_url, file_url, flat_settings, render, write_page

KINDS = {"pretrain": "Pretraining", "finetune": "Finetuning", "eval": "Evaluation"}
STATES = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped before its last step",
    "failed": "failed",
    "killed": "killed",
}
PARTS = {  # of a loss -> its title, and what it is
    "loss": ("Loss", "what is minimised"),
    "loss_reconstruction": ("Reconstruction", "of t0 from a frame with patches of t1 in it"),
    "loss_agent": ("Agent", "distance of the contextual token from its teacher"),
    "loss_motion": ("Motion", "error on pairs that were warped by a known motion"),
    "token_std": ("Spread of the token", "monitored, not minimised: near 0, it is the same for every face"),
    "accuracy": ("Training accuracy", "on the batch that is learned from: no score"),
}
_PACE = {
    "lr": ("Learning rate", "warm-up, then a cosine"),
    "grad_norm": ("Gradient norm", "before it is clipped"),
    "pairs_per_second": ("Pairs per second", "of all processes"),
    "data_wait_share": ("Waiting for data", "share of the time with nothing to do"),
    "memory_mb": ("GPU memory", "MB, the highest so far"),
}
_SHARES = ("accuracy", "data_wait_share")
_FILES = ("metrics.jsonl", "config.json", "status.json", "checkpoints", "pictures", "tensorboard")


def write_training_page(path: Path, run: TrainingFacts, *, folder: str = "") -> None:
    """Write the page of a training run, atomically. `folder` is the run's, relative to the page, or "" next to it."""
    parts = [name for name in run.series if name not in ("epoch", *_PACE)]
    losses = _charts(run, {name: PARTS.get(name, (name.replace("_", " ").capitalize(), "")) for name in parts})
    pace = _charts(run, _PACE)
    rates = run.series.get("pairs_per_second", np.empty(0))
    memory = run.series.get("memory_mb", np.empty(0))
    html = render(
        "training.html.j2",
        scripts=("charts.js",),
        run=run,
        kind=KINDS.get(run.kind, run.kind),
        state=STATES.get(run.state, run.state),
        losses=losses,
        pace=pace,
        pictures=[(picture.step, data_url("image/jpeg", picture.jpeg)) for picture in run.pictures],
        folder=file_url(f"{folder}pictures"),
        rate=number(float(np.nanmedian(rates))) if np.isfinite(rates).any() else None,
        memory=number(float(np.nanmax(memory))) if np.isfinite(memory).any() else None,
        number=lambda value: f"{value:,}",
        measures=list(dict.fromkeys(name for each in run.evaluations for name in each.scores))[:2],
        files=[(name, file_url(f"{folder}{name}")) for name in _FILES if name in run.files],
        settings=flat_settings(run.settings),
        data={name: _data(run, name, drawn) for name, _, _, drawn in (*losses, *pace)},
    )
    write_page(path, html)


def _charts(run: TrainingFacts, titles: dict[str, tuple[str, str]]) -> list[tuple[str, str, str, Chart]]:
    found = []
    for name, (title, hint) in titles.items():
        drawn = line_chart(run.at_steps, run.series[name], share=name in _SHARES) if name in run.series else None
        if drawn is not None:
            found.append((name, title, hint, drawn))
    return found


def _data(run: TrainingFacts, name: str, drawn: Chart) -> dict[str, object]:
    """For the readout: the last step of each bin and the mean of its values."""
    known = run.at_steps[np.isfinite(run.series[name])]
    return {"first": int(known[0]), "last": int(known[-1]), "steps": drawn.steps, "texts": drawn.told}
