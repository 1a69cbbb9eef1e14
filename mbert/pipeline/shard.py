"""`mbert shard --pairs`: aligned frames -> frame-pair shards, by copying bytes.

All pairs are planned from the manifests first. A seeded shuffle then deals them to shards, because pairs of one video
look alike and must not stand together in a training batch.
"""

import collections
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbert import ConfigError, ManifestError, ShardError, __version__
from mbert.manifests.files import exclusive, read_json, tell_differences, write_json
from mbert.manifests.labels.table import LABEL_FIELDS
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, PairRow, VideoRow, arrow_schema, pair_key
from mbert.manifests.store import read_extra, read_rows, write_table
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.pairs.plan import APEX_SOURCES, KINDS, PairOptions, Records, dealt_pairs, pair_condition, plan_pairs
from mbert.shards.engine import IN_PROCESS, Engine, run_tasks
from mbert.shards.pair import FramePair
from mbert.shards.writer import TAR_HASH_ENTRY, writing_tar

_PLAN_ENTRY = "mbert_plan"
_OPEN_TARS = 128  # well below the usual limit of open files
_PAIRS_IN_MEMORY = 256  # about 8 MB at 224 px, which stay in the cache of a core
_SCHEMA = arrow_schema(PairRow)
_PLANNED = ["clip", "t0", "t1", "delta_seconds", "kind", "apex_source"]
_OF_EXPRESSION = ("sample", "emotion", "action_units", "objective_class")  # columns of clip and pair
_INFO = ("key", "clip_id", "dataset", "subject", "t0", "t1", "delta_seconds", "kind", "apex_source", *_OF_EXPRESSION)
_RANGES = ("t0_offset", "t0_size", "t1_offset", "t1_size")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardSummary:
    """What lies in the shards after a run."""

    num_pairs: int
    num_shards: int
    kinds: dict[str, int]
    num_bytes: int
    num_new_shards: int  # written by this run
    pairs_left_out: int  # by `where`
    clips_without_pairs: int
    labels_without_apex: int  # labelled clips that give no onset-apex pair
    apexes_filled: int  # onset-apex pairs whose apex is not annotated
    seconds: float
    folder: str


