"""μ-BERT (Nguyen et al., CVPR 2023), to be read from top to bottom as in the paper's figure.

Shapes: B pairs, N patches (N = (image_size / patch_size)²), D width of a token, P = patch_size² * in_chans values of a
patch. t0 is the earlier frame (the paper's I_t), t1 the later one (I_{t+δ}), ts is t0 with some patches of t1 swapped
in (I_{t/s}). Images are (B, C, H, W), normalised.

The scale trap: at the start a softmax over N patches gives each about 1/N, so diag(A) * V would be N times smaller than
the tokens around it, and the decoder would see next to nothing. The diagonal is therefore multiplied by N, and so is
the Patch of Interest: both average 1 for uniform attention. There is no normalisation between this product and the
decoder's first linear layer: a LayerNorm there would divide out the gate again.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mbert import ModelError
from mbert.model.network.agent import DinoAgent, EmaAgent
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.micro_attention import MicroAttention, patch_of_interest
from mbert.model.network.motion import Motion, MotionEvidence, MotionHead
from mbert.model.network.released import read_released
from mbert.model.network.weights import (
    CONFIG,
    STATE,
    WEIGHTS,
    TrainingState,
    is_safetensors,
    model_folder,
    read_model,
    read_state,
    write_model,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Frames:
    """Normalised frames and their encoding."""

    images: Tensor  # (B, C, H, W)
    context: Tensor  # (B, D) contextual token
    patches: Tensor  # (B, N, D)


@dataclasses.dataclass(frozen=True, slots=True)
class PairEncoding:
    """μ-BERT's output for a pair. P(t1) is the query, P(t0) (P(ts) in training) the key."""

    t0: Tensor  # (B, N, D) tokens of the key frame
    t1: Tensor  # (B, N, D)
    context: Tensor  # (B, D) contextual token of t1
    # (B, N) attention of each patch to its own position, times N, or the probability that it did not move: small where
    # it changed. None with full attention.
    diagonal: Tensor | None
    interest: Tensor | None  # (B, N) Patch of Interest, mean 1
    micro: Tensor  # (B, N, D) P_dma, the gated values; with full attention, its output


@dataclasses.dataclass(frozen=True, slots=True)
class PretrainOutput:
    """The output of one training forward pass."""

    reconstruction: Tensor  # (B, N, P) predicted patches of t0
    context: Tensor  # (B, D) contextual token of t1
    views: Tensor | None  # (V * B, D) contextual tokens of the crops of t1
    pair: PairEncoding
    motion: Motion | None  # between the frames of the warped pairs


layer_norm = functools.partial(nn.LayerNorm, eps=1e-6)  # the released checkpoint's epsilon


_MODEL_CARD = """---
{{ card_data }}
---
# A μ-BERT (Micron-BERT) of the mbert toolkit
Frame pairs of an aligned face in, what changed between them out. Load it with
`mbert.model.network.micron_bert.MicronBert.from_pretrained`; `state.json` says on whose frames it was trained: scores
on these people leak.
"""


