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
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mbert import ConfigError
from mbert.model.dino import DinoAgent

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
    # Who asks (query), who answers (key), whose values are taken. paper: t1, ts, ts. released: ts, t1, ts, and a linear
    # layer behind, as in the authors' code.
    roles: Literal["paper", "released"] = "paper"
    # diagonal: each patch's attention to its own position scales its value. full: ordinary cross-attention, as in the
    # authors' released weights.
    attention: Literal["diagonal", "full"] = "diagonal"
    poi: bool = True  # whether the Patch of Interest scales the diagonal
    # What the contextual token learns from. mse: to equal that of a crop. dino: the released code's way, see dino.py.
    agent: Literal["mse", "dino", "none"] = "mse"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("roles", ("paper", "released")),
            ("attention", ("diagonal", "full")),
            ("agent", ("mse", "dino", "none")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        if self.poi and self.attention == "full":
            raise ConfigError("poi=True with attention='full' is not supported: PoI scales the diagonal; use poi=False")
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


# Paper and released code disagree; docs/model.md has the table. Use as `MicronBertConfig(**VARIANTS["released"])`.
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"roles": "paper", "attention": "diagonal", "poi": True, "agent": "mse"},
    "released": {"roles": "released", "attention": "full", "poi": False, "agent": "dino"},
}
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
    diagonal: Tensor | None  # (B, N) attention of each patch to its own position, times N: small where it changed
    interest: Tensor | None  # (B, N) Patch of Interest, mean 1
    micro: Tensor  # (B, N, D) P_dma, the gated values; with full attention, its output


@dataclasses.dataclass(frozen=True, slots=True)
class PretrainOutput:
    """One training forward."""

    reconstruction: Tensor  # (B, N, P) predicted patches of t0
    context: Tensor  # (B, D) contextual token of t1
    views: Tensor | None  # (V * B, D) contextual tokens of the crops of t1
    pair: PairEncoding


_layer_norm = functools.partial(nn.LayerNorm, eps=1e-6)  # the released checkpoint's epsilon


