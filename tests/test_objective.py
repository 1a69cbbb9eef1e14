import dataclasses

import pytest
import torch

from mbert import ConfigError
from mbert.model.data.pixels import normalize, resize, stack_images
from mbert.model.network.config import PRESETS, MicronBertConfig
from mbert.model.network.micron_bert import MicronBert, patchify, swap_patches
from mbert.model.training.objective import (
    Draws,
    ObjectiveConfig,
    is_collapsed,
    pretraining_losses,
    random_crop,
    random_swap_mask,
)
from mbert.shards.order import Segment
from mbert.shards.reader import PairReader
from mbert.shards.source import open_source

SMALLEST = MicronBertConfig(
    image_size=32, patch_size=8, dim=16, depth=1, heads=2, decoder_dim=12, decoder_depth=1, decoder_heads=2
)


def masks(batch, grid, *, seed=0, ratio=0.5, block=1, distribution="exact"):
    config = ObjectiveConfig(swap_ratio=ratio, swap_block=block, swap_distribution=distribution)
    return random_swap_mask(grid, config, Draws(seed, range(batch)))


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 98), (0.3, 59), (0.01, 2)])
def test_the_mask_has_the_exact_number_of_patches_in_every_pair(ratio, count):
    mask = masks(64, 14, ratio=ratio)
    assert mask.sum(dim=1).tolist() == [count] * 64


