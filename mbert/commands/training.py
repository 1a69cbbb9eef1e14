"""Pair shards to models: pretrain, finetune, runs, convert."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mbert import ConfigError
from mbert.commands.console import Progress, counted
from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    CheckpointOption,
    JsonOption,
    WorkspaceOption,
    given,
    is_first_process,
    labels_path_of,
    listed,
    print_json,
    print_next,
    workspace_of,
)

if TYPE_CHECKING:
    from mbert.model.training.finetune import FinetuneSummary
    from mbert.model.training.loop import LoopPlan
    from mbert.model.training.pretrain import PretrainEstimate, PretrainSummary
    from mbert.model.training.run_log import StepReport

ShardsOption = Annotated[
    str | None,
    typer.Option(
        help="Where the shards are: a folder or URL with pairs.json, or a pattern like s3://bucket/{000000..000099}.tar.",
        show_default="WORKSPACE/shards/pairs",
    ),
]

CacheOption = Annotated[Path | None, typer.Option(help="Folder for copies of shards that are behind URLs.")]

StepsOption = Annotated[int | None, typer.Option(min=1, help="Optimiser steps.", show_default="by the hardware")]

EpochsOption = Annotated[float | None, typer.Option(help="Passes over the pairs, instead of --steps.")]

BatchOption = Annotated[
    int | None, typer.Option(min=1, help="Pairs per process and pass.", show_default="by the hardware")
]

ConfigOption = Annotated[
    Path | None, typer.Option("--config", exists=True, dir_okay=False, help="YAML file of settings.")
]

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, e.g. model.poi=false or objective.crop_scale=0.4 (docs/model.md)."),
]

LoadersOption = Annotated[
    int | None, typer.Option(min=0, help="Processes that load pairs, per GPU.", show_default="8 with a GPU, else 0")
]

TrainSeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.", show_default="0")]

PrecisionOption = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"] | None,
    typer.Option(help="Of the forward passes.", show_default="auto: bf16, on old GPUs fp16, on a CPU fp32"),
]

MinutesOption = Annotated[float | None, typer.Option(help="Save and stop after so long; to be continued.")]

ResumeOption = Annotated[bool, typer.Option("--resume", help="Fail where there is no run to go on with.")]

ForceOption = Annotated[bool, typer.Option("--force", help="Go on although settings or corpus have changed.")]

OverwriteOption = Annotated[bool, typer.Option(help="Begin anew although the folder holds a run.")]


def pretrain(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    shards: ShardsOption = None,
    cache: CacheOption = None,
    preset: Annotated[
        Literal["tiny", "small", "base"] | None,
        typer.Option(help="Size of the model; `small` is the paper's.", show_default="small with a GPU, else tiny"),
    ] = None,
    variant: Annotated[
        Literal["motion", "paper", "released"] | None,
        typer.Option(
            help="The paper's model with a diagonal that learns what moved, the paper's as published, or that of the "
            "authors' released code (docs/model.md).",
            show_default="motion",
        ),
    ] = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Passes per step.", show_default="1")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="by the preset")] = None,
    exclude_subjects_of: Annotated[
        list[str] | None,
        typer.Option(
            help="Learn nothing from these people: a dataset, e.g. casme2, or a subject, e.g. casme2/sub01; may be "
            "given several times."
        ),
    ] = None,
    swap_ratio: Annotated[
        float | None, typer.Option(help="Share of the patches that are swapped.", show_default="0.5")
    ] = None,
    swap_block: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the swapped squares, in patches.", show_default="1, as in the paper"),
    ] = None,
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    seed: TrainSeedOption = None,
    precision: PrecisionOption = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile", help="Compile the blocks with torch.compile: faster steps after a first one of a minute."
        ),
    ] = None,
    workers: LoadersOption = None,
    max_bad: Annotated[
        float | None, typer.Option(help="Share of an epoch's pairs that may be damaged.", show_default="0.001")
    ] = None,
    max_minutes: MinutesOption = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Newest checkpoints kept, beside the best.", show_default="1")
    ] = None,
    report_to: Annotated[
        Literal["none", "wandb"] | None, typer.Option(help="Where metrics go, beside the run's folder.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="WORKSPACE/runs/pretrain")] = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    dry_run: Annotated[bool, typer.Option(help="Say what the run would cost, then stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pretrain without labels; an interrupted run goes on where it was. Under torchrun: on all GPUs and nodes."""
    from mbert.model.training.pretrain import PretrainConfig, PretrainPlan, estimate_pretrain, run_pretrain
    from mbert.model.training.settings import read_settings, with_settings

    space = workspace_of(workspace)
    options = {
        "preset": preset,
        "variant": variant,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "lr": lr,
        "exclude_subjects": exclude_subjects_of or None,
        "seed": seed,
        "precision": precision,
        "compile": compiled,
        "workers": workers,
        "max_bad": max_bad,
        "max_minutes": max_minutes,
        "keep": keep,
        "report_to": report_to,
        "objective": {"swap_ratio": swap_ratio, "swap_block": swap_block},
    }
    config = with_settings(PretrainConfig(), read_settings(config_file, assignments or []))
    config = with_settings(config, given(options))
    where = shards or space.pairs
    if dry_run:
        estimate = estimate_pretrain(where, config, cache=cache)
        return print_json(estimate) if as_json else _print_estimate(estimate)
    with Progress("pretrain", quiet=not is_first_process()) as progress:

        def begin(plan: PretrainPlan) -> None:
            _begin_training(progress, plan, plan.preset)

        summary = run_pretrain(
            where,
            out or space.runs / "pretrain",
            config,
            cache=cache,
            overwrite=overwrite,
            force=force,
            resume=resume,
            on_plan=begin,
            on_step=lambda report: progress.advance(1, _told_step(report)),
        )
    if not is_first_process():
        return None
    if as_json:
        return print_json(summary)
    _tell_training(summary)
    if summary.num_bad:
        bad = counted(summary.num_bad, "damaged pair")
        typer.echo(f"{bad} in the last epoch, good neighbours stood in; look with: mbert verify")
    if summary.collapsed:
        typer.secho(
            f"warning: the contextual token says nearly the same of every face "
            f"(spread {summary.last.parts['token_std']:.4f}), so the Patch of Interest means little: "
            "lower objective.agent_weight, or use more people",
            fg="yellow",
        )
    return _end_training(summary, "mbert eval --protocol loso")


