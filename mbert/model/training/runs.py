"""A run's folder: started or resumed, locked while in use, and listed."""

import contextlib
import dataclasses
import datetime
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from mbert import ConfigError, ManifestError, ModelError, __version__
from mbert.manifests.files import describe_differences, exclusive, is_locked, read_json, write_json
from mbert.model.device import Processes
from mbert.model.training.checkpoint import LAST, Progress, read_progress
from mbert.model.training.loop import Job, Loader, LoopPlan, code_revision, train
from mbert.model.training.run_log import STATUS, StepReport, logging_run, read_reports, write_status

_CONFIG = "config.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One run, as `mbert runs` lists it."""

    name: str
    kind: str  # pretrain or finetune
    state: str  # running, finished, stopped, failed; killed: it stopped without reporting it
    step: int
    steps: int
    loss: float | None  # of the last step
    at: str  # time of its last report, ISO 8601
    reason: str
    checkpoint: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """The progress of a run."""

    progress: Progress | None  # None: at the beginning
    steps: int  # of the run, as it was started


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a run, or this part of it, ended."""

    stopped: str  # why it stopped before its last step, or ""
    first: StepReport  # of the run
    recent: list[StepReport]  # the last ones


def settle_run(
    run: Path, kind: str, plan: LoopPlan, about: dict[str, Any], *, overwrite: bool, force: bool, resume: bool
) -> Standing:
    """Start a run folder, or check that its run can be resumed. Returns its progress.

    Fewer steps than the run has do not make another run: it stops after them, and its schedule stays. `about` is added
    to config.json along with what all plans have. Raises ConfigError, with the differences, if the folder holds a run
    of another identity; `force` resumes it nevertheless and records them in config.json. With `resume`, also raises it
    if there is nothing to resume.
    """
    path, identity = run / _CONFIG, plan.identity()
    if overwrite:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    progress = read_progress(run)
    steps = plan.steps
    forced: list[dict[str, Any]] = []
    if progress is not None:
        before = read_json(path)
        if before["identity"]["steps"] > plan.steps:
            steps = before["identity"]["steps"]
            identity = {**identity, "steps": steps}
        forced = before.get("forced", [])
        if differences := describe_differences(before["identity"], identity, "run"):
            if not force:
                raise ConfigError(
                    f"{run} holds a run of another configuration ({differences}): use the same options, another --out, "
                    "--overwrite to start again, or --force to resume with these from here"
                )
            forced = [*forced, {"step": progress.step, "differences": differences}]
    elif resume:
        raise ConfigError(f"--resume: there is no run with a checkpoint in {run}; start one without --resume")
    write_json(path, {"kind": kind, "identity": identity, "forced": forced, **about, **_told_plan(plan)})
    return Standing(progress, steps)


Plan = TypeVar("Plan", bound=LoopPlan)


def resumed(plan: Plan, standing: Standing) -> Plan:
    """The plan of the rest of the run."""
    done = standing.progress.step if standing.progress is not None else 0
    if standing.steps == plan.steps:
        return dataclasses.replace(plan, done_before=done)
    note = (
        f"this run has {standing.steps} steps, {plan.steps} are requested: it stops after step {max(done, plan.steps)}"
    )
    return dataclasses.replace(
        plan, steps=standing.steps, stop_after=max(done, plan.steps), done_before=done, notes=(*plan.notes, note)
    )


def _told_plan(plan: LoopPlan) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(plan.config),
        "device": str(plan.compute.device),
        "precision": plan.compute.precision,
        "processes": plan.world,
        "num_pairs": plan.num_pairs,
        "versions": {"mbert": __version__, "torch": torch.__version__, "revision": code_revision()},
    }


def train_and_report(
    job: Job,
    loader: Loader,
    run: Path,
    plan: LoopPlan,
    processes: Processes,
    on_step: Callable[[StepReport], None],
    *,
    num_recent: int,
) -> Ended:
    """Run the loop; the first process writes log and status. All processes get the outcome."""
    stopped = (
        _train_first(job, loader, run, plan, processes, on_step)
        if processes.is_first
        else train(job, loader, run, plan, processes, None, lambda report: None)
    )
    # Other processes do not read the log: it may not be written yet, or not visible yet on another node.
    first, *recent = processes.on_first(lambda: _first_and_recent(read_reports(run), num_recent))
    return Ended(stopped, first, recent)


def _train_first(
    job: Job,
    loader: Loader,
    run: Path,
    plan: LoopPlan,
    processes: Processes,
    on_step: Callable[[StepReport], None],
) -> str:
    config = dataclasses.asdict(plan.config)
    with (
        _telling_exceptions(run),
        logging_run(run, done=plan.done_before, report_to=plan.config.report_to, config=config) as log,
    ):
        stopped = train(job, loader, run, plan, processes, log, on_step)
    write_status(run, "stopped" if stopped else "finished", stopped)
    return stopped


def _first_and_recent(reports: list[StepReport], num_recent: int) -> list[StepReport]:
    return [reports[0], *reports[-num_recent:]]


@contextlib.contextmanager
def holding(run: Path, processes: Processes) -> Iterator[None]:
    """Lock a run's folder; raises ManifestError if another command is using it."""
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: stack.enter_context(exclusive(run)))
        yield


@contextlib.contextmanager
def _telling_exceptions(run: Path) -> Iterator[None]:
    write_status(run, "running")
    try:
        yield
    except KeyboardInterrupt:
        write_status(run, "stopped", "Ctrl-C")
        raise
    except BaseException as exc:
        with contextlib.suppress(Exception):  # a full disk may be the reason
            write_status(run, "failed", str(exc) or type(exc).__name__)
        raise


def list_runs(folder: Path) -> list[RunRow]:
    """The runs below a folder, the latest first; other folders are skipped."""
    found = []
    for path in sorted(folder.glob(f"*/{_CONFIG}")):
        with contextlib.suppress(ManifestError, ModelError):
            found.append(read_run(path.parent))
    return sorted(found, key=lambda row: row.at, reverse=True)


def read_run(run: Path, reports: Sequence[StepReport] | None = None) -> RunRow:
    """The state of a run; pass `reports` if they were read already.

    Raises ManifestError or ModelError naming the file that cannot be read.
    """
    config, status, progress = read_json(run / _CONFIG), read_json(run / STATUS), read_progress(run)
    reports = read_reports(run) if reports is None else reports
    is_at_work = is_locked(run)
    changed = max(path.stat().st_mtime for path in (run / STATUS, run / "metrics.jsonl") if path.exists())
    try:
        return RunRow(
            name=run.name,
            kind=config["kind"],
            state="killed" if status["state"] == "running" and not is_at_work else status["state"],
            step=max(progress.step if progress else 0, reports[-1].step if reports and is_at_work else 0),
            steps=config["identity"]["steps"],
            loss=reports[-1].loss if reports else None,
            at=datetime.datetime.fromtimestamp(changed, datetime.UTC).isoformat(timespec="seconds"),
            reason=status["reason"],
            checkpoint=str(run / "checkpoints" / LAST) if progress else None,
        )
    except (KeyError, TypeError) as exc:
        raise ManifestError(f"{run / _CONFIG} or {STATUS} is not of a run of this version of mbert ({exc!r})") from exc
