import numpy as np

from mbert.pipeline.pairs.sample import clip_rng, nearest_frame, sample_pairs

RULE = {"min_delta_seconds": 0.167, "max_delta_seconds": 0.367, "pairs_per_second": 10.0}


def distances(pts, pairs):
    return pts[pairs[:, 1]] - pts[pairs[:, 0]]


def test_pairs_keep_the_distance_in_time_at_any_frame_rate():
    for fps, fewest, most in ((30, 5, 11), (200, 34, 73), (12.5, 3, 4)):
        pts = np.arange(int(20 * fps)) / fps
        pairs = sample_pairs(pts, **RULE, rng=np.random.default_rng(0))
        steps = pairs[:, 1] - pairs[:, 0]
        assert (steps.min(), steps.max()) == (fewest, most)
        assert 170 <= len(pairs) <= 200  # ten per second for twenty seconds, less duplicates and the end


def test_variable_frame_rate_and_gaps_are_respected():
    rng = np.random.default_rng(1)
    pts = np.cumsum(rng.uniform(0.02, 0.09, 400))
    pts[200:] += 3.0
    pairs = sample_pairs(pts, **RULE, rng=np.random.default_rng(0))
    assert len(pairs) > 80
    assert distances(pts, pairs).min() >= 0.1665
    assert distances(pts, pairs).max() <= 0.3675
    assert not np.any((pairs[:, 0] < 200) & (pairs[:, 1] >= 200))


def test_a_gap_of_a_lifetime_costs_nothing_and_loses_no_pair():
    pts = np.concatenate([np.arange(60), np.arange(60) + 10**11]) / 30
    pairs = sample_pairs(pts, **RULE, rng=np.random.default_rng(0))
    assert ((pairs[:, 0] < 60) == (pairs[:, 1] < 60)).all()
    assert min((pairs[:, 0] < 60).sum(), (pairs[:, 0] >= 60).sum()) >= 12
    assert np.array_equal(pairs, np.unique(pairs, axis=0))


def test_frames_further_apart_than_the_distance_give_no_pair():
    assert sample_pairs(np.arange(10.0), **RULE, rng=np.random.default_rng(0)).shape == (0, 2)
    assert sample_pairs(np.array([0.0, 0.0]), **RULE, rng=np.random.default_rng(0)).shape == (0, 2)


def test_pairs_depend_on_seed_and_clip_alone():
    pts = np.arange(300) / 30
    first, again, other_clip, other_seed = (
        sample_pairs(pts, **RULE, rng=clip_rng(seed, clip)).tolist()
        for seed, clip in ((0, "a"), (0, "a"), (0, "b"), (1, "a"))
    )
    assert first == again
    assert first != other_clip
    assert first != other_seed
    assert first == sorted(first)


def test_a_missing_annotated_frame_is_replaced_by_the_nearest():
    assert nearest_frame(np.array([10, 12, 17]), 13) == 1
    assert nearest_frame(np.array([10, 12, 17]), 99) == 2
