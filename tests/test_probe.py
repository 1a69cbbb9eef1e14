import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mbert.manifests.labels.folds import leave_one_subject_out
from mbert.manifests.schema import PairRow
from mbert.manifests.subject import Subject
from mbert.model.scoring.metrics import score
from mbert.model.scoring.probe import _joined, fit_probe, predict_folds, predict_units


def samples_of(subjects):
    return [
        PairRow(
            key=f"k{index}", shard="000000", clip_id=f"c{index}", subject=subject, t0=0, t1=1, delta_seconds=0.1,
            kind="onset_apex", dataset="videos", sample=f"k{index}", t0_offset=0, t0_size=0, t1_offset=0, t1_size=0,
        )
        for index, subject in enumerate(subjects)
    ]  # fmt: skip


def drawn(num=60, num_features=5, num_subjects=4, signal=1.0, classes="abc", seed=0):
    rng = np.random.default_rng(seed)
    subjects = [Subject("videos", f"s{index % num_subjects}") for index in range(num)]
    truth = [str(name) for name in rng.choice(list(classes), num)]
    features = rng.normal(size=(num, num_features)) + signal * np.array([[ord(name)] for name in truth])
    return features.astype(np.float32), truth, subjects


def predicted(features, truth, subjects, **options):
    return predict_folds(features, truth, leave_one_subject_out(subjects), samples_of(subjects), **options)


@pytest.mark.parametrize("num_features", [5, 400])
def test_the_heads_are_those_of_scikit_learn_on_standardised_features(num_features):
    """Also where the features are turned to the axes of their span, because there are more of them than samples."""
    features, truth, subjects = drawn(num_features=num_features, signal=0.1)
    features[:, 1] = 3.0  # says nothing
    expected, sure = [""] * len(truth), np.empty(len(truth))
    for fold in leave_one_subject_out(subjects):
        head = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000, tol=1e-8))
        head.fit(features[list(fold.train)], [truth[index] for index in fold.train])
        sure[list(fold.test)] = head.predict_proba(features[list(fold.test)]).max(axis=1)
        for index, guess in zip(fold.test, head.predict(features[list(fold.test)]), strict=True):
            expected[index] = guess
    confidence = np.full(len(truth), np.nan)
    found = predicted(features, truth, subjects, confidence=confidence)
    assert confidence == pytest.approx(sure, abs=0.02)
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 1  # a tie may fall either way


@pytest.mark.parametrize("num_features", [7, 400])
def test_features_in_own_units_keep_their_sizes_to_each_other(num_features):
    features, truth, subjects = drawn(num_features=num_features, signal=0.2)
    own_units = np.arange(num_features) % 3  # two units, and features without one
    features *= np.linspace(0.1, 10, num_features, dtype=np.float32)
    expected = [""] * len(truth)
    for fold in leave_one_subject_out(subjects):
        train = features[list(fold.train)].astype(np.float64)
        scale = train.std(axis=0)
        for unit in (1, 2):
            scale[own_units == unit] = train[:, own_units == unit].var(axis=0).mean() ** 0.5
        head = LogisticRegression(class_weight="balanced", max_iter=2000, tol=1e-8)
        head.fit((train - train.mean(axis=0)) / scale, [truth[index] for index in fold.train])
        others = (features[list(fold.test)] - train.mean(axis=0)) / scale
        for index, guess in zip(fold.test, head.predict(others), strict=True):
            expected[index] = guess
    found = predicted(features, truth, subjects, own_units=own_units)
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 1
    assert found != predicted(features, truth, subjects)


def test_a_fold_joins_neighbouring_places_where_other_people_of_its_training_side_gain_by_it():
    rng = np.random.default_rng(1)
    _, truth, subjects = drawn(num=120, num_subjects=6)
    maps = rng.normal(0, 4, (120, 2, 14, 14))  # noise of single places, which neighbours take away
    for image, label in zip(maps, truth, strict=True):
        row, column = {"a": (3, 3), "b": (3, 9), "c": (9, 6)}[label]
        image[:, row : row + 3, column : column + 3] += 1.3
    features = maps.reshape(120, -1).astype(np.float32)
    own_units, sides = np.ones(features.shape[1], int), [14, 14]
    right = {}
    for select in ("fixed", "inner"):
        for map_sides in ((), sides):
            found = predicted(features, truth, subjects, own_units=own_units, select=select, map_sides=map_sides)
            right[select, len(map_sides)] = np.mean([one == other for one, other in zip(found, truth, strict=True)])
    assert right["fixed", 2] == right["fixed", 0]
    assert right["inner", 2] > right["inner", 0] + 0.05


