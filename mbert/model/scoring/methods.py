"""How each method of an evaluation predicts every sample: the model and its baselines, under the same folds."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mbert.manifests.files import replacing
from mbert.manifests.labels.folds import Fold
from mbert.manifests.schema import LabelRow
from mbert.model.data.labelled import Expressions, decode_pairs
from mbert.model.data.pixels import normalize
from mbert.model.device import pick_compute
from mbert.model.network.classifier import Classifier, ClassifierConfig
from mbert.model.network.features import DEFINITION, MAP_REGIONS, in_own_units, join_steps, map_sides, pair_inputs
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import hash_weights
from mbert.model.scoring.baselines import (
    BASELINE_DEFINITION,
    DIFFERENCE_UNITS,
    FLOW_UNITS,
    MOTION_UNITS,
    difference_features,
    flow_features,
    majority,
    motion_features,
    motion_images,
    random_model,
)
from mbert.model.scoring.choice import Choice, Select
from mbert.model.scoring.config import OURS, EvalConfig
from mbert.model.scoring.fold_runs import (
    FinetuneTask,
    FlowTask,
    FoldPredictions,
    FoldResults,
    finetune_fold,
    flow_fold,
    run_in_processes,
)
from mbert.model.scoring.probe import OwnUnits, fit_probe, predict_folds, predict_units
from mbert.shards.pair import FramePair

_BATCH = 32
EVIDENCE = ("measured",)  # the one input of the model that is not learned
# Methods whose features do not depend on the model: what is computed, by which function, in which units.
_OF_FRAMES = {
    "frame_difference": ("frame difference", difference_features, DIFFERENCE_UNITS),
    "optical_flow": ("optical flow", flow_features, FLOW_UNITS),
    "flow_without_head": ("flow without head", motion_features, MOTION_UNITS),
}

Features = npt.NDArray[np.float32]
Predictions = list[str] | npt.NDArray[np.bool_]  # classes (n,), or action units (n, U)
Confidence = npt.NDArray[np.float64]  # (n,): the probability of the predicted class; NaN if unknown
OnProgress = Callable[[str, int, int], None]  # what is being done, how much of it is done, the total


def pair_features(model: MicronBert, pairs: Sequence[FramePair], inputs: Sequence[str] = ("change",)) -> Features:
    """(n, F): a head's inputs, names as in features.py; raises ConfigError if the model cannot give them."""
    compute = pick_compute()
    model.to(compute.device).eval()
    features = []
    with torch.inference_mode():
        for start in range(0, len(pairs), _BATCH):
            t0, t1 = (
                normalize(images.to(compute.device), model.config.in_chans)
                for images in decode_pairs(pairs[start : start + _BATCH], model.config.image_size)
            )
            with compute.autocast():
                features.append(pair_inputs(model, t0, t1, inputs).cpu().numpy())
    return np.concatenate(features)


