"""Maps of where a face moved, as layers of squares over a crop."""

from typing import Any

import numpy as np
import numpy.typing as npt

_LEVELS = 4
_OPACITY = 0.72  # of the highest level: the face stays visible below


def map_paths(moved: npt.NDArray[np.floating[Any]]) -> list[tuple[str, str]]:
    """The cells of a map (h, w), 0-1, as (opacity, path of squares of size 1), one entry for each level that occurs."""
    levels = np.rint(np.nan_to_num(moved).clip(0, 1) * _LEVELS).astype(int)
    cells = [(level, np.argwhere(levels == level)) for level in range(1, _LEVELS + 1)]
    return [
        (f"{_OPACITY * level / _LEVELS:.2f}", "".join(f"M{x} {y}h1v1h-1z" for y, x in at))
        for level, at in cells
        if len(at)
    ]
