"""The order of pairs: pure integers, no I/O.

An epoch is a list of segments (at first all shards, in an order set by seed and epoch). Their concatenation is cut into
`lanes` equal ranges. A lane is read in blocks, each shuffled by its own permutation, so any place can be reached by
reading one block. Position p of the epoch (0, 1, ...) is place p // lanes of lane p % lanes, a global batch is
`batch_size` consecutive positions, and rank r of `world` takes those with p % world == r. Nothing here depends on the
number of ranks or worker processes, so none of them can change a global batch.
"""

import bisect
import dataclasses
import functools
import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from mbert import ConfigError

# 24 streams in memory at once; divisible by 1, 2, 3, 4, 6, 8, 12 and 24 ranks, which therefore see the same batches.
_LANES = 24
_SMALL_LANES = 4
_PAIRS_PER_LANE = 8  # with fewer, too large a share would be dropped


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Pairs `[start, stop)` of one shard, identified by its index in the source."""

    shard: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How an epoch is distributed. Equal layouts and seeds give equal global batches, for any ranks and workers."""

    lanes: int
    batch_size: int  # pairs of all ranks together
    block: int = 256  # pairs shuffled together in a lane

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name} is {getattr(self, field.name)}; it must be at least 1")


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A block of a lane: places `[start, stop)` of the lane."""

    number: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Dealing:
    """An epoch, or the rest of one, distributed over lanes."""

    segments: tuple[Segment, ...]
    layout: Layout
    seed: int
    epoch: int

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(len(segment) for segment in self.segments))

    @property
    def num_pairs(self) -> int:
        """Pairs in all segments, including dropped ones."""
        return self._ends[-1] if self._ends else 0

    @property
    def lane_length(self) -> int:
        """Pairs per lane; the rest of the concatenation is dropped."""
        return self.num_pairs // self.layout.lanes

    @property
    def num_steps(self) -> int:
        """The number of whole global batches."""
        return self.lane_length * self.layout.lanes // self.layout.batch_size

    @property
    def num_dropped(self) -> int:
        """Pairs that do not fill a whole batch; different ones in each epoch, because the order changes."""
        return self.num_pairs - self.num_steps * self.layout.batch_size

    def block(self, lane: int, place: int) -> Block:
        """The block that holds a place. The first block of each lane has its own length, so that not all lanes read at
        the same step.
        """
        size = self.layout.block
        shift = lane * size // self.layout.lanes
        number = (place + shift) // size
        start, stop = number * size - shift, (number + 1) * size - shift
        return Block(number, max(start, 0), min(stop, self.lane_length))

    def block_order(self, lane: int, block: Block) -> list[int]:
        """A permutation of the pairs of a block: which of them, counted from its start, comes first, second, ..."""
        order = list(range(block.stop - block.start))
        random.Random(f"{self.seed}/{self.epoch}/{lane}/{block.number}").shuffle(order)
        return order

    def cut(self, start: int, stop: int) -> list[Segment]:
        """The pairs `[start, stop)` of the concatenation."""
        parts = []
        index = bisect.bisect_right(self._ends, start)
        while start < stop:
            segment, end = self.segments[index], self._ends[index]
            skipped = start - (end - len(segment))
            size = min(stop, end) - start
            if size:
                parts.append(Segment(segment.shard, segment.start + skipped, segment.start + skipped + size))
            start, index = start + size, index + 1
        return parts

    def pair(self, position: int) -> tuple[int, int]:
        """(shard, pair of the shard) at a position of the epoch."""
        place, lane = divmod(position, self.layout.lanes)
        block = self.block(lane, place)
        index = lane * self.lane_length + block.start + self.block_order(lane, block)[place - block.start]
        (segment,) = self.cut(index, index + 1)
        return segment.shard, segment.start

    def remaining(self, num_steps: int) -> tuple[tuple[Segment, ...], int]:
        """The whole blocks not yet read after some steps, and how many of their pairs were read nevertheless.

        A block that was begun counts as unread, as do pairs that would have been dropped: nothing is lost.
        """
        parts: list[Segment] = []
        num_read_twice = 0
        for lane in range(self.layout.lanes):
            place = max(0, num_steps * self.layout.batch_size - lane + self.layout.lanes - 1) // self.layout.lanes
            kept = place if place >= self.lane_length else self.block(lane, place).start
            num_read_twice += place - kept
            parts += self.cut(lane * self.lane_length + kept, (lane + 1) * self.lane_length)
        parts += self.cut(self.layout.lanes * self.lane_length, self.num_pairs)
        return tuple(parts), num_read_twice


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StreamPosition:
    """The position of a stream, for a checkpoint: `step` global batches of this dealing of the epoch are done."""

    epoch: int
    step: int
    seed: int
    num_pairs: int  # of the whole corpus
    layout: Layout
    segments: tuple[Segment, ...] | None = None  # None: the whole epoch

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `from_json`."""
        plain = dataclasses.asdict(self)
        if self.segments is not None:
            plain["segments"] = [[part.shard, part.start, part.stop] for part in self.segments]
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "StreamPosition":
        """Read the output of `to_json`; raises ConfigError for anything else."""
        try:
            segments = plain["segments"]
            known = {**plain, "layout": Layout(**plain["layout"])}
            known["segments"] = None if segments is None else tuple(Segment(*part) for part in segments)
            return cls(**known)
        except (KeyError, TypeError) as exc:
            raise ConfigError(f"this is no position of a stream of pairs ({exc!r}): {str(plain)[:200]}") from exc


