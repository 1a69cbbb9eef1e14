"""Confusion counts of many groups at once: the counts, their F1 and recall, resampling of subjects.

Undefined values are NaN here, so that they propagate into a mean; `defined` converts them to None for output.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mbert import ModelError

NUM_RESAMPLES = 1000

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


def confusion_matrix(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> Counts:
    """(C, C) counts, rows true, columns predicted. Raises ModelError for a name that is not a class."""
    rows, columns = class_positions(truth, predicted, classes)
    counts: Counts = count_groups(np.zeros_like(rows), rows, columns, num_groups=1, num_classes=len(classes))[0]
    return counts


def f1_per_class(confusion: Counts | Floats) -> Floats:
    """(..., C, C) confusion to (..., C): F1 = 2 TP / (2 TP + FP + FN). NaN where a class has no sample."""
    support = confusion.sum(axis=-1)
    return _divide(2 * _right(confusion), np.where(support > 0, support + confusion.sum(axis=-2), 0))


def recall_per_class(confusion: Counts | Floats) -> Floats:
    """(..., C, C) confusion to (..., C): recall = TP / n. NaN where a class has no sample."""
    return _divide(_right(confusion), confusion.sum(axis=-1))


def precision_per_class(confusion: Counts | Floats) -> Floats:
    """(..., C, C) confusion to (..., C): precision = TP / (TP + FP). NaN where a class is never predicted."""
    return _divide(_right(confusion), confusion.sum(axis=-2))


def uf1(confusion: Counts | Floats) -> Floats:
    """(..., C, C) confusion to (...): unweighted mean of F1 over the classes. NaN when a class has no sample."""
    return np.asarray(f1_per_class(confusion).mean(axis=-1))


def uar(confusion: Counts | Floats) -> Floats:
    """(..., C, C) confusion to (...): unweighted mean of recall over the classes. NaN when a class has no sample."""
    return np.asarray(recall_per_class(confusion).mean(axis=-1))


def class_positions(truth: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> tuple[Counts, Counts]:
    """Labels and predictions as (n,) positions in `classes`. Raises ModelError for a name that is not a class."""
    position = {name: index for index, name in enumerate(classes)}
    if len(position) != len(classes):
        raise ModelError(f"a class is named twice: {', '.join(classes)}")
    unknown = sorted({*truth, *predicted} - set(position))
    if unknown:
        raise ModelError(f"unknown classes {', '.join(unknown)}; known are {', '.join(classes)}")
    if len(truth) != len(predicted):
        raise ModelError(f"{len(truth)} labels but {len(predicted)} predictions")
    rows, columns = (np.array([position[name] for name in names], np.int64) for names in (truth, predicted))
    return rows, columns


def group_by_name(names: Sequence[str], num_samples: int) -> tuple[list[str], Counts]:
    """The distinct names, sorted, and the position (n,) of each sample's name. Raises ModelError without any."""
    if not num_samples:
        raise ModelError("there are no predictions to score")
    if len(names) != num_samples:
        raise ModelError(f"{num_samples} labels but {len(names)} names of subjects or datasets")
    distinct = sorted(set(names))
    position = {name: index for index, name in enumerate(distinct)}
    return distinct, np.array([position[name] for name in names], np.int64)


def count_groups(groups: Counts, rows: Counts, columns: Counts, *, num_groups: int, num_classes: int) -> Counts:
    """(G, C, C) confusion of each group; `groups`, `rows` (true) and `columns` (predicted) are (n,) positions."""
    cells = (groups * num_classes + rows) * num_classes + columns
    counts: Counts = np.bincount(cells, minlength=num_groups * num_classes**2)
    return counts.reshape(num_groups, num_classes, num_classes)


def resample_subjects(by_subject: Counts, rng: np.random.Generator) -> Floats:
    """(S, ...) counts to (R, ...): sums over S subjects drawn with replacement. A person's samples stay together."""
    num_subjects = len(by_subject)
    times = rng.multinomial(num_subjects, np.full(num_subjects, 1 / num_subjects), size=NUM_RESAMPLES)
    sums = times.astype(np.float64) @ by_subject.reshape(num_subjects, -1)  # floats, so that BLAS computes the product
    return np.asarray(sums.reshape(NUM_RESAMPLES, *by_subject.shape[1:]))


def defined(value: float | Floats) -> float | None:
    """A number, or None for NaN, which JSON does not have."""
    return None if np.isnan(value) else float(value)


def interval(values: Floats, num_subjects: int) -> Interval | None:
    """The middle 95 % of (R,) resampled values. None without values, and for one subject, which is always the same."""
    if num_subjects < 2 or not len(values):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _right(confusion: Counts | Floats) -> Floats:
    """(..., C, C) to (..., C): how many of each class were predicted correctly."""
    return np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)


def _divide(above: Floats, below: Counts | Floats) -> Floats:
    """NaN, without a warning, where the denominator is zero."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
