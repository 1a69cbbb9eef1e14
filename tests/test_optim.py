import pytest
import torch

from mbert.model.network.config import MicronBertConfig
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.optim import AveragedWeights, adamw, learning_rate, set_learning_rate


def test_the_rate_warms_up_linearly_then_falls_as_a_cosine_to_zero():
    rates = [learning_rate(step, num_steps=110, num_warmup=10, peak=2.0) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)
    assert rates[110] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_norms_biases_and_the_token_are_not_decayed_and_nothing_is_left_out():
    model = MicronBert(MicronBertConfig(image_size=16, dim=16, depth=1, heads=2, decoder_dim=16, decoder_depth=1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        group["weight_decay"]: [names[id(p)] for p in group["params"]]
        for group in adamw(model, weight_decay=0.1).param_groups
    }
    assert sorted(groups) == [0.0, 0.1]
    decayed, others = groups[0.1], groups[0.0]
    assert sorted(decayed + others) == sorted(names.values())
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert "encoder.contextual_token" in others
    assert [name for name in others if not name.endswith("bias") and "norm" not in name] == ["encoder.contextual_token"]


def test_parameters_get_their_share_of_the_rate():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    optimizer = adamw(model, weight_decay=0.1, lr_scale=lambda name: 0.5 if name.startswith("0.") else 1.0)
    set_learning_rate(optimizer, 0.4)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: rates[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.2,
        "0.bias": 0.2,
        "1.weight": 0.4,
        "1.bias": 0.4,
    }


def test_averaged_weights_follow_slowly_and_forget_the_start():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    averaged = AveragedWeights(model, 0.9)
    torch.nn.init.ones_(model.weight)
    averaged.follow(model, 0)
    assert averaged.tensors["weight"].item() == pytest.approx(0.9)  # at the start a tenth is kept
    averaged.follow(model, 1000)
    assert averaged.tensors["weight"].item() == pytest.approx(0.9 + 0.1 * 0.1)
