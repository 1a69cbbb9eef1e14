"""Where did it move? Maps of change against the true motion of synthetic pairs, by amplitude and by nuisance.

    python benchmarks/localisation.py --photos FOLDER [--quick | --goals] [--steps 400] [--seeds 3] [--checkpoint MODEL]
                                      [--folder DIR] [--figures DIR [--faces]] [--workers 2]

A `tiny` μ-BERT of the default variant and one of the paper's are pretrained for each seed on the pretraining people of
`hard`; with --checkpoint a model that is there already is scored instead. Maps are scored on the onset-apex pairs of
the test people, 14 x 14 patches of each:

- within pairs: AUROC of the patches that moved against those of the same pair that are still. A map that is always the
  same and shows where faces usually move (`constant`) does well here;
- at the same place: a patch that moved against the same patch of other pairs, where it is still. Here `constant` has
  exactly 0.5;
- pointing: how often the largest patch is one that moved.

The same clips come at each amplitude and under each nuisance: only the amplitude or the nuisance differs. Clips have 30
frames per second here, to save time. Neutral clips are pairs in which all is still; their frames are further apart,
half a clip. Patches that something else moves are left out, in `hard` many around the mouth; a table shows the scores
with these as still patches, and without neutral pairs, too.

How a map is read off what a method says of each patch is chosen for every method, the model's too, among the same
readings (`readings.py`), on the people of the part `train`. Intervals of 95 % draw people, of means over the seeds; of
differences they draw the same people for both sides. With 8 people they are rather too narrow. Without --photos the
bundled photo is varied: the people of the test are then those of pretraining.

--folder keeps the corpora for the next run; models are trained again. --goals: the amplitudes of the goals alone, and
no single nuisances. --figures draws `localisation.png` and `maps.png`; with --faces the latter shows the photos as
well. --quick: does it run? The last line of the output is one JSON object.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
from corpora import NUISANCES, TrueCorpora
from figures import draw_curves, draw_maps
from maps import GRID, classical_fields, model_fields
from readings import best_reading

import mbert
from mbert.model.network.micron_bert import MicronBert
from mbert.model.scoring.baselines import random_model
from mbert.model.scoring.localisation import (
    Difference,
    Share,
    auroc_same_place,
    auroc_within,
    patch_truth,
    pointing_game,
)
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.synthetic.facial_motion import EMOTION_SETS

LEVELS = ("standard", "hard")  # presets of mbert synthesize
PRETRAINED_ON = "hard"  # the motion head learns from what is drawn onto crops, whatever the preset
AMPLITUDES = (0.3, 0.5, 1.0, 2.0)  # px of the crop
GOAL_AMPLITUDES = (0.5, 1.0)
GOAL = 0.5  # at most this share of the best baseline's error
EMOTIONS = EMOTION_SETS["five"]
METRICS = {"within": auroc_within, "same_place": auroc_same_place, "pointing": pointing_game}
TITLES = {"within": "AUROC within pairs", "same_place": "AUROC at the same place", "pointing": "Pointing game"}
GOAL_BASELINES = ("frame_difference", "optical_flow", "dis", "dis_fine", "farneback", "evidence", "random_weights")
WAYS = {  # to ask of the same maps: with the neutral pairs, and with patches that something else moves as still ones
    "as in the tables": (True, False),
    "no neutral pairs": (False, False),
    "distracted patches are still": (True, True),
    "both": (False, True),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """A score: mean over the seeds, what people make of it, and each seed's."""

    share: Share
    people: list[str]
    by_seed: list[float]

    @property
    def value(self):
        return self.share.value

    @property
    def interval(self):
        return self.share.interval(self.people)

    def beside(self, other) -> Difference:
        return self.share.difference(other.share, self.people)


def pretrained(workspace, variant, steps, seed):
    """A model that has learned from the pairs of a workspace."""
    config = PretrainConfig(preset="tiny", variant=variant, steps=steps, seed=seed, picture_every=0)
    with tempfile.TemporaryDirectory() as folder:
        done = run_pretrain(workspace.pairs, Path(folder) / "run", config)
        print(f"{variant}, seed {seed}: loss {done.last.loss:.3f} after {done.seconds:.0f} s", flush=True)
        return MicronBert.from_pretrained(Path(folder) / "run").eval()


