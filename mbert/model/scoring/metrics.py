"""Scores over the pooled predictions of all folds: UF1, UAR, accuracy, confusion, intervals, chance.

Definitions as in the MEGC 2019 guideline: TP, FP, FN are summed over the folds first, then F1 and recall are taken per
class and averaged without weights. Averages of per-fold scores are a different, misleading number.

An undefined score is None, never zero or a mean over fewer classes: both would pass for a result.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mbert import ModelError
from mbert.model.scoring.confusion import (
    NUM_RESAMPLES,
    Counts,
    Interval,
    class_positions,
    count_groups,
    defined,
    f1_per_class,
    group_by_name,
    interval,
    precision_per_class,
    recall_per_class,
    resample_subjects,
    uar,
    uf1,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """One class against all others."""

    precision: float | None  # None if it is never predicted
    recall: float | None  # None, like F1, if no sample has this label
    f1: float | None
    support: int  # samples with this label
    predicted: int  # samples for which it was predicted


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SubjectScore:
    """One person. Accuracy only: most people do not show every class, so their F1 is not defined."""

    num_samples: int
    accuracy: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Pooled scores; rows of the confusion matrix are the true classes, columns the predicted ones.

    UF1 and UAR, with their intervals and chance, are None when a class has no sample.
    """

    uf1: float | None
    uar: float | None
    accuracy: float
    weighted_f1: float  # mean of F1 over the classes, weighted by their samples
    confusion: list[list[int]]
    classes: list[str]
    per_class: dict[str, ClassScore]
    per_subject: dict[str, SubjectScore]
    uf1_interval: Interval | None  # 95 %, bootstrap over subjects; None for a single subject
    uar_interval: Interval | None
    accuracy_interval: Interval | None  # of all resamples
    resamples_left_out: int  # of the bootstrap's 1000: they drew no sample of some class
    chance_uf1: float | None  # mean over random reassignments of the same predictions
    chance_uar: float | None
    num_samples: int
    num_subjects: int


def score(
    truth: Sequence[str],
    predicted: Sequence[str],
    subjects: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Scores:
    """Score predictions pooled over all folds.

    Without `classes` they are those of the labels, and predicting any other class is an error, because UF1 is then
    undefined. With `classes`, one of them without samples makes UF1 and UAR None. Raises ModelError for a name that is
    not a class, for sequences of unequal length and without predictions.
    """
    if classes is None:
        classes = sorted(set(truth))
        strange = sorted({*predicted} - {*classes})
        if strange:
            raise ModelError(
                f"predicted classes {strange} do not occur among the labels {classes}, so UF1 is not defined; "
                "name all classes of the protocol to get accuracy and weighted F1"
            )
    rows, columns = class_positions(truth, predicted, classes)
    names, groups = group_by_name(subjects, len(rows))
    by_subject = count_groups(groups, rows, columns, num_groups=len(names), num_classes=len(classes))
    confusion = by_subject.sum(axis=0)
    rng = np.random.default_rng(seed)
    resampled = resample_subjects(by_subject, rng)
    usable = resampled[(resampled.sum(axis=-1) > 0).all(axis=-1)]
    shuffled = _reassign(rows, columns, len(classes), rng)
    support = confusion.sum(axis=1)
    return Scores(
        uf1=defined(uf1(confusion)),
        uar=defined(uar(confusion)),
        accuracy=float(np.trace(confusion) / len(rows)),
        weighted_f1=float(np.nansum(f1_per_class(confusion) * support) / len(rows)),
        confusion=confusion.tolist(),
        classes=list(classes),
        per_class=_per_class(confusion, classes),
        per_subject={
            name: SubjectScore(num_samples=int(counts.sum()), accuracy=float(np.trace(counts) / counts.sum()))
            for name, counts in zip(names, by_subject, strict=True)
        },
        uf1_interval=interval(uf1(usable), len(names)),
        uar_interval=interval(uar(usable), len(names)),
        accuracy_interval=interval(resampled.trace(axis1=1, axis2=2) / resampled.sum(axis=(1, 2)), len(names)),
        resamples_left_out=NUM_RESAMPLES - len(usable),
        chance_uf1=defined(uf1(shuffled).mean()),
        chance_uar=defined(uar(shuffled).mean()),
        num_samples=len(rows),
        num_subjects=len(names),
    )


def score_by_dataset(
    truth: Sequence[str],
    predicted: Sequence[str],
    subjects: Sequence[str],
    datasets: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Scores]:
    """The same predictions restricted to each dataset, as for the composite of MEGC 2019 (CDE).

    The classes are those of all samples: UF1 and UAR of a dataset lacking one are None. Raises ModelError as `score`.
    """
    classes = sorted(set(truth)) if classes is None else classes
    class_positions(truth, predicted, classes)  # reported for the whole, not for a part
    group_by_name(subjects, len(truth))
    names, groups = group_by_name(datasets, len(truth))
    parts = {name: np.flatnonzero(groups == index).tolist() for index, name in enumerate(names)}
    return {
        name: score(
            [truth[index] for index in part],
            [predicted[index] for index in part],
            [subjects[index] for index in part],
            classes=classes,
            seed=seed,
        )
        for name, part in parts.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """One score over several seeds; mean and deviation are None if any value is."""

    mean: float | None
    standard_deviation: float | None  # of the sample (ddof 1); None for a single seed
    values: list[float | None]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SeedScores:
    """The same samples scored with several seeds."""

    uf1: Spread
    uar: Spread
    accuracy: Spread
    weighted_f1: Spread


def over_seeds(scores: Sequence[Scores]) -> SeedScores:
    """Mean, standard deviation and the values. Raises ModelError without scores, or if their samples differ."""
    if not scores:
        raise ModelError("there are no scores to average; give those of at least one seed")
    supports = {tuple((name, one.support) for name, one in each.per_class.items()) for each in scores}
    if len(supports) > 1:
        raise ModelError(
            "the scores are of different samples: their classes are not equally large; only the seed may differ"
        )
    return SeedScores(
        uf1=_spread([each.uf1 for each in scores]),
        uar=_spread([each.uar for each in scores]),
        accuracy=_spread([each.accuracy for each in scores]),
        weighted_f1=_spread([each.weighted_f1 for each in scores]),
    )


def _spread(values: list[float | None]) -> Spread:
    numbers = [value for value in values if value is not None]
    whole = len(numbers) == len(values)
    return Spread(
        mean=float(np.mean(numbers)) if whole else None,
        standard_deviation=float(np.std(numbers, ddof=1)) if whole and len(numbers) > 1 else None,
        values=values,
    )


def _reassign(rows: Counts, columns: Counts, num_classes: int, rng: np.random.Generator) -> Counts:
    """(R, C, C) confusion of the same predictions with the labels in random order."""
    one = np.zeros_like(rows)
    return np.concatenate(
        [
            count_groups(one, rng.permutation(rows), columns, num_groups=1, num_classes=num_classes)
            for _ in range(NUM_RESAMPLES)
        ]
    )


def _per_class(confusion: Counts, classes: Sequence[str]) -> dict[str, ClassScore]:
    precision, recall, f1 = (rate(confusion) for rate in (precision_per_class, recall_per_class, f1_per_class))
    return {
        name: ClassScore(
            precision=defined(precision[index]),
            recall=defined(recall[index]),
            f1=defined(f1[index]),
            support=int(confusion[index].sum()),
            predicted=int(confusion[:, index].sum()),
        )
        for index, name in enumerate(classes)
    }
