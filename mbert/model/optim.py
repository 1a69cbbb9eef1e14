"""AdamW with decay where it belongs, and the learning rate as a pure function of the step."""

import math

from torch import nn, optim


def learning_rate(step: int, *, num_steps: int, num_warmup: int, peak: float) -> float:
    """Linear warm-up, then cosine to zero; `step` counts from 0."""
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))


def adamw(model: nn.Module, *, weight_decay: float) -> optim.AdamW:
    """AdamW; biases, norms and the contextual token are not decayed. The learning rate is set at each step."""
    learned = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim >= 2 and p.shape[0] > 1]
    others = [p for p in learned if not (p.ndim >= 2 and p.shape[0] > 1)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
