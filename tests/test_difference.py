"""Differences of scores against scoring the people that were drawn, one draw after another."""

import numpy as np
import pytest

from mbert import ModelError
from mbert.model.scoring.difference import score_difference, unit_difference
from mbert.model.scoring.metrics import score
from mbert.model.scoring.unit_metrics import score_action_units

CLASSES = ["negative", "positive", "surprise"]


@pytest.fixture(scope="module")
def predictions():
    """Labels, two sets of predictions and subjects: people differ more than the methods do."""
    rng = np.random.default_rng(0)
    subjects = [f"s{number}" for number in np.repeat(np.arange(12), 20)]
    truth = rng.choice(CLASSES, 240)
    chance = np.repeat(rng.uniform(0.2, 1.0, 12), 20)
    right = rng.random(240)
    guesses = rng.choice(CLASSES, 240)
    first, second = (np.where(right < chance * skill, truth, guesses) for skill in (1.0, 0.9))
    return truth.tolist(), first.tolist(), second.tolist(), subjects


def test_a_difference_is_that_of_the_scores_and_knows_that_both_saw_the_same_people(predictions):
    truth, first, second, subjects = predictions
    one, other = (score(truth, each, subjects, classes=CLASSES) for each in (first, second))
    found = score_difference(truth, first, second, subjects, classes=CLASSES)
    assert (found.uf1, found.uar) == pytest.approx((one.uf1 - other.uf1, one.uar - other.uar))
    low, high = found.uf1_interval
    assert low < found.uf1 < high
    assert high - low < 0.6 * (one.uf1_interval[1] - one.uf1_interval[0])
    again = score_difference(truth, second, first, subjects, classes=CLASSES)
    assert again.uf1_interval == pytest.approx((-high, -low))
    same = score_difference(truth, first, first, subjects, classes=CLASSES)
    assert (same.uf1, same.uf1_interval, same.uar_interval) == (0, (0, 0), (0, 0))


def test_the_interval_equals_scoring_the_people_that_were_drawn(predictions):
    truth, first, second, subjects = (np.array(each) for each in predictions)
    drawn = []
    for lot in np.random.default_rng(1).integers(0, 12, size=(300, 12)):
        chosen = np.concatenate([np.flatnonzero(subjects == f"s{person}") for person in lot])
        one, other = (score(truth[chosen], each[chosen], subjects[chosen], classes=CLASSES) for each in (first, second))
        drawn.append(one.uf1 - other.uf1)
    found = score_difference(*predictions, classes=CLASSES)
    assert found.uf1_interval == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.015)


def test_what_is_not_defined_is_none(predictions):
    truth, first, second, subjects = predictions
    found = score_difference(truth, first, second, subjects, classes=[*CLASSES, "fear"])
    assert (found.uf1, found.uf1_interval) == (None, None)
    alone = score_difference(truth, first, second, ["one"] * len(truth), classes=CLASSES)
    assert alone.uf1 is not None and alone.uf1_interval is None
    with pytest.raises(ModelError, match="unknown classes positive"):
        score_difference(truth, first, second, subjects, classes=["negative", "surprise"])


def test_action_units_differ_by_the_means_of_the_units_that_are_there(predictions):
    rng = np.random.default_rng(2)
    units, subjects = [1, 4, 12], predictions[3]
    truth = rng.random((240, 3)) < 0.4
    truth[:, 1] = False  # nobody shows it
    first, second = (truth ^ (rng.random((240, 3)) < share) for share in (0.1, 0.3))
    one, other = (score_action_units(truth, each, units, subjects, subjects).pooled for each in (first, second))
    found = unit_difference(truth, first, second, subjects)
    assert found.binary_of_defined == pytest.approx(one.binary_of_defined - other.binary_of_defined)
    assert found.macro_of_defined == pytest.approx(one.macro_of_defined - other.macro_of_defined)
    for name in ("binary_of_defined", "macro_of_defined"):
        low, high = getattr(found, f"{name}_interval")
        assert 0 < low < getattr(found, name) < high
    nobody = unit_difference(np.zeros_like(truth), first, second, subjects)
    assert (nobody.binary_of_defined, nobody.binary_of_defined_interval) == (None, None)
