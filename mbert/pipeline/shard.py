"""`mbert shard --pairs`: aligned frames -> frame-pair shards, by copying bytes.

All pairs are planned from the manifests first. A seeded shuffle then deals them to shards, because pairs of one video
look alike and must not stand together in a training batch.
"""

import collections
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbert import ConfigError, ManifestError, ShardError, __version__
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, FrameRow, PairRow, VideoRow, pair_key
from mbert.manifests.store import (
    exclusive,
    read_extra,
    read_json,
    read_rows,
    read_table,
    tell_differences,
    write_json,
    write_rows,
)
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.engine import run_tasks
from mbert.pipeline.pairs import clip_rng, nearest_frame, sample_pairs
from mbert.shards.pair import FramePair
from mbert.shards.writer import writing_tar

_PLAN_ENTRY = "mbert_plan"
_OPEN_TARS = 128  # well below the usual limit of open files


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """Which pairs are made and how they are dealt to shards."""

    min_delta_ms: float = 167.0  # 5 frames at 30 fps
    max_delta_ms: float = 367.0  # 11 frames at 30 fps
    pairs_per_second: float = 10.0  # first frames drawn per second of video
    pairs_per_shard: int = 2048  # about 65 MB at 224 px
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_delta_ms <= self.max_delta_ms:
            raise ConfigError(
                f"pair distance is {self.min_delta_ms:g} to {self.max_delta_ms:g} ms; it must be 0 < min <= max"
            )
        if self.pairs_per_second <= 0 or self.pairs_per_shard < 1:
            raise ConfigError("pairs per second must be above 0 and pairs per shard at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardSummary:
    """What lies in the shards after a run."""

    num_pairs: int
    num_shards: int
    kinds: dict[str, int]
    num_bytes: int
    num_new_shards: int  # written by this run
    clips_without_pairs: int
    labels_without_apex: int  # labelled clips that give no onset-apex pair
    seconds: float
    folder: str


@dataclasses.dataclass(frozen=True, slots=True)
class ShardTask:
    """The pairs of one shard, in the order in which they will stand in the tar."""

    shard: str
    pairs: pa.Table
    frames_folder: Path
    folder: Path
    plan: str


def run_shard(
    workspace: Workspace,
    options: PairOptions,
    *,
    workers: int = 1,
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
    pairs, without_pairs, without_apex = plan_pairs(workspace, clips, options)
    if not len(pairs):
        raise ConfigError(
            f"no pair fits: {len(clips)} clips hold no two frames {options.min_delta_ms:g}-{options.max_delta_ms:g} ms "
            "apart; look at num_frames and fps in clips.parquet, or change --min-delta-ms and --max-delta-ms"
        )
    fingerprint = _fingerprint(workspace, videos, clips)
    with exclusive(workspace.pairs.parent):
        names, tasks = _tasks(workspace, pairs, options, fingerprint)
        on_plan(sum(len(task.pairs) for task in tasks), len(tasks))
        for num_pairs in run_tasks(write_shard, tasks, workers=workers):
            on_shard(num_pairs)
        totals: dict[str, Any] = {
            "num_pairs": len(pairs),
            "num_shards": len(names),
            "kinds": dict(collections.Counter(pairs["kind"].to_pylist())),
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
        clips_without_pairs=without_pairs,
        labels_without_apex=without_apex,
        seconds=time.monotonic() - began,
        folder=str(workspace.pairs),
    )


def _tasks(
    workspace: Workspace, pairs: pa.Table, options: PairOptions, fingerprint: str
) -> tuple[list[str], list[ShardTask]]:
    """Deal the shuffled pairs to shards: the names of all shards, and tasks for those that are not there yet."""
    plan = hashlib.sha256(f"{fingerprint} {json.dumps(dataclasses.asdict(options))}".encode()).hexdigest()
    order = np.random.default_rng(options.seed).permutation(len(pairs))
    deals = {
        f"{number:06d}": order[start : start + options.pairs_per_shard]
        for number, start in enumerate(range(0, len(order), options.pairs_per_shard))
    }
    _remove_leftovers(workspace.pairs, set(deals))
    tasks = [
        ShardTask(name, pairs.take(deal), workspace.frames, workspace.pairs, plan)
        for name, deal in deals.items()
        if not _is_committed(workspace.pairs, name, plan)
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
        digest.update(f"{clip.clip_id} {clip.subject} {clip.onset} {clip.apex} {clip.emotion}\n".encode())
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


def plan_pairs(workspace: Workspace, clips: list[ClipRow], options: PairOptions) -> tuple[pa.Table, int, int]:
    """Every pair of the corpus in reading order.

    Returns a table (pair columns, and where each frame's bytes lie), the number of clips that give no pair, and the
    number of labelled clips without onset or apex.
    """
    tables = []
    without_pairs = without_apex = 0
    for shard, group in _by_shard(clips):
        _, twin = twin_paths(workspace.frames, shard)
        frames = read_table(twin, FrameRow, columns=["clip_id", "frame_index", "pts_seconds", "offset", "size"])
        clip_ids = frames["clip_id"].to_numpy(zero_copy_only=False)
        columns = {name: frames[name].to_numpy() for name in frames.column_names if name != "clip_id"}
        for clip in group:
            rows = np.flatnonzero(clip_ids == clip.clip_id)
            table = _pairs_of_clip(clip, {name: values[rows] for name, values in columns.items()}, options)
            without_pairs += not len(table)
            without_apex += clip.emotion is not None and (clip.onset is None or clip.apex is None)
            tables.append(table)
    return pa.concat_tables(tables).combine_chunks(), without_pairs, without_apex


def _by_shard(clips: list[ClipRow]) -> Iterator[tuple[str, list[ClipRow]]]:
    groups: dict[str, list[ClipRow]] = {}
    for clip in clips:
        groups.setdefault(clip.shard, []).append(clip)
    yield from groups.items()


def _pairs_of_clip(clip: ClipRow, frames: dict[str, Any], options: PairOptions) -> pa.Table:
    """The pairs of one clip, sorted by time; `frames` are its columns, ascending."""
    pts, index = frames["pts_seconds"], frames["frame_index"]
    sampled = sample_pairs(
        pts,
        min_delta_seconds=options.min_delta_ms / 1000,
        max_delta_seconds=options.max_delta_ms / 1000,
        pairs_per_second=options.pairs_per_second,
        rng=clip_rng(options.seed, clip.clip_id),
    )
    kinds = {(int(t0), int(t1)): "sampled" for t0, t1 in sampled}
    if clip.onset is not None and clip.apex is not None and clip.emotion is not None:
        onset, apex = nearest_frame(index, clip.onset), nearest_frame(index, clip.apex)
        if onset < apex:
            kinds[onset, apex] = "onset_apex"
    chosen = sorted(kinds)
    t0 = np.array([pair[0] for pair in chosen], np.int64)
    t1 = np.array([pair[1] for pair in chosen], np.int64)
    is_expression = [kinds[pair] == "onset_apex" for pair in chosen]
    return pa.table(
        {
            "key": pa.array([pair_key(clip.clip_id, index[a], index[b]) for a, b in chosen], pa.string()),
            "clip_id": pa.array([clip.clip_id] * len(chosen), pa.string()),
            "subject": pa.array([clip.subject] * len(chosen), pa.string()),
            "t0": index[t0],
            "t1": index[t1],
            "delta_seconds": pts[t1] - pts[t0],
            "kind": pa.array([kinds[pair] for pair in chosen], pa.string()),
            "emotion": pa.array([clip.emotion if found else None for found in is_expression], pa.string()),
            "source": pa.array([clip.shard] * len(chosen), pa.string()),
            **{
                f"{name}_{column}": frames[column][rows]
                for name, rows in (("t0", t0), ("t1", t1))
                for column in ("offset", "size")
            },
        }
    )


def write_shard(task: ShardTask) -> int:
    """Write one shard and then its twin. Returns the number of pairs; raises ShardError when a frame tar is damaged."""
    tar, twin = twin_paths(task.folder, task.shard)
    rows = []
    with _SourceTars(task.frames_folder) as sources, writing_tar(tar) as writer:
        for pair in task.pairs.to_pylist():
            source = pair.pop("source")
            t0, t1 = (sources.read(source, pair[f"{name}_offset"], pair[f"{name}_size"]) for name in ("t0", "t1"))
            info = {
                name: pair[name]
                for name in ("key", "clip_id", "subject", "t0", "t1", "delta_seconds", "kind", "emotion")
            }
            for name, data in FramePair(pair["key"], t0, t1, info).members():
                offset, size = writer.add(name, data)
                for frame in ("t0", "t1"):
                    if name.endswith(f".{frame}.jpg"):
                        pair[f"{frame}_offset"], pair[f"{frame}_size"] = offset, size
            rows.append(PairRow(shard=task.shard, **pair))
    write_rows(twin, PairRow, rows, extra={_PLAN_ENTRY: task.plan})
    return len(rows)


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

    def read(self, shard: str, offset: int, size: int) -> bytes:
        if shard not in self._open:
            if len(self._open) >= _OPEN_TARS:
                os.close(self._open.popitem(last=False)[1])
            self._open[shard] = self._open_tar(shard)
        self._open.move_to_end(shard)
        data = os.pread(self._open[shard], size, offset)
        if len(data) != size:
            tar, _ = twin_paths(self._folder, shard)
            raise ShardError(f"{tar} ends before byte {offset + size}; ingest it anew with --overwrite")
        return data

    def _open_tar(self, shard: str) -> int:
        tar, _ = twin_paths(self._folder, shard)
        try:
            return os.open(tar, os.O_RDONLY)
        except OSError as exc:
            raise ShardError(f"{tar} cannot be opened: {exc.strerror}; ingest it anew with --overwrite") from exc
