"""The authors' released checkpoint, in and out. Pickled code is never run: only tensors, plain values, a Namespace.

The file is a dict with `args` (an argparse.Namespace), `epoch` and `model`, 242 tensors: the encoder (`backbone`), the
cross-attention (`att`), the decoder, and for DINO a `student` that repeats the encoder, a `teacher` and their heads.
A folder made from it holds our model of the variant `released`, and in `released.safetensors` everything that has no
counterpart in ours, so that the original file's names and values can be restored.
"""

import argparse
import dataclasses
import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mbert import ConfigError, ModelError
from mbert.manifests.files import read_json, replacing, write_json
from mbert.model.network.config import VARIANTS, MicronBertConfig
from mbert.model.network.weights import TrainingState, read_model, write_tensors

_REST = "released.safetensors"
_ABOUT = "released.json"
_ENCODERS = {"backbone.": "encoder.", "teacher.backbone.": "agent.teacher."}  # theirs -> ours
_DECODER_POSITIONS = "decoder_pos_embed"
_PREFIXES = {  # theirs -> ours
    "backbone.patch_embed.proj.": "encoder.patch_embed.",
    "backbone.blocks.": "encoder.blocks.",
    "backbone.norm.": "encoder.norm.",
    "att.": "micro_attention.",
    "decoder_embed.": "decoder_embed.",
    "decoder_blocks.": "decoder_blocks.",
    "decoder_norm.": "decoder_norm.",
    "decoder_pred.": "decoder_pred.",
    "teacher.backbone.patch_embed.proj.": "agent.teacher.patch_embed.",
    "teacher.backbone.blocks.": "agent.teacher.blocks.",
    "teacher.backbone.norm.": "agent.teacher.norm.",
    "student.head.": "agent.head.",
    "teacher.head.": "agent.teacher_head.",
    "dino_loss_fn.center": "agent.center",
}
_ASIDE = "fc."  # a classification head that some of their runs have
# The released weights saw every subject of CASME II; ids in this project's notation.
_CASME2_SUBJECTS = tuple(f"casme2/sub{number:02d}" for number in range(1, 27))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Released:
    """The authors' file in our terms."""

    config: MicronBertConfig
    tensors: dict[str, Tensor]  # of our model
    aside: dict[str, Tensor]  # without a counterpart in our model
    args: dict[str, Any]
    epoch: int | None
    dataset: str | None
    num_tensors: int
    num_parameters: int

    @property
    def state(self) -> TrainingState:
        """What the weights have seen."""
        return TrainingState(
            step=self.epoch or 0,
            seed=0,
            preset="released",
            corpus=f"the authors' weights, trained on {self.dataset}",
            subjects=_CASME2_SUBJECTS if (self.dataset or "").upper() == "CASME2" else (),
            losses={},
        )


def read_released(path: Path, shapes_of: Callable[[MicronBertConfig], Mapping[str, torch.Size]]) -> Released:
    """Read the authors' file, checking every tensor's name and shape; `shapes_of` is micron_bert's `tensor_shapes`.

    Raises ModelError, with names, for a file that is not such a checkpoint, that holds objects other than tensors,
    plain values and a Namespace, or that has missing or unknown tensors.
    """
    content = _load_safely(path)
    args = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
    theirs = {name.removeprefix("module."): tensor for name, tensor in content["model"].items()}
    config = _config_of(theirs, args, path)
    tensors, aside = _to_ours(theirs, shapes_of(config), path)
    return Released(
        config=config,
        tensors=tensors,
        aside=aside,
        args=args,
        epoch=content.get("epoch") if isinstance(content.get("epoch"), int) else None,
        dataset=args.get("dataset") if isinstance(args.get("dataset"), str) else None,
        num_tensors=len(theirs),
        num_parameters=sum(tensor.numel() for tensor in theirs.values()),
    )


def write_aside(folder: Path, released: Released) -> None:
    """Store, next to a converted model, the tensors without a counterpart in it, for `write_released`."""
    write_tensors(folder / _REST, released.aside)
    plain = {name: value for name, value in released.args.items() if isinstance(value, str | int | float | bool | None)}
    write_json(folder / _ABOUT, {"args": plain, "epoch": released.epoch})


