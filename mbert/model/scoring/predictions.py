"""Scores of a file of predictions from any source."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from mbert import ManifestError
from mbert.manifests.labels.prediction_files import Prediction, read_predictions
from mbert.model.scoring.confusion import NUM_RESAMPLES
from mbert.model.scoring.metrics import Scores, score, score_by_dataset

_UNITS = re.compile(r"au\d+(\+au\d+)*")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PredictionScores(Scores):
    """Scores pooled over all rows of a file. The mean of per-fold F1 is another number and is not reported."""

    file: str
    per_dataset: dict[str, Scores]  # the same predictions; empty if the file names no dataset
    warnings: list[str]


def score_predictions(path: Path, *, classes: Sequence[str] | None = None, seed: int = 0) -> PredictionScores:
    """Score the rows of `path` as one pool, and those of each dataset.

    `classes` are those of the protocol, needed only if some have no samples. Raises ManifestError for a file that
    cannot be read as predictions, ModelError as `score`.
    """
    rows = read_predictions(path)
    if all(_UNITS.fullmatch(row.label) for row in rows):
        raise ManifestError(f"{path} holds action units, which are no classes; mbert eval --protocol cd6me scores them")
    truth, predicted, subjects = ([getattr(row, name) for row in rows] for name in ("label", "prediction", "subject"))
    classes = None if classes is None else [name.strip().casefold() for name in classes]
    pooled = score(truth, predicted, subjects, classes=classes, seed=seed)
    datasets = [row.dataset for row in rows if row.dataset is not None]
    per_dataset = (
        score_by_dataset(truth, predicted, subjects, datasets, classes=pooled.classes, seed=seed) if datasets else {}
    )
    return PredictionScores(
        **{field.name: getattr(pooled, field.name) for field in dataclasses.fields(pooled)},
        file=str(path),
        per_dataset=per_dataset,
        warnings=_warnings(rows, pooled, per_dataset),
    )


def _warnings(rows: Sequence[Prediction], pooled: Scores, per_dataset: dict[str, Scores]) -> list[str]:
    found = []
    if pooled.num_subjects == 1:
        found.append(
            f"only one subject, {rows[0].subject}: nothing can be said about other people, nor an interval given"
        )
    elif all(subject.num_samples == 1 for subject in pooled.per_subject.values()):
        found.append("every subject has one sample: see that the subject column names people, not clips")
    if pooled.num_subjects > 1:
        found += [
            f"dataset {name} has one subject, {next(iter(scores.per_subject))}: see that it is a dataset"
            for name, scores in per_dataset.items()
            if scores.num_subjects == 1
        ]
    empty = [name for name, each in pooled.per_class.items() if not each.support]
    if empty:
        found.append(f"no sample is labelled {', '.join(empty)}: UF1 and UAR are not defined")
    elif pooled.resamples_left_out:
        found.append(
            f"{pooled.resamples_left_out} of {NUM_RESAMPLES} resamples of the subjects lost a class; "
            "the intervals are of the others"
        )
    if len(pooled.classes) == 1:
        found.append(f"there is one class, {pooled.classes[0]}: nothing can be distinguished")
    return found
