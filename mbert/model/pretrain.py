"""`mbert train pretrain`: learn from unlabelled pairs, one visible loop."""

import contextlib
import dataclasses
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from mbert import ConfigError, ModelError, __version__
from mbert.manifests.store import exclusive, read_json, tell_differences, write_json
from mbert.model.augment import AugmentConfig, augment
from mbert.model.checkpoint import TrainingState, load_model, load_optimizer, load_state, save_checkpoint
from mbert.model.data import Batch, normalize
from mbert.model.device import Compute, pick_compute
from mbert.model.dino import ema_momentum
from mbert.model.loader import PairLoader
from mbert.model.micron_bert import PRESETS, VARIANTS, MicronBert, MicronBertConfig
from mbert.model.objective import pretraining_losses
from mbert.model.optim import adamw, learning_rate
from mbert.shards.order import num_lanes
from mbert.shards.source import ShardSource, open_source

_CPU_STEPS = 400  # about two minutes of the tiny preset on two cores
_GPU_EPOCHS = 100  # the paper's


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """A pretraining run. None means: chosen by the hardware when the run starts."""

    preset: str | None = None  # tiny, small or base
    variant: str = "paper"  # or released: the authors' code, see docs/model.md
    steps: int | None = None  # either steps or epochs
    epochs: float | None = None
    batch_size: int | None = None
    lr: float | None = None  # peak learning rate
    weight_decay: float = 0.05
    warmup_ratio: float = 0.05  # share of the steps
    swap_ratio: float = 0.5  # share of patches swapped
    swap_block: int = 1  # side of the swapped squares, in patches; 1 is the paper's
    crop_scale: float = 0.5  # smallest side of the agent's crop, in image sides
    # β / γ; not published. None: 1 with DINO; 0.01 with MSE, where 1 lets the token collapse (docs/model.md).
    agent_weight: float | None = None
    ema_momentum: float = 0.997  # of DINO's teacher at the start, as in the released run
    save_every: int = 200  # steps between checkpoints
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise ConfigError(f"preset is {self.preset!r}; allowed are {', '.join(PRESETS)}")
        if self.variant not in VARIANTS:
            raise ConfigError(f"variant is {self.variant!r}; allowed are {', '.join(VARIANTS)}")
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("give --steps or --epochs, not both")
        for name in ("steps", "epochs", "batch_size", "lr"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0")
        if not 0 < self.swap_ratio < 1:
            raise ConfigError(f"swap_ratio is {self.swap_ratio}; it must lie between 0 and 1")
        if self.swap_block < 1:
            raise ConfigError(f"swap_block is {self.swap_block}; it must be at least 1 patch")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainPlan:
    """A run with everything decided; saved as the run's config.json."""

    preset: str
    steps: int
    batch_size: int
    lr: float
    config: PretrainConfig
    device: str
    precision: str
    num_pairs: int
    corpus: str
    done_before: int = 0  # steps that an interrupted run had done
    note: str = ""  # what was chosen for want of a GPU, and how to ask for more

    @property
    def model_config(self) -> MicronBertConfig:
        """Size by the preset, the rest by the variant."""
        return dataclasses.replace(PRESETS[self.preset], **VARIANTS[self.config.variant])

    def identity(self) -> dict[str, object]:
        """What must be equal for a run to be continued."""
        chosen = ("preset", "steps", "batch_size", "lr")
        kept = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in (*chosen, "epochs", "save_every")}
        return {**kept, **{name: getattr(self, name) for name in chosen}, "corpus": self.corpus}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One line of metrics.jsonl."""

    step: int  # steps done
    loss: float
    loss_reconstruction: float
    loss_agent: float
    token_std: float
    lr: float
    pairs_per_second: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PretrainSummary:
    """What a run ended with."""

    steps: int
    steps_done_now: int
    first: StepReport
    last: StepReport
    seconds: float
    checkpoint: str
    run: str


def run_pretrain(
    shards_folder: Path,
    out: Path,
    config: PretrainConfig,
    *,
    overwrite: bool = False,
    on_plan: Callable[[PretrainPlan], None] = lambda plan: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> PretrainSummary:
    """Pretrain, or go on with a run that was interrupted.

    Raises ShardError without shards, ConfigError when `out` holds a run of another configuration, ModelError when the
    loss is not finite. On Ctrl-C the state is saved before the interruption goes on.
    """
    began = time.monotonic()
    source = open_source(shards_folder)
    compute = pick_compute()
    plan = _decide(config, compute, source.num_pairs, source.corpus)
    with exclusive(out):
        plan = dataclasses.replace(plan, done_before=_settle_run(out, plan, overwrite))
        on_plan(plan)
        _train(source, out, plan, compute, on_step)
    reports = _read_metrics(out)
    return PretrainSummary(
        steps=plan.steps,
        steps_done_now=plan.steps - plan.done_before,
        first=reports[0],
        last=reports[-1],
        seconds=time.monotonic() - began,
        checkpoint=str(out / "checkpoints" / "last"),
        run=str(out),
    )


def _train(
    source: ShardSource,
    out: Path,
    plan: PretrainPlan,
    compute: Compute,
    on_step: Callable[[StepReport], None],
) -> None:
    """The loop, from where the run stands to its last step."""
    config = plan.config
    torch.manual_seed(config.seed)
    model = load_model(out) if plan.done_before else MicronBert(plan.model_config)
    model.to(compute.device).train()
    optimizer = adamw(model, weight_decay=config.weight_decay)
    if plan.done_before:
        load_optimizer(out, model, optimizer)
    loader = PairLoader(source, batch_size=plan.batch_size, image_size=model.config.image_size, seed=config.seed)
    loader.seek(plan.done_before)
    stream = iter(loader)
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as metrics, _deferred_interrupt() as is_interrupted:
        for step in range(plan.done_before, plan.steps):
            report = _train_step(model, optimizer, stream, plan, step, compute)
            metrics.write(json.dumps(dataclasses.asdict(report)) + "\n")
            on_step(report)
            if report.step % config.save_every == 0 or report.step == plan.steps or is_interrupted():
                metrics.flush()
                save_checkpoint(out / "checkpoints", model, optimizer, _state(report, plan, source.subjects or ()))
            if is_interrupted():
                raise KeyboardInterrupt


def _train_step(
    model: MicronBert,
    optimizer: torch.optim.Optimizer,
    stream: Iterator[Batch],
    plan: PretrainPlan,
    step: int,
    compute: Compute,
) -> StepReport:
    """Forward, backward, update; `step` counts from 0. Raises ModelError when the loss is not finite."""
    started = time.monotonic()
    config = plan.config
    batch = next(stream)
    num_warmup = max(1, int(plan.steps * config.warmup_ratio))
    lr = learning_rate(step, num_steps=plan.steps, num_warmup=num_warmup, peak=plan.lr)
    for group in optimizer.param_groups:
        group["lr"] = lr
    t0, t1 = (images.to(compute.device) for images in (batch.t0, batch.t1))
    t0, t1 = (normalize(images) for images in augment(t0, t1, batch.draws, AugmentConfig()))
    with compute.autocast():
        losses = pretraining_losses(
            model,
            t0,
            t1,
            swap_ratio=config.swap_ratio,
            swap_block=config.swap_block,
            crop_scale=config.crop_scale,
            agent_weight=_agent_weight(config, model),
            generator=_step_generator(config.seed, step),
        )
    loss = losses.total.item()
    if not math.isfinite(loss):
        raise ModelError(f"the loss is {loss} at step {step + 1}, pairs {', '.join(batch.keys)}: lower --lr")
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if model.agent is not None:
        momentum = ema_momentum(step, num_steps=plan.steps, start=config.ema_momentum)
        model.agent.follow(model.encoder, momentum=momentum)
    return StepReport(
        step=step + 1,
        loss=loss,
        loss_reconstruction=losses.reconstruction.item(),
        loss_agent=losses.agent.item(),
        token_std=losses.token_std.item(),
        lr=lr,
        pairs_per_second=plan.batch_size / (time.monotonic() - started),
    )


def _agent_weight(config: PretrainConfig, model: MicronBert) -> float:
    if config.agent_weight is not None:
        return config.agent_weight
    return 1.0 if model.agent is not None else 0.01


def _state(report: StepReport, plan: PretrainPlan, subjects: Sequence[str]) -> TrainingState:
    return TrainingState(
        step=report.step,
        seed=plan.config.seed,
        preset=plan.preset,
        corpus=plan.corpus,
        subjects=tuple(subjects),
        losses={"loss": report.loss, "reconstruction": report.loss_reconstruction, "agent": report.loss_agent},
    )


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a question that the loop asks between two steps; the second one stops at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, _frame: object) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, before)


def _decide(config: PretrainConfig, compute: Compute, num_pairs: int, corpus: str) -> PretrainPlan:
    """Fill in what was left to the hardware."""
    on_gpu = compute.device.type != "cpu"
    preset = config.preset or ("small" if on_gpu else "tiny")
    wanted = config.batch_size or (64 if on_gpu else 16)
    lanes = num_lanes(1, 0, num_pairs)
    batch_size = min(wanted, num_pairs // lanes * lanes)
    epochs = config.epochs or (_GPU_EPOCHS if on_gpu else None)
    steps = config.steps or (_CPU_STEPS if epochs is None else max(1, round(epochs * num_pairs / batch_size)))
    lr = config.lr or (1e-3 if preset == "tiny" else 1e-4)
    note = ""
    if not on_gpu and config.preset is None and config.steps is None and config.epochs is None:
        note = (
            f"no GPU found: a trial run of the {preset} preset, {steps} steps, in fp32 "
            "(for the paper's model: --preset small --epochs 100, on a GPU)"
        )
    return PretrainPlan(
        preset=preset,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        config=config,
        device=str(compute.device),
        precision=compute.precision,
        num_pairs=num_pairs,
        corpus=corpus,
        note=note,
    )


def _settle_run(out: Path, plan: PretrainPlan, overwrite: bool) -> int:
    """Begin a run folder, or check that it can be continued. Returns the steps already done."""
    path = out / "config.json"
    if overwrite:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    done, kept = 0, []
    if path.exists() and (out / "checkpoints" / "last").exists():
        if differences := tell_differences(read_json(path)["identity"], plan.identity(), "run"):
            raise ConfigError(
                f"{out} holds a run of another configuration ({differences}): "
                "use the same options, another --out, or --overwrite"
            )
        done = load_state(out).step
        kept = [report for report in _read_metrics(out) if report.step <= done]
    write_json(
        path,
        {
            "identity": plan.identity(),
            "model": dataclasses.asdict(plan.model_config),
            "device": plan.device,
            "precision": plan.precision,
            "num_pairs": plan.num_pairs,
            "versions": {"mbert": __version__, "torch": torch.__version__},
        },
    )
    lines = [json.dumps(dataclasses.asdict(report)) + "\n" for report in kept]
    (out / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return done


def _read_metrics(out: Path) -> list[StepReport]:
    path = out / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [
        StepReport(**json.loads(line)) for line in lines if line.endswith("}")
    ]  # a killed run may leave half a line


def _step_generator(seed: int, step: int) -> torch.Generator:
    """Randomness of one step, from seed and step alone: a continued run draws what an unbroken one would."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
