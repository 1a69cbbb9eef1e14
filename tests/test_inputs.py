import dataclasses
import json

import numpy as np
import pytest
import torch

from mbert import ConfigError, ModelError
from mbert.model.network.classifier import Classifier, ClassifierConfig
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.features import (
    INPUTS,
    check_inputs,
    in_own_units,
    join_steps,
    micro_attention_parts,
    num_features,
    pair_inputs,
)
from mbert.model.network.micro_attention import patch_of_interest
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.optim import adamw, set_learning_rate

CONFIG = MicronBertConfig(
    image_size=112, dim=16, depth=1, heads=2, decoder_dim=12, decoder_depth=1, decoder_heads=2, agent="none"
)
SIZES = {
    "change": 49 * 16,
    "dma": 49 * 16,
    "dma_both": 2 * 49 * 16,
    "map": 14**2,
    "distance": 14**2,
    "motion": 2 * 14**2,
    "measured": 2 * 14**2,
}
MOTION = dataclasses.replace(CONFIG, attention="motion", motion_dim=16, motion_depth=1)


def build(config=CONFIG, **changes):
    torch.manual_seed(0)
    return MicronBert(dataclasses.replace(config, **changes)).eval()


@pytest.fixture
def frames():
    torch.manual_seed(1)
    t0 = torch.randn(2, 3, 112, 112)
    return t0, t0 + 0.3 * torch.randn(2, 3, 112, 112)


def regions(tokens):
    """Tokens (B, 14 * 14, D) averaged over 7 x 7 squares of 2 x 2 patches: (B, D * 49)."""
    squares = tokens.view(len(tokens), 7, 2, 7, 2, -1).mean(dim=(2, 4))
    return squares.permute(0, 3, 1, 2).flatten(1)


def test_frames_of_another_size_than_the_model_takes_are_refused(frames):
    with pytest.raises(ModelError, match="frames are 112 and 56 px wide, this model takes 112 px"):
        pair_inputs(build(MOTION), frames[0], frames[1][..., ::2, ::2], ["motion"])


@pytest.mark.parametrize("name", INPUTS)
def test_each_input_has_its_size_and_is_finite(name, frames):
    model = build(MOTION if name == "motion" else CONFIG)
    found = pair_inputs(model, *frames, [name])
    assert found.shape == (2, SIZES[name])
    assert found.dtype == torch.float32
    assert num_features(model.config, [name]) == SIZES[name]
    assert torch.isfinite(pair_inputs(model, frames[0], frames[0], [name])).all()


def test_motion_and_measured_have_a_unit_each_beside_what_a_head_should_scale():
    units = in_own_units(MOTION, ("distance", "motion", "measured"))
    assert units.tolist() == [0] * SIZES["distance"] + [1] * SIZES["motion"] + [2] * SIZES["measured"]


@torch.no_grad()
def test_inputs_stand_side_by_side_in_the_order_of_their_names(frames):
    model, names = build(), ("map", "change", "distance")
    whole = pair_inputs(model, *frames, names)
    assert num_features(CONFIG, names) == whole.shape[1]
    assert torch.equal(whole, torch.cat([pair_inputs(model, *frames, [name]) for name in names], dim=1))


def test_the_frames_are_encoded_once_for_all_inputs(frames):
    model, calls = build(MOTION), []
    model.encoder.register_forward_hook(lambda module, given, found: calls.append(given[0].shape))
    pair_inputs(model, *frames, INPUTS)
    assert calls == [(4, 3, 112, 112)]


@torch.no_grad()
def test_what_moved_is_said_without_encoding_a_frame(frames):
    model, calls = build(MOTION), []
    model.encoder.register_forward_hook(lambda module, given, found: calls.append(given[0].shape))
    pair_inputs(model, *frames, ("map", "motion", "measured"))
    model.change_map(*frames)
    assert calls == []


