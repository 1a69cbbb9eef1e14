"""Shards without some people: who that is, and that the loader does everything as before with the others."""

import itertools
import shutil

import pytest
import torch

from mbert import ConfigError, ShardError
from mbert.manifests.schema import PairRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import twin_paths
from mbert.model.data.loader import PairLoader
from mbert.shards.exclude import without_subjects
from mbert.shards.order import Segment, StreamPosition
from mbert.shards.reader import PairReader
from mbert.shards.source import open_source

COUNTS = [60, 60, 60, 60, 60, 17]
# Shard 1 is s02's alone; elsewhere excluded pairs stand alone, in rows, first and last.
PEOPLE = [
    *("casme2/s02", "casme2/s01", "casme2/s01", "samm/s01", "casme2", "casme2/s02") * 10,
    *["casme2/s02"] * 60,
    *["samm/s02", "casme2/s01", "samm"] * 20,
    *["samm/s01", "samm/s02", "casme2/s02"] * 20,
    *["casme2"] * 30 + ["samm/s01"] * 30,
    *["samm/s02"] * 16 + ["casme2/s02"],
]
EXCLUDED = "casme2/s02"
KEPT = {number for number, person in enumerate(PEOPLE) if person != EXCLUDED}  # 216: 24 lanes of 9, nothing left


@pytest.fixture(scope="module")
def folder(write_pairs, tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), COUNTS, subjects=PEOPLE)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def source_of(folder, *patterns):
    return without_subjects(open_source(folder), patterns or (EXCLUDED,))


def loader_of(source, **options):
    return PairLoader(source, **{"batch_size": 24, "image_size": 24, "seed": 0, "block": 8, "max_bad": 0, **options})


def take(loader, count):
    batches = iter(loader)
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def numbers(keys):
    return [int(key.split("_c")[1][:5]) for key in keys]


def rows_of(folder):
    return [row for shard in range(6) for row in read_rows(twin_paths(folder, f"{shard:06d}")[1], PairRow)]


def damage(folder, wanted):
    """Make the t0 frames of some pairs unreadable."""
    for number, row in enumerate(rows_of(folder)):
        if number in wanted:
            with twin_paths(folder, row.shard)[0].open("r+b") as file:
                file.seek(row.t0_offset)
                file.write(b"no image")


@pytest.fixture(scope="module")
def reference(folder):
    """Two epochs of one process."""
    return take(loader_of(source_of(folder)), 18)


def test_each_kept_pair_comes_once_in_an_epoch_and_no_other(folder, reference):
    source = source_of(folder)
    assert source.counts == (40, 0, 60, 40, 60, 16)
    assert source.subjects == ("casme2/s01", "samm/s01", "samm/s02")
    assert source.exclusion.num_pairs == sum(COUNTS) - len(KEPT) == 101
    loader = loader_of(source)
    assert (loader.steps_per_epoch, loader.num_dropped) == (9, 0)
    epochs = [[number for batch in reference[start : start + 9] for number in numbers(batch.keys)] for start in (0, 9)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(KEPT)] * 2
    assert epochs[0] != epochs[1]


def test_any_range_of_kept_pairs_is_read_with_its_bytes(folder):
    everything = PairReader(open_source(folder)).read([Segment(shard, 0, count) for shard, count in enumerate(COUNTS)])
    kept = [pair for number, pair in enumerate(everything) if number in KEPT]
    reader = PairReader(source_of(folder))
    assert reader.read([Segment(0, 0, 40), Segment(1, 0, 0), Segment(2, 0, 60), Segment(5, 13, 16)]) == (
        kept[:100] + kept[-3:]
    )
    assert reader.read([Segment(0, 7, 9), Segment(3, 39, 40)]) == [*kept[7:9], kept[139]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("world", "workers"), [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)])
def test_ranks_and_workers_do_not_change_the_global_batches(folder, reference, world, workers):
    source = source_of(folder)
    ranks = [take(loader_of(source, rank=rank, world=world, workers=workers), 10) for rank in range(world)]
    for batches, theirs in zip(zip(*ranks, strict=True), reference, strict=False):
        keys = [key for row in zip(*(batch.keys for batch in batches), strict=True) for key in row]
        assert keys == theirs.keys
        assert torch.equal(torch.stack([batch.t0 for batch in batches], 1).flatten(0, 1), theirs.t0)
    assert [len(batches) for batches in ranks] == [10] * world


def test_excluded_pairs_are_never_decoded_nor_their_shards_opened(copy, reference):
    damage(copy, set(range(sum(COUNTS))) - KEPT)
    twin_paths(copy, "000001")[0].unlink()
    for mine, theirs in zip(take(loader_of(source_of(copy)), 18), reference, strict=True):
        assert mine.keys == theirs.keys
        assert torch.equal(mine.t1, theirs.t1)


