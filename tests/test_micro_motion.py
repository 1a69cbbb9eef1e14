"""Attention `motion`: evidence that leaves the head out, pairs whose motion is known, a head that learns from them."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from mbert import ConfigError, ModelError
from mbert.model.data.draws import Draws
from mbert.model.data.pixels import denormalize, levels_of, luma_of, normalize, stack_images
from mbert.model.network.config import PRESETS, VARIANTS, MicronBertConfig
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.motion import NUM_EVIDENCE, Motion, measured_motion, motion_evidence
from mbert.model.training.objective import ObjectiveConfig, pretraining_losses
from mbert.model.training.warp import WarpConfig, motion_loss, warped_pairs
from mbert.shards.optical_flow import optical_flow

CALM = WarpConfig(head_px=0, noise=0, light=0, turned=0)
SMALL = MicronBertConfig(
    image_size=112, dim=32, depth=1, heads=2, decoder_dim=32, decoder_depth=1, decoder_heads=2, motion_dim=32,
    **VARIANTS["motion"],
)  # fmt: skip


@pytest.fixture(scope="module")
def crops(face):
    """(4, 3, 112, 112): normalised crops around one face."""
    cuts = [face[top : top + 224, left : left + 224] for top, left in ((10, 100), (20, 120), (0, 110), (30, 90))]
    return normalize(stack_images([cv2.resize(cut, (112, 112), interpolation=cv2.INTER_AREA) for cut in cuts]))


def moved(images, field):
    """Normalised images (B, C, S, S) as they look after a motion (S, S, 2) in pixels of the images."""
    size = images.shape[-1]
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    levels = levels_of(images).permute(0, 2, 3, 1).numpy()
    x, y = xs - field[..., 0].astype(np.float32), ys - field[..., 1].astype(np.float32)
    seen = [cv2.remap(each, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101) for each in levels]
    return normalize(torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2))


def hill(size, centre, spread, direction):
    ys, xs = np.mgrid[:size, :size]
    height = np.exp(-((xs - centre[0]) ** 2 + (ys - centre[1]) ** 2) / (2 * spread**2))
    return height[..., None] * np.array(direction, np.float32)


def displacements(evidence):
    """x and y of each patch, in pixels of a 224 px crop: of the patch alone and joined over two distances."""
    return evidence[..., [0, 1, 7, 8, 14, 15]].unflatten(-1, (3, 2))


def test_motion_of_the_whole_head_and_light_are_no_evidence(crops):
    ys, xs = np.mgrid[:112, :112] / 56.0 - 1
    drift = np.stack([0.6 + 0.1 * xs - 0.2 * ys, -0.4 + 0.2 * xs + 0.1 * ys], axis=-1)
    seen = normalize(levels_of(moved(crops, drift)) * 1.05)
    found = displacements(motion_evidence(crops, seen, 8))[:, :, 1]
    inside = found.unflatten(1, (14, 14))[:, 2:-2, 2:-2]  # at the border other pixels come in
    assert np.linalg.norm(drift, axis=-1).mean() * 2 > 1  # px of a 224 px crop
    assert inside.norm(dim=-1).mean() < 0.1


def test_local_motion_is_found_where_it_is_and_as_long_as_it_is(crops):
    field = hill(112, (60, 44), 8, (0.5, -0.3))
    found = displacements(motion_evidence(crops, moved(crops, field), 8))[:, :, 0].unflatten(1, (14, 14))
    there = found[:, 5, 7]  # the patch around (60, 44)
    # Twice as long in a crop of 224 px; along an edge motion cannot be told, so over all four.
    assert (there - torch.tensor([1.0, -0.6])).norm(dim=-1).mean() < 0.3
    assert found[:, 10:, :3].norm(dim=-1).mean() < 0.15


def test_evidence_is_in_pixels_of_the_crop_whatever_the_size_of_the_image(face):
    large = normalize(stack_images([face[10:234, 100:324]]))
    field = hill(224, (120, 88), 16, (1.0, 0.5))
    seen = moved(large, field)
    small = [normalize(torch.nn.functional.avg_pool2d(levels_of(images), 2)) for images in (large, seen)]
    found = [displacements(motion_evidence(large, seen, 16)), displacements(motion_evidence(*small, 8))]
    assert (found[0] - found[1]).norm(dim=-1).mean() < 0.05
    assert found[0].norm(dim=-1).amax() > 0.7


def test_evidence_of_mirrored_frames_is_mirrored(crops):
    seen = moved(crops, hill(112, (40, 60), 7, (0.7, 0.2)))
    there = motion_evidence(crops, seen, 8).unflatten(1, (14, 14))
    back = motion_evidence(crops.flip(-1), seen.flip(-1), 8).unflatten(1, (14, 14)).flip(2)
    sign = torch.ones(NUM_EVIDENCE)
    sign[[0, 2, 7, 9, 14, 16]] = -1  # x
    assert torch.allclose(there, back * sign, atol=0.02)


@pytest.mark.parametrize("level", [0.0, 127.0, 255.0])
def test_frames_without_texture_and_equal_frames_give_finite_evidence(crops, level):
    flat = normalize(torch.full((2, 3, 112, 112), level))
    for t0, t1 in ((flat, flat), (crops[:2], flat), (crops, crops)):
        evidence = motion_evidence(t0, t1, 8)
        assert evidence.isfinite().all()
        assert evidence.abs().amax() < 10
    assert displacements(motion_evidence(crops, crops, 8)).abs().amax() < 1e-3


def test_drawn_motion_is_what_optical_flow_sees(crops):
    large = torch.nn.functional.interpolate(crops, size=(224, 224), mode="bicubic").repeat(4, 1, 1, 1)
    pairs = warped_pairs(large, 16, dataclasses.replace(CALM, min_px=2.0, max_px=3.0), Draws(3, range(16)))
    error, length = [], []
    for t0, t1, truth in zip(denormalize(pairs.t0), denormalize(pairs.t1), pairs.displacement, strict=True):
        flow = optical_flow(t0, t1).reshape(14, 16, 14, 16, 2).mean(axis=(1, 3)).reshape(-1, 2)
        moving = truth.norm(dim=-1).numpy() > 0.5
        error += np.linalg.norm(flow - truth.numpy(), axis=-1)[moving].tolist()
        length += truth.norm(dim=-1)[moving].tolist()
    assert len(length) > 20
    assert np.mean(error) < 0.5 * np.mean(length)  # flow over plain skin is short; with a wrong sign it is twice


def test_some_pairs_do_not_move_and_none_moves_further_than_asked(crops):
    pairs = warped_pairs(crops[:1].expand(200, -1, -1, -1), 8, CALM, Draws(0, range(200)))
    longest = pairs.displacement.norm(dim=-1).amax(dim=1)
    assert 0.05 < (longest == 0).float().mean() < 0.2
    assert 2 < longest.amax() < 3
    still = longest == 0
    assert torch.equal(pairs.t0[still], pairs.t1[still])  # and without anything that disturbs, they are equal


def test_weak_and_strong_motion_of_one_pair_are_drawn_apart(crops):
    pairs = warped_pairs(crops[:1].expand(200, -1, -1, -1), 8, CALM, Draws(2, range(200)))
    length = pairs.displacement.norm(dim=-1).unflatten(1, (14, 14))
    peaks = (length == torch.nn.functional.max_pool2d(length, 3, stride=1, padding=1)) & (length > 0.1)
    ratios = [
        found.min() / found.max() for pair, here in zip(length, peaks, strict=True) if len(found := pair[here]) > 2
    ]
    assert len(ratios) > 50
    assert torch.stack(ratios).median() < 0.4  # of the strongest motion of a pair


def test_a_pair_is_warped_and_disturbed_alike_on_every_rank(crops):
    whole = warped_pairs(crops, 8, WarpConfig(), Draws(5, range(4)))
    part = warped_pairs(crops[1::2], 8, WarpConfig(), Draws(5, range(1, 4, 2), 4))
    assert torch.equal(whole.t1[1::2], part.t1)
    assert torch.equal(whole.displacement[1::2], part.displacement)
    assert not torch.equal(whole.t0, warped_pairs(crops, 8, WarpConfig(), Draws(6, range(4))).t0)


def test_disturbances_are_as_strong_as_asked(crops):
    def change(**strengths):
        config = dataclasses.replace(CALM, min_px=1e-3, max_px=1e-3, **strengths)
        pairs = warped_pairs(crops[:1].expand(64, -1, -1, -1), 8, config, Draws(1, range(64)))
        return (luma_of(pairs.t1) - luma_of(pairs.t0)).abs().mean().item()

    for name, weak, strong in (("head_px", 0.5, 4.0), ("noise", 2.0, 12.0), ("light", 0.01, 0.1)):
        assert change() < change(**{name: weak}) < 0.5 * change(**{name: strong})


def test_loss_is_that_of_the_formula():
    found = Motion(torch.tensor([[0.0, 2.0]]), torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]))
    truth = torch.tensor([[[0.0, 0.0], [0.0, 0.9]]])
    shares = [1 / (1 + np.exp((0.2 - length) / 0.03)) for length in (0, 0.9)]  # of 0.2 px counts as moved
    entropy = (np.log(2) + np.log1p(np.exp(-2)) + (1 - shares[1]) * 2) / 2
    error = ((1 - 0.1) + 0.1**2 / 0.4) / 4  # from 0.2 px on a length less half of that, below half a square of it
    assert motion_loss(found, truth).item() == pytest.approx(entropy + 2 * error, rel=1e-5)


def test_head_learns_where_a_crop_of_a_pair_was_warped(crops):
    torch.manual_seed(0)
    model = MicronBert(SMALL)
    config = WarpConfig(min_px=1.0, turned=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(80):
        pairs = warped_pairs(crops.repeat(2, 1, 1, 1), 8, config, Draws(step, range(8)))
        loss = motion_loss(model.motion_of(pairs.t0, pairs.t1), pairs.displacement)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    pairs = warped_pairs(crops, 8, config, Draws(1000, range(4)))
    maps, length = model.change_map(pairs.t0, pairs.t1).flatten(1), pairs.displacement.norm(dim=-1)
    assert maps[length > 0.7].mean() > 2 * maps[length < 0.05].mean()


def test_reconstruction_does_not_train_the_motion_head(crops):
    torch.manual_seed(0)
    model = MicronBert(SMALL)
    losses = pretraining_losses(model, crops, crops, ObjectiveConfig(motion_weight=0), Draws(0, range(4)))
    losses.total.backward()
    head = [parameter.grad for parameter in model.micro_attention.motion.parameters()]
    assert all(grad is None or not grad.any() for grad in head)
    assert model.micro_attention.to_v.weight.grad.any()
    assert losses.motion > 0


def test_map_of_a_pair_is_the_probability_that_it_moved(crops):
    model = MicronBert(SMALL).eval()
    t0, t1 = crops[:2], crops[2:]
    pair = model.encode_pair(t0, t1)
    moved_there = model.motion_of(t0, t1).moved
    assert torch.allclose(pair.diagonal, 1 - moved_there)
    assert torch.allclose(model.change_map(t0, t1).flatten(1), moved_there)
    assert torch.allclose(model.attention_map(t0, t1).flatten(1), 1 - moved_there)


def test_measured_motion_is_signed_and_grows_with_the_motion(crops):
    there, twice, back = (
        measured_motion(crops, moved(crops, hill(112, (60, 44), 8, (size, 0.0))), 8).unflatten(1, (14, 14))[:, 5, 7, 0]
        for size in (0.3, 0.6, -0.3)
    )
    assert (there > 0).all()
    assert (twice > there).all()
    assert (back < 0).all()


def test_other_attentions_have_no_motion_and_say_so(crops):
    model = MicronBert(dataclasses.replace(SMALL, attention="diagonal"))
    with pytest.raises(ModelError, match="attention='diagonal'; motion needs attention='motion'"):
        model.motion_of(crops, crops)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"min_px": 0.0}, "0 < min <= max"), ({"max_px": 0.1}, "0 < min <= max"), ({"noise": -1.0}, "noise is -1")],
)
def test_wrong_strengths_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        WarpConfig(**change)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_motion_variant(preset):
    config = dataclasses.replace(PRESETS[preset], **VARIANTS["motion"])
    assert config.attention == "motion"
    assert config.motion_dim % config.motion_heads == 0
