"""The device, precision and processes of a run, chosen by the hardware and by torchrun."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from mbert import ConfigError, MbertError

Precision = Literal["auto", "bf16", "fp16", "fp32"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True)
class Compute:
    """A device and the precision of its forward passes."""

    device: torch.device
    precision: Literal["bf16", "fp16", "fp32"]

    @property
    def is_gpu(self) -> bool:
        """Whether work is queued on a GPU and runs there asynchronously."""
        return self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_TYPES[self.precision])


def pick_compute(precision: Precision = "auto", local_rank: int | None = None) -> Compute:
    """A GPU if there is one, in bf16, or fp16 on old ones. On a CPU fp32: without AMX, bf16 is many times slower.

    `local_rank` is the number of the GPU; None: this process's current one. Raises ConfigError if fp16 is requested on
    a CPU.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device() if local_rank is None else local_rank)
        has_bf16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return Compute(device, ("bf16" if has_bf16 else "fp16") if precision == "auto" else precision)
    if precision == "fp16":
        raise ConfigError("precision is fp16, which needs a GPU; use fp32 or auto")
    return Compute(torch.device("cpu"), "fp32" if precision == "auto" else precision)


@dataclasses.dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a run, one per GPU; only `rank` 0 writes files and output."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # on this machine
    are_joined: bool = False  # by torchrun, which may also have started one alone

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and output."""
        return self.rank == 0

    def on_first(self, work: Callable[[], Result]) -> Result:
        """Run `work` on the first process and share its result; its MbertError is raised in all processes."""
        if not self.are_joined:
            return work()
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = work()
            except MbertError as exc:
                found[1] = exc
        dist.broadcast_object_list(found)
        if found[1] is not None:
            found[1].is_reported = True  # by the first process
            raise found[1]
        result: Result = found[0]
        return result

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add up over all processes, in place."""
        if self.are_joined:
            dist.all_reduce(values)
        return values

    def gather(self, value: Result) -> list[Result]:
        """The values of all processes, in rank order."""
        if not self.are_joined:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found


@contextlib.contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes started by torchrun (or a scheduler that sets its variables); without them, stay alone.

    A single process of torchrun joins too, so that one GPU runs the same code as many.
    """
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_torchelastic_launched()
    if is_alone or dist.is_initialized():
        # Folds of an evaluation are spread over GPUs: each runs alone, on its process's current one.
        yield Processes(local_rank=torch.cuda.current_device() if torch.cuda.is_available() else 0)
        return
    processes = Processes(
        int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")), are_joined=True
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(processes.local_rank)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield processes
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for products on the CPU, and OpenCV and NumPy one.

    OpenCV's flow is then the same on every machine. NumPy's products here are small: its threads would only wait for
    each other, on a busy machine for longer than everything else takes.
    """
    import cv2  # not needed for just a network
    import threadpoolctl

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(1)
    try:
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def num_threads() -> int:
    """How many threads products on the CPU use: the number affects the rounding of sums."""
    return torch.get_num_threads()
