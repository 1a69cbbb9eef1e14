"""What evaluation and finetuning look at: where and how the encoding of a face changes, region by region."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mbert.model.config import MicronBertConfig
from mbert.model.micro_attention import patch_of_interest
from mbert.model.micron_bert import MicronBert

REGIONS = 7  # features are averaged over 7 x 7 regions of the face: about a brow, a mouth corner, an eye each


def change_features(model: MicronBert, t0: Tensor, t1: Tensor) -> Tensor:
    """P(t1) - P(t0), weighted by the Patch of Interest where the model has it, averaged over regions.

    Normalised frames (B, C, H, W) of the model's size -> (B, REGIONS² * D) float32. The Micro-Attention is not asked:
    what it gives is no part of the features.
    """
    context, patches = model.encode(torch.cat([t0, t1]))
    p_t0, p_t1 = patches.chunk(2)  # (B, N, D)
    change = p_t1 - p_t0
    if model.config.poi:
        change = change * patch_of_interest(context.chunk(2)[1], p_t1)[..., None]
    return pool_regions(rearrange(change.float(), "b (h w) d -> b d h w", h=model.config.grid))


def num_features(config: MicronBertConfig) -> int:
    """How many `change_features` gives for each pair."""
    return REGIONS**2 * config.dim


def pool_regions(maps: Tensor, regions: int = REGIONS) -> Tensor:
    """(B, C, h, w) -> (B, C * regions²), each region averaged."""
    return F.adaptive_avg_pool2d(maps, regions).flatten(1)
