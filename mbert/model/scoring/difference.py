"""How the scores of two methods differ on the same samples, with intervals that draw the same people for both.

Two scores whose intervals overlap may still differ: people who are hard for one method are mostly hard for the other.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mbert.model.scoring.confusion import (
    Floats,
    Interval,
    class_positions,
    count_groups,
    defined,
    f1_per_class,
    group_by_name,
    interval,
    resample_subjects,
    uar,
    uf1,
)
from mbert.model.scoring.unit_metrics import Flags, count_units


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreDifference:
    """One method's scores minus another's; None if either is undefined. Intervals are 95 %."""

    uf1: float | None
    uf1_interval: Interval | None  # None for a single subject too
    uar: float | None
    uar_interval: Interval | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UnitDifference:
    """The same for action units: differences of the means of F1 over the units for which it is defined."""

    binary_of_defined: float | None
    binary_of_defined_interval: Interval | None
    macro_of_defined: float | None
    macro_of_defined_interval: Interval | None


def score_difference(
    truth: Sequence[str],
    first: Sequence[str],
    second: Sequence[str],
    subjects: Sequence[str],
    *,
    classes: Sequence[str],
    seed: int = 0,
) -> ScoreDifference:
    """Scores of the predictions `first` minus those of `second`. Raises ModelError as `metrics.score` does."""
    names, groups = group_by_name(subjects, len(truth))
    counts = []
    for predicted in (first, second):
        rows, columns = class_positions(truth, predicted, classes)
        counts.append(count_groups(groups, rows, columns, num_groups=len(names), num_classes=len(classes)))
    by_subject = np.stack(counts, axis=1)  # (S, 2, C, C)
    drawn = resample_subjects(by_subject, np.random.default_rng(seed))
    usable = drawn[(drawn.sum(axis=-1) > 0).all(axis=(1, 2))]
    values = {score: _less(score(by_subject.sum(axis=0))) for score in (uf1, uar)}
    return ScoreDifference(
        uf1=defined(values[uf1]),
        uf1_interval=interval(_less(uf1(usable)), len(names)),
        uar=defined(values[uar]),
        uar_interval=interval(_less(uar(usable)), len(names)),
    )


def unit_difference(
    truth: Flags, first: Flags, second: Flags, subjects: Sequence[str], *, seed: int = 0
) -> UnitDifference:
    """The same for action units, (n, U) each: whether a unit is present, and both methods' predictions."""
    names, people = group_by_name(subjects, len(truth))
    by_subject = np.stack([count_units(truth, flags, people) for flags in (first, second)], axis=1)  # (S, 2, U, 2, 2)
    whole = by_subject.sum(axis=0)
    drawn = resample_subjects(by_subject, np.random.default_rng(seed))
    seen = (drawn.sum(axis=-1) > 0) | (whole.sum(axis=-1) == 0)
    usable = drawn[seen.all(axis=(1, 2, 3))]
    has_binary = truth.any(axis=0)
    has_macro = has_binary & ~truth.all(axis=0)
    found: dict[str, float | Interval | None] = {}
    for name, units, of in (
        ("binary_of_defined", has_binary, lambda counts: f1_per_class(counts)[..., 1]),
        ("macro_of_defined", has_macro, uf1),
    ):
        found[name] = float(_less(of(whole)[:, units].mean(axis=-1))) if units.any() else None
        drawn_values = _less(of(usable)[..., units].mean(axis=-1)) if units.any() else np.empty(0)
        found[f"{name}_interval"] = interval(drawn_values, len(names))
    return UnitDifference(**found)  # type: ignore[arg-type]


def _less(values: Floats) -> Floats:
    """(..., 2) to (...): the first minus the second."""
    return np.asarray(values[..., 0] - values[..., 1])
