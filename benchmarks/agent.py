"""What should teach the contextual token? Reconstruction, spread of the token and score by agent, same steps and seeds.

    python benchmarks/agent.py WORKSPACE [--steps 300] [--seeds 2]

The workspace has to hold pair shards with labelled expressions; that of `mbert demo` will do. The last line of the
output is one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from mbert.manifests.workspace import Workspace
from mbert.model.scoring.config import EvalConfig
from mbert.model.scoring.evaluate import run_eval
from mbert.model.training.objective import ObjectiveConfig
from mbert.model.training.pretrain import PretrainConfig, run_pretrain

SETTINGS = {
    "none": ("none", ObjectiveConfig()),
    "crop at full size": ("mse", ObjectiveConfig(crop_size_ratio=1.0)),
    "crop at half size": ("mse", ObjectiveConfig()),
    "half size, moving average": ("mse_ema", ObjectiveConfig()),
    "half size, weight 1": ("mse", ObjectiveConfig(agent_weight=1.0)),
    "half size, moving average, weight 1": ("mse_ema", ObjectiveConfig(agent_weight=1.0)),
}


def measure(shards, agent, objective, steps, seed):
    """Mean of the last 20 steps' reconstruction loss and token spread, and UF1."""
    config = PretrainConfig(
        variant="paper",
        preset="tiny",
        steps=steps,
        batch_size=16,
        seed=seed,
        objective=objective,
        model={"agent": agent},
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run_pretrain(shards, run, config)
        last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()[-20:]]
        scores = run_eval(shards, run, Path(folder) / "loso", EvalConfig(baselines=()))
    return {
        "reconstruction": float(np.mean([line["loss_reconstruction"] for line in last])),
        "token_std": float(np.mean([line["token_std"] for line in last])),
        "uf1": scores.methods["mbert"].scores.uf1,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    found = {name: [] for name in SETTINGS}
    for seed in range(arguments.seeds):
        for name, (agent, objective) in SETTINGS.items():
            found[name].append(measure(Workspace(arguments.workspace).pairs, agent, objective, arguments.steps, seed))
            print(f"seed {seed}, {name}: {found[name][-1]}", flush=True)
    means = {
        name: {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
        for name, runs in found.items()
    }
    print(json.dumps({"steps": arguments.steps, "seeds": arguments.seeds, "agents": means}))


if __name__ == "__main__":
    main()
