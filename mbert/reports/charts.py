"""Line charts over steps, bars and intervals, as SVG paths that stretch with the page."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 1000, 300  # of a chart's own coordinates
_BINS = 300  # enough for a phone's pixels, and keeps a page small
_SMOOTHED_SHARE = 0.05  # of the steps: the window of a smoothed value
_EDGE = 0.05  # of the range, left empty above and below
_CALM = (1.0, 99.0)  # percentiles of the raw values that a chart of many steps shows as a minimum

Values = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A curve over steps: paths in WIDTH x HEIGHT, ticks as (share of the axis, text), readout values."""

    raw: str
    smooth: str
    x_ticks: tuple[tuple[float, str], ...]  # shares from the left
    y_ticks: tuple[tuple[float, str], ...]  # shares from the top
    steps: tuple[int, ...]  # last step of each bin
    told: tuple[str, ...]  # mean of each bin
    first: str
    last: str
    lowest: str
    highest: str


def line_chart(steps: npt.NDArray[np.int64], values: Values, *, share: bool = False) -> Chart | None:
    """The chart of values (n,) at ascending steps (n,), NaN for unknown ones; None without any value.

    The raw curve shows the lowest and the highest value of each bin, so that no spike is lost; values beyond the chart
    are cut off at its edge. `share`: the axis goes from 0 to 1 and is labelled in percent.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    steps, values = steps[known], values[known]
    smoothed = smooth(values)
    low, high = (0.0, 1.0) if share else _range(values, smoothed)
    x = (steps - steps[0]) / max(steps[-1] - steps[0], 1)
    y = (high - np.clip(values, low, high)) / (high - low)
    y_smooth = (high - np.clip(smoothed, low, high)) / (high - low)
    bins = np.array_split(np.arange(len(values)), min(len(values), _BINS))
    told = _in_percent if share else number
    return Chart(
        raw=_path([point for places in bins for point in _extremes(x, y, places)]),
        smooth=_path([(float(x[places].mean()), float(y_smooth[places].mean())) for places in bins]),
        x_ticks=tuple(
            ((tick - steps[0]) / max(steps[-1] - steps[0], 1), f"{tick:,.0f}")
            for tick in _ticks(float(steps[0]), float(steps[-1]), 4)
            if tick == round(tick)
        )
        or ((0.0, str(steps[0])),),
        y_ticks=tuple(((high - tick) / (high - low), told(tick)) for tick in _ticks(low, high, 3)),
        steps=tuple(int(steps[places[-1]]) for places in bins),
        told=tuple(told(float(values[places].mean())) for places in bins),
        first=told(float(values[0])),
        last=told(float(values[-1])),
        lowest=told(float(values.min())),
        highest=told(float(values.max())),
    )


def smooth(values: Values) -> Values:
    """The mean (n,) of the values around each one, a twentieth of all, fewer at the ends; without lag."""
    reach = int(_SMOOTHED_SHARE * len(values) / 2)
    places = np.arange(len(values))
    # As many before as after it, so that slopes are not shifted.
    reaches = np.minimum(reach, np.minimum(places, len(values) - 1 - places))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((sums[places + reaches + 1] - sums[places - reaches]) / (2 * reaches + 1))


def number(value: float) -> str:
    """A number with three significant digits: 0.703, 12.3, 1,230, 2.9e-06."""
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 6:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 2 - size)}f}"


def interval_path(low: float, high: float) -> str:
    """The whisker of an interval within [0, 1] in an SVG 100 wide and 20 high."""
    start, stop = (100 * min(max(end, 0.0), 1.0) for end in (low, high))
    return f"M{start:.1f} 10H{stop:.1f}M{start:.1f} 6v8M{stop:.1f} 6v8"


def _range(values: Values, smoothed: Values) -> tuple[float, float]:
    low, high = float(smoothed.min()), float(smoothed.max())
    edges = np.percentile(values, _CALM) if len(values) > _BINS else (values.min(), values.max())
    low, high = min(low, float(edges[0])), max(high, float(edges[1]))
    room = _EDGE * (high - low) or max(abs(high) * _EDGE, 1e-12)
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room


def _extremes(x: Values, y: Values, places: npt.NDArray[np.int64]) -> list[tuple[float, float]]:
    """The lowest and highest point of a bin, in order."""
    ends = sorted({int(places[y[places].argmin()]), int(places[y[places].argmax()])})
    return [(float(x[place]), float(y[place])) for place in ends]


def _path(points: list[tuple[float, float]]) -> str:
    told = [f"{WIDTH * x:.1f} {HEIGHT * y:.1f}" for x, y in points]
    return f"M{told[0]}h.1" if len(told) == 1 else "M" + "L".join(told)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers within the range."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.75)
    return [round(tick * step, 12) for tick in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _in_percent(value: float) -> str:
    return f"{100 * value:.0f}\u00a0%"
