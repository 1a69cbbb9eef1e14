"""Stage `learn` of gpu.py: does a variant learn at all when it is given a real budget?"""

import functools
import itertools
import math
import shutil
import statistics

import numpy as np
import safetensors.torch
import torch
from gpu_stage import REHEARSED
from maps import GRID

from mbert.model.data.draws import Draws
from mbert.model.data.pixels import normalize, resize, stack_images
from mbert.model.device import pick_compute
from mbert.model.network.features import pair_inputs
from mbert.model.network.micron_bert import MicronBert, patch_of_interest, swap_patches
from mbert.model.scoring.baselines import random_model
from mbert.model.scoring.localisation import auroc_same_place, auroc_within, patch_means
from mbert.model.training.objective import ObjectiveConfig, pretraining_losses, random_swap_mask
from mbert.model.training.pretrain import PretrainConfig, run_pretrain

RATES = (1e-4, 2e-4, 4e-4)  # peak learning rates that are tried, each for a short run of its own
TRIED = 0.05  # share of the time of the stage for each
BATCH, REHEARSED_BATCH = 32, 4
CHUNK = 16  # test pairs at a time
PIECE_MB = 15
MARGIN = 0.93  # of the time for training that is planned with


class Trained:
    """Runs of the real command's function on the bundle's pairs, and what they are asked in between."""

    def __init__(self, stage):
        self.stage, self.folder = stage, stage.scratch / "learn"
        self.batch = REHEARSED_BATCH if stage.rehearse else BATCH
        with np.load(stage.bundle.test) as test:
            self.test = {name: test[name] for name in test.files}

    def run(self, name, lr, steps, seconds):
        """Begin or go on with a run; it stops at its last step or when its time is over. Returns what it ended with."""
        on_gpu = torch.cuda.is_available()
        config = PretrainConfig(
            preset="tiny" if self.stage.rehearse else "small",
            variant=self.stage.learn,
            lr=lr,
            steps=steps,
            batch_size=self.batch,
            workers=8 if on_gpu else 0,
            max_minutes=seconds / 60,
            picture_every=0,
            save_every=steps,
            model=REHEARSED if self.stage.rehearse else {},
        )
        rates = []
        done = run_pretrain(
            self.stage.bundle.pairs,
            self.folder / name,
            config,
            on_step=lambda report: rates.append(report.pairs_per_second),
        )
        parts = {name.removeprefix("loss_"): round(value, 5) for name, value in done.last.parts.items()}
        rate = round(statistics.median(rates) / self.batch, 2) if rates else None
        return {"step": done.steps_done, "of": steps, "steps_per_s": rate, **parts, "collapsed": done.collapsed}

    def model(self, name):
        return MicronBert.from_pretrained(self.folder / name).to(pick_compute().device).eval()


def learn(stage):
    """Short runs that choose the learning rate by the training loss, then one that gets the rest of the time."""
    trained, compute = Trained(stage), pick_compute()
    start = random_model(stage.config("small", stage.learn), 0).to(compute.device).eval()
    stage.row("start", functools.partial(asked, trained, start))
    tried, speeds, available = {}, [], stage.seconds_left
    for lr in RATES[:2] if stage.rehearse else RATES:
        row = stage.row(f"lr {lr:g}", functools.partial(attempt, trained, lr, TRIED * available))
        tried[lr] = row.get("reconstruction", math.inf)
        speeds.append(row.get("steps_per_s", 1))
    best, per_second = min(tried, key=tried.__getitem__), max(speeds)
    # In two parts, so that the second one resumes a run that stopped at its time limit.
    left = stage.seconds_left - (0 if stage.rehearse else 20)
    steps = 12 if stage.rehearse else max(20, int(MARGIN * left * per_second))
    stage.add("plan", variant=stage.learn, lr=best, steps=steps)
    for name in ("middle", "end"):
        if stage.rehearse:
            seconds = 1e-6 if name == "middle" else 600  # stop after a step, then resume
        else:
            seconds = left / 2 if name == "middle" else stage.seconds_left - 10
        stage.row(name, functools.partial(go_on, trained, best, steps, seconds))
    stage.row("weights", functools.partial(save_pieces, trained))


