"""The structure of a μ-BERT: sizes, and named choices where paper and released code disagree (docs/model.md)."""

import dataclasses
from typing import Any, Literal

from mbert import ConfigError

_CHOICES = {
    "roles": ("paper", "released"),
    "attention": ("diagonal", "full", "motion"),
    "agent": ("mse", "mse_ema", "dino", "none"),
    "in_chans": (1, 3),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MicronBertConfig:
    """The configuration of a model; defaults are the paper's, which are also the released checkpoint's sizes."""

    image_size: int = 224
    patch_size: int = 8
    in_chans: int = 3  # 3: RGB, 1: luma
    dim: int = 512
    depth: int = 4
    heads: int = 4
    decoder_dim: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 4
    mlp_ratio: float = 4.0
    # The sources of query, key and values. paper: t1, ts, ts. released: ts, t1, ts, followed by a linear layer, as in
    # the authors' code.
    roles: Literal["paper", "released"] = "paper"
    # diagonal: each patch's attention to its own position scales its value. full: ordinary cross-attention, as in the
    # authors' released weights. motion: the diagonal is the probability that the patch did not move relative to the
    # head, learned from local motion that is drawn onto crops; see motion.py.
    attention: Literal["diagonal", "full", "motion"] = "diagonal"
    motion_dim: int = 96  # of the head of attention `motion`
    motion_convs: int = 4  # its layers in which a patch sees its neighbours
    motion_depth: int = 1  # and those in which it sees all patches
    motion_heads: int = 4
    motion_flow: bool = False  # whether the head sees dense flow as well: half the errors; computed on the CPU
    poi: bool = True  # whether the Patch of Interest scales the diagonal
    # The target of the contextual token of a crop of t1. mse: the token of t1, without gradient. mse_ema: the token
    # that a moving average of the encoder gives for t1. dino: as in the released code, see agent.py.
    agent: Literal["mse", "mse_ema", "dino", "none"] = "mse"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(map(str, allowed))}")
        if self.poi and self.attention == "full":
            raise ConfigError("poi=True with attention='full' is not supported: PoI scales the diagonal; use poi=False")
        sizes = ("image_size", "patch_size", "dim", "depth", "heads", "decoder_dim", "decoder_depth", "mlp_ratio")
        for name in (*sizes, "motion_dim", "motion_convs", "motion_depth", "motion_heads"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image size {self.image_size} is not a multiple of patch size {self.patch_size}")
        for name, dim, heads in (
            ("dim", self.dim, self.heads),
            ("decoder_dim", self.decoder_dim, self.decoder_heads),
            ("motion_dim", self.motion_dim, self.motion_heads),
        ):
            if dim % heads or dim % 4:
                raise ConfigError(f"{name} {dim} must be a multiple of its {heads} heads and of 4")

    @property
    def grid(self) -> int:
        """Number of patches along a side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """The number of patches, N."""
        return self.grid**2


# Paper and released code disagree; docs/model.md has the table. `motion` is ours: the paper's, with a diagonal that
# learns what moved. Use: `MicronBertConfig(**VARIANTS["released"])`.
VARIANTS: dict[str, dict[str, Any]] = {
    "motion": {"roles": "paper", "attention": "motion", "motion_flow": True, "poi": True, "agent": "mse"},
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
