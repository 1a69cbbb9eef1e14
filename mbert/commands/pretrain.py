"""`mbert train pretrain`: learn from unlabelled pairs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mbert import api
from mbert.api import is_first_process
from mbert.commands.console import Progress, counted
from mbert.commands.options import (
    CacheOption,
    JsonOption,
    WorkspaceOption,
    options_of,
    print_json,
    workspace_of,
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


@options_of(
    api.pretrain,
    workspace=WorkspaceOption,
    shards=ShardsOption,
    cache=CacheOption,
    preset=typer.Option(help="Size of the model; `small` is the paper's.", show_default="small with a GPU, else tiny"),
    variant=typer.Option(
        help="motion: a motion head on fixed evidence, with the paper's encoder trained along; paper: the model as "
        "published; released: the model of the authors' code (docs/model.md).",
        show_default="motion",
    ),
    steps=StepsOption,
    epochs=EpochsOption,
    batch_size=BatchOption,
    accumulate=typer.Option(min=1, help="Passes per step.", show_default="1"),
    lr=typer.Option(help="Peak learning rate.", show_default="by the preset"),
    exclude_subjects_of=Annotated[
        list[str] | None,
        typer.Option(
            help="Learn nothing from these people: a dataset, e.g. casme2, or a subject, e.g. casme2/sub01; may be "
            "given several times."
        ),
    ],
    swap_ratio=typer.Option(help="Share of the patches to swap.", show_default="0.5"),
    swap_block=typer.Option(min=1, help="Side of the swapped squares, in patches.", show_default="1, as in the paper"),
    config=ConfigOption,
    set=SetOption,
    seed=TrainSeedOption,
    precision=PrecisionOption,
    compile=typer.Option(
        "--compile", help="Compile the blocks with torch.compile: the first step takes up to two minutes."
    ),
    workers=LoadersOption,
    max_bad=typer.Option(help="Share of an epoch's pairs that may be damaged.", show_default="0.001"),
    max_minutes=MinutesOption,
    keep=typer.Option(min=1, help="Number of newest checkpoints to keep, in addition to the best.", show_default="1"),
    report_to="Where to send metrics, in addition to the run's folder.",
    out=typer.Option(help="Folder to write the run to.", show_default="WORKSPACE/runs/pretrain"),
    resume=ResumeOption,
    force=ForceOption,
    overwrite=OverwriteOption,
    dry_run="Report what the run would cost, then stop.",
)
def pretrain(options: dict[str, Any], as_json: JsonOption = False) -> None:
    """Pretrain without labels; an interrupted run resumes where it stopped. Under torchrun: on all GPUs and nodes."""
    progress = Progress("pretrain", quiet=not is_first_process())
    from mbert.model.training.pretrain import PretrainEstimate, PretrainPlan, PretrainSummary

    if options["dry_run"]:
        estimate = api.pretrain(**options)
        assert isinstance(estimate, PretrainEstimate)
        return print_json(estimate) if as_json else _print_estimate(estimate)
    with progress:

        def begin(plan: PretrainPlan) -> None:
            begin_training(progress, plan, plan.preset)

        summary = api.pretrain(**options, on_plan=begin, on_step=lambda report: progress.advance(1, told_step(report)))
    assert isinstance(summary, PretrainSummary)
    if not is_first_process():
        return None
    if as_json:
        return print_json(summary)
    tell_training(summary)
    if summary.num_bad:
        bad = counted(summary.num_bad, "damaged pair")
        typer.echo(f"{bad} in the last epoch, replaced by good neighbours; to list them: mbert verify")
    if summary.collapsed:
        typer.secho(
            f"warning: the contextual token is nearly the same for every face "
            f"(spread {summary.last.parts['token_std']:.4f}), so the Patch of Interest means little: "
            "lower objective.agent_weight, or use more people",
            fg="yellow",
        )
    return end_training(summary, _next(options["workspace"], summary.run))


def _next(workspace: Path, run: str) -> str:
    """The command that comes next; a score needs labelled expressions."""
    from mbert.manifests.files import read_json

    index = workspace_of(workspace).expressions / "pairs.json"
    if index.exists() and read_json(index)["num_pairs"]:
        return "mbert eval --protocol loso"
    return f"mbert predict VIDEO --model {shlex.quote(run)} (a score needs labels: mbert labels --template)"


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
