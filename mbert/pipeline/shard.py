"""`mbert shard --pairs`: aligned frames -> frame-pair shards, by copying bytes.

There are two sets: pairs sampled by time, for learning without labels, and onset-apex pairs of labelled expressions.
Annotations only affect the second set, so labels may change during a pretraining. All pairs of a set are first planned
from the manifests. A seeded shuffle then assigns them to shards, because pairs of one video look alike and must not be
together in a training batch.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbert import ConfigError, ManifestError, ShardError, __version__
from mbert.manifests.files import describe_differences, exclusive, read_json, write_json
from mbert.manifests.labels.table import digest_of_frames
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, LabelRow, PairRow, VideoRow, arrow_schema, pair_key
from mbert.manifests.store import read_extra, read_rows, write_rows, write_table
from mbert.manifests.tombstones import check_forgotten
from mbert.manifests.workspace import PAIRS_CLIPS, PAIRS_INDEX, Workspace, twin_paths
from mbert.pipeline.pairs.plan import (
    APEX_SOURCES,
    KINDS,
    PairOptions,
    PairPlan,
    PairSet,
    Records,
    dealt_pairs,
    pair_condition,
    plan_expressions,
    plan_sampled,
)
from mbert.shards.engine import IN_PROCESS, Engine, run_tasks
from mbert.shards.pair import FramePair
from mbert.shards.writer import TAR_HASH_ENTRY, writing_tar

_PLAN_ENTRY = "mbert_plan"
_OPEN_TARS = 128  # well below the usual limit of open files
_PAIRS_IN_MEMORY = 256  # about 8 MB at 224 px, which fits the cache of a core
_SCHEMA = arrow_schema(PairRow)
_PLANNED = ["clip", "label", "t0", "t1", "delta_seconds", "kind", "apex_source", "copy"]
_INFO = ("key", "clip_id", "dataset", "t0", "t1", "delta_seconds", "kind")
_INFO_OF_EXPRESSION = (*_INFO, "subject", "sample", "apex_source")
_RANGES = ("t0_offset", "t0_size", "t1_offset", "t1_size")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardSummary:
    """The content of the shards of both sets after a run."""

    num_pairs: int
    num_shards: int
    kinds: dict[str, int]
    num_bytes: int
    num_new_shards: int  # written by this run
    pairs_left_out: int  # by `where`
    clips_without_pairs: int
    labels_without_pair: int  # labels in a clip that give no onset-apex pair
    apexes_filled: int  # onset-apex pairs whose apex is not annotated
    seconds: float
    folder: str  # of the sampled pairs
    expressions: str  # of the onset-apex pairs


@dataclasses.dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard: the pairs at a range of places in the shuffled order."""

    shard: str
    start: int
    stop: int
    seed: int
    plan_folder: Path
    frames_folder: Path
    folder: Path
    plan: str


