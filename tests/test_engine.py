import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbert import ConfigError, MbertError, ShardError
from mbert.shards.engine import IN_PROCESS, Engine, run_tasks, tell


def square(number):
    return number * number


def refuse(number):
    if number == 3:
        raise ShardError("three is wrong")
    return number


def die_until(task):
    """Kill this process on the first `times` attempts; each leaves a mark in the folder."""
    folder, name, times = task
    attempts = len(list(Path(folder).glob(f"{name}-*")))
    (Path(folder) / f"{name}-{attempts}").touch()
    if attempts < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def lost(task, why):
    return (task, why)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_task_is_done_once(workers):
    results = run_tasks(square, iter(range(20)), Engine(workers=workers), on_lost=lost)
    assert sorted(results) == [number * number for number in range(20)]


def test_tasks_are_taken_as_they_are_begun():
    taken = []

    def tasks():
        for number in range(1000):
            taken.append(number)
            yield number

    results = run_tasks(square, tasks(), Engine(workers=2), on_lost=lost)
    next(results)
    results.close()
    assert len(taken) < 10


def test_a_task_whose_process_dies_runs_once_more(tmp_path):
    tasks = [(str(tmp_path), "a", 0), (str(tmp_path), "b", 1), (str(tmp_path), "c", 2), (str(tmp_path), "d", 0)]
    results = list(run_tasks(die_until, tasks, Engine(workers=2), on_lost=lost))
    assert sorted(results, key=str) == [(tasks[2], "crashed"), "a", "b", "d"]


def test_a_task_that_takes_too_long_is_ended_and_the_rest_goes_on():
    engine = Engine(workers=2, timeout_seconds=5)
    assert set(run_tasks(sleep, [0.1, 1000, 0.2, 0.3], engine, on_lost=lost)) == {0.1, 0.2, 0.3, (1000, "timeout")}


def test_a_timeout_that_nobody_asked_about_is_reported_as_one():
    with pytest.raises(MbertError, match=r"a task took longer than its timeout.*larger --timeout"):
        list(run_tasks(sleep, [1000], Engine(workers=1, timeout_seconds=1)))


def tell_and_square(number):
    tell(f"at {number}")
    return number * number


@pytest.mark.parametrize("workers", [0, 2])
def test_a_task_can_tell_how_it_goes(workers):
    notes = []
    results = run_tasks(tell_and_square, range(5), Engine(workers=workers), on_note=notes.append)
    assert sorted(results) == [0, 1, 4, 9, 16]
    assert sorted(notes) == [f"at {number}" for number in range(5)]
    tell("nobody listens, nothing happens")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_task_ends_the_run(workers):
    with pytest.raises(ShardError, match="three is wrong"):
        list(run_tasks(refuse, range(8), Engine(workers=workers), on_lost=lost))


def test_impossible_engines_are_refused():
    with pytest.raises(ConfigError, match="timeout is -1 s; it must be above 0"):
        Engine(workers=1, timeout_seconds=-1)
    with pytest.raises(ConfigError, match="timeout needs at least one worker"):
        Engine(timeout_seconds=5)
    with pytest.raises(ConfigError, match="address belongs to --engine ray"):
        Engine(workers=1, address="auto")
    assert IN_PROCESS.workers == 0


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from mbert.shards.engine import Engine, run_tasks\n"
        "def work(task):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    list(run_tasks(work, [1, 2], Engine(workers=2), on_lost=None))\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.communicate()  # returns when the last worker has closed its end of the pipe
    assert not any(Path(f"/proc/{worker}").exists() and "Z" not in state(worker) for worker in workers)


def state(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
