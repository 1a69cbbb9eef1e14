"""What a run has to tell: rows that are gathered from its folder and shown on its page."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REPORT = "report.html"  # in the folder of a run, and in a folder of runs
METHODS = {  # of an evaluation, as people read them; the first is the evaluated model
    "mbert": "μ-BERT",
    "random_weights": "random weights",
    "evidence": "evidence",
    "flow_without_head": "flow without head",
    "flow_cnn": "flow CNN",
    "optical_flow": "optical flow",
    "frame_difference": "frame difference",
    "majority": "majority class",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A number with its interval of 95 %; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunLink:
    """Another run that a page names."""

    name: str
    run: str = ""  # its folder, where it is on this disk
    page: str | None = None  # path relative to the page that names it, with forward slashes; None where it has none
    what: str = ""  # it is of
    scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunPicture:
    """What a model made of some pairs during training."""

    step: int
    jpeg: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts:
    """A training run, also one that is at work, was stopped or has failed."""

    name: str
    kind: str  # pretrain or finetune
    state: str  # running, finished, stopped, failed, killed, begun
    reason: str
    at: str  # when it last wrote, ISO 8601
    step: int
    steps: int
    at_steps: "npt.NDArray[np.int64]"  # (n,)
    series: "Mapping[str, npt.NDArray[np.float64]]"  # (n,) each, by their names in metrics.jsonl; NaN where not known
    seconds: float  # of all steps, without loading and saving
    num_seen: int  # pairs, each as often as it was seen
    epochs: float
    num_parameters: int | None  # of the last checkpoint
    device: str
    precision: str
    processes: int
    num_pairs: int
    subjects: tuple[str, ...] | None  # whose faces; None where nobody knows
    excluded: tuple[str, ...]
    classes: Mapping[str, int]  # pairs of each, when labels are learned
    num_forgotten: int  # inputs that it has seen and that were forgotten since
    pictures: tuple[RunPicture, ...]
    num_pictures: int  # of them in the run
    warnings: tuple[tuple[str, str], ...]  # what about, and a sentence
    files: frozenset[str]  # names in its folder
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    start: RunLink | None = None  # the run that it began from
    evaluations: tuple[RunLink, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MethodScores:
    """One method of an evaluation."""

    method: str
    dataset: str | None  # None: all samples
    scores: Mapping[str, Score]  # by measure
    chance: Mapping[str, float | None]
    differences: Mapping[str, Score]  # the model's scores less this method's
    over_seeds: Mapping[str, tuple[float, float | None]]  # mean and standard deviation
    select: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClassScores:
    """One class, or one action unit, of the evaluated model."""

    name: str
    scores: Mapping[str, float | None]
    support: int
    predicted: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GroupScores:
    """The samples of one person, or of one fold."""

    name: str
    num_samples: int
    num_right: int
    num_people: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WrongPair:
    """An expression that was named wrongly."""

    key: str
    subject: str
    sample: str
    fold: str
    label: str
    prediction: str
    confidence: float | None  # the head's own probability
    onset: bytes | None = None  # JPEG
    apex: bytes | None = None
    moved: "npt.NDArray[np.floating[Any]] | None" = None  # (h, w), 0-1: where the model says the face moved


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationFacts:
    """An evaluation that has finished."""

    name: str
    at: str  # ISO 8601
    protocol: str
    classes: str  # name of the class map, or "action-units"
    mode: str
    select: str
    inputs: tuple[str, ...]
    frames: int
    seeds: tuple[int, ...]
    num_samples: int
    num_subjects: int
    num_folds: int
    seconds: float
    measures: tuple[str, ...]  # of the methods, the two that count first
    methods: tuple[MethodScores, ...]  # of all samples, the evaluated model first
    per_dataset: tuple[MethodScores, ...]
    class_names: tuple[str, ...]
    confusion: Sequence[Sequence[int]]  # rows true, columns predicted; empty for action units
    per_class: tuple[ClassScores, ...]
    per_subject: tuple[GroupScores, ...]
    per_fold: tuple[GroupScores, ...]
    num_wrong: int
    wrong: tuple[WrongPair, ...]  # the worst first
    without_pictures: str  # why the wrong pairs have no crops or no map, or ""
    warnings: tuple[str, ...]
    saw_frames_of: tuple[str, ...]  # tested people whose frames, without labels, the encoder has seen
    learned_labels_of: tuple[str, ...]  # tested people whose labels it has learned
    evaluations_before: int
    samples: Mapping[str, Mapping[str, int]]  # of each dataset: of each class
    left_out: Mapping[str, int]
    apex_sources: Mapping[str, int]
    checkpoint: RunLink
    files: frozenset[str]  # names in its folder
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunEntry:
    """A run in the table of runs, also one that cannot be read."""

    name: str
    kind: str  # pretrain, finetune, eval; "" where it cannot be read
    state: str  # as in TrainingFacts, or unreadable
    at: str
    page: str | None = None
    reason: str = ""
    step: int = 0
    steps: int = 0
    losses: tuple[float, ...] = ()  # for a small curve
    final: Mapping[str, float] = dataclasses.field(default_factory=dict)  # last losses, mean of the last twentieth
    scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)
    what: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
