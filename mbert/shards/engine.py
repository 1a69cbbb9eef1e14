"""Run independent tasks: in this process, over the processes of this machine, or over a Ray cluster.

The tasks and their bytes are the same everywhere. A task whose process dies runs once more; one that dies again, or
takes too long, is *lost*: the caller decides on a result for it, and the others continue.
"""

import collections
import contextlib
import dataclasses
import importlib
import itertools
import logging
import multiprocessing
import os
import pickle
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, TypeVar

from mbert import ConfigError, MbertError

Task = TypeVar("Task")
Result = TypeVar("Result")
Loss = Literal["timeout", "crashed"]

Message = tuple[Literal["result", "error", "note"], Any]  # what a worker sends

_MAX_ATTEMPTS = 2
_RAY_RETRIES = 3  # a long run may lose several nodes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """Where tasks run."""

    kind: Literal["local", "ray"] = "local"
    workers: int = 0  # processes of this machine; 0: this process itself does the work
    address: str | None = None  # of a Ray cluster; None: RAY_ADDRESS, else starts one on this machine
    timeout_seconds: float | None = None  # for one task

    def __post_init__(self) -> None:
        if self.address is not None and self.kind != "ray":
            raise ConfigError("an address belongs to --engine ray")
        if self.timeout_seconds is not None:
            if self.timeout_seconds <= 0:
                raise ConfigError(f"timeout is {self.timeout_seconds:g} s; it must be above 0")
            if self.kind == "local" and not self.workers:
                raise ConfigError("a timeout needs at least one worker process: this one cannot end itself")


IN_PROCESS = Engine()


def _end_run(task: Any, loss: Loss) -> Any:
    if loss == "timeout":
        raise MbertError(
            "a task took longer than its timeout; what was finished is kept: run the same command again to resume, "
            "with a larger --timeout"
        )
    raise MbertError(
        "a worker process died twice at the same task (out of memory, killed, or begun by a script without "
        "`if __name__ == '__main__':`); what was finished is kept: run the same command again to resume, with fewer "
        "--workers if memory was short"
    )


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    engine: Engine,
    *,
    on_lost: Callable[[Task, Loss], Result] = _end_run,
    on_note: Callable[[Any], None] = lambda note: None,
) -> Iterator[Result]:
    """Yield the result of each task when done, in any order; tasks are taken from the iterable as they start.

    `on_note` receives what a running task reports with `tell`; not supported on a Ray cluster.

    An exception in `function` ends the run. Leaving the iterator early (Ctrl-C, an error) kills the workers; their
    unfinished files have no name on disk yet. Raises ConfigError if the engine cannot be started, and by default
    MbertError if a task is lost.
    """
    if engine.kind == "ray":
        yield from _run_on_ray(function, tasks, engine, on_lost)
    elif engine.workers:
        yield from _Pool(function, engine).run(tasks, on_lost, on_note)
    else:
        with _telling(on_note):
            yield from map(function, tasks)


_listeners: list[Callable[[Any], None]] = []


@contextlib.contextmanager
def _telling(listener: Callable[[Any], None]) -> Iterator[None]:
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


def tell(note: Any) -> None:
    """Report the progress of a long task."""
    if _listeners:
        _listeners[-1](note)


@dataclasses.dataclass(slots=True)
class _Worker:
    process: Any  # multiprocessing's Process, of the spawn context
    pipe: Connection
    task: Any = None
    attempt: int = 0
    deadline: float = float("inf")


