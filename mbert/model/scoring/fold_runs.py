"""Folds that each train a network, spread over processes or GPUs; each one's predictions are kept when it is done."""

import dataclasses
import functools
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from mbert.manifests.files import read_json, write_json
from mbert.manifests.labels.classes import Labelled
from mbert.manifests.labels.folds import Fold, inner_split
from mbert.model.data.labelled import Expressions, LabelledPairs, decode_pairs, labelled_pairs
from mbert.model.data.pixels import normalize
from mbert.model.device import pick_compute
from mbert.model.network.classifier import Classifier
from mbert.model.scoring.baselines import FLOW_STEPS, FLOW_STEPS_GRID, Features, predict_flow_cnn
from mbert.model.scoring.choice import Choice, Select, selection_score
from mbert.model.training.finetune import FinetuneConfig, Watch, finetune_pairs
from mbert.shards.engine import Engine, run_tasks

Task = TypeVar("Task")
Found = TypeVar("Found")

_BATCH = 32
_CORES_PER_PROCESS = 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FoldPredictions:
    """The predictions for a fold's test side, in its order."""

    places: list[int]  # indices of the classes
    confidence: list[float] | None = None  # the probability of each; None if the method gives none


class FoldResults:
    """Predictions of the completed folds of one method and seed, one small file each.

    `about` is a hash of everything that affects them: files with another hash are ignored.
    """

    def __init__(self, folder: Path, about: str) -> None:
        self._folder, self._about = folder, about

    def run_folder(self, number: int) -> Path:
        """A fold's working folder; removed when the fold is done, or if it belongs to something else."""
        folder = self._folder / f"{number:04d}-{self._about[:16]}"
        for other in self._folder.glob(f"{number:04d}-*"):
            if other != folder and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
        return folder

    def get(self, number: int) -> FoldPredictions | None:
        """The predictions for a fold; None if it is yet to be done."""
        path = self._folder / f"{number:04d}.json"
        if not path.exists():
            return None
        found = read_json(path)
        if found["about"] != self._about:
            return None
        return FoldPredictions(places=list(found["predicted"]), confidence=found.get("confidence"))

    def put(self, number: int, predicted: FoldPredictions) -> None:
        """Keep a fold's predictions."""
        value = {"about": self._about, "predicted": predicted.places, "confidence": predicted.confidence}
        write_json(self._folder / f"{number:04d}.json", value)
        shutil.rmtree(self.run_folder(number), ignore_errors=True)