def models_of(corpora, steps, seeds):
    """Of each seed {name in MODEL_METHODS: model}."""
    _, workspace = corpora.pretraining(PRETRAINED_ON)
    variant = PretrainConfig().variant
    for seed in range(seeds):
        models = {"default": variant, "paper": "paper"}
        found = {name: pretrained(workspace, each, steps, seed) for name, each in models.items()}
        yield found | {"random": random_model(found["default"].config, seed)}


def fields_of(pairs, models):
    """{method: [{variant: fields} of each seed]}; `models` are those of each seed."""
    by_seed = [model_fields(each, pairs) for each in models]
    learned = {name: [found[name] for found in by_seed] for name in by_seed[0]}
    return learned | {name: [found] for name, found in classical_fields(pairs).items()}


def truths_of(pairs, *, distracted_is_still=False):
    """Which patches moved and which are still, (P, GRID, GRID) each."""
    truths = [
        patch_truth(pair.expression, pair.distractor, GRID, distracted_is_still=distracted_is_still) for pair in pairs
    ]
    return [np.stack([getattr(truth, name) for truth in truths]) for name in ("moved", "still")]


def learn_from_training_people(sets, models):
    """What does best on some sets of pairs of people whom no model and no score has seen, {method: Reading}; and in
    what share of them each patch moves, (GRID, GRID).
    """
    fields, truths = [fields_of(pairs, models) for pairs in sets], [truths_of(pairs) for pairs in sets]
    prior = np.concatenate([moved for moved, _ in truths]).mean(axis=0)
    return prior, {
        name: best_reading([[found[name][seed] for found in fields] for seed in range(len(fields[0][name]))], truths)
        for name in fields[0]
    }


def maps_of_methods(pairs, models, readings, prior):
    """{method: [maps (P, GRID, GRID) of each seed]}"""
    fields = fields_of(pairs, models)
    maps = {name: [reading.of(each) for each in fields[name]] for name, reading in readings.items()}
    return maps | {"constant": [np.broadcast_to(prior, (len(pairs), GRID, GRID))]}


def measure(pairs, maps, way="as in the tables"):
    """{method: {metric: Result}} on some pairs."""
    with_neutral, distracted_is_still = WAYS[way]
    moved, still = truths_of(pairs, distracted_is_still=distracted_is_still)
    asked = np.flatnonzero(moved.any(axis=(1, 2)) | with_neutral)
    people = [pairs[place].row.subject for place in asked]
    return {
        name: {
            metric: result([score(each[asked], moved[asked], still[asked]) for each in found], people)
            for metric, score in METRICS.items()
        }
        for name, found in maps.items()
    }


def counts_of(pairs):
    """How many patches are asked."""
    moved, still = truths_of(pairs)
    return {
        "pairs": len(pairs),
        "with_motion": int(moved.any(axis=(1, 2)).sum()),
        "people": len({pair.row.subject for pair in pairs}),
        "patches_moved": round(float(moved[moved.any(axis=(1, 2))].sum(axis=(1, 2)).mean()), 1),
        "patches_left_out": round(float((~moved & ~still).sum(axis=(1, 2)).mean()), 1),
    }


def result(shares, people):
    """One score of the scores of some seeds, which were asked the same."""
    mean = Share(np.mean([share.won for share in shares], axis=0), shares[0].asked)
    return Result(mean, people, [share.value for share in shares])


def goals(found):
    """For each level, amplitude and kind of AUROC: how the error compares with those of the baselines."""
    for level, amplitude, metric in itertools.product(found, GOAL_AMPLITUDES, ("within", "same_place")):
        results = {name: each[metric] for name, each in found[level][amplitude].items()}
        best = max(GOAL_BASELINES, key=lambda name: results[name].value)
        against = {name: results["mbert"].beside(results[name]) for name in GOAL_BASELINES}
        yield {
            "level": level,
            "amplitude_px": amplitude,
            "auroc": metric,
            "error": rounded(1 - results["mbert"].value),
            "best_baseline": best,
            "baseline_error": rounded(1 - results[best].value),
            "ratio": rounded(against[best].error_ratio),
            "ratio_interval": rounded(against[best].error_ratio_interval),
            "met": against[best].error_ratio <= GOAL,
            "against": {
                name: {field: rounded(value) for field, value in dataclasses.asdict(each).items()}
                for name, each in against.items()
            },
        }


