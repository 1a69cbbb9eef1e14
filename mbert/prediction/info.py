"""`mbert info`: what is in a workspace, its runs, and what to do next."""

import contextlib
import dataclasses
import shlex

from mbert import ManifestError, __version__
from mbert.manifests.corpus_tables import CorpusTables
from mbert.manifests.distributions import frame_distributions
from mbert.manifests.files import read_json
from mbert.manifests.overview import OVERVIEW_COLUMNS, Overview, overview
from mbert.manifests.workspace import Workspace

DEFAULT = "workspace"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """One training or evaluation run."""

    name: str
    kind: str  # pretrain, finetune or eval
    state: str  # as in `mbert runs`; finished for an evaluation
    step: int | None
    steps: int | None
    loss: float | None  # of the last step
    uf1: float | None  # of the model, over all samples of an evaluation


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceInfo:
    """A workspace at a glance."""

    mbert: str  # version that did the counting
    overview: Overview
    runs: tuple[RunInfo, ...]  # the latest training run first, then the evaluations
    next: str  # what to do next


def run_info(workspace: Workspace) -> WorkspaceInfo:
    """Summarize a workspace, even an empty or unfinished one. See `mbert.api.info`."""
    if not workspace.root.is_dir():
        raise ManifestError(
            f"there is no workspace in {workspace.root}: run `mbert ingest FOLDER` first, or name another one"
        )
    tables = CorpusTables(workspace)
    found = overview(workspace, tables, frame_distributions(tables, OVERVIEW_COLUMNS))
    runs = (*_trainings(workspace), *_evaluations(workspace))
    return WorkspaceInfo(mbert=__version__, overview=found, runs=runs, next=_next(workspace, found, runs))


def _trainings(workspace: Workspace) -> list[RunInfo]:
    if not any(workspace.runs.glob("*/status.json")):
        return []  # avoids loading PyTorch, which takes seconds
    from mbert.model.training.runs import list_runs

    return [
        RunInfo(name=row.name, kind=row.kind, state=row.state, step=row.step, steps=row.steps, loss=row.loss, uf1=None)
        for row in list_runs(workspace.runs)
    ]


def _evaluations(workspace: Workspace) -> list[RunInfo]:
    found = []
    for path in sorted(workspace.runs.glob("*/results.json")):
        with contextlib.suppress(ManifestError, KeyError, TypeError):  # from another program
            scores = read_json(path)["methods"]["mbert"]["scores"]
            found.append(
                RunInfo(
                    name=path.parent.name,
                    kind="eval",
                    state="finished",
                    step=None,
                    steps=None,
                    loss=None,
                    uf1=scores.get("uf1"),
                )
            )
    return found


def _next(workspace: Workspace, found: Overview, runs: tuple[RunInfo, ...]) -> str:
    """The first missing step."""
    kinds = {run.kind for run in runs}
    place = "" if str(workspace.root) == DEFAULT else f" --workspace {shlex.quote(str(workspace.root))}"
    if workspace.forgetting.exists():
        return "`mbert forget` was stopped: run it again, with the same options"
    if not found.statuses:
        return f"mbert ingest FOLDER{place}"
    if found.statuses.get("pending"):
        return "run the same `mbert ingest` again, it is not done"
    if found.missing_tars:
        return f"mbert verify{place}"
    if not found.num_clips:
        return "fix the inputs, then run the same `mbert ingest` with --retry-failed; `mbert preview` shows them"
    if found.pairs is None:
        return f"mbert shard --pairs{place}"
    latest = next((run for run in runs if run.kind != "eval"), None)
    if latest and latest.state in ("stopped", "killed", "failed"):
        return f"run the same `mbert train {latest.kind}` again: {latest.name} is not finished, it resumes"
    if "pretrain" not in kinds:
        return f"mbert train pretrain{place}"
    if "eval" not in kinds and any(each.usable for each in found.labels.values()):
        return f"mbert eval --protocol loso{place}"
    if workspace.preview.exists():
        return f"mbert report{place}"
    return "mbert preview" + ("" if str(workspace.root) == DEFAULT else f" {shlex.quote(str(workspace.root))}")
