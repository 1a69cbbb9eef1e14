import argparse
import dataclasses
import json
import os
import pathlib

import pytest
import torch
import torch.nn.functional as F

from mbert import ModelError
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.released import write_released
from mbert.model.network.weights import read_state
from mbert.model.training.convert import convert_released
from mbert.pipeline.corpora.people import sub_number

DIM, DEPTH, HEADS, DECODER_DIM, GRID, PATCH = 16, 2, 4, 8, 4, 8
ARGS = {"num_heads": HEADS, "decoder_num_heads": 2, "diag_att": False, "dataset": "CASME2", "epochs": 200}


def linear(name, rows, columns):
    return {f"{name}.weight": torch.randn(rows, columns) * 0.2, f"{name}.bias": torch.randn(rows) * 0.1}


def norm(name, dim):
    return {f"{name}.weight": 1 + torch.randn(dim) * 0.1, f"{name}.bias": torch.randn(dim) * 0.1}


def block(name, dim):
    parts = [norm(f"{name}.norm1", dim), norm(f"{name}.norm2", dim), linear(f"{name}.attn.qkv", 3 * dim, dim)]
    parts += [linear(f"{name}.attn.proj", dim, dim), linear(f"{name}.mlp.fc1", 4 * dim, dim)]
    parts += [linear(f"{name}.mlp.fc2", dim, 4 * dim)]
    return {key: value for part in parts for key, value in part.items()}


def backbone(prefix, first_position):
    tensors = {
        f"{prefix}.cls_token": torch.randn(1, 1, DIM),
        f"{prefix}.pos_embed": torch.cat([first_position, torch.randn(1, GRID**2, DIM)], dim=1),
        f"{prefix}.patch_embed.proj.weight": torch.randn(DIM, 3, PATCH, PATCH) * 0.1,
        f"{prefix}.patch_embed.proj.bias": torch.randn(DIM),
        **norm(f"{prefix}.norm", DIM),
    }
    for index in range(DEPTH):
        tensors |= block(f"{prefix}.blocks.{index}", DIM)
    return tensors


def head(prefix):
    tensors = {}
    for index, (rows, columns) in {0: (2048, DIM), 2: (2048, 2048), 4: (256, 2048)}.items():
        tensors |= linear(f"{prefix}.mlp.{index}", rows, columns)
    return {
        **tensors,
        f"{prefix}.last_layer.weight_g": torch.ones(128, 1),
        f"{prefix}.last_layer.weight_v": torch.randn(128, 256),
    }


def released_tensors(first_position=None):
    """A small file with the names of the real one (facts: 242 tensors at depth 4 + 4)."""
    torch.manual_seed(0)
    encoder = backbone("backbone", torch.zeros(1, 1, DIM) if first_position is None else first_position)
    tensors = dict(encoder)
    for name in ("to_q", "to_k", "to_v", "proj"):
        tensors |= linear(f"att.{name}", DIM, DIM)
    tensors |= {f"student.{name}": tensor.clone() for name, tensor in encoder.items()} | head("student.head")
    tensors |= {f"teacher.{name}": tensor + 1 for name, tensor in encoder.items()} | head("teacher.head")
    tensors |= {"dino_loss_fn.center": torch.randn(1, 128), **linear("decoder_embed", DECODER_DIM, DIM)}
    tensors["decoder_pos_embed"] = torch.cat([torch.zeros(1, 1, DECODER_DIM), torch.randn(1, GRID**2, DECODER_DIM)], 1)
    for index in range(DEPTH):
        tensors |= block(f"decoder_blocks.{index}", DECODER_DIM)
    return tensors | norm("decoder_norm", DECODER_DIM) | linear("decoder_pred", PATCH**2 * 3, DECODER_DIM)


@pytest.fixture
def released(tmp_path):
    path = tmp_path / "released.pth"
    torch.save({"args": argparse.Namespace(**ARGS), "epoch": 200, "model": released_tensors()}, path)
    return path


