"""The table of several runs: their states, their scores, and where their settings differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbert.manifests.runs import RunEntry
from mbert.reports.charts import number
from mbert.reports.page import flat_settings, render, sparkline, write_page
from mbert.reports.training_page import PARTS, STATES

_TITLES = {"eval": "Evaluations", "pretrain": "Pretraining", "finetune": "Finetuning", "": "Without a page"}
# Settings that do not affect what is learned or scored, or have their own column.
_UNTOLD = ("steps", "report_to", "save_every", "keep", "picture_every", "max_bad", "max_minutes")


def write_runs_page(path: Path, runs: Sequence[RunEntry], *, title: str) -> None:
    """Write the table of runs, atomically: grouped by kind, the latest first, including unreadable ones."""
    ordered = sorted(runs, key=lambda run: run.at, reverse=True)
    kinds = {kind: [run for run in ordered if run.kind == kind] for kind in ("eval", "pretrain", "finetune", "")}
    html = render(
        "runs.html.j2",
        scripts=("sort.js",),
        title=title,
        kinds=_TITLES,
        states={**STATES, "unreadable": "cannot be read"},
        groups=[
            {
                "kind": kind,
                "runs": members,
                "measures": _names(run.scores for run in members),
                "losses": {name: PARTS.get(name, (name,))[0] for name in _names(run.final for run in members)},
                "settings": _differing(members),
                "curves": {run.name: sparkline(run.losses, width=120, height=24) for run in members},
            }
            for kind, members in kinds.items()
            if members
        ],
        number=number,
    )
    write_page(path, html)


def _names(groups: Any) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _differing(runs: Sequence[RunEntry]) -> dict[str, dict[str, str]]:
    """The settings that differ between runs: name -> run -> value. Empty for a single run."""
    flat = {run.name: dict(flat_settings(run.settings)) for run in runs if run.settings}
    names = [name for name in _names(flat.values()) if name.rpartition(".")[2] not in _UNTOLD]
    found = {name: {run: settings.get(name, "") for run, settings in flat.items()} for name in names}
    return {name: values for name, values in found.items() if len(set(values.values())) > 1}
