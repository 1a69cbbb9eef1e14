"""Which device and precision a run uses, chosen by the hardware."""

import contextlib
import dataclasses
from contextlib import AbstractContextManager
from typing import Literal

import torch


@dataclasses.dataclass(frozen=True, slots=True)
class Compute:
    """A device and the precision that is fast on it."""

    device: torch.device
    precision: Literal["bf16", "fp32"]

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def pick_compute() -> Compute:
    """A GPU with bf16 where there is one. On a CPU always fp32: without AMX, bf16 there is many times slower."""
    if torch.cuda.is_available():
        has_bf16 = torch.cuda.get_device_capability() >= (8, 0)
        return Compute(torch.device("cuda"), "bf16" if has_bf16 else "fp32")
    return Compute(torch.device("cpu"), "fp32")
