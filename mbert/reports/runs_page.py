"""The table of several runs: how they stand, what they scored, and where their settings differ."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbert.manifests.runs import RunEntry
from mbert.reports.charts import number
from mbert.reports.page import flat_settings, render, sparkline, write_page
from mbert.reports.training_page import KINDS, PARTS, STATES

# That say nothing of what is learned or scored.
_UNTOLD = ("report_to", "save_every", "keep", "picture_every", "max_bad", "max_minutes")


def write_runs_page(path: Path, runs: Sequence[RunEntry], *, title: str) -> None:
    """Write the table of runs, atomically: trainings and evaluations apart, the latest first, unreadable ones too."""
    ordered = sorted(runs, key=lambda run: run.at, reverse=True)
    trainings = [run for run in ordered if run.kind != "eval"]
    evaluations = [run for run in ordered if run.kind == "eval"]
    html = render(
        "runs.html.j2",
        scripts=("sort.js",),
        title=title,
        kinds=KINDS,
        states={**STATES, "unreadable": "cannot be read"},
        trainings=trainings,
        evaluations=evaluations,
        losses=_names(run.final for run in trainings),
        loss_titles={name: PARTS.get(name, (name,))[0] for name in _names(run.final for run in trainings)},
        measures=_names(run.scores for run in evaluations),
        of_trainings=_differing(trainings),
        of_evaluations=_differing(evaluations),
        sparklines={run.name: sparkline(run.losses, width=120, height=24) for run in trainings},
        number=number,
    )
    write_page(path, html)


def _names(groups: Any) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _differing(runs: Sequence[RunEntry]) -> dict[str, dict[str, str]]:
    """The settings that are not the same in all runs: name -> run -> value. Of one run none differ."""
    flat = {run.name: dict(flat_settings(run.settings)) for run in runs if run.settings}
    names = [name for name in _names(flat.values()) if name.rpartition(".")[2] not in _UNTOLD]
    found = {name: {run: settings.get(name, "") for run, settings in flat.items()} for name in names}
    return {name: values for name, values in found.items() if len(set(values.values())) > 1}
