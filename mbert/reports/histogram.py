"""Histograms as an SVG path, with ticks and a sentence that says the same."""

import dataclasses
import itertools

import numpy as np

from mbert.manifests.distributions import Distribution

WIDTH, HEIGHT = 240, 64
_MOST_BARS, _FEWEST_BARS = 24, 8
_GAP = 0.12  # of a bar's width
_TAIL = 0.005  # of the values on either side included in the outer bars


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """A drawing of `WIDTH` x `HEIGHT`."""

    path: str  # the bars
    median_x: float
    ticks: tuple[str, ...]  # equally spaced, from the left edge to the right
    median: str
    low: str  # 5 % of the values are below
    high: str  # 5 % are above
    num_values: int


def draw_histogram(values: Distribution) -> Histogram | None:
    """At most 24 bars of a round width over 99 % of the values, the rest in the outer ones; None without values."""
    total = values.num_values
    if not total:
        return None
    grid = values.grid
    first, last = (
        int(np.clip((values.quantile(share) - grid.lowest) / grid.step, 0, grid.num_bins - 1))
        for share in (_TAIL, 1 - _TAIL)
    )
    factor = next(
        each for each in _round_factors() if last // each - first // each < _MOST_BARS or each > grid.num_bins
    )
    start, stop = first // factor, last // factor + 1
    while stop - start < _FEWEST_BARS:
        start, stop = max(start - 1, 0), stop + 1
    counts = np.array(values.counts)
    places = np.clip(np.arange(grid.num_bins) // factor, start, stop - 1) - start
    bars = np.bincount(places, weights=counts, minlength=stop - start)
    edges = grid.lowest + grid.step * factor * np.arange(start, stop + 1)
    width = WIDTH / len(bars)
    median, low, high = (values.quantile(share) for share in (0.5, 0.05, 0.95))
    decimals = _decimals(grid.step * factor)
    finer = max(decimals, min(decimals + 1, 2))
    return Histogram(
        path="".join(
            f"M{(place + _GAP / 2) * width:.1f} {HEIGHT}v-{max(1.0, HEIGHT * bar / bars.max()):.1f}"
            f"h{(1 - _GAP) * width:.1f}V{HEIGHT}z"
            for place, bar in enumerate(bars)
            if bar
        ),
        median_x=float(np.clip((median - edges[0]) / (edges[-1] - edges[0]), 0, 1) * WIDTH),
        ticks=tuple(_text(edge, decimals) for edge in (edges[0], (edges[0] + edges[-1]) / 2, edges[-1])),
        median=_text(median, finer),
        low=_text(low, finer),
        high=_text(high, finer),
        num_values=total,
    )


def _round_factors() -> itertools.chain[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    return itertools.chain.from_iterable([10**power, 2 * 10**power, 5 * 10**power] for power in itertools.count())


def _decimals(step: float) -> int:
    return max(0, int(np.ceil(-np.log10(step) - 1e-9)))


def _text(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−") if text not in ("-0", "0") else "0"
