import dataclasses
import math

import pytest
import torch

from mbert import ConfigError, ModelError
from mbert.model.data.draws import Draws
from mbert.model.network.config import PRESETS, VARIANTS, MicronBertConfig
from mbert.model.network.micro_attention import MicroAttention, patch_of_interest, row_logsumexp
from mbert.model.network.micron_bert import MicronBert, patchify, swap_patches
from mbert.model.network.weights import TrainingState
from mbert.model.training.objective import ObjectiveConfig, pretraining_losses

SMALLEST = MicronBertConfig(
    image_size=32, patch_size=8, dim=16, depth=1, heads=2, decoder_dim=12, decoder_depth=1, decoder_heads=2
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MicronBert(SMALLEST)


@pytest.mark.parametrize("roles", ["paper", "released"])
def test_diagonal_micro_attention_equals_a_naive_loop(roles):
    torch.manual_seed(0)
    attention = MicroAttention(dataclasses.replace(SMALLEST, dim=8, roles=roles))
    p_ts, p_t1 = torch.randn(2, 5, 8) * 3, torch.randn(2, 5, 8) * 3
    asking, answering = (p_t1, p_ts) if roles == "paper" else (p_ts, p_t1)
    with torch.no_grad():
        diagonal = attention.diagonal(p_ts, p_t1)
    expected = torch.empty(2, 5)
    for b in range(2):
        query = (asking[b] @ attention.to_q.weight.T + attention.to_q.bias).detach()
        key = (answering[b] @ attention.to_k.weight.T + attention.to_k.bias).detach()
        for i in range(5):
            scores = [float(query[i] @ key[j]) / math.sqrt(8) for j in range(5)]
            total = sum(math.exp(score) for score in scores)
            expected[b, i] = 5 * math.exp(scores[i]) / total
    assert torch.allclose(diagonal, expected, atol=1e-5, rtol=1e-5)
    weight = torch.rand(2, 5)
    gated = weight[..., None] * attention.to_v(p_ts)
    assert torch.equal(attention.gated(weight, p_ts), gated if roles == "paper" else attention.proj(gated))


@pytest.mark.parametrize("roles", ["paper", "released"])
def test_full_attention_equals_plain_matrices(roles):
    torch.manual_seed(0)
    attention = MicroAttention(dataclasses.replace(SMALLEST, dim=8, roles=roles))
    p_ts, p_t1 = torch.randn(2, 5, 8) * 3, torch.randn(2, 5, 8) * 3
    asking, answering = (p_t1, p_ts) if roles == "paper" else (p_ts, p_t1)
    scores = attention.to_q(asking) @ attention.to_k(answering).mT / math.sqrt(8)
    expected = torch.softmax(scores, dim=-1) @ attention.to_v(p_ts)
    assert torch.allclose(attention.full(p_ts, p_t1), attention.proj(expected), atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 127, 128, 300])
def test_row_sums_without_the_matrix_equal_those_with_it(num_rows):
    torch.manual_seed(0)
    query, key = torch.randn(2, num_rows, 16, requires_grad=True), torch.randn(2, 200, 16, requires_grad=True)
    found, expected = row_logsumexp(query, key), torch.logsumexp(query @ key.mT, dim=-1)
    assert torch.allclose(found, expected, atol=1e-5)
    weight = torch.randn_like(expected)
    for mine, plain in zip(
        torch.autograd.grad((found * weight).sum(), (query, key)),
        torch.autograd.grad((expected * weight).sum(), (query, key)),
        strict=True,
    ):
        assert torch.allclose(mine, plain, atol=1e-5)


