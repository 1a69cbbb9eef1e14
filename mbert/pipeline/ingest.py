"""`mbert ingest`: raw videos and frame folders -> a corpus of aligned crops with manifests.

The plan (which input gets which tar) is in `videos.parquet` before the first task starts, so a killed run goes on with
the same plan and ends with the same bytes. `videos.parquet` and `clips.parquet` are gathered from the twins of the
tars; labels are joined then, so they may change without decoding again.
"""

import dataclasses
import importlib.metadata
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mbert import ConfigError, __version__
from mbert.manifests.labels import LABELS_NAME, Label, join_labels, labels_by_path, read_labels
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, VideoRow, video_key
from mbert.manifests.store import (
    exclusive,
    read_json,
    read_rows,
    tell_differences,
    write_json,
    write_rows,
)
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.videos import DATASET, Listing, list_sources, natural_order
from mbert.pipeline.engine import run_tasks
from mbert.pipeline.ingest_input import IngestOptions, IngestTask, Outcome, committed_outcome, ingest_input
from mbert.shards.image import JPEG_QUALITY, JPEG_SUBSAMPLING


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestPlan:
    """What a run is going to do; handed to the caller before it starts."""

    num_inputs: int
    num_done_before: int
    num_bytes: int  # of the inputs that are still to do
    num_to_do: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestSummary:
    """The state of the corpus after a run, and what this run did."""

    statuses: dict[str, int]  # inputs by status, all runs
    num_new: int  # inputs done by this run
    num_clips: int
    num_crops: int
    num_frames_decoded: int  # by this run
    seconds: float  # wall time of this run
    num_labelled_clips: int
    label_remarks: int
    changed: tuple[str, ...]  # inputs whose file is not the one that was ingested
    ignored: tuple[str, ...]  # files that are no inputs
    failures: dict[str, str]  # path -> reason
    labels_path: str
    corpus: str


