"""Is pretraining worth labels? Scores by the number of labelled clips of each class, on people that nothing has seen.

    python benchmarks/label_efficiency.py --photos FOLDER [--checkpoint MODEL] [--clips 1 2 5 20] [--seeds 5]
                                          [--finetune 5] [--groups 4] [--folder DIR] [--quick]
    python benchmarks/label_efficiency.py --media FOLDER [--parts A]     (real faces: `real_expressions.py`)

With --photos: the people of the parts train and test of `hard`, three emotions, onset-apex pairs. With --media: rises
of blendshapes on real clips, of which only the first frames are seen. People are held out in groups (of real people,
each one alone). What is learned from are n clips of each class, drawn from the people of all other groups: for each
seed and group the same clips for every method, and those of a smaller n are among those of a larger one. A class with
fewer clips gives all it has.

Every method chooses among settings of its own: a linear head its C and how far neighbours are joined, networks their
steps. For a held-out group they are chosen by trainings with as many clips per class that leave out this group *and*
one more, on which they are judged: nothing of the group that is scored has a part in it.

Pairs of methods are compared on the same draws and the same people; intervals of 95 % draw people and seeds again, both
sides alike. `mbert` and what has `mbert` in its name is learned from pretrained weights (default: the built-in ones),
its twin `random` from an untrained model of the same form:

- `mbert`: linear head on the inputs of `mbert eval`; `mbert_motion`: on its motion head's displacement alone;
  `mbert_encoder`: on how the encoder's tokens change;
- `mbert_finetuned`: the encoder learns too, as in `mbert train finetune`; only for the numbers of clips that --finetune
  names, as it takes a hundred times as long;
- `flow_without_head`, `evidence`: linear heads on what nothing has learned; `flow_cnn`: the network on the same flow.

--folder keeps corpora for the next run. --quick: does it run? The last line of the output is one JSON object.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from corpora import judged_people
from real_expressions import rises_of

from mbert.model.data.labelled import LabelledPairs, labelled_expressions
from mbert.model.network.classifier import Classifier
from mbert.model.network.features import in_own_units, map_sides, num_features
from mbert.model.network.micron_bert import MicronBert
from mbert.model.scoring.baselines import (
    FLOW_STEPS_GRID,
    MOTION_UNITS,
    motion_features,
    motion_images,
    predict_flow_cnn,
    random_model,
)
from mbert.model.scoring.choice import selection_score
from mbert.model.scoring.config import EvalConfig
from mbert.model.scoring.confusion import NUM_RESAMPLES, class_positions, count_groups, group_by_name, interval, uf1
from mbert.model.scoring.fold_runs import predict_places
from mbert.model.scoring.methods import EVIDENCE, pair_features
from mbert.model.scoring.probe import Heads
from mbert.model.training.finetune import FinetuneConfig, finetune_pairs
from mbert.pipeline.synthetic.synthesize import PRESETS
from mbert.shards.pair import FramePair
from mbert.shards.source import open_source
from mbert.weights import BUILT_IN

FPS = 50  # as in recognition.py
CLIPS_OF_PERSON = 3  # of each emotion: 20 of a class are then some of 40
GROUPS = 4  # of synthetic people
PARTNERS = (1, 2)  # a group's settings are judged on the groups that lie so far before and behind it
FINETUNE_STEPS = (10, 40)
GOAL_CLIPS = 5
TWINS = {"mbert": "random", "mbert_motion": "random_motion", "mbert_encoder": "random_encoder"}
TWINS["mbert_finetuned"] = "random_finetuned"
UNLEARNED = ("flow_without_head", "flow_cnn", "evidence")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Labelled pairs, and whom they show."""

    pairs: list[FramePair]
    labels: list[str]
    people: list[str]

    @property
    def classes(self):
        return sorted(set(self.labels))


class Head:
    """A linear head. `by_seed` has the features that each seed's model gives; one: the same for all."""

    def __init__(self, by_seed, labels, own_units, sides):
        self._heads = [Heads(features, labels, own_units=own_units, map_sides=sides) for features in by_seed]

    def attempt(self, train, test, seed):
        return self._heads[seed % len(self._heads)].attempt(train, test)

    def predict(self, train, test, setting, seed):
        return self._heads[seed % len(self._heads)].predict(train, test, setting)