class Encoder(nn.Module):
    """A ViT with a contextual token: what both frames and every crop go through."""

    pos_embed: Tensor

    def __init__(self, config: MicronBertConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.grid = config.grid
        self.patch_embed = nn.Conv2d(config.in_chans, config.dim, kernel_size=size, stride=size)
        self.contextual_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("pos_embed", _positions(config.grid, config.dim))  # (1, N, D)
        self.blocks = _blocks(config.depth, config.dim, config.heads, config.mlp_ratio)
        self.norm = _layer_norm(config.dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> contextual token (B, D) and patch tokens (B, N, D), both normalised.

        H and W may differ from the configured size, in whole patches: positions are interpolated.
        """
        tokens = self._embed(images)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return tokens[:, 0], tokens[:, 1:]

    def context(self, images: Tensor) -> Tensor:
        """The contextual token alone, (B, D): the last block then has one token to ask and to transform, not all."""
        tokens = self._embed(images)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        context: Tensor = self.norm(_first_of_block(self.blocks[-1], tokens))[:, 0]
        return context

    def _embed(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)  # (B, D, H / p, W / p)
        tokens = rearrange(patches, "b d h w -> b (h w) d") + self._positions_for(*patches.shape[2:])  # (B, N, D)
        context = self.contextual_token.expand(len(tokens), -1, -1)  # (B, 1, D), without a position
        return torch.cat([context, tokens], dim=1)  # (B, 1 + N, D)

    def _positions_for(self, rows: int, columns: int) -> Tensor:
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        grid = rearrange(self.pos_embed, "1 (h w) d -> 1 d h w", h=self.grid)
        grid = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
        return rearrange(grid, "1 d h w -> 1 (h w) d")


class MicronBert(nn.Module):
    """Encoder, Diagonal Micro-Attention with Patch of Interest, decoder."""

    decoder_pos_embed: Tensor

    def __init__(self, config: MicronBertConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)

        self.micro_attention = MicroAttention(config)

        self.decoder_embed = nn.Linear(config.dim, config.decoder_dim)
        self.register_buffer("decoder_pos_embed", _positions(config.grid, config.decoder_dim))
        self.decoder_blocks = _blocks(config.decoder_depth, config.decoder_dim, config.decoder_heads, config.mlp_ratio)
        self.decoder_norm = _layer_norm(config.decoder_dim)
        self.decoder_pred = nn.Linear(config.decoder_dim, config.patch_size**2 * config.in_chans)
        self.agent = DinoAgent(Encoder(config), config.dim) if config.agent == "dino" else None
        self._init_weights()
        if self.agent is not None:
            self.agent.teacher_head.load_state_dict(self.agent.head.state_dict())
            self.agent.teacher.load_state_dict(self.encoder.state_dict())

    def forward(
        self, t0: Tensor, t1: Tensor, swap_mask: Tensor, crops: Tensor | None = None, small_crops: Tensor | None = None
    ) -> PretrainOutput:
        """Training: restore t0 from what the swapped frame ts and the reference t1 have to say about each other.

        `swap_mask` (B, N) is True where ts shows t1. The contextual agent looks at `crops` of t1 at full size,
        (V * B, C, H, W), and at `small_crops` of another size.
        """
        ts = swap_patches(t0, t1, swap_mask, self.config.patch_size)
        context, patches = self.encode(torch.cat([ts, t1]))
        p_ts, p_t1 = patches.chunk(2)
        c_t1 = context[len(t0) :]
        views = [self.encoder.context(images) for images in (crops, small_crops) if images is not None]
        pair = self._compare(p_ts, p_t1, c_t1)
        return PretrainOutput(self.decode(pair.micro), c_t1, torch.cat(views) if views else None, pair)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> contextual token (B, D) and patch tokens (B, N, D), both normalised."""
        context, patches = self.encoder(images)
        return context, patches

    def encode_pair(self, t0: Tensor, t1: Tensor) -> PairEncoding:
        """Use after training: nothing is swapped, P(t0) stands where P(ts) stood."""
        context, patches = self.encode(torch.cat([t0, t1]))
        p_t0, p_t1 = patches.chunk(2)
        return self._compare(p_t0, p_t1, context.chunk(2)[1])

    def attention_map(self, t0: Tensor, t1: Tensor) -> Tensor:
        """N * diag(A) as a picture, (B, H / patch, W / patch), whichever attention the model was trained with."""
        _, patches = self.encode(torch.cat([t0, t1]))
        diagonal = self.micro_attention.diagonal(*patches.chunk(2))
        return rearrange(diagonal, "b (h w) -> b h w", h=t0.shape[2] // self.config.patch_size)

    def interest_map(self, images: Tensor) -> Tensor:
        """The Patch of Interest as a picture, (B, H / patch, W / patch), mean 1."""
        interest = patch_of_interest(*self.encode(images))
        return rearrange(interest, "b (h w) -> b h w", h=images.shape[2] // self.config.patch_size)

    def _compare(self, p_t0: Tensor, p_t1: Tensor, context: Tensor) -> PairEncoding:
        if self.config.attention == "full":
            return PairEncoding(p_t0, p_t1, context, None, None, self.micro_attention.full(p_t0, p_t1))
        diagonal = self.micro_attention.diagonal(p_t0, p_t1)
        interest = patch_of_interest(context, p_t1) if self.config.poi else None
        weight = diagonal if interest is None else diagonal * interest  # W, the paper's diag(A) * S
        micro = self.micro_attention.gated(weight, p_t0)  # W * V(P_ts), the paper's P_dma
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
        nn.init.xavier_uniform_(self.encoder.patch_embed.weight.view(self.config.dim, -1))
        nn.init.normal_(self.encoder.contextual_token, std=0.02)


class MicroAttention(nn.Module):
    """DMA: how much each patch attends to its own position in the other frame.

    A = softmax(Q K^T / sqrt(D)) over the keys (paper, eq. 8; the scale as in the released code). One head, as
    published. Whose tokens Q and K are made of is `config.roles`; values are always those of ts (t0 after training).
    """

    def __init__(self, config: MicronBertConfig) -> None:
        super().__init__()
        self.roles = config.roles
        self.scale = config.dim**-0.5
        self.to_q = nn.Linear(config.dim, config.dim)
        self.to_k = nn.Linear(config.dim, config.dim)
        self.to_v = nn.Linear(config.dim, config.dim)
        self.proj = nn.Linear(config.dim, config.dim) if config.roles == "released" else nn.Identity()

    def diagonal(self, p_ts: Tensor, p_t1: Tensor) -> Tensor:
        """N * diag(A), (B, N), from tokens (B, N, D). The matrix A is never built: its rows' sums are enough."""
        query, key = self._query_key(p_ts, p_t1)
        query = query * self.scale
        own = (_exact(query) * _exact(key)).sum(dim=-1)  # (B, N): the diagonal of the scores
        return torch.exp(own - row_logsumexp(query, key)) * own.shape[1]

    def gated(self, weight: Tensor, p_ts: Tensor) -> Tensor:
        """Values of ts, each times its weight (B, N): (B, N, D)."""
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
    """Some rows at a time; the backward pass makes them again instead of keeping them."""

    ROWS = 128

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        total = torch.cat(
            [
                torch.logsumexp(_exact(query[:, start : start + _RowLogSumExp.ROWS] @ key.mT), dim=-1)
                for start in range(0, query.shape[1], _RowLogSumExp.ROWS)
            ],
            dim=1,
        )
        ctx.save_for_backward(query, key, total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        query, key, total = ctx.saved_tensors
        grad_query, grad_key = torch.empty_like(query), torch.zeros_like(key)
        for start in range(0, query.shape[1], _RowLogSumExp.ROWS):
            rows = slice(start, start + _RowLogSumExp.ROWS)
            softmax = torch.exp(_exact(query[:, rows] @ key.mT) - total[:, rows, None])
            share = (softmax * grads[0][:, rows, None]).to(key.dtype)  # (B, rows, M)
            grad_query[:, rows] = share @ key
            grad_key += share.mT @ query[:, rows]
        return grad_query, grad_key


def _exact(values: Tensor) -> Tensor:
    """In at least 32 bits: exponents magnify rounding."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def patch_of_interest(context: Tensor, patches: Tensor) -> Tensor:
    """PoI: how much each patch belongs to "this face", (B, D), (B, N, D) -> (B, N), mean 1.

    The paper leaves the form of the correlation open; here it is a scaled dot product and a softmax over the patches.
    """
    scores = torch.einsum("bd,bnd->bn", context, patches) * patches.shape[-1] ** -0.5
    return torch.softmax(scores, dim=-1) * patches.shape[1]


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, P); patches row by row, values in the order (y, x, channel)."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def swap_patches(t0: Tensor, t1: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Blockwise Swapping: t0 with the masked patches of t1 in their places. (B, C, H, W), mask (B, N)."""
    batch, _, height, width = t0.shape
    grid = mask.view(batch, 1, height // patch_size, width // patch_size)
    pixels = grid.repeat_interleave(patch_size, dim=2).repeat_interleave(patch_size, dim=3)
    return torch.where(pixels, t1, t0)


def _blocks(depth: int, dim: int, heads: int, mlp_ratio: float) -> nn.ModuleList:
    block = functools.partial(Block, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=_layer_norm)  # type: ignore[arg-type]
    return nn.ModuleList([block(dim, heads) for _ in range(depth)])


def _first_of_block(block: Any, tokens: Tensor) -> Tensor:
    """What a ViT block makes of the first token, (B, 1 + N, D) -> (B, 1, D); equal to `block(tokens)[:, :1]`."""
    attention, first = block.attn, tokens[:, :1]
    normed = block.norm1(tokens)
    (query, keys), bias = attention.qkv.weight.tensor_split([attention.qkv.in_features]), attention.qkv.bias
    query = F.linear(normed[:, :1], query, bias[: len(query)])
    keys = F.linear(normed, keys, bias[len(bias) // 3 :])
    query = rearrange(query, "b n (h d) -> b h n d", h=attention.num_heads)
    key, value = rearrange(keys, "b n (two h d) -> two b h n d", two=2, h=attention.num_heads)
    mixed = F.scaled_dot_product_attention(query, key, value)
    first = first + attention.proj(rearrange(mixed, "b h n d -> b n (h d)"))
    transformed: Tensor = first + block.mlp(block.norm2(first))
    return transformed


def _positions(grid: int, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, (1, N, dim)."""
    return build_sincos2d_pos_embed([grid, grid], dim=dim, interleave_sin_cos=False)[None]
