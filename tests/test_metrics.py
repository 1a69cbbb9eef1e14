import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as reference_confusion
from sklearn.metrics import f1_score, precision_score, recall_score

from mbert import ConfigError, ModelError
from mbert.manifests.labels.folds import leave_one_subject_out
from mbert.manifests.subject import Subject
from mbert.model.scoring.confusion import confusion_matrix, uar, uf1
from mbert.model.scoring.metrics import over_seeds, score, score_by_dataset

CLASSES = ["negative", "positive", "surprise"]


def test_scores_equal_hand_arithmetic():
    # rows true: negative 3 of 4 right, positive 1 of 2, surprise 0 of 1 (taken for negative)
    counts = np.array([[3, 1, 0], [1, 1, 0], [1, 0, 0]])
    assert uf1(counts) == pytest.approx((2 * 3 / (2 * 3 + 2 + 1) + 2 * 1 / (2 * 1 + 1 + 1) + 0) / 3)
    assert uar(counts) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)


def test_scores_equal_scikit_learn_on_random_cases():
    rng = np.random.default_rng(0)
    for _ in range(40):
        classes = [f"c{index}" for index in range(rng.integers(2, 8))]
        truth = [*classes, *(str(name) for name in rng.choice(classes, 60, p=rng.dirichlet([1] * len(classes))))]
        predicted = [str(name) for name in rng.choice(classes[: rng.integers(1, len(classes) + 1)], len(truth))]
        result = score(truth, predicted, [f"s{index % 7}" for index in range(len(truth))])
        assert result.confusion == reference_confusion(truth, predicted, labels=classes).tolist()
        assert result.uf1 == pytest.approx(f1_score(truth, predicted, average="macro"))
        assert result.uar == pytest.approx(recall_score(truth, predicted, average="macro"))
        assert result.weighted_f1 == pytest.approx(f1_score(truth, predicted, average="weighted"))
        assert result.accuracy == pytest.approx(np.mean(np.array(truth) == np.array(predicted)))
        precision = precision_score(truth, predicted, average=None, labels=classes, zero_division=np.nan)
        assert [each.precision for each in result.per_class.values()] == [
            None if math.isnan(value) else pytest.approx(value) for value in precision
        ]
        assert [each.recall for each in result.per_class.values()] == pytest.approx(
            recall_score(truth, predicted, average=None, labels=classes)
        )


def test_three_folds_counted_by_hand():
    """One fold has a single class, and surprise is never predicted."""
    folds = {
        "a": (["negative"] * 4, ["negative", "negative", "negative", "positive"]),
        "b": (["negative", "positive", "positive"], ["negative", "positive", "negative"]),
        "c": (["negative", "surprise", "positive"], ["positive", "negative", "positive"]),
    }
    truth = [name for labels, _ in folds.values() for name in labels]
    predicted = [name for _, guesses in folds.values() for name in guesses]
    subjects = [subject for subject, (labels, _) in folds.items() for _ in labels]
    result = score(truth, predicted, subjects)
    # pooled: negative TP 4, FP 2, FN 2; positive TP 2, FP 2, FN 1; surprise TP 0, FP 0, FN 1
    assert result.confusion == [[4, 2, 0], [1, 2, 0], [1, 0, 0]]
    assert result.uf1 == pytest.approx((8 / 12 + 4 / 7 + 0) / 3)
    assert result.uar == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert result.accuracy == pytest.approx(6 / 10)
    assert result.weighted_f1 == pytest.approx((6 * 8 / 12 + 3 * 4 / 7 + 0) / 10)
    negative, surprise = result.per_class["negative"], result.per_class["surprise"]
    assert (negative.precision, negative.recall, negative.support, negative.predicted) == (4 / 6, 4 / 6, 6, 6)
    assert (surprise.precision, surprise.recall, surprise.f1, surprise.support) == (None, 0, 0, 1)
    assert {name: (each.num_samples, each.accuracy) for name, each in result.per_subject.items()} == {
        "a": (4, 3 / 4),
        "b": (3, 2 / 3),
        "c": (3, 1 / 3),
    }
    assert (result.num_samples, result.num_subjects) == (10, 3)
    means = [
        np.mean([f1_score(*fold, average="macro", labels=CLASSES, zero_division=0) for fold in folds.values()]),
        np.mean([f1_score(*fold, average="macro", labels=sorted({*fold[0]})) for fold in folds.values()]),
    ]
    assert means == pytest.approx([(2 / 7 + 4 / 9 + 2 / 9) / 3, (6 / 7 + 2 / 3 + 2 / 9) / 3])
    assert min(abs(result.uf1 - mean) for mean in means) > 0.09


