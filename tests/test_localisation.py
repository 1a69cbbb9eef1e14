"""Scores of maps against true motion, counted by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mbert import ModelError
from mbert.model.scoring.localisation import auroc_same_place, auroc_within, patch_means, patch_truth, pointing_game

SCORES = (auroc_within, auroc_same_place, pointing_game)


def rows(*lines):
    """Pairs of one row of patches each: (P, 1, w)."""
    return np.array(lines)[:, None, :]


def truth(*lines):
    """`m` moved, `s` still, `.` left out -> moved, still."""
    letters = rows(*(list(line) for line in lines))
    return letters == "m", letters == "s"


@pytest.fixture(scope="module")
def many():
    """40 pairs of 5 x 6 patches: random maps with many ties, a third of the patches of each kind, a neutral pair."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, size=(40, 5, 6))
    kind[7] = np.where(kind[7] == 0, 1, kind[7])
    return rng.integers(0, 6, size=kind.shape).astype(float) + (kind == 0), kind == 0, kind == 1


def test_within_counts_each_pair_over_its_own_patches_and_ties_half():
    moved, still = truth("msss", "mmss", "ssss")
    share = auroc_within(rows([2, 1, 2, 3], [5, 0, 1, 0], [9, 9, 9, 9]), moved, still)
    # 2 against 1, 2, 3: 1.5 of 3. 5 against 1, 0: 2, and 0 against 1, 0: 0.5, of 4. In the third pair nothing moved.
    assert share.won.tolist() == pytest.approx([0.5, 0.625, 0])
    assert share.asked.tolist() == [1, 1, 0]
    assert share.value == pytest.approx(0.5625)


def test_same_place_counts_comparisons_of_equal_places_only():
    moved, still = truth("ms", "sm", "ss")
    share = auroc_same_place(rows([3, 9], [3, 4], [1, 4]), moved, still)
    # Left: 3 against 3 and 1: 1/2 + 1. Right: 4 against 9 and 4: 0 + 1/2. So 2 of 4.
    assert share.value == 0.5
    assert share.won.tolist() == [[0, 0.5, 1], [0, 0, 0.5], [0, 0, 0]]
    assert share.asked.tolist() == [[0, 1, 1], [1, 0, 1], [0, 0, 0]]


def test_pointing_asks_whether_the_largest_patch_moved_and_shares_ties():
    moved, still = truth("mss", "mms", ".ms", "sss")
    share = pointing_game(rows([3, 2, 1], [4, 0, 4], [9, 2, 3], [1, 2, 3]), moved, still)
    assert share.won.tolist() == [1, 0.5, 0, 0]  # of the third pair, the 9 is left out
    assert share.asked.tolist() == [1, 1, 1, 0]
    assert share.value == 0.5


def test_aurocs_equal_scikit_learn(many):
    maps, moved, still = many
    known, has_motion = moved | still, moved.any(axis=(1, 2))
    by_pair = [
        roc_auc_score(of_pair[mask], values[mask])
        for of_pair, values, mask in zip(moved[has_motion], maps[has_motion], known[has_motion], strict=True)
    ]
    share = auroc_within(maps, moved, still)
    assert share.won[has_motion] == pytest.approx(by_pair)
    assert share.value == pytest.approx(np.mean(by_pair))
    total = comparisons = 0.0
    for place in np.ndindex(maps.shape[1:]):
        here = known[:, *place]
        count = moved[:, *place].sum() * still[:, *place].sum()
        total += roc_auc_score(moved[here, *place], maps[here, *place]) * count
        comparisons += count
    assert auroc_same_place(maps, moved, still).value == pytest.approx(total / comparisons)


def test_a_constant_map_knows_nothing_at_the_same_place_however_well_it_knows_faces():
    chance = np.full((5, 6), 0.1)
    chance[0] = 0.8  # most motion is in the first row
    moved = np.random.default_rng(0).random((40, 5, 6)) < chance
    prior = np.broadcast_to(chance, moved.shape)
    assert auroc_same_place(prior, moved, ~moved).value == 0.5
    assert auroc_within(prior, moved, ~moved).value > 0.75


def test_the_truth_as_a_map_wins_everything(many):
    _, moved, still = many
    assert [score(moved.astype(float), moved, still).value for score in SCORES] == [1, 1, 1]
    assert [score(-moved.astype(float), moved, still).value for score in SCORES] == [0, 0, 0]


def test_what_is_left_out_changes_nothing(many):
    maps, moved, still = many
    loud = np.where(moved | still, maps, 1e9)
    for score in SCORES:
        assert score(loud, moved, still).value == score(maps, moved, still).value


def test_only_the_order_of_the_values_counts(many):
    maps, moved, still = many
    for score in SCORES:
        assert score(np.exp(maps) * 1e-6, moved, still).value == score(maps, moved, still).value


def test_places_and_pairs_without_both_kinds_are_not_asked():
    moved, still = truth("mss", "m.s", "m.s")  # nothing is still on the left, nothing moved elsewhere
    share = auroc_same_place(rows([1.0, 2, 3], [1, 2, 3], [1, 2, 3]), moved, still)
    assert share.asked.sum() == 0
    assert not np.isnan(share.won).any()
    assert np.isnan(share.value)
    assert share.interval(["a", "b", "c"]) is None
    nothing = np.zeros_like(moved)
    assert np.isnan([score(rows([1.0] * 3, [2] * 3, [3] * 3), nothing, still).value for score in SCORES]).all()


