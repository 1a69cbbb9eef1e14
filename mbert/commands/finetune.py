"""`mbert train finetune`: learn the labels of onset-apex pairs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mbert.commands.console import Progress, counted
from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    AnnotationsOption,
    CacheOption,
    CheckpointOption,
    ExpressionsOption,
    JsonOption,
    WorkspaceOption,
    is_first_process,
    listed,
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


def finetune(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    shards: ExpressionsOption = None,
    labels: AnnotationsOption = None,
    cache: CacheOption = None,
    checkpoint: CheckpointOption = None,
    classes: Annotated[
        str | None, typer.Option(help="Class map (docs/evaluation.md).", show_default="annotated")
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(help="What the head looks at, by commas (docs/model.md).", show_default="change")
    ] = None,
    head: Annotated[
        Literal["linear", "mlp"] | None, typer.Option(help="Classification head.", show_default="linear")
    ] = None,
    frozen: Annotated[bool | None, typer.Option("--frozen", help="Train the head only.")] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(help="Factor of the learning rate from a block to the one below.", show_default="0.75"),
    ] = None,
    class_weights: Annotated[
        Literal["balanced", "none"] | None,
        typer.Option(help="Weight rare classes in the loss.", show_default="balanced"),
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
    """Learn the labels of onset-apex pairs; an interrupted run resumes where it stopped. Runs under torchrun too."""
    progress = Progress("finetune", quiet=not is_first_process())
    from mbert import api
    from mbert.model.training.finetune import FinetunePlan

    with progress:

        def begin(plan: FinetunePlan) -> None:
            if plan.config.frozen and layer_decay is not None:
                progress.say("--layer-decay has no effect: the encoder is frozen")
            part = "frozen encoder" if plan.config.frozen else "encoder"
            begin_training(progress, plan, f"{part} and {plan.config.head} head for {len(plan.classes)} classes")

        summary = api.finetune(
            workspace=workspace,
            shards=shards,
            labels=labels,
            cache=cache,
            checkpoint=checkpoint,
            classes=classes,
            inputs=listed(inputs),
            head=head,
            frozen=frozen,
            layer_decay=layer_decay,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
            mixup=mixup,
            exclude_subject=exclude_subject,
            steps=steps,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            config=config_file,
            set=assignments,
            seed=seed,
            precision=precision,
            max_minutes=max_minutes,
            out=out,
            resume=resume,
            force=force,
            overwrite=overwrite,
            on_plan=begin,
            on_step=lambda report: progress.advance(1, told_step(report)),
        )
    if not is_first_process():
        return None
    if as_json:
        return print_json(summary)
    classes = ", ".join(f"{name} {count}" for name, count in summary.classes.items())
    held_out = f"; held out: {', '.join(summary.excluded_subjects)}" if summary.excluded_subjects else ""
    typer.echo(f"classes: {classes}, of {counted(summary.num_subjects, 'subject')}{held_out}")
    tell_training(summary)
    typer.echo(
        f"{summary.train_accuracy:.0%} of the training pairs named right in the last pass: training accuracy is no "
        "score, these labels were learned from; the honest figure is that of people it has not seen: "
        "mbert eval --protocol loso, which starts from the pretrained model"
    )
    return end_training(summary, "mbert eval --protocol loso")