def run_shard(
    workspace: Workspace,
    options: PairOptions,
    *,
    engine: Engine = IN_PROCESS,
    overwrite: bool = False,
    on_plan: Callable[[int, int], None] = lambda num_pairs, num_shards: None,
    on_shard: Callable[[int], None] = lambda num_pairs: None,
) -> ShardSummary:
    """Make the pair shards of a corpus, or those that are missing.

    Shards whose pairs have not changed are kept. Raises ManifestError if there is no corpus, ConfigError if shards of
    other options exist or no pair is possible.
    """
    began = time.monotonic()
    videos, clips, labels = _read_corpus(workspace)
    folders: dict[PairSet, Path] = {"pairs": workspace.pairs, "expressions": workspace.expressions}
    if not overwrite:
        for name, folder in folders.items():
            _check_options(folder, options.of(name))
    condition = pair_condition(workspace, options)
    fingerprint = corpus_fingerprint(workspace, videos, clips)
    plan_folders = {name: folder / ".plan" for name, folder in folders.items()}
    with exclusive(workspace.pairs.parent):
        check_forgotten(workspace)
        try:
            sampled = plan_sampled(workspace, clips, options, condition, plan_folders["pairs"])
            of_labels = plan_expressions(workspace, clips, labels, options, condition, plan_folders["expressions"])
            if not sampled.num_pairs and not of_labels.num_pairs:
                raise _without_pairs(clips, options, sampled.pairs_left_out)
            sets: list[_Set] = [
                _Set(workspace, folders["pairs"], options, options.of("pairs"), fingerprint, sampled),
                _Set(workspace, folders["expressions"], options, options.of("expressions"), fingerprint, of_labels),
            ]
            tasks = [task for each in sets for task in each.tasks()]
            on_plan(sum(task.stop - task.start for task in tasks), len(tasks))
            for num_pairs in run_tasks(write_shard, tasks, engine):
                on_shard(num_pairs)
        finally:
            for folder in plan_folders.values():
                shutil.rmtree(folder, ignore_errors=True)
        kinds = {
            "sampled": sampled.num_pairs,
            "onset_apex": of_labels.num_onset_apex,
            "onset_between": of_labels.num_onset_between,
        }
        sets[0].finish(clips, {"kinds": {"sampled": sampled.num_pairs}})
        of_kinds = {kind: count for kind, count in kinds.items() if count and kind != "sampled"}
        sets[1].finish(clips, {"kinds": of_kinds, "labels": digest_of_frames(labels)})
    return ShardSummary(
        num_pairs=sampled.num_pairs + of_labels.num_pairs,
        num_shards=sum(len(each.names) for each in sets),
        kinds={kind: count for kind, count in kinds.items() if count},
        num_bytes=sum(each.num_bytes for each in sets),
        num_new_shards=len(tasks),
        pairs_left_out=sampled.pairs_left_out + of_labels.pairs_left_out,
        clips_without_pairs=sampled.clips_without_pairs,
        labels_without_pair=of_labels.labels_without_pair,
        apexes_filled=of_labels.num_apexes_filled,
        seconds=time.monotonic() - began,
        folder=str(workspace.pairs),
        expressions=str(workspace.expressions),
    )


@dataclasses.dataclass(frozen=True)
class _Set:
    """One of the two sets of pairs while it is being made."""

    workspace: Workspace
    folder: Path
    options: PairOptions
    deciding: dict[str, object]  # the options that affect it
    corpus: str  # fingerprint
    plan: PairPlan

    @functools.cached_property
    def digest(self) -> str:
        """A hash of everything that affects its bytes."""
        about = f"{self.corpus} {json.dumps(self.deciding, sort_keys=True)} {self.plan.digest}"
        return hashlib.sha256(about.encode()).hexdigest()

    @functools.cached_property
    def deals(self) -> dict[str, tuple[int, int]]:
        """The names of its shards, and the places of each in the shuffled order."""
        size, total = self.options.pairs_per_shard, self.plan.num_pairs
        return {f"{number:06d}": (at, min(at + size, total)) for number, at in enumerate(range(0, total, size))}

    @property
    def names(self) -> list[str]:
        return list(self.deals)

    @property
    def num_bytes(self) -> int:
        return sum(twin_paths(self.folder, name)[0].stat().st_size for name in self.deals)

    def tasks(self) -> list[ShardTask]:
        """Its missing shards. Removes the completion mark of an earlier run, unless there is nothing to do."""
        folder = self.folder.absolute()
        tasks = [
            ShardTask(
                name,
                start,
                stop,
                self.options.seed,
                folder / ".plan",
                self.workspace.frames.absolute(),
                folder,
                self.digest,
            )
            for name, (start, stop) in self.deals.items()
            if not _is_committed(folder, name, self.digest)
        ]
        leftovers = [
            file for file in [*folder.glob("*.parquet"), *folder.glob("*.tar")]
            if file.stem not in self.deals and file.name != PAIRS_CLIPS
        ]  # fmt: skip
        if tasks or leftovers:
            (folder / PAIRS_INDEX).unlink(missing_ok=True)
        for file in leftovers:
            file.unlink()
        return tasks

    def finish(self, clips: list[ClipRow], more: dict[str, Any]) -> None:
        """Record whose faces are shown, then write the index, which completes the set."""
        write_rows(self.folder / PAIRS_CLIPS, ClipRow, clips)
        write_json(
            self.folder / PAIRS_INDEX,
            {
                "num_pairs": self.plan.num_pairs,
                "num_shards": len(self.deals),
                **more,
                "num_bytes": self.num_bytes,
                "schema": SCHEMA_VERSION,
                "mbert": __version__,
                "options": self.deciding,
                "seed": self.options.seed,
                "corpus": self.corpus,
                "plan": self.digest,
                "subjects": sorted({clip.subject for clip in clips if clip.subject}),
                "shards": self.names,
            },
        )


