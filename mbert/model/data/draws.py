"""Random numbers tied to the pairs of a global batch, regardless of the process or device that holds them."""

import torch
from torch import Tensor


class Draws:
    """Uniform numbers for some pairs of a global batch: a pair always gets the same ones."""

    def __init__(self, seed: int, rows: range, total: int | None = None) -> None:
        """`rows` are the indices of our pairs in the global batch, which has `total` pairs (default: only ours).

        The numbers are generated on the CPU, so that every device draws the same.
        """
        self.rows = rows
        self._total = len(rows) if total is None else total
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        """(len(rows), *shape) numbers in [0, 1)."""
        everybody = torch.rand(self._total, *shape, generator=self._generator)
        return everybody[self.rows.start : self.rows.stop : self.rows.step]