@dataclasses.dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard: the pairs at some places of the shuffled order."""

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
    """Make the pair shards of a corpus, or what is missing of them.

    Raises ManifestError when there is no corpus, ConfigError when shards of other options exist or no pair is possible.
    """
    began = time.monotonic()
    videos, clips = _read_corpus(workspace)
    if not overwrite:
        _check_options(workspace, options)
    condition = pair_condition(workspace, options)
    fingerprint = _fingerprint(workspace, videos, clips)
    with exclusive(workspace.pairs.parent):
        plan_folder = workspace.pairs / ".plan"
        try:
            plan = plan_pairs(workspace, clips, options, condition, plan_folder)
            if not plan.num_pairs:
                raise _without_pairs(clips, options, plan.pairs_left_out)
            names, tasks = _tasks(workspace, plan.num_pairs, options, fingerprint)
            on_plan(sum(task.stop - task.start for task in tasks), len(tasks))
            for num_pairs in run_tasks(write_shard, tasks, engine):
                on_shard(num_pairs)
        finally:
            shutil.rmtree(plan_folder, ignore_errors=True)
        labelled = {"onset_apex": plan.num_onset_apex, "onset_between": plan.num_onset_between}
        kinds = {"sampled": plan.num_pairs - sum(labelled.values()), **labelled}
        totals: dict[str, Any] = {
            "num_pairs": plan.num_pairs,
            "num_shards": len(names),
            "kinds": {kind: count for kind, count in kinds.items() if count},
            "num_bytes": sum(twin_paths(workspace.pairs, name)[0].stat().st_size for name in names),
        }
        write_json(
            workspace.pairs / "pairs.json",
            {
                **totals,
                "schema": SCHEMA_VERSION,
                "mbert": __version__,
                "options": dataclasses.asdict(options),
                "seed": options.seed,
                "corpus": fingerprint,
                "subjects": sorted({clip.subject for clip in clips if clip.subject}),
                "shards": names,
            },
        )
    return ShardSummary(
        **totals,
        num_new_shards=len(tasks),
        pairs_left_out=plan.pairs_left_out,
        clips_without_pairs=plan.clips_without_pairs,
        labels_without_apex=plan.labels_without_apex,
        apexes_filled=plan.num_apexes_filled,
        seconds=time.monotonic() - began,
        folder=str(workspace.pairs),
    )


def _without_pairs(clips: list[ClipRow], options: PairOptions, num_left_out: int) -> ConfigError:
    if num_left_out:
        return ConfigError(f"no pair is left: --where {options.where!r} rules out all {num_left_out}")
    return ConfigError(
        f"no pair fits: {len(clips)} clips hold no two frames {options.min_delta_ms:g}-{options.max_delta_ms:g} ms "
        "apart; look at num_frames and fps in clips.parquet, or change --min-delta-ms and --max-delta-ms"
    )


def _tasks(
    workspace: Workspace, num_pairs: int, options: PairOptions, fingerprint: str
) -> tuple[list[str], list[ShardTask]]:
    """Deal the shuffled pairs to shards: the names of all shards, and tasks for those that are not there yet."""
    plan = hashlib.sha256(f"{fingerprint} {json.dumps(dataclasses.asdict(options))}".encode()).hexdigest()
    folder = workspace.pairs.absolute()
    deals = {
        f"{number:06d}": (start, min(start + options.pairs_per_shard, num_pairs))
        for number, start in enumerate(range(0, num_pairs, options.pairs_per_shard))
    }
    _remove_leftovers(folder, set(deals))
    tasks = [
        ShardTask(name, start, stop, options.seed, folder / ".plan", workspace.frames.absolute(), folder, plan)
        for name, (start, stop) in deals.items()
        if not _is_committed(folder, name, plan)
    ]
    return list(deals), tasks


def _read_corpus(workspace: Workspace) -> tuple[list[VideoRow], list[ClipRow]]:
    if not workspace.videos.exists():
        raise ManifestError(f"there is no corpus in {workspace.corpus}: run `mbert ingest FOLDER` first")
    videos = read_rows(workspace.videos, VideoRow)
    pending = sum(row.status == "pending" for row in videos)
    if pending:
        raise ManifestError(f"{pending} inputs are not ingested yet: run `mbert ingest` again until it ends")
    clips = read_rows(workspace.clips, ClipRow)
    if not clips:
        raise ManifestError(f"the corpus in {workspace.corpus} has no clip; videos.parquet says why for each input")
    return videos, clips


def _fingerprint(workspace: Workspace, videos: list[VideoRow], clips: list[ClipRow]) -> str:
    """A hash of what the corpus was made from and how; labels count, because pairs depend on them."""
    digest = hashlib.sha256(json.dumps(read_json(workspace.corpus_config)["options"], sort_keys=True).encode())
    for row in videos:
        digest.update(f"{row.video_id} {row.sha256} {row.num_crops}\n".encode())
    for clip in clips:
        digest.update(" ".join([clip.clip_id, *(str(getattr(clip, name)) for name in LABEL_FIELDS)]).encode() + b"\n")
    return digest.hexdigest()


def _check_options(workspace: Workspace, options: PairOptions) -> None:
    path = workspace.pairs / "pairs.json"
    if path.exists():
        differences = tell_differences(read_json(path)["options"], dataclasses.asdict(options), "shards")
        if differences:
            raise ConfigError(
                f"the shards in {workspace.pairs} were made otherwise ({differences}): "
                "use the same options or --overwrite"
            )


def _remove_leftovers(folder: Path, names: set[str]) -> None:
    """Take away the mark of an earlier finished run, and shards beyond those of this one."""
    (folder / "pairs.json").unlink(missing_ok=True)
    for file in [*folder.glob("*.parquet"), *folder.glob("*.tar")]:
        if file.stem not in names:
            file.unlink()


def _is_committed(folder: Path, shard: str, plan: str) -> bool:
    tar, twin = twin_paths(folder, shard)
    if not (tar.exists() and twin.exists()):
        return False
    try:
        return read_extra(twin, PairRow, _PLAN_ENTRY) == plan
    except ManifestError:
        return False


def write_shard(task: ShardTask) -> int:
    """Write one shard and then its twin. Returns the number of pairs; raises ShardError when a frame tar is damaged."""
    tar, twin = twin_paths(task.folder, task.shard)
    tables = []
    memory = bytearray()
    with _SourceTars(task.frames_folder) as sources, writing_tar(tar) as writer:
        for start in range(task.start, task.stop, _PAIRS_IN_MEMORY):
            places = range(start, min(start + _PAIRS_IN_MEMORY, task.stop))
            records, clips = dealt_pairs(task.plan_folder, places, seed=task.seed)
            rows = _pair_rows(records, clips, task.shard)
            num_bytes = int(records["t0_size"].sum(dtype=np.int64) + records["t1_size"].sum(dtype=np.int64))
            if len(memory) < num_bytes:  # used again and again: fresh memory costs more than reading into it
                memory = bytearray(num_bytes)
            jpegs = _read_jpegs(records, clips, sources, memoryview(memory))
            ranges: list[int] = []
            for row, (t0, t1) in zip(rows, jpegs, strict=True):
                info = {name: row[name] for name in _INFO}
                t0_range, t1_range, _ = writer.add_all(FramePair(row["key"], t0, t1, info).members())
                ranges += (*t0_range, *t1_range)
            for name, values in zip(_RANGES, np.reshape(ranges, (-1, 4)).T, strict=True):
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[name] = value
            tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
    table = pa.concat_tables(tables)
    write_table(twin, table, row_type=PairRow, extra={_PLAN_ENTRY: task.plan, TAR_HASH_ENTRY: writer.sha256})
    return len(table)


def _pair_rows(records: Records, clips: list[ClipRow], shard: str) -> list[dict[str, Any]]:
    """The columns of the pair manifest, except where the frames will lie."""
    rows = []
    for clip_number, t0, t1, delta_seconds, kind, apex_source in records[_PLANNED].tolist():
        clip = clips[clip_number]
        is_sampled = KINDS[kind] == "sampled"
        rows.append(
            {
                "key": pair_key(clip.clip_id, t0, t1),
                "shard": shard,
                "clip_id": clip.clip_id,
                "subject": clip.subject,
                "t0": t0,
                "t1": t1,
                "delta_seconds": delta_seconds,
                "kind": KINDS[kind],
                "dataset": clip.dataset,
                "apex_source": None if is_sampled else APEX_SOURCES[apex_source],
                **{name: None if is_sampled else getattr(clip, name) for name in _OF_EXPRESSION},
            }
        )
    return rows


def _read_jpegs(
    records: Records, clips: list[ClipRow], sources: "_SourceTars", memory: memoryview
) -> list[tuple[memoryview, memoryview]]:
    """Both frames of each pair, read tar by tar and front to back: that is kinder to disks than the shuffled order."""
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
            raise ShardError(f"{tar} ends before byte {offset + size}; ingest it anew with --overwrite")

    def _open_tar(self, shard: str) -> int:
        tar, _ = twin_paths(self._folder, shard)
        try:
            return os.open(tar, os.O_RDONLY)
        except OSError as exc:
            raise ShardError(f"{tar} cannot be opened: {exc.strerror}; ingest it anew with --overwrite") from exc
