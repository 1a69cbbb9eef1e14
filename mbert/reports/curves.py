"""The curves of a video as drawn on a page: from `frames.parquet`, small enough for an hour of video."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mbert.manifests.predictions import NO_FACE, MovementRow
from mbert.manifests.regions import REGIONS
from mbert.manifests.store import read_table

MOST_POINTS = 2000  # of one curve
_MOST_FACE_POINTS = 12_000  # of one curve over all faces: about 1 MB of JSON for all curves
_QUALITY_POINTS = 300
_DRAWN = (*REGIONS, "head", "eye_open", "light")
_READ = ("frame", "timestamp", "face_id", "success", "speech", "repeated", "sharpness", "brightness", *_DRAWN)
STEPS_PER_UNIT = 1000  # a curve's values are whole numbers of these
TICKS_PER_SECOND = 10_000  # and its times of these

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """What a page needs of `frames.parquet`."""

    data: dict[str, Any]  # for the script: see `read_curves`
    num_frames: int
    with_face: float  # shares of the frames
    with_speech: float
    repeated: float
    sharpness: Floats  # of the face visible longest, minimum of each bin
    brightness: Floats


def read_curves(path: Path) -> Curves:
    """Read `frames.parquet` column by column; raises ManifestError if it is missing, damaged or of another schema.

    `data` holds, all as whole numbers:

    - `times`, `frames`: of every decoded frame, as `knots`: `TICKS_PER_SECOND`, and frame numbers.
    - `bins`: number of bins, of equally many frames, in the video; bin b begins at frame `b * num_frames // bins`.
    - `faces`: for each `id` its `first` bin and `curves`: by name the largest value in each bin from there on, for the
      opening of the eyes the smallest, so that a blink stays; in `STEPS_PER_UNIT`, null without a value.
    """
    table = read_table(path, MovementRow, columns=_READ)
    columns = {name: table[name].to_numpy() for name in _READ}
    frames, first_rows, positions = np.unique(columns["frame"], return_index=True, return_inverse=True)
    num_frames = len(frames)
    times = columns["timestamp"][first_rows]
    seen = (columns["face_id"] != NO_FACE) & (columns["success"] == 1)
    ids, counts = np.unique(columns["face_id"][seen], return_counts=True)
    rows = {int(face): np.flatnonzero(seen & (columns["face_id"] == face)) for face in ids}
    spans = {face: (positions[at].min(), positions[at].max()) for face, at in rows.items()}
    lengths = sum(int(last - first) + 1 for first, last in spans.values())
    bins = min(MOST_POINTS, num_frames, max(1, _MOST_FACE_POINTS * num_frames // max(lengths, 1)))
    edges = bin_edges(num_frames, bins)

    def dense(name: str, face: int) -> Floats:
        values = np.full(num_frames, np.nan)
        values[positions[rows[face]]] = columns[name][rows[face]]
        return values

    def face_curves(face: int) -> dict[str, Any]:
        first, last = np.searchsorted(edges, spans[face], side="right") - [1, 0]
        curves = {}
        for name in _DRAWN:
            values = np.abs(dense(name, face))  # light changes in both directions
            extreme = np.fmin if name == "eye_open" else np.fmax
            curves[name] = _whole(extreme.reduceat(values, edges)[first:last] * STEPS_PER_UNIT)
        return {"id": face, "first": int(first), "curves": curves}

    def share(is_so: npt.NDArray[np.bool_]) -> float:
        return len(np.unique(positions[is_so])) / max(num_frames, 1)

    longest = int(ids[counts.argmax()]) if len(ids) else None
    quality = bin_edges(num_frames, min(num_frames, _QUALITY_POINTS))
    none = np.empty(0)
    return Curves(
        data={
            "times": knots(np.rint(times * TICKS_PER_SECOND), _tolerance(times)),
            "frames": knots(frames.astype(np.float64), 0),
            "bins": bins,
            "faces": [face_curves(face) for face in rows],
        },
        num_frames=num_frames,
        with_face=share(seen),
        with_speech=share(columns["speech"] == 1),
        repeated=share(columns["repeated"] == 1),
        sharpness=none if longest is None else np.fmin.reduceat(dense("sharpness", longest), quality),
        brightness=none if longest is None else np.fmin.reduceat(dense("brightness", longest), quality),
    )


def bin_edges(length: int, bins: int) -> npt.NDArray[np.int64]:
    """(bins,): the start of each of at most `length` bins of equally many values."""
    return np.arange(bins) * length // max(bins, 1)


def decimate(values: npt.ArrayLike, most: int = MOST_POINTS) -> Floats:
    """At most `most` values: the largest in each bin of equally many; NaN counts as no value."""
    whole = np.asarray(values, dtype=np.float64)
    if len(whole) == 0:
        return whole
    largest: Floats = np.fmax.reduceat(whole, bin_edges(len(whole), min(most, len(whole))))
    return largest


def knots(values: Floats, tolerance: float) -> list[int]:
    """Whole numbers as straight pieces that deviate from none by more than `tolerance`.

    The list is: position and value of the first knot, then the offsets of each knot, in both, from the one before it.
    The times of a constant rate are two knots, however long the video.
    """
    if len(values) == 0:
        return []
    found = [(0, values[0])]
    at = 0
    while at < len(values) - 1:
        lowest, highest, end = -np.inf, np.inf, at + 1
        for other in range(at + 1, len(values)):
            rise, run = values[other] - values[at], other - at
            if lowest <= rise / run <= highest:
                end = other
            lowest, highest = max(lowest, (rise - tolerance) / run), min(highest, (rise + tolerance) / run)
            if lowest > highest:
                break
        at = end
        found.append((at, values[at]))
    pairs = np.rint(np.array(found)).astype(np.int64)
    steps: list[int] = np.diff(pairs, axis=0, prepend=np.zeros((1, 2), np.int64)).ravel().tolist()
    return steps


def _tolerance(times: Floats) -> float:
    """How far the time of a frame may be off, in ticks: 1 ms, less for fast frame rates."""
    typical = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return TICKS_PER_SECOND * min(0.001, typical / 4)


def _whole(values: npt.NDArray[Any]) -> list[int | None]:
    known = np.isfinite(values)
    whole = np.rint(np.where(known, values, 0)).astype(np.int64).tolist()
    return [value if is_known else None for value, is_known in zip(whole, known.tolist(), strict=True)]
