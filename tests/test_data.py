"""The loader on real shards and real worker processes."""

import itertools
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch

from mbert import ConfigError, ModelError, ShardError
from mbert.manifests.workspace import twin_paths
from mbert.model.data.loader import PairLoader
from mbert.model.data.pixels import normalize, resize
from mbert.shards.order import StreamPosition
from mbert.shards.source import open_source

COUNTS = [60] * 5 + [17]  # 317 pairs: 24 lanes of 13, 5 left


@pytest.fixture(scope="module")
def folder(write_pairs, tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), COUNTS)


@pytest.fixture(scope="module")
def source(folder):
    return open_source(folder)


def loader_of(source, **options):
    return PairLoader(source, **{"batch_size": 24, "image_size": 24, "seed": 0, "block": 8, **options})


def take(loader, count):
    batches = iter(loader)
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def assert_equal(one, other):
    assert (one.keys, one.epoch, one.step, one.bad) == (other.keys, other.epoch, other.step, other.bad)
    for name in ("t0", "t1", "draws"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def joined(ranks):
    """Global batches out of what the ranks got: rank r has every world-th pair from r on."""
    return [
        {
            "keys": [key for row in zip(*(batch.keys for batch in batches), strict=True) for key in row],
            "t0": torch.stack([batch.t0 for batch in batches], 1).flatten(0, 1),
            "draws": torch.stack([batch.draws for batch in batches], 1).flatten(0, 1),
        }
        for batches in zip(*ranks, strict=True)
    ]


@pytest.fixture(scope="module")
def reference(source):
    """Two epochs of one process."""
    loader = loader_of(source)
    return take(loader, 2 * loader.steps_per_epoch)


def test_an_epoch_yields_every_pair_once_but_the_stated_rest(source, reference):
    loader = loader_of(source)
    assert (loader.steps_per_epoch, loader.num_dropped) == (13, 5)
    epochs = [[key for batch in reference[start : start + 13] for key in batch.keys] for start in (0, 13)]
    assert [len(keys) for keys in epochs] == [312, 312]
    assert [len(set(keys)) for keys in epochs] == [312, 312]
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])  # other pairs are dropped
    assert [(batch.epoch, batch.step) for batch in reference] == [(e, step) for e in (0, 1) for step in range(13)]


def test_another_seed_gives_another_order(source, reference):
    assert take(loader_of(source, seed=1), 1)[0].keys != reference[0].keys


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine may have cores
@pytest.mark.parametrize(("world", "workers"), [(1, 1), (1, 2), (1, 3), (1, 4), (2, 0), (3, 2), (4, 1)])
def test_ranks_and_workers_do_not_change_the_global_batches(source, reference, world, workers):
    count = 15  # beyond the end of an epoch
    ranks = [take(loader_of(source, rank=rank, world=world, workers=workers), count) for rank in range(world)]
    assert [len(batches) for batches in ranks] == [count] * world
    for mine, theirs in zip(joined(ranks), joined([reference[:count]]), strict=True):
        assert mine["keys"] == theirs["keys"]
        assert torch.equal(mine["t0"], theirs["t0"])
        assert torch.equal(mine["draws"], theirs["draws"])


def test_fewer_shards_than_ranks_feed_all_of_them(write_pairs, tmp_path):
    source = open_source(write_pairs(tmp_path, [200, 100]))
    loaders = [loader_of(source, rank=rank, world=4, workers=rank % 2) for rank in range(4)]
    assert {loader.steps_per_epoch for loader in loaders} == {12}
    ranks = [take(loader, 12) for loader in loaders]
    keys = [key for batches in ranks for batch in batches for key in batch.keys]
    assert len(keys) == len(set(keys)) == 288


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 7, 13, 20])
def test_a_position_gives_bitwise_the_batches_that_would_have_come(source, reference, step, workers):
    loader = loader_of(source, workers=2 - workers)
    take(loader, step)
    position = StreamPosition.from_json(loader.position.to_json())
    resumed = loader_of(source, workers=workers, position=position)
    assert resumed.resumed == "resumed exactly"
    for mine, theirs in zip(take(resumed, 5), reference[step : step + 5], strict=True):
        assert_equal(mine, theirs)


def test_seeking_and_iterating_again_stand_where_they_say(source, reference):
    loader = loader_of(source)
    loader.seek(15)
    assert_equal(take(loader, 1)[0], reference[15])
    assert_equal(take(loader, 1)[0], reference[16])


def test_a_position_of_two_ranks_serves_three(source, reference):
    loaders = [loader_of(source, rank=rank, world=2) for rank in range(2)]
    for loader in loaders:
        take(loader, 4)
    assert loaders[0].position == loaders[1].position
    ranks = [loader_of(source, rank=rank, world=3, position=loaders[0].position) for rank in range(3)]
    assert [loader.resumed for loader in ranks] == ["resumed exactly"] * 3
    for mine, theirs in zip(joined([take(loader, 3) for loader in ranks]), joined([reference[4:7]]), strict=True):
        assert mine["keys"] == theirs["keys"]


