"""`mbert train pretrain`: learn from unlabelled pairs."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mbert.commands.console import Progress, counted
from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    CacheOption,
    JsonOption,
    WorkspaceOption,
    is_first_process,
    print_json,
)
from mbert.commands.train import (
    BatchOption,
    ConfigOption,
    EpochsOption,
    ForceOption,
    LoadersOption,
    MinutesOption,
    OverwriteOption,
    PrecisionOption,
    ResumeOption,
    SetOption,
    ShardsOption,
    StepsOption,
    TrainSeedOption,
    begin_training,
    end_training,
    tell_training,
    told_step,
)

if TYPE_CHECKING:
    from mbert.model.training.pretrain import PretrainEstimate


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
        typer.Option("--compile", help="Compile the blocks with torch.compile: the first step takes up to a minute."),
    ] = None,
    workers: LoadersOption = None,
    max_bad: Annotated[
        float | None, typer.Option(help="Share of an epoch's pairs that may be damaged.", show_default="0.001")
    ] = None,
    max_minutes: MinutesOption = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Number of newest checkpoints to keep, besides the best.", show_default="1"),
    ] = None,
    report_to: Annotated[
        Literal["none", "wandb"] | None, typer.Option(help="Where to send metrics, besides the run's folder.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="WORKSPACE/runs/pretrain")] = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    dry_run: Annotated[bool, typer.Option(help="Report what the run would cost, then stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pretrain without labels; an interrupted run resumes where it stopped. Under torchrun: on all GPUs and nodes."""
    progress = Progress("pretrain", quiet=not is_first_process())
    from mbert import api
    from mbert.model.training.pretrain import PretrainEstimate, PretrainPlan, PretrainSummary

    run = functools.partial(
        api.pretrain,
        workspace=workspace,
        shards=shards,
        cache=cache,
        preset=preset,
        variant=variant,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        exclude_subjects_of=exclude_subjects_of,
        swap_ratio=swap_ratio,
        swap_block=swap_block,
        config=config_file,
        set=assignments,
        seed=seed,
        precision=precision,
        compile=compiled,
        workers=workers,
        max_bad=max_bad,
        max_minutes=max_minutes,
        keep=keep,
        report_to=report_to,
        out=out,
        resume=resume,
        force=force,
        overwrite=overwrite,
    )
    if dry_run:
        estimate = run(dry_run=True)
        assert isinstance(estimate, PretrainEstimate)
        return print_json(estimate) if as_json else _print_estimate(estimate)
    with progress:

        def begin(plan: PretrainPlan) -> None:
            begin_training(progress, plan, plan.preset)

        summary = run(on_plan=begin, on_step=lambda report: progress.advance(1, told_step(report)))
    assert isinstance(summary, PretrainSummary)
    if not is_first_process():
        return None
    if as_json:
        return print_json(summary)
    tell_training(summary)
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
    return end_training(summary, "mbert eval --protocol loso")


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
