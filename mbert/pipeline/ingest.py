"""`mbert ingest`: raw videos and frame folders -> a corpus of aligned crops with manifests.

The plan (which input gets which tar) is in `videos.parquet` before the first task starts, so a killed run resumes with
the same plan and ends with the same bytes. `videos.parquet` and `clips.parquet` are gathered from the twins of the
tars; labels are joined then, so they may change without decoding again. An input is only ingested again if its clips
cut through a label.
"""

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mbert.manifests.files import exclusive, naming_write_faults
from mbert.manifests.labels.changes import label_changes
from mbert.manifests.labels.errata import Errata, apply_errata
from mbert.manifests.labels.table import checked
from mbert.manifests.tombstones import check_forgotten
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.provenance import with_provenance
from mbert.pipeline.corpora.registry import AUTO, list_corpus
from mbert.pipeline.ingest_config import checked_config, write_config
from mbert.pipeline.ingest_corpus import Corpus
from mbert.pipeline.ingest_input import ingest_input, lost_outcome, seconds_from_header
from mbert.pipeline.ingest_options import IngestOptions, IngestTask
from mbert.pipeline.ingest_summary import Going, IngestEstimate, IngestPlan, IngestSummary, Outcome
from mbert.pipeline.roots import read_roots
from mbert.pipeline.video.source import Distribution, Listing
from mbert.shards.engine import IN_PROCESS, Engine, run_tasks

_TRIED_INPUTS = 3
_TRIED_FRAMES = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CorpusChoice:
    """Which dataset is in a folder, and how its annotation is read; see `list_corpus`."""

    dataset: str = AUTO
    name: str | None = None  # prefix of all ids of one's own videos
    labels_path: Path | None = None
    distribution: Distribution = "auto"
    errata: Errata = "default"

    def list(self, path: Path) -> Listing:
        """The inputs under a folder and their labels, corrected and checked."""
        listing = list_corpus(
            path,
            dataset=self.dataset,
            name=self.name,
            labels_path=self.labels_path,
            distribution=self.distribution,
        )
        labels = tuple(checked(label) for label in apply_errata(listing.labels, self.errata))
        return with_provenance(dataclasses.replace(listing, labels=labels))


def run_ingest(
    path: Path,
    workspace: Workspace,
    options: IngestOptions,
    *,
    engine: Engine = IN_PROCESS,
    limit: int | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    redo: bool = True,
    choice: CorpusChoice = CorpusChoice(),
    on_plan: Callable[[IngestPlan], None] = lambda plan: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    on_going: Callable[[Going], None] = lambda going: None,
) -> IngestSummary:
    """Ingest every input under `path` that the corpus does not have yet, or (`retry_failed`) only those that failed.

    With `redo`, an input whose clips cut through a newer label is ingested again.
    Raises ConfigError, before any work, for a path without inputs or options that differ from those of the corpus, and
    ManifestError for a label file that cannot be read or a corpus that another process is using.
    """
    began = time.monotonic()
    listing = choice.list(path)
    options.check()
    with exclusive(workspace.corpus):
        check_forgotten(workspace)
        config = checked_config(workspace, listing, options, overwrite=overwrite)
        if overwrite and not config:
            _remove_corpus(workspace)
        corpus = Corpus(workspace, listing, read_roots(config), again=overwrite)
        write_config(workspace, corpus.placed, options, choice.errata, config)
        redone = corpus.plan(limit, retry_failed=retry_failed, redo=redo)
        corpus.write()
        tasks = corpus.tasks(options, engine)
        plan = _plan(corpus, tasks, redone)
        on_plan(plan)
        num_frames = 0
        try:
            for outcome in run_tasks(ingest_input, tasks, engine, on_lost=lost_outcome, on_note=on_going):
                corpus.accept(outcome)
                num_frames += outcome.video.num_frames or 0
                on_outcome(outcome)
        finally:  # also on Ctrl-C: finished work is in the manifests
            corpus.write()
        corpus.remove_replaced()
    return IngestSummary(
        statuses=dict(Counter(row.status for row in corpus.videos.values())),
        num_new=len(tasks),
        num_clips=sum(len(group) for group in corpus.clips.values()),
        num_crops=sum(row.num_crops for row in corpus.videos.values()),
        num_frames_decoded=num_frames,
        seconds=time.monotonic() - began,
        num_labels=len(corpus.labels),
        num_labels_in_clips=sum(label.clip_id is not None for label in corpus.labels),
        label_remarks=sum(label.remark is not None for label in corpus.labels),
        label_changes=label_changes(corpus.labels_before, corpus.labels),
        redone=redone,
        forgotten=tuple(source.path for source in corpus.forgotten),
        changed=corpus.changed(),
        vanished=corpus.vanished(),
        ignored=listing.ignored,
        failures={row.path: row.reason or row.status for row in corpus.rows() if row.status not in ("ok", "pending")},
        remarks={row.path: row.reason for row in corpus.rows() if row.status == "ok" and row.reason},
        notes=plan.notes,
        labels_path=", ".join(str(file) for file in listing.annotations),
        corpus=str(workspace.corpus),
    )