def test_masks_differ_between_pairs_and_follow_the_seed():
    one, same, other = (masks(8, 14, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len({tuple(row.tolist()) for row in one}) == 8
    assert masks(500, 7).float().mean(dim=0).min() > 0.4


@pytest.mark.parametrize(("grid", "block"), [(12, 2), (12, 3), (14, 4), (7, 7)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_larger_blocks_keep_the_exact_number_and_all_but_one_are_whole(grid, block, ratio):
    drawn = masks(16, grid, ratio=ratio, block=block).view(16, grid, grid)
    assert drawn.sum(dim=(1, 2)).tolist() == [round(ratio * grid**2)] * 16
    for mask in drawn:
        squares = [square for rows in mask.split(block) for square in rows.split(block, dim=1)]
        assert sum(bool(square.any() and not square.all()) for square in squares) <= 1
    assert len({tuple(mask.flatten().tolist()) for mask in drawn}) > 1 or block == grid


@pytest.mark.parametrize("block", [1, 2])
def test_bernoulli_swaps_each_square_by_itself(block):
    drawn = masks(400, 6, ratio=0.3, block=block, distribution="bernoulli").float().view(400, 6, 6)
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.02)
    counts = drawn.sum(dim=(1, 2)) / block**2
    assert counts.var().item() == pytest.approx((6 / block) ** 2 * 0.3 * 0.7, rel=0.3)
    assert torch.equal(drawn[:, ::block, ::block].repeat_interleave(block, 1).repeat_interleave(block, 2), drawn)


@pytest.mark.parametrize(("ratio", "highest"), [(0.3, 0.6), (0.7, 1.0)])
def test_uniform_draws_the_share_anew_for_each_pair(ratio, highest):
    shares = masks(600, 10, ratio=ratio, distribution="uniform").float().mean(dim=1)
    assert (shares.min().item(), shares.max().item()) == (pytest.approx(0, abs=0.03), pytest.approx(highest, abs=0.03))
    assert shares.std().item() > 0.15
    if ratio == 0.3:
        assert shares.mean().item() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_a_pair_gets_the_same_numbers_whoever_holds_it(world):
    alone = Draws(7, range(12))
    first, second = alone(5), alone()
    for rank in range(world):
        ours = Draws(7, range(rank, 12, world), 12)
        assert torch.equal(ours(5), first[rank::world])
        assert torch.equal(ours(), second[rank::world])
    half = Draws(7, range(0, 12, 2)[3:], 12)  # the second part of a batch whose gradients are accumulated
    assert torch.equal(half(5), first[6::2])


def test_wrong_options_of_the_objective_are_refused():
    for options, message in (
        ({"swap_ratio": 1.0}, "swap_ratio is 1.0; it must lie between 0 and 1"),
        ({"swap_block": 0}, "swap_block is 0; it must be at least 1"),
        ({"swap_distribution": "normal"}, "swap_distribution is 'normal'; allowed are exact, bernoulli, uniform"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0; it must be above 0"),
        ({"agent_weight": -1.0}, "agent_weight is -1.0; it must not be negative"),
    ):
        with pytest.raises(ConfigError, match=message):
            ObjectiveConfig(**options)


def test_masked_patches_come_from_t1_and_all_others_from_t0():
    t0, t1 = torch.randn(2, 5, 3, 48, 48)
    mask = masks(5, 6)
    swapped, first, second = (patchify(images, 8) for images in (swap_patches(t0, t1, mask, 8), t0, t1))
    assert torch.equal(swapped[mask], second[mask])
    assert torch.equal(swapped[~mask], first[~mask])


def test_the_crop_is_a_part_of_the_image_at_full_size():
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64)
    crops = random_crop(ramp, min_scale=0.5, draws=Draws(0, range(200)))
    width = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert crops.shape == ramp.shape
    assert crops.min() >= 0
    assert crops.max() <= 1
    assert 0.45 < float(width.min()) < 0.55
    assert float(width.max()) > 0.95
    assert float(crops[:, 0, 0, 0].max()) > 0.4  # crops also start far from the border


def test_a_crop_of_full_scale_is_the_image():
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(random_crop(images, min_scale=1.0, draws=Draws(0, range(2))), images, atol=1e-5)


def test_losses_equal_hand_arithmetic():
    torch.manual_seed(0)
    model = MicronBert(SMALLEST)
    t0, t1 = torch.randn(2, 4, 3, 32, 32)
    config = ObjectiveConfig(agent_weight=0.25)
    losses = pretraining_losses(model, t0, t1, config, Draws(3, range(4)))
    draws = Draws(3, range(4))
    mask = random_swap_mask(4, config, draws)
    crop = random_crop(t1, min_scale=0.5, size=16, draws=draws)
    pair = model.encode_pair(swap_patches(t0, t1, mask, 8), t1)
    reconstruction = ((model.decode(pair.micro) - patchify(t0, 8)) ** 2).sum() / (4 * 16 * 192)
    agent = ((pair.context - model.encode(crop)[0]) ** 2).sum() / (4 * 16)
    assert losses.reconstruction.item() == pytest.approx(reconstruction.item(), rel=1e-4)
    assert losses.agent.item() == pytest.approx(agent.item(), rel=1e-4)
    assert losses.total.item() == pytest.approx(reconstruction.item() + 0.25 * agent.item(), rel=1e-4)
    assert losses.token_std.item() == pytest.approx(pair.context.std(dim=0).mean().item(), rel=1e-4)


def test_the_token_of_the_whole_frame_is_a_target_without_gradient():
    torch.manual_seed(0)
    model = MicronBert(SMALLEST)
    t0 = torch.randn(2, 3, 32, 32)
    t1 = torch.randn(2, 3, 32, 32, requires_grad=True)
    # At full scale the crop is t1 itself: both tokens are equal, and so is what either side would pull at.
    whole = ObjectiveConfig(crop_scale=1.0, crop_size_ratio=1.0)
    assert pretraining_losses(model, t0, t1, whole, Draws(0, range(2))).agent.item() < 1e-6
    half = pretraining_losses(model, t0, t1, ObjectiveConfig(), Draws(0, range(2)))
    draws = Draws(0, range(2))
    random_swap_mask(4, ObjectiveConfig(), draws)
    crop = random_crop(t1, min_scale=0.5, size=16, draws=draws)
    target = model.encode(t1)[0].detach()
    expected = torch.autograd.grad(((model.encode(crop)[0] - target) ** 2).mean(), t1)[0]
    assert torch.allclose(torch.autograd.grad(half.agent, t1)[0], expected, atol=1e-6)


@pytest.mark.parametrize("agent", ["none", "mse_ema"])
def test_other_agents_give_the_same_reconstruction(agent):
    t0, t1 = torch.randn(2, 4, 3, 32, 32)
    found = {}
    for name in ("mse", agent):
        torch.manual_seed(0)
        model = MicronBert(dataclasses.replace(SMALLEST, agent=name))
        found[name] = pretraining_losses(model, t0, t1, ObjectiveConfig(), Draws(0, range(4)))
    assert torch.equal(found["mse"].reconstruction, found[agent].reconstruction)
    # A teacher that has not moved yet says of t1 what the encoder says.
    expected = 0.0 if agent == "none" else found["mse"].agent.item()
    assert found[agent].agent.item() == pytest.approx(expected, rel=1e-4)


def test_the_spread_that_counts_as_collapsed():
    assert is_collapsed(0.019)
    assert not is_collapsed(0.021)


def test_the_tiny_model_overfits_four_pairs(corpus):
    pairs = PairReader(open_source(corpus.pairs)).read([Segment(0, 0, 4)])
    size = PRESETS["tiny"].image_size
    frames = [[resize(image, size) for image in pair.images()] for pair in pairs]
    t0, t1 = (normalize(stack_images([frame[side] for frame in frames])) for side in (0, 1))
    torch.manual_seed(0)
    model = MicronBert(PRESETS["tiny"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for step in range(120):
        losses = pretraining_losses(model, t0, t1, ObjectiveConfig(), Draws(step, range(4)))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(losses.reconstruction.item())
    assert len(pairs) == 4
    assert history[-1] < history[0] / 10
