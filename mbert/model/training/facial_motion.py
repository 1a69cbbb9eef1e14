"""Motion of the shape that faces make: drawn from principal components of the motion of real faces.

The package carries the components alone (`facial_motion.safetensors`): no picture, and no motion of one person. Two
families were measured on public clips: displacements of a face mesh between frames 5 to 15 apart, and dense flow
between frames 4 to 9 apart; the head's affine motion taken away, mirrored ones too, each scaled to a largest length of
1, no person weighing more than another. docs/model.md says of whom.
"""

import functools
import math
from importlib import resources

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch import Tensor

FAMILIES = ("mesh", "flow")
_COMPONENTS = 48  # of each family; 98 % of the variance of the mesh's motion, 88 % of the flow's
_SHARE = 0.6  # of the first family
_WEAK = (0.08, 0.25)  # shares of the largest length between which motion fades out: most of a face stays still
_DEGREES, _GROWTH, _SHIFT = 10.0, 0.12, 0.036  # standard deviations; of the shift in crop widths
_ELSEWHERE = 0.3  # share of fields whose motion points another way
FACIAL_NUMBERS = 2 * _COMPONENTS + 1 + 5 + 3  # uniform ones, for each field


def facial_fields(numbers: Tensor, axes: tuple[Tensor, Tensor]) -> Tensor:
    """Fields of motion (B, S, S, 2) whose largest length is 1, from uniform numbers (B, FACIAL_NUMBERS).

    `axes` are x and y of each pixel in crop widths from the centre, (S, S), as `warp.py` has them.
    """
    device = axes[0].device
    components = torch.tensor(_components()).to(device, non_blocking=True)  # (families, K, 2, h, w)
    drawn, numbers = numbers[:, : 2 * _COMPONENTS], numbers[:, 2 * _COMPONENTS :]
    # Laplace: few components make a movement, as few muscles do.
    centred = drawn.clamp(1e-6, 1 - 1e-6) - 0.5
    weights = -centred.sign() * (1 - 2 * centred.abs()).log()
    is_first = numbers[:, :1] < _SHARE
    weights = torch.cat([weights[:, :_COMPONENTS] * is_first, weights[:, _COMPONENTS:] * ~is_first], dim=1)
    place, matrix = _varied(numbers[:, 1:])
    weights, place, matrix = (each.to(device, non_blocking=True) for each in (weights, place, matrix))
    # One product for each pair, so that it is not rounded otherwise in a batch of another size.
    flat = components.flatten(0, 1).flatten(1).expand(len(weights), -1, -1)
    fields = torch.bmm(weights[:, None], flat).view(-1, *components.shape[2:])
    length = fields.norm(dim=1, keepdim=True)
    largest = length.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    low, high = _WEAK
    fields = fields / largest * ((length / largest - low) / (high - low)).clamp(0, 1)
    grid = F.affine_grid(place, [len(fields), 2, *axes[0].shape], align_corners=False)
    spread = F.grid_sample(fields, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    turned = torch.einsum("bde,beyx->byxd", matrix, spread)
    scaled: Tensor = turned / turned.norm(dim=-1, keepdim=True).amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    return scaled


def _varied(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """From where each field is read (B, 2, 3), and what its vectors are multiplied with (B, 2, 2)."""
    normal = torch.special.ndtri(numbers[:, :4].clamp(1e-6, 1 - 1e-6))
    angle, scale, shift = normal[:, 0] * math.radians(_DEGREES), (normal[:, 1] * _GROWTH).exp(), normal[:, 2:4]
    mirror = torch.where(numbers[:, 4] < 0.5, -1.0, 1.0)
    elsewhere = torch.where(numbers[:, 5] < _ELSEWHERE, 2 * math.pi * numbers[:, 6], torch.zeros_like(angle))
    zero = torch.zeros_like(angle)
    flip = torch.stack([mirror, zero, zero, torch.ones_like(zero)], dim=1).view(-1, 2, 2)
    # A place of the drawn field is read where the inverse of the variation takes it.
    read = flip @ _rotation(-angle) / scale[:, None, None]
    place = torch.cat([read, -(read @ (2 * _SHIFT * shift)[..., None])], dim=2)
    return place, _rotation(angle + elsewhere) @ flip


def _rotation(angle: Tensor) -> Tensor:
    """(B,) -> (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


@functools.cache
def _components() -> npt.NDArray[np.float32]:
    """(families, K, 2, h, w): each as long as its standard deviation."""
    file = resources.files("mbert.weights") / "facial_motion.safetensors"
    found = safetensors.numpy.load(file.read_bytes())
    components: npt.NDArray[np.float32] = np.stack([found[family] for family in FAMILIES])[:, :_COMPONENTS]
    return components.astype(np.float32)
