import dataclasses
import math

import pytest
import torch

from mbert import ConfigError
from mbert.model.micron_bert import (
    PRESETS,
    DiagonalMicroAttention,
    MicronBert,
    MicronBertConfig,
    patch_of_interest,
    patchify,
)

SMALLEST = MicronBertConfig(
    image_size=32, patch_size=8, dim=16, depth=1, heads=2, decoder_dim=12, decoder_depth=1, decoder_heads=2
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MicronBert(SMALLEST)


def test_diagonal_micro_attention_equals_a_naive_loop():
    torch.manual_seed(0)
    attention = DiagonalMicroAttention(8)
    asking, answering = torch.randn(2, 5, 8) * 3, torch.randn(2, 5, 8) * 3
    with torch.no_grad():
        diagonal, values = attention(asking, answering)
    expected = torch.empty(2, 5)
    for b in range(2):
        query = (asking[b] @ attention.to_q.weight.T + attention.to_q.bias).detach()
        key = (answering[b] @ attention.to_k.weight.T + attention.to_k.bias).detach()
        for i in range(5):
            scores = [float(query[i] @ key[j]) / math.sqrt(8) for j in range(5)]
            total = sum(math.exp(score) for score in scores)
            expected[b, i] = 5 * math.exp(scores[i]) / total
    assert torch.allclose(diagonal, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(values, attention.to_v(answering))


def test_the_diagonal_is_one_where_attention_is_uniform():
    attention = DiagonalMicroAttention(8)
    torch.nn.init.zeros_(attention.to_q.weight)
    torch.nn.init.zeros_(attention.to_q.bias)
    diagonal, _ = attention(torch.randn(3, 50, 8), torch.randn(3, 50, 8))
    assert torch.allclose(diagonal, torch.ones(3, 50), atol=1e-5)


def test_patch_of_interest_equals_hand_arithmetic():
    context = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    patches = torch.tensor([[[1.0, 5.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 7.0, 0.0]]])
    interest = patch_of_interest(context, patches)
    weights = [math.exp(2 * x / 2) for x in (1.0, 3.0, 0.0)]  # scaled by 1 / sqrt(4)
    assert interest[0].tolist() == pytest.approx([3 * weight / sum(weights) for weight in weights], rel=1e-5)


def test_patch_of_interest_has_mean_one():
    interest = patch_of_interest(torch.randn(4, 16), torch.randn(4, 49, 16) * 4)
    assert torch.allclose(interest.mean(dim=1), torch.ones(4), atol=1e-5)
    assert interest.std() > 0.1


def test_patches_run_by_row_column_then_y_x_channel():
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    row, column = 1, 2
    expected = [images[1, c, row * 2 + y, column * 2 + x] for y in range(2) for x in range(2) for c in range(3)]
    assert patches[1, row * 3 + column].tolist() == [float(value) for value in expected]


@pytest.mark.parametrize(("image_size", "patch_size", "in_chans"), [(32, 8, 3), (48, 16, 1), (40, 4, 3)])
def test_shapes(image_size, patch_size, in_chans):
    config = dataclasses.replace(SMALLEST, image_size=image_size, patch_size=patch_size, in_chans=in_chans)
    model = MicronBert(config)
    images = torch.randn(2, in_chans, image_size, image_size)
    num_patches = (image_size // patch_size) ** 2
    context, patches = model.encode(images)
    output = model(images, images, images)
    assert (context.shape, patches.shape) == ((2, 16), (2, num_patches, 16))
    assert output.reconstruction.shape == (2, num_patches, patch_size**2 * in_chans)
    assert output.pair.diagonal.shape == output.pair.interest.shape == (2, num_patches)


def test_a_pair_is_encoded_as_the_paper_writes_it(model):
    t0, t1 = torch.randn(2, 2, 3, 32, 32)
    pair = model.encode_pair(t0, t1)
    _, p_t0 = model.encode(t0)
    c_t1, p_t1 = model.encode(t1)
    diagonal, values = model.micro_attention(p_t1, p_t0)
    interest = patch_of_interest(c_t1, p_t1)
    for mine, expected in (
        (pair.t0, p_t0),
        (pair.t1, p_t1),
        (pair.diagonal, diagonal),
        (pair.interest, interest),
        (pair.micro, diagonal[..., None] * interest[..., None] * values),
    ):
        assert torch.allclose(mine, expected, atol=1e-5)


def test_training_and_use_encode_alike(model):
    ts, t1, crop = torch.randn(3, 2, 3, 32, 32)
    output = model(ts, t1, crop)
    pair = model.encode_pair(ts, t1)
    assert torch.allclose(output.pair.micro, pair.micro, atol=1e-5)
    assert torch.allclose(output.reconstruction, model.decode(pair.micro), atol=1e-5)
    assert torch.allclose(output.context_crop, model.encode(crop)[0], atol=1e-5)


def test_every_parameter_gets_a_gradient(model):
    ts, t1, crop = torch.randn(3, 2, 3, 32, 32)
    output = model(ts, t1, crop)
    (output.reconstruction.square().mean() + (output.context - output.context_crop).square().mean()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    # A constant added to every key leaves a softmax as it is: that bias can have no gradient.
    assert [name for name in without if name != "micro_attention.to_k.bias"] == []


def test_the_decoder_sees_a_signal_of_ordinary_size_at_the_start(model):
    t0, t1 = torch.randn(2, 8, 3, 32, 32)
    pair = model.encode_pair(t0, t1)
    values = model.micro_attention.to_v(pair.t0)
    assert 0.2 < float(pair.micro.detach().std() / values.detach().std()) < 5


def test_presets_have_the_documented_sizes():
    small = PRESETS["small"]
    assert (small.image_size, small.patch_size, small.num_patches) == (224, 8, 784)
    assert (small.dim, small.depth, small.heads) == (512, 4, 4)
    assert (small.decoder_dim, small.decoder_depth, small.decoder_heads) == (512, 4, 4)
    assert sorted(PRESETS) == ["base", "small", "tiny"]
    assert PRESETS["tiny"].dim < small.dim < PRESETS["base"].dim


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="image size 30 is not a multiple of patch size 8"):
        MicronBertConfig(image_size=30)
    with pytest.raises(ConfigError, match="dim 100 must be a multiple of its 3 heads"):
        MicronBertConfig(dim=100, heads=3)
