"""Selection of a few crops and rejected inputs of a corpus to look at: random ones, and the worst ones."""

import collections
import dataclasses
import random
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow.compute as pc

from mbert.manifests.corpus_tables import CorpusTables
from mbert.manifests.schema import FrameRow, VideoRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import twin_paths

Kind = Literal["random", "jitter", "score", "pose"]
_POSE = "greatest(abs(yaw), abs(pitch), abs(roll))"
# Remarks follow the cause, and numbers differ between inputs: `no face track in 250 frames; the header ...`.
_CAUSE = "coalesce(split_part(reason, '; ', 1), status)"
_KIND = rf"regexp_replace({_CAUSE}, '[0-9]+([.,:][0-9]+)*', '…', 'g')"
_REJECTED = "status NOT IN ('ok', 'pending')"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChosenCrop:
    """One crop, the location of its bytes, and why it was chosen."""

    kind: Kind
    value: float | None  # jitter_px, score or degrees; None for a random one
    path: str  # of its input
    clip_id: str
    frame_index: int
    pts_seconds: float
    shard: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RejectedReason:
    """A reason why inputs have no crops."""

    status: str
    reason: str  # with … for differing numbers
    count: int


def choose_crops(tables: CorpusTables, count: int, seed: int) -> dict[Kind, list[ChosenCrop]]:
    """At most `count` crops of each kind: random ones from all, and the worst ones from the clips that have them.

    At most one crop per clip is the worst of a kind. Crops whose manifest is missing are left out.
    """
    wanted: dict[Kind, Sequence[tuple[str, float | None, int | None]]] = {
        "random": _random_places(tables, count, seed),
        "jitter": tables.rows(
            "SELECT clip_id, jitter_px, NULL FROM clips WHERE jitter_px IS NOT NULL "
            "ORDER BY jitter_px DESC, clip_id LIMIT ?",
            (count,),
        ),
    }
    tables.rows(  # in one pass over the frames
        "CREATE OR REPLACE TEMP TABLE extremes AS "
        f"SELECT clip_id, min(score) AS score, max({_POSE}) AS pose FROM frames GROUP BY clip_id"
    )
    extreme: dict[Kind, str] = {"score": "score", "pose": "pose DESC"}
    for kind, order in extreme.items():
        wanted[kind] = tables.rows(
            f"SELECT clip_id, {kind}, NULL FROM extremes WHERE {kind} IS NOT NULL ORDER BY {order}, clip_id LIMIT ?",
            (count,),
        )
    return {kind: _crops(tables, kind, places) for kind, places in wanted.items()}


def _random_places(tables: CorpusTables, count: int, seed: int) -> list[tuple[str, float | None, int | None]]:
    """Clips and positions in them; every crop of the corpus is equally likely."""
    total = tables.one("SELECT coalesce(sum(num_frames), 0)::BIGINT FROM clips")
    chosen = sorted(random.Random(seed).sample(range(total), min(count, total)))
    found = tables.rows(
        "WITH starts AS (SELECT clip_id, num_frames, "
        "sum(num_frames) OVER (ORDER BY clip_id) - num_frames AS start FROM clips) "
        "SELECT clip_id, (place - start)::BIGINT FROM starts JOIN (SELECT unnest(?::BIGINT[]) AS place) "
        "ON place >= start AND place < start + num_frames ORDER BY place",
        (chosen,),
    )
    return [(clip, None, place) for clip, place in found]


def _crops(
    tables: CorpusTables, kind: Kind, wanted: Sequence[tuple[str, float | None, int | None]]
) -> list[ChosenCrop]:
    """The crops of clips: at the given position, else the one with the given value."""
    clips = [clip for clip, _, _ in wanted]
    about = {
        clip: (shard, path)
        for clip, shard, path in tables.rows(
            "SELECT clip_id, c.shard, path FROM clips c JOIN videos v ON c.video_id = v.video_id "
            "WHERE clip_id IN (SELECT unnest(?::VARCHAR[]))",
            (clips,),
        )
    }
    of_shard = collections.defaultdict(set)
    for clip, (shard, _) in about.items():
        of_shard[shard].add(clip)
    rows: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    columns = ["clip_id", "frame_index", "pts_seconds", "shard", "offset", "size", "score", "yaw", "pitch", "roll"]
    for shard in of_shard.keys() - set(tables.missing):
        twin = twin_paths(tables.workspace.frames, shard)[1]
        found = read_table(twin, FrameRow, columns=columns, where=pc.field("clip_id").isin(sorted(of_shard[shard])))
        for row in found.to_pylist():
            rows[row["clip_id"]].append(row)
    chosen = []
    for clip, value, place in wanted:
        if not rows[clip]:
            continue
        row = _at(kind, rows[clip], place)
        chosen.append(
            ChosenCrop(
                kind=kind,
                value=value,
                path=about[clip][1],
                **{name: row[name] for name in columns[:6]},
            )
        )
    return chosen


def _at(kind: Kind, rows: Sequence[dict[str, Any]], place: int | None) -> dict[str, Any]:
    if kind == "score":
        return min((row for row in rows if row["score"] is not None), key=lambda row: row["score"])
    if kind == "pose":
        return max(rows, key=lambda row: max(abs(row[name]) for name in ("yaw", "pitch", "roll")))
    return rows[min(place if place is not None else len(rows) // 2, len(rows) - 1)]


def choose_rejected(tables: CorpusTables, count: int) -> list[VideoRow]:
    """At most `count` rejected inputs: one for each reason before a second for any."""
    keys = [
        key
        for (key,) in tables.rows(
            f"SELECT video_id FROM (SELECT video_id, path, status, row_number() OVER (PARTITION BY status, {_KIND} "
            f"ORDER BY path, video_id) AS turn FROM videos WHERE {_REJECTED}) ORDER BY turn, status, path, video_id "
            "LIMIT ?",
            (count,),
        )
    ]
    rows = read_rows(tables.workspace.videos, VideoRow, where=pc.field("video_id").isin(keys)) if keys else []
    return sorted(rows, key=lambda row: keys.index(row.video_id))


def rejected_reasons(tables: CorpusTables, most: int) -> list[RejectedReason]:
    """Why inputs were rejected, the most frequent reason first; those beyond `most` combined."""
    rows = tables.rows(
        f"SELECT status, CASE WHEN count(DISTINCT {_CAUSE}) > 1 THEN {_KIND} ELSE min({_CAUSE}) END, "
        f"count(*) FROM videos WHERE {_REJECTED} GROUP BY status, {_KIND} ORDER BY 3 DESC, 1, 2"
    )
    found = [RejectedReason(status=status, reason=reason, count=count) for status, reason, count in rows]
    rest = found[most:]
    if len(rest) < 2:
        return found
    others = RejectedReason(status="others", reason=f"{len(rest)} more reasons", count=sum(each.count for each in rest))
    return [*found[:most], others]