def estimate_ingest(
    path: Path,
    workspace: Workspace,
    options: IngestOptions,
    *,
    engine: Engine = IN_PROCESS,
    limit: int | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    redo: bool = True,
    choice: CorpusChoice = CorpusChoice(),
) -> IngestEstimate:
    """What `run_ingest` would do with the same arguments; writes nothing in the workspace. Raises the same errors."""
    listing = choice.list(path)
    options.check()
    config = checked_config(workspace, listing, options, overwrite=overwrite)
    there = workspace if config else Workspace(workspace.root / "nowhere")
    corpus = Corpus(there, listing, read_roots(config), again=overwrite)
    redone = corpus.plan(limit, retry_failed=retry_failed, redo=redo)
    tasks = corpus.tasks(options, engine)
    plan = _plan(corpus, tasks, redone)
    seconds = num_bytes = 0.0
    tried: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, index in enumerate(np.linspace(0, len(tasks) - 1, min(len(tasks), _TRIED_INPUTS)).astype(int)):
            task = dataclasses.replace(tasks[index], frames_folder=Path(folder), max_frames=_TRIED_FRAMES)
            if number == 0:
                ingest_input(task)  # opens the landmarker
            began = time.monotonic()
            row = ingest_input(task).video
            took = time.monotonic() - began
            share = 1.0
            if row.num_frames == _TRIED_FRAMES and row.seconds:
                share = min(1.0, row.seconds / (seconds_from_header(task) or row.seconds))
            tried[row.path] = row.reason or f"{(row.num_frames or 0) / took:.0f} frames/s"
            seconds += took / share
            num_bytes += row.num_bytes + 1
    in_all = (plan.num_bytes + len(tasks)) * seconds / num_bytes if num_bytes else None
    return IngestEstimate(
        num_inputs=plan.num_inputs,
        num_to_do=plan.num_to_do,
        num_bytes=plan.num_bytes,
        redone=redone,
        workers=max(engine.workers, 1),
        seconds=in_all and in_all / min(max(engine.workers, 1), len(tasks)),
        tried=tried,
        corpus=str(workspace.corpus),
    )


def _plan(corpus: Corpus, tasks: list[IngestTask], redone: tuple[str, ...]) -> IngestPlan:
    listing = corpus.placed.listing
    return IngestPlan(
        num_inputs=len(listing.sources),
        num_to_do=len(tasks),
        num_bytes=sum(task.source.num_bytes for task in tasks),
        redone=redone,
        notes=(*listing.notes, *listing.table_notes, *corpus.notes),
    )


def _remove_corpus(workspace: Workspace) -> None:
    """Delete only what an ingest wrote."""
    ours = [workspace.videos, workspace.clips, workspace.labels, workspace.corpus_config, workspace.preview]
    crops = [*workspace.frames.glob("*.parquet"), *workspace.frames.glob("*.tar")]
    for file in [*ours, *crops, *workspace.signatures.glob("*.npz")]:
        with naming_write_faults(file):
            file.unlink(missing_ok=True)