class _Pool:
    """Processes with a pipe each. The standard executor breaks as a whole when one process dies, and has no timeout."""

    def __init__(self, function: Callable[[Any], Any], engine: Engine) -> None:
        self._function = function
        self._engine = engine
        # Forked copies of a process with native threads (FFmpeg, MediaPipe) can hang: start afresh.
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def run(
        self, tasks: Iterable[Task], on_lost: Callable[[Task, Loss], Result], on_note: Callable[[Any], None]
    ) -> Iterator[Result]:
        again: collections.deque[tuple[Task, int]] = collections.deque()
        first = ((task, 1) for task in tasks)
        try:
            while True:
                self._hand_out(again, first)
                if not self._workers:
                    return
                soonest = min(worker.deadline for worker in self._workers)
                pause = None if soonest == float("inf") else max(0.0, soonest - time.monotonic())
                ready = wait([worker.pipe for worker in self._workers], pause)
                for worker in list(self._workers):
                    if worker.pipe in ready:
                        try:
                            kind, value = worker.pipe.recv()
                        except (EOFError, OSError, pickle.UnpicklingError):
                            self._dismiss(worker)
                            if worker.attempt < _MAX_ATTEMPTS:
                                again.append((worker.task, worker.attempt + 1))
                            else:
                                yield on_lost(worker.task, "crashed")
                            continue
                        if kind == "note":
                            on_note(value)
                            continue
                        worker.deadline, worker.attempt = float("inf"), 0
                        if kind == "error":
                            raise value
                        yield value
                    elif worker.deadline <= time.monotonic():
                        self._dismiss(worker)
                        yield on_lost(worker.task, "timeout")
        finally:
            for worker in list(self._workers):
                self._dismiss(worker)

    def _hand_out(self, *queues: Iterable[tuple[Any, int]]) -> None:
        """Give a task to every idle worker; start workers while there are tasks, release those without."""
        idle = [worker for worker in self._workers if not worker.attempt]
        while idle or len(self._workers) < self._engine.workers:
            found = next(itertools.chain.from_iterable(_drained(queue) for queue in queues), None)
            if found is None:
                break
            worker = idle.pop() if idle else self._start()
            worker.task, worker.attempt = found
            if self._engine.timeout_seconds:
                worker.deadline = time.monotonic() + self._engine.timeout_seconds
            with contextlib.suppress(OSError):  # it died while idle: reading from it will show that
                worker.pipe.send(worker.task)
        for worker in idle:
            self._dismiss(worker)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._function, theirs), daemon=True)
        resource_tracker.ensure_running()  # a first process that starts it would unblock signals blocked here
        # Ctrl-C is for this process. Blocked signals are inherited, and signals arriving meanwhile are not lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the pipe ends with the process
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _drained(queue: Iterable[tuple[Any, int]]) -> Iterator[tuple[Any, int]]:
    """The next item, if any, taken out of a deque or an iterator."""
    if isinstance(queue, collections.deque):
        if queue:
            yield queue.popleft()
    else:
        yield from itertools.islice(queue, 1)


def _work(function: Callable[[Any], Any], pipe: Connection) -> None:
    """The life of a worker process: tasks in, results out."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _telling(lambda note: pipe.send(("note", note))):
        while True:
            try:
                task = pipe.recv()
            except (EOFError, OSError):
                return
            answer: Message
            try:
                answer = ("result", function(task))
            except MemoryError:
                os._exit(1)  # as if the system had killed it for memory: retry in a fresh process
            except Exception as exc:
                if not isinstance(exc, MbertError):
                    exc.add_note(f"in a worker process: {traceback.format_exc()}")
                answer = ("error", exc)
            pipe.send(answer)


def _end_with_parent() -> None:
    """A worker whose parent was killed must stop writing: the next run may use the same files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _run_on_ray(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    engine: Engine,
    on_lost: Callable[[Task, Loss], Result],
) -> Iterator[Result]:
    """Ray does all scheduling; only as many tasks are submitted as the cluster can run soon."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = importlib.import_module("ray")
        errors: Any = importlib.import_module("ray.exceptions")
    except ImportError as exc:
        raise ConfigError("--engine ray needs Ray: pip install 'mbert[ray]'") from exc
    try:
        if found := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", engine.address or ""):
            # Ray itself keeps trying for minutes.
            socket.create_connection((found[1], int(found[2])), timeout=10).close()
        ray.init(address=engine.address, include_dashboard=None, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as exc:
        raise ConfigError(f"no Ray cluster answers at {engine.address or 'RAY_ADDRESS'}: {exc}") from exc
    remote: Any = ray.remote(num_cpus=1, max_retries=_RAY_RETRIES)(function)
    running: dict[Any, tuple[Task, float]] = {}  # each with its deadline
    waiting = iter(tasks)
    try:
        while True:
            cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
            # With a timeout, a task must start when submitted; without, some tasks wait so that no core is idle.
            room = (cores if engine.timeout_seconds else 2 * cores) - len(running)
            for task in itertools.islice(waiting, max(0, room)):
                deadline = time.monotonic() + (engine.timeout_seconds or float("inf"))
                running[remote.remote(task)] = (task, deadline)
            if not running:
                return
            done, _ = ray.wait(list(running), timeout=1.0)
            for reference in done:
                task, _ = running.pop(reference)
                try:
                    value = ray.get(reference)
                except errors.RayTaskError as exc:
                    raise exc.cause if isinstance(exc.cause, Exception) else exc from exc
                except errors.RayError:
                    value = on_lost(task, "crashed")
                yield value
            now = time.monotonic()
            for reference, (task, deadline) in list(running.items()):
                if deadline <= now:
                    del running[reference]
                    ray.cancel(reference, force=True)
                    yield on_lost(task, "timeout")
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        ray.shutdown()