class Encoder(nn.Module):
    """A ViT with a contextual token: applied to both frames and every crop."""

    pos_embed: Tensor

    def __init__(self, config: MicronBertConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.grid = config.grid
        self.patch_embed = nn.Conv2d(config.in_chans, config.dim, kernel_size=size, stride=size)
        self.contextual_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("pos_embed", sincos_positions(config.grid, config.dim))  # (1, N, D)
        self.blocks = _blocks(config.depth, config.dim, config.heads, config.mlp_ratio)
        self.norm = layer_norm(config.dim)
        self.grad_checkpointing = False

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> contextual token (B, D) and patch tokens (B, N, D), both normalised.

        H and W may differ from the configured size, in whole patches: positions are interpolated.
        """
        tokens = self.norm(_run(self.blocks, self._embed(images), self.grad_checkpointing))
        return tokens[:, 0], tokens[:, 1:]

    def context(self, images: Tensor) -> Tensor:
        """The contextual token alone, (B, D): the last block then has only one query token to transform."""
        tokens = _run(self.blocks[:-1], self._embed(images), self.grad_checkpointing)
        context: Tensor = self.norm(_first_of_block(self.blocks[-1], tokens))[:, 0]
        return context

    def _embed(self, images: Tensor) -> Tensor:
        size = self.patch_embed.kernel_size[0]
        # The convolution as a product: its patches do not overlap, and a product is fast on a GPU.
        pixels = rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=size, q=size)  # (B, N, P)
        tokens = F.linear(pixels, self.patch_embed.weight.flatten(1), self.patch_embed.bias)  # (B, N, D)
        tokens = tokens + self._positions_for(images.shape[2] // size, images.shape[3] // size)
        context = self.contextual_token.expand(len(tokens), -1, -1)  # (B, 1, D), without a position
        return torch.cat([context, tokens], dim=1)  # (B, 1 + N, D)

    def _positions_for(self, rows: int, columns: int) -> Tensor:
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        grid = rearrange(self.pos_embed, "1 (h w) d -> 1 d h w", h=self.grid)
        grid = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
        return rearrange(grid, "1 d h w -> 1 (h w) d")


class MicronBert(
    ModelHubMixin,
    nn.Module,
    library_name="mbert",
    tags=["micron-bert", "micro-expression", "self-supervised"],
    model_card_template=_MODEL_CARD,
):
    """Encoder, Diagonal Micro-Attention with Patch of Interest, decoder."""

    decoder_pos_embed: Tensor
    agent: EmaAgent | None

    def __init__(self, config: MicronBertConfig) -> None:
        super().__init__()
        self.config = config
        self.state: TrainingState | None = None  # what the weights have seen; set if they were loaded
        self.grad_checkpointing = False
        self.encoder = Encoder(config)

        self.micro_attention = MicroAttention(config)

        self.decoder_embed = nn.Linear(config.dim, config.decoder_dim)
        self.register_buffer("decoder_pos_embed", sincos_positions(config.grid, config.decoder_dim))
        self.decoder_blocks = _blocks(config.decoder_depth, config.decoder_dim, config.decoder_heads, config.mlp_ratio)
        self.decoder_norm = layer_norm(config.decoder_dim)
        self.decoder_pred = nn.Linear(config.decoder_dim, config.patch_size**2 * config.in_chans)
        self._init_weights()
        self.agent = None
        if config.agent == "dino":
            self.agent = DinoAgent(Encoder(config), self.encoder, config.dim)
        elif config.agent == "mse_ema":
            self.agent = EmaAgent(Encoder(config), self.encoder)

    def forward(
        self,
        t0: Tensor,
        t1: Tensor,
        swap_mask: Tensor,
        crops: Tensor | None = None,
        small_crops: Tensor | None = None,
        warped: tuple[Tensor, Tensor] | None = None,
    ) -> PretrainOutput:
        """Training: restore t0 from the comparison of the swapped frame ts with the reference t1.

        `swap_mask` (B, N) is True where ts shows t1. The contextual agent sees `crops` of t1 at full size, (V * B, C,
        H, W), and `small_crops` of another size. Attention `motion` learns from the `warped` frames, two of (B, C, H,
        W), because swapped squares do not move as faces do.
        """
        ts = swap_patches(t0, t1, swap_mask, self.config.patch_size)
        of_ts, of_t1 = self.encode_frames(ts, t1)
        views = [self.encoder.context(images) for images in (crops, small_crops) if images is not None]
        diagonal, motion = None, None
        if self.micro_attention.motion is not None:
            diagonal, motion = self._diagonal_and_motion(ts, t1, warped)
        elif self.config.attention == "diagonal":
            diagonal = self.micro_attention.diagonal(of_ts.patches, of_t1.patches)
        pair = self._gate(of_ts, of_t1, diagonal)
        return PretrainOutput(self.decode(pair.micro), pair.context, torch.cat(views) if views else None, pair, motion)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> contextual token (B, D) and patch tokens (B, N, D), both normalised."""
        context, patches = self.encoder(images)
        return context, patches

    def encode_pair(self, t0: Tensor, t1: Tensor) -> PairEncoding:
        """For use after training: nothing is swapped, P(t0) takes the place of P(ts)."""
        return self.compare(*self.encode_frames(t0, t1))

    def encode_frames(self, *frames: Tensor) -> list[Frames]:
        """Encode frames of the same pairs, (B, C, H, W) each, in one pass."""
        context, patches = self.encode(torch.cat(frames))
        parts = zip(frames, context.chunk(len(frames)), patches.chunk(len(frames)), strict=True)
        return [Frames(*part) for part in parts]

    def attention_map(self, t0: Tensor, t1: Tensor) -> Tensor:
        """The diagonal as a picture, (B, H / patch, W / patch), whatever attention the model has."""
        diagonal = self.diagonal_of(*self.encode_frames(t0, t1))
        return rearrange(diagonal, "b (h w) -> b h w", h=t0.shape[2] // self.config.patch_size)

    def change_map(self, t0: Tensor, t1: Tensor) -> Tensor:
        """Where t1 differs from t0, (B, H / patch, W / patch) in [0, 1]: the map shown and scored.

        With attention `motion` the probability that a patch moved, without the encoder; else as `change_of`.
        """
        is_motion = self.config.attention == "motion"
        change = self.motion_of(t0, t1).moved if is_motion else self.change_of(*self.encode_frames(t0, t1))
        return rearrange(change, "b (h w) -> b h w", h=t0.shape[2] // self.config.patch_size)

    def change_of(self, t0: Frames, t1: Frames) -> Tensor:
        """The diagonal of encoded frames, scaled to its own range, 1 where it is smallest, (B, N).

        Multiplied by PoI relative to its maximum if the model has it. Like a picture of it, this loses the overall
        strength of an expression.
        """
        diagonal = self.diagonal_of(t0, t1)
        low, high = diagonal.amin(dim=1, keepdim=True), diagonal.amax(dim=1, keepdim=True)
        change = (high - diagonal) / (high - low).clamp(min=1e-12)
        if not self.config.poi:
            return change
        interest = patch_of_interest(t1.context, t1.patches)
        return change * interest / interest.amax(dim=1, keepdim=True)

    def interest_map(self, images: Tensor) -> Tensor:
        """The Patch of Interest as a picture, (B, H / patch, W / patch), mean 1."""
        interest = patch_of_interest(*self.encode(images))
        return rearrange(interest, "b (h w) -> b h w", h=images.shape[2] // self.config.patch_size)

    def motion_of(self, t0: Tensor, t1: Tensor) -> Motion:
        """Which patches of frames (B, C, H, W) moved relative to the head, and where to, as measured from the pixels.

        Raises ModelError without attention `motion`.
        """
        if self.micro_attention.motion is None:
            raise ModelError(f"this model has attention={self.config.attention!r}; motion needs attention='motion'")
        head = self.micro_attention.motion
        found: Motion = head(head.evidence(t0, t1), t0.shape[2] // self.config.patch_size)
        return found

    def diagonal_of(self, t0: Frames, t1: Frames) -> Tensor:
        """The diagonal of encoded frames, (B, N): small where a patch changed, whichever attention is configured."""
        if self.config.attention == "motion":
            return 1 - self.motion_of(t0.images, t1.images).moved
        return self.micro_attention.diagonal(t0.patches, t1.patches)

    def compare(self, t0: Frames, t1: Frames) -> PairEncoding:
        """Apply Micro-Attention to encoded frames."""
        return self._gate(t0, t1, None if self.config.attention == "full" else self.diagonal_of(t0, t1))

    def _gate(self, t0: Frames, t1: Frames, diagonal: Tensor | None) -> PairEncoding:
        if diagonal is None:
            micro = self.micro_attention.full(t0.patches, t1.patches)
            return PairEncoding(t0.patches, t1.patches, t1.context, None, None, micro)
        interest = patch_of_interest(t1.context, t1.patches) if self.config.poi else None
        weight = diagonal if interest is None else diagonal * interest  # W, the paper's diag(A) * S
        micro = self.micro_attention.gated(weight, t0.patches)  # W * V(P_ts), the paper's P_dma
        return PairEncoding(t0.patches, t1.patches, t1.context, diagonal, interest, micro)

    def _diagonal_and_motion(
        self, ts: Tensor, t1: Tensor, warped: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Motion | None]:
        """The diagonal of the swapped pairs, without gradient, and the motion of the warped ones, from one evidence."""
        head, rows = self.micro_attention.motion, ts.shape[2] // self.config.patch_size
        assert head is not None
        frames = (ts, t1) if warped is None else (torch.cat([ts, warped[0]]), torch.cat([t1, warped[1]]))
        evidence = head.evidence(*frames)
        # First with gradient: some versions of torch's autocast keep the 16-bit weights of a pass without one.
        motion = None if warped is None else head(evidence[len(ts) :], rows)
        with torch.no_grad():
            diagonal = 1 - head(evidence[: len(ts)], rows).moved
        return diagonal, motion

    def decode(self, micro: Tensor) -> Tensor:
        """Gated values (B, N, D) -> predicted patches (B, N, P)."""
        tokens = self.decoder_embed(micro) + self.decoder_pos_embed
        tokens = _run(self.decoder_blocks, tokens, self.grad_checkpointing)
        patches: Tensor = self.decoder_pred(self.decoder_norm(tokens))
        return patches

    def compile(self, **how: Any) -> None:
        """Compile the repeated parts, each block, and the motion head; `how` is passed to torch.compile.

        A block is compiled once for all its copies of a size, in seconds; the whole model would take minutes.
        """
        for module in self.modules():
            if isinstance(module, (Block, MotionEvidence, MotionHead)):
                module.compile(**{"dynamic": False, **how})

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input and recompute the rest in the backward pass: less memory, a third slower."""
        self.grad_checkpointing = self.encoder.grad_checkpointing = enable

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> "MicronBert":
        """Load weights: a checkpoint folder, a run, a safetensors file, the authors' `.pth`, or a name on the hub.

        `hub` is passed to huggingface_hub's download (`revision`, `token`, `cache_dir`, ...). Raises ModelError if
        there is no such model or it does not fit.
        """
        path = Path(pretrained_model_name_or_path)
        if path.is_file() and path.name != WEIGHTS and not is_safetensors(path):
            released = read_released(path, tensor_shapes)
            model = cls(released.config)
            model.load_state_dict(released.tensors)
            model.state = released.state
            return model
        found = path if path.is_file() else model_folder(path) if path.exists() else _download(str(path), hub)
        config, tensors = read_model(found)
        model = cls(config)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as exc:
            raise ModelError(f"{found} is not a μ-BERT checkpoint of this version: {exc}") from exc
        folder = found.parent if found.is_file() else found
        if (folder / STATE).exists():
            model.state = read_state(folder)
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the files for `save_pretrained` and `push_to_hub`, next to a model card."""
        write_model(save_directory, self.state_dict(), self.config, self.state)

    def _init_weights(self) -> None:
        """Xavier for linear layers as in MAE, small normal for the token; the convolution counts as linear."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.encoder.patch_embed.weight.view(self.config.dim, -1))
        nn.init.normal_(self.encoder.contextual_token, std=0.02)
        # Start with small outputs: otherwise squared pixels would dominate the clipped gradient.
        if self.micro_attention.motion is not None:
            nn.init.normal_(self.micro_attention.motion.to_motion.weight, std=0.01)


def tensor_shapes(config: MicronBertConfig) -> dict[str, torch.Size]:
    """Names and shapes of all saved tensors of a model; nothing is allocated."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in MicronBert(config).state_dict().items()}


def _download(name: str, hub: dict[str, Any]) -> Path:
    if Path(name).is_absolute() or len(Path(name).parts) > 2:  # not a name on the hub
        raise ModelError(f"there is no model in {name}: run `mbert train pretrain` first, or name another")
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, STATE], **hub))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as exc:
        raise ModelError(f"{name} is neither a file or folder here nor a model that the hub gives: {exc}") from exc


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, N, P); patches row by row, values in the order (y, x, channel)."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(patches: Tensor, patch_size: int, in_chans: int) -> Tensor:
    """The inverse for square images, (B, N, P) -> (B, C, H, W)."""
    rows = round(patches.shape[1] ** 0.5)
    return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch_size, q=patch_size, c=in_chans)


