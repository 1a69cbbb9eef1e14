"""`mbert eval --protocol loso`: features once, one linear head per held-out subject, pooled scores.

The encoder is frozen; what is fitted in a fold (scaling of the features, linear head) sees the other subjects only.
Nothing is chosen by score: the regularisation is a constant.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mbert import __version__
from mbert.manifests.folds import Fold, leave_one_subject_out
from mbert.manifests.schema import PairRow
from mbert.manifests.store import read_json, replacing, write_json
from mbert.model.baselines import difference_features, majority
from mbert.model.data import normalize
from mbert.model.device import pick_compute
from mbert.model.features import pair_inputs
from mbert.model.labelled import decode_pairs, labelled_expressions
from mbert.model.metrics import Scores, score
from mbert.model.micron_bert import MicronBert
from mbert.model.weights import read_state
from mbert.shards.pair import FramePair

_REGULARISATION = 1.0  # scikit-learn's default C; a constant, so that nothing is tuned on the protocol's own score
_BATCH = 32

Features = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """Pooled scores of the model and of the baselines under the same folds."""

    protocol: str
    mbert: Scores
    frame_difference: Scores
    majority: Scores
    num_samples: int
    num_subjects: int
    encoder_saw_test_subjects: list[str]  # their frames, without labels, were in the pretraining shards
    encoder_learned_labels_of: list[str]  # test subjects it was finetuned on: the score of such an encoder leaks
    checkpoint: str
    seconds: float
    folder: str


def run_loso(
    shards_folder: Path,
    checkpoint: Path,
    out: Path,
    *,
    labels_path: Path | None,
    on_fold: Callable[[int, int], None] = lambda done, total: None,
) -> EvalResult:
    """Leave-one-subject-out over the onset-apex pairs of the shards; writes predictions.parquet and results.json.

    Raises ManifestError without labelled pairs (`labels_path` is named in the message), ConfigError with fewer than two
    subjects, ModelError without a checkpoint.
    """
    began = time.monotonic()
    rows, pairs = labelled_expressions(shards_folder, labels_path)
    model = MicronBert.from_pretrained(checkpoint)
    state = read_state(checkpoint)
    folds = list(leave_one_subject_out([row.subject or "" for row in rows]))
    truth = [(row.emotion or "").casefold() for row in rows]
    subjects = [row.subject or "" for row in rows]
    predicted = _cross_predict(pair_features(model, pairs), truth, folds, on_fold)
    baselines = {
        "frame_difference": _cross_predict(difference_features(pairs), truth, folds),
        "majority": majority(truth, folds),
    }
    result = EvalResult(
        protocol="loso",
        mbert=score(truth, predicted, subjects),
        frame_difference=score(truth, baselines["frame_difference"], subjects),
        majority=score(truth, baselines["majority"], subjects),
        num_samples=len(rows),
        num_subjects=len(folds),
        encoder_saw_test_subjects=sorted(set(subjects) & set(state.subjects)),
        encoder_learned_labels_of=sorted(set(subjects) & set(state.labelled_subjects)),
        checkpoint=str(checkpoint),
        seconds=time.monotonic() - began,
        folder=str(out),
    )
    _write_predictions(out / "predictions.parquet", rows, truth, predicted, baselines)
    write_json(
        out / "results.json",
        {
            **dataclasses.asdict(result),
            "mbert_version": __version__,
            "corpus": read_json(shards_folder / "pairs.json")["corpus"],
            "pretrained_on_corpus": state.corpus,
            "pretraining_steps": state.step,
        },
    )
    return result


def pair_features(model: MicronBert, pairs: Sequence[FramePair], inputs: Sequence[str] = ("change",)) -> Features:
    """(n, F): what a head looks at, names as in features.py; raises ConfigError for what the model cannot give."""
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


def _cross_predict(
    features: Features,
    truth: Sequence[str],
    folds: Sequence[Fold],
    on_fold: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Fit a head per fold on the other subjects and predict the held-out one; predictions in sample order."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = [""] * len(truth)
    for number, fold in enumerate(folds):
        train, test = list(fold.train), list(fold.test)
        labels = [truth[index] for index in train]
        if len(set(labels)) == 1:  # nothing to tell apart
            guesses = [labels[0]] * len(test)
        else:
            head = make_pipeline(
                StandardScaler(),
                LogisticRegression(C=_REGULARISATION, class_weight="balanced", max_iter=2000),
            )
            guesses = [str(name) for name in head.fit(features[train], labels).predict(features[test])]
        for index, guess in zip(test, guesses, strict=True):
            predicted[index] = guess
        on_fold(number + 1, len(folds))
    return predicted


def _write_predictions(
    path: Path, rows: Sequence[PairRow], truth: Sequence[str], predicted: Sequence[str], baselines: dict[str, list[str]]
) -> None:
    table = pa.table(
        {
            "key": [row.key for row in rows],
            "clip_id": [row.clip_id for row in rows],
            "subject": [row.subject for row in rows],
            "label": list(truth),
            "prediction": list(predicted),
            **baselines,
        }
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
