"""What μ-BERT is trained on: Blockwise Swapping, the crop for the contextual agent, and both losses of the paper."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mbert import ConfigError
from mbert.model.data.draws import Draws
from mbert.model.network.agent import NUM_GLOBAL, NUM_LOCAL
from mbert.model.network.micron_bert import MicronBert, PretrainOutput, patchify
from mbert.model.training.warp import WarpConfig, motion_loss, warped_pairs

SwapDistribution = Literal["exact", "bernoulli", "uniform"]
_DISTRIBUTIONS = ("exact", "bernoulli", "uniform")
_COLLAPSED = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """Swapping, crops and the weight of the two losses."""

    swap_ratio: float = 0.5  # share of patches swapped, on average
    swap_block: int = 1  # side of the swapped squares, in patches; 1 is the paper's
    # exact: the same number of patches in each pair. bernoulli: each square with probability swap_ratio. uniform: the
    # share is drawn again for each pair, between 0 and twice swap_ratio (at most 1).
    swap_distribution: SwapDistribution = "exact"
    crop_scale: float = 0.5  # smallest side of the agent's crop, in image sides
    crop_size_ratio: float = 0.5  # side at which the agent's crop is encoded, in image sides
    # β / γ; not published. None: 1 with DINO; 0.01 with MSE, where 1 lets the token collapse (docs/model.md).
    agent_weight: float | None = None
    motion_weight: float = 1.0  # of the loss of attention `motion`
    warp: WarpConfig = dataclasses.field(default_factory=WarpConfig)  # what attention `motion` learns from

    def __post_init__(self) -> None:
        if not 0 < self.swap_ratio < 1:
            raise ConfigError(f"swap_ratio is {self.swap_ratio}; it must lie between 0 and 1")
        if self.swap_block < 1:
            raise ConfigError(f"swap_block is {self.swap_block}; it must be at least 1 patch")
        if self.swap_distribution not in _DISTRIBUTIONS:
            allowed = ", ".join(_DISTRIBUTIONS)
            raise ConfigError(f"swap_distribution is {self.swap_distribution!r}; allowed are {allowed}")
        for name in ("crop_scale", "crop_size_ratio"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0 and at most 1")
        for name in ("agent_weight", "motion_weight"):
            if (weight := getattr(self, name)) is not None and weight < 0:
                raise ConfigError(f"{name} is {weight}; it must not be negative")


@dataclasses.dataclass(frozen=True, slots=True)
class Losses:
    """Scalars of one step. `total` is to be minimised, `token_std` is to be watched."""

    total: Tensor
    reconstruction: Tensor  # L_r
    agent: Tensor  # L_agg
    motion: Tensor  # of the warped pairs; 0 except with attention `motion`
    token_std: Tensor  # spread of the contextual token over the batch; its own size is about 1


def pretraining_losses(
    model: MicronBert,
    t0: Tensor,
    t1: Tensor,
    config: ObjectiveConfig,
    draws: Draws,
    forward: Callable[..., PretrainOutput] | None = None,
) -> Losses:
    """L = L_r + agent_weight * L_agg (+ motion_weight * L_motion) for normalised frames (B, C, H, W).

    L_r = MSE(decoder output, I_t); L_agg = MSE(p^CT of I_{t+δ}, p^CT of a random crop of I_{t+δ}). The token of the
    whole frame is the target and takes no gradient: if both tokens could move, they would soon meet at a constant. With
    the agent `mse_ema` the target comes from a moving average of the encoder; with `dino`, L_agg is DINO's
    cross-entropy over 2 large and 8 small crops. L_motion, for attention `motion`, is the loss on frames made from t1
    by known local motion (`warp.py`). `forward` is the model as wrapped for several processes.
    """
    forward = forward or model
    warped = None
    if model.config.attention == "motion":
        warped = warped_pairs(t1, model.config.patch_size, config.warp, draws)
        forward = functools.partial(forward, warped=(warped.t0, warped.t1))
    size, patch_size = t1.shape[-1], model.config.patch_size
    mask = random_swap_mask(model.config.grid, config, draws, device=t0.device)
    agent = torch.zeros((), device=t0.device)
    if model.config.agent == "dino":
        large, small = dino_crops(t1, patch_size=patch_size, draws=draws)
        output = forward(t0, t1, mask, large, small)
        assert model.agent is not None
        assert output.views is not None
        agent = model.agent(output.views, large)
    elif model.config.agent == "none":
        output = forward(t0, t1, mask)
    else:
        crop_size = max(1, round(size * config.crop_size_ratio / patch_size)) * patch_size
        output = forward(t0, t1, mask, random_crop(t1, min_scale=config.crop_scale, size=crop_size, draws=draws))
        assert output.views is not None
        if model.agent is None:
            agent = F.mse_loss(output.views, output.context.detach())
        else:
            agent = model.agent(output.views, t1)
    reconstruction = F.mse_loss(output.reconstruction, patchify(t0, patch_size))
    token_std = output.context.detach().std(dim=0).mean() if len(t0) > 1 else torch.ones((), device=t0.device)
    total = reconstruction + agent_weight(model, config) * agent
    motion = torch.zeros((), device=t0.device)
    if warped is not None:
        assert output.motion is not None
        motion = motion_loss(output.motion, warped.displacement)
        total = total + config.motion_weight * motion
    return Losses(total, reconstruction, agent, motion, token_std)


def agent_weight(model: MicronBert, config: ObjectiveConfig) -> float:
    """The configured weight, or the default for the agent."""
    if config.agent_weight is not None:
        return config.agent_weight
    return 1.0 if model.config.agent == "dino" else 0.01


def is_collapsed(token_std: float) -> bool:
    """Whether the contextual token is nearly the same for every face: its spread is below 2 % of its size."""
    return token_std < _COLLAPSED


def random_swap_mask(grid: int, config: ObjectiveConfig, draws: Draws, *, device: torch.device | str = "cpu") -> Tensor:
    """(B, N) bool, True where a patch is swapped, N = grid²; drawn again for each pair.

    `exact` swaps round(ratio * N) patches of each pair. To keep that number exact, a block of several patches may be
    swapped in part. Blocks at the right and bottom border are cut off where the grid ends.
    """
    block = config.swap_block
    blocks = -(-grid // block)
    order = draws(blocks, blocks).to(device, non_blocking=True)
    order = order.repeat_interleave(block, dim=1).repeat_interleave(block, dim=2)[:, :grid, :grid].flatten(1)  # (B, N)
    if config.swap_distribution == "bernoulli":
        return order < config.swap_ratio
    share = torch.full((len(order), 1), config.swap_ratio, device=device)
    if config.swap_distribution == "uniform":
        share = (draws(1).to(device, non_blocking=True) * 2 * config.swap_ratio).clamp(max=1)
    # Within a square all values are equal; a stable order then takes its patches row by row.
    ranks = order.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < (share * grid**2).round()


def dino_crops(images: Tensor, *, patch_size: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """DINO's crops of (B, C, H, W), crop by crop: 2 of 0.4-1 of the area at full size, 8 of 0.05-0.4 at 96 / 224."""
    small_size = max(1, round(images.shape[-1] * 96 / 224 / patch_size)) * patch_size
    large = [random_crop(images, min_scale=0.4**0.5, draws=draws) for _ in range(NUM_GLOBAL)]
    small = [
        random_crop(images, min_scale=0.05**0.5, max_scale=0.4**0.5, size=small_size, draws=draws)
        for _ in range(NUM_LOCAL)
    ]
    return torch.cat(large), torch.cat(small)


def random_crop(
    images: Tensor, *, min_scale: float, max_scale: float = 1.0, size: int | None = None, draws: Draws
) -> Tensor:
    """A random square of each image, `min_scale` to `max_scale` of its side, at full or another size, (B, C, H, W)."""
    drawn = draws(3).to(images, non_blocking=True)
    scale = min_scale + (max_scale - min_scale) * drawn[:, 0]
    shift = (1 - scale)[:, None] * (2 * drawn[:, 1:] - 1)  # the square stays inside
    theta = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    shape = [*images.shape[:2], *([size, size] if size else images.shape[2:])]
    grid = F.affine_grid(theta, shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
