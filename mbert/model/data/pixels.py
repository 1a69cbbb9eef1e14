"""Conversion of pixels to the model's input and back: sizes, statistics, luma."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mbert import ConfigError

Image = npt.NDArray[np.uint8]

# The statistics used to train the released checkpoint (ImageNet's), for RGB in 0-1.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as in JPEG


def resize(image: Image, size: int) -> Image:
    """Resize to (size, size, 3), averaging when shrinking."""
    if image.shape[:2] == (size, size):
        return image
    import cv2  # not needed by the network

    way = cv2.INTER_AREA if size < image.shape[0] else cv2.INTER_CUBIC
    smaller: Image = cv2.resize(image, (size, size), interpolation=way)
    return smaller


def stack_images(images: Sequence[Image]) -> Tensor:
    """(H, W, 3) arrays -> (B, 3, H, W) uint8."""
    stacked: npt.NDArray[np.uint8] = np.stack(images)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def normalize(images: Tensor, in_chans: int = 3) -> Tensor:
    """(B, 3, H, W) RGB in 0-255, uint8 or float -> float32 with the statistics of the released checkpoint.

    With `in_chans` 1: (B, 1, H, W), the luma, with the mean of these statistics over the channels.
    """
    images = images.contiguous().float() / 255
    mean, std = _constant(_MEAN, images.device), _constant(_STD, images.device)
    if in_chans == 1:
        weights = _constant(_LUMA, images.device)[:, None, None]
        images = (images * weights).sum(dim=1, keepdim=True)
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    elif in_chans != 3:
        raise ConfigError(f"in_chans is {in_chans}; allowed are 3 (RGB) and 1 (luma)")
    return (images - mean[:, None, None]) / std[:, None, None]


def levels_of(images: Tensor) -> Tensor:
    """Undo `normalize`: (B, C, H, W) of 3 or 1 channels, back in 0-255; float32, not rounded."""
    mean, std = _constant(_MEAN, images.device), _constant(_STD, images.device)
    if images.shape[1] == 1:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    return (images.float() * std[:, None, None] + mean[:, None, None]) * 255


def luma_of(images: Tensor) -> Tensor:
    """The luma of `normalize`'s output, (B, 1, H, W) in 0-255."""
    levels = levels_of(images)
    if levels.shape[1] == 1:
        return levels
    weights = _constant(_LUMA, images.device)[:, None, None]
    return (levels * weights).sum(dim=1, keepdim=True)


def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A constant copied to the device asynchronously: creating it there would block and leave the GPU idle."""
    return torch.tensor(values).to(device, non_blocking=True)


def denormalize(images: Tensor) -> npt.NDArray[np.uint8]:
    """Convert `normalize`'s output, (B, C, H, W) of 3 or 1 channels, to pictures: (B, H, W, 3) uint8."""
    pixels = levels_of(images)
    shown: npt.NDArray[np.uint8] = pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return np.repeat(shown, 3 // shown.shape[-1], axis=-1)
