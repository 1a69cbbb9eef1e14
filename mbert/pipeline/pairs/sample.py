"""Which frames make pairs: by time, so that 30 and 200 frames per second give the same task. Pure functions."""

import hashlib

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

_TOLERANCE_SECONDS = 0.0005  # 5 frames at 30 fps are 166.67 ms and count as 167


def clip_rng(seed: int, clip_id: str) -> np.random.Generator:
    """A generator that depends only on seed and clip, so that adding a clip changes no other clip's pairs."""
    digest = hashlib.sha256(clip_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def sample_pairs(
    pts_seconds: npt.NDArray[np.float64],
    *,
    min_delta_seconds: float,
    max_delta_seconds: float,
    pairs_per_second: float,
    rng: np.random.Generator,
) -> Indices:
    """Pick pairs of one clip: (P, 2) positions into `pts_seconds` (ascending), t0 before t1, sorted, no duplicates.

    One first frame is drawn in each slot of 1 / `pairs_per_second`, its partner uniformly in time between the two
    distances; a slot without a frame between them (the end of the clip, a gap) gives no pair. Gaps that no pair can
    reach over have no slots, so that the work grows with the number of frames, not with time.
    """
    ends = np.flatnonzero(np.diff(pts_seconds) > max_delta_seconds + _TOLERANCE_SECONDS) + 1
    starts = [0, *ends.tolist()]
    stretches = [
        start
        + _sample_stretch(stretch, (min_delta_seconds, max_delta_seconds), pairs_per_second=pairs_per_second, rng=rng)
        for start, stretch in zip(starts, np.split(pts_seconds, ends), strict=True)
    ]
    pairs: Indices = np.concatenate(stretches)
    return pairs


def _sample_stretch(
    pts_seconds: npt.NDArray[np.float64],
    deltas_seconds: tuple[float, float],
    *,
    pairs_per_second: float,
    rng: np.random.Generator,
) -> Indices:
    min_delta_seconds, max_delta_seconds = deltas_seconds
    num_slots = int(np.ceil((pts_seconds[-1] - pts_seconds[0]) * pairs_per_second))
    if num_slots <= 0:
        return np.empty((0, 2), np.int64)
    starts = pts_seconds[0] + (np.arange(num_slots) + rng.random(num_slots)) / pairs_per_second
    deltas = rng.uniform(min_delta_seconds, max_delta_seconds, num_slots)
    t0 = _nearest(pts_seconds, starts)
    earliest = np.searchsorted(pts_seconds, pts_seconds[t0] + min_delta_seconds - _TOLERANCE_SECONDS)
    latest = np.searchsorted(pts_seconds, pts_seconds[t0] + max_delta_seconds + _TOLERANCE_SECONDS, side="right") - 1
    t1 = np.clip(_nearest(pts_seconds, pts_seconds[t0] + deltas), earliest, latest)
    fits = earliest <= latest
    pairs: Indices = np.unique(np.stack([t0, t1], axis=1)[fits], axis=0)
    return pairs


def nearest_frame(frame_indices: Indices, frame_index: int) -> int:
    """Position of the frame nearest to an annotated one, which may be missing."""
    return int(np.abs(frame_indices - frame_index).argmin())


def _nearest(values: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> Indices:
    right = np.clip(np.searchsorted(values, wanted), 1, len(values) - 1)
    return np.where(wanted - values[right - 1] <= values[right] - wanted, right - 1, right)
