"""Shared by `mbert train pretrain` and `mbert train finetune`: options, and the output about a run."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mbert.commands.console import Progress
from mbert.commands.options import (
    print_next,
    print_page,
)

if TYPE_CHECKING:
    from mbert.model.training.finetune import FinetuneSummary
    from mbert.model.training.loop import LoopPlan
    from mbert.model.training.pretrain import PretrainSummary
    from mbert.model.training.run_log import StepReport

ShardsOption = Annotated[
    str | None,
    typer.Option(
        help="Where the shards are: a folder or URL with pairs.json, or a pattern like s3://bucket/{000000..000099}.tar.",
        show_default="WORKSPACE/shards/pairs",
    ),
]


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

TrainSeedOption = Annotated[int | None, typer.Option(min=0, help="Random seed.", show_default="0")]

PrecisionOption = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"] | None,
    typer.Option(help="Forward-pass precision.", show_default="auto: bf16, on old GPUs fp16, on a CPU fp32"),
]

MinutesOption = Annotated[
    float | None, typer.Option(help="Save a checkpoint and stop after this many minutes; rerun to resume.")
]

ResumeOption = Annotated[bool, typer.Option("--resume", help="Fail if there is no run to resume.")]

ForceOption = Annotated[bool, typer.Option("--force", help="Resume even if settings or corpus have changed.")]

OverwriteOption = Annotated[bool, typer.Option(help="Start again even if the folder holds a run.")]


def told_step(report: "StepReport") -> str:
    """A step for the line of progress."""
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.4f}" for name, value in report.parts.items())
    memory = f", {report.memory_mb / 1024:.1f} GB" if report.memory_mb is not None else ""
    return (
        f"step {report.step}, loss {report.loss:.4f} ({parts}), {report.pairs_per_second:.0f} pairs/s, "
        f"{report.data_wait_share:.0%} waiting for data{memory}"
    )


def begin_training(progress: Progress, plan: "LoopPlan", what: str) -> None:
    """Say what a run is about to do, and begin its line of progress."""
    for note in plan.notes:
        progress.say(note)
    if 0 < plan.done_before < plan.steps:
        progress.say(f"resuming after step {plan.done_before} of {plan.steps}")
    processes = f" on {plan.world} processes" if plan.world > 1 else ""
    progress.say(
        f"{what} on {plan.compute.device} in {plan.compute.precision}, {plan.steps} steps of "
        f"{plan.global_batch} pairs{processes}"
    )
    progress.begin((plan.stop_after or plan.steps) - plan.done_before)


def tell_training(summary: "PretrainSummary | FinetuneSummary") -> None:
    """Say what a run, or this part of it, has done."""
    if summary.steps_done_now:
        typer.echo(f"{summary.steps_done_now} steps in {summary.seconds:.0f} s")
    elif not summary.stopped:
        typer.echo("this run was already finished; for another one: --out FOLDER, or --overwrite")
    typer.echo(f"loss {summary.first.loss:.4f} -> {summary.last.loss:.4f} after {summary.steps_done} steps")
    print_page(summary.page, summary.run)


def end_training(summary: "PretrainSummary | FinetuneSummary", command: str) -> None:
    """Say how to resume, or what comes next."""
    if summary.stopped:
        typer.echo(f"stopped by {summary.stopped} after step {summary.steps_done} of {summary.steps}, all is saved")
        if summary.stopped == "--steps":
            return typer.echo(f"resume with: the same command with --steps {summary.steps}")
        return typer.echo(f"resume with: mbert {shlex.join(sys.argv[1:])}")
    return print_next(summary.run, command)
