"""A μ-BERT with a head that names the emotion of an onset-apex pair, and its files.

The folder of a classifier is that of its μ-BERT, plus head.safetensors and classifier.json.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mbert import ConfigError, ManifestError, ModelError
from mbert.manifests.files import read_json, write_json
from mbert.model.network.features import check_inputs, micro_attention_parts, num_features, pair_inputs, uses_encoder
from mbert.model.network.micron_bert import MicronBert, layer_norm
from mbert.model.network.weights import TrainingState, model_folder, write_model, write_tensors

# probe: features standardised by a training set and a linear layer, fitted in closed form by `mbert eval`.
HeadKind = Literal["linear", "mlp", "probe"]
HEADS = ("linear", "mlp")  # learned by finetuning
FOLDER = "classifier"  # in an evaluation's folder
_HEAD, _CLASSIFIER = "head.safetensors", "classifier.json"
_INIT_STD = 0.01  # all classes are nearly equally likely at the start


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierConfig:
    """The structure of a head, and its classes."""

    classes: tuple[str, ...]  # in the order of the logits
    num_features: int
    image_size: int  # in pixels, of the input frames
    head: HeadKind = "linear"
    hidden_dim: int = 256  # of the mlp
    dropout: float = 0.0  # before the last layer
    inputs: tuple[str, ...] = ("change",)  # the head's inputs, names as in features.py

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        if self.head not in (*HEADS, "probe"):
            raise ConfigError(f"head is {self.head!r}; allowed are {', '.join((*HEADS, 'probe'))}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.hidden_dim < 1:
            raise ConfigError(f"hidden_dim is {self.hidden_dim}; it must be at least 1")


class Classifier(nn.Module):
    """Inputs of a pair (features.py), normalised, followed by a linear layer or an MLP.

    Learns the head and, unless they are `frozen`, the encoder and the parts of the Micro-Attention that the inputs use.
    Other parts of a μ-BERT (decoder, agent) do not affect the inputs and stay unchanged.
    """

    def __init__(self, backbone: MicronBert, config: ClassifierConfig, *, frozen: bool = False) -> None:
        super().__init__()
        if (found := num_features(backbone.config, config.inputs)) != config.num_features:
            raise ModelError(f"the head takes {config.num_features} features, this μ-BERT gives {found}")
        self.config, self.frozen = config, frozen
        self.backbone = backbone
        self.head = _build_head(config)
        backbone.requires_grad_(False)
        backbone.encoder.requires_grad_(not frozen and uses_encoder(backbone.config, config.inputs))
        for name in micro_attention_parts(backbone.config, config.inputs):
            getattr(backbone.micro_attention, name).requires_grad_(not frozen)

    def forward(self, t0: Tensor, t1: Tensor) -> Tensor:
        """Normalised onset and apex frames (B, C, H, W) -> logits (B, K) in the order of `config.classes`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = pair_inputs(self.backbone, t0, t1, self.config.inputs)
        logits: Tensor = self.head(features)
        return logits

    def train(self, mode: bool = True) -> "Classifier":
        """As for any module, except that a frozen μ-BERT stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def lr_scale(self, name: str, layer_decay: float) -> float:
        """A parameter's share of the learning rate: 1 for the head, less for each block towards the pixels."""
        depth = len(self.backbone.encoder.blocks)
        place = name.removeprefix("backbone.encoder.")
        if name.startswith("head."):
            return 1.0
        if place.startswith("blocks."):
            return layer_decay ** (depth - int(place.split(".")[1]))
        is_on_top = place.startswith(("norm.", "backbone.micro_attention."))
        return layer_decay if is_on_top else layer_decay ** (depth + 1)  # like the last block, or one below the first

    def save(self, folder: Path, state: TrainingState | None, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write the files of the model and head; `tensors` replace the current ones if given."""
        tensors = self.state_dict() if tensors is None else tensors
        write_tensors(folder / _HEAD, _below("head.", tensors))
        write_json(folder / _CLASSIFIER, dataclasses.asdict(self.config))
        write_model(folder, _below("backbone.", tensors), self.backbone.config, state)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, frozen: bool = False) -> "Classifier":
        """Load from the folder of a classifier, a run or an evaluation; raises ModelError if that fails."""
        folder = Path(path) / FOLDER if (Path(path) / FOLDER).is_dir() else model_folder(Path(path))
        if not (folder / _CLASSIFIER).exists():
            raise ModelError(f"{folder} holds no classifier, there is no {_CLASSIFIER}: run `mbert train finetune`")
        try:
            model = cls(MicronBert.from_pretrained(folder), _config_of(read_json(folder / _CLASSIFIER)), frozen=frozen)
            model.head.load_state_dict(safetensors.torch.load_file(folder / _HEAD))
        except (ManifestError, ConfigError, TypeError, KeyError, RuntimeError, SafetensorError, OSError) as exc:
            raise ModelError(f"{folder} is not a classifier of this version: {exc}") from exc
        return model


def _config_of(value: dict[str, Any]) -> ClassifierConfig:
    inputs = tuple(value.get("inputs", ("change",)))  # absent when there was no choice
    return ClassifierConfig(**{**value, "classes": tuple(value["classes"]), "inputs": inputs})


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _build_head(config: ClassifierConfig) -> nn.Sequential:
    """(B, features) -> (B, K). The LayerNorm removes the overall strength of a motion and keeps its location."""
    if config.head == "probe":
        standardised = nn.BatchNorm1d(config.num_features, eps=0.0, affine=False, momentum=0.0)
        return nn.Sequential(standardised, nn.Linear(config.num_features, len(config.classes)))
    layers: list[nn.Module] = [layer_norm(config.num_features)]
    width = config.num_features
    if config.head == "mlp":
        layers += [nn.Linear(width, config.hidden_dim), nn.GELU()]
        width = config.hidden_dim
    last = nn.Linear(width, len(config.classes))
    nn.init.normal_(last.weight, std=_INIT_STD)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, nn.Dropout(config.dropout), last)
