"""AdamW with selective decay, the learning rate as a pure function of the step, averaged weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn, optim


def learning_rate(step: int, *, num_steps: int, num_warmup: int, peak: float) -> float:
    """Linear warm-up, then cosine to zero; `step` counts from 0."""
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))


def adamw(model: nn.Module, *, weight_decay: float, lr_scale: Callable[[str], float] = lambda name: 1.0) -> optim.AdamW:
    """AdamW; biases, norms and the contextual token are not decayed. `set_learning_rate` before each step.

    `lr_scale` returns the share of the learning rate for the parameter of a given name.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and parameter.shape[0] > 1
            groups.setdefault((lr_scale(name), weight_decay if decays else 0.0), []).append(parameter)
    return optim.AdamW(
        [{"params": found, "weight_decay": decay, "lr_scale": scale} for (scale, decay), found in groups.items()],
        lr=0.0,
        betas=(0.9, 0.95),
        fused=True,
    )


def set_learning_rate(optimizer: optim.Optimizer, lr: float) -> None:
    """Set the learning rate of each group, scaled by its share."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


class AveragedWeights:
    """A moving average of all saved tensors of a model, in 32 bits."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int) -> None:
        """Update after a step; `step` counts from 0. The first steps weigh more, so that initial weights fade soon."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        torch._foreach_lerp_(list(self.tensors.values()), [state[name] for name in self.tensors], 1 - decay)
