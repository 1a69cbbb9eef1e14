"""The configuration of an evaluation."""

import dataclasses
import typing
from typing import Literal

from mbert import ConfigError
from mbert.manifests.labels.classes import ClassMap, class_map
from mbert.manifests.labels.folds import PROTOCOLS, EvalProtocol
from mbert.model.network.config import MicronBertConfig
from mbert.model.network.features import check_inputs
from mbert.model.scoring.choice import SELECT, Select
from mbert.model.training.finetune import FinetuneConfig

Mode = Literal["probe", "finetune"]
BASELINES = (
    "random_weights",
    "evidence",
    "flow_without_head",
    "flow_cnn",
    "optical_flow",
    "frame_difference",
    "majority",
)
OURS = "mbert"  # the evaluated model among the methods
ACTION_UNITS = "action-units"  # in place of a class map
# Set by the evaluation itself for the folds it finetunes.
_OF_EVALUATION = {"classes": "classes", "inputs": "inputs", "seed": "seed", "exclude_subjects": "protocol"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """An evaluation. Everything but `workers` affects its result."""

    protocol: str = "loso"
    classes: str | None = None  # a class map, or "action-units"; None: the protocol's published one
    datasets: tuple[str, ...] = ()  # to use; empty: those of the protocol, or all
    mode: Mode = "probe"  # linear heads on a frozen model, or its encoder trained per fold
    select: Select = "fixed"  # how a fold chooses: not at all, on an inner split, or on its test side (for comparison)
    inputs: tuple[str, ...] | None = None  # the head's inputs, names as in features.py; None: by mode and model
    frames: int = 1  # between onset and apex, the apex included
    baselines: tuple[str, ...] = BASELINES
    seeds: int = 1  # runs with one seed each; the folds stay the same
    seed: int = 0
    k: int = 5  # number of folds of kfold
    test_share: float = 0.2  # of the subjects, for holdout
    test_subjects: tuple[str, ...] = ()  # for holdout, in place of a share
    finetune: FinetuneConfig = dataclasses.field(default_factory=FinetuneConfig)
    workers: int | None = None  # processes for folds that train; None: one for each GPU, or two cores

    def __post_init__(self) -> None:
        for name, allowed in (("protocol", tuple(PROTOCOLS)), ("mode", typing.get_args(Mode)), ("select", SELECT)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        if strange := [name for name in self.baselines if name not in BASELINES]:
            raise ConfigError(f"baselines has {', '.join(strange)}; allowed are {', '.join(BASELINES)}")
        for name in ("frames", "seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.inputs:
            check_inputs(self.inputs)
        plain = FinetuneConfig()
        for name in ("classes", "inputs", "seed", "exclude_subjects"):
            if getattr(self.finetune, name) != getattr(plain, name):
                raise ConfigError(f"finetune.{name} is the evaluation's own: set {_OF_EVALUATION[name]} instead")
        if self.mode == "finetune" and (self.frames > 1 or self.class_map is None):
            what = "action units" if self.class_map is None else "more than one frame"
            raise ConfigError(f"mode finetune does not learn {what}; use mode probe")
        if self.mode == "finetune" and self.select != "fixed" and self.finetune.steps is not None:
            raise ConfigError(f"select {self.select} chooses among epochs; give finetune.epochs, not steps")
        if self.class_map is None and self.select != "fixed":
            raise ConfigError(f"select is {self.select!r}; for action units it is fixed")

    def inputs_for(self, model: MicronBertConfig) -> tuple[str, ...]:
        """The requested inputs, or those that suit the mode and the model: a linear head works best on how each place
        moved (docs/model.md); training the encoder can also use how its tokens change.
        """
        if self.inputs:
            return self.inputs
        if self.mode == "finetune":
            return ("change",)
        return ("motion", "measured") if model.attention == "motion" else ("distance",)

    @property
    def rules(self) -> EvalProtocol:
        """The rules of the protocol."""
        return PROTOCOLS[self.protocol]

    @property
    def class_map(self) -> ClassMap | None:
        """The class map; None for action units. Raises ConfigError for an unknown name."""
        if self.classes == ACTION_UNITS or (self.classes is None and self.rules.class_map is None):
            return None
        if self.rules.class_map is None:
            raise ConfigError(f"protocol {self.protocol} is of action units; --classes does not apply")
        return class_map(self.classes or self.rules.class_map)
