import shutil
import tarfile

import pyarrow as pa
import pytest

from mbert import ShardError
from mbert.manifests.schema import PairRow
from mbert.manifests.store import read_table
from mbert.manifests.workspace import twin_paths
from mbert.shards.image import decode_jpeg
from mbert.shards.lane import Lane
from mbert.shards.order import Dealing, Layout, Segment
from mbert.shards.pair import FramePair
from mbert.shards.reader import BadPair, PairReader, list_shards, read_all
from mbert.shards.source import open_source


def rows_of(folder):
    return pa.concat_tables([read_table(twin_paths(folder, name)[1], PairRow) for name in list_shards(folder)])


@pytest.fixture(scope="module")
def folder(write_pairs, tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), [30, 30, 11])


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def keys(items):
    return [item.key for item in items]


def overwrite(folder, shard, place, column, data, *, before=0):
    """Write into the tar at a frame of a pair. Returns the pair's key."""
    tar, twin = twin_paths(folder, shard)
    row = read_table(twin, PairRow).to_pylist()[place]
    with tar.open("r+b") as file:
        file.seek(row[column] - before)
        file.write(data)
    return row["key"]


def read_shard(folder, shard=0, count=30):
    return PairReader(open_source(folder)).read([Segment(shard, 0, count)])


def test_any_range_of_pairs_is_read_with_its_bytes(folder):
    rows = rows_of(folder).to_pylist()
    reader = PairReader(open_source(folder))
    found = reader.read([Segment(0, 5, 9), Segment(2, 8, 11), Segment(1, 0, 30), Segment(1, 7, 7)])
    expected = rows[5:9] + rows[68:71] + rows[30:60]
    assert keys(found) == [row["key"] for row in expected]
    with tarfile.open(twin_paths(folder, "000002")[0]) as archive:
        last = expected[6]["key"]
        assert archive.extractfile(f"{last}.t0.jpg").read() == found[6].t0_jpeg
        assert archive.extractfile(f"{last}.t1.jpg").read() == found[6].t1_jpeg
    assert found[6].info == {"key": last}


def test_shards_made_by_the_pipeline_are_read_whole(corpus):
    source = open_source(corpus.pairs)
    found = PairReader(source).read([Segment(shard, 0, count) for shard, count in enumerate(source.counts)])
    assert keys(found) == rows_of(corpus.pairs)["key"].to_pylist()
    assert len(found) > 200
    assert all(isinstance(pair, FramePair) for pair in found)


def test_damage_of_a_header_stays_in_its_pair(copy):
    key = overwrite(copy, "000000", 7, "t0_offset", b"\xff" * 512, before=512)
    found = read_shard(copy)
    assert [index for index, item in enumerate(found) if isinstance(item, BadPair)] == [7]
    assert (found[7].shard, found[7].key) == ("000000", key)
    assert "damaged" in found[7].reason


def test_a_lost_member_is_named(copy):
    key = overwrite(copy, "000000", 3, "t1_offset", b"something.else", before=512)
    found = read_shard(copy)
    assert [str(item) for item in found if isinstance(item, BadPair)] == [
        f"{key} in shard 000000: damaged: pair {key} in 000000 lacks t1.jpg, json"
    ]


def test_another_pair_in_its_place_is_noticed(copy):
    shutil.copy(twin_paths(copy, "000001")[0], twin_paths(copy, "000000")[0])
    found = read_shard(copy)
    assert len([item for item in found if isinstance(item, BadPair)]) == 30
    assert "the tar holds" in found[0].reason or "lacks" in found[0].reason


def test_after_the_end_of_a_truncated_tar_pairs_are_bad_and_named(copy):
    tar, twin = twin_paths(copy, "000001")
    rows = read_table(twin, PairRow).to_pylist()
    tar.write_bytes(tar.read_bytes()[: rows[20]["t1_offset"] + 10])  # within a frame of pair 20
    found = read_shard(copy, 1)
    assert [index for index, item in enumerate(found) if isinstance(item, BadPair)] == list(range(20, 30))
    assert keys(found) == [row["key"] for row in rows]
    assert "lacks t1.jpg" in found[20].reason
    assert found[25].reason == "the tar ends before it"


def test_pairs_of_a_missing_shard_are_named_by_its_twin(copy):
    twin_paths(copy, "000001")[0].unlink()
    found = read_shard(copy, 1)
    assert keys(found) == rows_of(copy)["key"].to_pylist()[30:60]
    assert "000001.tar cannot be opened (No such file or directory)" in found[0].reason
    twin_paths(copy, "000001")[1].unlink()
    found = read_shard(copy, 1)
    assert keys(found) == [None] * 30
    assert "000001.parquet does not exist" in found[0].reason


