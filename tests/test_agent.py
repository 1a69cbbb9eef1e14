import dataclasses
import math

import pytest
import torch

from mbert import ConfigError
from mbert.model.data.draws import Draws
from mbert.model.network.agent import DinoHead, ema_momentum
from mbert.model.network.config import VARIANTS, MicronBertConfig
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.objective import ObjectiveConfig, dino_crops, pretraining_losses
from mbert.model.training.optim import adamw
from mbert.model.training.pretrain import PretrainConfig, run_pretrain

SMALLEST = MicronBertConfig(
    image_size=32, patch_size=8, dim=16, depth=1, heads=2, decoder_dim=12, decoder_depth=1, decoder_heads=2,
    **VARIANTS["released"],
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MicronBert(SMALLEST)


def losses_of(model, t0, t1, seed=0):
    return pretraining_losses(model, t0, t1, ObjectiveConfig(), Draws(seed, range(len(t0))))


def test_the_head_gives_cosines_with_unit_prototypes():
    torch.manual_seed(0)
    head = DinoHead(16)
    tokens = torch.randn(5, 16)
    hidden = head.mlp(tokens)
    for row in range(5):
        for column in (0, 77):
            prototype = head.last_layer.weight_v[column]
            expected = hidden[row] @ prototype / hidden[row].norm() / prototype.norm()
            assert head(tokens)[row, column].item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_loss_equals_hand_arithmetic(model):
    torch.manual_seed(1)
    agent, batch = model.agent, 2
    agent.center.copy_(torch.randn(1, 128) * 0.1)
    crops, views = torch.randn(2 * batch, 3, 32, 32), torch.randn(10 * batch, 16)
    with torch.no_grad():
        answers = agent.teacher_head(agent.teacher(crops)[0])
        said = agent.head(views)
    total = count = 0
    for teacher_view in range(2):
        for student_view in range(10):
            if student_view == teacher_view:
                continue
            for b in range(batch):
                target = torch.softmax((answers[teacher_view * batch + b] - agent.center[0]) / 0.04, 0)
                log = torch.log_softmax(said[student_view * batch + b] / 0.1, 0)
                total += -(target * log).sum().item()
                count += 1
    assert count == 18 * batch
    assert agent(views, crops).item() == pytest.approx(total / count, rel=1e-4)


def test_teacher_and_centre_follow_by_their_momenta(model):
    agent = model.agent
    before = agent.teacher.patch_embed.weight.clone()
    assert torch.equal(before, model.encoder.patch_embed.weight)
    with torch.no_grad():
        model.encoder.patch_embed.weight += 1
    crops = torch.randn(4, 3, 32, 32)
    agent(torch.randn(20, 16), crops)
    mean = agent.teacher_head(agent.teacher(crops)[0]).mean(dim=0)
    agent.follow(model.encoder, momentum=0.9)
    assert torch.allclose(agent.teacher.patch_embed.weight, before + 0.1, atol=1e-6)
    assert torch.allclose(agent.center[0], 0.1 * mean, atol=1e-6)
    agent.follow(model.encoder, momentum=0.0)
    assert torch.allclose(agent.teacher.patch_embed.weight, model.encoder.patch_embed.weight, atol=1e-6)


def test_the_averaged_teacher_of_the_plain_agent_follows_too():
    torch.manual_seed(0)
    model = MicronBert(dataclasses.replace(SMALLEST, agent="mse_ema"))
    images, views = torch.randn(2, 3, 32, 32), torch.randn(2, 16)
    before = model.encode(images)[0]
    with torch.no_grad():
        model.encoder.norm.weight += 1
    assert model.agent(views, images).item() == pytest.approx((views - before).square().mean().item(), rel=1e-4)
    model.agent.follow(model.encoder, momentum=0.75)
    assert torch.allclose(model.agent.teacher.norm.weight, torch.full((16,), 1.25))
    assert all(not parameter.requires_grad for parameter in model.agent.parameters())


def follow_on_a_rank(rank, world, address, folder):
    """One of `world` processes with its part of the crops: saves its loss, its gradient and its centre."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = MicronBert(SMALLEST)
    crops, views = torch.load(f"{folder}/inputs.pt", weights_only=True)
    mine = [part.unflatten(0, (-1, 4))[:, rank::world].flatten(0, 1) for part in (crops, views)]
    loss = model.agent(mine[1], mine[0])
    loss.backward()
    model.agent.follow(model.encoder, momentum=0.9)
    found = {"loss": loss.detach(), "grad": model.agent.head.mlp[0].weight.grad, "center": model.agent.center}
    torch.save(found, f"{folder}/{world}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_do_what_one_does_with_both_their_pairs(tmp_path):
    torch.manual_seed(1)
    torch.save((torch.randn(2 * 4, 3, 32, 32), torch.randn(10 * 4, 16)), tmp_path / "inputs.pt")
    for world in (1, 2):
        torch.multiprocessing.spawn(
            follow_on_a_rank, (world, str(tmp_path / f"at-{world}"), str(tmp_path)), nprocs=world
        )
    alone, first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    assert alone["center"].abs().max() > 0
    assert torch.allclose(first["center"], alone["center"], atol=1e-7)
    assert torch.equal(first["center"], second["center"])
    assert torch.allclose((first["loss"] + second["loss"]) / 2, alone["loss"], rtol=1e-5)
    assert torch.allclose((first["grad"] + second["grad"]) / 2, alone["grad"], atol=1e-7)


def test_the_centre_is_that_of_all_batches_of_a_step(model):
    crops, views = torch.randn(2 * 4, 3, 32, 32), torch.randn(10 * 4, 16)
    first = crops.unflatten(0, (2, 4))[:, :2].flatten(0, 1)
    second = crops.unflatten(0, (2, 4))[:, 2:].flatten(0, 1)
    model.agent(views[:20], first)
    model.agent(views[20:], second)
    model.agent.follow(model.encoder, momentum=1.0)
    accumulated = model.agent.center.clone()
    model.agent.center.zero_()
    model.agent(views, crops)
    model.agent.follow(model.encoder, momentum=1.0)
    assert torch.allclose(accumulated, model.agent.center, atol=1e-7)


def test_the_momentum_rises_from_its_start_to_one_by_a_cosine():
    assert ema_momentum(0, num_steps=100, start=0.996) == pytest.approx(0.996)
    assert ema_momentum(50, num_steps=100, start=0.996) == pytest.approx(0.998)
    assert ema_momentum(100, num_steps=100, start=0.996) == pytest.approx(1.0)


def test_crops_have_the_sizes_and_scales_of_dino():
    ramp = torch.linspace(0, 1, 224).expand(64, 1, 224, 224)
    large, small = dino_crops(ramp, patch_size=8, draws=Draws(0, range(64)))
    assert (large.shape, small.shape) == ((128, 1, 224, 224), (512, 1, 96, 96))
    for crops, low, high in ((large, 0.4, 1.0), (small, 0.05, 0.4)):
        side = (crops[:, 0, 0, -1] - crops[:, 0, 0, 0]) * crops.shape[-1] / (crops.shape[-1] - 1)
        assert side.min() == pytest.approx(math.sqrt(low), abs=0.05)
        assert side.max() == pytest.approx(math.sqrt(high), abs=0.05)


def test_only_the_student_learns(model):
    t0, t1 = torch.randn(2, 3, 3, 32, 32)
    losses_of(model, t0, t1).total.backward()
    teacher = [*model.agent.teacher.parameters(), *model.agent.teacher_head.parameters()]
    assert all(parameter.grad is None for parameter in teacher)
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.agent.head.mlp.parameters())
    assert model.encoder.contextual_token.grad.abs().sum() > 0
    optimizer = adamw(model, weight_decay=0.1)
    learned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert not learned & {id(parameter) for parameter in teacher}


def test_centre_and_temperature_keep_the_token_from_collapsing_and_without_them_it_is_seen():
    """On eight different images: the agent alone, for some steps. The spread of the token is what is to be watched."""
    torch.manual_seed(0)
    t1 = torch.randn(8, 3, 4, 4).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    spread = {}
    for name in ("dino", "constant"):
        torch.manual_seed(0)
        model = MicronBert(SMALLEST)
        optimizer = adamw(model, weight_decay=0.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        for step in range(60):
            large, small = dino_crops(t1, patch_size=8, draws=Draws(step, range(8)))
            views = torch.cat([model.encode(large)[0], model.encode(small)[0]])
            # Where both sides may move and nothing pushes them apart, the token collapses.
            attraction = (views - views.mean(dim=0)).square().mean()
            loss = model.agent(views, large) if name == "dino" else attraction
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.agent.follow(model.encoder, momentum=0.99)
        with torch.no_grad():
            spread[name] = model.encode(t1)[0].std(dim=0).mean().item()
    assert spread["constant"] < 0.03
    assert spread["dino"] > 5 * spread["constant"]


def test_the_released_variant_is_pretrained_and_continued(corpus, tmp_path):
    config = PretrainConfig(preset="tiny", variant="released", steps=3, batch_size=2)
    summary = run_pretrain(corpus.pairs, tmp_path / "run", config)
    parts = summary.last.parts
    assert parts["loss_agent"] > 1  # a cross-entropy over 128 prototypes begins near log(128)
    assert summary.last.loss == pytest.approx(parts["loss_reconstruction"] + parts["loss_agent"], rel=1e-4)
    with pytest.raises(ConfigError, match="variant: run released, requested motion"):
        run_pretrain(corpus.pairs, tmp_path / "run", PretrainConfig(preset="tiny", steps=3, batch_size=2))
    with pytest.raises(ConfigError, match="variant is 'other'; allowed are motion, paper, released"):
        PretrainConfig(variant="other")
