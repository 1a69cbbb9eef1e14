"""Dense flow as evidence of motion: how far the parts of each patch went between two frames, beside the head.

The search (dense inverse search, Kroeger et al., ECCV 2016) follows single edges and finds what the least squares of
`motion.py` blur; it knows nothing of noise, which these do. A motion head that sees both errs half as often on motion
of real shape (docs/evidence.md). It runs on the CPU, whatever device the frames are on.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mbert.model.network.blur import blurred

NUM_FLOW = 16  # numbers for each patch: x and y of its quarters, forward and backward
_LIGHT = 0.15  # crop widths: what is slow enough to be light
_DARK = 5.0  # levels of 255 that are added before the light's ratio is taken: black stays black
_COARSE = 8  # the light is measured on a picture that is smaller by this factor
_ROUNDS = 8  # of the robust fit of the head's motion
_FIT_PX = 0.02  # below it, a residual weighs no more
_SMALL_PX = 0.1  # displacements grow as they are below, as their logarithm above


@torch.library.custom_op("mbert::flow_evidence", mutates_args=())
def flow_evidence(t0: Tensor, t1: Tensor, grid: int, px: float) -> Tensor:
    """Lumas (B, 1, S, S) in 0-255 -> (B, N, NUM_FLOW), N = grid².

    `px` is how many pixels of a 224 px crop a pixel of the frames is. Displacements are beside one affine motion of the
    whole crop, as asinh(px / 0.1) / 2; backward ones with their sign turned, so that both say the same where the search
    is right.
    """
    from mbert.shards.optical_flow import searched_flow  # so that the network can be used without OpenCV

    first, second = _levels(t0), _levels(_relit(t0, t1))
    flows = np.stack(
        [
            searched_flow(*ends)
            for one, other in zip(first, second, strict=True)
            for ends in ((one, other), (other, one))
        ]
    )
    cells = F.adaptive_avg_pool2d(torch.from_numpy(flows).movedim(3, 1), 2 * grid)  # (2 B, 2, 2 grid, 2 grid)
    found = rearrange(cells, "(b w) d y x -> b w (y x) d", w=2) * px
    found = torch.stack([found[:, 0], -found[:, 1]], dim=1)
    beside = _beside_affine(found.flatten(0, 1), 2 * grid)
    compressed = (beside / _SMALL_PX).asinh() / 2
    by_patch = rearrange(compressed, "(b w) (y j x i) d -> b (y x) (w j i d)", w=2, y=grid, x=grid, j=2, i=2)
    return by_patch.to(t0.device)


@flow_evidence.register_fake
def _shape(t0: Tensor, t1: Tensor, grid: int, px: float) -> Tensor:
    """What the compiler is told, which cannot look into the search."""
    return t0.new_empty(len(t0), grid**2, NUM_FLOW)


def _relit(t0: Tensor, t1: Tensor) -> Tensor:
    """t1 under the slow light of t0."""
    size = t1.shape[-1]
    light = [blurred(F.avg_pool2d(each, _COARSE), _LIGHT * size / _COARSE) for each in (t0, t1)]
    ratio = (light[0] + _DARK) / (light[1] + _DARK)
    return t1 * F.interpolate(ratio, size=t1.shape[-2:], mode="bilinear", align_corners=False)


def _levels(luma: Tensor) -> npt.NDArray[np.uint8]:
    """(B, H, W)."""
    found: npt.NDArray[np.uint8] = luma[:, 0].clamp(0, 255).round().byte().cpu().numpy()
    return found


def _beside_affine(flow: Tensor, count: int) -> Tensor:
    """Flows (P, count², 2) less the affine motion that most cells share: least absolute deviations."""
    along = (torch.arange(count) + 0.5) / count * 2 - 1
    y, x = torch.meshgrid(along, along, indexing="ij")
    terms = torch.stack([torch.ones_like(x), x, y], dim=-1).flatten(0, 1)  # (C, 3)
    products = (terms[:, :, None] * terms[:, None, :]).flatten(1)
    targets = (terms[:, :, None] * flow[:, :, None, :]).flatten(2)  # (P, C, 6)
    weight, rest = torch.ones_like(flow[..., :1]), flow
    for _ in range(_ROUNDS):
        # Sums, not a product of matrices, which would be rounded otherwise in a batch of another size.
        left = (weight * products).sum(dim=1).view(-1, 3, 3) + 1e-4 * torch.eye(3)
        right = (weight * targets).sum(dim=1).view(-1, 3, 2)
        affine = torch.linalg.solve(left, right)  # (P, 3, 2)
        rest = flow - (terms[:, :, None] * affine[:, None]).sum(dim=2)
        weight = 1 / (rest.norm(dim=-1, keepdim=True) + _FIT_PX)
    return rest