def _without_pairs(clips: list[ClipRow], options: PairOptions, num_left_out: int) -> ConfigError:
    if num_left_out:
        return ConfigError(f"no pair is left: --where {options.where!r} rules out all {num_left_out}")
    return ConfigError(
        f"no pair fits: {len(clips)} clips hold no two frames {options.min_delta_ms:g}-{options.max_delta_ms:g} ms "
        "apart; look at num_frames and fps in clips.parquet, or change --min-delta-ms and --max-delta-ms"
    )


def _read_corpus(workspace: Workspace) -> tuple[list[VideoRow], list[ClipRow], list[LabelRow]]:
    if not workspace.videos.exists():
        raise ManifestError(f"there is no corpus in {workspace.corpus}: run `mbert ingest FOLDER` first")
    videos = read_rows(workspace.videos, VideoRow)
    pending = sum(row.status == "pending" for row in videos)
    if pending:
        raise ManifestError(f"{pending} inputs are not ingested yet: run `mbert ingest` again until it ends")
    clips = read_rows(workspace.clips, ClipRow)
    if not clips:
        raise ManifestError(f"the corpus in {workspace.corpus} has no clip; videos.parquet says why for each input")
    return videos, clips, read_rows(workspace.labels, LabelRow)


def corpus_fingerprint(workspace: Workspace, videos: Sequence[VideoRow], clips: Sequence[ClipRow]) -> str:
    """A hash of what the crops were made from and how they were cut into clips; labels do not count."""
    digest = hashlib.sha256(json.dumps(read_json(workspace.corpus_config)["options"], sort_keys=True).encode())
    for row in videos:
        if row.status == "ok":
            digest.update(f"{row.video_id} {row.sha256} {row.num_crops}\n".encode())
    for clip in clips:
        digest.update(f"{clip.clip_id} {clip.first_frame} {clip.last_frame} {clip.num_frames}\n".encode())
    return digest.hexdigest()


def _check_options(folder: Path, options: dict[str, object]) -> None:
    path = folder / PAIRS_INDEX
    if path.exists():
        differences = describe_differences(read_json(path)["options"], options, "shards")
        if differences:
            raise ConfigError(
                f"the shards in {folder} were made with other options ({differences}): "
                "use the same options or --overwrite"
            )


def _is_committed(folder: Path, shard: str, plan: str) -> bool:
    tar, twin = twin_paths(folder, shard)
    if not (tar.exists() and twin.exists()):
        return False
    try:
        return read_extra(twin, PairRow, _PLAN_ENTRY) == plan
    except ManifestError:
        return False