@pytest.mark.parametrize("step", [4, 9, 13])
def test_a_position_gives_the_batches_that_would_have_come(folder, reference, step):
    loader = loader_of(source_of(folder))
    take(loader, step)
    resumed = loader_of(source_of(folder), workers=1, position=StreamPosition.from_json(loader.position.to_json()))
    assert resumed.resumed == "resumed exactly"
    for mine, theirs in zip(take(resumed, 5), reference[step:], strict=False):
        assert mine.keys == theirs.keys
        assert torch.equal(mine.t0, theirs.t0)


def test_a_position_with_other_people_is_refused(folder):
    with pytest.raises(ConfigError, match="belongs to num_pairs 216, this stream has 317"):
        loader_of(open_source(folder), position=loader_of(source_of(folder)).position)


def test_only_kept_pairs_stand_in_for_damaged_ones(copy, reference):
    # All kept pairs of shards 0, 2 and 3: blocks without a good pair look for one far away.
    lost = {number for number in KEPT if number < 240}
    damage(copy, lost)
    batches = take(loader_of(source_of(copy), max_bad=1), 9)
    found = [number for batch in batches for number in numbers(batch.keys)]
    assert set(found) == KEPT - lost
    assert sorted(number for batch in batches for number in numbers(pair.key for pair in batch.bad)) == sorted(lost)
    expected = [number for batch in reference[:9] for number in numbers(batch.keys)]
    assert [mine for mine, theirs in zip(found, expected, strict=True) if theirs not in lost] == [
        number for number in expected if number not in lost
    ]


@pytest.mark.parametrize(
    ("patterns", "excluded", "num_unnamed"),
    [
        (["casme2/s02"], {"casme2/s02"}, 40),
        (["casme2"], {"casme2/s01", "casme2/s02", "casme2"}, 0),
        (["casme2", "samm/s01"], {"casme2/s01", "casme2/s02", "casme2", "samm/s01"}, 20),
        (["samm/s01", "casme2/s01", "samm/s01"], {"samm/s01", "casme2/s01"}, 60),
        (["samm"], {"samm/s01", "samm/s02", "samm"}, 0),
    ],
)
def test_a_pattern_is_a_subject_or_a_dataset_with_its_unnamed_clips(folder, patterns, excluded, num_unnamed):
    kept = [person for person in PEOPLE if person not in excluded]
    for where in (folder, f"{folder}/{{000000..000005}}.tar"):
        source = source_of(where, *patterns)
        assert source.subjects == tuple(sorted({person for person in kept if "/" in person}))
        assert (source.num_pairs, source.exclusion.num_unnamed) == (len(kept), num_unnamed)
        items = PairReader(source).read([Segment(shard, 0, count) for shard, count in enumerate(source.counts)])
        assert [PEOPLE[number] for number in numbers(item.key for item in items)] == kept


def test_without_patterns_the_source_is_the_same_one(folder):
    source = open_source(folder)
    assert without_subjects(source, ()) is source


def test_nobody_knows_a_pattern(folder, write_pairs, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"exclude_subjects names 'casme2/s0', 'casme3', of whom there is no pair in \S+; "
        r"its datasets: casme2, samm; its subjects: casme2/s01, casme2/s02, samm/s01, samm/s02$",
    ):
        source_of(folder, "casme3", "casme2/s01", "casme2/s0")
    crowd = write_pairs(tmp_path, [30], subjects=[f"videos/s{number:02d}" for number in range(30)])
    with pytest.raises(ConfigError, match=r"videos/s09 and 20 more$"):
        source_of(crowd, "")
    unnamed = write_pairs(tmp_path / "unnamed", [30], subjects=["samm", "casme3"])
    with pytest.raises(ConfigError, match="its datasets: casme3, samm; its subjects: none is known"):
        source_of(unnamed, "samm/s01")
    assert source_of(unnamed, "samm").counts == (15,)


def test_too_few_are_left(folder):
    with pytest.raises(ConfigError, match=r"leaves nothing: all 317 pairs in \S+ are of casme2, samm; exclude fewer"):
        source_of(folder, "casme2", "samm")
    with pytest.raises(ConfigError, match=r"batch_size is 240, but \S+ holds 216 pairs without the excluded subjects"):
        loader_of(source_of(folder), batch_size=240)


def test_a_twin_that_does_not_say_whose_pairs_there_are_is_an_error(copy):
    shutil.copy(twin_paths(copy, "000005")[1], twin_paths(copy, "000002")[1])
    with pytest.raises(ShardError, match="the twin of shard 000002 has 17 rows instead of 60"):
        source_of(copy)
    twin_paths(copy, "000002")[1].unlink()
    with pytest.raises(ShardError, match=r"000002\.parquet does not exist"):
        source_of(copy)


def test_a_twin_that_lost_rows_since_gives_bad_pairs(copy):
    source = source_of(copy)
    shutil.copy(twin_paths(copy, "000005")[1], twin_paths(copy, "000002")[1])
    items = PairReader(source).read([Segment(2, 0, 60)])
    assert "rows instead of at least 60" in items[59].reason
