"""The location of pair shards: a folder, a URL or a brace pattern; the number of pairs in each, and ranged reads."""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import braceexpand
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbert import ConfigError, ManifestError, ShardError
from mbert.manifests.files import read_json
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, PairRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import PAIRS_CLIPS, PAIRS_INDEX
from mbert.shards.remote import Retry, fetch_file, is_url, read_range
from mbert.shards.writer import TAR_HASH_ENTRY

_FOOTERS_AT_ONCE = 16
_EXAMPLE = "write it like pairs/{000000..000099}.tar"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Exclusion:
    """The pairs excluded from a source, and what remains; created by `without_subjects`."""

    patterns: tuple[str, ...]
    kept: tuple[bytes, ...]  # per shard: one bit per row of its twin
    num_pairs: int  # excluded
    num_unnamed: int  # kept without a subject, although single people of their dataset are excluded

    def kept_rows(self, shard: int, num_rows: int) -> list[int]:
        """The kept ones of the rows of a twin, ascending."""
        bits = np.frombuffer(self.kept[shard], np.uint8)
        rows: list[int] = np.flatnonzero(np.unpackbits(bits, count=num_rows)).tolist()
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardSource:
    """The pair shards of a corpus, wherever they are. Elsewhere, a shard is identified by its index in `tars`."""

    where: str  # as the user gave it
    tars: tuple[str, ...]  # paths or URLs
    counts: tuple[int, ...]  # pairs in each, without excluded ones
    corpus: str = ""  # fingerprint of the crops: from pairs.json, for a pattern from its tars
    pairs: str = ""  # fingerprint of the pairs: which crops, and in which order
    labels: str | None = None  # the labels behind its expressions, see `digest_of_frames`
    subjects: tuple[str, ...] | None = None  # None: unknown, without a pairs.json
    cache: Path | None = None
    retry: Retry = dataclasses.field(default_factory=Retry)
    exclusion: Exclusion | None = None  # None: everybody's pairs are included

    @property
    def num_pairs(self) -> int:
        """Pairs in all shards, without excluded ones."""
        return sum(self.counts)

    @property
    def counted_pairs(self) -> str:
        """The number of pairs, in words, for messages."""
        return f"{self.num_pairs} pairs" + (" without the excluded subjects" if self.exclusion else "")

    def name(self, shard: int) -> str:
        """The tar's name without its folder, for reports."""
        return self.tars[shard].rpartition("/")[2].removesuffix(".tar")

    def read(self, shard: int, start: int, stop: int | None) -> bytes:
        """The bytes `[start, stop)` of a tar, or fewer if it ends earlier; None: to its end.

        With a cache the whole tar is downloaded first, about 65 MB by default. Raises ShardError naming tar and reason.
        """
        tar = self.tars[shard]
        if is_url(tar) and self.cache is None:
            return read_range(tar, start, stop, retry=self.retry)
        path = self._local(tar)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                return file.read(-1 if stop is None else stop - start) or b""
        except OSError as exc:
            raise ShardError(
                f"{tar} cannot be opened ({exc.strerror}) although pairs.json or its pattern names it: "
                "run `mbert shard --pairs` again"
            ) from exc

    def read_twin(self, shard: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a shard's rows. Raises ShardError naming the twin if it is missing or damaged."""
        twin = _twin(self.tars[shard])
        try:
            return read_table(self._open(twin), PairRow, columns=columns)
        except ManifestError as exc:
            raise ShardError(str(exc)) from exc

    def read_clips(self) -> list[ClipRow]:
        """The clips of the pairs, with whose faces they show. Raises ShardError if their manifest is missing."""
        folders = dict.fromkeys(tar.rpartition("/")[0] or "." for tar in self.tars)
        try:
            # Never from the cache: who is shown may be corrected while the pairs stay the same.
            files = [open_manifest(f"{folder}/{PAIRS_CLIPS}", self.retry) for folder in folders]
            return [row for file in files for row in read_rows(file, ClipRow)]
        except ManifestError as exc:
            raise ShardError(f"the manifest that says whose faces the pairs in {self.where} show: {exc}") from exc

    def _local(self, file: str) -> Path:
        if not is_url(file):
            return _as_path(file)
        assert self.cache is not None
        return fetch_file(file, self.cache, retry=self.retry)

    def _open(self, file: str) -> "Path | _Fetched":
        if is_url(file) and self.cache is None:
            return _Fetched(file, self.retry)
        return self._local(file)


def open_manifest(where: str | Path, retry: Retry | None = None) -> "Path | _Fetched":
    """A manifest for `read_rows`: a path unchanged, the content behind a URL. Raises ShardError naming the URL."""
    return _Fetched(str(where), retry or Retry()) if is_url(str(where)) else _as_path(str(where))


class _Fetched(io.BytesIO):
    """A whole small file in memory that shows its URL in messages."""

    def __init__(self, url: str, retry: Retry) -> None:
        super().__init__(read_range(url, 0, None, retry=retry))
        self._url = url

    def __str__(self) -> str:
        return self._url


def open_source(where: str | Path, *, cache: Path | None = None, retry: Retry | None = None) -> ShardSource:
    """Find shards: a folder or URL that holds pairs.json, a path or URL of one, or a brace pattern of tars.

    `cache` is a folder for whole copies of shards behind URLs; it takes as much space as the shards do. Raises
    ShardError or ManifestError naming what was searched and where, ConfigError for an invalid pattern.
    """
    where, retry = str(where), retry or Retry()
    if "{" in where or where.endswith(".tar"):
        return _from_pattern(where, cache, retry)
    index = where if where.endswith(".json") else f"{where.rstrip('/')}/{PAIRS_INDEX}"
    return _from_index(where, index, cache, retry)


def _from_index(where: str, index: str, cache: Path | None, retry: Retry) -> ShardSource:
    try:
        options, num_pairs, names = _read_index(index, retry)
        folder = index.rpartition("/")[0] or "."
        size = int(options["options"]["pairs_per_shard"])
        counts = [min(size, num_pairs - start) for start in range(0, num_pairs, size)]
        counts = options.get("counts", counts)  # present if pairs were removed from shards
        source = ShardSource(
            where=where,
            tars=tuple(f"{folder}/{name}.tar" for name in names),
            counts=tuple(counts),
            corpus=str(options["corpus"]),
            pairs=str(options["plan"]),
            labels=options.get("labels"),
            subjects=tuple(options["subjects"]),
            cache=_cache_of(cache, str(options["plan"])),
            retry=retry,
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise ManifestError(f"{index} is not an index of pair shards of this version ({exc!r})") from exc
    if len(counts) != len(names):
        raise ManifestError(f"{index} names {len(names)} shards, its {num_pairs} pairs fill {len(counts)}")
    return source


def _read_index(index: str, retry: Retry) -> tuple[dict[str, Any], int, list[str]]:
    if is_url(index):
        found = json.loads(read_range(index, 0, None, retry=retry))
    elif not _as_path(index).exists():
        folder = _as_path(index).parent
        raise ShardError(
            f"there are no finished pair shards in {folder}, no {_as_path(index).name}: run `mbert shard --pairs` "
            "first, after `mbert ingest`"
        )
    else:
        found = read_json(_as_path(index))
    if found["schema"] != SCHEMA_VERSION:
        raise ManifestError(
            f"{index} has schema {found['schema']}, this version of mbert reads {SCHEMA_VERSION}: "
            "run `mbert shard --pairs --overwrite`"
        )
    return found, int(found["num_pairs"]), list(found["shards"])


def _from_pattern(where: str, cache: Path | None, retry: Retry) -> ShardSource:
    """The tars of a pattern, counted by the footers of their twins."""
    try:
        tars = list(braceexpand.braceexpand(where))
    except ValueError as exc:
        raise ConfigError(f"{where!r} is not a brace pattern ({exc}): {_EXAMPLE}") from exc
    wrong = [tar for tar in tars if not tar.endswith(".tar")]
    if wrong or len(set(tars)) < len(tars):
        what = f"names {wrong[0]!r}, which is not a .tar" if wrong else "names a tar twice"
        raise ConfigError(f"the pattern {where!r} {what}: {_EXAMPLE}")
    source = ShardSource(where=where, tars=tuple(tars), counts=(), retry=retry)

    def read_footer(tar: str) -> tuple[int, str]:
        twin = _twin(tar)
        try:
            with pq.ParquetFile(source._open(twin)) as file:
                return int(file.metadata.num_rows), file.metadata.metadata[TAR_HASH_ENTRY.encode()].decode()
        except (OSError, ShardError, pa.ArrowInvalid, KeyError, TypeError) as exc:
            reason = "it does not exist" if isinstance(exc, FileNotFoundError) else exc
            raise ShardError(
                f"{where} names {len(tars)} shards, but {twin} cannot be read as a manifest of pairs ({reason}): "
                "each tar needs its Parquet twin next to it"
            ) from exc

    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as threads:
        footers = list(threads.map(read_footer, tars))
    corpus = hashlib.sha256("".join(digest for _, digest in footers).encode()).hexdigest()
    counts = tuple(count for count, _ in footers)
    return dataclasses.replace(source, counts=counts, corpus=corpus, pairs=corpus, cache=_cache_of(cache, corpus))


def _cache_of(cache: Path | None, pairs: str) -> Path | None:
    """A separate folder for each set of pairs: the same URL may hold another one tomorrow.

    A server's name for its pairs is only used if it is a hash.
    """
    name = pairs if re.fullmatch("[0-9a-f]{64}", pairs) else hashlib.sha256(pairs.encode()).hexdigest()
    return None if cache is None else cache / name[:16]


def _twin(tar: str) -> str:
    return f"{tar.removesuffix('.tar')}.parquet"


def _as_path(where: str) -> Path:
    return Path(where.removeprefix("file://"))
