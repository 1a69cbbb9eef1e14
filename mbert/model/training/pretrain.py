"""`mbert train pretrain`: learn from unlabelled pairs. What is learned from which pairs; the loop is in loop.py."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mbert import ConfigError
from mbert.model.data.augment import AugmentConfig, augment
from mbert.model.data.draws import Draws
from mbert.model.data.loader import PairLoader
from mbert.model.data.parts import Batch
from mbert.model.data.pixels import normalize
from mbert.model.device import Compute, Processes, joined_processes, pick_compute
from mbert.model.network.agent import ema_momentum
from mbert.model.network.config import PRESETS, VARIANTS, MicronBertConfig
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import TrainingState, read_state, write_model
from mbert.model.training.cost import StepCost, step_cost
from mbert.model.training.loop import FREE, LoopConfig, LoopPlan, step_seed
from mbert.model.training.objective import ObjectiveConfig, is_collapsed, pretraining_losses
from mbert.model.training.pictures import picture_pairs
from mbert.model.training.run_log import StepReport
from mbert.model.training.runs import holding, resumed, settle_run, train_and_report
from mbert.model.training.settings import with_settings
from mbert.shards.exclude import listed, without_subjects
from mbert.shards.order import StreamPosition, num_lanes
from mbert.shards.source import ShardSource, open_source

_CPU_STEPS = 400  # about three minutes of the tiny preset on two cores
_RECENT = 20  # steps over which the spread of the token is judged
_GPU_EPOCHS = 100  # the paper's
_GPU_WORKERS = 8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(LoopConfig):
    """A pretraining run."""

    preset: str | None = None  # tiny, small or base
    variant: str = "motion"  # or paper, or released (the authors' code); see docs/model.md
    ema_momentum: float = 0.997  # initial value for the agent's teacher, as in the released run
    grad_checkpointing: Annotated[bool, FREE] = False  # less memory, a third slower
    exclude_subjects: tuple[str, ...] = ()  # subjects or whole datasets never used, see `without_subjects`
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)  # changes to preset and variant, by field name

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        if self.preset is not None and self.preset not in PRESETS:
            raise ConfigError(f"preset is {self.preset!r}; allowed are {', '.join(PRESETS)}")
        if self.variant not in VARIANTS:
            raise ConfigError(f"variant is {self.variant!r}; allowed are {', '.join(VARIANTS)}")
        if not 0 <= self.ema_momentum <= 1:
            raise ConfigError(f"ema_momentum is {self.ema_momentum}; it must lie between 0 and 1")
        self.model_config(self.preset or "tiny")

    def model_config(self, preset: str) -> MicronBertConfig:
        """Size from the preset, the rest from the variant, then `model`'s changes; raises ConfigError if invalid."""
        return with_settings(dataclasses.replace(PRESETS[preset], **VARIANTS[self.variant]), self.model, group="model.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainPlan(LoopPlan):
    """A run with all settings resolved; saved as the run's config.json."""

    config: PretrainConfig
    preset: str
    num_shards: int
    steps_per_epoch: int
    num_dropped: int  # pairs of an epoch that do not fill a whole batch
    pairs: str  # fingerprint of the training pairs

    @property
    def model_config(self) -> MicronBertConfig:
        """The model of this run."""
        return self.config.model_config(self.preset)

    def identity(self) -> dict[str, object]:
        """Settings that must match for a run to be resumed."""
        excluded = sorted(set(self.config.exclude_subjects)) or None
        return {**LoopPlan.identity(self), "preset": self.preset, "pairs": self.pairs, "exclude_subjects": excluded}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainSummary:
    """The result of a run."""

    steps: int
    steps_done: int
    steps_done_now: int
    first: StepReport
    last: StepReport
    stopped: str  # why it ended before its last step, or ""
    collapsed: bool  # at the end, the contextual token was nearly the same for every face
    num_bad: int  # damaged pairs that this process met in the last epoch
    seconds: float
    checkpoint: str
    run: str
    page: str | None = None  # of the run, once it exists


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainEstimate:
    """What `--dry-run` reports."""

    preset: str
    device: str
    precision: str
    cost: StepCost
    steps: int
    steps_per_epoch: int
    pairs_per_step: int
    num_pairs: int  # without those of excluded subjects
    num_excluded: int
    pairs_dropped_per_epoch: int
    num_shards: int
    shards_per_process: float
    flops: float  # of the whole run


def run_pretrain(
    shards: Path | str,
    out: Path,
    config: PretrainConfig,
    *,
    cache: Path | None = None,
    overwrite: bool = False,
    force: bool = False,
    resume: bool = False,
    on_plan: Callable[[PretrainPlan], None] = lambda plan: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> PretrainSummary:
    """Pretrain, or resume a run that was interrupted. Under torchrun, all processes call this.

    `shards` is a folder, a URL or a brace pattern (`open_source`). `resume` requires an existing run to resume. Raises
    ShardError without shards, ConfigError for excluded subjects that do not occur and if `out` holds a run of another
    configuration (`force` resumes it nevertheless), ModelError if the loss is not finite. On Ctrl-C, saves the state
    before passing on the interruption.
    """
    began = time.monotonic()
    source = without_subjects(open_source(shards, cache=cache), config.exclude_subjects)
    with joined_processes() as processes:
        compute = pick_compute(config.precision, processes.local_rank)
        plan = decide(config, compute, processes, source)
        with holding(out, processes):
            about = {"model": dataclasses.asdict(plan.model_config)}
            standing = processes.on_first(
                lambda: settle_run(out, "pretrain", plan, about, overwrite=overwrite, force=force, resume=resume)
            )
            plan = resumed(plan, standing)
            position = None if standing.progress is None else standing.progress.position
            loader = _open_loader(source, plan, processes, position, force)
            if loader.resumed:
                plan = dataclasses.replace(plan, notes=(*plan.notes, loader.resumed))
            on_plan(plan)
            job = _begin(out, plan, source)
            ended = train_and_report(job, loader, out, plan, processes, on_step, num_recent=_RECENT)
    last = ended.recent[-1]
    return PretrainSummary(
        steps=plan.steps,
        steps_done=last.step,
        steps_done_now=last.step - plan.done_before,
        first=ended.first,
        last=last,
        stopped=ended.stopped,
        collapsed=is_collapsed(float(np.median([report.parts["token_std"] for report in ended.recent]))),
        num_bad=len(loader.bad),
        seconds=time.monotonic() - began,
        checkpoint=str(out / "checkpoints" / "last"),
        run=str(out),
    )


def estimate_pretrain(shards: Path | str, config: PretrainConfig, *, cache: Path | None = None) -> PretrainEstimate:
    """Estimate the cost of a run without starting it; raises as `run_pretrain` does."""
    source = without_subjects(open_source(shards, cache=cache), config.exclude_subjects)
    with joined_processes() as processes:
        plan = decide(config, pick_compute(config.precision, processes.local_rank), processes, source)
    cost = step_cost(
        plan.model_config,
        config.objective,
        batch_size=plan.batch_size,
        precision=plan.compute.precision,
        grad_checkpointing=config.grad_checkpointing,
    )
    return PretrainEstimate(
        preset=plan.preset,
        device=str(plan.compute.device),
        precision=plan.compute.precision,
        cost=cost,
        steps=plan.steps,
        steps_per_epoch=plan.steps_per_epoch,
        pairs_per_step=plan.global_batch,
        num_pairs=plan.num_pairs,
        num_excluded=source.exclusion.num_pairs if source.exclusion else 0,
        pairs_dropped_per_epoch=plan.num_dropped,
        num_shards=plan.num_shards,
        shards_per_process=plan.num_shards / plan.world,
        flops=float(cost.flops_per_pair) * plan.global_batch * plan.steps,
    )


@dataclasses.dataclass
class PretrainJob:
    """A μ-BERT and its losses, for the loop."""

    model: MicronBert
    plan: PretrainPlan
    subjects: tuple[str, ...]
    forgotten: tuple[str, ...] = ()  # see `TrainingState`

    def losses(
        self, forward: nn.Module, batch: Batch, rows: slice, places: range, total: int, step: int
    ) -> dict[str, Tensor]:
        """Reconstruction, agent and, with attention `motion`, motion."""
        config = self.plan.config
        t0, t1 = self._frames(batch, rows)
        draws = Draws(step_seed(config.seed, step), places, total)
        losses = pretraining_losses(self.model, t0, t1, config.objective, draws, forward)
        return {
            "loss": losses.total,
            "loss_reconstruction": losses.reconstruction,
            "loss_agent": losses.agent,
            **({"loss_motion": losses.motion} if self.model.config.attention == "motion" else {}),
            "token_std": losses.token_std,
        }

    def after_step(self, step: int) -> None:
        """Update the agent's teacher."""
        if self.model.agent is not None:
            start = self.plan.config.ema_momentum
            momentum = ema_momentum(step, num_steps=self.plan.steps, start=start)
            self.model.agent.follow(self.model.encoder, momentum=momentum)

    def lr_scale(self, name: str) -> float:
        """The same for all parameters."""
        return 1.0

    def picture(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """Some pairs, what the model restores of them, and its maps."""
        t0, t1 = self._frames(batch, slice(0, 4))
        return picture_pairs(self.model, t0, t1, self.plan.config.objective)

    def save(self, folder: Path, tensors: Mapping[str, Tensor], report: StepReport) -> None:
        """Save the model with a state that lists what it has seen."""
        state = TrainingState(
            step=report.step,
            seed=self.plan.config.seed,
            preset=self.plan.preset,
            corpus=self.plan.corpus,
            subjects=self.subjects,
            losses={"loss": report.loss, **report.parts},
            forgotten=self.forgotten,
        )
        write_model(folder, tensors, self.model.config, state)

    def _frames(self, batch: Batch, rows: slice) -> tuple[Tensor, Tensor]:
        device = self.plan.compute.device
        t0, t1 = (images[rows].to(device, non_blocking=True) for images in (batch.t0, batch.t1))
        t0, t1 = augment(t0, t1, batch.draws[rows], self.plan.config.augment)
        in_chans = self.model.config.in_chans
        return normalize(t0, in_chans), normalize(t1, in_chans)


def decide(config: PretrainConfig, compute: Compute, processes: Processes, source: ShardSource) -> PretrainPlan:
    """Fill in the settings that depend on the hardware; raises ConfigError if the pairs do not fill a batch."""
    preset = config.preset or ("small" if compute.is_gpu else "tiny")
    workers = config.workers if config.workers is not None else (_GPU_WORKERS if compute.is_gpu else 0)
    lanes = num_lanes(processes.world, workers, source.num_pairs)
    dealt = source.num_pairs // lanes * lanes
    wanted = config.batch_size or (64 if compute.is_gpu else 16)
    share = processes.world * config.accumulate
    batch_size = max(1, min(wanted, dealt // share))
    global_batch = batch_size * share
    if global_batch > dealt:
        raise ConfigError(
            f"{source.where} holds {source.counted_pairs}, too few for {processes.world} processes with {lanes} lanes"
        )
    steps_per_epoch = dealt // global_batch
    epochs = config.epochs or (_GPU_EPOCHS if compute.is_gpu else None)
    steps = config.steps or (_CPU_STEPS if epochs is None else max(1, round(epochs * source.num_pairs / global_batch)))
    notes = _told_exclusion(source)
    if config.batch_size is not None and batch_size < config.batch_size:
        notes = (
            *notes,
            f"the batch of {config.batch_size} pairs is lowered to {batch_size}: {source.where} holds "
            f"{source.counted_pairs}, {dealt} of which can be dealt evenly",
        )
    if not compute.is_gpu and config.preset is None and config.steps is None and config.epochs is None:
        notes = (
            *notes,
            f"no GPU found: a trial run of the {preset} preset, {steps} steps, in fp32 "
            "(for the paper's model: --preset small --epochs 100, on a GPU)",
        )
    return PretrainPlan(
        preset=preset,
        steps=steps,
        batch_size=batch_size,
        global_batch=global_batch,
        lr=config.lr or (1e-3 if preset == "tiny" else 1e-4),
        config=config,
        compute=compute,
        workers=workers,
        num_pairs=source.num_pairs,
        num_shards=sum(count > 0 for count in source.counts),
        steps_per_epoch=steps_per_epoch,
        num_dropped=source.num_pairs - steps_per_epoch * global_batch,
        world=processes.world,
        corpus=source.corpus,
        pairs=source.pairs,
        notes=notes,
    )


def _told_exclusion(source: ShardSource) -> tuple[str, ...]:
    exclusion = source.exclusion
    if exclusion is None:
        return ()
    everybody = source.num_pairs + exclusion.num_pairs
    notes = [f"{exclusion.num_pairs} of {everybody} pairs are left out: those of {listed(exclusion.patterns)}"]
    if exclusion.num_unnamed:
        notes.append(
            f"{exclusion.num_unnamed} pairs without a known subject are kept, from datasets with excluded "
            "subjects: exclude these datasets as a whole to be sure"
        )
    return tuple(notes)


def _open_loader(
    source: ShardSource, plan: PretrainPlan, processes: Processes, position: dict[str, Any] | None, force: bool
) -> PairLoader:
    at = None if position is None else StreamPosition.from_json(position)
    is_another_corpus = at is not None and (at.num_pairs, at.seed) != (source.num_pairs, plan.config.seed)
    return PairLoader(
        source,
        batch_size=plan.global_batch,
        image_size=plan.model_config.image_size,
        seed=plan.config.seed,
        rank=processes.rank,
        world=processes.world,
        workers=plan.workers,
        max_bad=plan.config.max_bad,
        lends=True,
        position=None if is_another_corpus and force else at,  # forced: start the other corpus from the beginning
    )


def _begin(out: Path, plan: PretrainPlan, source: ShardSource) -> PretrainJob:
    torch.manual_seed(plan.config.seed)
    model = MicronBert.from_pretrained(out) if plan.done_before else MicronBert(plan.model_config)
    model.set_grad_checkpointing(plan.config.grad_checkpointing)
    before = read_state(out) if plan.done_before else None
    seen = before.subjects if before else ()  # more than now if --force continued with others
    subjects = tuple(sorted({*seen, *(source.subjects or ())}))
    return PretrainJob(model, plan, subjects, before.forgotten if before else ())
