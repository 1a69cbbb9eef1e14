"""All pairs of a corpus as small records in a file, in reading order, and the shuffle that assigns them to shards.

There are two sets of pairs, each with its own plan: pairs sampled by time, which labels do not affect, and the pairs of
labelled expressions. A plan is a folder with a snapshot of the clips (`clips.parquet`) and of the labels
(`labels.parquet`) and a file of fixed-size records (`pairs.bin`), so that a task needs only two numbers: memory does
not grow with the number of pairs, here or in a worker.
"""

import contextlib
import dataclasses
import functools
import hashlib
import shutil
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from mbert import ConfigError
from mbert.manifests.files import naming_write_faults
from mbert.manifests.query import FrameCondition
from mbert.manifests.schema import ApexSource, ClipRow, FrameRow, LabelRow, PairKind, VideoRow
from mbert.manifests.store import read_rows, read_table, write_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.pairs.sample import clip_rng, nearest_frame, sample_pairs
from mbert.pipeline.pairs.spot import spot_apex
from mbert.shards.image import Image, decode_jpeg

Records = npt.NDArray[np.void]

RECORD = np.dtype(
    [
        ("clip", "<u4"),  # row of the clip in the plan's clips.parquet
        ("label", "<u4"),  # row of the label in the plan's labels.parquet; unused for a sampled pair
        ("t0", "<i8"),  # frame_index
        ("t1", "<i8"),
        ("delta_seconds", "<f8"),
        ("kind", "u1"),  # index in KINDS
        ("apex_source", "u1"),  # index in APEX_SOURCES, for the pairs of an expression
        ("copy", "u1"),  # 1, 2, ... if several labels of a clip give the same two frames
        ("t0_offset", "<u8"),  # byte range of each JPEG in the tar of its video
        ("t0_size", "<u4"),
        ("t1_offset", "<u8"),
        ("t1_size", "<u4"),
    ]
)
KINDS: tuple[PairKind, ...] = typing.get_args(PairKind)
APEX_SOURCES: tuple[ApexSource, ...] = typing.get_args(ApexSource)
ApexChoice = Literal["annotated", "middle", "spotted"]
PairSet = Literal["pairs", "expressions"]
_SAMPLED, _ONSET_APEX, _ONSET_BETWEEN = (KINDS.index(kind) for kind in ("sampled", "onset_apex", "onset_between"))
_ROUNDS = 6


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairOptions:
    """Which pairs are made and how they are assigned to shards."""

    min_delta_ms: float = 167.0  # 5 frames at 30 fps
    max_delta_ms: float = 367.0  # 11 frames at 30 fps
    pairs_per_second: float = 10.0  # first frames drawn per second of video
    pairs_per_shard: int = 2048  # about 65 MB at 224 px
    # Replacement for an apex that is not annotated: none (such an expression gives no pair), the frame half-way between
    # onset and offset, or the frame that has moved most since the onset.
    apex: ApexChoice = "middle"
    # Pairs of the onset with this many frames between it and the apex, for `mbert eval --frames`.
    frames_between: int = 0
    where: str | None = None  # SQL: both frames of a pair must satisfy it
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

    def of(self, pairs: PairSet) -> dict[str, object]:
        """The options that affect a set of pairs, by name."""
        others = _OF_SAMPLED if pairs == "expressions" else _OF_EXPRESSIONS
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in others}


_OF_SAMPLED = ("min_delta_ms", "max_delta_ms", "pairs_per_second")
_OF_EXPRESSIONS = ("apex", "frames_between")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairPlan:
    """The content of a plan."""

    num_pairs: int
    pairs_left_out: int  # that do not satisfy `where`
    clips_without_pairs: int = 0  # of the sampled ones
    num_onset_apex: int = 0  # of the expressions
    num_onset_between: int = 0
    num_apexes_filled: int = 0  # onset-apex pairs whose apex is not annotated
    labels_without_pair: int = 0  # labels in a clip that give no onset-apex pair
    digest: str  # of the whole plan: the same crops and equal plans give equal shards


def pair_condition(workspace: Workspace, options: PairOptions) -> FrameCondition | None:
    """The condition on both frames of a pair. Raises ConfigError if `options.where` cannot be used."""
    if options.where is None:
        return None
    clips, videos = read_table(workspace.clips, ClipRow), read_table(workspace.videos, VideoRow)
    return FrameCondition(options.where, clips, videos)


