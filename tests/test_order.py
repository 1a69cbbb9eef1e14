import dataclasses
import itertools
import json

import pytest

from mbert import ConfigError
from mbert.shards.order import (
    Layout,
    Segment,
    StreamPosition,
    num_lanes,
    positions_of,
    resume,
    whole_epoch,
    worker_of,
)

COUNTS = {
    "many shards": [7] * 40 + [3],
    "fewer shards than ranks": [500, 101],
    "one shard": [611],
    "uneven": [1, 300, 2, 9, 0, 250, 4],
}
STREAMS = list(itertools.product((1, 2, 3, 4), (0, 1, 2, 3, 4)))


def all_pairs(counts):
    return {(shard, pair) for shard, count in enumerate(counts) for pair in range(count)}


def rank_batches(dealing, *, rank, world, workers):
    """What the workers of one rank read, joined in the order of their positions: one list of pairs per step."""
    batches = []
    for step in range(dealing.num_steps):
        parts = {}
        for worker in range(max(1, workers)):
            for position in positions_of(dealing.layout, step, rank=rank, world=world):
                lane = position % dealing.layout.lanes
                assert lane % world == rank  # a rank reads its own lanes only
                if worker_of(lane, world=world, workers=max(1, workers)) == worker:
                    assert position not in parts
                    parts[position] = dealing.pair(position)
        batches.append([parts[position] for position in sorted(parts)])
    return batches


