"""What is shown? Leave-one-person-out scores of a pretrained μ-BERT beside all baselines, on synthetic people.

    python benchmarks/recognition.py [--photos FOLDER] [--presets hard] [--emotions five] [--steps 300] [--seeds 3]
                                     [--clips 6] [--select inner] [--quick]

For each preset of `mbert synthesize`, at its own amplitudes, a `tiny` model is pretrained without labels on the part
`pretrain` of the split and judged on the parts `train` and `test`: one subject per photo, each left out in turn. All
methods have the same folds, and with --select inner the same choices in each of them; differences draw the same people
for both sides. `supervised` is the same network learned from the labels of each fold, from random weights: by default
17 folds of 540 steps, about 40 minutes of one core for each preset and seed, so it has a number of seeds (--supervised
0: none) and of steps (--supervised-steps) of its own. With --folder an interrupted run goes on, and one with other
--steps or --seeds reuses what it can. --quick: does it run? The last line of the output is one JSON object.
"""

import argparse
import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
from corpora import ingest_videos, judged_people, make_videos, told_people

from mbert.manifests.workspace import Workspace
from mbert.model.scoring.baselines import random_model
from mbert.model.scoring.config import BASELINES, OURS, EvalConfig
from mbert.model.scoring.evaluate import run_eval
from mbert.model.training.finetune import FinetuneConfig
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthetic.synthesize import PRESETS
from mbert.shards.engine import Engine

DIFFICULTIES = ("hard", "standard")
FPS = 50  # half of the preset's: half of the time; the shortest rise to an apex is 5 frames
OUR_MODELS = (OURS, "paper")  # what is compared with the others, not one of them
MARGIN_POINTS = 10.0  # of UF1 in percent, that the goal asks for over the best baseline


def make_corpus(folder, options, photos, workers, clips, quick):
    """A workspace to pretrain on, and one to judge on; both with pair shards."""
    seen = dataclasses.replace(
        options,
        subjects_per_photo=1 if quick else 2,
        clips_per_emotion=1 if quick else 2,
        neutral_clips=0 if quick else 2,
    )
    judged = dataclasses.replace(
        options, subjects_per_photo=1, clips_per_emotion=1 if quick else clips, neutral_clips=0
    )
    pretraining = Workspace(folder / "pretraining")
    videos = make_videos(folder / "videos" / "pretrain", dataclasses.replace(seen, part="pretrain"), photos, workers)
    ingest_videos(videos, pretraining, IngestOptions(), workers, with_labels=False)
    people = judged_people(folder, judged, photos, workers)
    run_shard(pretraining, PairOptions(), engine=Engine(workers=workers))
    return pretraining, people


def measure_seed(folder, pretraining, people, steps, seed, select):
    """Results of every method but `supervised`, by name, and the evaluation's own."""
    found = {}
    for name, variant in ((OURS, {}), ("paper", {"variant": "paper"})):
        run = folder / "runs" / f"{name}-{steps}-steps-seed-{seed}"
        run_pretrain(pretraining.pairs, run, PretrainConfig(preset="tiny", steps=steps, seed=seed, **variant))
        baselines = BASELINES if name == OURS else ("random_weights",)
        config = EvalConfig(baselines=baselines, seed=seed, select=select)
        result = run_eval(people.expressions, people.labels, run, people.runs / "eval", config)
        assert not result.encoder_saw_test_subjects, "the encoder was pretrained on people of the folds"
        for method, each in result.methods.items():
            if name == OURS or method == OURS:
                found[name if method == OURS else method] = each
            else:
                found[f"{method}_of_paper"] = each
    return found, result


def measure_supervised(folder, people, seed, config):
    """Result of the default model, learned per fold from labels alone."""
    model = folder / "runs" / f"random-seed-{seed}"
    random_model(PretrainConfig(preset="tiny").model_config("tiny"), seed).save_pretrained(model)
    options = EvalConfig(mode="finetune", baselines=(), seed=seed, finetune=config)
    return run_eval(people.expressions, people.labels, model, people.runs / "supervised", options).methods[OURS]


def measure(folder, options, arguments, steps, seeds, supervised_seeds):
    """Results of each method, one per seed; how many samples and subjects were judged."""
    pretraining, people = make_corpus(
        folder, options, arguments.photos, arguments.workers, 1 if arguments.quick else arguments.clips, arguments.quick
    )
    found = {}

    def note(name, each):
        found.setdefault(name, []).append(each)
        less = "" if name == "paper" else told_difference(each.difference)
        print(f"  {name}: UF1 {each.scores.uf1:.3f}, UAR {each.scores.uar:.3f}{less}", flush=True)

    for seed in range(seeds):
        print(f" seed {seed}", flush=True)
        results, result = measure_seed(folder, pretraining, people, steps, seed, arguments.select)
        for name, each in results.items():
            note(name, each)
        if seed < supervised_seeds:
            config = FinetuneConfig(steps=2 if arguments.quick else arguments.supervised_steps)
            note("supervised", measure_supervised(folder, people, seed, config))
    return found, result.num_samples, result.num_subjects


