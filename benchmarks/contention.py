"""How fast does training on the CPU go on a machine that others use too, and what does that cost where nobody does?

Threads of OpenMP that have nothing to do spin before they sleep. Beside a busy process they take the core from the
thread they wait for. `mbert` therefore asks for none (`mbert/__init__.py`). Compared are the old setting, which is
libgomp's own (a spin of 300,000 turns), and the new one; both alone and beside one busy process, a loop in Python. That
has a session of its own, as another user's program does: Linux shares the cores out between sessions first.
Each measurement is a run of `mbert train pretrain`, `tiny`, in a process of its own, since libgomp reads its settings
when torch is loaded; its first steps do not count. Rounds alternate.

    python benchmarks/contention.py [--rounds 7] [--seconds 10] [--quick]

alone_ratio: pairs per second of the new setting over the old one, both alone (goal 0.97). beside_one: what the new
setting keeps beside one busy process, as a share of its own speed alone (goal 0.55); beside_one_old: the same for the
old one. All are medians of ratios within a round. Others may use the machine: a measurement waits until it is calm, and
is made again where other programs took more than `--calm` cores on average. others_cores says what they still took
(median and most), noisy how many measurements were kept although it was more, spread the lowest and the highest rate.
losses_equal: whether all runs have the same losses to the last digit. The last line of the output is one JSON object.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from loader import generate

from mbert.model.training.run_log import read_reports

# Whatever the shell has set is taken away first; "new" is then what mbert sets by itself. CUDA_VISIBLE_DEVICES: the
# benchmark is about the CPU, also on a machine with a GPU.
SETTINGS = {"old": {"GOMP_SPINCOUNT": "300000"}, "new": {}}
LOADS = {"alone": 0, "beside_one": 1}
WARM_UP = 3  # steps
FEWEST = 3  # steps that a measurement has at least
MOST_STEPS = 100_000  # a run is ended before
TRIES = 3
BATCH = 16
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE_SECONDS = 60


def environment(setting):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    return kept | {"CUDA_VISIBLE_DEVICES": ""} | SETTINGS[setting]


def machine_seconds():
    """Processor time of all programs so far: user, nice, system, interrupts; not idle, not waiting."""
    user, nice, system, _, _, irq, soft_irq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + soft_irq) / _TICKS


def process_seconds(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def wait_for_calm(calm):
    """Until others take less than `calm` cores over a second, at most a minute."""
    ends = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < ends:
        before = machine_seconds()
        time.sleep(1)
        if machine_seconds() - before < calm:
            return


@contextlib.contextmanager
def started(commands, **options):
    """Processes that end with the block."""
    processes = [subprocess.Popen(command, **options) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(shards, folder, setting, load, seconds):
    """Pairs per second of one run, how many cores other programs took meanwhile, and the losses of its steps."""
    command = [sys.executable, "-m", "mbert", "train", "pretrain", "--shards", str(shards), "--out", str(folder)]
    command += ["--preset", "tiny", "--steps", str(MOST_STEPS), "--batch-size", str(BATCH)]
    command += ["--set", "picture_every=0", "--set", f"save_every={MOST_STEPS}"]
    log = folder.with_suffix(".log")
    with log.open("w") as told, started([command], env=environment(setting), stdout=told, stderr=told) as (run,):
        wait_for_steps(folder, WARM_UP, run, log)
        loops = [[sys.executable, "-c", "while True: pass"]] * LOADS[load]
        with started(loops, start_new_session=True) as busy:
            first = len(read_reports(folder)) + 1  # the step in which the busy process begins does not count
            wait_for_steps(folder, first, run, log)
            began, ours, all_of_it = time.monotonic(), process_times(run, busy), machine_seconds()
            time.sleep(seconds)
            wait_for_steps(folder, first + FEWEST, run, log)
            others = machine_seconds() - all_of_it - (process_times(run, busy) - ours)
            others /= time.monotonic() - began
            reports = read_reports(folder)
    counted = reports[first:]
    rate = len(counted) * BATCH / sum(BATCH / report.pairs_per_second for report in counted)
    return rate, max(0.0, others), [report.loss for report in reports]


def process_times(run, busy):
    return sum(map(process_seconds, (run, *busy)))


def wait_for_steps(folder, number, run, log):
    while len(read_reports(folder)) < number:
        if run.poll() is not None:
            raise SystemExit(f"a run ended early:\n{log.read_text()}")
        time.sleep(0.05)


def measure_calmly(shards, folder, setting, load, arguments):
    """The first measurement of a few that others did not disturb, else the least disturbed one."""
    found = []
    for attempt in range(TRIES):
        wait_for_calm(arguments.calm)
        found.append(measure(shards, folder / str(attempt), setting, load, arguments.seconds))
        if found[-1][1] <= arguments.calm:
            break
    return min(found, key=lambda measured: measured[1])


def median_ratio(over, under):
    return round(float(np.median(np.array(over) / np.array(under))), 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10, help="of one measurement, at least")
    parser.add_argument("--calm", type=float, default=0.1, help="cores that others may take")
    parser.add_argument("--quick", action="store_true", help="one short round: does everything run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.calm = 1, 2, float("inf")
    rates = {case: [] for case in itertools.product(SETTINGS, LOADS)}
    others, losses = [], []
    with tempfile.TemporaryDirectory() as name:
        (shards := Path(name, "pairs")).mkdir()
        generate(shards, num_shards=2, pairs_per_shard=512)
        for number in range(arguments.rounds):
            for load, setting in itertools.product(LOADS, SETTINGS):
                folder = Path(name, f"{number}-{setting}-{load}")
                folder.mkdir()
                rate, other, own = measure_calmly(shards, folder, setting, load, arguments)
                rates[setting, load].append(rate)
                others.append(other)
                losses.append(own)
            told = ", ".join(f"{setting} {load} {found[-1]:.1f}" for (setting, load), found in rates.items())
            print(f"round {number + 1}: {told} pairs/s; others took {max(others[-4:]):.2f} cores", flush=True)
    shared = min(map(len, losses))
    result = {
        "alone_ratio": median_ratio(rates["new", "alone"], rates["old", "alone"]),
        "beside_one": median_ratio(rates["new", "beside_one"], rates["new", "alone"]),
        "beside_one_old": median_ratio(rates["old", "beside_one"], rates["old", "alone"]),
        "pairs_per_s": {f"{setting} {load}": round(float(np.median(r)), 1) for (setting, load), r in rates.items()},
        "spread": {f"{s} {load}": [round(min(r), 1), round(max(r), 1)] for (s, load), r in rates.items()},
        "others_cores": [round(float(np.median(others)), 2), round(max(others), 2)],
        "noisy": sum(other > arguments.calm for other in others),
        "losses_equal": all(own[:shared] == losses[0][:shared] for own in losses),
        "cores": len(os.sched_getaffinity(0)),
        "rounds": arguments.rounds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
