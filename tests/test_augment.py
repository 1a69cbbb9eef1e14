import numpy as np
import pytest
import torch

from mbert import ConfigError
from mbert.model.data.augment import NO_AUGMENT, AugmentConfig, augment, draw


@pytest.fixture
def frames():
    generator = torch.Generator().manual_seed(0)
    t0, t1 = torch.randint(0, 256, (2, 16, 3, 12, 12), dtype=torch.uint8, generator=generator)
    return t0, t1


def draws_of(count=16):
    return torch.from_numpy(draw(range(count), seed=0, epoch=0))


def test_draws_depend_on_seed_epoch_and_position_alone():
    whole = draw(range(96), seed=5, epoch=2)
    assert whole.shape == (96, 6)
    assert whole.dtype == np.float32
    assert np.array_equal(draw(range(24, 48), seed=5, epoch=2), whole[24:48])
    ranks = [draw(range(24 + rank, 48, 3), seed=5, epoch=2) for rank in range(3)]
    assert np.array_equal(np.stack(ranks, 1).reshape(24, 6), whole[24:48])
    assert not np.array_equal(draw(range(96), seed=5, epoch=3), whole)
    assert not np.array_equal(draw(range(96), seed=6, epoch=2), whole)


def test_draws_are_uniform_and_independent_of_each_other():
    draws = draw(range(20_000), seed=0, epoch=0).astype(float)
    assert draws.min() >= 0 and draws.max() < 1
    assert draws.mean(axis=0) == pytest.approx([0.5] * 6, abs=0.01)
    assert draws.std(axis=0) == pytest.approx([12**-0.5] * 6, abs=0.01)
    assert np.abs(np.corrcoef(draws.T) - np.eye(6)).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03


def test_switched_off_the_pixels_are_untouched(frames):
    found = augment(*frames, draws_of(), NO_AUGMENT)
    assert torch.equal(found[0], frames[0]) and torch.equal(found[1], frames[1])
    assert found[0].dtype == torch.uint8


def test_by_default_half_of_the_pairs_are_mirrored_exactly_and_both_frames_alike(frames):
    draws = draws_of()
    is_flipped = (draws[:, 0] < 0.5).tolist()
    assert 4 < sum(is_flipped) < 12
    for before, after in zip(frames, augment(*frames, draws, AugmentConfig()), strict=True):
        expected = [image.flip(-1) if flip else image for image, flip in zip(before, is_flipped, strict=True)]
        assert torch.equal(after, torch.stack(expected))


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(flip=0, crop_scale=0.85),
        AugmentConfig(crop_scale=0.5),
        AugmentConfig(contrast=0.1, brightness=0.05),
        AugmentConfig(crop_scale=0.85, contrast=0.1, brightness=0.05),
    ],
)
def test_both_frames_of_a_pair_get_the_same_change(frames, config):
    same = augment(frames[0], frames[0], draws_of(), config)
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], frames[0].float())
    t0, _ = augment(*frames, draws_of(), config)
    assert torch.equal(t0, same[0])  # nor does the other frame matter


def test_a_crop_is_the_box_that_was_drawn():
    ramp = torch.arange(100.0).view(1, 1, 1, 100).expand(2, 1, 100, 100)
    ramp_t1 = ramp.transpose(2, 3)
    draws = torch.tensor([[0.9, 0.0, 0.0, 1.0, 0.5, 0.5], [0.9, 1.0, 0.3, 0.3, 0.5, 0.5]])
    t0, t1 = augment(ramp, ramp_t1, draws, AugmentConfig(flip=0, crop_scale=0.8))
    # Side 80: columns 0-80, rows 20-100. Pixel centres lie at +0.5.
    assert t0[0, 0, 50, [10, 90]].tolist() == pytest.approx([10.5 * 0.8 - 0.5, 90.5 * 0.8 - 0.5], abs=1e-3)
    assert t1[0, 0, [10, 90], 50].tolist() == pytest.approx([20 + 10.5 * 0.8 - 0.5, 20 + 90.5 * 0.8 - 0.5], abs=1e-3)
    assert t0[1] == pytest.approx(ramp[1], abs=1e-2)  # the whole image


def test_tone_scales_the_difference_and_clips_nothing(frames):
    draws = draws_of()
    t0, t1 = augment(*frames, draws, AugmentConfig(flip=0, contrast=0.1, brightness=0.05))
    factor = (1 + 0.1 * (2 * draws[:, 4] - 1))[:, None, None, None]
    assert torch.allclose(t1 - t0, (frames[1].float() - frames[0].float()) * factor, atol=1e-3)
    shift = 255 * 0.05 * (2 * draws[:, 5] - 1)
    grey = torch.full_like(frames[0], 127)
    assert torch.allclose(
        augment(grey, grey, draws, AugmentConfig(flip=0, brightness=0.05))[0].mean((1, 2, 3)), 127 + shift, atol=1e-3
    )
    assert t0.min() < 0 or t0.max() > 255


def test_impossible_options_are_refused():
    with pytest.raises(ConfigError, match=r"crop_scale is 1\.2; it must lie between 0\.1 and 1"):
        AugmentConfig(crop_scale=1.2)
    with pytest.raises(ConfigError, match="flip is -1"):
        AugmentConfig(flip=-1)
