"""Scores over the pooled predictions of all folds: UF1, UAR, accuracy, confusion, intervals, chance.

Definitions as in the MEGC 2019 guideline: TP, FP, FN are summed over the folds first, then F1 and recall are taken per
class and averaged without weights. Averages of per-fold scores are a different, misleading number.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mbert import ModelError

_NUM_RESAMPLES = 1000

Confusion = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Pooled scores; rows of the confusion matrix are the true classes, columns the predicted ones."""

    uf1: float
    uar: float
    accuracy: float
    confusion: list[list[int]]
    classes: list[str]
    uf1_interval: tuple[float, float]  # 95 %, bootstrap over subjects
    uar_interval: tuple[float, float]
    chance_uf1: float  # mean over random reassignments of the same predictions
    chance_uar: float


def confusion_matrix(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> Confusion:
    """(C, C) counts, rows true, columns predicted. Raises ModelError for a name that is not a class."""
    position = {name: index for index, name in enumerate(classes)}
    unknown = sorted({*truth, *predicted} - set(position))
    if unknown:
        raise ModelError(f"unknown classes {', '.join(unknown)}; known are {', '.join(classes)}")
    if len(truth) != len(predicted):
        raise ModelError(f"{len(truth)} labels but {len(predicted)} predictions")
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, ([position[name] for name in truth], [position[name] for name in predicted]), 1)
    return counts


def uf1(confusion: Confusion) -> float:
    """Unweighted mean over the classes of F1 = 2 TP / (2 TP + FP + FN). NaN when a class has no sample."""
    true_positive = np.diag(confusion)
    denominator = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(np.mean(_ratio(2 * true_positive, denominator, confusion)))


def uar(confusion: Confusion) -> float:
    """Unweighted mean over the classes of recall = TP / n. NaN when a class has no sample."""
    return float(np.mean(_ratio(np.diag(confusion), confusion.sum(axis=1), confusion)))


def _ratio(above: Confusion, below: Confusion, confusion: Confusion) -> npt.NDArray[np.float64]:
    """A class without samples gives NaN, which spoils the mean visibly instead of shrinking it silently."""
    present = confusion.sum(axis=1) > 0
    return np.where(present, above / np.maximum(below, 1), np.nan)


def score(truth: Sequence[str], predicted: Sequence[str], subjects: Sequence[str], *, seed: int = 0) -> Scores:
    """Score predictions pooled over all folds. The classes are those of the labels."""
    classes = sorted(set(truth))
    confusion = confusion_matrix(truth, predicted, sorted({*classes, *predicted}))
    if confusion.shape[0] != len(classes):
        raise ModelError(f"predicted classes {sorted(set(predicted) - set(classes))} do not occur among the labels")
    rng = np.random.default_rng(seed)
    per_subject = [
        confusion_matrix(
            [t for t, s in zip(truth, subjects, strict=True) if s == name],
            [p for p, s in zip(predicted, subjects, strict=True) if s == name],
            classes,
        )
        for name in sorted(set(subjects))
    ]
    stacked = np.stack(per_subject)
    draws = rng.integers(0, len(stacked), size=(_NUM_RESAMPLES, len(stacked)))
    resampled = [stacked[draw].sum(axis=0) for draw in draws]
    shuffled = [
        confusion_matrix([truth[i] for i in rng.permutation(len(truth))], predicted, classes)
        for _ in range(_NUM_RESAMPLES)
    ]
    return Scores(
        uf1=uf1(confusion),
        uar=uar(confusion),
        accuracy=float(np.trace(confusion) / confusion.sum()),
        confusion=confusion.tolist(),
        classes=classes,
        uf1_interval=_interval([uf1(counts) for counts in resampled]),
        uar_interval=_interval([uar(counts) for counts in resampled]),
        chance_uf1=float(np.mean([uf1(counts) for counts in shuffled])),
        chance_uar=float(np.mean([uar(counts) for counts in shuffled])),
    )


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 %; a resample that lost a whole class is NaN and left out."""
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
