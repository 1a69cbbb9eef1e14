"""Repeated pictures, told from still scenes by how much frames change."""

import numpy as np
import pytest

from mbert.pipeline.video.repeats import repeated


def changes_of(pattern, num_frames, *, new=1.0, same=0.03, seed=0):
    """What frames change when only those of a pattern are new."""
    rng = np.random.default_rng(seed)
    is_new = np.resize([step == "n" for step in pattern], num_frames)
    level = np.where(is_new, new * rng.uniform(0.4, 1.6, num_frames), same * rng.uniform(0.1, 2, num_frames))
    return level, ~is_new


CADENCES = ["nss", "nnns", "nnnns", "ns", "nsnss", "nns"]
FOUND = [(cadence, new, same) for cadence in CADENCES for new, same in [(1, 0.002), (3, 0.2), (0.5, 0.05)]]


# One that is too long to be seen as such is found where repeats are as good as equal.
@pytest.mark.parametrize(("pattern", "new", "same"), [*FOUND, ("nnsnnns", 1, 0.002)])
def test_repeats_are_found(pattern, new, same):
    found = np.array([
        (repeated(changes)[1:] == expected[1:]).mean()
        for changes, expected in (changes_of(pattern, 120, new=new, same=same, seed=seed) for seed in range(10))
    ])  # fmt: skip
    assert found.mean() > 0.93


STILL = {
    "noise": lambda rng: rng.uniform(0.8, 1.2, 200),
    "weak noise": lambda rng: rng.uniform(0.02, 0.2, 200),
    "a still picture": lambda rng: np.zeros(200),
    "a still picture with key frames": lambda rng: np.where(np.arange(200) % 12 == 0, 1.5, rng.uniform(0, 0.02, 200)),
    "one blink": lambda rng: np.where(np.abs(np.arange(200) - 100) < 5, 0.8, rng.uniform(0, 0.02, 200)),
    "speech": lambda rng: np.exp(rng.normal(0, 0.4, 200)),
    "fading": lambda rng: np.linspace(2, 0.01, 200) * rng.uniform(0.8, 1.2, 200),
}


@pytest.mark.parametrize("scene", STILL)
def test_what_changes_little_is_no_repeat(scene):
    assert [repeated(STILL[scene](np.random.default_rng(seed))).sum() for seed in range(10)] == [0] * 10


def test_a_recording_that_hangs_is_found_and_a_rest_is_not():
    rng = np.random.default_rng(0)
    changes = rng.uniform(0.5, 1, 120)
    changes[40:55] = 0.001
    assert np.flatnonzero(repeated(changes)).tolist() == list(range(40, 55))
    changes[40:100] = 0.001
    assert not repeated(changes).any()


def test_short_and_broken_series():
    assert repeated(np.array([])).tolist() == []
    assert repeated(np.array([np.nan])).tolist() == [False]
    assert repeated(np.array([np.nan, 0.0])).tolist() == [False, False]
    assert not repeated(np.array([np.nan, 1.0, np.nan, 1.0] * 10)).any()
