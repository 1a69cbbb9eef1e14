"""What μ-BERT learns from: Blockwise Swapping, the crop for the contextual agent, and both losses of the paper."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mbert.model.dino import NUM_GLOBAL, NUM_LOCAL
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
    swap_block: int = 1,
    crop_scale: float,
    agent_weight: float,
    generator: Generator,
) -> Losses:
    """L = L_r + agent_weight * L_agg for normalised frames (B, C, H, W).

    L_r = MSE(decoder output, I_t); L_agg = MSE(p^CT of I_{t+δ}, p^CT of a random crop of I_{t+δ}). The token of
    the whole frame is the target and takes no gradient: two tokens that may both move meet soonest at a constant.
    With the agent `dino`, L_agg is DINO's cross-entropy over 2 large and 8 small crops instead.
    """
    agent = torch.zeros((), device=t0.device)
    mask = random_swap_mask(len(t0), model.config.grid, ratio=swap_ratio, block=swap_block, generator=generator).to(
        t0.device
    )
    if model.agent is not None:
        large, small = dino_crops(t1, patch_size=model.config.patch_size, generator=generator)
        output = model(t0, t1, mask, large, small)
        assert output.views is not None
        agent = model.agent.loss(output.views, large)
    elif model.config.agent == "mse":
        output = model(t0, t1, mask, random_crop(t1, min_scale=crop_scale, generator=generator))
        assert output.views is not None
        agent = F.mse_loss(output.views, output.context.detach())
    else:
        output = model(t0, t1, mask)
    reconstruction = F.mse_loss(output.reconstruction, patchify(t0, model.config.patch_size))
    token_std = output.context.detach().std(dim=0).mean() if len(t0) > 1 else torch.zeros(())
    return Losses(reconstruction + agent_weight * agent, reconstruction, agent, token_std)


def random_swap_mask(batch: int, grid: int, *, ratio: float, block: int = 1, generator: Generator) -> Tensor:
    """(B, N) bool, True where a patch is swapped, N = grid²: exactly round(ratio * N) per pair, drawn anew for each.

    `block` > 1 swaps squares of block x block patches (1 is the paper's); one of them may be swapped in part, so that
    the number is exact. Squares at the right and lower border are cut off where the grid ends.
    """
    blocks = -(-grid // block)
    order = torch.rand(batch, blocks, blocks, generator=generator)
    order = order.repeat_interleave(block, dim=1).repeat_interleave(block, dim=2)[:, :grid, :grid]
    # Within a square all values are equal; a stable order then takes its patches row by row.
    ranks = order.reshape(batch, -1).argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < round(ratio * grid**2)


def dino_crops(images: Tensor, *, patch_size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """DINO's crops of (B, C, H, W), crop by crop: 2 of 0.4-1 of the area at full size, 8 of 0.05-0.4 at 96 / 224."""
    small_size = max(1, round(images.shape[-1] * 96 / 224 / patch_size)) * patch_size
    large = [random_crop(images, min_scale=0.4**0.5, generator=generator) for _ in range(NUM_GLOBAL)]
    small = [
        random_crop(images, min_scale=0.05**0.5, max_scale=0.4**0.5, size=small_size, generator=generator)
        for _ in range(NUM_LOCAL)
    ]
    return torch.cat(large), torch.cat(small)


def random_crop(
    images: Tensor, *, min_scale: float, max_scale: float = 1.0, size: int | None = None, generator: Generator
) -> Tensor:
    """A random square of each image, `min_scale` to `max_scale` of its side, at full or another size, (B, C, H, W)."""
    batch = len(images)
    draw = torch.rand(batch, 3, generator=generator).to(images)
    scale = min_scale + (max_scale - min_scale) * draw[:, 0]
    shift = (1 - scale)[:, None] * (2 * draw[:, 1:] - 1)  # the square stays inside
    theta = torch.zeros(batch, 2, 3, device=images.device, dtype=images.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    shape = [*images.shape[:2], *([size, size] if size else images.shape[2:])]
    grid = F.affine_grid(theta, shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
