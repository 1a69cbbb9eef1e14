import pytest

from mbert.model.config import MicronBertConfig
from mbert.model.micron_bert import MicronBert
from mbert.model.optim import adamw, learning_rate


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
    decayed, others = ([names[id(p)] for p in group["params"]] for group in adamw(model, weight_decay=0.1).param_groups)
    assert sorted(decayed + others) == sorted(names.values())
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert "encoder.contextual_token" in others
    assert [name for name in others if not name.endswith("bias") and "norm" not in name] == ["encoder.contextual_token"]
