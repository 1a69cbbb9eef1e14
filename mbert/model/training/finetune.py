"""`mbert train finetune`: a μ-BERT learns the labels of onset-apex pairs. The loop is in loop.py."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mbert import ConfigError
from mbert.manifests.files import read_json, write_json
from mbert.manifests.labels.classes import class_map
from mbert.model.data.augment import AugmentConfig, augment
from mbert.model.data.labelled import LabelledBatch, LabelledLoader, LabelledPairs, read_labelled
from mbert.model.data.pixels import normalize
from mbert.model.device import Compute, Processes, joined_processes, pick_compute
from mbert.model.network.classifier import HEADS, Classifier, ClassifierConfig, HeadKind
from mbert.model.network.features import check_inputs, num_features, parts_behind
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import TrainingState, hash_weights
from mbert.model.training.label_loss import balanced_weights, mix, mixing_shares, soft_targets, weighted_cross_entropy
from mbert.model.training.loop import LoopConfig, LoopPlan
from mbert.model.training.objective import ObjectiveConfig
from mbert.model.training.pictures import picture_pairs
from mbert.model.training.places import place_of
from mbert.model.training.run_log import StepReport
from mbert.model.training.runs import Ended, holding, resumed, settle_run, train_and_report
from mbert.shards.source import open_source

ClassWeights = Literal["balanced", "none"]
_EPOCHS = 30
_CPU_BATCH, _GPU_BATCH = 16, 64


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig(LoopConfig):
    """A finetuning run. Options that are off by default have not been measured here."""

    classes: str = "annotated"  # class map
    inputs: tuple[str, ...] = ("change",)  # the head's inputs, names as in features.py
    head: HeadKind = "linear"
    hidden_dim: int = 256  # of the mlp head
    dropout: float = 0.0  # before the last layer; the dropped units depend on the number of processes
    frozen: bool = False  # learn only the head
    layer_decay: float = 0.75  # factor of the learning rate from one block to the one below
    class_weights: ClassWeights = "balanced"
    label_smoothing: float = 0.0
    mixup: float = 0.0  # parameter of the Beta distribution; 0: pairs are not mixed
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    exclude_subjects: tuple[str, ...] = ()  # held out: never learned from

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        class_map(self.classes)
        check_inputs(self.inputs)
        for name, allowed in (("head", HEADS), ("class_weights", ("balanced", "none"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        if self.mixup < 0:
            raise ConfigError(f"mixup is {self.mixup}; it must not be negative")
        if self.hidden_dim < 1:
            raise ConfigError(f"hidden_dim is {self.hidden_dim}; it must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FinetunePlan(LoopPlan):
    """A run with all settings resolved."""

    config: FinetuneConfig
    encoder: dict[str, object]  # the finetuned encoder: its step, its corpus, a hash of its weights
    classes: dict[str, int]  # pairs of each
    subjects: tuple[str, ...]  # learned from
    pairs: str  # fingerprint of the pairs and their labels

    def identity(self) -> dict[str, object]:
        """Settings that must match for a run to be resumed."""
        return {
            **LoopPlan.identity(self),
            "inputs": list(self.config.inputs),
            "exclude_subjects": sorted(self.config.exclude_subjects),
            "encoder": self.encoder,
            "classes": list(self.classes),
            "subjects": list(self.subjects),
            "pairs": self.pairs,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSummary:
    """The result of a run. `train_accuracy` is measured on training pairs: it is not a score."""

    steps: int
    steps_done: int
    steps_done_now: int
    first: StepReport
    last: StepReport
    train_accuracy: float  # mean over the last pass, as the pairs were augmented and mixed
    classes: dict[str, int]  # pairs of each
    num_subjects: int
    excluded_subjects: tuple[str, ...]
    stopped: str  # why it ended before its last step, or ""
    seconds: float
    checkpoint: str
    run: str
    page: str | None = None  # of the run, once it exists


def run_finetune(
    shards: Path | str,
    labels: Path | str,
    checkpoint: Path | str,
    out: Path,
    config: FinetuneConfig,
    *,
    cache: Path | None = None,
    overwrite: bool = False,
    force: bool = False,
    resume: bool = False,
    on_plan: Callable[[FinetunePlan], None] = lambda plan: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> FinetuneSummary:
    """Finetune, or resume a run that was interrupted. Under torchrun, all processes call this.

    `shards` has the pairs of expressions: a folder, a URL or a brace pattern (`open_source`). `labels` is the
    `labels.parquet` of their corpus, or its URL. `checkpoint` is anything `MicronBert.from_pretrained` takes. Raises
    ManifestError without labelled pairs and if the labels have changed since, ConfigError for fewer than two classes,
    an unknown excluded subject, inputs that the model cannot give, and if `out` holds a run of another configuration,
    ModelError without a checkpoint or if the loss is not finite.
    """
    source = open_source(shards, cache=cache)
    labelled = read_labelled(
        source, labels, classes=class_map(config.classes), exclude_subjects=config.exclude_subjects
    )
    return finetune_pairs(
        labelled,
        checkpoint,
        out,
        config,
        corpus=source.corpus,
        overwrite=overwrite,
        force=force,
        resume=resume,
        on_plan=on_plan,
        on_step=on_step,
    )


@dataclasses.dataclass(frozen=True)
class Watch:
    """Pairs that are not learned from, and the model's predictions for them after each epoch, to choose among epochs.

    Results are kept next to the checkpoints, so that a resumed run has all epochs.
    """

    predict: Callable[[Classifier], list[int]]

    def note(self, run: Path, epoch: int, model: Classifier) -> None:
        """After an epoch, counted from 1."""
        write_json(self._path(run, epoch), self.predict(model))

    def read(self, run: Path, epochs: int) -> list[list[int]]:
        """The results of each epoch."""
        return [list(read_json(self._path(run, epoch))) for epoch in range(1, epochs + 1)]

    def _path(self, run: Path, epoch: int) -> Path:
        return run / "watched" / f"{epoch:04d}.json"


def finetune_pairs(
    labelled: LabelledPairs,
    checkpoint: Path | str,
    out: Path,
    config: FinetuneConfig,
    *,
    corpus: str,
    watch: Watch | None = None,
    overwrite: bool = False,
    force: bool = False,
    resume: bool = False,
    on_plan: Callable[[FinetunePlan], None] = lambda plan: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> FinetuneSummary:
    """As `run_finetune`, for given pairs; `corpus` is the fingerprint of the corpus they come from."""
    began = time.monotonic()
    backbone = MicronBert.from_pretrained(checkpoint)
    check_inputs(config.inputs, backbone.config)
    if out.resolve() in (Path(checkpoint).resolve(), *Path(checkpoint).resolve().parents):
        raise ConfigError(f"--out {out} holds the checkpoint that is to be finetuned, {checkpoint}; give another --out")
    with joined_processes() as processes:
        compute = pick_compute(config.precision, processes.local_rank)
        plan = decide(config, compute, processes, labelled, backbone, corpus)
        with holding(out, processes):
            about = {
                "model": dataclasses.asdict(backbone.config),
                "checkpoint": str(checkpoint),
                "place": place_of(checkpoint, out),  # of the checkpoint
                "classes": plan.classes,
            }
            standing = processes.on_first(
                lambda: settle_run(out, "finetune", plan, about, overwrite=overwrite, force=force, resume=resume)
            )
            plan = resumed(plan, standing)
            job = _begin(out, plan, backbone)
            loader = _open_loader(labelled, job, plan, processes)
            if watch is not None:
                job.after_epoch = functools.partial(_note_epoch, watch, out, job.model, loader.steps_per_epoch)
            on_plan(plan)
            last_pass = math.ceil(loader.steps_per_epoch)
            ended = train_and_report(job, loader, out, plan, processes, on_step, num_recent=last_pass)
    return _summarize(out, plan, ended, time.monotonic() - began)


def _note_epoch(watch: Watch, out: Path, model: Classifier, steps_per_epoch: float, step: int) -> None:
    """`step` counts from 0; an epoch ends with the step that reaches it."""
    for epoch in range(math.floor(step / steps_per_epoch) + 1, math.floor((step + 1) / steps_per_epoch + 1e-9) + 1):
        watch.note(out, epoch, model)


def decide(
    config: FinetuneConfig,
    compute: Compute,
    processes: Processes,
    labelled: LabelledPairs,
    backbone: MicronBert,
    corpus: str,
) -> FinetunePlan:
    """Fill in the settings that depend on the hardware and the number of pairs."""
    num_pairs, share = len(labelled.pairs), processes.world * config.accumulate
    wanted = min(_GPU_BATCH if compute.is_gpu else _CPU_BATCH, math.ceil(num_pairs / share))
    batch_size = config.batch_size or wanted
    global_batch = batch_size * share
    epochs = config.epochs or _EPOCHS
    notes = ("workers has no effect: labelled pairs are few and decoded in this process",) if config.workers else ()
    return FinetunePlan(
        steps=config.steps or max(1, round(epochs * num_pairs / global_batch)),
        batch_size=batch_size,
        global_batch=global_batch,
        lr=config.lr or (1e-3 if config.frozen else 5e-4),
        config=config,
        compute=compute,
        workers=0,
        world=processes.world,
        num_pairs=num_pairs,
        corpus=corpus,
        notes=notes,
        encoder={
            "step": backbone.state.step if backbone.state else None,
            "corpus": backbone.state.corpus if backbone.state else None,
            "weights": hash_weights(*parts_behind(backbone, config.inputs)),
        },
        classes=labelled.counts,
        subjects=labelled.subjects,
        pairs=labelled.digest,
    )


@dataclasses.dataclass
class FinetuneJob:
    """A classifier and its loss, for the loop."""

    model: Classifier
    plan: FinetunePlan
    before: TrainingState | None  # what the encoder had seen before this run
    after_epoch: Callable[[int], None] | None = None  # called at each step; checks whether an epoch ends

    def losses(
        self, forward: nn.Module, batch: LabelledBatch, rows: slice, places: range, total: int, step: int
    ) -> dict[str, Tensor]:
        """Cross-entropy, and the share of pairs whose (dominant) label is predicted."""
        config = self.plan.config
        t0, t1, targets = self._examples(batch, rows)
        if batch.partners is not None:
            others = self._examples(batch.partners, rows)
            shares = mixing_shares(config.mixup, places, total, seed=config.seed, step=step).to(t0.device)
            t0, t1, targets = (mix(one, other, shares) for one, other in zip((t0, t1, targets), others, strict=True))
        logits = forward(t0, t1)
        weights = None
        if config.class_weights == "balanced":
            counts = [max(count, 1) for count in self.plan.classes.values()]  # in a fold, a class may have no sample
            weights = balanced_weights(counts).to(t0.device)
        return {
            "loss": weighted_cross_entropy(logits, targets, weights),
            "accuracy": (logits.argmax(dim=1) == targets.argmax(dim=1)).float().mean(),
        }

    def after_step(self, step: int) -> None:
        """Check the watched pairs."""
        if self.after_epoch is not None:
            self.after_epoch(step)

    def lr_scale(self, name: str) -> float:
        """Depends on depth."""
        return self.model.lr_scale(name, self.plan.config.layer_decay)

    def picture(self, batch: LabelledBatch) -> npt.NDArray[np.uint8]:
        """Some pairs and the current model's maps; the decoder is not trained here."""
        t0, t1, _ = self._examples(batch, slice(0, 4))
        return picture_pairs(self.model.backbone, t0, t1, ObjectiveConfig())

    def save(self, folder: Path, tensors: Mapping[str, Tensor], report: StepReport) -> None:
        """Save a classifier; its μ-BERT's state lists what it has seen, now and before."""
        before, plan = self.before, self.plan
        labelled = set(before.labelled_subjects if before else ()) | set(() if plan.config.frozen else plan.subjects)
        state = TrainingState(
            step=report.step,
            seed=plan.config.seed,
            preset=before.preset if before else "unknown",
            corpus=plan.corpus,
            subjects=tuple(sorted({*(before.subjects if before else ()), *plan.subjects})),
            losses={"loss": report.loss, **report.parts},
            labelled_subjects=tuple(sorted(labelled)),
            forgotten=before.forgotten if before else (),
        )
        self.model.save(folder, state, tensors)

    def _examples(self, batch: LabelledBatch, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised frames (B, C, H, W), twice, and soft targets (B, K)."""
        device, in_chans = self.plan.compute.device, self.model.backbone.config.in_chans
        t0, t1, labels = (tensor[rows].to(device, non_blocking=True) for tensor in (batch.t0, batch.t1, batch.labels))
        t0, t1 = augment(t0, t1, batch.draws[rows], self.plan.config.augment)
        targets = soft_targets(labels, len(self.plan.classes), self.plan.config.label_smoothing)
        return normalize(t0, in_chans), normalize(t1, in_chans), targets


def _begin(out: Path, plan: FinetunePlan, backbone: MicronBert) -> FinetuneJob:
    config = plan.config
    if plan.done_before:
        model = Classifier.from_pretrained(out, frozen=config.frozen)
        if model.config.classes != tuple(plan.classes):
            raise ConfigError(
                f"{out} has learned {', '.join(model.config.classes)}, requested are {', '.join(plan.classes)}: "
                "not even --force resumes with others; give another --out"
            )
        if model.config.inputs != config.inputs:
            raise ConfigError(
                f"the head in {out} looks at {', '.join(model.config.inputs)}, requested is "
                f"{', '.join(config.inputs)}: "
                "not even --force resumes with others; give another --out"
            )
        return FinetuneJob(model, plan, backbone.state)
    torch.manual_seed(config.seed)
    head = ClassifierConfig(
        classes=tuple(plan.classes),
        inputs=config.inputs,
        num_features=num_features(backbone.config, config.inputs),
        image_size=backbone.config.image_size,
        head=config.head,
        hidden_dim=config.hidden_dim,
        dropout=config.dropout,
    )
    return FinetuneJob(Classifier(backbone, head, frozen=config.frozen), plan, backbone.state)


def _open_loader(labelled: LabelledPairs, job: FinetuneJob, plan: FinetunePlan, processes: Processes) -> LabelledLoader:
    return LabelledLoader(
        labelled,
        batch_size=plan.global_batch,
        image_size=job.model.config.image_size,
        seed=plan.config.seed,
        rank=processes.rank,
        world=processes.world,
        step=plan.done_before,
        has_partners=plan.config.mixup > 0,
    )


def _summarize(out: Path, plan: FinetunePlan, ended: Ended, seconds: float) -> FinetuneSummary:
    last = ended.recent[-1]
    return FinetuneSummary(
        steps=plan.steps,
        steps_done=last.step,
        steps_done_now=last.step - plan.done_before,
        first=ended.first,
        last=last,
        train_accuracy=float(np.mean([report.parts["accuracy"] for report in ended.recent])),
        classes=plan.classes,
        num_subjects=len(plan.subjects),
        excluded_subjects=plan.config.exclude_subjects,
        stopped=ended.stopped,
        seconds=seconds,
        checkpoint=str(out / "checkpoints" / "last"),
        run=str(out),
    )