def rounded(value):
    """To four places, or each of an interval; None stays."""
    if isinstance(value, tuple):
        return [rounded(end) for end in value]
    return None if value is None else round(float(value), 4)


def told_goal(goal):
    low, high = goal["ratio_interval"]
    return (
        f"on {goal['level']}, {goal['amplitude_px']:g} px, {TITLES[goal['auroc']]}: 1 - AUROC {goal['error']:.3f}, "
        f"best baseline {goal['baseline_error']:.3f} ({goal['best_baseline']}), "
        f"ratio {goal['ratio']:.2f} ({low:.2f}-{high:.2f}; goal {GOAL:g}: {'met' if goal['met'] else 'not met'}); "
        + ", ".join(f"{name} {each['error_ratio']:.2f}" for name, each in goal["against"].items())
    )


def print_tables(found, asked):
    print()
    for level, by_amplitude in asked.items():
        for amplitude, counts in by_amplitude.items():
            counted = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
            print(f"{level}, {amplitude} px: {counted}")
    for level, metric in itertools.product(found, METRICS):
        amplitudes = list(found[level])
        print(f"\n{TITLES[metric]}, {level}, by amplitude (95 % by people):")
        print(f"{'':18}" + "".join(f"{f'{amplitude:g} px':>22}" for amplitude in amplitudes))
        for name in next(iter(found[level].values())):
            cells = (told(found[level][amplitude][name][metric], amplitude) for amplitude in amplitudes)
            print(f"{name:18}" + "".join(f"{cell:>22}" for cell in cells))


def told(each, amplitude):
    if each.interval is None or amplitude not in GOAL_AMPLITUDES:
        return f"{each.value:.3f}"
    return f"{each.value:.3f} ({each.interval[0]:.3f}-{each.interval[1]:.3f})"


def print_ways(by_way):
    """Error ratios of the goals, asked in several ways."""
    print(f"\nerror of mbert over that of the best baseline; {', '.join(WAYS)}:")
    for first, *others in zip(*(list(goals(found)) for found in by_way.values()), strict=True):
        cells = (f"{each['ratio']:.2f} ({each['best_baseline']})" for each in (first, *others))
        print(
            f"{first['level']:9}{first['amplitude_px']:4g} px {first['auroc']:11}" + "".join(f"{c:>26}" for c in cells)
        )


def print_nuisances(by_nuisance):
    for metric in METRICS:
        print(f"\n{TITLES[metric]}, standard at 1 px with one nuisance as in hard:")
        print(f"{'':18}" + "".join(f"{name:>10}" for name in by_nuisance))
        for name in next(iter(by_nuisance.values())):
            print(f"{name:18}" + "".join(f"{each[name][metric].value:10.3f}" for each in by_nuisance.values()))


def examples(pairs):
    """Four pairs, chosen by name alone: the first take of another emotion from each of the first people."""
    by_path = {pair.row.path: pair for pair in pairs}
    people = sorted({pair.row.subject for pair in pairs})
    paths = [f"{person}/{emotion}_1.mp4" for person, emotion in zip(people, EMOTIONS, strict=False)]
    return [by_path[path] for path in paths if path in by_path][:4]


