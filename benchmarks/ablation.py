"""Why does it work? One setting changed at a time, judged by the map of change and by recognition, on new people.

    python benchmarks/ablation.py [--photos FOLDER] [--folder DIR] [--rows NAME ...] [--steps 200] [--seeds 3] [--quick]

Every row is a `tiny` model, pretrained without labels for the same few steps on the part `pretrain` of the preset
`standard`. Its map is scored on people of the part `test` at 1 px, on a grid of 14 x 14 whatever its own is: AUROC
within pairs, and at the same place over pairs (see `mbert.model.scoring.localisation`). UF1 is of the linear head of
`mbert eval`, leave one person out, on the parts `train` and `test` at the preset's amplitudes. Budgets are small:
differences within the range of the seeds say nothing.

Every cell, a row with a seed, is appended to cells.jsonl in --folder when it is done, so an interrupted run goes on;
after a change of the code of the model, give another folder.
--quick: does it run? The last line of the output is one JSON object.
"""

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from corpora import ingest_videos, make_videos, told_people
from maps import GRID, change_map, maps_of

from mbert import __version__
from mbert.manifests.workspace import Workspace
from mbert.model.network.micron_bert import MicronBert
from mbert.model.scoring.config import OURS, EvalConfig
from mbert.model.scoring.evaluate import run_eval
from mbert.model.scoring.localisation import auroc_same_place, auroc_within, patch_truth
from mbert.model.scoring.methods import hash_of
from mbert.model.training.objective import ObjectiveConfig
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthetic.synthesize import PRESETS
from mbert.pipeline.synthetic.truth import true_pairs
from mbert.shards.engine import Engine

FPS = 30  # a third of the preset's: a third of the time; the shortest rise to an apex is 3 frames
AMPLITUDE_PX = 1.0  # of the clips whose maps are scored

# What is varied, by the option's own name. `pairs` and `ingest` are of PairOptions and IngestOptions, `objective` of
# ObjectiveConfig, the others of PretrainConfig. What a row does not name is as in `paper` or `default`.
PAPER = {"variant": "paper"}
ROWS = {
    # Micro-Attention as published: ordinary attention, its diagonal alone, and the diagonal weighted by PoI.
    "paper-neither": {**PAPER, "model": {"attention": "full", "poi": False}},
    "paper-dma-only": {**PAPER, "model": {"poi": False}},
    "paper": {**PAPER, "objective": {"swap_ratio": 0.5, "swap_block": 1}},
    # Swapping.
    "paper-swap-0.25": {**PAPER, "objective": {"swap_ratio": 0.25, "swap_block": 1}},
    "paper-swap-0.75": {**PAPER, "objective": {"swap_ratio": 0.75, "swap_block": 1}},
    "paper-block-2": {**PAPER, "objective": {"swap_ratio": 0.5, "swap_block": 2}},
    "paper-block-4": {**PAPER, "objective": {"swap_ratio": 0.5, "swap_block": 4}},
    # What `mbert train pretrain` does by default: pairs 167-367 ms apart, patches of 8 px, alignment auto,
    # crops as JPEG of quality 95, 10 pairs/s.
    "default": {},
    "default-100-200-ms": {"pairs": {"min_delta_ms": 100.0, "max_delta_ms": 200.0}},
    "default-400-600-ms": {"pairs": {"min_delta_ms": 400.0, "max_delta_ms": 600.0}},
    "default-patch-16": {"model": {"patch_size": 16}},
    "default-align-frame": {"ingest": {"align": "frame"}},
    "default-align-clip": {"ingest": {"align": "clip"}},
    "default-jpeg-75": {"ingest": {"jpeg_quality": 75}},
    "default-jpeg-100": {"ingest": {"jpeg_quality": 100}},
    # Fewer pairs of the same people, seen more often in as many steps: `default` has 16 times the pairs of the last.
    "default-pairs-quarter": {"pairs": {"pairs_per_second": 2.5}},
    "default-pairs-sixteenth": {"pairs": {"pairs_per_second": 0.625}},
}
QUICK_ROWS = ("paper", "default")
SCORES = ("auroc", "auroc_same_place", "uf1")


@dataclasses.dataclass(frozen=True)
class TruePlaces:
    """Pairs whose motion is known, and which patches moved or are still, (P, GRID, GRID)."""

    pairs: list
    moved: np.ndarray
    still: np.ndarray


def options_of(row, steps, seed):
    """Of pretraining, of the pairs it learns from, of alignment."""
    settings = dict(ROWS[row])
    pairs, ingest = PairOptions(**settings.pop("pairs", {})), IngestOptions(**settings.pop("ingest", {}))
    objective = ObjectiveConfig(**settings.pop("objective", {}))
    pretrain = PretrainConfig(preset="tiny", steps=steps, seed=seed, objective=objective, picture_every=0, **settings)
    return pretrain, pairs, ingest


def identity_of(row, steps, seed):
    """A hash of all options of a cell, those of the model as they come out, and the version of the package."""
    pretrain, pairs, ingest = options_of(row, steps, seed)
    resolved = [dataclasses.asdict(each) for each in (pretrain, pretrain.model_config("tiny"), pairs, ingest)]
    return hash_of([resolved, __version__])


