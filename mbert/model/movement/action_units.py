"""Which action units the motion of an event is most like.

Each unit has a basis: the displacement that the model sees on a 14 x 14 grid when the unit is drawn onto faces. The
displacement of an event is taken apart into these, none of which may pull backwards (non-negative least squares). It
is a likeness of motion: whether the muscle was at work, a FACS coder decides.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import scipy.optimize
from safetensors import SafetensorError

from mbert import ModelError

FILE_NAME = "action_units.safetensors"
_SHOWN, _LEAST_SHARE = 3, 0.05
Numbers = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class ActionUnitBases:
    """How skin moves with each unit: (K, 14, 14, 2), x and y, each of length 1; and the numbers of the K units."""

    numbers: tuple[int, ...]
    fields: Numbers

    @classmethod
    def learn(cls, numbers: Sequence[int], strengths: Numbers, displacements: Numbers) -> "ActionUnitBases":
        """From what the model saw: `strengths` (M, K) of the units in M pairs, `displacements` (M, 14, 14, 2)."""
        flat = displacements.reshape(len(displacements), -1)
        weights = strengths.T @ strengths + 1e-3 * np.eye(strengths.shape[1])
        fields = np.linalg.solve(weights, strengths.T @ flat)
        fields /= np.linalg.norm(fields, axis=1, keepdims=True) + 1e-12
        return cls(tuple(numbers), fields.reshape(-1, *displacements.shape[1:]))

    def likeness(self, displacement: Numbers) -> list[tuple[int, float]]:
        """The units a displacement (14, 14, 2) is most like, at most three, best first.

        Each with the share of the displacement's energy that it explains; what explains less than 5 % is left out.
        """
        flat = displacement.reshape(-1).astype(np.float64)
        energy = float(flat @ flat)
        if energy == 0:
            return []
        fields = self.fields.reshape(len(self.numbers), -1)
        weights, _ = scipy.optimize.nnls(fields.T, flat)
        explained = float(flat @ (weights @ fields)) / energy  # of all together, at most 1
        shares = np.maximum(weights * (fields @ flat), 0)
        shares *= explained / max(float(shares.sum()), 1e-12)
        best = np.argsort(-shares, kind="stable")[:_SHOWN]
        return [(self.numbers[unit], float(shares[unit])) for unit in best if shares[unit] >= _LEAST_SHARE]

    def write(self, folder: Path) -> None:
        """Beside the weights of a model."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "numbers": np.array(self.numbers, np.int64),
            "fields": self.fields.astype(np.float32),
        }
        (folder / FILE_NAME).write_bytes(safetensors.numpy.save(tensors))

    @classmethod
    def read(cls, folder: Path) -> "ActionUnitBases":
        """Raises ModelError when the file cannot be used."""
        try:
            found = safetensors.numpy.load_file(folder / FILE_NAME)
            numbers, fields = tuple(int(number) for number in found["numbers"]), found["fields"].astype(np.float64)
            if fields.ndim != 4 or len(fields) != len(numbers):
                raise ValueError(f"{len(numbers)} numbers, fields {fields.shape}")
            return cls(numbers, fields)
        except (OSError, KeyError, ValueError, SafetensorError) as exc:
            raise ModelError(f"{folder / FILE_NAME} cannot be read: {exc}") from exc