class FlowNetwork:
    """The flow CNN; a setting is its number of steps."""

    def __init__(self, pairs, labels, classes):
        self._images, self._classes = motion_images(pairs), classes
        self._places = [classes.index(label) for label in labels]

    def attempt(self, train, test, seed):
        return {steps: self.predict(train, test, steps, seed) for steps in FLOW_STEPS_GRID}

    def predict(self, train, test, setting, seed):
        number = len(self._classes)
        found = predict_flow_cnn(self._images, self._places, train, test, number, seed=seed, steps=setting)
        return [self._classes[place] for place in found]


class Finetuned:
    """The encoder of a checkpoint and a head on it; a setting is the number of steps. `checkpoints`: one a seed."""

    def __init__(self, corpus, checkpoints, steps):
        self._corpus, self._checkpoints, self._steps = corpus, checkpoints, steps

    def attempt(self, train, test, seed):
        return {steps: self.predict(train, test, steps, seed) for steps in self._steps}

    def predict(self, train, test, setting, seed):
        config = FinetuneConfig(steps=setting, seed=seed, picture_every=0, save_every=setting, precision="fp32")
        checkpoint = self._checkpoints[seed % len(self._checkpoints)]
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            finetune_pairs(self._side(train), checkpoint, run, config, corpus="")
            found = predict_places(Classifier.from_pretrained(run).eval(), self._side(test)).places
        return [self._corpus.classes[place] for place in found]

    def _side(self, places):
        corpus, classes = self._corpus, tuple(self._corpus.classes)
        return LabelledPairs(
            pairs=tuple(corpus.pairs[place] for place in places),
            labels=tuple(classes.index(corpus.labels[place]) for place in places),
            classes=classes,
            subjects=tuple(sorted({corpus.people[place] for place in places})),
        )