def test_maps_of_different_sides_are_joined_each_by_itself():
    maps = [np.zeros((1, 14, 14), np.float32), np.zeros((1, 7, 7), np.float32)]
    maps[0][0, 5, 5], maps[1][0, 3, 3] = 1, 1
    features = np.concatenate([each.reshape(1, -1) for each in maps], axis=1)
    found = _joined(features, (14, 7), 0.071)
    first, second = found[0, :196].reshape(14, 14), found[0, 196:].reshape(7, 7)
    assert (first.sum(), second.sum()) == pytest.approx((1, 1), abs=1e-4)
    assert first[5, 6] == pytest.approx(first[5, 5] * np.exp(-1 / (2 * (14 * 0.071) ** 2)), rel=1e-4)
    assert second[3, 4] == pytest.approx(second[3, 3] * np.exp(-1 / (2 * (7 * 0.071) ** 2)), rel=1e-4)
    assert np.array_equal(_joined(features, (14, 7), 0.0), features)


def test_a_unit_is_not_drowned_by_another_with_larger_numbers():
    features, truth, subjects = drawn(signal=0.3, num_features=8)
    own_units = np.repeat([1, 2], 4)
    before = predicted(features, truth, subjects, own_units=own_units)
    features[:, 4:] *= 1000  # noise beside the signal of the first unit, if they shared a scale
    assert predicted(features, truth, subjects, own_units=own_units) == before
    assert predicted(features, truth, subjects, own_units=np.ones(8, int)) != before


def test_labels_of_the_held_out_subject_do_not_touch_its_predictions():
    features, truth, subjects = drawn()
    before = predicted(features, truth, subjects)
    changed = ["c" if subject == "videos/s2" else name for subject, name in zip(subjects, truth, strict=True)]
    after = predicted(features, changed, subjects)
    mine = [index for index, subject in enumerate(subjects) if subject == "videos/s2"]
    others = [index for index, subject in enumerate(subjects) if subject != "videos/s2"]
    assert [after[index] for index in mine] == [before[index] for index in mine]
    assert [after[index] for index in others] != [before[index] for index in others]


def test_nor_do_they_touch_a_choice_inside_the_fold_but_the_oracle_they_do():
    turned = {"a": "b", "b": "c", "c": "a"}
    moved = {"inner": 0, "oracle": 0}
    for seed in range(4):
        features, truth, subjects = drawn(num=40, signal=0.0, num_features=40, seed=seed)
        mine = [index for index, subject in enumerate(subjects) if subject == "videos/s2"]
        changed = [turned[name] if index in mine else name for index, name in enumerate(truth)]
        for select in moved:
            before = predicted(features, truth, subjects, select=select)
            after = predicted(features, changed, subjects, select=select)
            moved[select] += [after[index] for index in mine] != [before[index] for index in mine]
    assert moved["inner"] == 0 < moved["oracle"]


def test_features_of_the_held_out_subject_do_not_touch_the_scaling_of_its_fold():
    features, truth, subjects = drawn(num_features=3, signal=0.0, classes="ab")
    before = predicted(features, truth, subjects)
    extreme = features.copy()
    extreme[2] *= 1e6  # one sample of s2
    after = predicted(extreme, truth, subjects)
    same = [index for index, subject in enumerate(subjects) if subject == "videos/s2" and index != 2]
    assert [after[index] for index in same] == [before[index] for index in same]


@pytest.mark.parametrize("select", ["fixed", "inner"])
def test_random_labels_score_at_chance(select):
    features, truth, subjects = drawn(num=300, num_features=30, num_subjects=10, signal=0.0)
    scores = score(truth, predicted(features, truth, subjects, select=select), subjects)
    low, high = scores.uar_interval
    assert low < 1 / 3 < high
    assert abs(scores.uf1 - scores.chance_uf1) < 0.08


def test_an_oracle_is_above_chance_on_random_labels():
    features, truth, subjects = drawn(num=200, num_features=30, num_subjects=20, signal=0.0)
    honest = score(truth, predicted(features, truth, subjects, select="inner"), subjects)
    oracle = score(truth, predicted(features, truth, subjects, select="oracle"), subjects)
    assert oracle.accuracy > honest.accuracy + 0.05  # which is why no table may hold it without saying so


def test_each_action_unit_has_a_head_and_one_that_nobody_shows_is_absent():
    features, _, subjects = drawn(num=80, num_features=3, signal=0.0)
    targets = np.stack([features[:, 0] > 0, features[:, 1] > 0.5, np.zeros(80, bool)], axis=1)
    found = predict_units(features, targets, leave_one_subject_out(subjects))
    assert (found[:, :2] == targets[:, :2]).mean() > 0.9
    assert not found[:, 2].any()


@pytest.mark.parametrize(("classes", "num_features"), [("abc", 400), ("ab", 400), ("abc", 8)])
def test_a_head_on_all_samples_says_of_features_what_scikit_learn_says(classes, num_features):
    features, truth, _ = drawn(num_features=num_features, signal=0.1, classes=classes)
    features[:, 1] = 3.0  # says nothing
    probe = fit_probe(features, truth)
    logits = ((features - probe.mean) / probe.scale) @ probe.weights.T + probe.bias
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    head = LogisticRegression(class_weight="balanced", max_iter=5000, tol=1e-8)
    known = make_pipeline(StandardScaler(), head).fit(features.astype(np.float64), truth)
    assert list(probe.classes) == sorted(set(truth))
    np.testing.assert_allclose(shares, known.predict_proba(features.astype(np.float64)), atol=1e-3)
