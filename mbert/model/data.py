"""Shards -> decoded frames: what one worker process of the loader does, and how frames become input of a model."""

import dataclasses
import signal
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from mbert import ConfigError, MbertError
from mbert.shards.image import Image
from mbert.shards.lane import Lane
from mbert.shards.order import Dealing, positions_of, whole_epoch, worker_of
from mbert.shards.pair import FramePair
from mbert.shards.reader import BadPair
from mbert.shards.source import ShardSource

# The statistics that the released checkpoint was trained with (ImageNet's), for RGB in 0-1.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # Rec. 601, as in JPEG


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of a global batch."""

    keys: list[str]  # of the pairs
    t0: Tensor  # (B, 3, H, W) uint8 RGB; channels lie last in memory, as the decoder left them
    t1: Tensor
    draws: Tensor  # (B, 6) random numbers in [0, 1) for `augment`
    bad: tuple[BadPair, ...]  # pairs of this batch that could not be used; their places hold others
    epoch: int
    step: int  # of this dealing of the epoch


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """What one worker process gives to a batch: its pairs in the order of their positions."""

    keys: str  # a line each: one string is cheaper to send than many
    frames: Tensor  # (2, n, H, W, 3) uint8 RGB, in shared memory
    bad: tuple[BadPair, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a worker process stopped; sent instead of raised, so that the message arrives without a foreign traceback."""

    error: MbertError


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """Where reading begins: a step of a whole epoch, or of what is left of one."""

    dealing: Dealing
    step: int
    is_whole: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts(IterableDataset[Part | Failure]):
    """Without end, step by step and epoch by epoch: this worker's part of this rank's share of the global batch."""

    source: ShardSource
    start: Start
    seed: int
    image_size: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[Part | Failure]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            for start in epochs(self.source, self.start, seed=self.seed):
                yield from self._read_epoch(start, worker, workers)
        except MbertError as exc:
            yield Failure(exc)

    def _read_epoch(self, start: Start, worker: int, workers: int) -> Iterator[Part]:
        layout = start.dealing.layout
        lanes: dict[int, Lane] = {}
        for step in range(start.step, start.dealing.num_steps):
            places = [
                divmod(position, layout.lanes)
                for position in positions_of(layout, step, rank=self.rank, world=self.world)
                if worker_of(position % layout.lanes, world=self.world, workers=workers) == worker
            ]
            frames = torch.empty(2, len(places), self.image_size, self.image_size, 3, dtype=torch.uint8)
            if get_worker_info():
                frames.share_memory_()  # type: ignore[no-untyped-call]  # while it is still empty: decoded into it, nothing is copied to send it
            keys, bad = [], []
            for row, (place, lane) in zip(frames.numpy().swapaxes(0, 1), places, strict=True):
                if lane not in lanes:
                    lanes[lane] = Lane(self.source, start.dealing, lane)
                taken = lanes[lane].take(place, self._decode)
                row[0], row[1] = taken.decoded
                keys.append(taken.key)
                bad += [taken.bad] if taken.bad else []
            yield Part("\n".join(keys), frames, tuple(bad))

    def _decode(self, pair: FramePair) -> tuple[Image, Image]:
        t0, t1 = pair.images()
        return resize(t0, self.image_size), resize(t1, self.image_size)


def epochs(source: ShardSource, start: Start, *, seed: int) -> Iterator[Start]:
    """The epoch in which reading begins, then whole ones without end: for workers and for who joins their parts."""
    yield start
    epoch = start.dealing.epoch
    while True:
        epoch += 1
        yield Start(whole_epoch(source.counts, start.dealing.layout, seed=seed, epoch=epoch), 0, True)


def set_up_worker(_worker: int) -> None:
    """One thread for each worker process; a Ctrl-C is for the main process, which then ends the workers."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def resize(image: Image, size: int) -> Image:
    """To (size, size, 3), averaging when it shrinks."""
    if image.shape[:2] == (size, size):
        return image
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
    mean, std = torch.tensor(_MEAN, device=images.device), torch.tensor(_STD, device=images.device)
    if in_chans == 1:
        weights = torch.tensor(_LUMA, device=images.device)[:, None, None]
        images = (images * weights).sum(dim=1, keepdim=True)
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    elif in_chans != 3:
        raise ConfigError(f"in_chans is {in_chans}; allowed are 3 (RGB) and 1 (luma)")
    return (images - mean[:, None, None]) / std[:, None, None]
