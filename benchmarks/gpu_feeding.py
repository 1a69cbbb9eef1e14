"""Stage `feeding` of gpu.py: does the card wait for pairs?"""

import functools
import statistics
import tempfile
from pathlib import Path

import torch
from gpu_stage import REHEARSED, seconds_on_card
from loader import loading

from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.shards.source import open_source

WORKERS, REHEARSED_WORKERS = (0, 4, 8, 12), (0, 2)
LOADED = 4000  # pairs of each loader
BATCH = 64  # pairs of a step, as `mbert train pretrain` has it
TRAINED = 5000  # pairs of the training, which is not compiled: that would take longer than the rest of the stage
WARM_UP = 10  # steps that are not counted: workers start, memory is found
WAIT_GOAL = 0.05


def feeding(stage):
    """The loader alone, then training with it, as `mbert train pretrain` does it."""
    batch = 4 if stage.rehearse else BATCH
    source = open_source(stage.bundle.pairs)
    rates = {}
    for workers in REHEARSED_WORKERS if stage.rehearse else WORKERS:
        work = functools.partial(load, source, workers, batch, stage.rehearse)
        rates[workers] = stage.row(f"loader {workers} workers", work, needs=3).get("pairs_per_s", 0)
    if torch.cuda.is_available():
        stage.row("copy to the card", functools.partial(copy, batch))
    workers = max(rates, key=rates.__getitem__)
    stage.row("training", functools.partial(train, stage, batch, workers), needs=12)


def load(source, workers, batch, rehearse):
    rate, _ = loading(source, workers, batch, 3 if rehearse else LOADED // batch)
    return {"pairs_per_s": round(rate)}


def copy(batch):
    """Of a batch from pinned memory, as the loop does it."""
    frames = torch.empty(2, batch, 224, 224, 3, dtype=torch.uint8, pin_memory=True)
    seconds = seconds_on_card(lambda: frames.to("cuda", non_blocking=True), 10)
    return {"batch": batch, "ms": round(1000 * seconds, 3), "gb_per_s": round(frames.numel() / seconds / 1e9, 1)}


def train(stage, batch, workers):
    """The share of the time that steps wait for pairs, and the rate beside that of pairs that lie on the card."""
    steps = WARM_UP + (6 if stage.rehearse else TRAINED // batch)
    config = PretrainConfig(
        preset="tiny" if stage.rehearse else "small",
        variant="paper",
        steps=steps,
        batch_size=batch,
        workers=workers,
        picture_every=0,
        save_every=steps,
        model=REHEARSED if stage.rehearse else {},
    )
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        run_pretrain(stage.bundle.pairs, Path(folder) / "run", config, on_step=reports.append)
    counted = reports[WARM_UP:]
    rate = len(counted) / sum(1 / report.pairs_per_second for report in counted)
    found = {"batch": batch, "workers": workers, "steps": steps, "pairs_per_s": round(rate, 1), "goal": WAIT_GOAL}
    found["wait_share"] = round(statistics.mean(report.data_wait_share for report in counted), 4)
    resident = next((row for row in stage.rows_of("speed") if row["name"] == f"paper {batch}"), {})
    if "pairs_per_s" in resident:
        found["fed_over_resident"] = round(rate / resident["pairs_per_s"], 3)
    return found