def told_difference(difference):
    """What the model has more than a baseline."""
    if difference is None:
        return ""
    low, high = difference.uf1_interval
    return f"; the model's UF1 less this {difference.uf1:+.3f} ({low:+.3f} to {high:+.3f})"


def print_table(name, found, num_samples, num_subjects):
    print(
        f"\n{name}: {num_samples} expressions, {num_subjects} subjects; mean (lowest to highest) of the seeds, "
        "[95 % over subjects, first seed]"
    )
    scores_of = {method: [each.scores for each in results] for method, results in found.items()}
    for method, scores in sorted(scores_of.items(), key=lambda item: -np.mean([each.uf1 for each in item[1]])):
        uf1, uar = ([getattr(each, field) for each in scores] for field in ("uf1", "uar"))
        low, high = scores[0].uf1_interval
        print(
            f"{method:24} UF1 {np.mean(uf1):.3f} ({min(uf1):.3f} to {max(uf1):.3f}) [{low:.3f} to {high:.3f}]"
            f"   UAR {np.mean(uar):.3f} ({min(uar):.3f} to {max(uar):.3f})   {len(scores)} seeds"
        )


def goal(means):
    """The default model against the best of the others, by mean UF1."""
    baselines = {name: value for name, value in means.items() if name not in OUR_MODELS}
    best = max(baselines, key=baselines.get)
    margin = 100 * (means[OURS] - baselines[best])
    return {
        "mbert": means[OURS],
        "best_baseline": baselines[best],
        "name": best,
        "margin_points": round(margin, 2),
        "met": bool(margin >= MARGIN_POINTS),
    }


def mean_of(found, field):
    return {
        name: round(float(np.mean([getattr(each.scores, field) for each in results])), 4)
        for name, results in found.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="portraits, one of each person; default: the bundled one, varied")
    parser.add_argument("--presets", nargs="+", default=DIFFICULTIES, choices=DIFFICULTIES)
    parser.add_argument("--clips", type=int, default=6, help="of each emotion and person that is judged")
    parser.add_argument("--select", default="inner", choices=["fixed", "inner"], help="as of mbert eval")
    parser.add_argument("--emotions", default="three", choices=["three", "five"])
    parser.add_argument("--steps", type=int, default=300, help="of pretraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--supervised", type=int, default=1, help="seeds of the supervised model, at most --seeds")
    parser.add_argument("--supervised-steps", type=int, help="of each fold; default: as in mbert train finetune")
    parser.add_argument("--workers", type=int, default=2, help="processes that make and ingest videos")
    parser.add_argument("--folder", type=Path, help="where corpora, runs and scores are kept; default: nowhere")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    steps, seeds, supervised = (
        (5, 1, 1) if arguments.quick else (arguments.steps, arguments.seeds, arguments.supervised)
    )
    print(f"{told_people(arguments.photos)}; {FPS} frames/s", flush=True)
    found, num_samples, num_subjects = {}, {}, {}
    kept = contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory()
    with kept as folder:
        for name in arguments.presets:
            print(f"{name}:", flush=True)
            options = dataclasses.replace(PRESETS[name], fps=FPS, emotions=arguments.emotions)
            clips = "quick" if arguments.quick else f"{arguments.clips}-clips"
            at = Path(folder) / f"{name}-{arguments.emotions}-{clips}"
            measured = measure(at, options, arguments, steps, seeds, supervised)
            found[name], num_samples[name], num_subjects[name] = measured
    for name, scores in found.items():
        print_table(name, scores, num_samples[name], num_subjects[name])
    uf1s = {name: mean_of(scores, "uf1") for name, scores in found.items()}
    goals = {name: goal(each) for name, each in uf1s.items()}
    for name, reached in goals.items():
        print(
            f"\n{name}: mbert {reached['mbert']:.3f}, best baseline {reached['name']} {reached['best_baseline']:.3f}: "
            f"{reached['margin_points']:+.1f} points ({'met' if reached['met'] else 'not met'})"
        )
    print(
        json.dumps(
            {
                "uf1": uf1s,
                "uar": {name: mean_of(scores, "uar") for name, scores in found.items()},
                "uf1_interval": {
                    name: {method: each[0].scores.uf1_interval for method, each in results.items()}
                    for name, results in found.items()
                },
                "uf1_difference": {  # the model of this method's evaluation less this method, of each seed
                    name: {
                        method: [[each.difference.uf1, each.difference.uf1_interval] for each in results]
                        for method, results in of_preset.items()
                        if results[0].difference is not None
                    }
                    for name, of_preset in found.items()
                },
                "goal": goals,
                "select": arguments.select,
                "clips": arguments.clips,
                "emotions": arguments.emotions,
                "fps": FPS,
                "samples": num_samples,
                "subjects": num_subjects,
                "steps": steps,
                "seeds": seeds,
                "supervised_seeds": supervised,
                "supervised_steps": arguments.supervised_steps,
            }
        )
    )


if __name__ == "__main__":
    main()
