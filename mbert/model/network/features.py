"""The inputs of evaluation and finetuning: named features of the two frames of an expression, region by region."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mbert import ConfigError, ModelError
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.micro_attention import patch_of_interest
from mbert.model.network.micron_bert import Frames, MicronBert
from mbert.model.network.motion import measured_motion

REGIONS = 7  # features are averaged over 7 x 7 regions of the face, each about the size of an eye or a mouth corner
MAP_REGIONS = 2 * REGIONS  # a finer grid for maps with a single value per place

# change: P(t1) - P(t0). dma: the gated values of Micro-Attention, P(t1) as query, P(t0) as key. dma_both: these, and
# those with the frames swapped. map: the model's map of change. distance: the length of the change. motion: how far
# each patch moved relative to the head, x and y, large motions compressed; for models with attention `motion`.
# measured: the same as measured from pixels, in standard deviations; nothing in it is learned. All but these two and
# the map of attention `motion` are weighted by the Patch of Interest if the model has it.
INPUTS = ("change", "dma", "dma_both", "map", "distance", "motion", "measured")
DEFINITION = 2  # increase when an input changes: evaluations then recompute the features they kept
# These two express how far a place moved by their size, so small values must not be scaled up. Each has one unit:
# compressed pixels and standard deviations.
_OWN_UNITS = {"motion": 1, "measured": 2}
SMALL_PX = 0.15  # below, `motion` grows linearly with the displacement, above, logarithmically
_WIDE = {"change": 1, "dma": 1, "dma_both": 2}  # token widths per region; on 7 x 7 regions
_NEEDS = {"dma": ("diagonal", "motion"), "dma_both": ("diagonal", "motion"), "motion": ("motion",)}  # attention


def pair_inputs(model: MicronBert, t0: Tensor, t1: Tensor, inputs: Sequence[str] = ("change",)) -> Tensor:
    """The named inputs, concatenated in the given order; frames are encoded at most once.

    Normalised frames (B, C, H, W) of the model's size -> (B, F) float32, F = `num_features(model.config, inputs)`.
    Raises ConfigError as `check_inputs` does, ModelError for frames of another size.
    """
    check_inputs(inputs, model.config)
    if (size := model.config.image_size) != t0.shape[-1] or size != t1.shape[-1]:
        raise ModelError(
            f"frames are {t0.shape[-1]} and {t1.shape[-1]} px wide, this model takes {size} px: resize them, or ingest "
            f"with --size {size}"
        )
    pair = _Pair(model, t0, t1)
    return torch.cat([_MAKERS[name](pair) for name in inputs], dim=1)


def num_features(config: MicronBertConfig, inputs: Sequence[str] = ("change",)) -> int:
    """The number of features per pair from `pair_inputs`; raises ConfigError as `check_inputs` does."""
    check_inputs(inputs, config)
    each = {name: count * REGIONS**2 * config.dim for name, count in _WIDE.items()}
    each |= {"map": MAP_REGIONS**2, "distance": MAP_REGIONS**2}
    each["motion"] = each["measured"] = 2 * MAP_REGIONS**2
    return sum(each[name] for name in inputs)


def in_own_units(config: MicronBertConfig, inputs: Sequence[str]) -> npt.NDArray[np.int64]:
    """The unit of each feature, (F,): features with the same number above 0 share a unit, 0 has none.

    A head should scale all features of a unit alike, and each other feature separately.
    """
    units = [_OWN_UNITS.get(name, 0) for name in inputs]
    return np.repeat(units, [num_features(config, (name,)) for name in inputs])


def map_sides(config: MicronBertConfig, inputs: Sequence[str]) -> npt.NDArray[np.int64]:
    """The side of each map; the features are concatenated maps, row by row."""
    sides = [REGIONS if name in _WIDE else MAP_REGIONS for name in inputs]
    counts = [num_features(config, (name,)) // side**2 for name, side in zip(inputs, sides, strict=True)]
    return np.repeat(sides, counts)


def check_inputs(inputs: Sequence[str], config: MicronBertConfig | None = None) -> None:
    """Raise ConfigError for an unknown name, a duplicate, an empty list, and an input that the model cannot give."""
    allowed = ", ".join(INPUTS)
    if not inputs:
        raise ConfigError(f"inputs is empty; at least one is needed of {allowed}")
    for place, name in enumerate(inputs):
        if name not in INPUTS:
            raise ConfigError(f"inputs has {name!r}; allowed are {allowed}")
        if name in inputs[:place]:
            raise ConfigError(f"inputs has {name} twice; give each once")
        needed = _NEEDS.get(name, ())
        if needed and config is not None and config.attention not in needed:
            possible = [each for each in INPUTS if config.attention in _NEEDS.get(each, (config.attention,))]
            raise ConfigError(
                f"inputs has {name}, which needs attention={' or '.join(map(repr, needed))}; this model has attention="
                f"{config.attention!r} and can give {', '.join(possible)}"
            )


def micro_attention_parts(config: MicronBertConfig, inputs: Sequence[str]) -> tuple[str, ...]:
    """The layers of the Micro-Attention behind the inputs: these can be learned from labels."""
    diagonal = ("motion",) if config.attention == "motion" else ("to_q", "to_k")
    if {"dma", "dma_both"} & {*inputs}:
        return (*diagonal, "to_v", "proj")
    return diagonal if {"map", "motion"} & {*inputs} else ()


def uses_encoder(config: MicronBertConfig, inputs: Sequence[str]) -> bool:
    """Whether any of the inputs depends on the encoder."""
    of_pixels = {"motion", "measured"} | ({"map"} if config.attention == "motion" else set())
    return not of_pixels.issuperset(inputs)


def parts_behind(model: MicronBert, inputs: Sequence[str]) -> list[nn.Module]:
    """The modules that the inputs depend on."""
    parts = micro_attention_parts(model.config, inputs)
    encoder = [model.encoder] if uses_encoder(model.config, inputs) else []
    return [*encoder, *(getattr(model.micro_attention, name) for name in parts)]


def join_steps(steps: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Combine the features of an expression's pairs: onset and f_1, ..., onset and f_K, the apex.

    K arrays (n, F), in time order, one per pair -> (n, K * F); for images, (n, C, h, w) -> (n, K * C, h, w). Raises
    ModelError for differing shapes, because then some expression would lack a step.
    """
    if not steps or any(step.shape != steps[0].shape for step in steps):
        shapes = ", ".join(str(step.shape) for step in steps)
        raise ModelError(f"steps of an expression have the shapes {shapes or '(none)'}; at least one, and equal ones")
    return np.concatenate(steps, axis=1)


def pool_regions(maps: Tensor, regions: int = REGIONS) -> Tensor:
    """(B, C, h, w) -> (B, C * regions²), averaged per region."""
    return F.adaptive_avg_pool2d(maps, regions).flatten(1)


class _Pair:
    """Both frames, encoded at most once and only if an input needs it, and the parts of the inputs."""

    def __init__(self, model: MicronBert, t0: Tensor, t1: Tensor) -> None:
        self._model, self._images = model, (t0, t1)

    @functools.cached_property
    def _frames(self) -> list[Frames]:
        return self._model.encode_frames(*self._images)

    def change(self) -> Tensor:
        return self._pooled(self._weighted_change())

    def dma(self) -> Tensor:
        return self._pooled(self._model.compare(*self._frames).micro)

    def dma_both(self) -> Tensor:
        return torch.cat([self.dma(), self._pooled(self._model.compare(*reversed(self._frames)).micro)], dim=1)

    def map(self) -> Tensor:
        if self._model.config.attention == "motion":
            return self._pooled(self._model.motion_of(*self._images).moved[..., None], MAP_REGIONS)
        return self._pooled(self._model.change_of(*self._frames)[..., None], MAP_REGIONS)

    def distance(self) -> Tensor:
        change = self._weighted_change()
        return self._pooled(torch.linalg.vector_norm(change.float(), dim=-1, keepdim=True), MAP_REGIONS)

    def motion(self) -> Tensor:
        displacement = self._model.motion_of(*self._images).displacement
        return self._pooled((displacement / SMALL_PX).asinh(), MAP_REGIONS)

    def measured(self) -> Tensor:
        motion = measured_motion(*self._images, self._model.config.patch_size)
        return self._pooled(motion, MAP_REGIONS)

    def _weighted_change(self) -> Tensor:
        t0, t1 = self._frames
        change = t1.patches - t0.patches
        return change * patch_of_interest(t1.context, t1.patches)[..., None] if self._model.config.poi else change

    def _pooled(self, tokens: Tensor, regions: int = REGIONS) -> Tensor:
        maps = rearrange(tokens.float(), "b (h w) d -> b d h w", h=self._model.config.grid)
        return pool_regions(maps, regions)


_MAKERS: dict[str, Callable[[_Pair], Tensor]] = {
    "change": _Pair.change,
    "dma": _Pair.dma,
    "dma_both": _Pair.dma_both,
    "map": _Pair.map,
    "distance": _Pair.distance,
    "motion": _Pair.motion,
    "measured": _Pair.measured,
}