def plan_sampled(
    workspace: Workspace, clips: list[ClipRow], options: PairOptions, condition: FrameCondition | None, folder: Path
) -> PairPlan:
    """Write the plan of the pairs sampled by time to `folder`. Raises MbertError if the disk is full."""
    counts: Counter[str] = Counter()
    with _writing_records(folder, clips, []) as records:
        for frames in _frames_of_clips(workspace, clips, range(len(clips)), condition):
            different = np.flatnonzero(~frames.repeated)  # distinct pictures, each at the time when it first appeared
            pairs = sample_pairs(
                frames.pts_seconds[different],
                min_delta_seconds=options.min_delta_ms / 1000,
                max_delta_seconds=options.max_delta_ms / 1000,
                pairs_per_second=options.pairs_per_second,
                rng=clip_rng(options.seed, clips[frames.clip].clip_id),
            )
            pairs = different[pairs]
            kept = pairs[frames.fulfil[pairs].all(axis=1)]
            counts["pairs_left_out"] += len(pairs) - len(kept)
            counts["clips_without_pairs"] += not len(kept)
            records.add(frames.records(kept, [_SAMPLED] * len(kept)))
    return PairPlan(**counts, num_pairs=records.num_records, digest=records.digest)


def plan_expressions(
    workspace: Workspace,
    clips: list[ClipRow],
    labels: list[LabelRow],
    options: PairOptions,
    condition: FrameCondition | None,
    folder: Path,
) -> PairPlan:
    """Write the plan of the pairs of the labelled micro-expressions to `folder`, as `plan_sampled` does.

    An expression gives the pair of its onset and apex, and those of the onset with some frames between.
    """
    labels = [label for label in labels if label.expression == "micro" and label.clip_id is not None]
    counts: Counter[str] = Counter()
    copies: Counter[tuple[str, int, int]] = Counter()
    of_clip: dict[str, list[int]] = {}
    for number, label in enumerate(labels):
        of_clip.setdefault(label.clip_id or "", []).append(number)
    numbers = [number for number, clip in enumerate(clips) if clip.clip_id in of_clip]
    with _writing_records(folder, clips, labels) as records:
        for frames in _frames_of_clips(workspace, clips, numbers, condition):
            for number in of_clip[clips[frames.clip].clip_id]:
                found = _find_expression(labels[number], frames, options.apex)
                if found is None:
                    counts["labels_without_pair"] += 1
                    continue
                steps = np.linspace(found.onset, found.apex, options.frames_between + 2)[1:].round().astype(int)
                picture = np.cumsum(~frames.repeated)
                places = sorted({place for place in steps.tolist() if picture[place] > picture[found.onset]})
                if not places:
                    counts["labels_without_pair"] += 1
                    continue
                pairs = np.array([(found.onset, place) for place in places], np.int64)
                kinds = np.array([_ONSET_APEX if place == found.apex else _ONSET_BETWEEN for place in places])
                keep = frames.fulfil[pairs].all(axis=1)
                kept = frames.records(pairs[keep], kinds[keep], label=number, source=found.source)
                for record in kept:
                    frames_of_pair = (labels[number].clip_id or "", int(record["t0"]), int(record["t1"]))
                    record["copy"] = copies[frames_of_pair]
                    copies[frames_of_pair] += 1
                records.add(kept)
                has_apex = int((kinds[keep] == _ONSET_APEX).sum())
                counts["pairs_left_out"] += int((~keep).sum())
                counts["num_onset_apex"] += has_apex
                counts["num_onset_between"] += int(keep.sum()) - has_apex
                counts["num_apexes_filled"] += has_apex if found.source != "annotated" else 0
    return PairPlan(**{"pairs_left_out": 0, **counts}, num_pairs=records.num_records, digest=records.digest)


class _RecordFile:
    """The file of records being written, their number and hash."""

    def __init__(self, file: BinaryIO, about: Iterable[Sequence[str | None]]) -> None:
        self._file, self._hash, self.num_records = file, hashlib.sha256(), 0
        for names in about:
            self._hash.update(f"{' '.join(map(str, names))}\n".encode())

    def add(self, records: Records) -> None:
        data = records.tobytes()
        self._file.write(data)
        self._hash.update(data)
        self.num_records += len(records)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


@contextlib.contextmanager
def _writing_records(folder: Path, clips: list[ClipRow], labels: list[LabelRow]) -> Iterator[_RecordFile]:
    _plan_of.cache_clear()  # this process may have used an earlier plan in the same folder
    shutil.rmtree(folder, ignore_errors=True)
    write_rows(folder / "clips.parquet", ClipRow, clips)
    write_rows(folder / "labels.parquet", LabelRow, labels)
    with naming_write_faults(folder / "pairs.bin"), (folder / "pairs.bin").open("wb") as file:
        about = [(clip.clip_id, clip.dataset, clip.shard) for clip in clips]
        yield _RecordFile(file, [*about, *((label.dataset, label.subject, label.sample) for label in labels)])


