import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from mbert import ConfigError, ModelError
from mbert.manifests.folds import leave_one_subject_out
from mbert.model.confusion import confusion_matrix, uar, uf1
from mbert.model.metrics import score

CLASSES = ["negative", "positive", "surprise"]


def test_scores_equal_hand_arithmetic():
    # rows true: negative 3 of 4 right, positive 1 of 2, surprise 0 of 1 (taken for negative)
    counts = np.array([[3, 1, 0], [1, 1, 0], [1, 0, 0]])
    assert uf1(counts) == pytest.approx((2 * 3 / (2 * 3 + 2 + 1) + 2 * 1 / (2 * 1 + 1 + 1) + 0) / 3)
    assert uar(counts) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)


def test_scores_equal_scikit_learn_on_random_cases():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = [*CLASSES, *rng.choice(CLASSES, 60, p=[0.6, 0.3, 0.1])]
        predicted = [str(name) for name in rng.choice(CLASSES, 63)]
        counts = confusion_matrix(truth, predicted, CLASSES)
        assert uf1(counts) == pytest.approx(f1_score(truth, predicted, average="macro"))
        assert uar(counts) == pytest.approx(recall_score(truth, predicted, average="macro"))


def test_precision_taken_for_recall_would_be_seen():
    counts = np.array([[40, 30, 0], [2, 10, 1], [0, 0, 30]])
    assert uf1(counts) == pytest.approx(uf1(counts.T))
    assert abs(uar(counts) - uar(counts.T)) > 0.03


def test_pooled_scores_differ_from_the_mean_over_folds():
    truth = ["negative"] * 6 + ["positive", "negative", "surprise"]
    predicted = ["negative"] * 6 + ["negative", "negative", "surprise"]
    subjects = ["a"] * 6 + ["b"] * 3
    pooled = score(truth, predicted, subjects).uf1
    folds = [f1_score(truth[:6], predicted[:6], average="macro"), f1_score(truth[6:], predicted[6:], average="macro")]
    assert pooled == pytest.approx((2 * 7 / (2 * 7 + 1) + 0 + 1) / 3)
    assert abs(pooled - np.mean(folds)) > 0.05


def test_a_class_without_samples_is_nan_not_a_smaller_mean():
    counts = np.array([[3, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert math.isnan(uf1(counts))
    assert math.isnan(uar(counts))


def test_unknown_classes_and_unequal_lengths_are_refused():
    with pytest.raises(ModelError, match="unknown classes fear; known are negative, positive, surprise"):
        confusion_matrix(["fear"], ["negative"], CLASSES)
    with pytest.raises(ModelError, match="2 labels but 1 predictions"):
        confusion_matrix(["negative"] * 2, ["negative"], CLASSES)
    with pytest.raises(ModelError, match=r"predicted classes \['fear'\] do not occur"):
        score(["negative", "positive"], ["negative", "fear"], ["a", "b"])


def test_intervals_hold_the_score_and_follow_the_seed():
    rng = np.random.default_rng(0)
    truth = [str(name) for name in rng.choice(CLASSES, 120)]
    predicted = [name if rng.random() < 0.7 else str(rng.choice(CLASSES)) for name in truth]
    subjects = [f"s{index % 12}" for index in range(120)]
    first, again = score(truth, predicted, subjects), score(truth, predicted, subjects)
    assert first == again
    assert first.uf1_interval[0] < first.uf1 < first.uf1_interval[1]
    assert first.uar_interval[0] < first.uar < first.uar_interval[1]
    assert first.chance_uar == pytest.approx(1 / 3, abs=0.02)
    assert np.sum(first.confusion) == 120


def test_random_predictions_score_at_chance():
    rng = np.random.default_rng(0)
    truth = [str(name) for name in rng.choice(CLASSES, 3000)]
    predicted = [str(name) for name in rng.choice(CLASSES, 3000)]
    result = score(truth, predicted, [f"s{index % 30}" for index in range(3000)])
    assert result.uf1 == pytest.approx(result.chance_uf1, abs=0.03)
    assert result.uar == pytest.approx(1 / 3, abs=0.03)


def test_folds_test_every_sample_once_and_never_train_on_its_subject():
    subjects = ["b", "a", "b", "c", "a"]
    folds = list(leave_one_subject_out(subjects))
    assert [fold.subject for fold in folds] == ["a", "b", "c"]
    assert sorted(index for fold in folds for index in fold.test) == [0, 1, 2, 3, 4]
    assert [{subjects[index] for index in fold.train} & {fold.subject} for fold in folds] == [set(), set(), set()]
    assert [len(fold.train) + len(fold.test) for fold in folds] == [5, 5, 5]


def test_one_subject_cannot_be_left_out():
    with pytest.raises(ConfigError, match="at least 2 subjects, found 1: only"):
        list(leave_one_subject_out(["only", "only"]))
