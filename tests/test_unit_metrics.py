import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mbert import ModelError
from mbert.model.scoring.unit_metrics import score_action_units


@pytest.fixture(scope="module")
def samples():
    """(truth, predicted, subjects, datasets): 300 samples of 30 people, units 1, 4 and 12; samm never shows unit 12."""
    rng = np.random.default_rng(0)
    datasets = [("casme2", "samm", "mmew")[index % 3] for index in range(300)]
    truth = rng.random((300, 3)) < [0.4, 0.2, 0.1]
    truth[np.array(datasets) == "samm", 2] = False
    predicted = truth ^ (rng.random((300, 3)) < 0.15)
    return truth, predicted, [f"{dataset}/{index % 10}" for index, dataset in enumerate(datasets)], datasets


def test_units_equal_scikit_learn_pooled_and_by_dataset(samples):
    truth, predicted, subjects, datasets = samples
    result = score_action_units(truth, predicted, [1, 4, 12], subjects, datasets)
    for scores, part in [
        (result.pooled, np.full(300, True)),
        (result.per_dataset["mmew"], np.array(datasets) == "mmew"),
    ]:
        binary = [f1_score(truth[part, unit], predicted[part, unit]) for unit in range(3)]
        macro = [f1_score(truth[part, unit], predicted[part, unit], average="macro") for unit in range(3)]
        assert list(scores.per_unit) == ["AU1", "AU4", "AU12"]
        assert [unit.binary for unit in scores.per_unit.values()] == pytest.approx(binary)
        assert [unit.macro for unit in scores.per_unit.values()] == pytest.approx(macro)
        assert [scores.binary, scores.binary_of_defined] == pytest.approx([np.mean(binary)] * 2)
        assert [scores.macro, scores.macro_of_defined] == pytest.approx([np.mean(macro)] * 2)
        assert [unit.positives for unit in scores.per_unit.values()] == truth[part].sum(axis=0).tolist()
        assert [unit.predicted for unit in scores.per_unit.values()] == predicted[part].sum(axis=0).tolist()
        assert scores.binary_of_defined_interval[0] < scores.binary < scores.binary_of_defined_interval[1]
        assert scores.macro_of_defined_interval[0] < scores.macro < scores.macro_of_defined_interval[1]
        assert (scores.absent_units, scores.constant_units) == ([], [])
    assert (result.pooled.num_samples, result.pooled.num_subjects) == (300, 30)


def test_a_unit_nobody_shows_makes_the_mean_undefined_and_is_named(samples):
    truth, predicted, subjects, datasets = samples
    result = score_action_units(truth, predicted, [1, 4, 12], subjects, datasets)
    samm, part = result.per_dataset["samm"], np.array(datasets) == "samm"
    assert (samm.binary, samm.macro, samm.absent_units) == (None, None, ["AU12"])
    assert (samm.per_unit["AU12"].binary, samm.per_unit["AU12"].macro) == (None, None)
    assert samm.per_unit["AU12"].predicted > 0
    both = [f1_score(truth[part, unit], predicted[part, unit]) for unit in range(2)]
    assert samm.binary_of_defined == pytest.approx(np.mean(both))
    assert samm.binary_of_defined_interval[0] < samm.binary_of_defined < samm.binary_of_defined_interval[1]
    assert (samm.num_samples, samm.num_subjects) == (100, 10)
    json.dumps(asdict(result), allow_nan=False)


def test_a_unit_everybody_shows_has_no_macro_f1():
    truth, predicted = np.array([[True, True], [True, False]]), np.array([[True, True], [False, False]])
    scores = score_action_units(truth, predicted, [1, 2], ["a", "b"], ["d", "d"]).pooled
    assert (scores.binary, scores.macro, scores.constant_units) == (pytest.approx((2 / 3 + 1) / 2), None, ["AU1"])
    assert (scores.macro_of_defined, scores.absent_units) == (1, [])
    none = score_action_units(~truth[:, :1], predicted[:, :1], [1], ["a", "b"], ["d", "d"]).pooled
    assert (none.binary_of_defined, none.macro_of_defined, none.binary_of_defined_interval) == (None, None, None)


def test_the_bootstrap_draws_subjects_not_samples():
    truth = np.arange(1200)[:, None] % 2 == 0
    person = np.arange(1200) // 100
    predicted = truth ^ (person % 2 == 0)[:, None]  # every person wholly right or wholly wrong
    widths = []
    for subjects in (person.astype(str).tolist(), [str(index) for index in range(1200)]):
        low, high = score_action_units(truth, predicted, [1], subjects, ["d"] * 1200).pooled.macro_of_defined_interval
        widths.append(high - low)
    assert widths[0] > 0.4
    assert widths[1] < 0.08


def test_resamples_that_lose_a_unit_are_counted():
    truth = np.array([[True], [False], [False], [False]])
    scores = score_action_units(truth, truth, [1], ["a", "a", "b", "c"], ["d"] * 4).pooled
    assert scores.resamples_left_out == pytest.approx(1000 * 8 / 27, abs=60)  # without a: (2/3)^3
    assert scores.binary_of_defined_interval == (1, 1)


def test_arrays_of_other_kinds_are_refused():
    flags = np.array([[True, False]])
    with pytest.raises(ModelError, match=r"predictions of action units are float64 \(1, 2\); .* need bool \(1, 2\)"):
        score_action_units(flags, flags * 0.5, [1, 2], ["a"], ["d"])
    with pytest.raises(ModelError, match=r"labels of action units are bool \(1, 2\); 1 subjects and 3 units"):
        score_action_units(flags, flags, [1, 2, 4], ["a"], ["d"])
    with pytest.raises(ModelError, match="1 labels but 2 names"):
        score_action_units(flags, flags, [1, 2], ["a"], ["d", "d"])
