"""Shards -> decoded frames: what one worker process of the loader does."""

import dataclasses
import functools
import itertools
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from mbert import MbertError
from mbert.model.data.pixels import resize
from mbert.shards.lane import Lane
from mbert.shards.order import Dealing, positions_of, whole_epoch, worker_of
from mbert.shards.pair import FramePair
from mbert.shards.reader import BadPair
from mbert.shards.source import ShardSource


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of a global batch."""

    keys: list[str]  # of the pairs
    t0: Tensor  # (B, 3, H, W) uint8 RGB; channels are last in memory, as the decoder wrote them
    t1: Tensor
    draws: Tensor  # (B, 6) random numbers in [0, 1) for `augment`
    bad: tuple[BadPair, ...]  # pairs of this batch that could not be used; others take their places
    epoch: int
    step: int  # of this dealing of the epoch


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One worker process's contribution to a batch: its pairs in the order of their positions."""

    keys: str  # one per line: one string is cheaper to send than many
    bad: tuple[BadPair, ...]
    frames: Tensor | None  # (2, B, H, W, 3) uint8 RGB; None: they were decoded into their step's slot


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a worker process stopped; sent, not raised, so that the message arrives without the worker's traceback."""

    error: MbertError


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """Where reading begins: a step of a whole epoch, or of what is left of one."""

    dealing: Dealing
    step: int
    is_whole: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts(IterableDataset[Part | Failure]):
    """Endless, step by step and epoch by epoch: this worker's part of this rank's share of the global batch.

    All workers of a rank decode into the same memory, each into its rows of a batch: no copies to send or join.
    """

    source: ShardSource
    start: Start
    seed: int
    image_size: int
    rank: int
    world: int
    slots: Tensor | None = None  # (slots, 2, B, H, W, 3) uint8, shared; step k, counted from the start, uses k % slots

    @property
    def batch_size(self) -> int:
        """Pairs of this rank."""
        return self.start.dealing.layout.batch_size // self.world

    def empty_frames(self) -> Tensor:
        """Memory for a batch, as the decoder writes it: (2, B, H, W, 3) uint8."""
        return torch.empty(2, self.batch_size, self.image_size, self.image_size, 3, dtype=torch.uint8)

    def __iter__(self) -> Iterator[Part | Failure]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        slots = itertools.repeat(None) if self.slots is None else itertools.cycle(self.slots)
        try:
            for start in epochs(self.source, self.start, seed=self.seed):
                lanes = {
                    lane: Lane(self.source, start.dealing, lane)
                    for lane in range(self.rank, start.dealing.layout.lanes, self.world)
                    if worker_of(lane, world=self.world, workers=workers) == worker
                }
                for step in range(start.step, start.dealing.num_steps):
                    yield self._read_step(start.dealing, lanes, step, next(slots))
        except MbertError as exc:
            yield Failure(exc)

    def _read_step(self, dealing: Dealing, lanes: dict[int, Lane], step: int, slot: Tensor | None) -> Part:
        frames = self.empty_frames() if slot is None else slot
        keys, bad = [], []
        positions = positions_of(dealing.layout, step, rank=self.rank, world=self.world)
        for row, position in zip(frames.numpy().swapaxes(0, 1), positions, strict=True):
            place, lane = divmod(position, dealing.layout.lanes)
            if lane not in lanes:
                continue  # belongs to another worker
            taken = lanes[lane].take(place, functools.partial(_decode, row))
            keys.append(taken.key)
            bad += [taken.bad] if taken.bad else []
        return Part("\n".join(keys), tuple(bad), frames if slot is None else None)


def _decode(row: npt.NDArray[np.uint8], pair: FramePair) -> None:
    """Decode both frames of a pair into its row of a batch, (2, S, S, 3)."""
    for image, place in zip(pair.images(into=(row[0], row[1])), row, strict=True):
        if not np.may_share_memory(image, place):  # compares bounds only, which is quick
            place[:] = resize(image, len(place))


def epochs(source: ShardSource, start: Start, *, seed: int) -> Iterator[Start]:
    """The epoch in which reading begins, then endless whole ones: for the workers and for joining their parts."""
    yield start
    epoch = start.dealing.epoch
    while True:
        epoch += 1
        yield Start(whole_epoch(source.counts, start.dealing.layout, seed=seed, epoch=epoch), 0, True)


def set_up_worker(_worker: int) -> None:
    """One thread per worker process; stop signals are left to the main process, which then ends the workers."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # schedulers send them to every process of a job
        signal.signal(number, signal.SIG_IGN)
