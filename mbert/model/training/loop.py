"""The single training loop: pretraining and finetuning define a loss, everything else is here."""

import collections
import contextlib
import dataclasses
import math
import signal
import subprocess
import threading
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mbert import ConfigError, ModelError
from mbert.model.device import Compute, Precision, Processes
from mbert.model.training.checkpoint import Progress, Trained, load_tensors, read_progress, save_checkpoint
from mbert.model.training.optim import AveragedWeights, adamw, learning_rate, set_learning_rate
from mbert.model.training.run_log import Reporter, RunLog, StepReport

# Marks a field that may change from one part of a run to the next, because it does not affect what is learned, or the
# plan records what it resolved to.
FREE = "free"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Settings shared by pretraining and finetuning. None means: chosen by the hardware when the run starts."""

    steps: Annotated[int | None, FREE] = None  # either steps or epochs
    epochs: Annotated[float | None, FREE] = None
    batch_size: Annotated[int | None, FREE] = None  # pairs of one process in one pass
    accumulate: Annotated[int, FREE] = 1  # passes whose gradients make one step
    lr: Annotated[float | None, FREE] = None  # peak learning rate
    weight_decay: float = 0.05
    warmup_ratio: float = 0.05  # share of the steps
    clip_norm: float = 1.0  # largest gradient norm
    average_decay: float = 0.0  # of averaged weights, kept next to the others; 0: none
    precision: Annotated[Precision, FREE] = "auto"
    compile: Annotated[bool, FREE] = False  # with torch.compile; the first step then takes up to two minutes
    workers: Annotated[int | None, FREE] = None  # processes that load pairs, for each training process
    max_bad: Annotated[float, FREE] = 0.001  # share of an epoch's pairs that may be damaged
    max_minutes: Annotated[float | None, FREE] = None  # save and stop after this many; rerun to resume
    save_every: Annotated[int, FREE] = 200  # steps between checkpoints
    keep: Annotated[int, FREE] = 1  # newest checkpoints kept, apart from the best
    picture_every: Annotated[int, FREE] = 200  # steps between pictures; 0: none
    report_to: Annotated[Reporter, FREE] = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("give --steps or --epochs, not both")
        for name in _ABOVE_0:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        for name in ("weight_decay", "workers", "picture_every"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} is {value}; it must not be negative")
        for name in ("warmup_ratio", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if not 0 <= self.max_bad <= 1:
            raise ConfigError(f"max_bad is {self.max_bad}; it must lie between 0 and 1")


_ABOVE_0 = ("steps", "epochs", "batch_size", "lr", "accumulate", "clip_norm", "max_minutes", "save_every", "keep")


FEWER_STEPS = "--steps"  # why a run stopped if fewer steps than its total were requested


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LoopPlan:
    """A run with all settings resolved."""

    steps: int
    batch_size: int  # pairs of one process in one pass
    global_batch: int  # pairs of all processes in one step
    lr: float
    config: LoopConfig
    compute: Compute
    workers: int
    world: int  # processes
    num_pairs: int
    corpus: str  # fingerprint
    done_before: int = 0  # steps done by an earlier part of the run
    stop_after: int | None = None  # a step before the last one, if fewer are requested than the run has
    notes: tuple[str, ...] = ()  # what was chosen because there is no GPU, what resuming means, what has no effect

    def identity(self) -> dict[str, object]:
        """Settings that must match for a run to be resumed."""
        hints = typing.get_type_hints(type(self.config), include_extras=True)
        free = {name for name, hint in hints.items() if FREE in getattr(hint, "__metadata__", ())}
        kept = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in free}
        return {**kept, **{name: getattr(self, name) for name in ("steps", "global_batch", "lr", "corpus")}}


class Job(Protocol):
    """What is trained."""

    @property
    def model(self) -> nn.Module:
        """Whose parameters are learned and saved."""

    def losses(
        self, forward: nn.Module, batch: Any, rows: slice, places: range, total: int, step: int
    ) -> dict[str, Tensor]:
        """The loss of some rows of a batch, under `loss`, and its parts.

        `places` are the indices of these rows in the global batch of `total` pairs. `forward` is the model as wrapped
        for several processes.
        """

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step."""

    def save(self, folder: Path, tensors: Mapping[str, Tensor], report: StepReport) -> None:
        """Write the model's files, with these tensors, after the step of this report."""

    def picture(self, batch: Any) -> npt.NDArray[np.uint8]:
        """A picture of the model's output for some pairs, (H, W, 3) RGB."""

    def lr_scale(self, name: str) -> float:
        """The share of the learning rate that a parameter gets."""


class Loader(Protocol):
    """The source of batches; each has its `keys`."""

    @property
    def steps_per_epoch(self) -> float:
        """For reports: not a whole number if a batch may span epochs."""

    @property
    def position(self) -> Any: ...  # noqa: D102 - with to_json()
    def __iter__(self) -> Iterator[Any]: ...


