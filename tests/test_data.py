import itertools
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pytest
import torch

from mbert import ShardError
from mbert.manifests.schema import PairRow
from mbert.manifests.store import read_table
from mbert.manifests.workspace import twin_paths
from mbert.model.data import batches, normalize, resize
from mbert.shards.image import decode_jpeg
from mbert.shards.pair import FramePair
from mbert.shards.reader import list_shards, read_expressions, stream_pairs


def rows_of(folder):
    return pa.concat_tables([read_table(twin_paths(folder, name)[1], PairRow) for name in list_shards(folder)])


def keys_of(folder, *, seed=0, epoch=0):
    return [pair.key for pair in stream_pairs(folder, list_shards(folder), seed=seed, epoch=epoch)]


def test_an_epoch_yields_every_pair_once(corpus):
    keys = keys_of(corpus.pairs)
    assert len(keys) > 200
    assert sorted(keys) == sorted(rows_of(corpus.pairs)["key"].to_pylist())


def test_the_order_follows_seed_and_epoch(corpus):
    first = keys_of(corpus.pairs)
    assert keys_of(corpus.pairs) == first
    assert keys_of(corpus.pairs, epoch=1) != first
    assert keys_of(corpus.pairs, seed=1) != first


def test_missing_shards_are_named(corpus, tmp_path):
    with pytest.raises(ShardError, match="run `mbert shard --pairs` first"):
        list_shards(tmp_path)
    folder = tmp_path / "pairs"
    shutil.copytree(corpus.pairs, folder)
    twin_paths(folder, "000001")[0].unlink()
    with pytest.raises(ShardError, match=r"000001\.tar cannot be opened"):
        keys_of(folder)


def test_expressions_are_the_onset_apex_pairs_with_their_bytes(corpus):
    found = read_expressions(corpus.pairs, list_shards(corpus.pairs))
    expected = sorted(row["key"] for row in rows_of(corpus.pairs).to_pylist() if row["kind"] == "onset_apex")
    assert [row.key for row, _ in found] == expected
    row, pair = found[0]
    with tarfile.open(twin_paths(corpus.pairs, row.shard)[0]) as archive:
        assert archive.extractfile(f"{row.key}.t0.jpg").read() == pair.t0_jpeg
        assert archive.extractfile(f"{row.key}.t1.jpg").read() == pair.t1_jpeg


def test_skipping_batches_gives_what_would_have_come_next(corpus):
    def stream(skip, count):
        stream = batches(
            corpus.pairs, list_shards(corpus.pairs), batch_size=50, image_size=32, seed=0, skip_batches=skip
        )
        return list(itertools.islice(stream, count))

    whole, rest = stream(0, 10), stream(7, 3)  # more than one epoch
    assert [batch.keys for batch in rest] == [batch.keys for batch in whole[7:]]
    assert all(torch.equal(one.t0, two.t0) for one, two in zip(rest, whole[7:], strict=True))
    assert all(torch.equal(one.t1, two.t1) for one, two in zip(rest, whole[7:], strict=True))


def test_both_frames_of_a_pair_are_flipped_together(corpus):
    shards = list_shards(corpus.pairs)
    batch = next(batches(corpus.pairs, shards, batch_size=64, image_size=224, seed=0))
    pairs = {pair.key: pair for pair in stream_pairs(corpus.pairs, shards, seed=0, epoch=0)}
    flipped = []
    for index, key in enumerate(batch.keys):
        t0, t1 = pairs[key].images()
        mine = batch.t0[index].permute(1, 2, 0).numpy(), batch.t1[index].permute(1, 2, 0).numpy()
        is_flipped = not np.array_equal(mine[0], t0)
        step = -1 if is_flipped else 1
        assert np.array_equal(mine[0], t0[:, ::step])
        assert np.array_equal(mine[1], t1[:, ::step])
        flipped.append(is_flipped)
    assert len(batch.keys) == 64
    assert 15 < sum(flipped) < 49


def test_normalisation_is_that_of_the_released_checkpoint():
    images = torch.tensor([0, 255, 128], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert normalize(images).flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_resizing_averages_and_leaves_the_same_size_alone():
    image = np.repeat(np.repeat(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), 2, axis=0), 2, axis=1)
    image[0, 0] += 4
    assert resize(image, 8) is image
    assert resize(image, 4)[0, :2].tolist() == [[1, 2, 3], [3, 4, 5]]


def test_damaged_pairs_are_named():
    with pytest.raises(ShardError, match=r"lacks t1\.jpg, json"):
        FramePair.from_sample({"__key__": "a", "__url__": "x.tar", "t0.jpg": b""})
    with pytest.raises(ShardError, match="pair a-b: not a JPEG"):
        FramePair("a-b", b"no", b"no", {}).images()
    with pytest.raises(ShardError, match=r"key 'a\.b' has characters outside"):
        FramePair("a.b", b"", b"", {})
    with pytest.raises(ShardError, match="not a JPEG"):
        decode_jpeg(b"")
