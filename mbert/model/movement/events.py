"""From the paths of regions to events: when something begins to move, where it has gone furthest, when it is back.

A *phase* is a run of frames in which a part of the face goes one way. An event is the phase in which an expression
comes, the time it is held, and the phase in which it goes; where none leads back, the event ends with its movement.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mbert.model.movement.curves import Numbers

_EXTENT = 0.3  # of a phase's fastest frame: slower frames are not in it
_VALLEY = 0.4  # of the slower of two peaks: between peaks of one way, a deeper valley parts two phases
_SAME_WAY = 0.3  # cosine
_BEGUN, _DONE = 0.1, 0.95  # share of a phase's way at which its movement has visibly begun, and is at its end
_HOLD_SECONDS = 4.0  # the longest that an expression is held (Yan et al. 2013: macro-expressions last up to 4 s)
_BACK = 0.4  # share of the way that has to be undone by the phase that ends an event
_LEFT = 0.5  # share of the way that may be left when it is back
_OTHER = 0.6  # share of the way beyond which a phase that does not lead back is a movement of its own
_REGION_SHARE = 0.4  # of the furthest region's way: regions that go less far are not named
_RISES_SECONDS = 0.067  # onset is looked for so long before the phase


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """One way of one part: positions in the arrays, all included."""

    start: int
    stop: int
    peak: int  # the fastest frame


@dataclasses.dataclass(frozen=True, slots=True)
class Movement:
    """One event of one part: positions in the arrays, all included."""

    onset: int
    apex: int
    offset: int
    speed: float  # of the fastest frame from onset to apex, px per 100 ms
    size_px: float  # how far the region that went furthest is from its place before the onset, at the apex
    regions: tuple[int, ...]  # of the part, furthest first
    way: npt.NDArray[np.float64]  # (2,): x, y of the displacement of the first of them
    is_back: bool  # a phase leads back; else the event ends with its movement


def find_movements(seconds: Numbers, positions: Numbers, velocities: Numbers, threshold: float) -> list[Movement]:
    """The events of one part in time order.

    `seconds` (N,), `positions` (N, R, 2) in px, `velocities` (N, R, 2) in px per 100 ms, of the part's regions. A phase
    counts when its fastest region is at least as fast as `threshold` in one frame.
    """
    if len(seconds) < 3:
        return []
    phases = find_phases(velocities, threshold)
    ends: set[int] = set()  # phases that lead back
    found = []
    for place, phase in enumerate(phases):
        if place not in ends:
            back = _return_of(place, phases, seconds, positions)
            ends |= {back} if back else set()
            earliest = phases[place - 1].stop if place else 0
            found.append(_movement(phase, phases[back] if back else None, earliest, seconds, positions, velocities))
    return found


def find_phases(velocities: Numbers, threshold: float) -> list[Phase]:
    """The phases of one part in time order, from the velocities of its regions (N, R, 2) in px per 100 ms."""
    speed = _speed(velocities)
    groups: list[list[int]] = []
    for peak in _peaks(speed, threshold):
        if groups and _is_one_way(groups[-1][-1], peak, velocities, speed):
            groups[-1].append(peak)
        else:
            groups.append([peak])
    phases = []
    for before, group, after in _with_neighbours(groups):
        top = max(group, key=lambda place: speed[place])
        low = max(_EXTENT * speed[top], threshold / 2)
        # A phase ends at the slowest frame between it and the next.
        first = 0 if before is None else _slowest(speed, before[-1], group[0])
        last = len(speed) - 1 if after is None else _slowest(speed, group[-1], after[0])
        start, stop = group[0], group[-1]
        while start > first and speed[start - 1] >= low:
            start -= 1
        while stop < last and speed[stop + 1] >= low:
            stop += 1
        phases.append(Phase(start, stop, top))
    return phases


def _speed(velocities: Numbers) -> Numbers:
    """(N,): of the fastest region."""
    speed: Numbers = np.linalg.norm(velocities, axis=-1).max(axis=1)
    return speed


def _peaks(speed: Numbers, threshold: float) -> list[int]:
    padded = np.concatenate([[-1.0], speed, [-1.0]])
    is_peak = (speed >= threshold) & (padded[1:-1] >= padded[:-2]) & (padded[1:-1] > padded[2:])
    return [int(place) for place in np.flatnonzero(is_peak)]


def _is_one_way(one: int, other: int, velocities: Numbers, speed: Numbers) -> bool:
    a, b = velocities[one].ravel(), velocities[other].ravel()
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))
    return cosine > _SAME_WAY and float(speed[one : other + 1].min()) > _VALLEY * min(speed[one], speed[other])


def _slowest(speed: Numbers, start: int, stop: int) -> int:
    return start + int(np.argmin(speed[start : stop + 1]))


def _with_neighbours(groups: Sequence[list[int]]) -> Iterator[tuple[list[int] | None, list[int], list[int] | None]]:
    padded = [None, *groups, None]
    yield from zip(padded, groups, padded[2:], strict=False)


def _return_of(place: int, phases: Sequence[Phase], seconds: Numbers, positions: Numbers) -> int | None:
    """Which later phase leads back from where a phase has led; None: none, or another movement comes first."""
    phase = phases[place]
    way = positions[phase.stop] - positions[phase.start]
    length = float((way**2).sum()) + 1e-12
    for number in range(place + 1, len(phases)):
        later = phases[number]
        if seconds[later.start] - seconds[phase.stop] > _HOLD_SECONDS:
            return None
        step = float(((positions[later.stop] - positions[later.start]) * way).sum()) / length
        left = float(((positions[later.stop] - positions[phase.start]) ** 2).sum()) / length
        if step < -_BACK and left < _LEFT**2:
            return number
        if _length(later, positions) > _OTHER * np.sqrt(length):  # another movement has come
            return None
    return None


def _length(phase: Phase, positions: Numbers) -> float:
    return float(np.linalg.norm(positions[phase.stop] - positions[phase.start]))


def _movement(
    phase: Phase, back: Phase | None, earliest: int, seconds: Numbers, positions: Numbers, velocities: Numbers
) -> Movement:
    start = max(earliest, int(np.searchsorted(seconds, seconds[phase.start] - _RISES_SECONDS)))
    onset, apex = _ends(positions[start : phase.stop + 1], phase.peak - start)
    onset, apex = start + onset, start + apex
    way = positions[apex] - positions[max(start, onset - 1)]  # at the onset it has moved already
    lengths = np.linalg.norm(way, axis=-1)
    order = np.argsort(-lengths, kind="stable")
    regions = tuple(int(region) for region in order if lengths[region] >= _REGION_SHARE * lengths[order[0]])
    return Movement(
        onset=onset,
        apex=apex,
        offset=max(apex, back.stop if back else phase.stop),
        speed=float(_speed(velocities[onset : phase.stop + 1]).max()),
        size_px=float(lengths[order[0]]),
        regions=regions,
        way=way[order[0]],
        is_back=back is not None,
    )


def _ends(positions: Numbers, peak: int) -> tuple[int, int]:
    """The first frame in which the way is visibly begun, at the latest the fastest one, and the first at its end."""
    way = positions[-1] - positions[0]
    share = ((positions - positions[0]) * way).sum(axis=(1, 2)) / ((way**2).sum() + 1e-12)
    before = np.flatnonzero(share[:peak] < _BEGUN)
    onset = int(before[-1]) + 1 if len(before) else 0
    done = np.flatnonzero(share[onset:] >= _DONE)
    return onset, onset + int(done[0]) if len(done) else len(share) - 1


def spans_of(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs of True: first and last place of each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return [(int(start), int(stop) - 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