def attempt(trained, lr, seconds):
    """A short run with a schedule of its own."""
    name = f"{trained.stage.learn} {BATCH}"
    known = next((row for row in trained.stage.rows_of("speed") if row["name"] == name), {})
    per_second = known.get("pairs_per_s", 700) / BATCH
    steps = 4 if trained.stage.rehearse else max(20, int(MARGIN * seconds * per_second))
    found = trained.run(f"lr-{lr:g}", lr, steps, seconds)
    shutil.rmtree(trained.folder / f"lr-{lr:g}")
    return found


def go_on(trained, lr, steps, seconds):
    return {**trained.run("run", lr, steps, seconds), **asked(trained, trained.model("run"))}


@torch.inference_mode()
def asked(trained, model):
    """What a model makes of the test pairs, of people whom it has not seen: losses, the token, where its maps point."""
    test, config = trained.test, model.config
    device = next(model.parameters()).device
    mask_config = ObjectiveConfig()
    sums, maps, distances, contexts = {}, [], [], []
    for number in itertools.count():
        rows = slice(number * CHUNK, (number + 1) * CHUNK)
        if not len(test["t0"][rows]):
            break
        t0, t1 = (
            normalize(stack_images([resize(image, config.image_size) for image in test[name][rows]]), config.in_chans)
            for name in ("t0", "t1")
        )
        t0, t1 = t0.to(device), t1.to(device)
        draws = Draws(number, range(len(t0)))
        mask = random_swap_mask(config.grid, mask_config, draws, device=device)
        ts = swap_patches(t0, t1, mask, config.patch_size)
        restored = pretraining_losses(model, t0, t1, mask_config, Draws(number, range(len(t0)))).reconstruction
        context, patches = model.encode(t1)
        share = patch_of_interest(context, patches) / patches.shape[1]
        entropy = -(share * share.clamp(min=1e-12).log()).sum(dim=1) / math.log(patches.shape[1])
        values = {"reconstruction": restored, "copy": (ts - t0).square().mean(), "poi_entropy": entropy.mean()}
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(t0)
        contexts.append(context)
        maps.append(patch_means(model.change_map(t0, t1).cpu().numpy(), GRID))
        distances.append(pair_inputs(model, t0, t1, ("distance",)).view(-1, GRID, GRID).cpu().numpy())
    found = {f"test_{name}": round(total / len(test["t0"]), 6) for name, total in sums.items()}
    found["reconstruction_over_copy"] = round(found["test_reconstruction"] / found["test_copy"], 3)
    found["test_token_std"] = round(torch.cat(contexts).std(dim=0).mean().item(), 4)
    for name, made in (("map", maps), ("distance", distances)):
        scores = scored(np.concatenate(made), test["moved"], test["still"])
        found |= {f"{name}_{key}": value for key, value in scores.items()}
    return found


def scored(maps, moved, still):
    return {
        "within": round(auroc_within(maps, moved, still).value, 4),
        "same_place": round(auroc_same_place(maps, moved, still).value, 4),
    }


def save_pieces(trained):
    """The weights in 16 bits, in files of at most PIECE_MB."""
    stage, pieces, size = trained.stage, [{}], 0
    for name, tensor in trained.model("run").state_dict().items():
        tensor = tensor.detach().half().cpu().contiguous()
        if size + tensor.nbytes > PIECE_MB * 1e6:
            pieces, size = [*pieces, {}], 0
        pieces[-1][name] = tensor
        size += tensor.nbytes
    for number, piece in enumerate(pieces):
        safetensors.torch.save_file(piece, stage.out / f"{stage.learn}-{number}-of-{len(pieces)}.safetensors")
    return {"pieces": len(pieces)}
