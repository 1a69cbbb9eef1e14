"""A linear head per fold on features computed once: standardised, regularised, and fitted only on the fold's training
samples.

A face gives more features than there are expressions, and the solution of an L2-regularised linear model lies in the
span of its training samples. So each fold first projects its features onto the axes of that span: the same solution,
from hundreds of numbers per sample instead of tens of thousands.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mbert.manifests.labels.classes import Labelled
from mbert.manifests.labels.folds import Fold
from mbert.model.scoring.choice import Choice, Select

REGULARISATION = 1.0  # scikit-learn's default C
_GRID = (0.001, 0.01, 0.1, 1.0, 10.0)  # choices for a fold
# Standard deviation of a Gaussian over neighbouring places, as a share of the map's side; choices for a fold. They
# set how far the evidence of motion is joined.
_JOINED = (0.0, 0.043, 0.071)
_CONSTANT = 1e-12  # scale below which a feature carries no information
_NO_AXIS = 1e-6  # share of the largest eigenvalue below which there is only rounding

Features = npt.NDArray[np.float32]
OwnUnits = npt.NDArray[np.int64]  # (F,): equal numbers above 0 share a unit, 0 has none, see `in_own_units`
Axes = npt.NDArray[np.float64]


def predict_folds(
    features: Features,
    truth: Sequence[str],
    folds: Sequence[Fold],
    samples: Sequence[Labelled],
    *,
    own_units: OwnUnits | None = None,
    map_sides: Sequence[int] = (),
    select: Select = "fixed",
    seed: int = 0,
    confidence: npt.NDArray[np.float64] | None = None,
    on_fold: Callable[[], None] = lambda: None,
) -> list[str]:
    """The class of every sample, predicted by the head whose fold has it on its test side; "" for samples in no fold.

    `features` (n, F): those that share a unit in `own_units` (F,) keep their relative sizes; if they are concatenated
    maps, `map_sides` has the side of each. `select`: C is 1 and each place stands alone (fixed); C and the distance
    over which the places of maps are joined are the best on inner splits by subject of the training side (inner), or
    the best on the test side (oracle), which is no honest score. `confidence` (n,) is filled with the head's
    probability of the predicted class.
    """
    heads = Heads(features, truth, own_units=own_units, map_sides=map_sides if select != "fixed" else ())
    predicted = [""] * len(truth)
    for fold in folds:
        choice = Choice.of(select, fold, samples, seed)
        setting = choice.among(heads.settings, (REGULARISATION, 0.0), truth, heads.attempt)
        guesses, shares = heads.named(fold.train, fold.test, setting)
        for index, guess in zip(fold.test, guesses, strict=True):
            predicted[index] = guess
        if confidence is not None:
            confidence[list(fold.test)] = shares
        on_fold()
    return predicted


class Heads:
    """Linear heads on the same features: one per set of training samples, C and joining distance.

    Features, `own_units` and `map_sides` as in `predict_folds`; without sides each place stands alone.
    """

    def __init__(
        self,
        features: Features,
        truth: Sequence[str],
        *,
        own_units: OwnUnits | None = None,
        map_sides: Sequence[int] = (),
    ) -> None:
        spreads = _JOINED if len(map_sides) else (0.0,)
        self._truth, self._own_units = truth, own_units
        self._joined = {spread: _joined(features, map_sides, spread) for spread in spreads}
        self.settings = list(itertools.product(_GRID, spreads))  # C, distance

    def predict(self, train: Sequence[int], test: Sequence[int], setting: tuple[float, float]) -> list[str]:
        """The classes of `test`, in its order, by a head fitted on `train`."""
        return self.named(train, test, setting)[0]

    def named(
        self, train: Sequence[int], test: Sequence[int], setting: tuple[float, float]
    ) -> tuple[list[str], npt.NDArray[np.float64]]:
        """The same, and the head's probability of each."""
        regularisation, spread = setting
        known, unknown = _axes(self._joined[spread], train, test, self._own_units)
        return _classify(known, [self._truth[index] for index in train], unknown, regularisation)

    def attempt(self, train: Sequence[int], test: Sequence[int]) -> dict[tuple[float, float], list[str]]:
        """The same for every setting."""
        labels = [self._truth[index] for index in train]
        axes = {spread: _axes(joined, train, test, self._own_units) for spread, joined in self._joined.items()}
        return {
            (value, spread): _classify(axes[spread][0], labels, axes[spread][1], value)[0]
            for value, spread in self.settings
        }