@pytest.mark.parametrize("change", [{"block": 5}, {"batch_size": 36}, {"lanes": 8}, {"world": 5, "batch_size": 25}])
def test_another_layout_loses_nothing_repeats_little_and_says_so(source, reference, change):
    world = change.get("world", 1)
    done = [key for batch in reference[:5] for key in batch.keys]
    before = loader_of(source)
    before.seek(5)
    loaders = [loader_of(source, rank=rank, position=before.position, **change) for rank in range(world)]
    assert {loader.resumed.partition(" (")[0] for loader in loaders} == {"resumed with another layout"}
    num_twice = int(loaders[0].resumed.split(": ")[1].split()[0])
    streams = [iter(loader) for loader in loaders]
    rest = []
    while loaders[0].position.epoch == 0:
        rest += [key for stream in streams for key in next(stream).keys]
    assert len(rest) == len(set(rest))
    num_dropped = 317 - 120 + num_twice - len(rest)
    assert 0 <= num_dropped < 25 + 36
    assert len(set(done) & set(rest)) <= num_twice <= 24 * 7
    assert len(set(done) | set(rest)) >= 317 - num_dropped
    batch = next(streams[0])  # a whole epoch follows
    assert (batch.epoch, batch.step) == (1, 0)
    assert loaders[0].position.segments is None


def test_a_dealt_anew_epoch_can_be_interrupted_again(source):
    before = loader_of(source)
    before.seek(5)
    loader = loader_of(source, block=5, position=before.position)
    batches = take(loader, 4)
    again = loader_of(source, block=5, position=StreamPosition.from_json(loader.position.to_json()))
    assert again.resumed == "resumed exactly"
    whole = take(loader_of(source, block=5, position=before.position), 8)
    for mine, theirs in zip(batches + take(again, 4), whole, strict=True):
        assert_equal(mine, theirs)


def test_what_is_left_of_an_epoch_may_be_less_than_a_batch(source):
    before = loader_of(source, batch_size=1)
    before.seek(312 - 1)
    loader = loader_of(source, batch_size=240, position=before.position)
    assert "pairs left of epoch 0 fill no batch: on with the next epoch" in loader.resumed
    assert take(loader, 1)[0].epoch == 1


def test_a_position_of_another_seed_is_refused(source):
    with pytest.raises(ConfigError, match="belongs to seed 0, this stream has 3"):
        loader_of(source, seed=3, position=loader_of(source).position)


