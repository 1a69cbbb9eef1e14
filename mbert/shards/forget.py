"""Remove the pairs of some clips from finished shards; all other bytes of pairs stay the same.

The index is removed first and written last, so that nobody reads shards in between; a shard is written next to the old
one and then replaces it, tar before twin. A killed run resumes where it stopped.
"""

import dataclasses
import hashlib
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from mbert import ShardError
from mbert.manifests.files import read_json, sync_folder, write_json
from mbert.manifests.schema import ClipRow, PairRow, arrow_schema
from mbert.manifests.store import read_extra, read_rows, read_table, write_rows, write_table
from mbert.manifests.workspace import PAIRS_CLIPS, PAIRS_INDEX, twin_paths
from mbert.shards.writer import TAR_HASH_ENTRY, writing_tar

_WORK = ".forget"  # folder for work in progress
_PLAN_ENTRY = "mbert_plan"
_RANGES = ("t0_offset", "t0_size", "t1_offset", "t1_size")


@dataclasses.dataclass(frozen=True, slots=True)
class ForgottenPairs:
    """What was, or would be, removed from a folder of shards."""

    num_pairs: int
    num_shards: int  # that held some of them


def count_pairs(folder: Path, clips: Collection[str]) -> ForgottenPairs:
    """Count the pairs of some clips, and the shards with them."""
    counts = [count for twin in sorted(folder.glob("[0-9]*.parquet")) if (count := _num_of(twin, clips))]
    return ForgottenPairs(sum(counts), len(counts))


def _num_of(twin: Path, clips: Collection[str]) -> int:
    column = read_table(twin, PairRow, columns=["clip_id"])["clip_id"].to_pylist()
    return sum(clip in clips for clip in column)


def forget_pairs(
    folder: Path, clips: Collection[str], renewed: Callable[[dict[str, Any]], dict[str, Any]]
) -> ForgottenPairs:
    """Rewrite the shards of a folder without the pairs of some clips.

    `renewed` returns the index's new facts about the corpus. Shards that become empty are deleted; if none is left, the
    folder no longer holds shards. Raises ShardError for a shard that cannot be read.
    """
    index_file, work = folder / PAIRS_INDEX, folder / _WORK
    for left in folder.glob(".*.tmp"):  # of an `mbert shard` that was killed
        left.unlink()
    shutil.rmtree(folder / ".plan", ignore_errors=True)
    if not index_file.exists() and not (work / PAIRS_INDEX).exists():
        _remove_unfinished(folder, clips)
        return ForgottenPairs(0, 0)
    work.mkdir(exist_ok=True)
    if index_file.exists():
        index_file.replace(work / PAIRS_INDEX)
        sync_folder(folder)
    index = read_json(work / PAIRS_INDEX)
    plan = hashlib.sha256(f"{index['plan']} without {sorted(clips)}".encode()).hexdigest()
    taken = [_rewritten(folder, name, clips, plan) for name in index["shards"]]
    names, counts, kinds = [], [], Counter[str]()
    for name in index["shards"]:
        _, twin = twin_paths(folder, name)
        column = read_table(twin, PairRow, columns=["kind"])["kind"].to_pylist() if twin.exists() else []
        if column:
            names.append(name)
            counts.append(len(column))
            kinds.update(column)
    whose = folder / PAIRS_CLIPS
    rows = [row for row in read_rows(whose, ClipRow) if row.clip_id not in clips] if whose.exists() else []
    write_rows(whose, ClipRow, rows)
    if names:
        of_shards = {
            "num_pairs": sum(counts),
            "num_shards": len(names),
            "shards": names,
            "counts": counts,  # per shard: they are no longer equally full
            "kinds": dict(sorted(kinds.items())),
            "num_bytes": sum(twin_paths(folder, name)[0].stat().st_size for name in names),
            "plan": plan,
            "subjects": sorted({row.subject for row in rows if row.subject}),
        }
        write_json(index_file, {**renewed(index), **of_shards})
    for file in [*folder.glob("[0-9]*.parquet"), *folder.glob("[0-9]*.tar")]:
        if file.stem not in names:
            file.unlink()
    if not names:
        whose.unlink()
    shutil.rmtree(work)
    return ForgottenPairs(sum(taken), sum(count > 0 for count in taken))


def _remove_unfinished(folder: Path, clips: Collection[str]) -> None:
    """Delete files that a killed `mbert shard` left without an index, if they show any of the clips."""
    for tar in folder.glob("[0-9]*.tar"):
        _, twin = twin_paths(folder, tar.stem)
        if not twin.exists() or _num_of(twin, clips):
            twin.unlink(missing_ok=True)
            tar.unlink()


def _rewritten(folder: Path, name: str, clips: Collection[str], plan: str) -> int:
    """Rewrite one shard if needed; returns how many pairs were removed."""
    tar, twin = twin_paths(folder, name)
    new_tar, new_twin = twin_paths(folder / _WORK, name)
    if new_twin.exists() and not new_tar.exists():  # killed between the two renames
        new_twin.replace(twin)
    if not twin.exists() and not tar.exists():  # became empty, and was deleted before the index was written
        return 0
    if not twin.exists():
        raise ShardError(f"{twin} is missing, so whose pairs are in {tar} is unknown: {_told_way(folder)}")
    num_gone = _num_of(twin, clips)
    if not num_gone and read_extra(twin, PairRow, _PLAN_ENTRY) == plan:
        return 0
    table = read_table(twin, PairRow)
    if num_gone:
        table, digest = _write_kept(tar, new_tar, table, clips)
    else:
        digest = read_extra(twin, PairRow, TAR_HASH_ENTRY)
    write_table(new_twin, table, row_type=PairRow, extra={_PLAN_ENTRY: plan, TAR_HASH_ENTRY: digest})
    if num_gone:
        new_tar.replace(tar)
    new_twin.replace(twin)
    sync_folder(folder)
    return num_gone


def _write_kept(tar: Path, target: Path, table: pa.Table, clips: Collection[str]) -> tuple[pa.Table, str]:
    """Copy the pairs of all other clips; returns their rows, with new offsets, and the hash of the tar."""
    kept = []
    try:
        with tarfile.open(tar, "r:") as archive, writing_tar(target) as writer:
            for row in table.to_pylist():  # in the order of the tar
                members = [_next_member(archive, f"{row['key']}.{suffix}") for suffix in ("t0.jpg", "t1.jpg", "json")]
                if row["clip_id"] not in clips:
                    t0, t1, _ = writer.add_all(members)
                    kept.append({**row, **dict(zip(_RANGES, (*t0, *t1), strict=True))})
    except (OSError, tarfile.TarError, EOFError) as exc:
        raise ShardError(f"{tar} is not what its twin says ({exc}): {_told_way(tar.parent)}") from exc
    return pa.Table.from_pylist(kept, schema=arrow_schema(PairRow)), writer.sha256


def _next_member(archive: tarfile.TarFile, name: str) -> tuple[str, bytes]:
    member = archive.next()
    data = None if member is None or member.name != name else archive.extractfile(member)
    if data is None:
        raise EOFError(f"there is no member {name} in its place")
    return name, data.read()


def _told_way(folder: Path) -> str:
    return f"delete {folder}, run `mbert forget` again, then `mbert shard --pairs`"