def test_a_twin_with_too_few_rows_is_told(copy):
    shutil.copy(twin_paths(copy, "000002")[1], twin_paths(copy, "000001")[1])
    found = read_shard(copy, 1)
    assert "its twin has 11 rows instead of at least 30" in found[29].reason


def lane_of(folder, *, block=10, lanes=1):
    """The pairs in the order of their shards, so that blocks of 10 do not cross them."""
    source = open_source(folder)
    segments = tuple(Segment(shard, 0, count) for shard, count in enumerate(source.counts))
    return Lane(source, Dealing(segments, Layout(lanes=lanes, batch_size=1, block=block), 0, 0), 0)


def images(pair):
    return pair.images()[0][0, 0].tolist()


def test_a_lane_gives_each_pair_once_at_any_place(folder):
    taken = [lane_of(folder).take(place, images) for place in (70, 3, 44)]
    lane = lane_of(folder)
    all_taken = [lane.take(place, images) for place in range(71)]
    assert sorted(item.key for item in all_taken) == sorted(rows_of(folder)["key"].to_pylist())
    assert taken == [all_taken[place] for place in (70, 3, 44)]
    assert {item.bad for item in all_taken} == {None}


def test_the_nearest_good_pair_of_the_block_stands_in(copy):
    before = [lane_of(copy).take(place, images).key for place in range(10)]
    places = {key: place for place, key in enumerate(before)}
    key = overwrite(copy, "000000", 4, "t0_offset", b"no image")
    mine = places[key]
    lane = lane_of(copy)
    taken = lane.take(mine, images)
    assert taken.key == before[mine - 1 if mine else 1]
    assert (taken.bad.shard, taken.bad.key) == ("000000", key)
    assert lane.take(mine, images) == taken  # and again


def test_a_block_without_a_good_pair_is_filled_from_the_range_before(copy):
    twin_paths(copy, "000001")[0].unlink()
    lane = lane_of(copy)
    keys_of_first = {row["key"] for row in rows_of(copy).to_pylist()[20:30]}
    taken = [lane.take(place, images) for place in range(30, 60)]
    assert [item.bad is not None for item in taken] == [True] * 30
    assert {item.key for item in taken} <= keys_of_first
    assert len({item.key for item in taken[20:]}) == 10  # not one pair for all
    assert lane_of(copy).take(57, images) == taken[27]  # wherever reading begins
    twin_paths(copy, "000000")[0].unlink()
    assert lane_of(copy).take(0, images).key.endswith("c00060_0000000_0000006")  # nothing before: from behind


def test_all_pairs_of_a_set_come_with_their_rows_and_bytes(corpus):
    found = read_all(open_source(corpus.expressions))
    assert [row.key for row, _ in found] == sorted(rows_of(corpus.expressions)["key"].to_pylist())
    assert len(found) == 18
    for row, pair in found[:3]:
        with tarfile.open(twin_paths(corpus.expressions, row.shard)[0]) as archive:
            assert archive.extractfile(f"{row.key}.t0.jpg").read() == pair.t0_jpeg
            assert archive.extractfile(f"{row.key}.t1.jpg").read() == pair.t1_jpeg
        assert (pair.key, pair.info["sample"], pair.info["t0"]) == (row.key, row.sample, row.t0)


def test_damaged_pairs_of_a_set_that_is_read_whole_are_named(copy):
    tar, _ = twin_paths(copy, "000001")
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"of \d+ pairs in .* cannot be used: .*c00.* in shard 000001.*shard --pairs"):
        read_all(open_source(copy))


def test_missing_shards_are_named(tmp_path):
    with pytest.raises(ShardError, match="run `mbert shard --pairs` first"):
        list_shards(tmp_path)


def test_damaged_pairs_are_named():
    with pytest.raises(ShardError, match=r"lacks t1\.jpg, json"):
        FramePair.from_sample({"__key__": "a", "__url__": "x.tar", "t0.jpg": b""})
    with pytest.raises(ShardError, match="pair a-b: not a JPEG"):
        FramePair("a-b", b"no", b"no").images()
    with pytest.raises(ShardError, match=r"key 'a\.b' has characters outside"):
        FramePair("a.b", b"", b"")
    with pytest.raises(ShardError, match="not a JPEG"):
        decode_jpeg(b"")
