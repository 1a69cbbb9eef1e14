"""The rows of a corpus while an ingest adds to it: what remains, what became of it, which label belongs to what."""

import dataclasses
import random
from pathlib import Path
from typing import Any

from mbert.manifests.files import naming_write_faults
from mbert.manifests.labels.provenance import Provenance
from mbert.manifests.labels.table import Label, absence_message, is_cut, join_labels, label_row, labels_by_input
from mbert.manifests.labels.times import FrameTimes, located
from mbert.manifests.schema import ClipRow, LabelRow, VideoRow
from mbert.manifests.store import read_rows, write_rows
from mbert.manifests.tombstones import Tombstones
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest_input import committed_outcome
from mbert.pipeline.ingest_options import IngestOptions, IngestTask
from mbert.pipeline.ingest_summary import Outcome
from mbert.pipeline.roots import Roots, place, root_of, shared_subject_notes
from mbert.pipeline.video.source import Listing, Source, content_hash, natural_order
from mbert.shards.engine import Engine, default_workers


class Corpus:
    """The rows of a corpus while a run adds to it."""

    def __init__(self, workspace: Workspace, listing: Listing, roots: Roots, *, again: bool) -> None:
        """`again`: ignore what was made from this folder before."""
        self._workspace, self._root = workspace, str(listing.root)
        rows: list[VideoRow] = read_if_there(workspace.videos, VideoRow)
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
        for clip in read_if_there(workspace.clips, ClipRow):
            self.clips.setdefault(clip.video_id, []).append(clip)
        self._times: dict[tuple[str, str | None], FrameTimes | None] = {}  # for inputs whose labels are in seconds
        self.labels_before: list[LabelRow] = read_if_there(workspace.labels, LabelRow)
        self._label_rows: dict[str, list[LabelRow]] = {}
        for label in self.labels_before:
            self._label_rows.setdefault(label.video_id, []).append(label)
        for group in (self.clips, self._label_rows):
            for key in group.keys() - self.videos.keys():
                del group[key]
        datasets = {source.dataset for source in listing.sources} | {label.dataset for label in listing.labels}
        # Remove labels that this folder no longer has; labels of other folders are not affected.
        self._said_before = {
            row.video_id for row in self.labels_before if row.dataset in datasets and row.root == self._root
        }
        for key, video in list(self.videos.items()):
            said = self._label_rows.get(key, ())
            is_ours = key in self._said_before or not any(row.root and Path(row.root).exists() for row in said)
            if video.status == "missing" and video.dataset in datasets and is_ours and key not in self._labels:
                del self.videos[key]
                self._label_rows.pop(key, None)
        shared = shared_subject_notes(self.placed, self.videos, self.clips)
        self.notes = (*self.placed.notes, *shared)  # on how the folder was interpreted

    def _is_at_hand(self, row: VideoRow) -> bool:
        """Whether an input is below one of the roots of the current folder."""
        return (row.dataset, row.root) in self.placed.numbers

    def plan(self, limit: int | None, *, retry_failed: bool = False, redo: bool = True) -> tuple[str, ...]:
        """Add a pending row with its own tar for each new input, and a row for each label without an input.

        With `retry_failed`, only for each input that failed. With `redo`, also for each input whose clips cut through a
        label; returns their paths.
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
                dataset, path, reason = group[0].dataset, group[0].path, absence_message(group)
                root = group[0].root
                self.videos[key] = VideoRow(
                    video_id=key, dataset=dataset, path=path, kind="video", status="missing", reason=reason, root=root
                )
        return tuple(source.path for source in new if source.video_id in cut)

    def _is_cut(self, key: str) -> bool:
        video, clips = self.videos[key], self.clips.get(key, ())
        return video.status == "ok" and any(is_cut(video, clips, label) for label in self._labels_of(key))

    def _labels_of(self, key: str) -> list[Label]:
        """The labels of an input; times in seconds are converted to frames if known by now."""
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
        for row in sorted(pending, key=lambda row: row.shard or ""):  # determines the order
            outcome = committed_outcome(self._workspace.frames, row)  # a killed run may have got this far
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
        # A single input may use all cores for decoding; otherwise each process uses only its own.
        cores = (engine.workers or default_workers()) if engine.kind == "local" else 1
        num_threads = max(1, cores // max(1, len(tasks)))
        tasks = [dataclasses.replace(task, num_threads=num_threads) for task in tasks]
        # In a random order the first tenth is like the rest, so the remaining time can be estimated from it.
        random.Random(0).shuffle(tasks)
        return tasks

    def accept(self, outcome: Outcome) -> None:
        """Record the outcome of an input."""
        self.videos[outcome.video.video_id] = outcome.video
        self.clips[outcome.video.video_id] = list(outcome.clips)

    def rows(self) -> list[VideoRow]:
        """Every input in reading order."""
        return sorted(self.videos.values(), key=lambda row: (row.dataset, natural_order(row.path), row.root))

    @property
    def labels(self) -> list[LabelRow]:
        """Every label in reading order of the inputs, as last joined."""
        return [label for row in self.rows() for label in self._label_rows.get(row.video_id, ())]

    def write(self) -> None:
        """Join the labels as they are now, then write `clips.parquet`, `labels.parquet` and `videos.parquet`.

        Only inputs of the current folder are joined: its labels say nothing about the others.
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
        """The row of an input updated from `videos.csv`; unchanged for a folder inside the root without one."""
        listing = self.placed.listing
        if listing.videos_table is None and root_of(row, self.placed.roots) != str(listing.root):
            return row
        return (source.provenance or Provenance(line=0, path="")).applied(row)

    def changed(self) -> tuple[str, ...]:
        """Inputs of the current folder whose content has changed since it was ingested."""
        return tuple(
            source.path
            for key, source in self._sources.items()
            if (row := self.videos.get(key))
            and row.status != "pending"
            and (row.num_bytes, row.mtime_ns) != (source.num_bytes, source.mtime_ns)
            # A file that was only touched or copied counts as unchanged.
            and (row.num_bytes != source.num_bytes or row.sha256 != content_hash(source))
        )

    def vanished(self) -> tuple[str, ...]:
        """Ingested inputs that are no longer in the current folder."""
        known = [row for row in self.rows() if row.video_id not in self._sources and row.status != "missing"]
        gone = [row for row in known if self._is_at_hand(row) and not self._location(row).exists()]
        return tuple(row.path for row in gone)

    def _location(self, row: VideoRow) -> Path:
        return Path(root_of(row, self.placed.roots) or "") / row.path


def _forgotten(workspace: Workspace, sources: list[Source]) -> list[Source]:
    """The new inputs that were forgotten. Contents are only read if anything ever was."""
    tombstones = Tombstones.read(workspace.forgotten)
    return [source for source in sources if tombstones.days and tombstones.holds(content_hash(source))]


def read_if_there(path: Path, row_type: type[Any]) -> list[Any]:
    """The rows of a manifest; empty if it does not exist."""
    return read_rows(path, row_type) if path.exists() else []