def train(
    job: Job,
    loader: Loader,
    run: Path,
    plan: LoopPlan,
    processes: Processes,
    log: RunLog | None,
    on_step: Callable[[StepReport], None],
) -> str:
    """Train to the run's last step. Returns "", or why it stopped earlier: SIGTERM, or a limit.

    On Ctrl-C the state is saved before KeyboardInterrupt is raised. Raises ModelError if the loss is not finite.
    """
    config, compute = plan.config, plan.compute
    # Having ever set this number changes how a process rounds matrix products; setting it here makes all processes
    # agree.
    torch.set_num_threads(torch.get_num_threads())
    model = job.model.to(compute.device).train()
    optimizer = adamw(model, weight_decay=config.weight_decay, lr_scale=job.lr_scale)
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
    averaged = AveragedWeights(model, config.average_decay) if config.average_decay else None
    trained = Trained(model, optimizer, averaged, job.save)
    before = read_progress(run)
    if before is not None:
        load_tensors(run, trained)
        scaler.load_state_dict(before.scaler)
    done = before.step if before is not None else 0
    keeper = _Keeper(run, trained, plan, processes, before)
    reports = _Reports(plan, processes, loader.steps_per_epoch)
    forward = _wrapped(model, compute, processes, config.compile)

    def tell(finished: list[StepReport]) -> None:
        for report in finished:
            keeper.note(report)
            if log is not None:
                log.step(report)
            on_step(report)

    stream = iter(loader)
    stop = plan.stop_after or plan.steps
    with _noting_signals(config.max_minutes) as asked_to_stop:
        for step in range(done, stop):
            began = time.monotonic()
            batch = next(stream)
            waited = 0.0 if reports.is_card_busy else time.monotonic() - began
            lr = _learning_rate(plan, step)
            set_learning_rate(optimizer, lr)
            losses = _step(job, forward, optimizer, scaler, batch, plan, processes, step)
            job.after_step(step)
            if averaged is not None:
                averaged.follow(model, step)
            tell(reports.add(step, losses, batch.keys, lr, waited, asked_to_stop()))
            if log is not None and config.picture_every and (step + 1) % config.picture_every == 0:
                log.picture(step + 1, job.picture(batch))
            is_last = step + 1 == stop
            if reports.stop or is_last or (step + 1) % config.save_every == 0:
                tell(reports.rest())
                if log is not None:
                    log.flush()
                keeper.save(loader.position.to_json(), scaler.state_dict())
            if reports.stop == "SIGINT":
                raise KeyboardInterrupt
            if reports.stop and not is_last:
                return reports.stop
    return "" if stop == plan.steps else FEWER_STEPS


def _learning_rate(plan: LoopPlan, step: int) -> float:
    num_warmup = max(1, int(plan.steps * plan.config.warmup_ratio))
    return learning_rate(step, num_steps=plan.steps, num_warmup=num_warmup, peak=plan.lr)


