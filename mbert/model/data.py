"""Shards -> batches of tensors: the same change to both frames of a pair."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from mbert.shards.image import Image
from mbert.shards.pair import FramePair
from mbert.shards.reader import stream_pairs

# The statistics that the released checkpoint was trained with (ImageNet's), for RGB in 0-1.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Decoded frames, (B, 3, H, W) uint8 RGB; `keys` name the pairs."""

    keys: list[str]
    t0: Tensor
    t1: Tensor


def batches(
    folder: Path, shards: Sequence[str], *, batch_size: int, image_size: int, seed: int, skip_batches: int = 0
) -> Iterator[Batch]:
    """Batches without end: epoch follows epoch, a batch may span two of them. Raises ShardError as the reader does.

    The order and the flips depend on the seed alone, so skipping `skip_batches` gives exactly the batches that a run
    without interruption would see next.
    """
    pairs = _endless(folder, shards, seed)
    for _ in itertools.islice(pairs, skip_batches * batch_size):  # still compressed: reading past them is cheap
        pass
    for number in itertools.count(skip_batches):
        batch = list(itertools.islice(pairs, batch_size))
        yield _collate(batch, image_size=image_size, rng=np.random.default_rng([seed, number]))


def _endless(folder: Path, shards: Sequence[str], seed: int) -> Iterator[FramePair]:
    epoch = 0
    while True:
        yield from stream_pairs(folder, shards, seed=seed, epoch=epoch)
        epoch += 1


def _collate(pairs: Sequence[FramePair], *, image_size: int, rng: np.random.Generator) -> Batch:
    flips = rng.random(len(pairs)) < 0.5
    t0s, t1s = [], []
    for pair, flip in zip(pairs, flips, strict=True):
        t0, t1 = (resize(image, image_size) for image in pair.images())
        t0s.append(t0[:, ::-1] if flip else t0)
        t1s.append(t1[:, ::-1] if flip else t1)
    return Batch([pair.key for pair in pairs], stack_images(t0s), stack_images(t1s))


def resize(image: Image, size: int) -> Image:
    """To (size, size, 3), averaging when it shrinks."""
    if image.shape[:2] == (size, size):
        return image
    way = cv2.INTER_AREA if size < image.shape[0] else cv2.INTER_CUBIC
    smaller: Image = cv2.resize(image, (size, size), interpolation=way)
    return smaller


def stack_images(images: Sequence[Image]) -> Tensor:
    """(H, W, 3) arrays -> (B, 3, H, W) uint8."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def normalize(images: Tensor, in_chans: int = 3) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 by the statistics of the released checkpoint; 1 channel: luma by their means."""
    pixels = images.float() / 255
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (_MEAN, _STD))
    if in_chans == 1:
        luma = torch.tensor(_LUMA, device=images.device)[:, None, None]
        pixels, mean, std = (pixels * luma).sum(dim=1, keepdim=True), mean.mean(), std.mean()
    return (pixels - mean) / std