def test_precision_taken_for_recall_would_be_seen():
    counts = np.array([[40, 30, 0], [2, 10, 1], [0, 0, 30]])
    assert uf1(counts) == pytest.approx(uf1(counts.T))
    assert abs(uar(counts) - uar(counts.T)) > 0.03
    rows, columns = (np.repeat([indices[axis] for indices in np.ndindex(3, 3)], counts.ravel()) for axis in (0, 1))
    truth, predicted = ([CLASSES[index] for index in indices] for indices in (rows, columns))
    result = score(truth, predicted, [f"s{index % 5}" for index in range(len(truth))])
    assert result.confusion == counts.tolist()
    assert result.uar == pytest.approx(np.mean([40 / 70, 10 / 13, 1]))
    assert result.uar != pytest.approx(np.mean([each.precision for each in result.per_class.values()]), abs=0.03)


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


def test_an_absent_class_leaves_uf1_and_uar_undefined():
    truth, predicted = (
        ["negative", "negative", "positive", "positive"],
        ["negative", "surprise", "positive", "negative"],
    )
    subjects = ["a", "b", "a", "b"]
    with pytest.raises(ModelError, match=r"predicted classes \['surprise'\] do not occur"):
        score(truth, predicted, subjects)
    result = score(truth, predicted, subjects, classes=CLASSES)
    assert [result.uf1, result.uar, result.uf1_interval, result.uar_interval] == [None] * 4
    assert [result.chance_uf1, result.chance_uar, result.resamples_left_out] == [None, None, 1000]
    assert result.accuracy == 1 / 2
    assert result.weighted_f1 == pytest.approx(f1_score(truth, predicted, average="weighted", zero_division=0))
    surprise = result.per_class["surprise"]
    assert (surprise.precision, surprise.recall, surprise.f1) == (0, None, None)
    assert (surprise.support, surprise.predicted) == (0, 1)
    assert json.loads(json.dumps(asdict(result), allow_nan=False))["per_class"]["surprise"]["f1"] is None


def test_unknown_classes_and_unequal_lengths_are_refused():
    with pytest.raises(ModelError, match="unknown classes fear; known are negative, positive, surprise"):
        confusion_matrix(["fear"], ["negative"], CLASSES)
    with pytest.raises(ModelError, match="2 labels but 1 predictions"):
        confusion_matrix(["negative"] * 2, ["negative"], CLASSES)
    with pytest.raises(ModelError, match=r"predicted classes \['fear'\] do not occur"):
        score(["negative", "positive"], ["negative", "fear"], ["a", "b"])
    with pytest.raises(ModelError, match="2 labels but 1 names of subjects"):
        score(["negative"] * 2, ["negative"] * 2, ["a"])
    with pytest.raises(ModelError, match="no predictions to score"):
        score([], [], [], classes=CLASSES)
    with pytest.raises(ModelError, match="a class is named twice: fear, fear"):
        score(["fear"], ["fear"], ["a"], classes=["fear", "fear"])
    with pytest.raises(ModelError, match="2 labels but 1 predictions"):
        score_by_dataset(["fear"] * 2, ["fear"], ["a"] * 2, ["d"] * 2)


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


def test_the_bootstrap_draws_subjects_not_samples():
    """Twelve people, each wholly right or wholly wrong: 1200 samples tell no more than twelve."""
    truth = [CLASSES[index % 3] for index in range(1200)]
    wrong = {"negative": "positive", "positive": "surprise", "surprise": "negative"}
    subjects = [f"s{index // 100:02}" for index in range(1200)]
    predicted = [name if int(who[1:]) % 2 else wrong[name] for name, who in zip(truth, subjects, strict=True)]
    by_person = score(truth, predicted, subjects).uar_interval
    by_sample = score(truth, predicted, [str(index) for index in range(1200)]).uar_interval
    assert by_person[1] - by_person[0] > 0.4  # 12 tosses of a coin: 2 * 1.96 * 0.5 / sqrt(12) = 0.57
    assert by_sample[1] - by_sample[0] < 0.08  # 1200 tosses: 0.057


def test_one_subject_gives_no_interval_and_lost_classes_are_counted():
    alone = score(CLASSES, CLASSES, ["a"] * 3)
    assert (alone.uf1, alone.uf1_interval, alone.uar_interval, alone.resamples_left_out) == (1, None, None, 0)
    # only b shows a surprise: (2/3)^3 of the resamples of three subjects lack it
    result = score(CLASSES * 2 + CLASSES[:2], CLASSES * 2 + CLASSES[:2], ["a", "a", "b", "a", "a", "b", "c", "c"])
    assert result.resamples_left_out == pytest.approx(1000 * 8 / 27, abs=60)
    assert result.uf1_interval == (1, 1)


