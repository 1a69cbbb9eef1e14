"""The benchmark of label efficiency: who teaches, who chooses and who is tested are different people."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mbert.model.scoring.probe import Heads


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    try:
        import label_efficiency
    finally:
        sys.path.pop(0)
    return label_efficiency


class Noted(Heads):
    """Heads that note what they are shown."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.shown = []

    def attempt(self, train, test, seed):
        self.shown.append((frozenset(train), frozenset(test)))
        return super().attempt(train, test)


def corpus_of(benchmark, num_people=6):
    rng = np.random.default_rng(0)
    people = [f"p{number}" for number in range(num_people) for _ in range(12)]
    labels = ["abc"[number % 3] for number in range(len(people))]
    features = rng.normal(size=(len(people), 8)) + 0.8 * np.array([["abc".index(label)] for label in labels])
    return benchmark.Corpus([], labels, people), features.astype(np.float32)


def test_fewer_clips_are_the_first_of_more_and_each_class_has_as_many(benchmark):
    corpus, _ = corpus_of(benchmark)
    allowed = list(range(12, 72))
    two, five, all_of_them = (benchmark.drawn(corpus.labels, allowed, clips, [3, 1]) for clips in (2, 5, 99))
    assert [corpus.labels[place] for place in two].count("b") == 2
    assert len(two) == 6 and len(five) == 15
    assert set(two) < set(five) <= set(allowed)
    assert all_of_them == allowed


def test_settings_of_a_group_are_chosen_without_its_samples(benchmark):
    corpus, features = corpus_of(benchmark)
    groups = benchmark.groups_of(corpus.people, 4)
    method = Noted(features, corpus.labels)
    chosen = benchmark.settings_of(method, corpus, groups, 2, 5)
    assert sorted(chosen) == [0, 1, 2, 3]
    assert len(method.shown) == 6
    for train, test in method.shown:
        assert not set(groups[list(train)]) & set(groups[list(test)])
    # Whatever the held-out people show, what is chosen for them stays.
    rng = np.random.default_rng(1)
    for group in range(4):
        own = groups == group
        labels = [rng.choice(list("abc")) if mine else label for mine, label in zip(own, corpus.labels, strict=True)]
        other = np.where(own[:, None], rng.normal(size=features.shape), features).astype(np.float32)
        changed = benchmark.Corpus([], labels, corpus.people)
        again = benchmark.settings_of(Noted(other, labels), changed, groups, 2, 5)
        assert again[group] == chosen[group]


def test_a_difference_of_a_method_to_itself_is_nothing_and_a_better_one_is_above(benchmark):
    rng = np.random.default_rng(0)
    good = np.stack([[np.diag([6, 6, 6]) + rng.integers(0, 2, (3, 3)) for _ in range(8)] for _ in range(3)])
    bad = np.stack([[rng.integers(1, 5, (3, 3)) for _ in range(8)] for _ in range(3)])
    found = {"mbert": good, "random": bad, "evidence": good}
    compared = benchmark.compared(found, 8)
    assert compared["mbert - evidence"] == [0.0, 0.0, 0.0]
    value, low, high = compared["mbert - random"]
    assert 0.2 < low < value < high
    assert value == pytest.approx(benchmark.score(good) - benchmark.score(bad), abs=1e-4)


@pytest.fixture(scope="module")
def expressions(benchmark):
    return sys.modules["real_expressions"]


def curves_with(expressions, label, peak, num=60, at=30, rise_frames=6):
    curves = np.zeros((num, len(expressions.CLASSES)))
    number = list(expressions.CLASSES).index(label)
    way = np.clip((np.arange(num) - (at - rise_frames)) / rise_frames, 0, 1)
    curves[:, number] = peak * np.where(np.arange(num) <= at, way, np.clip(1 - (np.arange(num) - at) / 10, 0, 1))
    return curves


def test_a_rise_is_found_once_and_seen_before_a_third_of_it(expressions):
    seconds = np.arange(60) / 30
    found, left_out = expressions.rises_in(curves_with(expressions, "smile", 3.0), seconds)
    assert [label for label, *_ in found] == ["smile"]
    _, first, second, share = found[0]
    assert (first, second) == (24, 25)  # the next one is at a third
    assert 0 < share < 1 / 3
    assert sum(left_out.values()) == 0


def test_rises_too_weak_too_fast_or_of_two_classes_are_no_examples(expressions):
    seconds = np.arange(60) / 30
    weak, _ = expressions.rises_in(curves_with(expressions, "smile", 0.9), seconds)
    fast, fast_why = expressions.rises_in(curves_with(expressions, "blink", 3.0, rise_frames=1), seconds)
    both = curves_with(expressions, "smile", 3.0) + curves_with(expressions, "jaw", 2.9)
    mixed, mixed_why = expressions.rises_in(both, seconds)
    assert (weak, fast, mixed) == ([], [], [])
    assert fast_why == {"no crop between rest and a third of the rise": 1}
    assert mixed_why["another class rises too"] == 1
