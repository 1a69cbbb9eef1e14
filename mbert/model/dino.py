"""The contextual agent of the released code: DINO (Caron et al. 2021) on crops of t1.

Student: the shared encoder and a head, on 2 large and 8 small crops. Teacher: moving averages of both, on the large.
The student's views have to say what the teacher says of another view. Two things keep the answer from being a constant:
the teacher's outputs are centred by their running mean, and sharpened by a low temperature.
"""

import math
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

NUM_GLOBAL, NUM_LOCAL = 2, 8
_HIDDEN, _BOTTLENECK, _OUT = 2048, 256, 128  # of the released checkpoint
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.04
_CENTER_MOMENTUM = 0.9


def ema_momentum(step: int, *, num_steps: int, start: float) -> float:
    """How much of the teacher is kept at a step: from `start` to 1 by a cosine; `step` counts from 0."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / num_steps)) / 2


class DinoAgent(nn.Module):
    """Heads, teacher and centre; the student's encoder is the model's own."""

    center: Tensor

    def __init__(self, encoder: Any, dim: int) -> None:
        """`encoder` becomes the teacher: hand over a copy of the student's."""
        super().__init__()
        self.head = DinoHead(dim)
        self.teacher = encoder
        self.teacher_head = DinoHead(dim)
        self.register_buffer("center", torch.zeros(1, _OUT))
        self._batch_mean: Tensor | None = None
        for parameter in (*self.teacher.parameters(), *self.teacher_head.parameters()):
            parameter.requires_grad_(False)

    @torch.no_grad()
    def follow(self, encoder: nn.Module, *, momentum: float) -> None:
        """After a step: move the teacher towards the student (momentum 0: become it), and the centre to the batch."""
        for student, teacher in ((encoder, self.teacher), (self.head, self.teacher_head)):
            for own, averaged in zip(student.parameters(), teacher.parameters(), strict=True):
                averaged.lerp_(own.detach(), 1 - momentum)
        if self._batch_mean is not None:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(self._batch_mean)
                self._batch_mean /= torch.distributed.get_world_size()
            self.center.lerp_(self._batch_mean.to(self.center), 1 - _CENTER_MOMENTUM)
            self._batch_mean = None

    def loss(self, views: Tensor, global_crops: Tensor) -> Tensor:
        """Cross-entropy of each student view with each teacher view of another crop, averaged.

        `views` are the student's contextual tokens, ((2 + 8) B, D), crop by crop, the large ones first; `global_crops`
        the images of the large ones, (2 B, C, H, W).
        """
        with torch.no_grad():
            answers = self.teacher_head(self.teacher.context(global_crops))  # (2 B, K)
            self._batch_mean = answers.float().mean(dim=0, keepdim=True)
            targets = torch.softmax((answers.float() - self.center) / _TEACHER_TEMPERATURE, dim=-1).chunk(NUM_GLOBAL)
        log_said = torch.log_softmax(self.head(views).float() / _STUDENT_TEMPERATURE, dim=-1)
        said = log_said.chunk(NUM_GLOBAL + NUM_LOCAL)
        losses = [
            -(target * view).sum(dim=-1).mean()
            for number, target in enumerate(targets)
            for other, view in enumerate(said)
            if other != number  # a view is not compared with itself
        ]
        return torch.stack(losses).mean()


class DinoHead(nn.Module):
    """Three layers, a point on the unit sphere, and its cosines with 128 prototypes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _BOTTLENECK)
        )
        self.last_layer = _UnitRows(_BOTTLENECK, _OUT)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, D) -> (B, 128)."""
        cosines: Tensor = self.last_layer(F.normalize(self.mlp(tokens), dim=-1))
        return cosines


class _UnitRows(nn.Module):
    """A linear layer whose rows have length `weight_g`, which stays 1: longer rows would undo the temperature."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(dim_out, 1), requires_grad=False)
        self.weight_v = nn.Parameter(torch.randn(dim_out, dim_in) * 0.02)

    def forward(self, points: Tensor) -> Tensor:
        return F.linear(points, self.weight_g * F.normalize(self.weight_v, dim=-1))