def write_shard(task: ShardTask) -> int:
    """Write one shard and then its twin. Returns the number of pairs; raises ShardError if a frame tar is damaged."""
    tar, twin = twin_paths(task.folder, task.shard)
    tables = []
    memory = bytearray()
    with _SourceTars(task.frames_folder) as sources, writing_tar(tar) as writer:
        for start in range(task.start, task.stop, _PAIRS_IN_MEMORY):
            places = range(start, min(start + _PAIRS_IN_MEMORY, task.stop))
            records, clips, labels = dealt_pairs(task.plan_folder, places, seed=task.seed)
            rows = _pair_rows(records, clips, labels, task.shard)
            num_bytes = int(records["t0_size"].sum(dtype=np.int64) + records["t1_size"].sum(dtype=np.int64))
            if len(memory) < num_bytes:  # reused: allocating memory costs more than reading into it
                memory = bytearray(num_bytes)
            jpegs = _read_jpegs(records, clips, sources, memoryview(memory))
            ranges: list[int] = []
            for row, (t0, t1) in zip(rows, jpegs, strict=True):
                names = _INFO if row["kind"] == "sampled" else _INFO_OF_EXPRESSION
                info = {name: row[name] for name in names}
                t0_range, t1_range, _ = writer.add_all(FramePair.of(row["key"], t0, t1, info).members())
                ranges += (*t0_range, *t1_range)
            for name, values in zip(_RANGES, np.reshape(ranges, (-1, 4)).T, strict=True):
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[name] = value
            tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
    table = pa.concat_tables(tables)
    write_table(twin, table, row_type=PairRow, extra={_PLAN_ENTRY: task.plan, TAR_HASH_ENTRY: writer.sha256})
    return len(table)


def _pair_rows(
    records: Records, clips: Sequence[ClipRow], labels: Sequence[LabelRow], shard: str
) -> list[dict[str, Any]]:
    """The columns of the pair manifest, except for the frames' locations."""
    rows = []
    for clip_number, label_number, t0, t1, delta_seconds, kind, apex_source, copy in records[_PLANNED].tolist():
        clip = clips[clip_number]
        label = None if KINDS[kind] == "sampled" else labels[label_number]
        rows.append(
            {
                "key": pair_key(clip.clip_id, t0, t1, copy),
                "shard": shard,
                "clip_id": clip.clip_id,
                "dataset": clip.dataset,
                "t0": t0,
                "t1": t1,
                "delta_seconds": delta_seconds,
                "kind": KINDS[kind],
                "subject": label and label.subject,
                "sample": label and label.sample,
                "apex_source": label and APEX_SOURCES[apex_source],
            }
        )
    return rows


def _read_jpegs(
    records: Records, clips: Sequence[ClipRow], sources: "_SourceTars", memory: memoryview
) -> list[tuple[memoryview, memoryview]]:
    """Both frames of each pair, read tar by tar and front to back: easier on disks than the shuffled order."""
    shards = [clips[number].shard for number in records["clip"].tolist()]
    ranges = records[list(_RANGES)].tolist()
    found = [(memory, memory)] * len(records)
    for index in sorted(range(len(records)), key=lambda index: (shards[index], ranges[index])):
        t0_offset, t0_size, t1_offset, t1_size = ranges[index]
        t0, t1 = memory[:t0_size], memory[t0_size : t0_size + t1_size]
        sources.read_into(t0, shards[index], t0_offset)
        sources.read_into(t1, shards[index], t1_offset)
        found[index] = t0, t1
        memory = memory[t0_size + t1_size :]
    return found


class _SourceTars:
    """Ranged reads from many tars, with few of them open at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: collections.OrderedDict[str, int] = collections.OrderedDict()

    def __enter__(self) -> "_SourceTars":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read_into(self, memory: memoryview, shard: str, offset: int) -> None:
        if shard not in self._open:
            if len(self._open) >= _OPEN_TARS:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = self._open_tar(shard)
        self._open.move_to_end(shard)
        size = len(memory)
        if os.preadv(self._open[shard], [memory], offset) != size:
            tar, _ = twin_paths(self._folder, shard)
            raise ShardError(f"{tar} ends before byte {offset + size}; ingest again with --overwrite")

    def _open_tar(self, shard: str) -> int:
        tar, _ = twin_paths(self._folder, shard)
        try:
            return os.open(tar, os.O_RDONLY)
        except OSError as exc:
            raise ShardError(f"{tar} cannot be opened: {exc.strerror}; ingest again with --overwrite") from exc