@dataclasses.dataclass(frozen=True, slots=True)
class Resumed:
    """Where a stream resumes, and what that means for the epoch."""

    dealing: Dealing
    step: int
    is_whole: bool  # the dealing covers a whole epoch
    note: str


def whole_epoch(counts: Sequence[int], layout: Layout, *, seed: int, epoch: int) -> Dealing:
    """All shards in the order of this epoch; `counts` has the number of pairs of each."""
    segments = [Segment(shard, 0, count) for shard, count in enumerate(counts)]
    random.Random(f"{seed}/{epoch}").shuffle(segments)
    return Dealing(tuple(segments), layout, seed, epoch)


def resume(position: StreamPosition, counts: Sequence[int], layout: Layout, *, seed: int) -> Resumed:
    """Resume from a saved position: in the same layout with exactly the batches that would have come, in another one
    with the rest of the epoch, distributed again. Raises ConfigError if the position is from another seed or corpus.
    """
    for name, mine in (("seed", seed), ("num_pairs", sum(counts))):
        if getattr(position, name) != mine:
            raise ConfigError(
                f"the saved position belongs to {name} {getattr(position, name)}, this stream has {mine}: "
                "resume with the same shards and seed, or start again"
            )
    is_whole = position.segments is None
    dealing = whole_epoch(counts, position.layout, seed=seed, epoch=position.epoch)
    if position.segments is not None:
        dealing = dataclasses.replace(dealing, segments=position.segments)
    if position.layout == layout:
        return Resumed(dealing, position.step, is_whole, "resumed exactly")
    differences = ", ".join(
        f"{field.name} was {getattr(position.layout, field.name)}, is {getattr(layout, field.name)}"
        for field in dataclasses.fields(layout)
        if getattr(position.layout, field.name) != getattr(layout, field.name)
    )
    if position.step == 0:
        dealing = dataclasses.replace(dealing, layout=layout)
        return Resumed(dealing, 0, is_whole, f"resumed with another layout ({differences}) where an epoch begins")
    segments, num_read_twice = dealing.remaining(position.step)
    dealing = dataclasses.replace(dealing, segments=segments, layout=layout)
    note = f"resumed with another layout ({differences}): {num_read_twice} pairs of this epoch come twice"
    return Resumed(dealing, 0, False, note)


def num_lanes(world: int, workers: int, num_pairs: int) -> int:
    """A number of lanes that divides evenly among the ranks and gives each worker process at least one.

    It is 24 for 1, 2, 3, 4, 6, 8, 12 and 24 ranks with up to 24 worker processes in all, so that such runs see the same
    global batches; fewer if the corpus is so small that an even split would drop a large part of it.
    """
    streams = world * max(1, workers)
    unit = world if streams <= _LANES else streams
    for least in (_LANES, _SMALL_LANES):
        lanes = -(-least // unit) * unit
        if num_pairs >= _PAIRS_PER_LANE * lanes:
            return lanes
    return world


def positions_of(layout: Layout, step: int, *, rank: int, world: int) -> range:
    """The positions of one rank in one global batch; `batch_size` and `lanes` must be multiples of `world`."""
    first = step * layout.batch_size
    return range(first + rank, first + layout.batch_size, world)


def worker_of(lane: int, *, world: int, workers: int) -> int:
    """Which worker process of its rank reads a lane."""
    return lane // world % workers
