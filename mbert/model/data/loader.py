"""The loader of pairs: batches independent of the number of ranks and workers, and a position that can be saved."""

import collections
import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mbert import ConfigError, ModelError, ShardError
from mbert.model.data.augment import draw
from mbert.model.data.parts import Batch, Failure, Part, Parts, Start, epochs, set_up_worker
from mbert.shards.order import (
    Dealing,
    Layout,
    StreamPosition,
    num_lanes,
    positions_of,
    resume,
    whole_epoch,
    worker_of,
)
from mbert.shards.reader import BadPair
from mbert.shards.source import ShardSource

_PREFETCH = 2  # batches that each worker process reads ahead
_LISTED = 10  # bad pairs named in an error


class PairLoader:
    """Endless batches: iterate over it, save `position` after any of them, and resume from there another time.

    `batch_size` counts the pairs of all ranks together; each rank gets its share. The pairs of a global batch depend
    only on the shards, seed, batch size, lanes and block; lanes are the same for all usual numbers of ranks and workers
    (`num_lanes`). All ranks have the same number of steps. Attributes: `steps_per_epoch`, `num_dropped` (pairs that do
    not fill a whole batch, different ones in each epoch), `resumed` (what resuming from `position` means, or ""), `bad`
    (unusable pairs of this epoch and rank so far; good neighbours took their places).

    With `lends`, the frames of a batch are valid until the next one is requested; no new memory is allocated for them.

    Iterating raises ShardError if more than `max_bad` of an epoch's pairs are bad (each rank counts its own, and
    may meet at least one unless `max_bad` is 0), ModelError when a worker process dies.
    """

    def __init__(
        self,
        source: ShardSource,
        *,
        batch_size: int,
        image_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        position: StreamPosition | None = None,
        lanes: int | None = None,
        block: int = 256,
        max_bad: float = 0.001,
        pin_memory: bool | None = None,  # None: if CUDA is available
        lends: bool = False,
    ) -> None:
        lanes = lanes or _pick_lanes(source, world, workers, position)
        _check(batch_size, lanes, rank, world, workers, max_bad)
        layout = Layout(lanes=lanes, batch_size=batch_size, block=block)
        whole = whole_epoch(source.counts, layout, seed=seed, epoch=0)
        if not whole.num_steps:
            raise ConfigError(
                f"batch_size is {batch_size}, but {source.where} holds {source.counted_pairs}, of which "
                f"{whole.lane_length * lanes} can be dealt evenly to {lanes} lanes: lower it"
            )
        self.steps_per_epoch, self.num_dropped = whole.num_steps, whole.num_dropped
        self.resumed = ""
        self.bad: list[BadPair] = []
        self._source, self._layout, self._seed = source, layout, seed
        self._rank, self._world, self._workers = rank, world, workers
        self._image_size, self._max_bad, self._lends = image_size, max_bad, lends
        self._pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self._at = Start(whole, 0, True)
        if position is not None:
            self._resume(position)

    @property
    def position(self) -> StreamPosition:
        """Where the next batch begins: save it together with the training state."""
        return StreamPosition(
            epoch=self._at.dealing.epoch,
            step=self._at.step,
            seed=self._seed,
            num_pairs=self._source.num_pairs,
            layout=self._layout,
            segments=None if self._at.is_whole else self._at.dealing.segments,
        )

    def seek(self, num_steps: int) -> None:
        """Move to where a run of this layout is after `num_steps` steps, counted from the first epoch."""
        epoch, step = divmod(num_steps, self.steps_per_epoch)
        self._at = Start(self._whole(epoch), step, True)

    def __iter__(self) -> Iterator[Batch]:
        """Resume from `position`. Batches that an abandoned iterator had read ahead are read again."""
        parts = self._parts()
        slots = itertools.repeat(None) if parts.slots is None else itertools.cycle(parts.slots)
        with contextlib.closing(_Workers(parts, self._workers)) as workers:
            for start in epochs(self._source, self._at, seed=self._seed):
                self.bad = []
                for step in range(start.step, start.dealing.num_steps):
                    found = workers.next_parts()
                    batch = self._join(start.dealing, step, found, self._take_frames(found, next(slots)))
                    self._note_bad(batch)
                    self._at = Start(start.dealing, step + 1, start.is_whole)
                    if step + 1 == start.dealing.num_steps:
                        self._at = Start(self._whole(start.dealing.epoch + 1), 0, True)
                    yield batch

    def _whole(self, epoch: int) -> Dealing:
        return whole_epoch(self._source.counts, self._layout, seed=self._seed, epoch=epoch)

    def _resume(self, position: StreamPosition) -> None:
        resumed = resume(position, self._source.counts, self._layout, seed=self._seed)
        self._at = Start(resumed.dealing, resumed.step, resumed.is_whole)
        self.resumed = resumed.note
        if resumed.step >= resumed.dealing.num_steps:  # less is left than a batch
            self._at = Start(self._whole(position.epoch + 1), 0, True)
            left = resumed.dealing.num_pairs
            self.resumed += f"; the {left} pairs left of epoch {position.epoch} fill no batch: on with the next epoch"

    def _parts(self) -> Parts:
        parts = Parts(
            source=self._source,
            start=self._at,
            seed=self._seed,
            image_size=self._image_size,
            rank=self._rank,
            world=self._world,
        )
        if not self._workers:
            return dataclasses.replace(parts, slots=parts.empty_frames()[None]) if self._lends else parts
        # Workers are at most _PREFETCH steps ahead of the step that is being joined.
        slots = parts.empty_frames().expand(_PREFETCH + 1, -1, -1, -1, -1, -1).contiguous()
        try:
            slots.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as exc:
            raise ModelError(
                f"there is no room for {slots.numel() / 1e6:.0f} MB in shared memory, /dev/shm ({exc}): "
                "make it larger, or lower batch_size"
            ) from exc
        return dataclasses.replace(parts, slots=slots)

    def _take_frames(self, parts: Sequence[Part], slot: Tensor | None) -> Tensor:
        """(2, B, H, W, 3), owned by the caller unless lent: a slot is overwritten when the next batch is requested."""
        if slot is not None and self._lends and not self._pin_memory:
            return slot
        if slot is None:
            frames = parts[0].frames
            assert frames is not None
            return frames.pin_memory() if self._pin_memory else frames
        return torch.empty(slot.shape, dtype=slot.dtype, pin_memory=self._pin_memory).copy_(slot)

    def _join(self, dealing: Dealing, step: int, parts: Sequence[Part], frames: Tensor) -> Batch:
        """Build the batch, with the workers' keys in the order of their positions."""
        positions = positions_of(self._layout, step, rank=self._rank, world=self._world)
        keys = [iter(part.keys.split("\n")) for part in parts]
        t0, t1 = frames.permute(0, 1, 4, 2, 3)
        return Batch(
            keys=[next(keys[self._owner(position)]) for position in positions],
            t0=t0,
            t1=t1,
            draws=torch.from_numpy(draw(positions, seed=self._seed, epoch=dealing.epoch)),
            bad=tuple(pair for part in parts for pair in part.bad),
            epoch=dealing.epoch,
            step=step,
        )

    def _owner(self, position: int) -> int:
        return worker_of(position % self._layout.lanes, world=self._world, workers=max(1, self._workers))

    def _note_bad(self, batch: Batch) -> None:
        self.bad += batch.bad
        allowed = math.ceil(self._max_bad * self._source.num_pairs / self._world)
        if batch.bad and len(self.bad) > allowed:
            raise ShardError(
                f"{len(self.bad)} pairs of epoch {batch.epoch} are bad by step {batch.step + 1}, more than the "
                f"{allowed} that max_bad {self._max_bad:g} allows: {_listed(self.bad)}. "
                "Run `mbert verify`, then make these shards again, or allow more"
            )


