"""Run independent tasks: in this process, or over the processes of this machine."""

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from mbert import MbertError

Task = TypeVar("Task")
Result = TypeVar("Result")


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(function: Callable[[Task], Result], tasks: Sequence[Task], *, workers: int) -> Iterator[Result]:
    """Yield the result of each task as it is done, in any order.

    With one worker everything runs in this process. Leaving the iterator early (Ctrl-C, an error) kills the workers;
    what they had begun has no name yet on disk. Raises MbertError when a worker dies.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from map(function, tasks)
        return
    # Forked copies of a process with native threads (FFmpeg, MediaPipe) can hang: start afresh.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_ctrl_c_to_parent)
    try:
        futures = [pool.submit(function, task) for task in tasks]
        for future in concurrent.futures.as_completed(futures):
            yield future.result()
    except BrokenProcessPool as exc:
        raise MbertError(
            "a worker process died (out of memory, or killed); what was finished is kept: "
            "run the same command again to go on, with fewer --workers if memory was short"
        ) from exc
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _leave_ctrl_c_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