def global_batches(dealing):
    size = dealing.layout.batch_size
    return [[dealing.pair(step * size + i) for i in range(size)] for step in range(dealing.num_steps)]


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_every_pair_comes_once_and_the_same_global_batches_for_all_worlds_and_workers(counts):
    total = sum(counts)
    first = None
    for world, workers in STREAMS:
        layout = Layout(lanes=num_lanes(world, workers, total), batch_size=36, block=16)
        dealing = whole_epoch(counts, layout, seed=3, epoch=1)
        ranks = [rank_batches(dealing, rank=rank, world=world, workers=workers) for rank in range(world)]
        assert {len(batches) for batches in ranks} == {dealing.num_steps}
        assert {len(batch) for batches in ranks for batch in batches} == {36 // world}
        seen = [pair for batches in ranks for batch in batches for pair in batch]
        assert len(seen) == len(set(seen)) == total - dealing.num_dropped
        assert set(seen) <= all_pairs(counts)
        assert dealing.num_dropped < 36 + layout.lanes
        # Rank r holds positions r, r + world, ...: interleaved they are the global batch.
        joined = [[pair for row in zip(*parts, strict=True) for pair in row] for parts in zip(*ranks, strict=True)]
        first = first or joined
        assert joined == first == global_batches(dealing)
    assert len(first) > 5


@pytest.mark.parametrize(("lanes", "block", "batch_size"), [(1, 1, 1), (8, 7, 12), (24, 256, 10), (5, 3, 64)])
def test_nothing_but_the_stated_rest_is_dropped_in_any_layout(lanes, block, batch_size):
    counts = COUNTS["uneven"]
    dealing = whole_epoch(counts, Layout(lanes=lanes, block=block, batch_size=batch_size), seed=0, epoch=0)
    seen = [pair for batch in global_batches(dealing) for pair in batch]
    assert len(seen) == len(set(seen)) == sum(counts) - dealing.num_dropped > 400


def test_another_epoch_or_seed_has_another_order_and_drops_others():
    layout = Layout(lanes=24, batch_size=50, block=16)
    epochs = [whole_epoch(COUNTS["many shards"], layout, seed=0, epoch=epoch) for epoch in range(4)]
    orders = [tuple(pair for batch in global_batches(dealing) for pair in batch) for dealing in epochs]
    other = whole_epoch(COUNTS["many shards"], layout, seed=1, epoch=0)
    assert len({*orders, tuple(pair for batch in global_batches(other) for pair in batch)}) == 5
    assert len({frozenset(order) for order in orders}) == 4
    assert global_batches(epochs[0]) == global_batches(
        whole_epoch(COUNTS["many shards"], layout, seed=0, epoch=0)
    )  # and the same epoch the same one


def test_pairs_of_one_shard_do_not_stand_together():
    dealing = whole_epoch([100] * 30, Layout(lanes=24, batch_size=24, block=64), seed=0, epoch=0)
    in_order = [shard for batch in global_batches(dealing) for shard, _ in batch]
    neighbours = sum(one == other for one, other in itertools.pairwise(in_order))
    assert neighbours < len(in_order) / 10
    pairs = [dealing.pair(place * 24)[1] for place in range(60)]  # one lane
    assert sum(abs(one - other) == 1 for one, other in itertools.pairwise(pairs)) < 15


def test_lanes_begin_their_blocks_at_different_steps():
    dealing = whole_epoch([10_000], Layout(lanes=8, batch_size=8, block=64), seed=0, epoch=0)
    starts = [dealing.block(lane, 200).start for lane in range(8)]
    assert len(set(starts)) == 8
    for lane in range(8):
        blocks = {dealing.block(lane, place) for place in range(dealing.lane_length)}
        covered = sorted(place for block in blocks for place in range(block.start, block.stop))
        assert covered == list(range(dealing.lane_length))
        assert max(block.stop - block.start for block in blocks) == 64


def position_after(dealing, counts, step, *, is_whole=True):
    return StreamPosition(
        epoch=dealing.epoch,
        step=step,
        seed=dealing.seed,
        num_pairs=sum(counts),
        layout=dealing.layout,
        segments=None if is_whole else dealing.segments,
    )


def test_a_position_survives_json_and_goes_on_exactly():
    counts = COUNTS["many shards"]
    dealing = whole_epoch(counts, Layout(lanes=8, batch_size=10, block=16), seed=2, epoch=5)
    position = position_after(dealing, counts, 7)
    again = StreamPosition.from_json(json.loads(json.dumps(position.to_json())))
    assert again == position
    resumed = resume(again, counts, dealing.layout, seed=2)
    assert (resumed.dealing, resumed.step, resumed.note) == (dealing, 7, "resumed exactly")


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("step", [1, 9, 22])
@pytest.mark.parametrize(
    "change", [{"lanes": 12}, {"block": 5}, {"batch_size": 30}, {"lanes": 1, "block": 999, "batch_size": 1}]
)
def test_another_layout_loses_nothing_and_repeats_at_most_a_block_of_each_lane(counts, step, change):
    layout = Layout(lanes=8, batch_size=20, block=16)
    dealing = whole_epoch(counts, layout, seed=0, epoch=0)
    done = [pair for batch in global_batches(dealing)[:step] for pair in batch]
    other = dataclasses.replace(layout, **change)
    resumed = resume(position_after(dealing, counts, step), counts, other, seed=0)
    rest = {(part.shard, pair) for part in resumed.dealing.segments for pair in range(part.start, part.stop)}
    assert len(rest) == resumed.dealing.num_pairs
    assert set(done) | rest == all_pairs(counts)
    num_twice = len(set(done) & rest)
    assert num_twice <= 8 * 15
    assert f"{num_twice} pairs of this epoch come twice" in resumed.note
    assert all(f"{name} was {getattr(layout, name)}, is {value}" in resumed.note for name, value in change.items())
    # The rest may be cut short again, in yet another layout.
    position = position_after(resumed.dealing, counts, 2, is_whole=False)
    position = StreamPosition.from_json(json.loads(json.dumps(position.to_json())))
    more = [pair for batch in global_batches(resumed.dealing)[:2] for pair in batch]
    last = resume(position, counts, layout, seed=0)
    rest = {(part.shard, pair) for part in last.dealing.segments for pair in range(part.start, part.stop)}
    assert set(done) | set(more) | rest == all_pairs(counts)


def test_where_an_epoch_begins_another_layout_repeats_nothing():
    counts = COUNTS["many shards"]
    dealing = whole_epoch(counts, Layout(lanes=8, batch_size=20), seed=0, epoch=3)
    other = Layout(lanes=24, batch_size=40)
    resumed = resume(position_after(dealing, counts, 0), counts, other, seed=0)
    assert resumed.dealing == whole_epoch(counts, other, seed=0, epoch=3)
    assert resumed.is_whole and "where an epoch begins" in resumed.note


def test_a_position_of_another_seed_or_corpus_is_refused():
    counts = [50]
    position = position_after(whole_epoch(counts, Layout(lanes=4, batch_size=2), seed=0, epoch=0), counts, 1)
    with pytest.raises(ConfigError, match=r"belongs to seed 0, this stream has 1"):
        resume(position, counts, position.layout, seed=1)
    with pytest.raises(ConfigError, match=r"belongs to num_pairs 50, this stream has 51"):
        resume(position, [51], position.layout, seed=0)
    with pytest.raises(ConfigError, match="no position of a stream"):
        StreamPosition.from_json({"epoch": 1})
    with pytest.raises(ConfigError, match="no position of a stream"):
        StreamPosition.from_json({**position.to_json(), "surprise": 1})
    with pytest.raises(ConfigError, match="block is 0; it must be at least 1"):
        Layout(lanes=1, batch_size=1, block=0)


@pytest.mark.parametrize(
    ("world", "workers", "num_pairs", "lanes"),
    [
        (1, 0, 10**6, 24), (4, 4, 10**6, 24), (3, 3, 10**6, 24), (5, 1, 10**6, 25), (8, 4, 10**6, 32),
        (64, 2, 10**6, 128), (1, 2, 100, 4), (2, 4, 100, 4), (3, 0, 100, 6), (1, 4, 10, 1), (4, 0, 10, 4),
    ],
)  # fmt: skip
def test_lanes_are_a_multiple_of_the_ranks_and_enough_for_the_workers(world, workers, num_pairs, lanes):
    assert num_lanes(world, workers, num_pairs) == lanes


def test_cutting_keeps_the_places_of_shards():
    dealing = whole_epoch([4, 4], Layout(lanes=1, batch_size=1), seed=0, epoch=0)
    first, second = (segment.shard for segment in dealing.segments)
    assert dealing.cut(3, 6) == [Segment(first, 3, 4), Segment(second, 0, 2)]
    assert dealing.cut(4, 8) == [Segment(second, 0, 4)]
    assert dealing.cut(2, 2) == []
