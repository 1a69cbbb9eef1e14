"""`mbert verify`: every tar of a workspace against its manifest, over the processes of this machine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mbert import ManifestError
from mbert.manifests.files import read_json
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.tombstones import check_forgotten
from mbert.manifests.workspace import PAIRS_INDEX, Workspace
from mbert.shards.duplicates import Duplicate, find_duplicates
from mbert.shards.engine import IN_PROCESS, Engine, run_tasks
from mbert.shards.integrity import verify_frames, verify_pairs


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VerifySummary:
    """What was verified."""

    num_frame_tars: int
    num_pair_shards: int
    num_members: int
    duplicates: tuple[Duplicate, ...] | None = None  # None: not searched


@dataclasses.dataclass(frozen=True, slots=True)
class _Tar:
    kind: Literal["frames", "pairs"]
    folder: Path
    shard: str


def run_verify(
    workspace: Workspace,
    *,
    engine: Engine = IN_PROCESS,
    duplicates: bool = False,
    against: Workspace | None = None,
    on_plan: Callable[[int], None] = lambda num_tars: None,
    on_tar: Callable[[int], None] = lambda num_members: None,
) -> VerifySummary:
    """Check all tars of a workspace. Raises ShardError naming the first faulty member.

    With `duplicates`, also search for recordings shared by two inputs, here or between here and the corpus `against`.
    """
    if not workspace.videos.exists():
        raise ManifestError(f"there is no corpus in {workspace.corpus}: run `mbert ingest FOLDER` first")
    check_forgotten(workspace)
    frames = [row.shard for row in read_rows(workspace.videos, VideoRow) if row.status == "ok" and row.shard]
    pairs = [
        _Tar("pairs", folder, shard)
        for folder in (workspace.pairs, workspace.expressions)
        if (folder / PAIRS_INDEX).exists()
        for shard in read_json(folder / PAIRS_INDEX)["shards"]
    ]
    tars = [_Tar("frames", workspace.frames, shard) for shard in frames] + pairs
    on_plan(len(tars))
    num_members = 0
    for count in run_tasks(_verify, tars, engine):
        num_members += count
        on_tar(count)
    found = None
    if duplicates or against is not None:
        found = tuple(find_duplicates(workspace, against=against, engine=engine, on_plan=on_plan, on_tar=on_tar))
    return VerifySummary(
        num_frame_tars=len(frames), num_pair_shards=len(pairs), num_members=num_members, duplicates=found
    )


def _verify(tar: _Tar) -> int:
    return (verify_frames if tar.kind == "frames" else verify_pairs)(tar.folder, tar.shard)
