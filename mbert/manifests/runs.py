"""The facts of a run: rows that are gathered from its folder and shown on its page."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REPORT = "report.html"  # in the folder of a run, and in a folder of runs
METHODS = {  # of an evaluation, with display names; the first is the evaluated model
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
    """A number with its 95 % interval; None if undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunLink:
    """Another run named on a page."""

    name: str
    run: str = ""  # its folder, if it is on this disk
    page: str | None = None  # path relative to the page that names it, with forward slashes; None if it has none
    what: str = ""  # protocol, classes and mode
    scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunPicture:
    """A picture of a model's output for some pairs during training."""

    step: int
    jpeg: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingFacts:
    """A training run, including one in progress, stopped or failed."""

    name: str
    kind: str  # pretrain or finetune
    state: str  # running, finished, stopped, failed, killed, begun
    reason: str
    at: str  # when it last wrote, ISO 8601
    step: int
    steps: int
    at_steps: "npt.NDArray[np.int64]"  # (n,)
    series: "Mapping[str, npt.NDArray[np.float64]]"  # (n,) each, by their names in metrics.jsonl; NaN if unknown
    seconds: float  # of all steps, without loading and saving
    num_seen: int  # pairs, each as often as it was seen
    epochs: float
    num_parameters: int | None  # of the last checkpoint
    device: str
    precision: str
    processes: int
    num_pairs: int
    subjects: tuple[str, ...] | None  # shown in the pairs; None if unknown
    excluded: tuple[str, ...]
    classes: Mapping[str, int]  # pairs of each, if labels are learned
    num_forgotten: int  # inputs that it has seen and that were since forgotten
    pictures: tuple[RunPicture, ...]
    num_pictures: int  # of them in the run
    warnings: tuple[tuple[str, str], ...]  # topic, and a sentence
    files: frozenset[str]  # names in its folder
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    start: RunLink | None = None  # the run that it started from
    evaluations: tuple[RunLink, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MethodScores:
    """One method of an evaluation."""

    method: str
    dataset: str | None  # None: all samples
    scores: Mapping[str, Score]  # by measure
    chance: Mapping[str, float | None]
    differences: Mapping[str, Score]  # the model's scores minus this method's
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
    """A wrongly classified expression."""

    key: str
    subject: str
    sample: str
    fold: str
    label: str
    prediction: str
    confidence: float | None  # the head's own probability
    onset: bytes | None = None  # JPEG
    apex: bytes | None = None
    moved: "npt.NDArray[np.floating[Any]] | None" = None  # (h, w), 0-1: where the face moved according to the model


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
    measures: tuple[str, ...]  # of the methods, the two main ones first
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
    saw_frames_of: tuple[str, ...]  # tested people whose frames the encoder has seen, without labels
    learned_labels_of: tuple[str, ...]  # tested people whose labels it has learned
    evaluations_before: int
    samples: Mapping[str, Mapping[str, int]]  # per dataset and class
    left_out: Mapping[str, int]
    apex_sources: Mapping[str, int]
    checkpoint: RunLink
    files: frozenset[str]  # names in its folder
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunEntry:
    """A run in the table of runs, including unreadable ones."""

    name: str
    kind: str  # pretrain, finetune, eval; "" if unreadable
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