def plain(found, metric):
    return {name: round(each[metric].value, 4) for name, each in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="portraits, one of each person; default: the bundled one, varied")
    parser.add_argument("--steps", type=int, default=400, help="of pretraining")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--checkpoint", help="score this model, or `built-in`, and pretrain none")
    parser.add_argument("--presets", nargs="+", default=LEVELS, choices=LEVELS)
    parser.add_argument("--folder", type=Path, help="keep the corpora here; default: a folder that is removed")
    parser.add_argument("--figures", type=Path, help="draw localisation.png and maps.png here")
    parser.add_argument("--faces", action="store_true", help="maps.png shows the photos: mind who agreed")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--goals", action="store_true", help="only what the goals are about")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    steps, seeds = (20, 1) if arguments.quick else (arguments.steps, arguments.seeds)
    with tempfile.TemporaryDirectory() if arguments.folder is None else contextlib.nullcontext(arguments.folder) as at:
        corpora = TrueCorpora(Path(at), arguments.photos, arguments.quick, arguments.workers)
        if arguments.checkpoint is None:
            models = list(models_of(corpora, steps, seeds))
        else:
            model = mbert.load_model(None if arguments.checkpoint == "built-in" else arguments.checkpoint, workspace=at)
            models, steps, seeds = [{"default": model, "random": random_model(model.config, seed=0)}], None, 1
        sets = [
            corpora.judged("train", level, amplitude) for level in arguments.presets for amplitude in GOAL_AMPLITUDES
        ]
        prior, readings = learn_from_training_people(sets, models)
        for name, reading in readings.items():
            print(f"{name}: {reading}")
        found, asked, shown, by_way = {}, {}, {}, {way: {level: {} for level in arguments.presets} for way in WAYS}
        for level in arguments.presets:
            found[level], asked[level] = {}, {}
            for amplitude in GOAL_AMPLITUDES if arguments.quick or arguments.goals else AMPLITUDES:
                pairs = corpora.judged("test", level, amplitude)
                maps = maps_of_methods(pairs, models, readings, prior)
                found[level][amplitude], asked[level][f"{amplitude:g}"] = measure(pairs, maps), counts_of(pairs)
                for way in WAYS if amplitude in GOAL_AMPLITUDES else ():
                    by_way[way][level][amplitude] = measure(pairs, maps, way)
                shown[level] = examples(pairs) if amplitude == 1 else shown.get(level, [])
        with_nuisances = "standard" in arguments.presets and not arguments.quick and not arguments.goals
        by_nuisance = {"none": found["standard"][1.0]} if with_nuisances else {}
        for name in NUISANCES if by_nuisance else ():
            pairs = corpora.judged("test", "standard", 1.0, name)
            by_nuisance[name] = measure(pairs, maps_of_methods(pairs, models, readings, prior))
    print_tables(found, asked)
    if by_nuisance:
        print_nuisances(by_nuisance)
    print_ways(by_way)
    print()
    reached = list(goals(found))
    for goal in reached:
        print(told_goal(goal))
    if arguments.photos is None:
        print("no --photos: all people are variations of one photo, that of pretraining too")
    if arguments.figures:
        draw_curves(found, TITLES, arguments.figures / "localisation.png")
        pairs, levels = (
            [pair for each in shown.values() for pair in each],
            [at for at, each in shown.items() for _ in each],
        )
        maps = {name: each[0] for name, each in maps_of_methods(pairs, models[:1], readings, prior).items()}
        draw_maps(pairs, levels, maps, arguments.figures / "maps.png", arguments.faces)
    about = {"steps": steps, "seeds": seeds, "pairs": asked, "unseen_people": arguments.photos is not None}
    about["readings"] = {name: dataclasses.asdict(reading) for name, reading in readings.items()}
    print(json.dumps(summary(found, by_nuisance, by_way, reached) | about))


def summary(found, by_nuisance, by_way, reached):
    at_goals = [found[level][amplitude] for level in found for amplitude in GOAL_AMPLITUDES]
    means = {
        metric: {
            name: round(float(np.mean([each[name][metric].value for each in at_goals])), 4) for name in at_goals[0]
        }
        for metric in METRICS
    }
    return {
        "auroc": means["within"],  # means of both levels at 0.5 and 1 px
        "auroc_same_place": means["same_place"],
        "pointing": means["pointing"],
        "by_amplitude": {
            metric: {
                level: {f"{amplitude:g}": plain(each, metric) for amplitude, each in found[level].items()}
                for level in found
            }
            for metric in METRICS
        },
        "by_seed": {
            metric: {
                level: {
                    f"{amplitude:g}": [round(value, 4) for value in each["mbert"][metric].by_seed]
                    for amplitude, each in found[level].items()
                }
                for level in found
            }
            for metric in METRICS
        },
        "by_nuisance": {
            name: {metric: plain(each, metric) for metric in METRICS} for name, each in by_nuisance.items()
        },
        "ratio_by_way": {way: [goal["ratio"] for goal in goals(each)] for way, each in by_way.items()},
        "goals": reached,
    }


if __name__ == "__main__":
    main()