def methods_of(corpus, checkpoint, num_seeds, folder):
    """{name: method}, and {name: method} of those that are finetuned. Choices have a seed of their own, the last."""
    model = MicronBert.from_pretrained(checkpoint).eval()
    untrained = [random_model(model.config, seed) for seed in range(num_seeds + 1)]
    inputs = {"": EvalConfig().inputs_for(model.config), "_encoder": ("change",)}
    if model.config.attention == "motion":
        inputs["_motion"] = ("motion",)

    measured = pair_features(model, corpus.pairs, EVIDENCE)  # the same of all models
    learned = tuple(dict.fromkeys(name for names in inputs.values() for name in names if name not in EVIDENCE))
    ends = np.cumsum([num_features(model.config, (name,)) for name in learned])[:-1]

    def parts_of(each):
        found = np.split(pair_features(each, corpus.pairs, learned), ends, axis=1)
        return dict(zip(learned, found, strict=True)) | {EVIDENCE[0]: measured}

    def head(parts, names):
        sides = [int(side) for side in map_sides(model.config, names)]
        features = [np.concatenate([each[name] for name in names], axis=1) for each in parts]
        return Head(features, corpus.labels, in_own_units(model.config, names), sides)

    ours, theirs = [parts_of(model)], [parts_of(each) for each in untrained]
    found = {"evidence": head(ours, EVIDENCE)}
    for suffix, names in inputs.items():
        found[f"mbert{suffix}"] = head(ours, names)
        found[f"random{suffix}"] = head(theirs, names)
    flow = motion_features(corpus.pairs)
    side = int(np.sqrt(flow.shape[1] // 2))
    found["flow_without_head"] = Head([flow], corpus.labels, MOTION_UNITS, [side, side])
    found["flow_cnn"] = FlowNetwork(corpus.pairs, corpus.labels, corpus.classes)
    kept = [folder / f"random-{seed}" for seed in range(len(untrained))]
    for place, each in zip(kept, untrained, strict=True):
        each.save_pretrained(place)
    finetuned = {
        "mbert_finetuned": Finetuned(corpus, [checkpoint], FINETUNE_STEPS),
        "random_finetuned": Finetuned(corpus, kept, FINETUNE_STEPS),
    }
    return found, finetuned


def groups_of(people, number):
    """The group of each sample, (n,): people in order of their names, dealt out; 0: each one alone."""
    names, of_sample = group_by_name(people, len(people))
    return of_sample % (number or len(names))


def drawn(labels, allowed, clips, seed):
    """At most `clips` of each class among the `allowed` samples; fewer clips are the first of more."""
    order = [allowed[place] for place in np.random.default_rng(seed).permutation(len(allowed))]
    return sorted(
        place
        for label in sorted({labels[place] for place in allowed})
        for place in [each for each in order if labels[each] == label][:clips]
    )


def without(groups, *left_out):
    return np.flatnonzero(~np.isin(groups, left_out)).tolist()


def of_group(groups, group):
    return np.flatnonzero(groups == group).tolist()


def settings_of(method, corpus, groups, clips, seed):
    """{group: the method's best setting}, by trainings that saw neither the group nor those they are judged on."""
    number = int(groups.max()) + 1
    judged = {group: ([], {}) for group in range(number)}  # truth, guesses of each setting
    pairs = {frozenset((one, (one + far) % number)) for one in range(number) for far in PARTNERS}
    for one, other in sorted(sorted(pair) for pair in pairs if len(pair) == 2):
        train = drawn(corpus.labels, without(groups, one, other), clips, [seed, one, other])
        tests = {one: of_group(groups, one), other: of_group(groups, other)}
        guesses = method.attempt(train, tests[one] + tests[other], seed)
        for group, judge in ((one, other), (other, one)):
            truth, by_setting = judged[group]
            start = 0 if judge == one else len(tests[one])
            truth += [corpus.labels[place] for place in tests[judge]]
            for setting, named in guesses.items():
                by_setting.setdefault(setting, []).extend(named[start : start + len(tests[judge])])
    return {
        group: max(by_setting, key=lambda setting: selection_score(truth, by_setting[setting]))
        for group, (truth, by_setting) in judged.items()
    }


def measure(method, corpus, groups, clips, num_seeds):
    """(seeds, people, C, C): what is named what, and the settings that were chosen."""
    names, person = group_by_name(corpus.people, len(corpus.people))
    settings = settings_of(method, corpus, groups, clips, num_seeds)
    found = []
    for seed in range(num_seeds):
        predicted = [""] * len(corpus.labels)
        for group, setting in settings.items():
            test, allowed = of_group(groups, group), without(groups, group)
            train = drawn(corpus.labels, allowed, clips, [seed, group])
            shared = {corpus.people[place] for place in train} & {corpus.people[place] for place in test}
            assert not shared, f"on both sides: {shared}"
            for place, guess in zip(test, method.predict(train, test, setting, seed), strict=True):
                predicted[place] = guess
        rows, columns = class_positions(corpus.labels, predicted, corpus.classes)
        number = len(corpus.classes)
        found.append(count_groups(person, rows, columns, num_groups=len(names), num_classes=number))
    return np.stack(found), settings


def score(found):
    """Mean UF1 over the seeds, people pooled."""
    return float(np.mean(uf1(found.sum(axis=1))))


def resampled(found):
    """(R,): the score when people and seeds are drawn again; the same draws for every method."""
    rng, (num_seeds, num_people) = np.random.default_rng(0), found.shape[:2]
    people = rng.multinomial(num_people, np.full(num_people, 1 / num_people), size=NUM_RESAMPLES)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=NUM_RESAMPLES)
    by_seed = uf1(np.einsum("rp,spcd->rscd", people.astype(float), found.astype(float)))
    return (by_seed * seeds).sum(axis=1) / num_seeds


def told(value, values, num_people):
    """A value, its interval, and how often it could be drawn: a class that no drawn person shows has no score."""
    usable = values[np.isfinite(values)]
    found = interval(usable, num_people)
    return [round(value, 4), *(round(end, 4) for end in found)] if found else [round(value, 4), None, None]


def compared(found, num_people):
    """{"first - second": [difference of UF1, low, high]} of each pretrained method and what it has to beat."""
    rivals = list(TWINS.items())
    rivals += [(name, other) for name in TWINS for other in UNLEARNED]
    return {
        f"{one} - {other}": told(
            score(found[one]) - score(found[other]), resampled(found[one]) - resampled(found[other]), num_people
        )
        for one, other in rivals
        if one in found and other in found
    }


def synthetic(arguments, folder):
    options = dataclasses.replace(PRESETS["hard"], fps=FPS, subjects_per_photo=1, neutral_clips=0)
    options = dataclasses.replace(options, clips_per_emotion=1 if arguments.quick else CLIPS_OF_PERSON)
    workspace = judged_people(folder, options, arguments.photos, arguments.workers)
    found = labelled_expressions(open_source(workspace.expressions), workspace.labels)
    return Corpus(found.pairs(), [each.label for each in found.found], [str(each.subject) for each in found.found])


def real(arguments, folder):
    rises, left_out = rises_of(arguments.media, arguments.parts, folder)
    people = {label: {rise.person for rise in rises if rise.label == label} for label in {r.label for r in rises}}
    kept = [rise for rise in rises if len(people[rise.label]) >= 3]  # one is tested, one judges settings, one teaches
    few = {label: len(each) for label, each in people.items() if len(each) < 3}
    print(f"left out: {dict(left_out)}; classes of fewer than 3 people: {few}", flush=True)
    return Corpus([rise.pair for rise in kept], [rise.label for rise in kept], [rise.person for rise in kept])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    faces = parser.add_mutually_exclusive_group()
    faces.add_argument("--photos", type=Path, help="portraits, one of each person; default: the bundled one, varied")
    faces.add_argument("--media", type=Path, help="folder with real clips and the landmarker's file, instead of photos")
    parser.add_argument("--parts", default="A", choices=("A", "AB"), help="of the real clips")
    parser.add_argument("--checkpoint", type=Path, default=BUILT_IN, help="folder of a pretrained model")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 2, 5, 20], help="of each class, to learn from")
    parser.add_argument("--finetune", type=int, nargs="*", default=[], help="for which of --clips encoders learn too")
    parser.add_argument("--seeds", type=int, default=5, help="draws of clips")
    parser.add_argument("--groups", type=int, help="of people held out together, 0: each one alone")
    parser.add_argument("--workers", type=int, default=2, help="processes that make and ingest videos")
    parser.add_argument("--folder", type=Path, help="where corpora are kept; default: nowhere")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.clips) < 1 or arguments.seeds < 1:
        parser.error("--clips and --seeds must be at least 1")
    if strange := sorted(set(arguments.finetune) - set(arguments.clips)):
        parser.error(f"--finetune has {strange}; allowed are those of --clips, {arguments.clips}")
    torch.set_num_threads(1)
    began, seeds = time.monotonic(), 1 if arguments.quick else arguments.seeds
    kept = contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory()
    with kept as folder, tempfile.TemporaryDirectory() as models:
        corpus = (real if arguments.media else synthetic)(arguments, Path(folder))
        number = arguments.groups if arguments.groups is not None else 0 if arguments.media else GROUPS
        groups, num_people = groups_of(corpus.people, number), len(set(corpus.people))
        counts = {label: corpus.labels.count(label) for label in corpus.classes}
        print(f"{num_people} people, {counts}, held out in {groups.max() + 1} groups", flush=True)
        methods, finetuned = methods_of(corpus, arguments.checkpoint, seeds, Path(models))
        results, settings = {}, {}
        for clips in arguments.clips:
            asked = methods | (finetuned if clips in arguments.finetune else {})
            results[clips], settings[clips] = {}, {}
            for name, method in asked.items():
                results[clips][name], chosen = measure(method, corpus, groups, clips, seeds)
                settings[clips][name] = {str(group): setting for group, setting in chosen.items()}
                print(f"{clips} clips, {name}: UF1 {score(results[clips][name]):.3f}", flush=True)
    report(results, settings, num_people, {"classes": counts, "groups": int(groups.max()) + 1, "seeds": seeds}, began)


