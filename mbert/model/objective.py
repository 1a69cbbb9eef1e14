"""What μ-BERT learns from: Blockwise Swapping, the crop for the contextual agent, and both losses of the paper."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mbert.model.micron_bert import MicronBert, patchify


@dataclasses.dataclass(frozen=True, slots=True)
class Losses:
    """Scalars of one step. `total` is to be minimised, `token_std` is to be watched."""

    total: Tensor
    reconstruction: Tensor  # L_r
    agent: Tensor  # L_agg
    token_std: Tensor  # spread of the contextual token over the batch: near 0, it says the same of every face


def pretraining_losses(
    model: MicronBert,
    t0: Tensor,
    t1: Tensor,
    *,
    swap_ratio: float,
    crop_scale: float,
    agent_weight: float,
    generator: Generator,
) -> Losses:
    """L = L_r + agent_weight * L_agg for normalised frames (B, C, H, W).

    L_r = MSE(decoder output, I_t); L_agg = MSE(p^CT of I_{t+δ}, p^CT of a random crop of I_{t+δ}). The token of
    the whole frame is the target and takes no gradient: two tokens that may both move meet soonest at a constant.
    """
    patch_size = model.config.patch_size
    mask = random_swap_mask(len(t0), model.config.num_patches, ratio=swap_ratio, generator=generator).to(t0.device)
    ts = swap_patches(t0, t1, mask, patch_size)
    output = model(ts, t1, random_crop(t1, min_scale=crop_scale, generator=generator))
    reconstruction = F.mse_loss(output.reconstruction, patchify(t0, patch_size))
    agent = F.mse_loss(output.context_crop, output.context.detach())
    token_std = output.context.detach().std(dim=0).mean() if len(t0) > 1 else torch.zeros(())
    return Losses(reconstruction + agent_weight * agent, reconstruction, agent, token_std)


def random_swap_mask(batch: int, num_patches: int, *, ratio: float, generator: Generator) -> Tensor:
    """(B, N) bool, True where a patch is swapped: exactly round(ratio * N) per pair, drawn anew for each."""
    num_swapped = round(ratio * num_patches)
    order = torch.rand(batch, num_patches, generator=generator).argsort(dim=1)
    return order < num_swapped


def swap_patches(t0: Tensor, t1: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Blockwise Swapping: t0 with the masked patches of t1 in their places. (B, C, H, W), mask (B, N)."""
    batch, _, height, width = t0.shape
    grid = mask.view(batch, 1, height // patch_size, width // patch_size)
    pixels = grid.repeat_interleave(patch_size, dim=2).repeat_interleave(patch_size, dim=3)
    return torch.where(pixels, t1, t0)


def random_crop(images: Tensor, *, min_scale: float, generator: Generator) -> Tensor:
    """A random square of each image, `min_scale` to 1 of its side, enlarged to full size. (B, C, H, W) -> same."""
    batch = len(images)
    draw = torch.rand(batch, 3, generator=generator).to(images)
    scale = min_scale + (1 - min_scale) * draw[:, 0]
    shift = (1 - scale)[:, None] * (2 * draw[:, 1:] - 1)  # the square stays inside
    theta = torch.zeros(batch, 2, 3, device=images.device, dtype=images.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