def test_the_interval_draws_people_not_pairs():
    people = [f"s{number}" for number in np.repeat(np.arange(8), 25)]
    moved, still = truth(*["ms"] * 200)
    skill = np.repeat([0.0, 1.0] * 4, 25)  # every other person is always found
    maps = np.stack([skill, 1 - skill], axis=-1)[:, None]
    found = auroc_within(maps, moved, still)
    assert found.value == 0.5
    low, high = found.interval(people)
    assert (low, high) == pytest.approx((0.125, 0.875), abs=0.13)  # 8 draws of 0 or 1
    each = found.interval([str(number) for number in range(200)])
    assert each[1] - each[0] < 0.2  # 200 draws
    assert found.interval(people) == found.interval(people)
    assert found.interval(["one"] * 200) is None


def test_the_interval_at_the_same_place_equals_scoring_the_people_that_were_drawn():
    rng = np.random.default_rng(1)
    people = np.repeat(np.arange(4), 5)
    kind = rng.integers(0, 2, size=(20, 2, 3))
    maps, moved, still = rng.random((20, 2, 3)) + 0.3 * kind, kind == 1, kind == 0
    drawn = []
    for lot in np.random.default_rng(2).integers(0, 4, size=(400, 4)):
        chosen = np.concatenate([np.flatnonzero(people == person) for person in lot])
        drawn.append(auroc_same_place(maps[chosen], moved[chosen], still[chosen]).value)
    low, high = auroc_same_place(maps, moved, still).interval([f"s{person}" for person in people])
    assert (low, high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)


def test_a_difference_draws_the_same_people_for_both_sides():
    rng = np.random.default_rng(3)
    people = [f"s{number}" for number in np.repeat(np.arange(8), 10)]
    kind = rng.integers(0, 2, size=(80, 2, 3))
    skill = np.repeat(rng.uniform(0, 3, 8), 10)[:, None, None]  # people differ much more than the two methods do
    moved, still = kind == 1, kind == 0
    worse = rng.normal(size=kind.shape) + skill * kind
    better = worse + 0.3 * kind
    for metric in (auroc_within, auroc_same_place):
        ours, theirs = metric(better, moved, still), metric(worse, moved, still)
        found = ours.difference(theirs, people)
        assert found.value == pytest.approx(ours.value - theirs.value) and found.value > 0
        assert found.error_ratio == pytest.approx((1 - ours.value) / (1 - theirs.value))
        low, high = found.interval
        assert 0 < low < found.value < high
        assert high - low < 0.5 * np.diff(ours.interval(people))[0]
        assert found.error_ratio_interval[0] < found.error_ratio < found.error_ratio_interval[1] < 1
        same = ours.difference(ours, people)
        assert (same.value, same.interval, same.error_ratio, same.error_ratio_interval) == (0, (0, 0), 1, (1, 1))


def test_a_difference_without_an_error_to_compare_with_has_no_ratio():
    moved, still = truth("ms", "ms")
    right, wrong = rows([2, 1], [2, 1]), rows([1, 2], [2, 1])
    found = auroc_within(wrong, moved, still).difference(auroc_within(right, moved, still), ["a", "b"])
    assert (found.value, found.error_ratio, found.error_ratio_interval) == (-0.5, None, None)
    alone = auroc_within(wrong, moved, still).difference(auroc_within(wrong, moved, still), ["a", "a"])
    assert (alone.error_ratio, alone.interval, alone.error_ratio_interval) == (1, None, None)


def test_patches_are_told_by_their_share_of_the_largest_motion():
    expression, distractor = np.zeros((8, 8, 2), np.float32), np.zeros((8, 8, 2), np.float32)
    expression[:2, :2] = (0.6, 0.8)  # 1 px
    expression[:2, 2:4, 0] = 0.31
    expression[:2, 4:6, 0] = -0.29
    expression[:2, 6:, 1] = 0.06
    expression[2:4, :2, 1] = 0.05
    expression[2:4, 2:4] = 0
    expression[3, 3, 0] = 0.16  # 0.04 on average
    found = patch_truth(expression, distractor, 4)
    assert found.moved.sum() == 2 and found.moved[0, :2].all()
    assert not found.still[0].any() and found.still[1:].all()
    distractor[:2, :2, 0] = 0.2
    distractor[6:, 6:, 1] = -0.2
    distractor[6:, :2, 1] = 0.1
    disturbed = patch_truth(expression, distractor, 4)
    assert np.argwhere(found.moved & ~disturbed.moved).tolist() == [[0, 0]]
    assert np.argwhere(found.still & ~disturbed.still).tolist() == [[3, 3]]
    told = patch_truth(expression, distractor, 4, distracted_is_still=True)
    assert np.array_equal(told.still, found.still) and np.array_equal(told.moved, disturbed.moved)
    assert disturbed.moved[0, 1]  # the largest motion is still that of the patch that was left out


def test_without_an_expression_every_patch_is_still():
    nothing = np.zeros((28, 28, 2), np.float32)
    found = patch_truth(nothing, nothing, 14)
    assert found.still.all() and not found.moved.any()


def test_patches_that_do_not_divide_the_map_keep_its_mean():
    ramp = np.broadcast_to(np.arange(10.0), (1, 10, 10))
    assert patch_means(ramp, 5)[0, 0].tolist() == pytest.approx([0.5, 2.5, 4.5, 6.5, 8.5])
    assert patch_means(ramp, 4)[0, 0].tolist() == pytest.approx([1, 3, 6, 8])


def test_wrong_maps_are_refused(many):
    maps, moved, still = many
    broken = maps.copy()
    broken[3, 1, 2] = np.nan
    for score in SCORES:
        with pytest.raises(ModelError, match="must be the same"):
            score(maps[:, :4], moved, still)
        with pytest.raises(ModelError, match="not finite"):
            score(broken, moved, still)