def finetune(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    shards: Annotated[
        Path | None, typer.Option(help="Folder of the pair shards.", show_default="WORKSPACE/shards/pairs")
    ] = None,
    checkpoint: CheckpointOption = None,
    classes: Annotated[
        str | None, typer.Option(help="Class map (docs/evaluation.md).", show_default="annotated")
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(help="What the head looks at, by commas (docs/model.md).", show_default="change")
    ] = None,
    head: Annotated[
        Literal["linear", "mlp"] | None, typer.Option(help="What names the emotion.", show_default="linear")
    ] = None,
    frozen: Annotated[bool | None, typer.Option("--frozen", help="Learn the head alone.")] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(help="Factor of the learning rate from a block to the one below.", show_default="0.75"),
    ] = None,
    class_weights: Annotated[
        Literal["balanced", "none"] | None, typer.Option(help="Of rare classes in the loss.", show_default="balanced")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of a label that is spread over all classes.", show_default="0")
    ] = None,
    mixup: Annotated[
        float | None, typer.Option(help="Mix pairs, by shares from Beta(MIXUP, MIXUP); 0: do not.", show_default="0")
    ] = None,
    exclude_subject: Annotated[
        list[str] | None, typer.Option(help="Hold a subject out, e.g. videos/s01; may be given several times.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps, instead of --epochs.", show_default="by the epochs")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the pairs.", show_default="30")] = None,
    batch_size: BatchOption = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="5e-4, with --frozen 1e-3")
    ] = None,
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    seed: TrainSeedOption = None,
    precision: PrecisionOption = None,
    max_minutes: MinutesOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="WORKSPACE/runs/finetune")] = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Learn the labels of the onset-apex pairs; an interrupted run goes on where it was. Runs under torchrun too."""
    from mbert.model.training.finetune import FinetuneConfig, FinetunePlan, run_finetune
    from mbert.model.training.settings import read_settings, with_settings

    space = workspace_of(workspace)
    options = {
        "classes": classes,
        "inputs": listed(inputs),
        "head": head,
        "frozen": frozen,
        "layer_decay": layer_decay,
        "class_weights": class_weights,
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "exclude_subjects": exclude_subject or None,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "precision": precision,
        "max_minutes": max_minutes,
    }
    config = with_settings(FinetuneConfig(), read_settings(config_file, assignments or []))
    config = with_settings(config, given(options))
    with Progress("finetune", quiet=not is_first_process()) as progress:

        def begin(plan: FinetunePlan) -> None:
            if config.frozen and layer_decay is not None:
                progress.say("--layer-decay has no effect: the encoder is frozen")
            part = "frozen encoder" if config.frozen else "encoder"
            _begin_training(progress, plan, f"{part} and {config.head} head for {len(plan.classes)} classes")

        summary = run_finetune(
            shards or space.pairs,
            checkpoint or space.runs / "pretrain",
            out or space.runs / "finetune",
            config,
            labels_path=labels_path_of(space),
            overwrite=overwrite,
            force=force,
            resume=resume,
            on_plan=begin,
            on_step=lambda report: progress.advance(1, _told_step(report)),
        )
    if not is_first_process():
        return None
    if as_json:
        return print_json(summary)
    classes = ", ".join(f"{name} {count}" for name, count in summary.classes.items())
    held_out = f"; held out: {', '.join(summary.excluded_subjects)}" if summary.excluded_subjects else ""
    typer.echo(f"classes: {classes}, of {counted(summary.num_subjects, 'subject')}{held_out}")
    _tell_training(summary)
    typer.echo(
        f"{summary.train_accuracy:.0%} of the training pairs named right in the last pass: training accuracy is no "
        "score, these labels were learned from; the honest figure is that of people it has not seen: "
        "mbert eval --protocol loso, which starts from the pretrained model"
    )
    return _end_training(summary, "mbert eval --protocol loso")


def runs(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """List the training runs of a workspace: how far they are, their last loss, how they stand."""
    from mbert.model.training.runs import list_runs

    folder = workspace_of(workspace).runs
    rows = list_runs(folder)
    if as_json:
        return typer.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
    if not rows:
        return typer.echo(f"there are no runs in {folder}; next: mbert train pretrain")
    width = max(len(row.name) for row in rows)
    for row in rows:
        loss = "" if row.loss is None else f"loss {row.loss:.4f}"
        reason = f" ({row.reason})" if row.reason else ""
        typer.echo(
            f"{row.name:{width}}  {row.kind:9} {row.state:9} step {row.step}/{row.steps}  {loss:12}  {row.at}{reason}"
        )
    return None


def convert(
    source: Annotated[Path, typer.Argument(exists=True, help="The authors' .pth file; with --to-released a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; with --to-released the file to write.")],
    to_released: Annotated[bool, typer.Option(help="The way back: a converted folder to the authors' names.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn the authors' released checkpoint into one of ours (safetensors), or back. Nothing is unpickled."""
    from mbert.model.network.released import write_released
    from mbert.model.training.convert import convert_released

    if out.exists() and (to_released or any(out.iterdir() if out.is_dir() else [out])):
        raise ConfigError(f"{out} exists already; give another --out")
    if to_released:
        num_tensors = write_released(source, out)
        typer.echo(json.dumps({"num_tensors": num_tensors, "file": str(out)}) if as_json else f"{num_tensors} tensors")
        return None
    summary = convert_released(source, out)
    if as_json:
        return print_json(summary)
    trained = f"trained on {summary.dataset or 'an unknown corpus'}, epoch {summary.epoch}"
    typer.echo(f"{summary.num_tensors} tensors, {summary.num_parameters} parameters, {trained}")
    typer.echo(f"{summary.attention} cross-attention, roles as in the authors' code, no Patch of Interest")
    typer.secho(f"warning: {summary.warning}", fg="yellow")
    print_next(summary.folder, f"mbert eval --checkpoint {summary.folder}")


