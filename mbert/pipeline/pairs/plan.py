"""All pairs of a corpus as small records in a file, in reading order, and the shuffle that deals them to shards.

The plan is a folder with a snapshot of the clips (`clips.parquet`) and a file of fixed-size records (`pairs.bin`), so
that a task needs nothing but two numbers: memory does not grow with the number of pairs, here or in a worker.
"""

import dataclasses
import functools
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mbert import ConfigError
from mbert.manifests.files import naming_write_faults
from mbert.manifests.query import FrameCondition
from mbert.manifests.schema import ApexSource, ClipRow, FrameRow, PairKind, VideoRow
from mbert.manifests.store import read_rows, read_table, write_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.pairs.sample import clip_rng, nearest_frame, sample_pairs
from mbert.pipeline.pairs.spot import spot_apex
from mbert.shards.image import Image, decode_jpeg

Records = npt.NDArray[np.void]

RECORD = np.dtype(
    [
        ("clip", "<u4"),  # row of the clip in the plan's clips.parquet
        ("t0", "<i8"),  # frame_index
        ("t1", "<i8"),
        ("delta_seconds", "<f8"),
        ("kind", "u1"),  # place in KINDS
        ("apex_source", "u1"),  # place in APEX_SOURCES, of the pairs of an expression
        ("t0_offset", "<u8"),  # byte range of each JPEG in the tar of its video
        ("t0_size", "<u4"),
        ("t1_offset", "<u8"),
        ("t1_size", "<u4"),
    ]
)
KINDS: tuple[PairKind, ...] = typing.get_args(PairKind)
APEX_SOURCES: tuple[ApexSource, ...] = typing.get_args(ApexSource)
ApexChoice = Literal["annotated", "middle", "spotted"]
_SAMPLED, _ONSET_APEX, _ONSET_BETWEEN = (KINDS.index(kind) for kind in ("sampled", "onset_apex", "onset_between"))
_ROUNDS = 6


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """Which pairs are made and how they are dealt to shards."""

    min_delta_ms: float = 167.0  # 5 frames at 30 fps
    max_delta_ms: float = 367.0  # 11 frames at 30 fps
    pairs_per_second: float = 10.0  # first frames drawn per second of video
    pairs_per_shard: int = 2048  # about 65 MB at 224 px
    # What stands in for an apex that is not annotated: nothing (such an expression gives no pair), the frame half-way
    # between onset and offset, or the frame that has moved most since the onset.
    apex: ApexChoice = "middle"
    # Pairs of the onset with so many frames between it and the apex, for `mbert eval --frames`. None by default: they
    # are closer in time than pretraining asks for, and it reads every pair.
    frames_between: int = 0
    where: str | None = None  # SQL: both frames of a pair must fulfil it
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_delta_ms <= self.max_delta_ms:
            raise ConfigError(
                f"pair distance is {self.min_delta_ms:g} to {self.max_delta_ms:g} ms; it must be 0 < min <= max"
            )
        if self.pairs_per_second <= 0 or self.pairs_per_shard < 1:
            raise ConfigError("pairs per second must be above 0 and pairs per shard at least 1")
        if self.apex not in typing.get_args(ApexChoice):
            raise ConfigError(f"apex is {self.apex!r}; allowed are {', '.join(typing.get_args(ApexChoice))}")
        if self.frames_between < 0:
            raise ConfigError(
                f"{self.frames_between} frames are to lie between onset and apex; it must not be negative"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairPlan:
    """What was planned."""

    num_pairs: int
    num_onset_apex: int  # among them
    num_onset_between: int
    num_apexes_filled: int  # onset-apex pairs whose apex is not annotated
    pairs_left_out: int  # that do not fulfil `where`
    clips_without_pairs: int
    labels_without_apex: int  # labelled clips that give no onset-apex pair


def pair_condition(workspace: Workspace, options: PairOptions) -> FrameCondition | None:
    """What both frames of a pair must fulfil. Raises ConfigError when `options.where` cannot be used."""
    if options.where is None:
        return None
    clips, videos = read_table(workspace.clips, ClipRow), read_table(workspace.videos, VideoRow)
    return FrameCondition(options.where, clips, videos)


def plan_pairs(
    workspace: Workspace, clips: list[ClipRow], options: PairOptions, condition: FrameCondition | None, folder: Path
) -> PairPlan:
    """Write the plan of a corpus to `folder`. Raises MbertError when the disk is full."""
    _clips_of.cache_clear()  # this process may have worked with an earlier plan in the same folder
    shutil.rmtree(folder, ignore_errors=True)
    write_rows(folder / "clips.parquet", ClipRow, clips)
    counts = dict.fromkeys((field.name for field in dataclasses.fields(PairPlan)), 0)
    columns = ["clip_id", "frame_index", "pts_seconds", "offset", "size"]
    if condition is not None:
        columns = list(dict.fromkeys([*columns, *condition.frame_columns]))
    records = folder / "pairs.bin"
    with naming_write_faults(records), records.open("wb") as file:
        for shard, numbers in _by_shard(clips):
            table = read_table(twin_paths(workspace.frames, shard)[1], FrameRow, columns=columns)
            fulfil = None if condition is None else condition.mask(table)
            ids = table["clip_id"].combine_chunks().dictionary_encode()
            place = {clip_id: index for index, clip_id in enumerate(ids.dictionary.to_pylist())}
            clip_of_row = ids.indices.to_numpy()
            frames = {name: table[name].to_numpy() for name in ("frame_index", "pts_seconds", "offset", "size")}
            for number in numbers:
                rows = np.flatnonzero(clip_of_row == place.get(clips[number].clip_id, -1))
                clip, index, seconds = clips[number], frames["frame_index"][rows], frames["pts_seconds"][rows]
                found = _find_expression(
                    clip, index, options.apex, functools.partial(_read_crops, workspace, shard, frames, rows)
                )
                pairs, kinds = _pairs_of_clip(clip, seconds, found, options)
                counts["labels_without_apex"] += clip.sample is not None and found is None
                if fulfil is not None:
                    keep = fulfil[rows][pairs].all(axis=1)
                    counts["pairs_left_out"] += int((~keep).sum())
                    pairs, kinds = pairs[keep], kinds[keep]
                source = found.source if found else "annotated"
                file.write(_records(number, rows[pairs], kinds, source, frames).tobytes())
                counts["num_pairs"] += len(pairs)
                counts["num_onset_apex"] += int((kinds == _ONSET_APEX).sum())
                counts["num_onset_between"] += int((kinds == _ONSET_BETWEEN).sum())
                counts["num_apexes_filled"] += source != "annotated" and bool((kinds == _ONSET_APEX).any())
                counts["clips_without_pairs"] += not len(pairs)
    return PairPlan(**counts)


def _by_shard(clips: list[ClipRow]) -> Iterator[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for number, clip in enumerate(clips):
        groups.setdefault(clip.shard, []).append(number)
    yield from groups.items()


@dataclasses.dataclass(frozen=True, slots=True)
class _Expression:
    """Positions of onset and apex among the frames of a clip, the onset first."""

    onset: int
    apex: int
    source: ApexSource


def _find_expression(
    clip: ClipRow, index: npt.NDArray[np.int64], choice: ApexChoice, read: Callable[[int, int], list[Image]]
) -> _Expression | None:
    """Onset and apex of the labelled expression; None where there is none, or no apex is to be had."""
    if clip.sample is None or clip.onset is None:
        return None
    onset = nearest_frame(index, clip.onset)
    source: ApexSource = "annotated"
    if clip.apex is not None:
        apex = nearest_frame(index, clip.apex)
    elif choice == "annotated" or clip.offset is None:
        return None
    else:
        offset = nearest_frame(index, clip.offset)
        source, apex = choice, nearest_frame(index, (clip.onset + clip.offset + 1) // 2)
        if choice == "spotted" and offset > onset:
            apex = onset + spot_apex(read(onset, offset + 1))
    return _Expression(onset, apex, source) if onset < apex else None


def _pairs_of_clip(
    clip: ClipRow, pts_seconds: npt.NDArray[np.float64], found: _Expression | None, options: PairOptions
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Positions (P, 2) of the pairs of one clip, sorted by time, and their kinds, (P,)."""
    pairs = sample_pairs(
        pts_seconds,
        min_delta_seconds=options.min_delta_ms / 1000,
        max_delta_seconds=options.max_delta_ms / 1000,
        pairs_per_second=options.pairs_per_second,
        rng=clip_rng(options.seed, clip.clip_id),
    )
    kinds = dict.fromkeys(map(tuple, pairs.tolist()), _SAMPLED)
    if found is not None:
        steps = np.linspace(found.onset, found.apex, options.frames_between + 2)[1:-1].round().astype(int)
        kinds |= {(found.onset, place): _ONSET_BETWEEN for place in steps.tolist() if found.onset < place < found.apex}
        kinds[found.onset, found.apex] = _ONSET_APEX
    ordered = sorted(kinds)
    return np.array(ordered, np.int64).reshape(-1, 2), np.array([kinds[pair] for pair in ordered], np.uint8)


def _read_crops(
    workspace: Workspace, shard: str, frames: dict[str, Any], rows: npt.NDArray[np.int64], start: int, stop: int
) -> list[Image]:
    """Decode the crops `[start, stop)` of a clip whose frames stand in some rows."""
    tar, _ = twin_paths(workspace.frames, shard)
    images = []
    with tar.open("rb") as file:
        for row in rows[start:stop].tolist():
            file.seek(int(frames["offset"][row]))
            images.append(decode_jpeg(file.read(int(frames["size"][row]))))
    return images


def _records(
    number: int, rows: npt.NDArray[np.int64], kinds: Any, source: ApexSource, frames: dict[str, Any]
) -> Records:
    records = np.zeros(len(rows), RECORD)
    t0, t1 = rows.T
    records["clip"], records["kind"], records["apex_source"] = number, kinds, APEX_SOURCES.index(source)
    for name, side in (("t0", t0), ("t1", t1)):
        records[name] = frames["frame_index"][side]
        records[f"{name}_offset"], records[f"{name}_size"] = frames["offset"][side], frames["size"][side]
    records["delta_seconds"] = frames["pts_seconds"][t1] - frames["pts_seconds"][t0]
    return records


def dealt_pairs(folder: Path, places: range, *, seed: int) -> tuple[Records, list[ClipRow]]:
    """The pairs that stand at some places of the shuffled order, and all clips of the plan."""
    records = np.memmap(folder / "pairs.bin", RECORD, "r")
    chosen: Records = records[shuffled(np.arange(places.start, places.stop), len(records), seed)]
    return chosen, _clips_of(folder)


@functools.lru_cache(maxsize=1)
def _clips_of(folder: Path) -> list[ClipRow]:
    return read_rows(folder / "clips.parquet", ClipRow)


def shuffled(places: npt.NDArray[np.int64], total: int, seed: int) -> npt.NDArray[np.int64]:
    """Which items stand at some places of a seeded random order of `total` items, without making the whole order.

    A Feistel network permutes the numbers of some bits; those that leave the range are sent through it again.
    """
    half = np.uint64(max(1, (max(total - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.default_rng(seed).integers(0, 2**64, _ROUNDS, dtype=np.uint64)
    items = places.astype(np.uint64)
    todo = np.ones(len(items), dtype=bool)
    while todo.any():
        left, right = items[todo] >> half, items[todo] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        items[todo] = left << half | right
        todo = items >= total
    return items.astype(np.int64)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit of the output depends on every bit of the input (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