@torch.no_grad()
@pytest.mark.parametrize("poi", [True, False])
def test_dma_is_the_gated_value_of_each_patch(frames, poi):
    model = build(poi=poi)
    (_, p_t0), (c_t1, p_t1) = (model.encode(images) for images in frames)
    attention = model.micro_attention
    scores = attention.to_q(p_t1) @ attention.to_k(p_t0).mT / 16**0.5
    weight = torch.softmax(scores, dim=-1).diagonal(dim1=1, dim2=2) * 196
    if poi:
        weight = weight * torch.softmax((p_t1 @ c_t1[..., None])[..., 0] / 4, dim=-1) * 196
    expected = regions(weight[..., None] * attention.to_v(p_t0))
    assert torch.allclose(pair_inputs(model, *frames, ["dma"]), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_both_orders_swap_with_the_frames(frames):
    model = build()
    there, back = pair_inputs(model, *frames, ["dma_both"]), pair_inputs(model, *frames[::-1], ["dma_both"])
    first, second = there.chunk(2, dim=1)
    assert torch.allclose(torch.cat([second, first], dim=1), back, atol=1e-6)
    assert torch.allclose(first, pair_inputs(model, *frames, ["dma"]), atol=1e-6)
    assert not torch.allclose(first, second, atol=1e-3)


@torch.no_grad()
def test_the_map_is_the_diagonal_and_the_interest_between_their_own_ends(frames):
    model = build()
    found = pair_inputs(model, *frames, ["map"])
    assert found.min() >= 0
    assert found.max() <= 1
    diagonal, interest = model.attention_map(*frames), model.interest_map(frames[1])
    for row in range(2):
        ends = diagonal[row].min(), diagonal[row].max()
        expected = (ends[1] - diagonal[row]) / (ends[1] - ends[0]) * interest[row] / interest[row].max()
        assert torch.allclose(found[row], expected.flatten(), atol=1e-5)  # 14 x 14 regions of 14 x 14 patches
    plain = pair_inputs(build(poi=False), *frames, ["map"])
    assert (plain.amin(1).tolist(), plain.amax(1).tolist()) == ([0, 0], [1, 1])
    assert not torch.allclose(plain, found, atol=1e-3)


@torch.no_grad()
def test_with_attention_motion_the_map_is_a_probability_and_motion_the_displacement(frames):
    model = build(MOTION)
    motion = model.motion_of(*frames)
    assert torch.allclose(pair_inputs(model, *frames, ["map"]), motion.moved, atol=1e-6)
    both = (motion.displacement / 0.15).asinh().mT.flatten(1)  # all x, then all y; 14 x 14 regions of 14 x 14 patches
    assert torch.allclose(pair_inputs(model, *frames, ["motion"]), both, atol=1e-6)


@torch.no_grad()
def test_the_distance_is_the_weighted_length_of_the_change(frames):
    model = build()
    (_, p_t0), (c_t1, p_t1) = (model.encode(images) for images in frames)
    expected = (p_t1 - p_t0).norm(dim=-1) * patch_of_interest(c_t1, p_t1)
    assert torch.allclose(pair_inputs(model, *frames, ["distance"]), expected, atol=1e-5)
    assert pair_inputs(model, frames[0], frames[0], ["distance"]).abs().max() < 1e-4


def test_wrong_inputs_are_refused():
    for inputs, message in (
        ((), "inputs is empty; at least one is needed of change, dma, dma_both, map, distance, motion, measured"),
        (("chang",), "inputs has 'chang'; allowed are change, dma, dma_both, map, distance, motion, measured"),
        (("map", "map"), "inputs has map twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_inputs(inputs)
        with pytest.raises(ConfigError, match=message):
            ClassifierConfig(classes=("a", "b"), num_features=3, image_size=112, inputs=inputs)
    full = dataclasses.replace(CONFIG, attention="full", poi=False)
    for name in ("dma", "dma_both"):
        with pytest.raises(
            ConfigError, match=f"{name}, which needs attention='diagonal' or 'motion'.*'full' and can give"
        ):
            num_features(full, [name])
    for config in (CONFIG, full):
        with pytest.raises(
            ConfigError, match=r"motion, which needs attention='motion'.*can give change, .*distance, measured$"
        ):
            num_features(config, ["motion"])
    assert num_features(full, ["map", "distance", "change"]) == 2 * 196 + 784


@pytest.mark.parametrize("inputs", [*((name,) for name in INPUTS), ("change", "dma_both", "map")], ids="+".join)
@pytest.mark.parametrize("backbone", [CONFIG, MOTION], ids=lambda config: config.attention)
def test_a_classifier_learns_from_each_input_and_is_loaded_with_it(frames, backbone, inputs, tmp_path):
    if "motion" in inputs and backbone is CONFIG:
        pytest.skip("this attention has no motion; test_wrong_inputs_are_refused has that case")
    model, before = build(backbone), build(backbone).state_dict()
    config = ClassifierConfig(
        classes=("a", "b"), num_features=num_features(backbone, inputs), image_size=112, inputs=inputs
    )
    classifier = Classifier(model, config).train()
    optimizer = adamw(classifier, weight_decay=0.0)
    set_learning_rate(optimizer, 1e-2)
    torch.nn.functional.cross_entropy(classifier(*frames), torch.tensor([0, 1])).backward()
    learned = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    # With several processes, a parameter that is to be learned and gets no gradient would end the run.
    assert learned == {name for name, parameter in classifier.named_parameters() if parameter.grad is not None}
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    parts = {name.split(".")[1] for name in changed if name.startswith("micro_attention.")}
    assert parts == set(micro_attention_parts(backbone, inputs)) - {"proj"}  # it has no weights with the paper's roles
    assert {name.split(".")[0] for name in changed} <= {"encoder", "micro_attention"}
    classifier.eval().save(tmp_path, None)
    again = Classifier.from_pretrained(tmp_path).eval()
    assert again.config == config
    with torch.no_grad():
        assert torch.equal(again(*frames), classifier(*frames))


def test_the_released_roles_learn_their_last_layer_too(frames):
    config = ClassifierConfig(classes=("a", "b"), num_features=49 * 16, image_size=112, inputs=("dma",))
    classifier = Classifier(build(roles="released"), config)
    classifier(*frames).sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.backbone.micro_attention.parameters())


def test_a_frozen_classifier_learns_the_head_alone(frames):
    config = ClassifierConfig(classes=("a", "b"), num_features=49 * 16, image_size=112, inputs=("dma",))
    classifier = Classifier(build(), config, frozen=True)
    assert {name.split(".")[0] for name, found in classifier.named_parameters() if found.requires_grad} == {"head"}


def test_micro_attention_learns_as_fast_as_what_it_stands_on():
    config = ClassifierConfig(classes=("a", "b"), num_features=49 * 16, image_size=112, inputs=("dma",))
    classifier = Classifier(build(), config)
    assert classifier.lr_scale("backbone.micro_attention.to_q.weight", 0.5) == 0.5
    assert classifier.lr_scale("backbone.encoder.norm.weight", 0.5) == 0.5
    assert classifier.lr_scale("backbone.encoder.patch_embed.weight", 0.5) == 0.25


def test_a_classifier_from_before_there_was_a_choice_looks_at_the_change(frames, tmp_path):
    config = ClassifierConfig(classes=("a", "b"), num_features=49 * 16, image_size=112)
    Classifier(build(), config).save(tmp_path, None)
    about = json.loads((tmp_path / "classifier.json").read_text())
    assert about.pop("inputs") == ["change"]
    (tmp_path / "classifier.json").write_text(json.dumps(about))
    assert Classifier.from_pretrained(tmp_path).config == config


def test_steps_of_an_expression_are_joined_in_time_order():
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(4, 3)).astype(np.float32) for _ in range(3)]
    joined = join_steps(steps)
    assert joined.shape == (4, 9)
    assert joined[2].tolist() == [*steps[0][2].tolist(), *steps[1][2].tolist(), *steps[2][2].tolist()]
    assert np.array_equal(join_steps(steps[:1]), steps[0])
    with pytest.raises(ModelError, match=r"shapes \(4, 3\), \(3, 3\); at least one, and equal ones"):
        join_steps([steps[0], steps[1][:3]])
    with pytest.raises(ModelError, match=r"\(none\)"):
        join_steps([])