def swap_patches(t0: Tensor, t1: Tensor, mask: Tensor, patch_size: int) -> Tensor:
    """Blockwise Swapping: t0 with the masked patches replaced by those of t1. (B, C, H, W), mask (B, N)."""
    batch, _, height, width = t0.shape
    grid = mask.view(batch, 1, height // patch_size, width // patch_size)
    pixels = grid.repeat_interleave(patch_size, dim=2).repeat_interleave(patch_size, dim=3)
    return torch.where(pixels, t1, t0)


def _blocks(depth: int, dim: int, heads: int, mlp_ratio: float) -> nn.ModuleList:
    block = functools.partial(Block, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=layer_norm)  # type: ignore[arg-type]
    return nn.ModuleList([block(dim, heads) for _ in range(depth)])


def _run(blocks: nn.ModuleList, tokens: Tensor, checkpointing: bool) -> Tensor:
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():  # blocks are deterministic: no RNG state to keep
            tokens = checkpoint(block, tokens, use_reentrant=False, preserve_rng_state=False)
        else:
            tokens = block(tokens)
    return tokens


def _first_of_block(block: Any, tokens: Tensor) -> Tensor:
    """A ViT block's output for the first token, (B, 1 + N, D) -> (B, 1, D); equal to `block(tokens)[:, :1]`."""
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


def sincos_positions(grid: int, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions, (1, N, dim)."""
    return build_sincos2d_pos_embed([grid, grid], dim=dim, interleave_sin_cos=False)[None]
