"""`mbert report`: gathers the results of runs with `mbert.model` and turns them into pages with `mbert.reports`."""

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from mbert import ConfigError, MbertError
from mbert.manifests.runs import REPORT, EvaluationFacts, RunEntry, RunLink, TrainingFacts
from mbert.model.scoring import run_facts as evaluated
from mbert.model.training import run_facts as trained
from mbert.reports.evaluation_page import write_evaluation_page
from mbert.reports.runs_page import write_runs_page
from mbert.reports.training_page import write_training_page

_TRAINING, _EVALUATION = "metrics.jsonl", evaluated.RESULTS
_UNFINISHED = "features"  # left by an evaluation without results


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReportedRun:
    """One run of a report."""

    run: str
    kind: str  # pretrain, finetune, eval; "" if unreadable
    state: str
    page: str | None  # None if there is none
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReportSummary:
    """What `mbert report` wrote."""

    page: str  # to open: the run's page, or the table of runs
    runs: tuple[ReportedRun, ...]
    num_failed: int  # unreadable
    seconds: float


def run_report(
    wanted: Sequence[Path], folder: Path, *, out: Path | None, on_run: Callable[[str, int, int], None]
) -> ReportSummary:
    """Write the page of one run, or a page for each of several and a table of them.

    `wanted` are runs, folders of runs, or names of runs in `folder`; if empty, all of `folder`. With several runs, one
    that cannot be read becomes a row with a reason. Raises ConfigError if something is not a run, MbertError for a
    single run that cannot be read.
    """
    began = time.monotonic()
    runs = list(dict.fromkeys(run for each in wanted or [folder] for run in _runs_in(each, folder)))
    if len(runs) == 1 and wanted and not _is_folder_of_runs(wanted[0]):
        page = _page_at(out, runs[0])
        on_run(runs[0].name, 0, 1)
        gathered = _gather(runs[0])
        assert gathered.facts is not None
        _write(gathered.facts, runs[0], page)
        on_run(runs[0].name, 1, 1)
        return _summary(page, [gathered], [page], began)
    parents = {run.parent for run in runs}
    home = parents.pop() if len(parents) == 1 else Path(os.path.commonpath([run.resolve().parent for run in runs]))
    page = _page_at(out, home)
    found: list[_Found] = []
    for number, run in enumerate(runs):
        on_run(run.name, number, len(runs))
        name = Path(os.path.relpath(run.resolve(), home.resolve())).as_posix()
        try:
            gathered = _gather(run)
            link = _relative(run / REPORT, page)
            found.append(_Found(run, dataclasses.replace(gathered.entry, name=name, page=link), gathered.facts))
        except MbertError as exc:
            entry = RunEntry(name=name, kind="", state="unreadable", at="", reason=str(exc))
            found.append(_Found(run, entry, None))
    reported = {each.run.resolve() for each in found if each.facts is not None}
    for each in found:
        if each.facts is not None:
            _write(each.facts, each.run, each.run / REPORT, reported)
    on_run(runs[-1].name, len(runs), len(runs))
    write_runs_page(page, [each.entry for each in found], title=f"Runs in {'/'.join(home.resolve().parts[-2:])}")
    pages = [None if each.facts is None else each.run / REPORT for each in found]
    return _summary(page, found, pages, began)


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """What was gathered about a run."""

    run: Path
    entry: RunEntry
    facts: TrainingFacts | EvaluationFacts | None  # None if unreadable


def _gather(run: Path) -> _Found:
    """Raises MbertError naming the file that cannot be read."""
    if _kind(run) != "eval":
        facts = dataclasses.replace(trained.read_training(run), evaluations=tuple(evaluated.evaluations_of(run)))
        return _Found(run, trained.read_entry(run), facts)
    if not (run / _EVALUATION).exists():
        raise MbertError(f"the evaluation in {run} has not finished: run the same `mbert eval` again to resume it")
    return _Found(run, evaluated.read_entry(run), evaluated.read_evaluation(run))