class _Workers:
    """The worker processes of one iterator, or this process if there are none."""

    def __init__(self, parts: Parts, num_workers: int) -> None:
        loader = DataLoader(
            parts,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=_PREFETCH if num_workers else None,
            worker_init_fn=set_up_worker,
        )
        self._num_parts = max(1, num_workers)
        others = multiprocessing.active_children()
        with _deaths_told_only_when_asked():
            self._parts: Iterator[Part | Failure] | None = iter(loader)
        self._processes = [child for child in multiprocessing.active_children() if child not in others]

    def close(self) -> None:
        """End the processes, even if a traceback keeps this object alive."""
        self._parts = None
        self._processes = []

    def next_parts(self) -> list[Part]:
        """One part from each worker: torch queries its workers in turn. Raises the error of a failed worker."""
        assert self._parts is not None
        # Check before waiting: the rest of a half-sent message would never arrive.
        if died := [f"{child.pid}, exit code {child.exitcode}" for child in self._processes if child.exitcode]:
            raise self._death("; ".join(died))
        found = []
        for _ in range(self._num_parts):
            try:
                part = next(self._parts)
            except RuntimeError as exc:  # torch checks every few seconds while it waits
                if "DataLoader worker" not in str(exc):
                    raise
                raise self._death(str(exc)) from exc
            if isinstance(part, Failure):
                raise part.error
            found.append(part)
        return found

    def _death(self, how: str) -> ModelError:
        return ModelError(
            f"a process that loads pairs died ({how}): if it was killed for want of memory, "
            f"take fewer than {self._num_parts} workers or a smaller batch_size"
        )


@contextlib.contextmanager
def _deaths_told_only_when_asked() -> Iterator[None]:
    """Leave SIGCHLD as it was: torch's handler raises in whatever the main thread is doing, a step or a save."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        # Only the main thread may set a handler, and torch sets none in others; None: not set from Python.
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGCHLD, before)


def _listed(bad: Sequence[BadPair]) -> str:
    """The first few; a problem with a whole shard is reported once."""
    groups = collections.Counter((pair.shard, pair.reason) for pair in bad)
    first = {(pair.shard, pair.reason): pair for pair in reversed(bad)}
    told = [
        f"{first[group]}" + (f" (and {count - 1} more of this shard)" if count > 1 else "")
        for group, count in groups.items()
    ]
    rest = f"; and {len(told) - _LISTED} more" if len(told) > _LISTED else ""
    return "; ".join(told[:_LISTED]) + rest


def _pick_lanes(source: ShardSource, world: int, workers: int, position: StreamPosition | None) -> int:
    """The lanes of the saved position if they fit, so that resuming is exact."""
    lanes = num_lanes(world, workers, source.num_pairs)
    if position is not None:
        saved = position.layout.lanes
        if saved % world == 0 and saved >= min(lanes, world * max(1, workers)):
            return saved
    return lanes


def _check(batch_size: int, lanes: int, rank: int, world: int, workers: int, max_bad: float) -> None:
    for name, value in (("batch_size", batch_size), ("lanes", lanes)):
        if value % world:
            raise ConfigError(f"{name} is {value}; it must be a multiple of the {world} ranks")
    if not 0 <= rank < world:
        raise ConfigError(f"rank is {rank}; it must lie in [0, {world})")
    if workers < 0:
        raise ConfigError(f"workers is {workers}; it must be at least 0")
    if not 0 <= max_bad <= 1:
        raise ConfigError(f"max_bad is {max_bad}; it must be a share between 0 and 1")