def test_row_sums_pass_gradcheck():
    torch.manual_seed(0)
    query, key = (torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(row_logsumexp, (query, key))


def test_row_sums_keep_only_what_is_linear_in_the_patches():
    """Queries and keys: the (N, N) product is not kept for the backward pass."""
    query, key = (torch.randn(1, 1000, 4, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        row_logsumexp(query, key)
    assert sum(kept) == 2 * 4000


def test_the_diagonal_is_one_where_attention_is_uniform():
    attention = MicroAttention(dataclasses.replace(SMALLEST, dim=8))
    torch.nn.init.zeros_(attention.to_q.weight)
    torch.nn.init.zeros_(attention.to_q.bias)
    diagonal = attention.diagonal(torch.randn(3, 50, 8), torch.randn(3, 50, 8))
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
    output = model(images, images, torch.zeros(2, num_patches, dtype=torch.bool), images)
    assert (context.shape, patches.shape) == ((2, 16), (2, num_patches, 16))
    assert output.reconstruction.shape == (2, num_patches, patch_size**2 * in_chans)
    assert output.pair.diagonal.shape == output.pair.interest.shape == (2, num_patches)


def test_a_pair_is_encoded_as_the_paper_writes_it(model):
    t0, t1 = torch.randn(2, 2, 3, 32, 32)
    pair = model.encode_pair(t0, t1)
    _, p_t0 = model.encode(t0)
    c_t1, p_t1 = model.encode(t1)
    diagonal, values = model.micro_attention.diagonal(p_t0, p_t1), model.micro_attention.to_v(p_t0)
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
    t0, t1, crop = torch.randn(3, 2, 3, 32, 32)
    mask = torch.rand(2, 16) < 0.5
    output = model(t0, t1, mask, crop)
    pair = model.encode_pair(swap_patches(t0, t1, mask, 8), t1)
    assert torch.allclose(output.pair.micro, pair.micro, atol=1e-5)
    assert torch.allclose(output.reconstruction, model.decode(pair.micro), atol=1e-5)
    assert torch.allclose(output.views, model.encode(crop)[0], atol=1e-5)


def test_the_contextual_token_alone_is_that_of_the_whole_encoding():
    torch.manual_seed(0)
    model = MicronBert(dataclasses.replace(SMALLEST, depth=3)).double()
    images = torch.randn(2, 3, 40, 32, dtype=torch.float64)
    whole, alone = model.encode(images)[0], model.encoder.context(images)
    assert torch.allclose(whole, alone, atol=1e-12)
    weight = torch.randn_like(whole)
    parameters = list(model.encoder.parameters())
    for mine, expected in zip(
        torch.autograd.grad((alone * weight).sum(), parameters),
        torch.autograd.grad((whole * weight).sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(mine, expected, atol=1e-10)


def test_every_parameter_gets_a_gradient(model):
    t0, t1, crop = torch.randn(3, 2, 3, 32, 32)
    output = model(t0, t1, torch.rand(2, 16) < 0.5, crop)
    (output.reconstruction.square().mean() + (output.context - output.views).square().mean()).backward()
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


MIXTURES = [
    {"roles": roles, "attention": attention, "poi": poi}
    for roles in ("paper", "released")
    for attention in ("diagonal", "full")
    for poi in (True, False)
    if not (poi and attention == "full")
]


@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda mixture: "-".join(map(str, mixture.values())))
def test_every_supported_mixture_trains_and_is_used(mixture):
    torch.manual_seed(0)
    model = MicronBert(dataclasses.replace(SMALLEST, **mixture))
    t0, t1, crop = torch.randn(3, 2, 3, 32, 32)
    output = model(t0, t1, torch.rand(2, 16) < 0.5, crop)
    loss = output.reconstruction.square().mean() + (output.context - output.views).square().mean()
    loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert without <= {"micro_attention.to_k.bias"}
    assert (output.pair.diagonal is None) == (mixture["attention"] == "full")
    assert (output.pair.interest is None) == (not mixture["poi"])
    assert model.attention_map(t0, t1).shape == model.interest_map(t1).shape == (2, 4, 4)


def test_variants_are_presets_of_the_mixtures():
    assert MicronBertConfig(**VARIANTS["paper"]) == MicronBertConfig()
    released = MicronBertConfig(**VARIANTS["released"])
    assert (released.roles, released.attention, released.poi) == ("released", "full", False)


def test_unsupported_mixtures_are_refused_by_name():
    with pytest.raises(ConfigError, match="poi=True with attention='full' is not supported"):
        MicronBertConfig(attention="full")
    with pytest.raises(ConfigError, match="roles is 'other'; allowed are paper, released"):
        MicronBertConfig(roles="other")


@pytest.mark.parametrize(("height", "width"), [(48, 48), (16, 40), (32, 32)])
def test_other_sizes_are_encoded_with_interpolated_positions(model, height, width):
    context, patches = model.encode(torch.randn(2, 3, height, width))
    assert (context.shape, patches.shape) == ((2, 16), (2, height * width // 64, 16))
    rows, columns = height // 8, width // 8
    positions = model.encoder._positions_for(rows, columns).view(rows, columns, 16)
    original = model.encoder.pos_embed.view(4, 4, 16)
    if (rows, columns) == (4, 4):
        assert torch.equal(positions, original)
    assert torch.allclose(positions.mean(dim=(0, 1)), original.mean(dim=(0, 1)), atol=0.1)


def test_gradient_checkpointing_changes_memory_and_nothing_else():
    model = MicronBert(dataclasses.replace(SMALLEST, depth=4, decoder_depth=4))
    t0, t1, crop = torch.randn(3, 2, 3, 32, 32)
    mask = torch.rand(2, 16) < 0.5
    kept, grads = [], []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x):
            output = model(t0, t1, mask, crop)
            loss = output.reconstruction.square().mean() + output.views.square().mean()
        model.zero_grad()
        loss.backward()
        kept.append(sum(saved))
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert kept[1] < kept[0] / 2
    assert len(grads[0]) > 30
    assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_the_model_can_be_compiled_in_one_graph(variant):
    """Whatever breaks the graph would cost a GPU its speed; the compiler's own code is not run here."""
    torch.manual_seed(0)
    model = MicronBert(dataclasses.replace(SMALLEST, **VARIANTS[variant]))
    t0, t1, crop = torch.randn(3, 2, 3, 32, 32)
    mask = torch.rand(2, 16) < 0.5
    found = []
    for compiled in (False, True):
        if compiled:
            torch.nn.Module.compile(model, backend="aot_eager", fullgraph=True)
        output = model(t0, t1, mask, crop, warped=(t0, t1) if variant == "motion" else None)
        loss = output.reconstruction.square().mean() + output.views.square().mean()
        if output.motion is not None:
            loss = loss + output.motion.logit.square().mean() + output.motion.displacement.square().mean()
        loss.backward()
        found.append((output.reconstruction, model.encoder.patch_embed.weight.grad.clone()))
        model.zero_grad()
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it, and says so to errors alone
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_compiling_compiles_blocks_and_what_finds_motion_and_changes_no_result(variant):
    torch.manual_seed(0)
    model = MicronBert(dataclasses.replace(SMALLEST, **VARIANTS[variant]))
    t0, t1 = torch.randn(2, 2, 3, 32, 32)
    expected = model.encode_pair(t0, t1).micro
    graphs = []
    model.compile(backend=lambda graph, inputs: graphs.append(len(inputs)) or graph)
    assert torch.allclose(model.encode_pair(t0, t1).micro, expected, atol=1e-5)
    # One for all blocks of the encoder, as they are of one size; evidence and head of motion.
    assert len(graphs) == (3 if variant == "motion" else 1)


def test_saved_and_loaded_models_are_equal(model, tmp_path):
    model.state = TrainingState(
        step=3, seed=0, preset="tiny", corpus="abc", subjects=("a/1", "b/2"), losses={"loss": 1.0}
    )
    model.save_pretrained(tmp_path / "model")
    assert "library_name: mbert" in (tmp_path / "model" / "README.md").read_text()
    for name in (tmp_path / "model", str(tmp_path / "model" / "model.safetensors")):
        again = MicronBert.from_pretrained(name)
        assert again.config == model.config
        assert again.state == model.state
        mine, theirs = model.state_dict(), again.state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_in_16_bits_the_same_parameters_learn(variant):
    """Autocast may keep weights of a pass without gradient: those that are asked both with and without one."""
    learned = []
    for enabled in (False, True):
        torch.manual_seed(0)
        model = MicronBert(dataclasses.replace(SMALLEST, **VARIANTS[variant]))
        t0, t1 = torch.randn(2, 3, 3, 32, 32)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = pretraining_losses(model, t0, t1, ObjectiveConfig(), Draws(0, range(3))).total
        loss.backward()
        learned.append({name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None})
    assert learned[0].keys() == learned[1].keys()
    moved = {name for name, norm in learned[0].items() if norm > 1e-6}
    assert len(moved) > 10
    assert {name for name in moved if not learned[1][name] > 0} == set()


def test_a_safetensors_file_of_another_name_is_no_file_of_the_authors(model, tmp_path):
    model.state = TrainingState(step=3, seed=0, preset="tiny", corpus="abc", subjects=("a/1",), losses={"loss": 1.0})
    model.save_pretrained(tmp_path)
    renamed = (tmp_path / "model.safetensors").rename(tmp_path / "best.bin")
    again = MicronBert.from_pretrained(renamed)
    assert torch.equal(again.decoder_pred.weight, model.decoder_pred.weight)
    assert again.state == model.state
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"best\.bin is not a μ-BERT checkpoint .*config\.json does not exist"):
        MicronBert.from_pretrained(renamed)


def test_a_name_that_is_nowhere_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="somebody/no-such-model is neither a file or folder here nor a model"):
        MicronBert.from_pretrained("somebody/no-such-model", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(ModelError, match="there is no checkpoint in"):
        MicronBert.from_pretrained(tmp_path)


def test_impossible_sizes_are_refused():
    with pytest.raises(ConfigError, match="image size 30 is not a multiple of patch size 8"):
        MicronBertConfig(image_size=30)
    with pytest.raises(ConfigError, match="dim 100 must be a multiple of its 3 heads"):
        MicronBertConfig(dim=100, heads=3)