class Corpora:
    """The same videos for all rows, ingested once for each way to do it."""

    def __init__(self, folder, photos, workers, quick):
        self._folder, self._workers, self._photos = folder, workers, photos
        self._places = {}
        base = dataclasses.replace(PRESETS["standard"], fps=FPS, subjects_per_photo=1)
        few = {"clips_per_emotion": 1, "neutral_clips": 0} if quick else {}
        at_1_px = {"min_amplitude_px": AMPLITUDE_PX, "max_amplitude_px": AMPLITUDE_PX}
        judged = {"clips_per_emotion": 4, "neutral_clips": 0, **few}
        self._pretraining = self._videos(
            "pretrain", base, part="pretrain", **{"subjects_per_photo": 2, "clips_per_emotion": 2, **few}
        )
        self._places_videos = self._videos(
            "places", base, part="test", emotions="five", **{"clips_per_emotion": 3, **few}, **at_1_px
        )
        parts = ("train", "test") if photos else ("people",)
        self._people = [self._videos(part, base, **judged, **({"part": part} if photos else {})) for part in parts]

    def _videos(self, name, base, **options):
        folder = self._folder / "videos" / name
        return make_videos(folder, dataclasses.replace(base, **options), self._photos, self._workers)

    def _workspace(self, name, options):
        return Workspace(self._folder / "workspaces" / f"{name}-{options.align}-{options.jpeg_quality}")

    def pretraining(self, options, pairs):
        """Pair shards to learn from. Those of other pairs are replaced: it takes a second."""
        workspace = self._workspace("pretraining", options)
        ingest_videos(self._pretraining, workspace, options, self._workers, with_labels=False)
        run_shard(workspace, pairs, engine=Engine(workers=self._workers), overwrite=True)
        return workspace.pairs

    def people(self, options):
        """A workspace to judge recognition on."""
        workspace = self._workspace("people", options)
        for videos in self._people:
            ingest_videos(videos, workspace, options, self._workers)
        run_shard(workspace, PairOptions(), engine=Engine(workers=self._workers))
        return workspace

    def places(self, options):
        """Pairs to judge maps on."""
        if options not in self._places:
            workspace = self._workspace("places", options)
            ingest_videos(self._places_videos, workspace, options, self._workers)
            pairs = list(true_pairs(self._places_videos, workspace))
            truths = [patch_truth(pair.expression, pair.distractor, GRID) for pair in pairs]
            moved, still = (np.stack([getattr(truth, name) for truth in truths]) for name in ("moved", "still"))
            self._places[options] = TruePlaces(pairs, moved, still)
        return self._places[options]


def measure_cell(row, seed, steps, corpora):
    """The three scores of a row with one seed."""
    pretrain, pairs, ingest = options_of(row, steps, seed)
    shards, people, places = corpora.pretraining(ingest, pairs), corpora.people(ingest), corpora.places(ingest)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run_pretrain(shards, run, pretrain)
        model = MicronBert.from_pretrained(run).eval()
        result = run_eval(people.expressions, people.labels, run, Path(folder) / "eval", EvalConfig(baselines=()))
    assert not result.encoder_saw_test_subjects, "the encoder was pretrained on people of the folds"
    maps = maps_of(model, change_map, places.pairs)
    return {
        "auroc": auroc_within(maps, places.moved, places.still).value,
        "auroc_same_place": auroc_same_place(maps, places.moved, places.still).value,
        "uf1": result.methods[OURS].scores.uf1,
    }


def measure(rows, seeds, steps, corpora, path):
    """{row: [scores of each seed]}; cells that are in the file are read, others are appended to it."""
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    known = {cell["about"]: cell for cell in kept}
    found = {}
    for row in rows:
        for seed in range(seeds):
            about = identity_of(row, steps, seed)
            if about not in known:
                began = time.monotonic()
                scores = measure_cell(row, seed, steps, corpora)
                seconds = round(time.monotonic() - began, 1)
                known[about] = {"row": row, "seed": seed, "steps": steps, "about": about, **scores, "seconds": seconds}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[about]) + "\n")
            cell = known[about]
            found.setdefault(row, []).append(cell)
            told = ", ".join(f"{name} {cell[name]:.3f}" for name in SCORES)
            print(f"{row}, seed {seed}: {told} ({cell['seconds']:.0f} s)", flush=True)
    return found


def print_table(found, steps):
    print(f"\n{steps} steps; mean (lowest to highest) of the seeds")
    print(f"{'':26}{'AUROC within pairs':24}{'AUROC at the same place':26}{'UF1':24}settings")
    for row, cells in found.items():
        columns = []
        for name in SCORES:
            values = [cell[name] for cell in cells]
            columns.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        print(f"{row:26}{columns[0]:24}{columns[1]:26}{columns[2]:24}{ROWS[row] or 'as by default'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="portraits, one of each person; default: the bundled one, varied")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), metavar="NAME", help="of the table; default: all")
    parser.add_argument("--steps", type=int, default=200, help="of pretraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes that make and ingest videos")
    parser.add_argument("--folder", type=Path, help="where corpora and finished cells are kept; default: nowhere")
    parser.add_argument(
        "--quick", action="store_true", help="5 steps and one seed, of two rows unless --rows names others"
    )
    arguments = parser.parse_args()
    steps, seeds = (5, 1) if arguments.quick else (arguments.steps, arguments.seeds)
    rows = arguments.rows or (QUICK_ROWS if arguments.quick else tuple(ROWS))
    print(f"{told_people(arguments.photos)}; {FPS} frames/s", flush=True)
    kept = contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory()
    with kept as folder:
        at = Path(folder) / ("quick" if arguments.quick else "full")
        corpora = Corpora(at, arguments.photos, arguments.workers, arguments.quick)
        found = measure(rows, seeds, steps, corpora, at / "cells.jsonl")
    print_table(found, steps)
    print(
        json.dumps(
            {
                "rows": {
                    row: {
                        **{name: round(float(np.mean([cell[name] for cell in cells])), 4) for name in SCORES},
                        "seeds": len(cells),
                    }
                    for row, cells in found.items()
                },
                "steps": steps,
                "fps": FPS,
                "amplitude_px": AMPLITUDE_PX,
            }
        )
    )


if __name__ == "__main__":
    main()