def run_ingest(
    path: Path,
    workspace: Workspace,
    options: IngestOptions,
    *,
    workers: int = 1,
    limit: int | None = None,
    overwrite: bool = False,
    labels_path: Path | None = None,
    on_plan: Callable[[IngestPlan], None] = lambda plan: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> IngestSummary:
    """Ingest every input under `path` that the corpus does not have yet.

    Raises ConfigError, before any work, for a path without inputs or options that differ from those of the corpus, and
    ManifestError for a label file that cannot be read or a corpus that another process works on.
    """
    began = time.monotonic()
    listing = list_sources(path)
    labels_path = labels_path or listing.root / LABELS_NAME
    labels = labels_by_path(read_labels(labels_path)) if labels_path.exists() else {}
    with exclusive(workspace.corpus):
        if overwrite:
            _remove_corpus(workspace)
        _settle_config(workspace, listing.root, options)
        corpus = _Corpus(workspace, listing, labels)
        corpus.plan(limit)
        corpus.write()
        tasks = corpus.tasks(options, workers=workers)
        on_plan(
            IngestPlan(
                num_inputs=len(listing.sources),
                num_done_before=len(listing.sources) - len(tasks),
                num_bytes=sum(task.source.num_bytes for task in tasks),
                num_to_do=len(tasks),
            )
        )
        num_frames = 0
        try:
            for outcome in run_tasks(ingest_input, tasks, workers=workers):
                corpus.accept(outcome)
                num_frames += outcome.video.num_frames or 0
                on_outcome(outcome)
        finally:  # also on Ctrl-C: what is done is in the manifests
            corpus.write()
    return IngestSummary(
        statuses=dict(Counter(row.status for row in corpus.videos.values())),
        num_new=len(tasks),
        num_clips=sum(len(group) for group in corpus.clips.values()),
        num_crops=sum(row.num_crops for row in corpus.videos.values()),
        num_frames_decoded=num_frames,
        seconds=time.monotonic() - began,
        num_labelled_clips=sum(clip.emotion is not None for group in corpus.clips.values() for clip in group),
        label_remarks=sum("label line" in (row.reason or "") for row in corpus.videos.values()),
        changed=corpus.changed(),
        ignored=listing.ignored,
        failures={row.path: row.reason or row.status for row in corpus.rows() if row.status not in ("ok", "pending")},
        labels_path=str(labels_path) if labels_path.exists() else "",
        corpus=str(workspace.corpus),
    )


def _settle_config(workspace: Workspace, root: Path, options: IngestOptions) -> None:
    """Write config.json; raises ConfigError when the corpus was begun with other options."""
    wanted = dataclasses.asdict(options)
    names = ("av", "mediapipe", "numpy", "opencv-contrib-python", "simplejpeg")
    versions = [{"mbert": __version__, **{name: importlib.metadata.version(name) for name in names}}]
    if workspace.corpus_config.exists():
        found = read_json(workspace.corpus_config)
        versions = [*found["versions"], *([] if versions[0] in found["versions"] else versions)]
        if differences := tell_differences(found["options"], wanted, "corpus"):
            raise ConfigError(
                f"the corpus in {workspace.corpus} was made otherwise ({differences}): "
                "use the same options, another --workspace, or --overwrite to make it anew"
            )
    write_json(
        workspace.corpus_config,
        {
            "root": str(root),  # of the latest ingest
            "options": wanted,
            "schema": SCHEMA_VERSION,
            "dataset": DATASET,
            "jpeg": {"quality": JPEG_QUALITY, "subsampling": JPEG_SUBSAMPLING},
            "versions": versions,  # of every ingest that added to the corpus, where they differ
        },
    )


def _remove_corpus(workspace: Workspace) -> None:
    """Delete what an ingest wrote, and nothing else."""
    ours = [workspace.videos, workspace.clips, workspace.corpus_config]
    for file in [*ours, *workspace.frames.glob("*.parquet"), *workspace.frames.glob("*.tar")]:
        file.unlink(missing_ok=True)


class _Corpus:
    """The rows of a corpus while a run adds to it."""

    def __init__(self, workspace: Workspace, listing: Listing, labels: dict[str, list[Label]]) -> None:
        self._workspace = workspace
        self._labels = labels
        self._sources = {source.video_id: source for source in listing.sources}
        self.videos: dict[str, VideoRow] = {row.video_id: row for row in _read_if_there(workspace.videos, VideoRow)}
        self.clips: dict[str, list[ClipRow]] = {}
        for clip in _read_if_there(workspace.clips, ClipRow):
            self.clips.setdefault(clip.video_id, []).append(clip)

    def plan(self, limit: int | None) -> None:
        """Add a pending row with its own tar for each new input, and a row for each label without an input."""
        taken = [int(row.shard) for row in self.videos.values() if row.shard is not None]
        number = max(taken, default=-1) + 1
        known = {key for key, row in self.videos.items() if row.status != "missing"}
        new = [source for key, source in self._sources.items() if key not in known]
        for source in new[:limit]:
            self.videos[source.video_id] = VideoRow(
                video_id=source.video_id,
                dataset=source.dataset,
                path=source.path,
                kind=source.kind,
                status="pending",
                shard=f"{number:06d}",
                num_bytes=source.num_bytes,
                mtime_ns=source.mtime_ns,
            )
            number += 1
        for path, group in self._labels.items():
            key = video_key(DATASET, path)
            if key not in self._sources and key not in self.videos:
                lines = ", ".join(str(label.line) for label in group)
                reason = f"label line {lines} names it, but there is no such file or folder"
                self.videos[key] = VideoRow(
                    video_id=key, dataset=DATASET, path=path, kind="video", status="missing", reason=reason
                )

    def tasks(self, options: IngestOptions, *, workers: int) -> list[IngestTask]:
        """The planned inputs that no earlier run has finished, in the order of their tars."""
        pending = [row for row in self.videos.values() if row.status == "pending" and row.video_id in self._sources]
        tasks = []
        for row in sorted(pending, key=lambda row: row.shard or ""):
            outcome = committed_outcome(self._workspace.frames, row)  # a killed run may have got so far
            if outcome is not None:
                self.accept(outcome)
                continue
            tasks.append(
                IngestTask(
                    source=self._sources[row.video_id],
                    shard=row.shard or "",
                    frames_folder=self._workspace.frames,
                    options=options,
                    labels=tuple(self._labels.get(row.path, ())),
                )
            )
        # One input alone may have all cores for decoding; else each process keeps to its own.
        num_threads = max(1, workers // max(1, len(tasks)))
        return [dataclasses.replace(task, num_threads=num_threads) for task in tasks]

    def accept(self, outcome: Outcome) -> None:
        """Take in what became of an input."""
        self.videos[outcome.video.video_id] = outcome.video
        self.clips[outcome.video.video_id] = list(outcome.clips)

    def rows(self) -> list[VideoRow]:
        """Every input in reading order."""
        return sorted(self.videos.values(), key=lambda row: natural_order(row.path))

    def write(self) -> None:
        """Join the labels as they are now, then write `clips.parquet` and `videos.parquet`.

        Only inputs of the folder at hand are joined: its label file says nothing about the others.
        """
        for key in self._sources.keys() & self.videos.keys():
            row = self.videos[key]
            if row.status == "ok":
                bare = [_without_labels(clip) for clip in self.clips.get(key, ())]
                self.clips[key], remarks = join_labels(bare, self._labels.get(row.path, ()))
                kept = [part for part in (row.reason or "").split("; ") if part and not part.startswith("label line")]
                self.videos[key] = dataclasses.replace(row, reason="; ".join([*kept, *remarks]) or None)
        rows = self.rows()
        write_rows(self._workspace.clips, ClipRow, [clip for row in rows for clip in self.clips.get(row.video_id, ())])
        write_rows(self._workspace.videos, VideoRow, rows)

    def changed(self) -> tuple[str, ...]:
        """Inputs of the folder at hand whose file is no longer the one that was ingested."""
        return tuple(
            source.path
            for key, source in self._sources.items()
            if (row := self.videos.get(key)) and (row.num_bytes, row.mtime_ns) != (source.num_bytes, source.mtime_ns)
        )


def _read_if_there(path: Path, row_type: type[Any]) -> list[Any]:
    return read_rows(path, row_type) if path.exists() else []


def _without_labels(clip: ClipRow) -> ClipRow:
    return dataclasses.replace(clip, subject=None, onset=None, apex=None, offset=None, emotion=None, action_units=None)
