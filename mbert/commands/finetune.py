"""`mbert train finetune`: learn the labels of onset-apex pairs."""

from typing import Annotated, Any

import typer

from mbert import api
from mbert.api import is_first_process
from mbert.commands.console import Progress, counted
from mbert.commands.options import (
    AnnotationsOption,
    CacheOption,
    CheckpointOption,
    ExpressionsOption,
    JsonOption,
    WorkspaceOption,
    options_of,
    print_json,
)
from mbert.commands.train import (
    BatchOption,
    ConfigOption,
    ForceOption,
    MinutesOption,
    OverwriteOption,
    PrecisionOption,
    ResumeOption,
    SetOption,
    TrainSeedOption,
    begin_training,
    end_training,
    tell_training,
    told_step,
)


@options_of(
    api.finetune,
    workspace=WorkspaceOption,
    shards=ExpressionsOption,
    labels=AnnotationsOption,
    cache=CacheOption,
    checkpoint=CheckpointOption,
    classes=typer.Option(help="Class map (docs/evaluation.md).", show_default="annotated"),
    inputs=typer.Option(help="What the head sees, separated by commas (docs/model.md).", show_default="change"),
    head=typer.Option(help="Classification head.", show_default="linear"),
    frozen=typer.Option("--frozen", help="Train the head only."),
    layer_decay=typer.Option(
        help="Factor by which the learning rate shrinks from each block to the one below.", show_default="0.75"
    ),
    class_weights=typer.Option(help="Weight rare classes in the loss.", show_default="balanced"),
    label_smoothing=typer.Option(help="Share of a label to spread over all classes.", show_default="0"),
    mixup=typer.Option(help="Mix pairs, with shares from Beta(MIXUP, MIXUP); 0: off.", show_default="0"),
    exclude_subject=Annotated[
        list[str] | None, typer.Option(help="Hold a subject out, e.g. videos/s01; may be given several times.")
    ],
    steps=typer.Option(min=1, help="Optimiser steps to take, instead of --epochs.", show_default="from --epochs"),
    epochs=typer.Option(help="Passes over the pairs.", show_default="30"),
    batch_size=BatchOption,
    lr=typer.Option(help="Peak learning rate.", show_default="5e-4, with --frozen 1e-3"),
    config=ConfigOption,
    set=SetOption,
    seed=TrainSeedOption,
    precision=PrecisionOption,
    max_minutes=MinutesOption,
    out=typer.Option(help="Folder to write the run to.", show_default="WORKSPACE/runs/finetune"),
    resume=ResumeOption,
    force=ForceOption,
    overwrite=OverwriteOption,
)
def finetune(options: dict[str, Any], as_json: JsonOption = False) -> None:
    """Learn the labels of onset-apex pairs; an interrupted run resumes where it stopped. Runs under torchrun too."""
    progress = Progress("finetune", quiet=not is_first_process())
    from mbert.model.training.finetune import FinetunePlan

    with progress:

        def begin(plan: FinetunePlan) -> None:
            if plan.config.frozen and options["layer_decay"] is not None:
                progress.say("--layer-decay has no effect: the encoder is frozen")
            part = "frozen encoder" if plan.config.frozen else "encoder"
            begin_training(progress, plan, f"{part} and {plan.config.head} head for {len(plan.classes)} classes")

        summary = api.finetune(**options, on_plan=begin, on_step=lambda report: progress.advance(1, told_step(report)))
    if not is_first_process():
        return None
    if as_json:
        return print_json(summary)
    classes = ", ".join(f"{name} {count}" for name, count in summary.classes.items())
    held_out = f"; held out: {', '.join(summary.excluded_subjects)}" if summary.excluded_subjects else ""
    typer.echo(f"classes: {classes}, of {counted(summary.num_subjects, 'subject')}{held_out}")
    tell_training(summary)
    typer.echo(
        f"{summary.train_accuracy:.0%} of the training pairs named right in the last pass. Training accuracy is not a "
        "score, as these labels were learned; an honest figure is that of people it has not seen: "
        "mbert eval --protocol loso, which starts from the pretrained model"
    )
    return end_training(summary, "mbert eval --protocol loso")
