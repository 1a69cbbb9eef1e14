"""Check a tar against its Parquet twin, member by member."""

import tarfile
from pathlib import Path

from mbert import ShardError
from mbert.manifests.schema import FrameRow, PairRow
from mbert.manifests.store import read_table
from mbert.manifests.workspace import twin_paths


def verify_frames(folder: Path, shard: str) -> int:
    """Check a tar of crops. Returns the number of members; raises ShardError naming the first that disagrees."""
    tar, twin = twin_paths(folder, shard)
    rows = read_table(twin, FrameRow, columns=["clip_id", "frame_index", "offset", "size"]).to_pylist()
    expected = [(f"{row['clip_id']}.{row['frame_index']:07d}.jpg", row["offset"], row["size"]) for row in rows]
    return _compare(tar, expected)


def verify_pairs(folder: Path, shard: str) -> int:
    """Check a tar of pairs. Returns the number of members; raises ShardError naming the first that disagrees."""
    tar, twin = twin_paths(folder, shard)
    expected: list[tuple[str, int | None, int | None]] = []
    for row in read_table(twin, PairRow).to_pylist():
        expected += [
            (f"{row['key']}.t0.jpg", row["t0_offset"], row["t0_size"]),
            (f"{row['key']}.t1.jpg", row["t1_offset"], row["t1_size"]),
            (f"{row['key']}.json", None, None),
        ]
    return _compare(tar, expected)


def _compare(tar: Path, expected: list[tuple[str, int, int]] | list[tuple[str, int | None, int | None]]) -> int:
    try:
        with tarfile.open(tar, "r:") as archive:
            members = archive.getmembers()
    except (OSError, tarfile.TarError) as exc:
        raise ShardError(f"{tar} cannot be read: {exc}") from exc
    for member, (name, offset, size) in zip(members, expected, strict=False):
        if member.name != name:
            raise ShardError(f"{tar}: found member {member.name}, its twin expects {name}")
        if offset is not None and (member.offset_data, member.size) != (offset, size):
            found = (member.offset_data, member.size)
            raise ShardError(f"{tar}: member {name} lies at {found} (offset, size), its twin says {(offset, size)}")
    if len(members) != len(expected):
        raise ShardError(f"{tar} has {len(members)} members, its twin expects {len(expected)}")
    return len(members)
