"""How much of a corpus remains at each step from input to pair, and what was lost where."""

import dataclasses
from typing import Literal

from mbert.manifests.corpus_tables import CorpusTables

Step = Literal[
    "inputs", "read", "with_face", "frames", "frames_with_face", "clips", "clips_with_pairs", "crops", "pairs"
]
_NOT_READ = ("pending", "missing", "empty", "unreadable", "no_video", "timeout", "crashed", "error")
_NO_FACE = ("too_short", "no_face")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One step of the funnel."""

    step: Step
    count: int
    share: float | None = None  # of the initial number of inputs, frames or clips
    losses: dict[str, int] = dataclasses.field(default_factory=dict)  # since the step before: status or cause -> count


def funnel(tables: CorpusTables) -> tuple[Stage, ...]:
    """Inputs, then the frames of those with a face, then clips, crops and sampled pairs."""
    statuses = tables.counts("status", "videos")
    inputs = sum(statuses.values())
    unread = {status: count for status, count in statuses.items() if status in _NOT_READ}
    faceless = {status: count for status, count in statuses.items() if status in _NO_FACE}
    used = statuses.get("ok", 0)
    read = used + sum(faceless.values())
    frames, with_face = _frames(tables)
    ((clips, paired),) = tables.rows(
        "SELECT count(*), count(*) FILTER (clip_id IN (SELECT clip_id FROM pairs)) FROM clips"
    )
    ((crops, repeated),) = tables.rows("SELECT count(*), count(*) FILTER (repeated) FROM frames")
    pairs = tables.one("SELECT count(*) FROM pairs")
    return (
        Stage(step="inputs", count=inputs, share=1.0),
        Stage(step="read", count=read, share=_share(read, inputs), losses=unread),
        Stage(step="with_face", count=used, share=_share(used, inputs), losses=faceless),
        Stage(step="frames", count=frames, share=1.0),
        Stage(
            step="frames_with_face",
            count=with_face,
            share=_share(with_face, frames),
            losses={"no_face_in_frame": frames - with_face} if frames > with_face else {},
        ),
        Stage(step="clips", count=clips, share=1.0),
        Stage(step="crops", count=crops, losses={"repeated": repeated} if repeated else {}),
        Stage(
            step="clips_with_pairs",
            count=paired,
            share=_share(paired, clips),
            losses={"no_pair": clips - paired} if pairs and clips > paired else {},
        ),
        Stage(step="pairs", count=pairs),
    )


def _share(count: int, whole: int) -> float:
    return count / whole if whole else 0.0


def _frames(tables: CorpusTables) -> tuple[int, int]:
    """Decoded frames of the inputs with a face, and how many of them are covered by a clip of any face."""
    ((frames, with_face),) = tables.rows(
        "WITH before AS (SELECT video_id, first_frame, last_frame, max(last_frame) OVER (PARTITION BY video_id "
        "ORDER BY first_frame, last_frame ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached FROM clips), "
        "covered AS (SELECT video_id, sum(greatest(0, last_frame + 1 - greatest(first_frame, "
        "coalesce(reached + 1, first_frame)))) AS n FROM before GROUP BY video_id) "
        # Image numbers of a folder may have gaps.
        "SELECT coalesce(sum(num_frames), 0)::BIGINT, coalesce(sum(least(num_frames, coalesce(n, 0))), 0)::BIGINT "
        "FROM videos LEFT JOIN covered USING (video_id) WHERE status = 'ok'"
    )
    return frames, with_face