def test_chance_is_what_the_same_predictions_score_at_random_places():
    truth = ["negative"] * 80 + ["positive"] * 15 + ["surprise"] * 5
    result = score(truth, ["negative"] * 100, [f"s{index % 10}" for index in range(100)])
    assert result.chance_uf1 == pytest.approx(result.uf1)  # a constant guess is worth what it is worth anywhere
    assert result.chance_uar == pytest.approx(1 / 3)


def test_each_dataset_is_scored_on_the_same_predictions_with_the_classes_of_the_whole():
    rng = np.random.default_rng(1)
    datasets = [("casme2", "smic", "samm")[index % 3] for index in range(300)]
    classes = {"casme2": CLASSES, "smic": CLASSES, "samm": CLASSES[:2]}
    truth = [str(rng.choice(classes[dataset])) for dataset in datasets]
    predicted = [name if rng.random() < 0.5 else str(rng.choice(CLASSES)) for name in truth]
    subjects = [f"{dataset}/{index % 10}" for index, dataset in enumerate(datasets)]
    whole, parts = score(truth, predicted, subjects), score_by_dataset(truth, predicted, subjects, datasets)
    assert list(parts) == ["casme2", "samm", "smic"]
    assert np.sum([part.confusion for part in parts.values()], axis=0).tolist() == whole.confusion
    mine = [index for index, dataset in enumerate(datasets) if dataset == "smic"]
    alone = score(*([values[index] for index in mine] for values in (truth, predicted, subjects)), classes=CLASSES)
    assert parts["smic"] == alone
    assert (parts["samm"].uf1, parts["samm"].uar, parts["samm"].classes) == (None, None, CLASSES)
    assert parts["samm"].per_class["surprise"].predicted > 0
    assert 0 < parts["samm"].weighted_f1 < 1


def test_seeds_give_mean_deviation_and_values():
    truth, subjects = ["a", "a", "b", "b"], ["s", "t", "s", "t"]
    runs = [score(truth, predicted, subjects) for predicted in (["a", "a", "b", "b"], ["a", "a", "b", "a"])]
    spread = over_seeds(runs)
    assert spread.accuracy.values == [1, 3 / 4]
    assert (spread.accuracy.mean, spread.accuracy.standard_deviation) == pytest.approx((7 / 8, math.sqrt(2) / 8))
    assert spread.uf1.values == [run.uf1 for run in runs]
    assert spread.uar.mean == pytest.approx(7 / 8)
    assert spread.weighted_f1.mean == pytest.approx((1 + (4 / 5 + 2 / 3) / 2) / 2)
    assert over_seeds(runs[:1]).uf1.standard_deviation is None
    undefined = over_seeds([score(["a"], ["a"], ["s"], classes=["a", "b"])] * 2)
    assert (undefined.uf1.mean, undefined.uf1.values, undefined.accuracy.mean) == (None, [None, None], 1)
    with pytest.raises(ModelError, match="scores are of different samples"):
        over_seeds([runs[0], score(truth[:3], truth[:3], subjects[:3])])
    with pytest.raises(ModelError, match="no scores to average"):
        over_seeds([])


def test_random_predictions_score_at_chance():
    rng = np.random.default_rng(0)
    truth = [str(name) for name in rng.choice(CLASSES, 3000)]
    predicted = [str(name) for name in rng.choice(CLASSES, 3000)]
    result = score(truth, predicted, [f"s{index % 30}" for index in range(3000)])
    assert result.uf1 == pytest.approx(result.chance_uf1, abs=0.03)
    assert result.uar == pytest.approx(1 / 3, abs=0.03)


def test_folds_test_every_sample_once_and_never_train_on_its_subject():
    subjects = [Subject("x", name) for name in "babca"]
    folds = list(leave_one_subject_out(subjects))
    assert [fold.name for fold in folds] == ["x/a", "x/b", "x/c"]
    assert sorted(index for fold in folds for index in fold.test) == [0, 1, 2, 3, 4]
    assert [{subjects[index] for index in fold.train} & {fold.name} for fold in folds] == [set(), set(), set()]
    assert [len(fold.train) + len(fold.test) for fold in folds] == [5, 5, 5]


def test_one_subject_cannot_be_left_out():
    with pytest.raises(ConfigError, match="at least 2 subjects, found 1: x/only"):
        list(leave_one_subject_out([Subject("x", "only")] * 2))
