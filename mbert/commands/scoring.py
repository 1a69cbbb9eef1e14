"""Models and predictions to scores: eval."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mbert.commands.console import Progress
from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    CheckpointOption,
    JsonOption,
    WorkspaceOption,
    labels_path_of,
    print_json,
    workspace_of,
)


def evaluate(
    protocol: Annotated[Literal["loso"], typer.Option(help="Leave one subject out.")] = "loso",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    checkpoint: CheckpointOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result.", show_default="WORKSPACE/runs/loso")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a pretrained model on labelled expressions, each subject by a head that never saw it."""
    from mbert.model.evaluate import run_loso

    space = workspace_of(workspace)
    with Progress(protocol) as progress:

        def tell(done: int, total: int) -> None:
            if done == 1:
                progress.begin(total)
            progress.advance(1, f"{done}/{total} subjects")

        result = run_loso(
            space.pairs,
            checkpoint or space.runs / "pretrain",
            out or space.runs / protocol,
            labels_path=labels_path_of(space),
            on_fold=tell,
        )
    if as_json:
        return print_json(result)
    typer.echo(
        f"{result.num_samples} expressions, {result.num_subjects} subjects, pooled over all folds, 95 % intervals:"
    )
    typer.echo(f"{'':18}{'UF1':>7}{'':16}{'UAR':>7}{'':16}{'accuracy':>9}")
    for name, scores in (
        ("μ-BERT", result.mbert),
        ("frame difference", result.frame_difference),
        ("majority class", result.majority),
    ):
        uf1 = f"{scores.uf1:7.3f}  {scores.uf1_interval[0]:.3f}-{scores.uf1_interval[1]:.3f}   "
        uar = f"{scores.uar:7.3f}  {scores.uar_interval[0]:.3f}-{scores.uar_interval[1]:.3f}   "
        typer.echo(f"{name:18}{uf1}{uar}{scores.accuracy:9.3f}")
    typer.echo(f"{'chance':18}{result.mbert.chance_uf1:7.3f}{'':16}{result.mbert.chance_uar:7.3f}")
    width = max(len(name) for name in result.mbert.classes)
    typer.echo("confusion of μ-BERT (rows true, columns predicted: " + ", ".join(result.mbert.classes) + "):")
    for name, row in zip(result.mbert.classes, result.mbert.confusion, strict=True):
        typer.echo(f"  {name:{width}} " + " ".join(f"{count:5d}" for count in row))
    if result.encoder_learned_labels_of:
        typer.secho(
            f"warning: the encoder was finetuned on the labels of {len(result.encoder_learned_labels_of)} of these "
            "subjects: its figures leak and are no score; evaluate the pretrained model, or hold these people out with "
            "`mbert train finetune --exclude-subject`",
            fg="yellow",
        )
    elif result.encoder_saw_test_subjects:
        typer.echo(
            "note: the encoder was pretrained, without labels, on frames of "
            f"{len(result.encoder_saw_test_subjects)} of these subjects; for a clean score pretrain on other people"
        )
    typer.echo(f"results: {result.folder}/results.json, {result.folder}/predictions.parquet")