def hash_of(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Methods:
    """An evaluation's samples, truth and folds, and how to predict them.

    Features and the predictions of trained folds are kept in `out` under a hash of everything that affects them.
    """

    config: EvalConfig
    expressions: Expressions
    classes: Sequence[str]  # empty: action units
    units: npt.NDArray[np.bool_] | None  # (n, U): the truth for action units
    folds: Sequence[Fold]
    model: MicronBert
    checkpoint: Path | str
    samples: str  # a hash of the expressions' frames and labels
    out: Path
    on_progress: OnProgress

    @property
    def truth(self) -> list[str]:
        """Classes of the samples."""
        return [expression.label for expression in self.expressions.found]

    @property
    def rows(self) -> list[LabelRow]:
        """How the samples are annotated."""
        return [expression.annotation for expression in self.expressions.found]

    def select_of(self, method: str) -> Select:
        """How each fold of a method chooses: as configured, the same for the model and its baselines."""
        return "fixed" if method == "majority" else self.config.select

    def seeds_of(self, method: str) -> list[int]:
        """The evaluation's seeds, or just one if the seed does not affect the predictions."""
        config = self.config
        is_random = method in ("flow_cnn", "random_weights") or self.select_of(method) == "inner"
        if method == OURS and config.mode == "finetune":
            is_random = True
        return list(range(config.seed, config.seed + (config.seeds if is_random else 1)))

    def predict(self, method: str, seed: int) -> tuple[Predictions, Confidence]:
        """A method's prediction for every sample, learned from its fold's training side; "" if in no fold."""
        unknown = np.full(len(self.expressions.found), np.nan)
        if method == OURS and self.config.mode == "finetune":
            return self._by_finetuning(seed)
        if method == "majority":
            return self._by_majority(), unknown
        if method == "flow_cnn":
            return self._by_flow_cnn(seed), unknown
        return self._by_heads(method, self._features_of(method, seed), seed)

    def classifier(self) -> Classifier | None:
        """The head on the features of all samples, as a model that names emotions; None if there is no such head.

        For videos of other people: it has seen everybody here. Finetuned encoders are not kept, as each fold has its
        own.
        """
        if self.config.mode == "finetune" or self.config.frames > 1 or self.units is not None:
            return None
        if len(set(self.truth)) < 2:
            return None
        features = self._features_of(OURS, self.config.seed)
        probe = fit_probe(features, self.truth, own_units=self._own_units_of(OURS))
        config = ClassifierConfig(
            classes=probe.classes,
            num_features=features.shape[1],
            image_size=self.model.config.image_size,
            head="probe",
            inputs=tuple(self.config.inputs_for(self.model.config)),
        )
        found = Classifier(self.model, config, frozen=True)
        numbers = {
            "0.running_mean": probe.mean,
            "0.running_var": probe.scale**2,
            "1.weight": probe.weights,
            "1.bias": probe.bias,
        }
        found.head.load_state_dict(
            {name: torch.from_numpy(value).float() for name, value in numbers.items()}, strict=False
        )
        return found.eval()

    def _features_of(self, method: str, seed: int) -> Features:
        if method in _OF_FRAMES:
            what, of_frames, _ = _OF_FRAMES[method]
            return self._kept(what, BASELINE_DEFINITION, of_frames)
        if method == "evidence":
            config = self.model.config
            about = [config.image_size, config.patch_size, config.in_chans, DEFINITION]
            return self._kept("evidence", about, lambda pairs: pair_features(self.model, pairs, EVIDENCE))
        model = self.model if method == OURS else random_model(self.model.config, seed)
        inputs = self.config.inputs_for(model.config)

        def compute(pairs: Sequence[FramePair]) -> Features:
            return pair_features(model, pairs, inputs)

        what = "features" if method == OURS else "features of random weights"
        return self._kept(what, [hash_weights(model), inputs, DEFINITION], compute)

    def _kept(self, what: str, about: Any, compute: Callable[[Sequence[FramePair]], Features]) -> Features:
        """Features of every expression, with its pairs concatenated as in `join_steps`."""
        return join_steps([self._kept_step(what, about, compute, step) for step in range(self.config.frames)])

    def _kept_step(
        self, what: str, about: Any, compute: Callable[[Sequence[FramePair]], Features], step: int
    ) -> Features:
        """Features of one pair of every expression; computed once, then read."""
        pairs = self.expressions.pairs(step)
        keys = [pair.key for pair in pairs]  # a step's frames depend on the shards and on the number requested
        path = self.out / "features" / f"{hash_of([what, about, keys, self.samples])[:24]}.npy"
        if path.exists():
            found: Features = np.load(path, allow_pickle=False)
            return found
        parts = []
        for start in range(0, len(pairs), _BATCH):
            parts.append(compute(pairs[start : start + _BATCH]))
            self.on_progress(what, min(start + _BATCH, len(pairs)), len(pairs))
        features = np.concatenate(parts)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, features, allow_pickle=False)
        return features

    def _by_heads(self, method: str, features: Features, seed: int) -> tuple[Predictions, Confidence]:
        done = 0
        confidence = np.full(len(features), np.nan)

        def tell() -> None:
            nonlocal done
            done += 1
            self.on_progress(f"heads on {method}", done, len(self.folds))

        own_units = self._own_units_of(method)
        if self.units is not None:
            return predict_units(features, self.units, self.folds, own_units=own_units, on_fold=tell), confidence
        predicted = predict_folds(
            features,
            self.truth,
            self.folds,
            self.rows,
            own_units=own_units,
            map_sides=self._map_sides_of(method),
            select=self.select_of(method),
            seed=seed,
            confidence=confidence,
            on_fold=tell,
        )
        return predicted, confidence

    def _own_units_of(self, method: str) -> OwnUnits:
        """The unit of each feature of a method, (F,), the same at every step."""
        if method in _OF_FRAMES:
            return np.tile(_OF_FRAMES[method][2], self.config.frames)
        return np.tile(in_own_units(self.model.config, self._inputs_of(method)), self.config.frames)

    def _map_sides_of(self, method: str) -> list[int]:
        """The side of each map in a method's features, over all steps."""
        if method in _OF_FRAMES:
            return [MAP_REGIONS] * (len(self._own_units_of(method)) // MAP_REGIONS**2)
        return [int(side) for side in map_sides(self.model.config, self._inputs_of(method))] * self.config.frames

    def _inputs_of(self, method: str) -> tuple[str, ...]:
        return EVIDENCE if method == "evidence" else self.config.inputs_for(self.model.config)

    def _by_majority(self) -> Predictions:
        if self.units is None:
            return majority(self.truth, self.folds)
        predicted = np.zeros_like(self.units)
        for fold in self.folds:
            predicted[list(fold.test)] = self.units[list(fold.train)].mean(axis=0) > 0.5
        return predicted

    def _by_flow_cnn(self, seed: int) -> Predictions:
        images = self._kept("motion images", BASELINE_DEFINITION, motion_images)
        about = [BASELINE_DEFINITION, self.config.select, [expression.steps for expression in self.expressions.found]]
        if self.units is None:
            tasks = self._flow_tasks(images, self._places(), seed)
            return self._named(self._trained("flow_cnn", seed, tasks, flow_fold, about))[0]
        predicted = np.zeros_like(self.units)
        for unit in range(self.units.shape[1]):
            tasks = self._flow_tasks(images, self.units[:, unit].astype(int).tolist(), seed)
            found = self._trained(f"flow_cnn-{unit}", seed, tasks, flow_fold, about)
            for fold, guesses in zip(self.folds, found, strict=True):
                predicted[list(fold.test), unit] = guesses.places
        return predicted

    def _flow_tasks(self, images: Features, labels: list[int], seed: int) -> list[FlowTask]:
        rows, select, num_classes = self.rows, self.select_of("flow_cnn"), max(2, len(self.classes))
        return [
            FlowTask(
                number=number,
                fold=fold,
                images=images,
                labels=labels,
                num_classes=num_classes,
                choice=Choice.of(select, fold, rows, seed),
                seed=seed,
                folder=Path(),
            )
            for number, fold in enumerate(self.folds)
        ]

    def _by_finetuning(self, seed: int) -> tuple[Predictions, Confidence]:
        config = dataclasses.replace(
            self.config.finetune,
            inputs=self.config.inputs_for(self.model.config),
            seed=seed,
            picture_every=0,
            report_to="none",
        )
        tasks = [
            FinetuneTask(
                number=number,
                fold=fold,
                expressions=self.expressions,
                classes=self.classes,
                checkpoint=self.checkpoint,
                config=config,
                select=self.config.select,
                folder=Path(),
            )
            for number, fold in enumerate(self.folds)
        ]
        about = [hash_weights(self.model), self.config.select, dataclasses.asdict(config)]
        return self._named(self._trained("finetune", seed, tasks, finetune_fold, about))

    def _trained(
        self, name: str, seed: int, tasks: Sequence[Any], work: Callable[[Any], FoldPredictions], about: Any
    ) -> list[FoldPredictions]:
        """The predictions for each fold; folds completed by an earlier run are not repeated."""
        sides = [[fold.train, fold.test] for fold in self.folds]
        results = FoldResults(
            self.out / "folds" / f"{name}-{seed}", hash_of([name, seed, self.samples, list(self.classes), sides, about])
        )
        found = {task.number: results.get(task.number) for task in tasks}
        left = [
            dataclasses.replace(task, folder=results.run_folder(task.number))
            for task in tasks
            if found[task.number] is None
        ]

        def keep(task: Any, predicted: FoldPredictions) -> None:
            results.put(task.number, predicted)
            found[task.number] = predicted
            done = sum(each is not None for each in found.values())
            self.on_progress(f"folds of {name}", done, len(tasks))

        run_in_processes(work, left, self.config.workers, keep)
        return [each for number in range(len(tasks)) if (each := found[number]) is not None]

    def _named(self, found: Sequence[FoldPredictions]) -> tuple[list[str], Confidence]:
        predicted = [""] * len(self.expressions.found)
        confidence = np.full(len(predicted), np.nan)
        for fold, of_fold in zip(self.folds, found, strict=True):
            for index, place in zip(fold.test, of_fold.places, strict=True):
                predicted[index] = self.classes[place]
            if of_fold.confidence is not None:
                confidence[list(fold.test)] = of_fold.confidence
        return predicted, confidence

    def _places(self) -> list[int]:
        return [self.classes.index(name) for name in self.truth]