@dataclasses.dataclass(frozen=True, slots=True)
class _ClipFrames:
    """The crops of one clip, in time order. Positions count them from 0."""

    clip: int  # its row in the plan's clips.parquet
    tar: Path
    frame_index: npt.NDArray[np.int64]
    pts_seconds: npt.NDArray[np.float64]
    offset: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    repeated: npt.NDArray[np.bool_]  # which repeat the previous picture
    fulfil: npt.NDArray[np.bool_]  # which may be in a pair

    def records(
        self, pairs: npt.NDArray[np.int64], kinds: Any, label: int = 0, source: ApexSource = "annotated"
    ) -> Any:
        """The records for pairs of positions (P, 2)."""
        records = np.zeros(len(pairs), RECORD)
        t0, t1 = pairs.T
        records["clip"], records["label"] = self.clip, label
        records["kind"], records["apex_source"] = kinds, APEX_SOURCES.index(source)
        for name, side in (("t0", t0), ("t1", t1)):
            records[name] = self.frame_index[side]
            records[f"{name}_offset"], records[f"{name}_size"] = self.offset[side], self.size[side]
        records["delta_seconds"] = self.pts_seconds[t1] - self.pts_seconds[t0]
        return records

    def crops(self, start: int, stop: int) -> list[Image]:
        """The decoded crops at positions `[start, stop)`."""
        images = []
        with self.tar.open("rb") as file:
            for place in range(start, stop):
                file.seek(int(self.offset[place]))
                images.append(decode_jpeg(file.read(int(self.size[place]))))
        return images


def _frames_of_clips(
    workspace: Workspace, clips: list[ClipRow], numbers: Sequence[int], condition: FrameCondition | None
) -> Iterator[_ClipFrames]:
    """The crops of some clips, tar by tar."""
    columns = ["clip_id", "frame_index", "pts_seconds", "offset", "size", "repeated"]
    if condition is not None:
        columns = list(dict.fromkeys([*columns, *condition.frame_columns]))
    for shard, group in _by_shard(clips, numbers):
        tar, twin = twin_paths(workspace.frames, shard)
        table = read_table(twin, FrameRow, columns=columns)
        fulfil = np.ones(len(table), bool) if condition is None else condition.mask(table)
        ids = table["clip_id"].combine_chunks().dictionary_encode()
        place = {clip_id: index for index, clip_id in enumerate(ids.dictionary.to_pylist())}
        clip_of_row = ids.indices.to_numpy()
        index, seconds, offset, size, repeated = (table[name].to_numpy() for name in columns[1:6])
        for number in group:
            rows = np.flatnonzero(clip_of_row == place.get(clips[number].clip_id, -1))
            yield _ClipFrames(
                number, tar, index[rows], seconds[rows], offset[rows], size[rows], repeated[rows], fulfil[rows]
            )


def _by_shard(clips: list[ClipRow], numbers: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for number in numbers:
        groups.setdefault(clips[number].shard, []).append(number)
    yield from groups.items()


@dataclasses.dataclass(frozen=True, slots=True)
class _Expression:
    """Positions of onset and apex among the frames of a clip, the onset first."""

    onset: int
    apex: int
    source: ApexSource


def _find_expression(label: LabelRow, frames: _ClipFrames, choice: ApexChoice) -> _Expression | None:
    """Onset and apex of a labelled expression; None if no onset is annotated or there is no apex."""
    if label.onset is None:
        return None
    onset = nearest_frame(frames.frame_index, label.onset)
    source: ApexSource = "annotated"
    if label.apex is not None:
        apex = nearest_frame(frames.frame_index, label.apex)
    elif choice == "annotated" or label.offset is None:
        return None
    else:
        offset = nearest_frame(frames.frame_index, label.offset)
        source, apex = choice, nearest_frame(frames.frame_index, (label.onset + label.offset + 1) // 2)
        if choice == "spotted" and offset > onset:
            apex = onset + spot_apex(frames.crops(onset, offset + 1))
    return _Expression(onset, apex, source) if onset < apex else None


def dealt_pairs(folder: Path, places: range, *, seed: int) -> tuple[Records, Sequence[ClipRow], Sequence[LabelRow]]:
    """The pairs at `places` in the shuffled order, and all clips and labels of the plan."""
    records = np.memmap(folder / "pairs.bin", RECORD, "r")
    chosen: Records = records[shuffled(np.arange(places.start, places.stop), len(records), seed)]
    return chosen, *_plan_of(folder)


@functools.lru_cache(maxsize=1)
def _plan_of(folder: Path) -> tuple[list[ClipRow], list[LabelRow]]:
    return read_rows(folder / "clips.parquet", ClipRow), read_rows(folder / "labels.parquet", LabelRow)


def shuffled(places: npt.NDArray[np.int64], total: int, seed: int) -> npt.NDArray[np.int64]:
    """The items at `places` in a seeded random order of `total` items, without building the whole order.

    A Feistel network permutes numbers of a fixed bit width; those outside the range are sent through it again.
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
    """Mix bits: every bit of the output depends on every bit of the input (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
