"""Scores of action units, as for CD6ME: F1 of each unit over the pooled predictions of all folds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mbert import ModelError
from mbert.model.scoring.confusion import (
    NUM_RESAMPLES,
    Counts,
    Floats,
    Interval,
    count_groups,
    defined,
    f1_per_class,
    group_by_name,
    interval,
    resample_subjects,
    uf1,
)

Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UnitScore:
    """One action unit."""

    binary: float | None  # F1 of presence; None without a sample that has the unit
    macro: float | None  # mean of F1 of presence and F1 of absence; None when either has no sample
    positives: int  # samples that have the unit
    predicted: int  # samples for which it was predicted


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ActionUnitScores:
    """F1 of each action unit on pooled predictions, and means over the units.

    A mean over all units is None if one unit's F1 is. The means `of_defined` leave such units out: compare them only
    with means over the same units.
    """

    binary: float | None
    macro: float | None
    binary_of_defined: float | None
    macro_of_defined: float | None
    binary_of_defined_interval: Interval | None  # 95 %, bootstrap over subjects; None for a single subject
    macro_of_defined_interval: Interval | None
    resamples_left_out: int  # of 1000: they drew no sample with, or none without, some unit
    absent_units: list[str]  # no sample has them: neither F1 is defined
    constant_units: list[str]  # every sample has them: macro F1 is not defined
    per_unit: dict[str, UnitScore]
    num_samples: int
    num_subjects: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ActionUnitResult:
    """Scores over all samples, and for the same predictions restricted to each dataset."""

    pooled: ActionUnitScores
    per_dataset: dict[str, ActionUnitScores]


def score_action_units(
    truth: Flags,
    predicted: Flags,
    units: Sequence[int],
    subjects: Sequence[str],
    datasets: Sequence[str],
    *,
    seed: int = 0,
) -> ActionUnitResult:
    """Score multi-label predictions, as for CD6ME: which of `units` (numbers) are present; `truth`, `predicted` (n, U).

    Raises ModelError for arrays that are not boolean or not (n, U), and for sequences of unequal length.
    """
    for name, flags in (("labels", truth), ("predictions", predicted)):
        if flags.dtype != np.bool_ or flags.shape != (len(subjects), len(units)):
            raise ModelError(
                f"{name} of action units are {flags.dtype} {flags.shape}; "
                f"{len(subjects)} subjects and {len(units)} units need bool ({len(subjects)}, {len(units)})"
            )
    labels = [f"AU{number}" for number in units]
    _, people = group_by_name(subjects, len(truth))
    names, groups = group_by_name(datasets, len(truth))
    parts = {name: groups == index for index, name in enumerate(names)}
    return ActionUnitResult(
        pooled=_score_units(truth, predicted, labels, people, seed),
        per_dataset={
            name: _score_units(truth[part], predicted[part], labels, people[part], seed) for name, part in parts.items()
        },
    )


def _score_units(truth: Flags, predicted: Flags, units: Sequence[str], people: Counts, seed: int) -> ActionUnitScores:
    by_subject = count_units(truth, predicted, people)
    num_subjects = len(by_subject)
    confusion = by_subject.sum(axis=0)
    positives, negatives = confusion[:, 1].sum(axis=-1), confusion[:, 0].sum(axis=-1)
    binary, macro = f1_per_class(confusion)[:, 1], uf1(confusion)
    has_binary, has_macro = positives > 0, (positives > 0) & (negatives > 0)
    resampled = resample_subjects(by_subject, np.random.default_rng(seed))
    seen = resampled.sum(axis=-1) > 0  # (R, U, 2)
    usable = resampled[(seen | (confusion.sum(axis=-1) == 0)).all(axis=(1, 2))]
    return ActionUnitScores(
        binary=defined(binary.mean()),
        macro=defined(macro.mean()),
        binary_of_defined=float(binary[has_binary].mean()) if has_binary.any() else None,
        macro_of_defined=float(macro[has_macro].mean()) if has_macro.any() else None,
        binary_of_defined_interval=interval(_mean(f1_per_class(usable)[:, has_binary, 1]), num_subjects),
        macro_of_defined_interval=interval(_mean(uf1(usable)[:, has_macro]), num_subjects),
        resamples_left_out=NUM_RESAMPLES - len(usable),
        absent_units=[name for name, count in zip(units, positives, strict=True) if count == 0],
        constant_units=[name for name, count in zip(units, negatives, strict=True) if count == 0],
        per_unit={
            name: UnitScore(
                binary=defined(binary[index]),
                macro=defined(macro[index]),
                positives=int(positives[index]),
                predicted=int(confusion[index, :, 1].sum()),
            )
            for index, name in enumerate(units)
        },
        num_samples=len(truth),
        num_subjects=num_subjects,
    )


def count_units(truth: Flags, predicted: Flags, people: Counts) -> Counts:
    """(S, U, 2, 2) confusion per person and unit, which is absent (0) or present (1); `people` (n,) are numbers."""
    subjects, groups = np.unique(people, return_inverse=True)
    num_units = truth.shape[1]
    counts = count_groups(
        (groups[:, None] * num_units + np.arange(num_units)).ravel(),
        truth.ravel().astype(np.int64),
        predicted.ravel().astype(np.int64),
        num_groups=len(subjects) * num_units,
        num_classes=2,
    )
    return counts.reshape(len(subjects), num_units, 2, 2)


def _mean(values: Floats) -> Floats:
    """(R, U) to (R,); empty without units."""
    return values.mean(axis=-1) if values.shape[-1] else np.empty(0)
