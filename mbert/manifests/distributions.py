"""How the values of a column are distributed, counted in one pass over any number of rows."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mbert.manifests.corpus_tables import CorpusTables


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The bins of a column: equally wide; the outer ones include everything beyond."""

    column: str  # or an expression over columns
    lowest: float
    step: float
    num_bins: int


# Much finer than displayed, so that quantiles and coarser bins can be derived.
FRAME_GRIDS = {
    "face_px": Grid(column="face_px", lowest=0, step=1, num_bins=2000),
    "yaw": Grid(column="yaw", lowest=-90, step=0.25, num_bins=720),
    "pitch": Grid(column="pitch", lowest=-90, step=0.25, num_bins=720),
    "roll": Grid(column="roll", lowest=-180, step=0.5, num_bins=720),
    "sharpness": Grid(column="sharpness", lowest=0, step=2, num_bins=5000),
    "brightness": Grid(column="brightness", lowest=0, step=0.5, num_bins=512),
    "clipped": Grid(column="clipped", lowest=0, step=0.001, num_bins=1001),
    "score": Grid(column="score", lowest=0, step=0.001, num_bins=1001),
}
CLIP_GRIDS = {
    "jitter_px": Grid(column="jitter_px", lowest=0, step=0.002, num_bins=5000),
    "clip_seconds": Grid(column="num_frames / fps", lowest=0, step=0.05, num_bins=2400),
}
VIDEO_GRIDS = {
    "fps": Grid(column="fps", lowest=-0.05, step=0.1, num_bins=20_001),  # 29.97 and 30 share a bin
    "minutes": Grid(column="seconds / 60", lowest=0, step=0.05, num_bins=4800),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """The number of values in each bin of a grid, without unknown ones (NULL, NaN)."""

    grid: Grid
    counts: tuple[int, ...]  # (num_bins,)

    @property
    def num_values(self) -> int:
        """The number of counted values."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The value below which a share of the values lies, to about one grid step; NaN without values."""
        if not self.num_values:
            return float("nan")
        reached = np.cumsum(self.counts)
        wanted = share * reached[-1]
        place = int(np.searchsorted(reached, wanted, side="left"))
        place = max(place, int(np.flatnonzero(self.counts)[0]))
        inside = (wanted - (reached[place] - self.counts[place])) / max(self.counts[place], 1)
        return self.grid.lowest + self.grid.step * (place + min(max(float(inside), 0.0), 1.0))


def frame_distributions(tables: CorpusTables, names: Sequence[str] = tuple(FRAME_GRIDS)) -> dict[str, Distribution]:
    """The distributions of columns of all frames, in one pass."""
    return _distributions(tables, {name: FRAME_GRIDS[name] for name in names}, "frames")


def clip_distributions(tables: CorpusTables) -> dict[str, Distribution]:
    """The distributions of the clips."""
    return _distributions(tables, CLIP_GRIDS, "clips")


def video_distributions(tables: CorpusTables) -> dict[str, Distribution]:
    """The distributions of the inputs that have faces."""
    return _distributions(tables, VIDEO_GRIDS, "videos WHERE status = 'ok'")


def _distributions(tables: CorpusTables, grids: Mapping[str, Grid], source: str) -> dict[str, Distribution]:
    # In double precision: in single precision, 0.5 / 0.002 is not 250.
    asked = ", ".join(
        f"histogram(CASE WHEN isfinite(({grid.column})::DOUBLE) THEN least(greatest(floor("
        f"(({grid.column})::DOUBLE - {grid.lowest}) / {grid.step}::DOUBLE), 0), {grid.num_bins - 1})::SMALLINT END)"
        for grid in grids.values()
    )
    (found,) = tables.rows(f"SELECT {asked} FROM {source}")
    distributions = {}
    for (name, grid), histogram in zip(grids.items(), found, strict=True):
        counts = np.zeros(grid.num_bins, np.int64)
        for place, count in (histogram or {}).items():
            counts[place] = count
        distributions[name] = Distribution(grid=grid, counts=tuple(counts.tolist()))
    return distributions
