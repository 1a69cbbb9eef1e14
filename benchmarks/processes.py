"""How much faster do two processes train than one? One thread each, the same pairs per process.

    python benchmarks/processes.py WORKSPACE [--steps 40] [--rounds 2]

The workspace has to hold pair shards; that of `mbert demo` will do. Both run through torchrun, in turn; steps after the
tenth count. The last line of the output is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mbert.manifests.workspace import Workspace
from mbert.model.training.run_log import read_reports

WARM_UP = 10


def pairs_per_second(shards, world, steps, batch_size):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
        options = ["--shards", str(shards), "--out", folder, "--preset", "tiny", "--steps", str(steps)]
        options += ["--batch-size", str(batch_size), "--set", "picture_every=0"]
        subprocess.run(
            [*command, "-m", "mbert", "train", "pretrain", *options],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
        )
        reports = read_reports(Path(folder))[WARM_UP:]
    seconds = sum(world * batch_size / report.pairs_per_second for report in reports)
    waited = np.mean([report.data_wait_share for report in reports])
    return len(reports) * world * batch_size / seconds, float(waited)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    shards = Workspace(arguments.workspace).pairs
    rates, waits = {1: [], 2: []}, {1: [], 2: []}
    for number in range(arguments.rounds):
        for world in rates:
            rate, waited = pairs_per_second(shards, world, arguments.steps, arguments.batch_size)
            rates[world].append(rate)
            waits[world].append(waited)
        print(f"round {number}: " + ", ".join(f"{world}: {found[-1]:.1f} pairs/s" for world, found in rates.items()))
    ratios = np.array(rates[2]) / np.array(rates[1])
    result = {
        "two_over_one": round(float(np.median(ratios)), 2),
        "pairs_per_s": {str(world): round(float(np.median(found)), 1) for world, found in rates.items()},
        "data_wait_share": {str(world): round(float(np.median(found)), 3) for world, found in waits.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
