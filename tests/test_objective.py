import pytest
import torch

from mbert.model.data import normalize, resize, stack_images
from mbert.model.micron_bert import PRESETS, MicronBert, MicronBertConfig, patchify, swap_patches
from mbert.model.objective import pretraining_losses, random_crop, random_swap_mask
from mbert.shards.order import Segment
from mbert.shards.reader import PairReader
from mbert.shards.source import open_source

SMALLEST = MicronBertConfig(
    image_size=32, patch_size=8, dim=16, depth=1, heads=2, decoder_dim=12, decoder_depth=1, decoder_heads=2
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 98), (0.3, 59), (0.01, 2)])
def test_the_mask_has_the_exact_number_of_patches_in_every_pair(ratio, count):
    mask = random_swap_mask(64, 14, ratio=ratio, generator=generator())
    assert mask.sum(dim=1).tolist() == [count] * 64


def test_masks_differ_between_pairs_and_follow_the_seed():
    one, same, other = (random_swap_mask(8, 14, ratio=0.5, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len({tuple(row.tolist()) for row in one}) == 8
    assert random_swap_mask(500, 7, ratio=0.5, generator=generator()).float().mean(dim=0).min() > 0.4


@pytest.mark.parametrize(("grid", "block"), [(12, 2), (12, 3), (14, 4), (7, 7)])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_larger_blocks_keep_the_exact_number_and_all_but_one_are_whole(grid, block, ratio):
    masks = random_swap_mask(16, grid, ratio=ratio, block=block, generator=generator()).view(16, grid, grid)
    assert masks.sum(dim=(1, 2)).tolist() == [round(ratio * grid**2)] * 16
    for mask in masks:
        squares = [square for rows in mask.split(block) for square in rows.split(block, dim=1)]
        assert sum(bool(square.any() and not square.all()) for square in squares) <= 1
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 1 or block == grid


def test_masked_patches_come_from_t1_and_all_others_from_t0():
    t0, t1 = torch.randn(2, 5, 3, 48, 48)
    mask = random_swap_mask(5, 6, ratio=0.5, generator=generator())
    swapped, first, second = (patchify(images, 8) for images in (swap_patches(t0, t1, mask, 8), t0, t1))
    assert torch.equal(swapped[mask], second[mask])
    assert torch.equal(swapped[~mask], first[~mask])


def test_the_crop_is_a_part_of_the_image_at_full_size():
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64)
    crops = random_crop(ramp, min_scale=0.5, generator=generator())
    width = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert crops.shape == ramp.shape
    assert crops.min() >= 0
    assert crops.max() <= 1
    assert 0.45 < float(width.min()) < 0.55
    assert float(width.max()) > 0.95
    assert float(crops[:, 0, 0, 0].max()) > 0.4  # crops also start far from the border


def test_a_crop_of_full_scale_is_the_image():
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(random_crop(images, min_scale=1.0, generator=generator()), images, atol=1e-5)


def test_losses_equal_hand_arithmetic():
    torch.manual_seed(0)
    model = MicronBert(SMALLEST)
    t0, t1 = torch.randn(2, 4, 3, 32, 32)
    losses = pretraining_losses(
        model, t0, t1, swap_ratio=0.5, crop_scale=0.5, agent_weight=0.25, generator=generator(3)
    )
    rng = generator(3)
    mask = random_swap_mask(4, 4, ratio=0.5, generator=rng)
    crop = random_crop(t1, min_scale=0.5, generator=rng)
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
    losses = pretraining_losses(model, t0, t1, swap_ratio=0.5, crop_scale=1.0, agent_weight=1.0, generator=generator())
    assert losses.agent.item() < 1e-6
    half = pretraining_losses(model, t0, t1, swap_ratio=0.5, crop_scale=0.5, agent_weight=1.0, generator=generator())
    rng = generator()
    random_swap_mask(2, 4, ratio=0.5, generator=rng)
    crop = random_crop(t1, min_scale=0.5, generator=rng)
    target = model.encode(t1)[0].detach()
    expected = torch.autograd.grad(((model.encode(crop)[0] - target) ** 2).mean(), t1)[0]
    assert torch.allclose(torch.autograd.grad(half.agent, t1)[0], expected, atol=1e-6)


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
        losses = pretraining_losses(
            model, t0, t1, swap_ratio=0.5, crop_scale=0.5, agent_weight=0.01, generator=generator(step)
        )
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(losses.reconstruction.item())
    assert len(pairs) == 4
    assert history[-1] < history[0] / 10
