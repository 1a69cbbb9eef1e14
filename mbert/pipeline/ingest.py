"""`mbert ingest`: raw videos and frame folders -> a corpus of aligned crops with manifests.

The plan (which input gets which tar) is in `videos.parquet` before the first task starts, so a killed run resumes with
the same plan and ends with the same bytes. `videos.parquet` and `clips.parquet` are gathered from the twins of the
tars; labels are joined then, so they may change without decoding again. Only a label that the clips cut through makes
its input be ingested again.
"""

import dataclasses
import importlib.metadata
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mbert import ConfigError, ManifestError, __version__
from mbert.manifests.files import exclusive, naming_write_faults, read_json, tell_differences, write_json
from mbert.manifests.labels.changes import LabelChanges, label_changes
from mbert.manifests.labels.errata import ERRATA_VERSION, Errata, apply_errata
from mbert.manifests.labels.provenance import Provenance
from mbert.manifests.labels.table import Label, checked, is_cut, join_labels, label_row, labels_by_input, told_absent
from mbert.manifests.labels.times import FrameTimes, located
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, LabelRow, VideoRow
from mbert.manifests.store import read_rows, write_rows
from mbert.manifests.tombstones import Tombstones, check_forgotten
from mbert.manifests.workspace import Workspace
from mbert.pipeline.corpora.provenance import with_provenance
from mbert.pipeline.corpora.registry import AUTO, list_corpus
from mbert.pipeline.faces.landmarkers import weights_sha256
from mbert.pipeline.ingest_input import (
    Going,
    IngestOptions,
    IngestTask,
    Outcome,
    committed_outcome,
    ingest_input,
    lost_outcome,
    seconds_from_header,
)
from mbert.pipeline.roots import Placed, Roots, place, read_roots, root_of, told_shared_subjects
from mbert.pipeline.video.decode import content_hash
from mbert.pipeline.video.source import Distribution, Listing, Source, natural_order
from mbert.shards.engine import IN_PROCESS, Engine, default_workers, run_tasks
from mbert.shards.image import JPEG_SUBSAMPLING

