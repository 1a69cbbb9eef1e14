"""The cost of training, counted before it begins: parameters, arithmetic, memory. Nothing is allocated for it."""

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode  # tensors with shapes and kernels, but without contents
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mbert.model.data.draws import Draws
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.objective import ObjectiveConfig, pretraining_losses

_LEARNED_BYTES = 16  # weight, gradient and AdamW's two moments, 32 bits each


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """One pretraining step."""

    num_parameters: int  # of everything that is saved
    num_learned: int
    flops_per_pair: int  # of matrix products, forward and backward, a multiplication and an addition counted as two
    memory_bytes: int  # parameters, gradients, moments, and what the forward pass keeps; workspace is extra


def step_cost(
    config: MicronBertConfig,
    objective: ObjectiveConfig,
    *,
    batch_size: int,
    precision: str = "fp32",
    grad_checkpointing: bool = False,
) -> StepCost:
    """Count a step of `batch_size` pairs in a few seconds, on any machine.

    Memory assumes attention without its matrix, as on a GPU with 16-bit numbers and on a CPU.
    """
    with FakeTensorMode():
        model = MicronBert(config)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused kernels are not counted
            _loss(model, objective, 1).backward()  # type: ignore[no-untyped-call]
        model.set_grad_checkpointing(grad_checkpointing)
        one, two = (_kept_bytes(model, objective, count, precision) for count in (1, 2))
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    return StepCost(
        num_parameters=total,
        num_learned=learned,
        flops_per_pair=counter.get_total_flops(),
        memory_bytes=one + (batch_size - 1) * (two - one) + _LEARNED_BYTES * learned + 4 * (total - learned),
    )


def _loss(model: MicronBert, objective: ObjectiveConfig, batch_size: int) -> Tensor:
    size = model.config.image_size
    images = torch.empty(batch_size, model.config.in_chans, size, size)
    return pretraining_losses(model, images, images, objective, Draws(0, range(batch_size))).total


def _kept_bytes(model: MicronBert, objective: ObjectiveConfig, batch_size: int, precision: str) -> int:
    """The memory that the forward pass keeps for the backward pass, without the parameters."""
    with _noting_kept() as kept, torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "fp32"):
        loss = _loss(model, objective, batch_size)
    del loss  # nothing was freed before, so that each storage has a unique address
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    return sum(kept.values())


@contextlib.contextmanager
def _noting_kept() -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps; a storage kept twice counts once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept
