"""Random changes of a pair, identical for both of its frames, on the training device."""

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mbert import ConfigError

NUM_DRAWS = 6  # flip, size, left, top, contrast, brightness
_DRAWS_PER_POSITION = 8  # one Philox counter yields 4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """What is changed. Only the flip is on; the effect of the others has not been measured yet."""

    flip: float = 0.5  # probability of mirroring; 0: never
    crop_scale: float = 1.0  # smallest side of the crop, in image sides, 0.85 is mild; 1: no crop
    contrast: float = 0.0  # largest change of the factor around mid-grey, 0.1 is mild; 0: none
    brightness: float = 0.0  # largest shift, as a share of the range, 0.05 is mild; 0: none

    def __post_init__(self) -> None:
        for name, low, high in (("flip", 0, 1), ("crop_scale", 0.1, 1), ("contrast", 0, 0.9), ("brightness", 0, 0.5)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie between {low} and {high}")


NO_AUGMENT = AugmentConfig(flip=0.0)


def draw(positions: range, *, seed: int, epoch: int) -> npt.NDArray[np.float32]:
    """Random numbers for the pairs at the given positions of an epoch, (B, NUM_DRAWS) in [0, 1).

    They depend only on (seed, epoch, position), so ranks, workers and interruptions do not change them.
    """
    counter = positions.start * _DRAWS_PER_POSITION // 4
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[counter, 0, 0, 0]))
    draws = generator.random((positions.stop - positions.start, _DRAWS_PER_POSITION))
    # Rounding to float32 may give 1.0, which is outside [0, 1).
    return np.minimum(draws[:: positions.step, :NUM_DRAWS].astype(np.float32), np.float32(1 - 2**-24))


def augment(t0: Tensor, t1: Tensor, draws: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Change both frames of each pair alike. Frames (B, C, H, W), uint8 or float, in 0-255; `draws` are the batch's.

    Returns frames of the same range: the originals if nothing changes, else float32. Contrast and brightness may leave
    0-255; nothing is clipped, so the difference between two frames is only scaled.
    """
    flip, size, left, top, contrast, brightness = draws.to(t0.device, torch.float32, non_blocking=True).unbind(1)
    both = torch.cat([t0, t1], dim=1)  # (B, 2C, H, W): one grid for both
    if config.flip > 0:
        both = torch.where((flip < config.flip)[:, None, None, None], both.flip(-1), both)
    if config.crop_scale < 1:
        side = config.crop_scale + (1 - config.crop_scale) * size
        both = _crop(both.float(), side, left, top)
    if config.contrast > 0 or config.brightness > 0:
        factor = 1 + config.contrast * (2 * contrast - 1)
        shift = 255 * config.brightness * (2 * brightness - 1)
        both = (both.float() - 127.5) * factor[:, None, None, None] + (127.5 + shift)[:, None, None, None]
    changed_t0, changed_t1 = both.chunk(2, dim=1)
    return changed_t0, changed_t1


def _crop(images: Tensor, side: Tensor, left: Tensor, top: Tensor) -> Tensor:
    """Scale a box of each image to full size, bilinearly. `side` in image sides, left and top as shares of the rest."""
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2] = (1 - side) * (2 * left - 1)
    theta[:, 1, 2] = (1 - side) * (2 * top - 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
