"""μ-BERT (Nguyen et al., CVPR 2023), read from top to bottom as in the paper's figure.

Shapes: B pairs, N patches (N = (image_size / patch_size)²), D width of a token, P = patch_size² * in_chans values of a
patch. t0 is the earlier frame (the paper's I_t), t1 the later one (I_{t+δ}), ts is t0 with some patches of t1 in it
(I_{t/s}). Images are (B, C, H, W), normalised.

The scale trap: at the start a softmax over N patches gives each about 1/N, so diag(A) * V would be N times smaller than
the tokens around it, and the decoder would see next to nothing. The diagonal is therefore multiplied by N, and so is
the Patch of Interest: both are 1 on average for uniform attention. No normalisation stands between this product and the
decoder's first linear layer: a LayerNorm there would divide the gate away again.
"""

import dataclasses
import functools
from typing import Literal

import torch
from einops import rearrange
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mbert import ConfigError

Preset = Literal["tiny", "small", "base"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MicronBertConfig:
    """Sizes of a model; the defaults are the paper's (and the released checkpoint's)."""

    image_size: int = 224
    patch_size: int = 8
    in_chans: int = 3
    dim: int = 512
    depth: int = 4
    heads: int = 4
    decoder_dim: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 4
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ConfigError(f"image size {self.image_size} is not a multiple of patch size {self.patch_size}")
        for name, dim, heads in (
            ("dim", self.dim, self.heads),
            ("decoder_dim", self.decoder_dim, self.decoder_heads),
        ):
            if dim % heads or dim % 4:
                raise ConfigError(f"{name} {dim} must be a multiple of its {heads} heads and of 4")

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid**2


PRESETS: dict[str, MicronBertConfig] = {
    "tiny": MicronBertConfig(
        image_size=112, dim=96, depth=2, heads=4, decoder_dim=96, decoder_depth=2, decoder_heads=4
    ),
    "small": MicronBertConfig(),
    "base": MicronBertConfig(dim=768, depth=12, heads=12, decoder_dim=512, decoder_depth=8, decoder_heads=8),
}


@dataclasses.dataclass(frozen=True, slots=True)
class PairEncoding:
    """What μ-BERT says about a pair. P(t1) asks, P(t0) (or P(ts) in training) answers."""

    t0: Tensor  # (B, N, D) tokens of the answering frame
    t1: Tensor  # (B, N, D)
    context: Tensor  # (B, D) contextual token of t1
    diagonal: Tensor  # (B, N) attention of each patch to its own position, times N: small where the patch changed
    interest: Tensor  # (B, N) Patch of Interest, mean 1
    micro: Tensor  # (B, N, D) P_dma, the gated values


@dataclasses.dataclass(frozen=True, slots=True)
class PretrainOutput:
    """One training forward."""

    reconstruction: Tensor  # (B, N, P) predicted patches of t0
    context: Tensor  # (B, D) contextual token of t1
    context_crop: Tensor  # (B, D) contextual token of the crop of t1
    pair: PairEncoding


_layer_norm = functools.partial(nn.LayerNorm, eps=1e-6)  # the released checkpoint's epsilon


class MicronBert(nn.Module):
    """Encoder, Diagonal Micro-Attention with Patch of Interest, decoder."""

    pos_embed: Tensor
    decoder_pos_embed: Tensor

    def __init__(self, config: MicronBertConfig) -> None:
        super().__init__()
        self.config = config
        size = config.patch_size
        self.patch_embed = nn.Conv2d(config.in_chans, config.dim, kernel_size=size, stride=size)
        self.contextual_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("pos_embed", _positions(config.grid, config.dim))  # (1, N, D)
        self.blocks = _blocks(config.depth, config.dim, config.heads, config.mlp_ratio)
        self.norm = _layer_norm(config.dim)

        self.micro_attention = DiagonalMicroAttention(config.dim)

        self.decoder_embed = nn.Linear(config.dim, config.decoder_dim)
        self.register_buffer("decoder_pos_embed", _positions(config.grid, config.decoder_dim))
        self.decoder_blocks = _blocks(config.decoder_depth, config.decoder_dim, config.decoder_heads, config.mlp_ratio)
        self.decoder_norm = _layer_norm(config.decoder_dim)
        self.decoder_pred = nn.Linear(config.decoder_dim, size**2 * config.in_chans)
        self._init_weights()

    def forward(self, ts: Tensor, t1: Tensor, t1_crop: Tensor) -> PretrainOutput:
        """Training: restore t0 from what the swapped frame ts and the reference t1 have to say about each other.

        `t1_crop` is a random crop of t1 at full size, for the contextual agent.
        """
        context, patches = self.encode(torch.cat([ts, t1, t1_crop]))  # one pass for all three
        p_ts, p_t1, _ = patches.chunk(3)
        _, c_t1, c_crop = context.chunk(3)
        pair = self._compare(p_ts, p_t1, c_t1)
        return PretrainOutput(self.decode(pair.micro), c_t1, c_crop, pair)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> contextual token (B, D) and patch tokens (B, N, D), both normalised."""
        tokens = rearrange(self.patch_embed(images), "b d h w -> b (h w) d") + self.pos_embed  # (B, N, D)
        context = self.contextual_token.expand(len(tokens), -1, -1)  # (B, 1, D), without a position
        tokens = torch.cat([context, tokens], dim=1)  # (B, 1 + N, D)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return tokens[:, 0], tokens[:, 1:]

    def encode_pair(self, t0: Tensor, t1: Tensor) -> PairEncoding:
        """Use after training: nothing is swapped, P(t1) asks P(t0)."""
        context, patches = self.encode(torch.cat([t0, t1]))
        p_t0, p_t1 = patches.chunk(2)
        return self._compare(p_t0, p_t1, context.chunk(2)[1])

    def _compare(self, p_t0: Tensor, p_t1: Tensor, context: Tensor) -> PairEncoding:
        diagonal, values = self.micro_attention(p_t1, p_t0)
        interest = patch_of_interest(context, p_t1)
        micro = (diagonal * interest)[..., None] * values  # W * V(P_ts), the paper's P_dma
        return PairEncoding(p_t0, p_t1, context, diagonal, interest, micro)

    def decode(self, micro: Tensor) -> Tensor:
        """Gated values (B, N, D) -> predicted patches (B, N, P)."""
        tokens = self.decoder_embed(micro) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            tokens = block(tokens)
        patches: Tensor = self.decoder_pred(self.decoder_norm(tokens))
        return patches

    def _init_weights(self) -> None:
        """Xavier for linear layers as in MAE, small normal for the token; the convolution counts as linear."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.weight.view(self.config.dim, -1))
        nn.init.normal_(self.contextual_token, std=0.02)


class DiagonalMicroAttention(nn.Module):
    """DMA: how much each patch of the asking frame attends to its own position in the answering frame.

    A = softmax(Q(P_t1) K(P_ts)^T / sqrt(D)) over the keys (paper, eq. 8; the scale as in the released code); only its
    diagonal is used. One head, as published.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)

    def forward(self, asking: Tensor, answering: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D), (B, N, D) -> N * diag(A), (B, N), and V of the answering frame, (B, N, D)."""
        query, key = self.to_q(asking) * self.scale, self.to_k(answering)
        own = (query * key).sum(dim=-1)  # (B, N): the diagonal of the scores
        total = torch.logsumexp(query @ key.transpose(1, 2), dim=-1)  # (B, N)
        return torch.exp(own - total) * own.shape[1], self.to_v(answering)


def patch_of_interest(context: Tensor, patches: Tensor) -> Tensor:
    """PoI: how much each patch belongs to "this face", (B, D), (B, N, D) -> (B, N), mean 1.

    The paper leaves the form of the correlation open; here it is a scaled dot product and a softmax over the patches.
    """
    scores = torch.einsum("bd,bnd->bn", context, patches) * patches.shape[-1] ** -0.5
    return torch.softmax(scores, dim=-1) * patches.shape[1]


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, P); patches row by row, values in the order (y, x, channel)."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def _blocks(depth: int, dim: int, heads: int, mlp_ratio: float) -> nn.ModuleList:
    block = functools.partial(Block, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=_layer_norm)  # type: ignore[arg-type]
    return nn.ModuleList([block(dim, heads) for _ in range(depth)])


def _positions(grid: int, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, (1, N, dim)."""
    return build_sincos2d_pos_embed([grid, grid], dim=dim, interleave_sin_cos=False)[None]
