"""Curves of one face over time: how fast regions move, when the eyes blink, when the mouth speaks.

Everything is measured in seconds, not in frames, so that recordings of 25 and of 200 frames per second agree.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_SLOPE_SECONDS = 0.025  # standard deviation of the weights of a local straight line: its slope is the velocity
_EYE_SECONDS = 0.35  # an eye is compared with how open it was so long before and after
_BLINK_DEPTH = 0.8  # of the smaller of both: an eye that is less open blinks
_BLINK_LEAST = 0.025  # of the eye aspect ratio: what closed eyes seem to blink by is noise of the landmarks
_BLINK_EDGE = 0.5  # share of the depth at which a blink begins and ends
_BLINK_MAX_SECONDS = 0.25  # between these two; what takes longer is a squint, or eyes that stay closed
_BLINK_GAP_SECONDS = 0.08  # two dips so near are one blink
_SPEECH_GAP_SECONDS = 0.3  # between two turns of the mouth that belong to one stretch of speech
_SPEECH_TURNS = 4  # of the mouth, at least
_SPEECH_RATE = 3.0  # turns per second, at least


def velocity(seconds: Numbers, positions: Numbers) -> Numbers:
    """The slope of a local straight line through positions (N, ...), in their unit per 100 ms, at each frame.

    A frame whose neighbours are further away takes the slope over the three nearest frames.
    """
    count = len(seconds)
    if count < 2:
        return np.zeros_like(positions)
    flat = positions.reshape(count, -1)
    slopes = np.empty_like(flat)
    for place in range(count):
        start, stop = np.searchsorted(seconds, seconds[place] + 3 * _SLOPE_SECONDS * np.array([-1, 1]) * 1.0001)
        start, stop = min(start, max(0, place - 1)), max(stop, min(count, place + 2))
        time = seconds[start:stop] - seconds[place]
        weight = np.exp(-((time / _SLOPE_SECONDS) ** 2) / 2) + 1e-4
        weight /= weight.sum()
        time = time - weight @ time
        slopes[place] = (weight * time) @ flat[start:stop] / max(weight @ time**2, 1e-12)
    return slopes.reshape(positions.shape) / 10


def rate_of_change(seconds: Numbers, values: Numbers) -> Numbers:
    """|slope| of a curve (N,), per 100 ms."""
    return np.abs(velocity(seconds, values))


def find_blinks(seconds: Numbers, eye_open: Numbers) -> list[tuple[int, int, int]]:
    """Onset, apex and offset of each blink, as positions: the eye aspect ratio (N,) dips, and comes back.

    The dip is measured against how open the eyes are on both sides of it, so squints and looks down are none.
    """
    found: list[tuple[int, int, int]] = []
    order = np.argsort(eye_open, kind="stable")  # deepest first; what a blink covers is no other
    taken = np.zeros(len(seconds), bool)
    for apex in order:
        if taken[apex]:
            continue
        before, after = _side(seconds, eye_open, apex, -1), _side(seconds, eye_open, apex, 1)
        level = min(before, after)
        if not eye_open[apex] < min(_BLINK_DEPTH * level, level - _BLINK_LEAST):
            continue
        edge = eye_open[apex] + _BLINK_EDGE * (level - eye_open[apex])
        onset = offset = int(apex)
        while onset > 0 and eye_open[onset - 1] < edge and not taken[onset - 1]:
            onset -= 1
        while offset < len(seconds) - 1 and eye_open[offset + 1] < edge and not taken[offset + 1]:
            offset += 1
        beside = [place for place in (onset - 1, offset + 1) if 0 <= place < len(seconds)]
        is_shoulder = any(taken[place] and eye_open[place] < edge for place in beside)  # of a deeper dip
        taken[max(0, onset - 1) : offset + 2] = True
        if not is_shoulder and seconds[offset] - seconds[onset] <= _BLINK_MAX_SECONDS:
            found.append((onset, int(apex), offset))
    merged: list[tuple[int, int, int]] = []
    for onset, apex, offset in sorted(found):
        if merged and seconds[onset] - seconds[merged[-1][2]] <= _BLINK_GAP_SECONDS:
            first, deepest, _ = merged.pop()
            onset, apex = first, min(deepest, apex, key=lambda place: eye_open[place])
        merged.append((onset, apex, offset))
    return merged


def _side(seconds: Numbers, values: Numbers, place: int, step: int) -> float:
    """The largest value on one side, the second largest where there are many: one frame may be wrong."""
    reach = np.abs(seconds - seconds[place]) <= _EYE_SECONDS
    side = values[reach & ((np.arange(len(values)) - place) * step > 0)]
    if not len(side):
        return 0.0
    return float(np.sort(side)[-min(2, len(side))])


def find_speech(seconds: Numbers, phases: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """First and last position of each stretch of speech, from the phases of the mouth (start, stop) in time order.

    In speech the mouth turns again and again; an expression comes and goes.
    """
    stretches: list[list[tuple[int, int]]] = []
    for phase in phases:
        if stretches and seconds[phase[0]] - seconds[stretches[-1][-1][1]] <= _SPEECH_GAP_SECONDS:
            stretches[-1].append(phase)
        else:
            stretches.append([phase])
    return [(each[0][0], each[-1][1]) for each in stretches if _is_speech(seconds, each)]


def _is_speech(seconds: Numbers, phases: Sequence[tuple[int, int]]) -> bool:
    lasted = seconds[phases[-1][1]] - seconds[phases[0][0]]
    return len(phases) >= _SPEECH_TURNS and len(phases) >= _SPEECH_RATE * lasted
