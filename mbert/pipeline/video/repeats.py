"""Which frames repeat the previous picture, as in files of 30 frames a second with 10 pictures.

Re-encoded, a repeated picture is never exactly the same, and a scene without motion changes just as little. The context
distinguishes them: repeats come in a fixed cadence, or between frames that change all the time. A still scene has
neither, and none of its frames is called a repeat.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mbert.pipeline.video.frame import Frame
from mbert.pipeline.video.planes import first_plane

_ROW_STEP = 4  # every fourth row is compared
_ALIKE = 0.05  # mean change in levels of 255 below which two frames are practically equal ...
_ALIKE_SHARE = 0.1  # ... or below this share of what the new pictures around change
_LIVELY = 6 * _ALIKE  # change of the frames around, from which equal ones stand out
_AROUND = 6  # frames on each side that are checked
_REACH = 20  # no further away than this
_LONGEST_FREEZE = 45  # frames; a longer pause is not a recording fault
_PERIODS = (2, 3, 4, 5, 6)  # frames after which a cadence repeats
_TIMES_SEEN = 5
_WINDOW = 90  # frames searched for one cadence; it may slip in a long video
_FEWEST_NEW = 0.25  # share of new pictures in a cadence
_SMALLER = 0.4  # a repeat changes less than this share of what new pictures change
_BESIDE = 0.7  # the same, relative to its own neighbours
_CONSISTENT = 0.85  # share of the repeats for which that holds

Numbers = npt.NDArray[np.float64]


class Repeats:
    """Measures how much each frame of an input differs from the one before."""

    def __init__(self) -> None:
        self._changes: dict[int, float] = {}

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass on the frames unchanged."""
        previous: npt.NDArray[np.uint8] | None = None
        for frame in frames:
            plane = frame.picture[:, :, 1] if isinstance(frame.picture, np.ndarray) else first_plane(frame.picture)
            rows = plane[::_ROW_STEP]
            is_first = previous is None or previous.shape != rows.shape
            self._changes[frame.index] = np.nan if is_first else cv2.norm(rows, previous, cv2.NORM_L1) / rows.size
            previous = rows
            yield frame

    def among(self, indices: Sequence[int]) -> list[bool]:
        """Which of consecutive frames repeat the one before; never the first."""
        return [bool(is_one) for is_one in repeated(np.array([self._changes[index] for index in indices]))]

    @property
    def share(self) -> float:
        """The share of repeats among all frames."""
        return float(repeated(np.array(list(self._changes.values()))).mean()) if self._changes else 0.0


def repeated(changes: Numbers) -> npt.NDArray[np.bool_]:
    """Which frames repeat the previous one, from the change of each, (N,) in levels of 255; the first is arbitrary.

    A NaN marks the first frame of another size, which is not a repeat.
    """
    found = np.zeros(len(changes), dtype=bool)
    if len(changes) < 2:
        return found
    unknown = np.isnan(changes[1:])
    if unknown.all():
        return found
    values = np.where(unknown, np.median(changes[1:][~unknown]), changes[1:])
    found[1:] = _frozen(values)
    for start in range(0, max(1, len(values) - _WINDOW // 2), _WINDOW):
        stop = len(values) if len(values) - start < 1.5 * _WINDOW else start + _WINDOW
        found[1 + start : 1 + stop] |= _cadence(values[start:stop])
    found[1:] &= ~unknown
    return found


def _frozen(changes: Numbers) -> npt.NDArray[np.bool_]:
    """Frames practically equal to the previous one, between frames that change all the time."""
    found = np.zeros(len(changes), dtype=bool)
    place = 0
    is_new = changes >= _ALIKE
    if not is_new.any():
        return found
    scale = np.interp(np.arange(len(changes)), np.flatnonzero(is_new), _smoothed(changes[is_new]))
    for is_alike, run in itertools.groupby(changes < np.maximum(_ALIKE, _ALIKE_SHARE * scale)):
        start, place = place, place + len(list(run))
        if not is_alike or place - start > _LONGEST_FREEZE:
            continue
        before, after = changes[max(0, start - _REACH) : start], changes[place : place + _REACH]
        sides = [_lively(before[::-1]), _lively(after)]
        known = [side for side in sides if side is not None]
        found[start:place] = bool(known) and all(known)
    return found


def _smoothed(changes: Numbers) -> Numbers:
    """The running median."""
    padded = np.pad(changes, _AROUND, mode="edge")
    medians: Numbers = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1), axis=1)
    return medians


def _lively(side: Numbers) -> bool | None:
    """Whether the nearest new pictures change a lot; None if the clip has too few."""
    new = side[side >= _ALIKE][:_AROUND]
    if len(new) < _AROUND // 2:
        return None if len(side) < _REACH else False
    return bool(np.median(new) >= _LIVELY)


def _cadence(changes: Numbers) -> npt.NDArray[np.bool_]:
    """The frames that change little at the same position in every period."""
    found = np.zeros(len(changes), dtype=bool)
    place = np.arange(len(changes))
    for period in _PERIODS:
        if len(changes) < _TIMES_SEEN * period:
            break
        typical = np.array([np.median(changes[start::period]) for start in range(period)])
        order = np.sort(typical)
        ratios = order[:-1] / np.maximum(order[1:], 1e-9)
        cut = int(ratios.argmin())
        num_new = period - 1 - cut
        if ratios[cut] > _SMALLER or num_new < _FEWEST_NEW * period or order[cut + 1] < 2 * _ALIKE:
            continue
        is_low = (typical <= order[cut])[place % period]
        new = place[~is_low]
        nearest = np.minimum(np.searchsorted(new, place[is_low]), len(new) - 1)
        beside = np.minimum(changes[new[nearest]], changes[new[np.maximum(nearest - 1, 0)]])
        is_less = changes[is_low] < _BESIDE * beside
        if is_less.mean() >= _CONSISTENT:
            found[is_low] = is_less
            break
    return found
