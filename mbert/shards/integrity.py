"""Check a tar against its Parquet twin: every name, byte range and image, their order and number, then the hash."""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mbert import ShardError
from mbert.manifests.schema import FrameRow, PairRow
from mbert.manifests.store import read_extra, read_table
from mbert.manifests.workspace import twin_paths
from mbert.shards.image import decode_jpeg
from mbert.shards.writer import TAR_HASH_ENTRY


def verify_frames(folder: Path, shard: str) -> int:
    """Check a tar of crops. Returns the number of members; raises ShardError naming the first that disagrees."""
    tar, twin = twin_paths(folder, shard)
    rows = read_table(twin, FrameRow, columns=["clip_id", "frame_index", "offset", "size"]).to_pylist()
    expected = [(f"{row['clip_id']}.{row['frame_index']:07d}.jpg", row["offset"], row["size"]) for row in rows]
    return _compare(tar, twin, FrameRow, expected)


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
    return _compare(tar, twin, PairRow, expected)


def _compare(tar: Path, twin: Path, row_type: type, expected: Sequence[tuple[str, int | None, int | None]]) -> int:
    num_members = 0
    digest = hashlib.sha256()
    try:
        with tar.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if num_members == len(expected):
                    raise ShardError(f"{tar}: member {member.name} is one more than its twin expects")
                name, offset, size = expected[num_members]
                if member.name != name:
                    raise ShardError(f"{tar}: found member {member.name}, its twin expects {name}")
                if offset is not None and (member.offset_data, member.size) != (offset, size):
                    found = (member.offset_data, member.size)
                    raise ShardError(
                        f"{tar}: member {name} lies at {found} (offset, size), its twin says {(offset, size)}"
                    )
                _decode(tar, name, archive.extractfile(member))
                num_members += 1
            if num_members < len(expected):
                raise ShardError(f"{tar} ends before member {expected[num_members][0]}, which its twin expects")
            file.seek(0)
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, tarfile.TarError) as exc:
        raise ShardError(f"{tar} cannot be read: {exc}") from exc
    if digest.hexdigest() != read_extra(twin, row_type, TAR_HASH_ENTRY):
        raise ShardError(f"{tar}: its bytes are not those that were written, although every member decodes")
    return num_members


def _decode(tar: Path, name: str, data: IO[bytes] | None) -> None:
    assert data is not None  # the twin names files only
    try:
        if name.endswith(".json"):
            json.loads(data.read())
        else:
            decode_jpeg(data.read())
    except (ShardError, ValueError) as exc:
        raise ShardError(f"{tar}: member {name} does not decode: {exc}") from exc