def _wrapped(model: nn.Module, compute: Compute, processes: Processes, compiled: bool) -> nn.Module:
    """The model to call: compiled, with gradients averaged over the processes."""
    if compiled:
        model.compile()
    if not processes.are_joined:
        return model
    # Buffers are constants, or the code that changes them keeps them equal.
    return DistributedDataParallel(
        model,
        device_ids=[compute.device.index] if compute.is_gpu else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def _step(
    job: Job,
    forward: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Any,
    plan: LoopPlan,
    processes: Processes,
    step: int,
) -> dict[str, Tensor]:
    """Forward, backward, update; `step` counts from 0. Returns the parts of the loss and the gradient's length."""
    torch.manual_seed(step_seed(plan.config.seed, step) + processes.rank)  # for randomness inside a model
    places = range(processes.rank, plan.global_batch, processes.world)
    total: dict[str, Tensor] = {}
    optimizer.zero_grad(set_to_none=True)
    for start in range(0, len(places), plan.batch_size):
        rows = slice(start, start + plan.batch_size)
        is_last = rows.stop >= len(places)
        is_waiting = isinstance(forward, DistributedDataParallel) and not is_last
        with forward.no_sync() if is_waiting else contextlib.nullcontext():  # type: ignore[operator]
            with plan.compute.autocast():
                losses = job.losses(forward, batch, rows, places[rows], plan.global_batch, step)
            share = len(places[rows]) / len(places)
            scaler.scale(losses["loss"] * share).backward()  # type: ignore[no-untyped-call]
        for name, value in losses.items():
            total[name] = total.get(name, 0) + value.detach() * share
    scaler.unscale_(optimizer)
    total["grad_norm"] = torch.nn.utils.clip_grad_norm_(job.model.parameters(), plan.config.clip_norm)
    scaler.step(optimizer)
    scaler.update()
    return total


def step_seed(seed: int, step: int) -> int:
    """The seed of one step, from seed and step alone: a resumed run draws what an uninterrupted one would."""
    return seed * 1_000_003 + step


class _Reports:
    """Turns the losses of steps into reports. On a GPU one step late, so that the GPU never waits for it."""

    _STOPS = ("SIGTERM", "SIGINT", "the time limit")

    def __init__(self, plan: LoopPlan, processes: Processes, steps_per_epoch: float) -> None:
        self.stop = ""  # why the run should end; the same on all processes
        self._plan, self._processes, self._steps_per_epoch = plan, processes, steps_per_epoch
        self._waiting: collections.deque[tuple[int, list[str], Tensor, _Arriving, list[str], float, float]]
        self._waiting = collections.deque()
        self._told = time.monotonic()

    def add(
        self, step: int, losses: dict[str, Tensor], keys: list[str], lr: float, waited: float, stop: str
    ) -> list[StepReport]:
        """Note a step; returns the reports that are ready. Raises ModelError if a loss was not finite."""
        own = torch.stack([value.float() for value in losses.values()])
        flags = torch.tensor([float(name == stop) for name in self._STOPS]).to(own.device, non_blocking=True)
        summed = self._processes.sum(torch.cat([own / self._processes.world, flags]))
        self._waiting.append((step, list(losses), own, _Arriving(summed), keys, lr, waited))
        return self._finish(1 if self._plan.compute.is_gpu else 0)

    @property
    def is_card_busy(self) -> bool:
        """Whether a GPU is still working on the last step, so that loading the next batch cost no time."""
        return bool(self._waiting) and not self._waiting[-1][3].are_there()

    def rest(self) -> list[StepReport]:
        """All remaining reports."""
        return self._finish(0)

    def _finish(self, num_left: int) -> list[StepReport]:
        found = []
        while len(self._waiting) > num_left:
            step, names, own, summed, keys, lr, waited = self._waiting.popleft()
            values = summed.tolist()
            means, flags = dict(zip(names, values, strict=False)), values[len(names) :]
            if not math.isfinite(means["loss"]):
                self._fail(step, means["loss"], own, keys)
            self.stop = self.stop or next((name for name, flag in zip(self._STOPS, flags, strict=True) if flag), "")
            now = time.monotonic()
            seconds, self._told = max(now - self._told, 1e-9), now
            found.append(
                StepReport(
                    step=step + 1,
                    epoch=(step + 1) / self._steps_per_epoch,
                    loss=means.pop("loss"),
                    grad_norm=means.pop("grad_norm"),
                    parts=means,
                    lr=lr,
                    pairs_per_second=self._plan.global_batch / seconds,
                    data_wait_share=min(1.0, waited / seconds),
                    memory_mb=torch.cuda.max_memory_allocated() / 2**20 if self._plan.compute.is_gpu else None,
                )
            )
        return found

    def _fail(self, step: int, loss: float, own: Tensor, keys: list[str]) -> None:
        """Every process gets here: the sum is the same everywhere."""
        blamed = self._processes.gather(keys if not math.isfinite(float(own[0])) else [])
        found = [key for part in blamed for key in part]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ModelError(
            f"the loss is {loss} at step {step + 1}, pairs {', '.join(found[:8])}{more}: lower --lr, or resume "
            "from the last checkpoint with another seed"
        )


class _Arriving:
    """Numbers being copied from a GPU: reading them waits for their computation, not for later work."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._there = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        if self._there is not None:
            self._there.record()

    def are_there(self) -> bool:
        """Whether they can be read without waiting."""
        return self._there is None or bool(self._there.query())  # type: ignore[no-untyped-call]

    def tolist(self) -> list[float]:
        """The numbers."""
        if self._there is not None:
            self._there.synchronize()
        found: list[float] = self._values.tolist()
        return found


class _Keeper:
    """Saves checkpoints; only the first process writes."""

    def __init__(
        self, run: Path, trained: Trained, plan: LoopPlan, processes: Processes, before: Progress | None
    ) -> None:
        self._folder, self._trained, self._plan, self._processes = run / "checkpoints", trained, plan, processes
        self._best = before.best_loss if before is not None else None
        self._since: list[StepReport] = []  # since the last checkpoint
        self._revision = code_revision()

    def note(self, report: StepReport) -> None:
        """Remember a step's loss."""
        self._since.append(report)

    def save(self, position: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Write a checkpoint after the last noted step."""
        last = self._since[-1]
        mean = sum(report.loss for report in self._since) / len(self._since)
        is_best = self._best is None or mean < self._best
        self._best = mean if is_best else self._best
        self._since = []
        if not self._processes.is_first:
            return
        progress = Progress(
            step=last.step,
            position=position,
            scaler=scaler,
            best_loss=self._best,
            world=self._processes.world,
            revision=self._revision,
        )
        trained = dataclasses.replace(self._trained, report=last)
        save_checkpoint(self._folder, trained, progress, is_best=is_best, keep=self._plan.config.keep)


def code_revision() -> str | None:
    """The commit of this code, if it is a git checkout."""
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return None
    found = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


@contextlib.contextmanager
def _noting_signals(max_minutes: float | None) -> Iterator[Callable[[], str]]:
    """Turn Ctrl-C, a scheduler's SIGTERM and the time limit into a check between steps: why to stop, or "".

    A second Ctrl-C ends the run at once. A second SIGTERM does not: a scheduler signals both a process and torchrun,
    which passes it on.
    """
    ends = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    caught: list[str] = []

    def answer() -> str:
        return caught[0] if caught else "the time limit" if time.monotonic() > ends else ""

    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield answer
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        caught.append(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in before:
        signal.signal(number, note)
    try:
        yield answer
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
