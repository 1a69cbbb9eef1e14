"""The loss of labels: soft targets, mixed pairs, weighted classes. Independent of which process has which pairs."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_weights(counts: Sequence[int]) -> Tensor:
    """(K,) weights inverse to the number of pairs per class; their mean over all pairs is 1."""
    found = torch.tensor(counts, dtype=torch.float32)
    return found.sum() / (len(counts) * found)


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """(B,) int64 -> (B, K): 1 - smoothing on the label, and smoothing spread over all classes."""
    return F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def mixing_shares(alpha: float, places: range, total: int, *, seed: int, step: int) -> Tensor:
    """(len(places),) float32 shares of the first of two mixed pairs, from Beta(alpha, alpha).

    Drawn for the whole global batch of `total` pairs from (seed, step), so that each place gets the same share for any
    number of processes and after an interruption.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    shares = generator.beta(alpha, alpha, size=total).astype(np.float32)
    return torch.from_numpy(shares[places.start : places.stop : places.step])


def mix(one: Tensor, other: Tensor, shares: Tensor) -> Tensor:
    """Mix by share: (B, ...) and (B, ...) with (B,) -> (B, ...)."""
    weight = shares.view(-1, *[1] * (one.ndim - 1))
    return weight * one + (1 - weight) * other


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """The mean over the pairs of -sum_c w_c * target_c * log p_c, for (B, K) and (B, K).

    Not divided by a batch's sum of weights: parts of a batch on several processes then add up to the whole.
    """
    return F.cross_entropy(logits.float(), targets, weight=weights, reduction="none").mean()
