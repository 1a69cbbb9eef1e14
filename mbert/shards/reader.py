"""Stream frame pairs out of shards, in an order that a seed decides."""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from mbert import ShardError
from mbert.manifests.schema import PairRow
from mbert.manifests.store import read_json, read_table
from mbert.manifests.workspace import twin_paths
from mbert.shards.pair import FramePair

_SHUFFLE_BUFFER = 1024  # pairs in memory, still compressed: about 32 MB


def list_shards(folder: Path) -> list[str]:
    """Names of the finished shards; raises ShardError when `mbert shard --pairs` has not finished here."""
    index = folder / "pairs.json"
    if not index.exists():
        raise ShardError(f"there are no finished pair shards in {folder}: run `mbert shard --pairs` first")
    return list(read_json(index)["shards"])


def stream_pairs(folder: Path, shards: Sequence[str], *, seed: int, epoch: int) -> Iterator[FramePair]:
    """One epoch: every pair once, shards in seeded order, pairs shuffled in a buffer. Another epoch, another order.

    Raises ShardError when a tar is missing or a pair is incomplete.
    """
    rng = random.Random(f"{seed}/{epoch}")
    tars = [twin_paths(folder, shard)[0] for shard in shards]
    rng.shuffle(tars)
    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList([str(tar) for tar in tars]),
        _open_tars,
        tar_file_expander,
        group_by_keys,
        webdataset.shuffle(_SHUFFLE_BUFFER, initial=_SHUFFLE_BUFFER, rng=rng),
    )
    for sample in pipeline:
        yield FramePair.from_sample(sample)


def _open_tars(sources: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """In place of webdataset's opener, which leaves every tar open to the garbage collector."""
    for source in sources:
        try:
            stream = Path(source["url"]).open("rb")  # noqa: SIM115 - closed below, when the next one is asked for
        except OSError as exc:
            raise ShardError(
                f"{source['url']} cannot be opened ({exc.strerror}) although pairs.json names it: "
                "run `mbert shard --pairs` again"
            ) from exc
        with stream:
            yield {**source, "stream": stream}


def read_expressions(folder: Path, shards: Sequence[str]) -> list[tuple[PairRow, FramePair]]:
    """The onset-apex pairs of all shards in key order, each by ranged reads of its two frames."""
    found = []
    for shard in shards:
        tar, twin = twin_paths(folder, shard)
        rows = read_table(twin, PairRow).to_pylist()
        rows = [PairRow(**row) for row in rows if row["kind"] == "onset_apex"]
        if not rows:
            continue
        with tar.open("rb") as file:
            for row in rows:
                frames = []
                for offset, size in ((row.t0_offset, row.t0_size), (row.t1_offset, row.t1_size)):
                    file.seek(offset)
                    frames.append(file.read(size))
                found.append((row, FramePair(row.key, frames[0], frames[1], {})))
    return sorted(found, key=lambda item: item[0].key)
