"""Contextual agents with a teacher: the target for the contextual token of a crop of t1.

`EmaAgent` is the paper's MSE against a moving average of the encoder. `DinoAgent` is the released code's agent
(Caron et al. 2021). Student: the shared encoder and a head, on 2 large and 8 small crops. Teacher: moving averages of
both, on the large crops. Each student view must match the teacher's output for another view. Two things keep the
output from becoming constant: the teacher's outputs are centred by a running mean and sharpened by a low temperature.
"""

import math
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

NUM_GLOBAL, NUM_LOCAL = 2, 8
_HIDDEN, _BOTTLENECK, _OUT = 2048, 256, 128  # as in the released checkpoint
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.04
_CENTER_MOMENTUM = 0.9


def ema_momentum(step: int, *, num_steps: int, start: float) -> float:
    """The share of the teacher kept at a step: a cosine from `start` to 1; `step` counts from 0."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * step / num_steps)) / 2


class EmaAgent(nn.Module):
    """A moving average of the encoder, and its tokens of t1."""

    def __init__(self, teacher: Any, student: nn.Module) -> None:
        """`teacher` is a separate encoder; it starts as a copy of the student."""
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.teacher.load_state_dict(student.state_dict())

    def forward(self, views: Tensor, images: Tensor) -> Tensor:
        """MSE between the student's tokens of crops (B, D) and the teacher's of the whole images (B, C, H, W)."""
        with torch.no_grad():
            target = self.teacher.context(images)
        return F.mse_loss(views, target)

    @torch.no_grad()
    def follow(self, encoder: nn.Module, *, momentum: float) -> None:
        """After a step, move the teacher towards the student; momentum 0 copies it."""
        _move(self.teacher, encoder, momentum)


class DinoAgent(EmaAgent):
    """Heads, teacher and centre; the student's encoder is the model's."""

    center: Tensor

    def __init__(self, teacher: Any, student: nn.Module, dim: int) -> None:
        super().__init__(teacher, student)
        self.head = DinoHead(dim)
        self.teacher_head = DinoHead(dim).requires_grad_(False)
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.register_buffer("center", torch.zeros(1, _OUT))
        self._batch_sum: Tensor | None = None  # the teacher's outputs since the last step
        self._num_answers = 0

    def forward(self, views: Tensor, images: Tensor) -> Tensor:
        """Cross-entropy of each student view with each teacher view of a different crop, averaged.

        `views` are the student's contextual tokens, ((2 + 8) B, D), crop by crop, the large ones first; `images` the
        large crops, (2 B, C, H, W).
        """
        with torch.no_grad():
            answers = self.teacher_head(self.teacher.context(images)).float()  # (2 B, K)
            self._note(answers)
            targets = torch.softmax((answers - self.center) / _TEACHER_TEMPERATURE, dim=-1).chunk(NUM_GLOBAL)
        log_said = torch.log_softmax(self.head(views).float() / _STUDENT_TEMPERATURE, dim=-1)
        said = log_said.chunk(NUM_GLOBAL + NUM_LOCAL)
        losses = [
            -(target * view).sum(dim=-1).mean()
            for number, target in enumerate(targets)
            for other, view in enumerate(said)
            if other != number  # a view is not compared with itself
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def follow(self, encoder: nn.Module, *, momentum: float) -> None:
        """After a step, move the teacher towards the student, and the centre towards the outputs of all ranks."""
        super().follow(encoder, momentum=momentum)
        _move(self.teacher_head, self.head, momentum)
        if self._batch_sum is None:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._batch_sum)
            self._num_answers *= torch.distributed.get_world_size()  # all ranks have the same batch size
        self.center.lerp_((self._batch_sum / self._num_answers).to(self.center), 1 - _CENTER_MOMENTUM)
        self._batch_sum, self._num_answers = None, 0

    def _note(self, answers: Tensor) -> None:
        """Accumulate the outputs: with accumulated gradients, a step has several batches."""
        total = answers.sum(dim=0, keepdim=True)
        self._batch_sum = total if self._batch_sum is None else self._batch_sum + total
        self._num_answers += len(answers)


def _move(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    averaged, own = ([parameter.detach() for parameter in module.parameters()] for module in (teacher, student))
    torch._foreach_lerp_(averaged, own, 1 - momentum)


class DinoHead(nn.Module):
    """Three layers, a projection onto the unit sphere, and cosines with 128 prototypes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, _BOTTLENECK)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
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
