import dataclasses

import pytest
import torch

from mbert.model.data.draws import Draws
from mbert.model.network.config import VARIANTS, MicronBertConfig
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.cost import step_cost
from mbert.model.training.objective import ObjectiveConfig, pretraining_losses

CONFIG = MicronBertConfig(
    image_size=32, patch_size=8, dim=16, depth=2, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2
)
OBJECTIVE = ObjectiveConfig(crop_size_ratio=1.0)


@pytest.mark.parametrize("changes", [{}, VARIANTS["released"], {"in_chans": 1, "agent": "none"}], ids=str)
def test_parameters_are_those_of_the_model(changes):
    config = dataclasses.replace(CONFIG, **changes)
    cost = step_cost(config, OBJECTIVE, batch_size=1)
    model = MicronBert(config)
    assert cost.num_parameters == sum(tensor.numel() for tensor in model.state_dict().values())
    assert cost.num_learned == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_arithmetic_of_a_pair_equals_the_sum_by_hand():
    """Without an agent: two frames through the encoder, the comparison, the decoder; products only."""
    tokens, patches = 17, 16

    def block(dim, n):
        return n * 12 * dim**2 + 2 * n * n * dim  # qkv 3, proj 1, MLP 8; scores and mixing

    embed = 2 * patches * 192 * 16  # no gradient for the images: twice instead of three times
    forward = 2 * 2 * block(16, tokens)
    compare = 3 * patches * 16**2 + patches * patches * 16  # Q, K, V; row sums
    forward += compare + patches * 16 * 8 + block(8, patches) + patches * 8 * 192
    again = patches * patches * 16  # the rows' sums are made again in the backward pass
    expected = 2 * (3 * forward + again + 2 * embed)
    cost = step_cost(dataclasses.replace(CONFIG, agent="none", poi=False), OBJECTIVE, batch_size=5)
    assert cost.flops_per_pair == pytest.approx(expected, rel=0.01)


def test_memory_grows_with_the_batch_by_what_a_real_pass_keeps():
    torch.manual_seed(0)
    model = MicronBert(CONFIG)
    real = []
    for batch in (3, 7):
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, kept=kept: kept.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x,
            lambda x: x,
        ):
            images = torch.randn(batch, 3, 32, 32)
            loss = pretraining_losses(model, images, images, OBJECTIVE, Draws(0, range(batch))).total
        real.append(sum(kept.values()))
        del loss
    counted = [step_cost(CONFIG, OBJECTIVE, batch_size=batch).memory_bytes for batch in (3, 7)]
    assert counted[1] - counted[0] == pytest.approx(real[1] - real[0], rel=0.02)


def test_halved_precision_and_checkpointing_need_less():
    plain, half = (
        step_cost(CONFIG, OBJECTIVE, batch_size=64, precision=name).memory_bytes for name in ("fp32", "bf16")
    )
    checkpointed = step_cost(CONFIG, OBJECTIVE, batch_size=64, grad_checkpointing=True).memory_bytes
    assert half < 0.8 * plain
    assert checkpointed < 0.6 * plain


def test_the_papers_model_with_64_pairs_fits_into_24_gb():
    """The goal for a card of 24 GB in bf16, by count: kernels' workspace has the rest."""
    cost = step_cost(MicronBertConfig(), ObjectiveConfig(), batch_size=64, precision="bf16")
    assert cost.memory_bytes < 16 * 2**30