def run_in_processes(
    work: Callable[[Task], Found], tasks: Sequence[Task], workers: int | None, on_done: Callable[[Task, Found], None]
) -> None:
    """Run all tasks, several at once with several GPUs or pairs of cores; calls `on_done` after each."""
    num_gpus = torch.cuda.device_count()
    workers = min(workers or num_gpus or max(1, (os.cpu_count() or 1) // _CORES_PER_PROCESS), len(tasks))
    if workers <= 1:
        for task in tasks:
            on_done(task, work(task))
        return
    alone = functools.partial(_work_alone, work, max(1, (os.cpu_count() or 1) // workers), num_gpus)
    for number, found in run_tasks(alone, enumerate(tasks), Engine(workers=workers)):
        on_done(tasks[number], found)


def _work_alone(
    work: Callable[[Task], Found], threads: int, num_gpus: int, numbered: tuple[int, Task]
) -> tuple[int, Found]:
    """Run in a separate process, with its share of the cores, on its GPU."""
    number, task = numbered
    torch.set_num_threads(threads)
    if num_gpus:
        torch.cuda.set_device(number % num_gpus)
    return number, work(task)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneTask:
    """One fold of `--mode finetune`."""

    number: int
    fold: Fold
    expressions: Expressions  # of the whole protocol; frames are read in the process that runs the fold
    classes: Sequence[str]
    checkpoint: Path | str
    config: FinetuneConfig
    select: Select
    folder: Path


def finetune_fold(task: FinetuneTask) -> FoldPredictions:
    """Train on a fold's training side and predict its test side, as indices into `classes`.

    `inner` picks the number of epochs on an inner split by subject, then trains on the whole side for that many.
    `oracle` takes the epoch that is best on the test side. An interrupted fold resumes.
    """
    config = task.config
    test = _side(task, task.fold.test)
    if task.select == "fixed":
        _train(task, task.fold.train, config, "run", None)
        return predict_places(Classifier.from_pretrained(task.folder / "run"), test)
    if task.select == "oracle":
        watched = _train(task, task.fold.train, config, "run", test)
        return FoldPredictions(places=watched[_best(watched, test.labels, by_accuracy=True)])
    samples: Sequence[Labelled] = [expression.annotation for expression in task.expressions.found]
    train, validation = inner_split(samples, task.fold.train, seed=config.seed)
    held = _side(task, validation)
    watched = _train(task, train, config, "inner", held)
    epochs = _best(watched, held.labels) + 1
    _train(task, task.fold.train, dataclasses.replace(config, epochs=float(epochs)), "run", None)
    return predict_places(Classifier.from_pretrained(task.folder / "run"), test)


def _train(
    task: FinetuneTask, indices: Iterable[int], config: FinetuneConfig, name: str, watched: LabelledPairs | None
) -> list[list[int]]:
    """Train, or resume; returns the predictions of the watched pairs after each epoch."""
    watch = None if watched is None else Watch(lambda classifier: predict_places(classifier, watched).places)
    run = task.folder / name
    learned = _side(task, indices)
    summary = finetune_pairs(learned, task.checkpoint, run, config, corpus=task.expressions.source.corpus, watch=watch)
    if watch is None:
        return []
    return watch.read(run, math.floor(summary.last.epoch + 1e-9))


def _side(task: FinetuneTask, indices: Iterable[int]) -> LabelledPairs:
    of_side = [task.expressions.found[index] for index in indices]
    return labelled_pairs(task.expressions.source, of_side, task.classes)


def _best(watched: Sequence[Sequence[int]], labels: Sequence[int], *, by_accuracy: bool = False) -> int:
    """The best epoch, the first of equals."""
    truth = [str(label) for label in labels]

    def quality(epoch: int) -> float:
        return selection_score(truth, [str(label) for label in watched[epoch]], by_accuracy=by_accuracy)

    return max(range(len(watched)), key=lambda epoch: (quality(epoch), -epoch))


def predict_places(classifier: Classifier, pairs: LabelledPairs) -> FoldPredictions:
    """The class of each pair, as its index in the classifier's classes, and the classifier's confidence."""
    compute = pick_compute()
    was_training = classifier.training
    classifier.to(compute.device).eval()
    places: list[int] = []
    confidence: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(pairs.pairs), _BATCH):
            t0, t1 = (
                normalize(images.to(compute.device), classifier.backbone.config.in_chans)
                for images in decode_pairs(pairs.pairs[start : start + _BATCH], classifier.config.image_size)
            )
            with compute.autocast():
                logits = classifier(t0, t1)
            places += logits.argmax(dim=1).tolist()
            confidence += logits.float().softmax(dim=1).amax(dim=1).tolist()
    classifier.train(was_training)
    return FoldPredictions(places=places, confidence=confidence)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowTask:
    """One fold of the flow network."""

    number: int
    fold: Fold
    images: Features  # (n, 3 K, h, w), of all samples
    labels: Sequence[int]  # of all samples, in [0, num_classes)
    num_classes: int
    choice: Choice  # for the number of steps
    seed: int
    folder: Path  # not used: an unfinished fold keeps nothing


def flow_fold(task: FlowTask) -> FoldPredictions:
    """Choose the steps, train on a fold's training side, and predict its test side as class numbers."""
    labels = task.labels

    def named(train: Sequence[int], test: Sequence[int], steps: int) -> list[int]:
        if len({labels[index] for index in train}) == 1:  # nothing to distinguish
            return [labels[train[0]]] * len(test)
        found = predict_flow_cnn(task.images, labels, train, test, task.num_classes, seed=task.seed, steps=steps)
        return [int(place) for place in found]

    def attempt(train: Sequence[int], test: Sequence[int]) -> dict[int, list[str]]:
        return {steps: [str(place) for place in named(train, test, steps)] for steps in FLOW_STEPS_GRID}

    steps = task.choice.among(FLOW_STEPS_GRID, FLOW_STEPS, [str(label) for label in labels], attempt)
    return FoldPredictions(places=named(task.fold.train, task.fold.test, steps))