def features_by_hand(tensors, images):
    """The released encoder in plain matrices: contextual token and patch tokens."""

    def layer_norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def dense(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    weight = tensors["backbone.patch_embed.proj.weight"]
    patches = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, C, h, w, p, p)
    x = torch.einsum("bchwpq,dcpq->bhwd", patches, weight).flatten(1, 2) + tensors["backbone.patch_embed.proj.bias"]
    x = torch.cat([tensors["backbone.cls_token"].expand(len(x), -1, -1), x], dim=1) + tensors["backbone.pos_embed"]
    for index in range(DEPTH):
        name = f"backbone.blocks.{index}"
        qkv = dense(layer_norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        qkv = qkv.view(len(x), -1, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
        scores = qkv[0] @ qkv[1].transpose(-1, -2) / (DIM // HEADS) ** 0.5
        mixed = (torch.softmax(scores, dim=-1) @ qkv[2]).transpose(1, 2).flatten(2)
        x = x + dense(mixed, f"{name}.attn.proj")
        x = x + dense(F.gelu(dense(layer_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
    x = layer_norm(x, "backbone.norm")
    return x[:, 0], x[:, 1:]


@pytest.mark.parametrize("has_first_position", [False, True])
def test_features_equal_those_of_the_released_encoder(tmp_path, has_first_position):
    tensors = released_tensors(torch.randn(1, 1, DIM) if has_first_position else None)
    torch.save({"args": argparse.Namespace(**ARGS), "epoch": 200, "model": tensors}, tmp_path / "x.pth")
    convert_released(tmp_path / "x.pth", tmp_path / "out")
    model = MicronBert.from_pretrained(tmp_path / "out").eval()
    images = torch.randn(3, 3, GRID * PATCH, GRID * PATCH)
    with torch.no_grad():
        for mine, expected in zip(model.encode(images), features_by_hand(tensors, images), strict=True):
            assert torch.allclose(mine, expected, atol=1e-5)


def test_the_pair_is_compared_as_the_released_code_does(released, tmp_path):
    tensors = released_tensors()
    convert_released(released, tmp_path / "out")
    model = MicronBert.from_pretrained(tmp_path / "out").eval()
    swapped, reference = torch.randn(2, 2, 3, GRID * PATCH, GRID * PATCH)
    (_, x), (_, ref) = (features_by_hand(tensors, images) for images in (swapped, reference))
    query, key, value = (
        tokens @ tensors[f"att.{name}.weight"].T + tensors[f"att.{name}.bias"]
        for tokens, name in ((x, "to_q"), (ref, "to_k"), (x, "to_v"))
    )
    mixed = torch.softmax(query @ key.mT / DIM**0.5, dim=-1) @ value
    expected = mixed @ tensors["att.proj.weight"].T + tensors["att.proj.bias"]
    with torch.no_grad():
        assert torch.allclose(model.encode_pair(swapped, reference).micro, expected, atol=1e-5)


def test_the_file_itself_is_loaded_too(released, tmp_path):
    convert_released(released, tmp_path / "out")
    direct, converted = MicronBert.from_pretrained(released), MicronBert.from_pretrained(tmp_path / "out")
    assert direct.config == converted.config
    assert direct.state == converted.state
    mine, theirs = direct.state_dict(), converted.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert len(mine) > 100


def test_the_summary_says_what_it_is_and_that_it_leaks(released, tmp_path):
    summary = convert_released(released, tmp_path / "out")
    tensors = released_tensors()
    assert (summary.num_tensors, summary.epoch, summary.dataset) == (len(tensors), 200, "CASME2")
    assert summary.attention == "full"
    assert "trained on CASME2: scores on its subjects leak" in summary.warning
    state = read_state(tmp_path / "out")
    assert state.subjects == tuple(f"casme2/{sub_number(str(number))}" for number in range(1, 27))  # as ingest has them
    assert json.loads((tmp_path / "out" / "config.json").read_text())["roles"] == "released"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_there_and_back_gives_every_name_and_value(prefix, tmp_path):
    tensors = released_tensors()
    content = {prefix + name: tensor for name, tensor in tensors.items()}
    torch.save({"args": argparse.Namespace(**ARGS), "epoch": 7, "model": content}, tmp_path / "x.pth")
    convert_released(tmp_path / "x.pth", tmp_path / "out")
    assert write_released(tmp_path / "out", tmp_path / "back.pth") == len(tensors)
    with torch.serialization.safe_globals([argparse.Namespace]):
        back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert (vars(back["args"]), back["epoch"]) == (ARGS, 7)
    assert set(back["model"]) == set(tensors)
    assert all(torch.equal(back["model"][name], tensor) for name, tensor in tensors.items())


def test_the_real_file_would_have_242_tensors():
    """The facts count them; our small file has the same names with two blocks less in each of four stacks."""
    assert len(released_tensors()) == 242 - 4 * 2 * 12


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"args": Evil(), "epoch": 1, "model": {}}, "it wants to run posix.system"),
        ({"args": pathlib.PurePosixPath("x"), "model": {}}, "it wants to run pathlib"),
        ({"weights": {}}, "it holds no 'model' with tensors"),
        ({"args": argparse.Namespace(), "model": {"a": torch.zeros(1)}}, "it has no tensor 'backbone.patch_embed"),
    ],
)
def test_other_files_are_refused_by_name(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=message):
        convert_released(tmp_path / "x.pth", tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.pth"]


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path):
    for change, message in (
        (lambda t: t.pop("att.to_q.bias"), r"missing tensors: micro_attention\.to_q\.bias"),
        (lambda t: t.update({"extra.weight": torch.zeros(1)}), r"unknown tensors: extra\.weight"),
        (lambda t: t.update({"decoder_norm.bias": torch.zeros(3)}), r"other shapes: decoder_norm\.bias is \(3,\)"),
    ):
        tensors = released_tensors()
        change(tensors)
        torch.save({"args": argparse.Namespace(**ARGS), "model": tensors}, tmp_path / "x.pth")
        with pytest.raises(ModelError, match=message):
            convert_released(tmp_path / "x.pth", tmp_path / "out")


def test_junk_is_refused_and_other_folders_have_no_way_back(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"x\.pth"):
        convert_released(tmp_path / "x.pth", tmp_path / "out")
    with pytest.raises(ModelError, match="was not made from a released checkpoint"):
        write_released(tmp_path, tmp_path / "y.pth")


def test_the_command_converts_there_and_back(released, tmp_path, run_mbert):
    done = run_mbert("convert", str(released), "--out", "model", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained on CASME2, epoch 200" in done.stdout
    assert "scores on its subjects leak" in done.stdout
    again = run_mbert("convert", str(released), "--out", "model", cwd=tmp_path)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    back = run_mbert("convert", "model", "--to-released", "--out", "back.pth", "--json", cwd=tmp_path)
    assert json.loads(back.stdout)["num_tensors"] == len(released_tensors())
    assert dataclasses.asdict(MicronBert.from_pretrained(tmp_path / "model").config)["dim"] == DIM