def report(results, settings, num_people, about, began):
    print(f"\nUF1 [95 % over people and seeds], {num_people} people, by labelled clips of each class")
    names = list(dict.fromkeys(itertools.chain.from_iterable(results.values())))
    scores = {
        clips: {name: told(score(each), resampled(each), num_people) for name, each in found.items()}
        for clips, found in results.items()
    }
    print(f"{'clips':20}" + "".join(f"{clips:>22}" for clips in results))
    for name in names:
        cells = [of_clips.get(name) for of_clips in scores.values()]
        print(f"{name:20}" + "".join(f"{cell_of(cell):>22}" for cell in cells))
    differences = {clips: compared(found, num_people) for clips, found in results.items()}
    for clips, found in differences.items():
        print(f"\n{clips} clips of each class, difference of UF1:")
        for name, (value, low, high) in found.items():
            print(f"  {name:40} {value:+.3f}" + ("" if low is None else f" ({low:+.3f} to {high:+.3f})"))
    at_goal = differences.get(GOAL_CLIPS, {})
    goal = {name: bool(low is not None and low > 0) for name, (_, low, _) in at_goal.items()}
    print(f"\n{time.monotonic() - began:.0f} s")
    print(
        json.dumps(
            {
                "uf1": scores,
                "difference": differences,
                "above_at_5_clips": goal,
                "settings": settings,
                "people": num_people,
                **about,
            }
        )
    )


def cell_of(cell):
    if cell is None:
        return "-"
    value, low, high = cell
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}-{high:.3f}]"


if __name__ == "__main__":
    main()