_TRIED_INPUTS = 3
_TRIED_FRAMES = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CorpusChoice:
    """Which dataset lies in a folder, and how its annotation is read; see `list_corpus`."""

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestPlan:
    """What a run is going to do."""

    num_inputs: int  # in the folder at hand
    num_to_do: int
    num_bytes: int  # of the inputs that are still to do
    redone: tuple[str, ...]  # inputs that are ingested again, as labels lie across the cuts of their clips
    notes: tuple[str, ...]  # how the folder was understood


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestEstimate:
    """What a run would do, and how long it may take; from a rehearsal on a few inputs."""

    num_inputs: int
    num_to_do: int
    num_bytes: int
    redone: tuple[str, ...]  # as in `IngestPlan`
    workers: int
    seconds: float | None  # with so many workers; None: nothing to do, or no input that was tried can be used
    tried: dict[str, str]  # path -> what became of the first frames
    corpus: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestSummary:
    """The state of the corpus after a run, and what this run did."""

    statuses: dict[str, int]  # inputs by status, all runs
    num_new: int  # inputs done by this run
    num_clips: int
    num_crops: int
    num_frames_decoded: int  # by this run
    seconds: float  # wall time of this run
    num_labels: int
    num_labels_in_clips: int  # of them, those that a clip holds
    label_remarks: int  # labels that cannot be used, or not as they are written
    label_changes: LabelChanges  # since they were read last
    redone: tuple[str, ...]  # inputs that this run ingested again, as labels lie across the cuts of their clips
    forgotten: tuple[str, ...]  # inputs at hand that `mbert forget` keeps out
    changed: tuple[str, ...]  # inputs whose content is not what was ingested
    vanished: tuple[str, ...]  # ingested inputs that are no longer there; their crops are kept
    ignored: tuple[str, ...]  # files that are no inputs
    failures: dict[str, str]  # path -> reason
    remarks: dict[str, str]  # path -> what is to be known of an input that is ok
    notes: tuple[str, ...]  # how the folder was understood
    labels_path: str
    corpus: str
    page: str | None = None  # of the corpus, to look at; `mbert.api` makes it


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

    With `redo`, an input whose clips were cut through a label that is younger than they are is ingested again.
    Raises ConfigError, before any work, for a path without inputs or options that differ from those of the corpus, and
    ManifestError for a label file that cannot be read or a corpus that another process works on.
    """
    began = time.monotonic()
    listing = choice.list(path)
    options.check()
    with exclusive(workspace.corpus):
        check_forgotten(workspace)
        config = _checked_config(workspace, listing, options, overwrite=overwrite)
        if overwrite and not config:
            _remove_corpus(workspace)
        corpus = _Corpus(workspace, listing, read_roots(config), again=overwrite)
        _write_config(workspace, corpus.placed, options, choice, config)
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
        finally:  # also on Ctrl-C: what is done is in the manifests
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
    """What `run_ingest` would do with the same arguments; writes nothing in the workspace. Raises what it raises."""
    listing = choice.list(path)
    options.check()
    config = _checked_config(workspace, listing, options, overwrite=overwrite)
    there = workspace if config else Workspace(workspace.root / "nowhere")
    corpus = _Corpus(there, listing, read_roots(config), again=overwrite)
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


def _plan(corpus: "_Corpus", tasks: list[IngestTask], redone: tuple[str, ...]) -> IngestPlan:
    listing = corpus.placed.listing
    return IngestPlan(
        num_inputs=len(listing.sources),
        num_to_do=len(tasks),
        num_bytes=sum(task.source.num_bytes for task in tasks),
        redone=redone,
        notes=(*listing.notes, *listing.table_notes, *corpus.notes),
    )


def _checked_config(
    workspace: Workspace, listing: Listing, options: IngestOptions, *, overwrite: bool
) -> dict[str, Any]:
    """The config.json that is there; nothing where there is none, or it is to be overwritten.

    Overwriting takes away what was made from the folder at hand: where the corpus holds inputs of other folders, its
    options stay. Raises ConfigError when the corpus was begun with other options.
    """
    if not workspace.corpus_config.exists():
        return {}
    found: dict[str, Any] = read_json(workspace.corpus_config)
    is_ours = found.get("schema") == SCHEMA_VERSION

    def others() -> list[str]:  # compares contents
        videos = _read_if_there(workspace.videos, VideoRow) if is_ours else []
        return place(listing, read_roots(found), videos).others

    if overwrite and not others():
        return {}
    if not is_ours:
        raise ManifestError(
            f"the corpus in {workspace.corpus} has schema {found.get('schema')}, this version of mbert reads "
            f"{SCHEMA_VERSION}: {_told_ways('run the same command with --overwrite, or', others())}"
        )
    # An option that is younger than the corpus had its default.
    before = {**dataclasses.asdict(IngestOptions()), **found["options"], **found["landmarker"]}
    asked = {**dataclasses.asdict(options), **_landmarker(options)}
    for each in (before, asked):  # weights are known by their hash, wherever the file lies
        del each["landmarker_model"]
    if differences := tell_differences(before, asked, "corpus"):
        ways = _told_ways("use the same options, --overwrite to make it again, or", others())
        raise ConfigError(f"the corpus in {workspace.corpus} was made with other options ({differences}): {ways}")
    return found


def _told_ways(ways: str, others: list[str]) -> str:
    """What to do about a corpus that does not fit; never what would delete the crops of another folder."""
    if not others:
        return f"{ways} use another --workspace"
    return (
        f"use another --workspace, or ingest with the options and the mbert that it was made with (it holds inputs of "
        f"{', '.join(others)}, too, which --overwrite would not make again)"
    )


def _landmarker(options: IngestOptions) -> dict[str, Any]:
    """Which landmarker measures, and with which weights."""
    model = Path(options.landmarker_model) if options.landmarker_model else None
    return {
        "landmarker": options.landmarker,
        "landmarker_sha256": weights_sha256(options.landmarker, model=model),
    }


def _write_config(
    workspace: Workspace, placed: Placed, options: IngestOptions, choice: CorpusChoice, before: dict[str, Any]
) -> None:
    listing = placed.listing
    names = ["av", "mediapipe", "numpy", "opencv-contrib-python", "simplejpeg"]
    names += ["face-alignment"] if options.landmarker == "fan" else []
    current = {"mbert": __version__, **{name: importlib.metadata.version(name) for name in names}}
    versions = before.get("versions", [])
    applied = sorted({erratum for label in listing.labels for erratum in label.errata})
    latest = {
        "root": str(listing.root),
        "annotations": [str(file) for file in listing.annotations],
        "errata": {"version": ERRATA_VERSION, "choice": choice.errata, "applied": applied},
        "notes": list(listing.notes),
    }
    datasets = sorted({source.dataset for source in listing.sources})
    write_json(
        workspace.corpus_config,
        {
            "root": str(listing.root),  # of the latest ingest
            # As the corpus was begun: what depends on them, shards and their runs, is not to be made again.
            "options": before.get("options", dataclasses.asdict(options)),
            "landmarker": before.get("landmarker", _landmarker(options)),
            "schema": SCHEMA_VERSION,
            "datasets": {
                **before.get("datasets", {}),
                **{dataset: {**latest, "roots": placed.roots[dataset]} for dataset in datasets},
            },
            "jpeg_subsampling": JPEG_SUBSAMPLING,
            # Of every ingest that added to the corpus, where they differ.
            "versions": versions if current in versions else [*versions, current],
        },
    )


def _remove_corpus(workspace: Workspace) -> None:
    """Delete what an ingest wrote, and nothing else."""
    ours = [workspace.videos, workspace.clips, workspace.labels, workspace.corpus_config, workspace.preview]
    crops = [*workspace.frames.glob("*.parquet"), *workspace.frames.glob("*.tar")]
    for file in [*ours, *crops, *workspace.signatures.glob("*.npz")]:
        with naming_write_faults(file):
            file.unlink(missing_ok=True)


class _Corpus:
    """The rows of a corpus while a run adds to it."""

    def __init__(self, workspace: Workspace, listing: Listing, roots: Roots, *, again: bool) -> None:
        """`again`: what was made from this folder before is as good as not there."""
        self._workspace, self._root = workspace, str(listing.root)
        rows: list[VideoRow] = _read_if_there(workspace.videos, VideoRow)
        self.placed = place(listing, roots, rows)
        listing = self.placed.listing
        self._labels = labels_by_input(listing.labels)
        self._sources = {source.video_id: source for source in listing.sources}
        known = {row.video_id for row in rows}
        self.forgotten = _forgotten(workspace, [source for key, source in self._sources.items() if key not in known])
        for source in self.forgotten:
            del self._sources[source.video_id]
            self._labels.pop(source.video_id, None)
        if self.forgotten:  # nothing names them again
            sources, labels = self._sources.values(), [label for group in self._labels.values() for label in group]
            listing = dataclasses.replace(listing, sources=tuple(sources), labels=tuple(labels))
            self.placed = dataclasses.replace(self.placed, listing=listing)
        self._shards = {row.shard for row in rows}
        if again:
            rows = [row for row in rows if not self._is_at_hand(row)]
        self.videos: dict[str, VideoRow] = {row.video_id: row for row in rows}
        self.clips: dict[str, list[ClipRow]] = {}
        for clip in _read_if_there(workspace.clips, ClipRow):
            self.clips.setdefault(clip.video_id, []).append(clip)
        self._times: dict[tuple[str, str | None], FrameTimes | None] = {}  # of inputs whose labels are in seconds
        self.labels_before: list[LabelRow] = _read_if_there(workspace.labels, LabelRow)
        self._label_rows: dict[str, list[LabelRow]] = {}
        for label in self.labels_before:
            self._label_rows.setdefault(label.video_id, []).append(label)
        for group in (self.clips, self._label_rows):
            for key in group.keys() - self.videos.keys():
                del group[key]
        datasets = {source.dataset for source in listing.sources} | {label.dataset for label in listing.labels}
        # What this folder said before and says no more is to go; labels of other folders are not its business.
        self._said_before = {
            row.video_id for row in self.labels_before if row.dataset in datasets and row.root == self._root
        }
        for key, video in list(self.videos.items()):
            said = self._label_rows.get(key, ())
            is_ours = key in self._said_before or not any(row.root and Path(row.root).exists() for row in said)
            if video.status == "missing" and video.dataset in datasets and is_ours and key not in self._labels:
                del self.videos[key]
                self._label_rows.pop(key, None)
        shared = told_shared_subjects(self.placed, self.videos, self.clips)
        self.notes = (*self.placed.notes, *shared)  # on how the folder was understood

    def _is_at_hand(self, row: VideoRow) -> bool:
        """Whether an input lies below one of the roots of the folder at hand."""
        return (row.dataset, row.root) in self.placed.numbers

    def plan(self, limit: int | None, *, retry_failed: bool = False, redo: bool = True) -> tuple[str, ...]:
        """Add a pending row with its own tar for each new input, and a row for each label without an input.

        With `retry_failed`, for each input that failed, and for no other. With `redo`, also for each whose clips were
        cut through a label; gives back their paths.
        """
        taken = [int(shard) for shard in self._shards if shard is not None]
        number = max(taken, default=-1) + 1
        known = {key for key, row in self.videos.items() if row.status != "missing"}
        failed = {key for key in known if self.videos[key].status not in ("ok", "pending")}
        cut = {key for key in known if redo and not retry_failed and self._is_cut(key)}
        wanted = failed if retry_failed else (self._sources.keys() - known) | cut
        new = [source for key, source in self._sources.items() if key in wanted][:limit]
        for source in new:
            self.videos[source.video_id] = VideoRow(
                video_id=source.video_id,
                dataset=source.dataset,
                path=source.path,
                kind=source.kind,
                status="pending",
                shard=f"{number:06d}",
                num_bytes=source.num_bytes,
                mtime_ns=source.mtime_ns,
                root=source.root,
            )
            number += 1
        for key, group in self._labels.items():
            is_new = key not in self.videos or self.videos[key].status == "missing"
            if key not in self._sources and is_new and not group[0].is_elsewhere:
                dataset, path, reason = group[0].dataset, group[0].path, told_absent(group)
                root = group[0].root
                self.videos[key] = VideoRow(
                    video_id=key, dataset=dataset, path=path, kind="video", status="missing", reason=reason, root=root
                )
        return tuple(source.path for source in new if source.video_id in cut)

    def _is_cut(self, key: str) -> bool:
        video, clips = self.videos[key], self.clips.get(key, ())
        return video.status == "ok" and any(is_cut(video, clips, label) for label in self._labels_of(key))

    def _labels_of(self, key: str) -> list[Label]:
        """The labels of an input; what is in seconds in frames, where these are known by now."""
        labels, video = self._labels.get(key, []), self.videos[key]
        if video.status != "ok" or all(label.span_seconds is None for label in labels):
            return labels
        place = (key, video.shard)
        if place not in self._times:
            self._times[place] = FrameTimes.of(self._workspace.frames, video)
        return located(labels, self._times[place])

    def remove_replaced(self) -> None:
        """Delete the tars of inputs that were ingested again."""
        kept = {row.shard for row in self.videos.values()}
        kept |= {clip.shard for group in self.clips.values() for clip in group}
        frames, signatures = self._workspace.frames, self._workspace.signatures
        for file in [*frames.glob("*.parquet"), *frames.glob("*.tar"), *signatures.glob("*.npz")]:
            if file.stem not in kept:
                with naming_write_faults(file):
                    file.unlink()

    def tasks(self, options: IngestOptions, engine: Engine) -> list[IngestTask]:
        """The planned inputs that no earlier run has finished, in a fixed random order."""
        pending = [row for row in self.videos.values() if row.status == "pending" and row.video_id in self._sources]
        tasks = []
        for row in sorted(pending, key=lambda row: row.shard or ""):  # from which the order follows
            outcome = committed_outcome(self._workspace.frames, row)  # a killed run may have got so far
            if outcome is not None:
                self.accept(outcome)
                continue
            tasks.append(
                IngestTask(
                    source=self._sources[row.video_id],
                    shard=row.shard or "",
                    frames_folder=self._workspace.frames.absolute(),
                    options=options,
                    labels=tuple(self._labels_of(row.video_id)),
                )
            )
        # One input alone may have all cores for decoding; else each process keeps to its own.
        cores = (engine.workers or default_workers()) if engine.kind == "local" else 1
        num_threads = max(1, cores // max(1, len(tasks)))
        tasks = [dataclasses.replace(task, num_threads=num_threads) for task in tasks]
        # In a mixed order the first tenth is like the rest, so the time that is left can be estimated from it.
        random.Random(0).shuffle(tasks)
        return tasks

    def accept(self, outcome: Outcome) -> None:
        """Take in what became of an input."""
        self.videos[outcome.video.video_id] = outcome.video
        self.clips[outcome.video.video_id] = list(outcome.clips)

    def rows(self) -> list[VideoRow]:
        """Every input in reading order."""
        return sorted(self.videos.values(), key=lambda row: (row.dataset, natural_order(row.path), row.root))

    @property
    def labels(self) -> list[LabelRow]:
        """Every label in reading order of the inputs, as it was joined last."""
        return [label for row in self.rows() for label in self._label_rows.get(row.video_id, ())]

    def write(self) -> None:
        """Join the labels as they are now, then write `clips.parquet`, `labels.parquet` and `videos.parquet`.

        Only inputs of the folder at hand are joined: its labels say nothing about the others.
        """
        for key in (self._sources.keys() | self._labels.keys() | self._said_before) & self.videos.keys():
            row, labels = self.videos[key], self._labels_of(key)
            if key in self._sources:
                row = self.videos[key] = self._with_provenance(row, self._sources[key])
            if row.status == "ok":
                subject = row.subject or (self._sources[key].subject if key in self._sources else None)
                clips = self.clips.get(key, ())
                self.clips[key], joined = join_labels(row, clips, labels, subject=subject)
            else:
                why = row.reason or row.status
                joined = [
                    label_row(label, clip_id=None, problem=label.fault or why) for label in labels if not label.is_blank
                ]
            self._label_rows[key] = [dataclasses.replace(label, root=self._root) for label in joined]
        rows = self.rows()
        write_rows(self._workspace.clips, ClipRow, [clip for row in rows for clip in self.clips.get(row.video_id, ())])
        write_rows(self._workspace.labels, LabelRow, self.labels)
        write_rows(self._workspace.videos, VideoRow, rows)

    def _with_provenance(self, row: VideoRow, source: Source) -> VideoRow:
        """The row of an input as `videos.csv` is now; of a folder inside of the root that has none, as it was."""
        listing = self.placed.listing
        if listing.videos_table is None and root_of(row, self.placed.roots) != str(listing.root):
            return row
        return (source.provenance or Provenance(line=0, path="")).applied(row)

    def changed(self) -> tuple[str, ...]:
        """Inputs of the folder at hand whose content is no longer what was ingested."""
        return tuple(
            source.path
            for key, source in self._sources.items()
            if (row := self.videos.get(key))
            and row.status != "pending"
            and (row.num_bytes, row.mtime_ns) != (source.num_bytes, source.mtime_ns)
            # A file that was only touched, or copied, is the same.
            and (row.num_bytes != source.num_bytes or row.sha256 != content_hash(source))
        )

    def vanished(self) -> tuple[str, ...]:
        """Ingested inputs that are no longer in the folder at hand."""
        known = [row for row in self.rows() if row.video_id not in self._sources and row.status != "missing"]
        gone = [row for row in known if self._is_at_hand(row) and not self._location(row).exists()]
        return tuple(row.path for row in gone)

    def _location(self, row: VideoRow) -> Path:
        return Path(root_of(row, self.placed.roots) or "") / row.path


def _forgotten(workspace: Workspace, sources: list[Source]) -> list[Source]:
    """Those of the new inputs that were forgotten. Their contents are read where anything ever was."""
    tombstones = Tombstones.read(workspace.forgotten)
    return [source for source in sources if tombstones.days and tombstones.holds(content_hash(source))]


def _read_if_there(path: Path, row_type: type[Any]) -> list[Any]:
    return read_rows(path, row_type) if path.exists() else []
