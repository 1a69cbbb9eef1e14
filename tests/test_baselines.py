import cv2
import numpy as np
import pytest
import torch

from mbert import ShardError
from mbert.manifests.labels.folds import leave_one_subject_out
from mbert.manifests.subject import Subject
from mbert.model.network.config import MicronBertConfig
from mbert.model.scoring.baselines import (
    FlowCnn,
    difference_features,
    flow_features,
    flow_images,
    majority,
    motion_features,
    motion_images,
    predict_flow_cnn,
    random_model,
)
from mbert.shards.image import encode_jpeg
from mbert.shards.pair import FramePair

SIDE = 112


@pytest.fixture(scope="module")
def pairs(face):
    """Three pairs of a portrait: a shift by (1, -0.5) px, nothing, and a bulge at the left of the mouth."""
    still = cv2.resize(face[20:200, 130:310], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    ys, xs = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    bump = 1.5 * np.exp(-((xs - 44) ** 2 + (ys - 80) ** 2) / (2 * 8**2))
    found = []
    for number, (dx, dy) in enumerate([(np.float32(1), np.float32(-0.5)), (0 * xs, 0 * ys), (0 * xs, -bump)]):
        after = cv2.remap(still, xs - dx, ys - dy, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        found.append(FramePair(f"pair{number}", encode_jpeg(still), encode_jpeg(after)))
    return found


def test_flow_images_tell_where_the_skin_went(pairs):
    shifted, still, bulged = flow_images(pairs)
    assert shifted.shape == (3, 28, 28)
    assert shifted.dtype == np.float32
    inner = shifted[:, 3:-3, 3:-3]
    assert inner[0].mean() == pytest.approx(100 * 1 / SIDE, abs=0.1)  # in hundredths of the width
    assert inner[1].mean() == pytest.approx(100 * -0.5 / SIDE, abs=0.1)
    assert np.abs(still).max() < 0.02
    row, column = np.unravel_index(bulged[1].argmin(), (28, 28))
    assert (row, column) == (pytest.approx(20, abs=1.5), pytest.approx(11, abs=1.5))
    assert bulged[2].max() > 5 * np.median(bulged[2])


def test_flow_features_are_the_images_in_larger_regions(pairs):
    halved = flow_images(pairs).reshape(3, 3, 14, 2, 14, 2).mean(axis=(3, 5))
    assert flow_features(pairs) == pytest.approx(halved.reshape(3, 3 * 14 * 14), abs=1e-5)


def test_motion_features_are_without_head_and_light_and_large_motions_are_compressed(pairs):
    still = pairs[1].images()[0]
    ys, xs = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    bump = 1.5 * np.exp(-((xs - 44) ** 2 + (ys - 80) ** 2) / (2 * 8**2))
    moved = cv2.remap(still, xs - 1, ys + bump + 0.7, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    lit = (moved * 1.1).clip(0, 255).astype(np.uint8)
    found = motion_features([FramePair("pair", encode_jpeg(still), encode_jpeg(lit))])
    x, y = found.reshape(2, 14, 14)
    images = motion_images([FramePair("pair", encode_jpeg(still), encode_jpeg(lit))])
    assert (images.shape, images.dtype) == ((1, 3, 28, 28), np.float32)
    assert images[0, 2].max() > 5 * np.median(images[0, 2])  # the skin is stretched around the bump
    assert np.abs(np.sinh([x[:4], y[:4]]) * 0.15).mean() < 0.3  # px; the head moved by 2 and 1.4
    row, column = np.unravel_index(y.argmin(), (14, 14))
    assert (row, column) == (pytest.approx(9.5, abs=1), pytest.approx(5, abs=1))
    assert -3.0 < np.sinh(y.min()) * 0.15 < -0.5  # px, of a bump of 3


@pytest.mark.parametrize("make", [difference_features, flow_features, flow_images, motion_features, motion_images])
def test_what_is_known_of_a_sample_does_not_depend_on_the_others(pairs, make):
    together = make(pairs)
    assert np.array_equal(together, np.concatenate([make([pair]) for pair in pairs]))
    assert np.array_equal(make(pairs[::-1]), together[::-1])
    assert np.abs(together[2] - together[1]).max() > 0.1


def test_frame_differences_are_averaged_over_regions(pairs):
    t0, t1 = (image.astype(float) for image in pairs[2].images())
    expected = np.abs(t1 - t0).mean(axis=2).reshape(14, 8, 14, 8).mean(axis=(1, 3)).ravel()
    assert difference_features(pairs[2:])[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("make", [difference_features, flow_images, motion_features, motion_images])
def test_a_damaged_pair_is_named(pairs, make):
    damaged = FramePair("broken", pairs[0].t0_jpeg[:200], pairs[0].t1_jpeg)
    with pytest.raises(ShardError, match="pair broken"):
        make([pairs[0], damaged])


@pytest.fixture(scope="module")
def flows():
    """(90, 3, 28, 28) noise with a bulge at a place that depends on the class, and the classes, of unequal number."""
    rng = np.random.default_rng(0)
    labels = [0] * 50 + [1] * 25 + [2] * 15
    ys, xs = np.mgrid[:28, :28]
    images = rng.normal(0, 0.3, (90, 3, 28, 28))
    for image, label in zip(images, labels, strict=True):
        row, column = ((7, 8), (8, 20), (20, 14))[label]
        image[1] -= np.exp(-((xs - column) ** 2 + (ys - row) ** 2) / 18)
    order = rng.permutation(90)
    return images[order].astype(np.float32), [labels[place] for place in order]


TRAIN, TEST = range(60), range(60, 90)


def test_the_network_learns_where_skin_moves(flows):
    images, labels = flows
    predicted = predict_flow_cnn(images, labels, TRAIN, TEST, 3, seed=0, steps=60)
    assert predicted.dtype == np.int64
    assert (predicted == labels[60:]).mean() > 0.9
    shuffled = np.random.default_rng(1).permutation(labels).tolist()
    without = predict_flow_cnn(images, shuffled, TRAIN, TEST, 3, seed=0, steps=60)
    assert (without == shuffled[60:]).mean() < 0.7


def test_nothing_of_the_test_samples_is_learned_from(flows):
    images, labels = flows
    before = predict_flow_cnn(images, labels, TRAIN, TEST, 3, seed=0, steps=20)
    others = [*labels[:60], *((label + 1) % 3 for label in labels[60:])]
    assert np.array_equal(predict_flow_cnn(images, others, TRAIN, TEST, 3, seed=0, steps=20), before)
    extreme = images.copy()
    extreme[60] *= 1e4
    assert np.array_equal(predict_flow_cnn(extreme, labels, TRAIN, TEST, 3, seed=0, steps=20)[1:], before[1:])
    taught = [(label + 1) % 3 for label in labels]
    assert not np.array_equal(predict_flow_cnn(images, taught, TRAIN, TEST, 3, seed=0, steps=20), before)


def test_a_direction_in_which_nothing_moves_is_not_scaled_up(flows):
    _, labels = flows
    rng = np.random.default_rng(0)
    along_y = rng.normal(size=(90, 3, 28, 28)).astype(np.float32)  # nothing to learn: small things decide
    along_y[:, 0] = 0
    noisy = along_y.copy()
    noisy[:, 0] = rng.normal(0, 1e-4, noisy[:, 0].shape)  # in the unit that y is in
    still, other = (predict_flow_cnn(each, labels, TRAIN, TEST, 3, seed=0, steps=40) for each in (along_y, noisy))
    assert (still == other).mean() > 0.9


def test_a_seed_decides_and_leaves_other_randomness_alone(flows):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    images, labels = flows
    noisy = np.random.default_rng(0).normal(size=images.shape).astype(np.float32)  # nothing to learn: seeds differ
    found = [predict_flow_cnn(noisy, labels, TRAIN, TEST, 3, seed=seed, steps=10).tolist() for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    config = MicronBertConfig(image_size=16, dim=8, depth=1, heads=1, decoder_dim=8, decoder_depth=1, decoder_heads=1)
    one, same, other = (random_model(config, seed).encoder.patch_embed.weight for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.rand(1), expected)


def test_a_class_that_the_fold_does_not_train_on_is_never_named(flows):
    images, labels = flows
    train = [place for place in TRAIN if labels[place] != 1]
    predicted = predict_flow_cnn(images, labels, train, TEST, 3, seed=0, steps=40)
    assert set(predicted.tolist()) == {0, 2}


@pytest.mark.parametrize("size", [14, 28, 29, 56])
def test_the_network_takes_images_of_other_sizes(size):
    assert FlowCnn(4, size)(torch.zeros(2, 3, size, size)).shape == (2, 4)


def test_the_majority_is_that_of_the_training_samples():
    truth, subjects = (
        ["a", "b", "b", "a", "c", "c", "c"],
        [Subject("videos", f"s{number}") for number in (1, 1, 1, 2, 3, 3, 3)],
    )
    folds = list(leave_one_subject_out(subjects))
    # without s1: a 1, c 3; without s2: a 1, b 2, c 3; without s3: a 2, b 2, of which the first by name
    assert majority(truth, folds) == ["c", "c", "c", "c", "a", "a", "a"]
