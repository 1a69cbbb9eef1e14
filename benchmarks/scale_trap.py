"""Does the size of the diagonal matter? Reconstruction loss with diag(A) as published and times N, same steps, seeds.

    python benchmarks/scale_trap.py WORKSPACE

The workspace has to hold pair shards; that of `mbert demo` will do.

The last line of the output is one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from mbert.manifests.workspace import Workspace
from mbert.model.network.micro_attention import MicroAttention
from mbert.model.training.pretrain import PretrainConfig, run_pretrain

SCALED = MicroAttention.diagonal


def unscaled(self, p_ts, p_t1):
    return SCALED(self, p_ts, p_t1) / p_ts.shape[1]


def final_loss(shards, diagonal, steps, seed):
    """Mean reconstruction loss of the last 20 steps."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(MicroAttention, "diagonal", diagonal):
        run = Path(folder) / "run"
        run_pretrain(shards, run, PretrainConfig(preset="tiny", variant="paper", steps=steps, batch_size=16, seed=seed))
        lines = (run / "metrics.jsonl").read_text().splitlines()[-20:]
        return float(np.mean([json.loads(line)["loss_reconstruction"] for line in lines]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    shards = Workspace(arguments.workspace).pairs
    losses = {"times_n": [], "as_published": []}
    for seed in range(arguments.seeds):
        for name, diagonal in (("times_n", SCALED), ("as_published", unscaled)):
            losses[name].append(final_loss(shards, diagonal, arguments.steps, seed))
            print(f"seed {seed}, {name}: {losses[name][-1]:.4f}", flush=True)
    print(json.dumps({"steps": arguments.steps, **{name: round(float(np.mean(v)), 4) for name, v in losses.items()}}))


if __name__ == "__main__":
    main()