def predict_units(
    features: Features,
    targets: npt.NDArray[np.bool_],
    folds: Sequence[Fold],
    *,
    own_units: OwnUnits | None = None,
    on_fold: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.bool_]:
    """Action units of every sample, (n, U), each by a separate head; C is 1. Features as in `predict_folds`."""
    predicted = np.zeros_like(targets)
    for fold in folds:
        train, test = list(fold.train), list(fold.test)
        axes_train, axes_test = _axes(features, train, test, own_units)
        for unit in range(targets.shape[1]):
            labels = ["present" if flag else "absent" for flag in targets[train, unit]]
            guesses, _ = _classify(axes_train, labels, axes_test, REGULARISATION)
            predicted[test, unit] = [guess == "present" for guess in guesses]
        on_fold()
    return predicted


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """A linear head in the features' own space: logits = weights @ ((x - mean) / scale) + bias."""

    classes: tuple[str, ...]
    mean: Axes  # (F,)
    scale: Axes  # (F,)
    weights: Axes  # (K, F)
    bias: Axes  # (K,)


def fit_probe(features: Features, truth: Sequence[str], *, own_units: OwnUnits | None = None) -> Probe:
    """Fit the head of `predict_folds` on all samples; C is 1. It has no score: nobody is held out."""
    from sklearn.linear_model import LogisticRegression

    every = range(len(truth))
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    if own_units is not None:
        scale = by_unit(scale, own_units)
    kept = scale > _CONSTANT
    axes, _ = _axes(features, every, every, own_units)
    head = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=2000, solver="newton-cg")
    head.fit(axes, list(truth))
    # Convert back from the axes of the samples' span: the same linear function of the features.
    standard = (features[:, kept] - mean[kept]) / scale[kept]
    found = np.linalg.lstsq(standard, axes @ head.coef_.T, rcond=None)[0].T
    weights = np.zeros((len(found), features.shape[1]))
    weights[:, kept] = found
    bias = head.intercept_
    if len(head.classes_) == 2:  # one function separates two classes
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return Probe(tuple(str(name) for name in head.classes_), mean, np.where(kept, scale, 1.0), weights, bias)


def _joined(features: Features, map_sides: Sequence[int], spread: float) -> Features:
    """Join each place of each map with its neighbours, by a Gaussian of a given share of the side."""
    if not spread:
        return features
    from scipy.ndimage import gaussian_filter

    maps, start = [], 0
    for side, equal in itertools.groupby(map_sides):
        stop = start + len(list(equal)) * side**2
        block = features[:, start:stop].reshape(len(features), -1, side, side)
        maps.append(gaussian_filter(block, spread * side, axes=(2, 3), mode="nearest").reshape(len(features), -1))
        start = stop
    joined: Features = np.concatenate(maps, axis=1)
    return joined


def _classify(
    train: Axes, labels: Sequence[str], test: Axes, regularisation: float
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The class of each test sample, and the head's probability of it."""
    from sklearn.linear_model import LogisticRegression

    if len(set(labels)) == 1:  # nothing to distinguish
        return [labels[0]] * len(test), np.ones(len(test))
    # The axes differ in length by orders of magnitude; first-order solvers need hundreds of steps, this one a dozen.
    head = LogisticRegression(C=regularisation, class_weight="balanced", max_iter=2000, solver="newton-cg")
    head.fit(train, labels)
    return [str(name) for name in head.predict(test)], head.predict_proba(test).max(axis=1)


def _axes(
    features: Features, train: Sequence[int], test: Sequence[int], own_units: OwnUnits | None
) -> tuple[Axes, Axes]:
    """Standardised features in the axes of the span of the training samples, (n_train, r) and (n_test, r).

    Mean and scale come from the training samples, one scale per unit; constant features are left out.
    """
    known, unknown = features[list(train)], features[list(test)]
    mean, scale = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64)
    if own_units is not None:
        scale = by_unit(scale, own_units)
    kept = scale > _CONSTANT
    mean, scale = mean[kept].astype(np.float32), scale[kept].astype(np.float32)
    known, unknown = (known[:, kept] - mean) / scale, (unknown[:, kept] - mean) / scale
    if known.shape[1] <= len(train):
        return known.astype(np.float64), unknown.astype(np.float64)
    values, vectors = np.linalg.eigh((known @ known.T).astype(np.float64))
    kept = values > values[-1] * _NO_AXIS
    values, vectors = values[kept], vectors[:, kept]
    return vectors * np.sqrt(values), (unknown @ known.T).astype(np.float64) @ vectors / np.sqrt(values)


def by_unit(spread: npt.NDArray[np.floating[Any]], own_units: OwnUnits) -> npt.NDArray[np.floating[Any]]:
    """The scale of each feature, (F,), from its standard deviation: within a unit, the root mean square."""
    scale = spread.copy()
    for unit in np.unique(own_units[own_units > 0]):
        scale[own_units == unit] = np.sqrt(np.square(spread[own_units == unit]).mean())
    return scale