def _told_step(report: "StepReport") -> str:
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.4f}" for name, value in report.parts.items())
    memory = f", {report.memory_mb / 1024:.1f} GB" if report.memory_mb is not None else ""
    return (
        f"step {report.step}, loss {report.loss:.4f} ({parts}), {report.pairs_per_second:.0f} pairs/s, "
        f"{report.data_wait_share:.0%} waiting for data{memory}"
    )


def _begin_training(progress: Progress, plan: "LoopPlan", what: str) -> None:
    for note in plan.notes:
        progress.say(note)
    if 0 < plan.done_before < plan.steps:
        progress.say(f"going on after step {plan.done_before} of {plan.steps}")
    processes = f" on {plan.world} processes" if plan.world > 1 else ""
    progress.say(
        f"{what} on {plan.compute.device} in {plan.compute.precision}, {plan.steps} steps of "
        f"{plan.global_batch} pairs{processes}"
    )
    progress.begin(plan.steps - plan.done_before)


def _tell_training(summary: "PretrainSummary | FinetuneSummary") -> None:
    if summary.steps_done_now:
        typer.echo(f"{summary.steps_done_now} steps in {summary.seconds:.0f} s")
    else:
        typer.echo("this run was already finished; another one: --out FOLDER, or --overwrite")
    typer.echo(f"loss {summary.first.loss:.4f} -> {summary.last.loss:.4f} after {summary.steps_done} steps")


def _end_training(summary: "PretrainSummary | FinetuneSummary", command: str) -> None:
    if summary.stopped:
        typer.echo(f"stopped by {summary.stopped} after step {summary.steps_done} of {summary.steps}, all is saved")
        return typer.echo(f"resume with: mbert {shlex.join(sys.argv[1:])}")
    return print_next(summary.run, command)


def _print_estimate(estimate: "PretrainEstimate") -> None:
    cost = estimate.cost
    typer.echo(
        f"{estimate.preset} on {estimate.device} in {estimate.precision}: {cost.num_learned / 1e6:.1f} M parameters to "
        f"learn ({cost.num_parameters / 1e6:.1f} M saved)"
    )
    typer.echo(
        f"{cost.flops_per_pair / 1e9:.1f} GFLOP per pair, {estimate.flops:.2e} FLOP in all; about "
        f"{cost.memory_bytes / 2**30:.1f} GiB of memory per process, without the workspace of its kernels"
    )
    typer.echo(
        f"{estimate.num_pairs} pairs in {counted(estimate.num_shards, 'shard')} ({estimate.shards_per_process:.1f} per "
        f"process): {counted(estimate.steps_per_epoch, 'step')} of {estimate.pairs_per_step} pairs per epoch, "
        f"{estimate.pairs_dropped_per_epoch} left over; {counted(estimate.steps, 'step')} in all"
    )
    if estimate.num_excluded:
        typer.echo(f"{estimate.num_excluded} more pairs are of people who are excluded")
    typer.echo("nothing was written; next: the same command without --dry-run")