def write_released(folder: Path, path: Path) -> int:
    """Write a converted checkpoint in the format of the authors' code; returns the number of tensors.

    Raises ModelError for a folder that `convert_released` did not make.
    """
    if not (folder / _REST).exists():
        raise ModelError(f"{folder} was not made from a released checkpoint: it holds no {_REST}")
    _, ours = read_model(folder)
    aside = safetensors.torch.load_file(folder / _REST)
    about = read_json(folder / _ABOUT)
    theirs = {
        their + name.removeprefix(our): ours[name]
        for their, our in _PREFIXES.items()
        for name in ours
        if name.startswith(our)
    }
    for their, our in _ENCODERS.items():
        first, token = aside.pop(f"{their}first_position"), aside.pop(f"{their}cls_token")
        is_unchanged = torch.equal(token + first, ours[f"{our}contextual_token"])
        theirs[f"{their}cls_token"] = token if is_unchanged else ours[f"{our}contextual_token"] - first
        theirs[f"{their}pos_embed"] = torch.cat([first, ours[f"{our}pos_embed"]], dim=1)
    first = aside.pop("decoder_first_position")
    theirs[_DECODER_POSITIONS] = torch.cat([first, ours[_DECODER_POSITIONS]], dim=1)
    theirs |= {f"student.{name}": tensor for name, tensor in theirs.items() if name.startswith("backbone.")}
    theirs |= aside
    with replacing(path) as temporary:
        content = {"args": argparse.Namespace(**about["args"]), "epoch": about["epoch"], "model": theirs}
        torch.save(content, temporary)
    return len(theirs)


def _load_safely(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        found = re.search(r"GLOBAL (\S+)", str(exc))
        what = f"it wants to run {found[1]}" if found else "it is damaged, or holds more than tensors"
        raise ModelError(f"{path} is refused: {what}; only tensors, plain values and a Namespace are read") from exc
    except (OSError, RuntimeError, EOFError, ValueError, struct.error) as exc:
        raise ModelError(f"{path} cannot be read as a checkpoint: {exc}") from exc
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(tensor, Tensor) for tensor in model.values()):
        raise ModelError(f"{path} is not a released μ-BERT checkpoint: it holds no 'model' with tensors")
    return dict(content)


def _config_of(theirs: dict[str, Tensor], args: dict[str, Any], path: Path) -> MicronBertConfig:
    """Sizes come from the tensors; heads and the kind of attention leave no trace there and come from `args`."""
    try:
        patch, positions = theirs["backbone.patch_embed.proj.weight"], theirs["backbone.pos_embed"]
        grid = math.isqrt(positions.shape[1] - 1)
        return MicronBertConfig(
            image_size=grid * patch.shape[-1],
            patch_size=patch.shape[-1],
            in_chans=patch.shape[1],
            dim=patch.shape[0],
            depth=_num_blocks(theirs, "backbone.blocks."),
            heads=int(args.get("num_heads", 4)),
            decoder_dim=theirs["decoder_embed.weight"].shape[0],
            decoder_depth=_num_blocks(theirs, "decoder_blocks."),
            decoder_heads=int(args.get("decoder_num_heads", 4)),
            mlp_ratio=theirs["backbone.blocks.0.mlp.fc1.weight"].shape[0] / patch.shape[0],
            **{**VARIANTS["released"], "attention": "diagonal" if args.get("diag_att") else "full"},
        )
    except KeyError as exc:
        raise ModelError(f"{path} is not a released μ-BERT checkpoint: it has no tensor {exc}") from exc
    except ConfigError as exc:
        raise ModelError(f"{path} holds a model of impossible sizes: {exc}") from exc


def _num_blocks(theirs: dict[str, Tensor], prefix: str) -> int:
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in theirs if name.startswith(prefix)), default=-1)


def _to_ours(
    theirs: dict[str, Tensor], expected: Mapping[str, torch.Size], path: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our state dict, and the tensors kept aside; every tensor's name and shape is checked."""
    weights: dict[str, Tensor] = {}
    aside: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in theirs.items():
        encoder = next((their for their in _ENCODERS if name in (f"{their}cls_token", f"{their}pos_embed")), None)
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        repeated = theirs.get(name.removeprefix("student."))
        if encoder is not None and name.endswith("cls_token"):
            # The token has its own position in their code (zeros in the released file), none in ours.
            weights[f"{_ENCODERS[encoder]}contextual_token"] = tensor + theirs[f"{encoder}pos_embed"][:, :1]
            aside[name] = tensor
        elif encoder is not None:
            weights[f"{_ENCODERS[encoder]}pos_embed"] = tensor[:, 1:]
            aside[f"{encoder}first_position"] = tensor[:, :1]
        elif name == _DECODER_POSITIONS:
            weights[_DECODER_POSITIONS], aside["decoder_first_position"] = tensor[:, 1:], tensor[:, :1]
        elif prefix is not None:
            weights[_PREFIXES[prefix] + name.removeprefix(prefix)] = tensor
        elif name.startswith("student.backbone.") and repeated is not None and torch.equal(tensor, repeated):
            pass  # the student is the encoder
        elif name.startswith(_ASIDE):
            aside[name] = tensor
        else:
            unknown.append(name)
    unknown += sorted(set(weights) - set(expected))
    missing = sorted(set(expected) - set(weights))
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    for what, names in (("unknown tensors", unknown), ("missing tensors", missing), ("other shapes", shapes)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ModelError(f"{path} has {what}: {', '.join(names[:5])}{more}")
    return weights, aside
