"""Random numbers that belong to the pairs of a global batch, whatever process or device holds them."""

import torch
from torch import Tensor


class Draws:
    """Uniform numbers for some pairs of a global batch: a pair gets the same ones whoever holds it."""

    def __init__(self, seed: int, rows: range, total: int | None = None) -> None:
        """`rows` are the places of our pairs in the global batch, which has `total` pairs (default: there are no more).

        The numbers are made on the CPU, so that every device draws the same.
        """
        self.rows = rows
        self._total = len(rows) if total is None else total
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        """(len(rows), *shape) numbers in [0, 1)."""
        everybody = torch.rand(self._total, *shape, generator=self._generator)
        return everybody[self.rows.start : self.rows.stop : self.rows.step]
