"""One lane of an epoch: its pairs in shuffled order, with bad pairs replaced by good neighbours."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from mbert import ShardError
from mbert.shards.order import Block, Dealing, Segment
from mbert.shards.pair import FramePair
from mbert.shards.reader import BadPair, PairReader
from mbert.shards.source import ShardSource

Decoded = TypeVar("Decoded")


@dataclasses.dataclass(frozen=True, slots=True)
class Taken(Generic[Decoded]):
    """The pair taken at one place of a lane; `bad` is the pair that it replaces, if any."""

    key: str
    decoded: Decoded
    bad: BadPair | None = None


class Lane:
    """Returns the pair at any place; holds the block of that place, still compressed (about 8 MB)."""

    def __init__(self, source: ShardSource, dealing: Dealing, lane: int) -> None:
        self._source = source
        self._reader = PairReader(source)
        self._dealing = dealing
        self._lane = lane
        self._block = Block(-1, 0, 0)
        self._pairs = _Range([], [])  # the block, in shuffled order
        self._donors: _Range | None = None  # used if no pair of the block is good

    def take(self, place: int, decode: Callable[[FramePair], Decoded]) -> Taken[Decoded]:
        """The pair at a place, decoded. `decode` raises ShardError for a damaged pair.

        A bad pair is replaced by the nearest good one of its block, else one of the nearest earlier range with a good
        one, else of a later one. So the result depends on the shards alone, never on where reading began. Raises
        ShardError if no pair of the epoch is good.
        """
        if not self._block.start <= place < self._block.stop:
            self._load(self._dealing.block(self._lane, place))
        mine = place - self._block.start
        taken = self._pairs.take(mine, decode)
        if taken is not None:
            return taken
        bad = self._pairs.items[mine]
        assert isinstance(bad, BadPair)
        nearest = sorted(range(len(self._pairs.items)), key=lambda index: (abs(index - mine), index))
        taken = self._pairs.take_first(nearest, decode) or self._donated(mine, decode)
        return dataclasses.replace(taken, bad=bad)

    def _load(self, block: Block) -> None:
        start = self._first(block)
        order = self._dealing.block_order(self._lane, block)
        in_order = self._read(self._dealing.cut(start, start + len(order)))
        self._pairs = _Range([in_order.items[place] for place in order], [in_order.shards[place] for place in order])
        self._block, self._donors = block, None

    def _first(self, block: Block) -> int:
        return self._lane * self._dealing.lane_length + block.start

    def _read(self, segments: Sequence[Segment]) -> "_Range":
        shards = [self._source.name(segment.shard) for segment in segments for _ in range(len(segment))]
        return _Range(self._reader.read(segments), shards)

    def _donated(self, mine: int, decode: Callable[[FramePair], Decoded]) -> Taken[Decoded]:
        known = [self._donors] if self._donors else []
        for donors in itertools.chain(known, map(self._read, self._other_ranges())):
            size = len(donors.items)
            taken = donors.take_first([(mine + step) % size for step in range(size)], decode)
            if taken is not None:
                self._donors = donors
                return taken
        raise ShardError(f"no pair in {self._source.where} is good: run `mbert verify`")

    def _other_ranges(self) -> Iterator[list[Segment]]:
        """Ranges of the size of a block, from this block backwards to the start of the epoch, then forwards."""
        size, start = self._dealing.layout.block, self._first(self._block)
        for stop in range(start, 0, -size):
            yield self._dealing.cut(max(0, stop - size), stop)
        after = start + self._block.stop - self._block.start
        for begin in range(after, self._dealing.num_pairs, size):
            yield self._dealing.cut(begin, min(begin + size, self._dealing.num_pairs))


class _Range:
    """Some pairs, with the names of their shards. A pair that cannot be decoded becomes a bad one here."""

    def __init__(self, items: list[FramePair | BadPair], shards: list[str]) -> None:
        self.items = items
        self.shards = shards

    def take(self, index: int, decode: Callable[[FramePair], Decoded]) -> Taken[Decoded] | None:
        pair = self.items[index]
        if isinstance(pair, BadPair):
            return None
        try:
            return Taken(pair.key, decode(pair))
        except ShardError as exc:
            self.items[index] = BadPair(self.shards[index], pair.key, str(exc))
            return None

    def take_first(self, indices: Sequence[int], decode: Callable[[FramePair], Decoded]) -> Taken[Decoded] | None:
        return next((taken for index in indices if (taken := self.take(index, decode)) is not None), None)