def damaged_copy(folder, tmp_path, *, name="copy"):
    copy = tmp_path / name
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy in which the t1 frame of pair 30 of shard 2 is no JPEG any more. Returns (folder, key)."""
    from mbert.manifests.schema import PairRow
    from mbert.manifests.store import read_table

    copy = damaged_copy(folder, tmp_path)
    tar, twin = twin_paths(copy, "000002")
    row = read_table(twin, PairRow).to_pylist()[30]
    with tar.open("r+b") as file:
        file.seek(row["t1_offset"])
        file.write(b"no image")
    return copy, row["key"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named_and_a_good_neighbour_takes_its_place(damaged, reference, workers):
    copy, key = damaged
    loader = loader_of(open_source(copy), workers=workers, max_bad=0.01)
    batches = take(loader, 13)
    assert [len(batch.keys) for batch in batches] == [24] * 13
    bad = [pair for batch in batches for pair in batch.bad]
    assert [(pair.shard, pair.key) for pair in bad] == [("000002", key)]
    assert "not a JPEG" in bad[0].reason
    changed = [
        (mine, theirs)
        for one, other in zip(batches, reference[:13], strict=True)
        for mine, theirs in zip(one.keys, other.keys, strict=True)
        if mine != theirs
    ]
    assert [theirs for _, theirs in changed] == [key]
    assert sum(changed[0][0] in batch.keys for batch in batches) == 2
    # The same one comes where reading begins in the middle.
    step = next(index for index, batch in enumerate(batches) if batch.bad)
    resumed = loader_of(open_source(copy), max_bad=0.01)
    resumed.seek(step)
    assert_equal(take(resumed, 1)[0], batches[step])


def test_a_truncated_tar_costs_its_own_pairs_only(folder, tmp_path, reference):
    copy = damaged_copy(folder, tmp_path)
    tar, _ = twin_paths(copy, "000001")
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    loader = loader_of(open_source(copy), max_bad=0.2)
    batches = take(loader, 13)
    lost = {pair.key for batch in batches for pair in batch.bad}
    assert 25 < len(lost) < 33
    assert {pair.shard for batch in batches for pair in batch.bad} == {"000001"}
    for mine, theirs in zip(batches, reference[:13], strict=True):
        assert [one for one, other in zip(mine.keys, theirs.keys, strict=True) if other not in lost] == [
            key for key in theirs.keys if key not in lost
        ]
    resumed = loader_of(open_source(copy), max_bad=0.2)
    for step in (3, 9):
        resumed.seek(step)
        assert_equal(take(resumed, 1)[0], batches[step])


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_pairs_stop_with_the_list(folder, tmp_path, workers):
    copy = damaged_copy(folder, tmp_path)
    twin_paths(copy, "000003")[0].unlink()
    loader = loader_of(open_source(copy), workers=workers, max_bad=0.02)
    with pytest.raises(ShardError) as caught:
        take(loader, 13)
    message = str(caught.value)
    assert "more than the 7 that max_bad 0.02 allows" in message
    assert "in shard 000003" in message and "000003.tar cannot be opened" in message
    assert "more of this shard" in message and "mbert verify" in message
    assert message.count("cannot be opened") == 1
    assert len(loader.bad) > 7
    assert multiprocessing.active_children() == []  # although the traceback is still at hand
    assert len(take(loader_of(open_source(copy), max_bad=0.3), 13)) == 13  # allowed: it goes on


def test_a_bad_pair_is_refused_where_none_is_allowed(damaged):
    with pytest.raises(ShardError, match="more than the 0 that max_bad 0 allows"):
        take(loader_of(open_source(damaged[0]), max_bad=0), 13)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_without_a_good_pair_stop_with_our_error(folder, tmp_path, workers):
    copy = damaged_copy(folder, tmp_path)
    for tar in copy.glob("*.tar"):
        tar.unlink()
    with pytest.raises(ShardError, match=r"no pair in .* is good: run `mbert verify`"):
        take(loader_of(open_source(copy), workers=workers, max_bad=1), 1)


def test_a_worker_that_is_killed_is_told(source):
    loader = loader_of(source, workers=2)
    batches = iter(loader)
    next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    with pytest.raises(ModelError, match=r"a process that loads pairs died .*fewer than 2 workers"):
        workers[0].kill()
        for _ in range(50):
            next(batches)


def test_a_worker_that_dies_during_a_step_is_told_when_the_next_batch_is_asked_for(source):
    batches = iter(loader_of(source, workers=2))
    next(batches)
    worker = multiprocessing.active_children()[0]
    worker.kill()
    worker.join()  # stands for the step: nothing is raised in it
    with pytest.raises(ModelError, match=rf"a process that loads pairs died \({worker.pid}, exit code -9\)"):
        next(batches)


def test_nothing_is_left_running_after_a_run(folder):
    code = (
        "import sys\n"
        "from mbert.model.data.loader import PairLoader\n"
        "from mbert.shards.source import open_source\n"
        "loader = PairLoader(open_source(sys.argv[1]), batch_size=24, image_size=24, seed=0, workers=2)\n"
        "print(next(iter(loader)).t0.shape[0])\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(folder)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "24\n", "")


def test_a_batch_stays_what_it_was_when_the_next_ones_come(source):
    batches = iter(loader_of(source, workers=1))
    first = next(batches)
    before = first.t0.clone(), first.t1.clone()
    for _ in range(8):
        next(batches)
    assert torch.equal(first.t0, before[0]) and torch.equal(first.t1, before[1])
    batches.close()


def test_frames_are_those_of_the_shards(source, reference):
    from conftest import pair_image

    batch = reference[0]
    assert batch.t0.shape == batch.t1.shape == (24, 3, 24, 24)
    assert batch.t0.dtype == torch.uint8
    number = int(batch.keys[5].split("_c")[1][:5])
    for frame, is_t1 in ((batch.t0[5], False), (batch.t1[5], True)):
        drawn = pair_image(number, is_t1=is_t1, size=24).transpose(2, 0, 1)
        assert np.abs(frame.numpy().astype(int) - drawn).max() <= 3  # JPEG
    assert take(loader_of(source, image_size=12), 1)[0].t0.shape == (24, 3, 12, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 400}, r"batch_size is 400, but .* holds 317 pairs, of which 312 can be dealt"),
        ({"world": 5}, "batch_size is 24; it must be a multiple of the 5 ranks"),
        ({"world": 2, "lanes": 7}, "lanes is 7; it must be a multiple of the 2 ranks"),
        ({"rank": 1}, r"rank is 1; it must lie in \[0, 1\)"),
        ({"workers": -1}, "workers is -1"),
        ({"max_bad": 2}, "max_bad is 2"),
        ({"block": -3}, "block is -3; it must be at least 1"),
    ],
)
def test_wrong_options_are_refused_before_any_work(source, options, message):
    with pytest.raises(ConfigError, match=message):
        loader_of(source, **options)


def test_normalisation_is_that_of_the_released_checkpoint():
    images = torch.tensor([0, 255, 128], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert normalize(images).flatten().tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(normalize(images.float()), normalize(images))


def test_one_channel_is_the_luma_with_the_mean_statistics():
    images = torch.tensor([10, 200, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    luma = (0.299 * 10 + 0.587 * 200 + 0.114 * 50) / 255
    found = normalize(images, in_chans=1)
    assert found.shape == (1, 1, 1, 1)
    assert found.item() == pytest.approx((luma - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3), rel=1e-5)
    with pytest.raises(ConfigError, match="in_chans is 4; allowed are 3"):
        normalize(images, in_chans=4)


def test_resizing_averages_and_leaves_the_same_size_alone():
    image = np.repeat(np.repeat(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), 2, axis=0), 2, axis=1)
    image[0, 0] += 4
    assert resize(image, 8) is image
    assert resize(image, 4)[0, :2].tolist() == [[1, 2, 3], [3, 4, 5]]
