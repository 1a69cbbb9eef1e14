"""What should a head look at? Leave-one-subject-out scores of the linear head for each input, and of the baselines.

    python benchmarks/inputs.py [--corpus WORKSPACE | --photos FOLDER] [--steps 300] [--seeds 3] [--quick]

For each seed a `tiny` μ-BERT is pretrained on the pairs of the corpus and its features are taken once; every input and
mixture of inputs is a choice of their columns, under the same folds and the same head. Without --corpus, which has to
hold pair shards with labelled expressions, a synthetic corpus is made. --quick: does it run? The last line of the
output is one JSON object.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np

from mbert.manifests.labels.folds import leave_one_subject_out
from mbert.manifests.workspace import Workspace
from mbert.model.data.labelled import labelled_expressions
from mbert.model.network.features import INPUTS, in_own_units, num_features
from mbert.model.network.micron_bert import MicronBert
from mbert.model.scoring.baselines import (
    DIFFERENCE_UNITS,
    FLOW_UNITS,
    difference_features,
    flow_features,
    flow_images,
    majority,
    predict_flow_cnn,
    random_model,
)
from mbert.model.scoring.confusion import confusion_matrix, uar, uf1
from mbert.model.scoring.methods import pair_features
from mbert.model.scoring.probe import predict_folds
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthetic.synthesize import PRESETS, synthesize
from mbert.shards.engine import Engine
from mbert.shards.source import open_source

MIXTURES = (
    *((name,) for name in INPUTS),
    ("change", "dma"),
    ("change", "dma_both"),
    ("change", "map"),
    ("change", "distance"),
    ("dma_both", "map"),
    INPUTS,
)


def make_corpus(folder, options, photos):
    workspace, engine = Workspace(folder / "workspace"), Engine(workers=2)
    synthesize(folder / "videos", options, photos=photos, engine=engine)
    run_ingest(folder / "videos", workspace, IngestOptions(), engine=engine)
    run_shard(workspace, PairOptions(), engine=engine)
    return workspace


def columns(features, config, names):
    """Of all inputs side by side, those of some names."""
    ends = np.cumsum([num_features(config, [name]) for name in INPUTS])
    parts = dict(zip(INPUTS, np.split(features, ends[:-1], axis=1), strict=True))
    return np.concatenate([parts[name] for name in names], axis=1)


def predict_flow_network(images, truth, folds, seed):
    classes = sorted(set(truth))
    labels, predicted = [classes.index(name) for name in truth], [""] * len(truth)
    for fold in folds:
        guesses = predict_flow_cnn(images, labels, fold.train, fold.test, len(classes), seed=seed)
        for index, guess in zip(fold.test, guesses, strict=True):
            predicted[index] = classes[guess]
    return predicted


def measure(workspace, steps, seeds):
    """UF1 and UAR of each input and baseline, one per seed."""
    expressions = labelled_expressions(open_source(workspace.expressions), workspace.labels)
    rows, pairs = [each.annotation for each in expressions.found], expressions.pairs()
    truth, subjects = [each.label for each in expressions.found], [each.subject for each in expressions.found]
    folds, found = leave_one_subject_out(subjects), {}

    def note(name, predicted):
        confusion = confusion_matrix(truth, predicted, sorted(set(truth)))
        found.setdefault(name, []).append((uf1(confusion), uar(confusion)))
        print(f"{name}: UF1 {found[name][-1][0]:.3f}", flush=True)

    note("majority", majority(truth, folds))
    difference, flow = difference_features(pairs), flow_features(pairs)
    note("frame difference", predict_folds(difference, truth, folds, rows, own_units=DIFFERENCE_UNITS))
    note("flow", predict_folds(flow, truth, folds, rows, own_units=FLOW_UNITS))
    images = flow_images(pairs)
    for seed in range(seeds):
        print(f"seed {seed}:")
        note("flow network", predict_flow_network(images, truth, folds, seed))
        with tempfile.TemporaryDirectory() as folder:
            run_pretrain(workspace.pairs, Path(folder) / "run", PretrainConfig(preset="tiny", steps=steps, seed=seed))
            model = MicronBert.from_pretrained(Path(folder) / "run")
        for label, backbone in (("", model), ("random ", random_model(model.config, seed))):
            features = pair_features(backbone, pairs, INPUTS)
            for names in MIXTURES:
                chosen = columns(features, model.config, names)
                own_units = in_own_units(model.config, names)
                note(label + "+".join(names), predict_folds(chosen, truth, folds, rows, own_units=own_units))
    return len(rows), len(folds), found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, help="a workspace; default: a synthetic corpus is made")
    parser.add_argument("--photos", type=Path, help="portraits to make it of; default: the bundled one, varied")
    parser.add_argument("--preset", default="standard", choices=list(PRESETS), help="of mbert synthesize")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    steps, seeds = (5, 1) if arguments.quick else (arguments.steps, arguments.seeds)
    options = dataclasses.replace(
        PRESETS[arguments.preset],
        subjects_per_photo=1 if arguments.photos else 3 if arguments.quick else 8,
        clips_per_emotion=1 if arguments.quick else 2 if arguments.photos else 4,
    )
    with tempfile.TemporaryDirectory() as folder:
        workspace = (
            Workspace(arguments.corpus) if arguments.corpus else make_corpus(Path(folder), options, arguments.photos)
        )
        num_samples, num_subjects, found = measure(workspace, steps, seeds)
    print(
        f"\n{num_samples} expressions, {num_subjects} subjects, {steps} steps, means (lowest to highest) of the seeds:"
    )
    table = {}
    for name, scores in found.items():
        (low, _), (high, _) = np.min(scores, axis=0), np.max(scores, axis=0)
        mean = np.mean(scores, axis=0)
        table[name] = {"uf1": round(float(mean[0]), 4), "uar": round(float(mean[1]), 4)}
        print(f"{name:45} UF1 {mean[0]:.3f} ({low:.3f} to {high:.3f})   UAR {mean[1]:.3f}")
    print(
        json.dumps({"samples": num_samples, "subjects": num_subjects, "steps": steps, "seeds": seeds, "scores": table})
    )


if __name__ == "__main__":
    main()
