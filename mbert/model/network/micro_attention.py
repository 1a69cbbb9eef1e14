"""Diagonal Micro-Attention and Patch of Interest: what changed, and whether that is on the face.

Shapes as in micron_bert.py: B pairs, N patches, D width of a token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbert.model.network.config import MicronBertConfig
from mbert.model.network.motion import MotionHead

_ROWS = 128  # of the attention at a time, at least
_ENTRIES = 2**26  # of the attention matrix at a time, on a GPU


class MicroAttention(nn.Module):
    """DMA: how much each patch attends to its own position in the other frame.

    A = softmax(Q K^T / sqrt(D)) over the keys (paper, eq. 8; the scale as in the released code). One head, as
    published. `config.roles` sets which tokens Q and K are made of; values always come from ts (t0 after training).
    With `config.attention` motion, `motion` gives the probability that each patch did not move; there are no Q and K.
    """

    def __init__(self, config: MicronBertConfig) -> None:
        super().__init__()
        self.roles = config.roles
        self.scale = config.dim**-0.5
        self.motion: MotionHead | None = None
        if config.attention == "motion":
            self.motion = MotionHead(config)
        else:
            self.to_q = nn.Linear(config.dim, config.dim)
            self.to_k = nn.Linear(config.dim, config.dim)
        self.to_v = nn.Linear(config.dim, config.dim)
        self.proj = nn.Linear(config.dim, config.dim) if config.roles == "released" else nn.Identity()

    def diagonal(self, p_ts: Tensor, p_t1: Tensor) -> Tensor:
        """N * diag(A), (B, N), from tokens (B, N, D). The matrix A is never built: its row sums are enough."""
        query, key = self._query_key(p_ts, p_t1)
        query = query * self.scale
        own = (_exact(query) * _exact(key)).sum(dim=-1)  # (B, N): the diagonal of the scores
        return torch.exp(own - row_logsumexp(query, key)) * own.shape[1]

    def gated(self, weight: Tensor, p_ts: Tensor) -> Tensor:
        """Values of ts, each multiplied by its weight (B, N): (B, N, D)."""
        gated: Tensor = self.proj(weight[..., None] * self.to_v(p_ts))
        return gated

    def full(self, p_ts: Tensor, p_t1: Tensor) -> Tensor:
        """A V, ordinary cross-attention: (B, N, D)."""
        query, key = self._query_key(p_ts, p_t1)
        value = self.to_v(p_ts)
        mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        full: Tensor = self.proj(mixed)
        return full

    def _query_key(self, p_ts: Tensor, p_t1: Tensor) -> tuple[Tensor, Tensor]:
        asking, answering = (p_t1, p_ts) if self.roles == "paper" else (p_ts, p_t1)
        return self.to_q(asking), self.to_k(answering)


def row_logsumexp(query: Tensor, key: Tensor) -> Tensor:
    """log(sum(exp(Q K^T))) of each row, (B, N, D), (B, M, D) -> (B, N), without the (N, M) product in memory."""
    found: Tensor = _RowLogSumExp.apply(query, key)
    return found


class _RowLogSumExp(torch.autograd.Function):
    """A few rows at a time; the backward pass recomputes them instead of storing them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        total = torch.cat([_logsumexp(query[:, rows] @ key.mT) for rows in _parts(query, key)], dim=1)
        ctx.save_for_backward(query, key)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        query, key = ctx.saved_tensors
        grad = grads[0][..., None]  # (B, N, 1)
        grad_query, grad_key = torch.empty_like(query), torch.zeros_like(key)
        for rows in _parts(query, key):
            softmax = torch.softmax(query[:, rows] @ key.mT, dim=-1)  # (B, rows, M)
            grad_query[:, rows] = grad[:, rows] * (softmax @ key)
            grad_key += softmax.mT @ (grad[:, rows] * query[:, rows]).to(key.dtype)
        return grad_query, grad_key


def _parts(query: Tensor, key: Tensor) -> list[slice]:
    """Rows to process together: few on a CPU, for its cache; on a GPU as many as barely affect its memory."""
    count = max(_ROWS, _ENTRIES // (len(key) * key.shape[1])) if query.is_cuda else _ROWS
    return [slice(start, start + count) for start in range(0, query.shape[1], count)]


def _logsumexp(scores: Tensor) -> Tensor:
    """Over the last axis, in one kernel; `torch.logsumexp` uses six, each reading all scores."""
    first = _exact(scores[..., 0])
    return first - torch.log_softmax(scores, dim=-1, dtype=first.dtype)[..., 0]


def _exact(values: Tensor) -> Tensor:
    """Convert to at least 32 bits: exponentials magnify rounding."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def patch_of_interest(context: Tensor, patches: Tensor) -> Tensor:
    """PoI: how much each patch belongs to "this face", (B, D), (B, N, D) -> (B, N), mean 1.

    The paper leaves the form of the correlation open; here it is a scaled dot product and a softmax over the patches.
    """
    scores = torch.einsum("bd,bnd->bn", context, patches) * patches.shape[-1] ** -0.5
    return torch.softmax(scores, dim=-1) * patches.shape[1]