def _write(facts: TrainingFacts | EvaluationFacts, run: Path, page: Path, reported: Collection[Path] = ()) -> None:
    """Write the page of a run, linking to runs that have a page or get one now."""

    def linked(link: RunLink) -> RunLink:
        target = Path(link.run) / REPORT
        has_page = bool(link.run) and (Path(link.run).resolve() in reported or target.exists())
        return dataclasses.replace(link, page=_relative(target, page)) if has_page else link

    folder = os.path.relpath(run.resolve(), page.resolve().parent).replace(os.sep, "/")
    folder = "" if folder == "." else f"{folder}/"
    if isinstance(facts, EvaluationFacts):
        facts = dataclasses.replace(facts, checkpoint=linked(facts.checkpoint))
        return write_evaluation_page(page, facts, folder=folder)
    start = None if facts.start is None else linked(facts.start)
    facts = dataclasses.replace(facts, start=start, evaluations=tuple(map(linked, facts.evaluations)))
    return write_training_page(page, facts, folder=folder)


def page_at_end(run: Path) -> str | None:
    """Write the page of a run that has just ended; None if that failed: the run itself is complete.

    The page of the run whose model an evaluation scored is updated, too.
    """
    try:
        done = [run]
        if _kind(run) == "eval":
            scored = evaluated.scored_model(run).run
            done += [Path(scored)] if scored and (Path(scored) / REPORT).exists() else []
        for each in done:
            if (facts := _gather(each).facts) is not None:
                _write(facts, each, each / REPORT)
    except (MbertError, OSError):
        return None
    return str(run / REPORT)


def _runs_in(where: Path, folder: Path) -> list[Path]:
    """The given run, or all runs in a folder. Raises ConfigError if there is none."""
    path = where if where.exists() or where.is_absolute() else folder / where
    if _kind(path):
        return [path]
    found = _inside(path)
    if found:
        return found
    if folder in (where, path):
        raise ConfigError(f"there are no runs in {folder}: `mbert train pretrain` or `mbert eval` makes one")
    known = ", ".join(run.name for run in _inside(folder))
    runs = f"runs in {folder} are {known}" if known else f"there are no runs in {folder}"
    raise ConfigError(f"{where} is not a run or a folder of runs: {runs}; give one of them, or the path of another")


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and _kind(path))


def _is_folder_of_runs(where: Path) -> bool:
    return where.exists() and not _kind(where)


def _kind(run: Path) -> str:
    """The kind of run in a folder, "" if there is none; of two, the one written last."""
    files = {"eval": run / _EVALUATION, "train": run / _TRAINING}
    there = {kind: file.stat().st_mtime for kind, file in files.items() if file.exists()}
    if there:
        return max(there, key=lambda kind: there[kind])
    if (run / _UNFINISHED).is_dir():
        return "eval"
    return "train" if (run / "config.json").exists() and (run / "status.json").exists() else ""


def _page_at(out: Path | None, folder: Path) -> Path:
    if out is None:
        return folder / REPORT
    return out if out.suffix.lower() in (".html", ".htm") else out / REPORT


def _relative(target: Path, page: Path) -> str:
    return os.path.relpath(target.resolve(), page.resolve().parent).replace(os.sep, "/")


def _summary(page: Path, found: Sequence[_Found], pages: Sequence[Path | None], began: float) -> ReportSummary:
    rows = [
        ReportedRun(
            run=str(each.run),
            kind=each.entry.kind,
            state=each.entry.state,
            page=None if written is None else str(written),
            reason=each.entry.reason,
        )
        for each, written in zip(found, pages, strict=True)
    ]
    return ReportSummary(
        page=str(page),
        runs=tuple(rows),
        num_failed=sum(row.page is None for row in rows),
        seconds=time.monotonic() - began,
    )
