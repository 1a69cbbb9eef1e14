"""`mbert weights`: which models there are, and how the built-in one is made."""

import dataclasses
import json
from typing import Any

import typer

from mbert import api
from mbert.commands.console import Progress
from mbert.commands.options import DEFAULT_WORKSPACE, JsonOption, SeedOption, WorkersOption, WorkspaceOption, options_of

weights = typer.Typer(invoke_without_command=True, help="List the available models, or build the built-in one.")


@weights.callback()
def show(context: typer.Context, workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """List the models that come with mbert, lie in the workspace, and in the cache of the hub."""
    if context.invoked_subcommand:
        return
    from mbert.model.network.inventory import list_models

    found = list_models(workspace)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(model) for model in found]))
        return
    for model in found:
        typer.echo(f"{model.where:<10} {model.name:<24} {model.about}")
        typer.echo(f"{'':<10} {model.path}")


@weights.command()
@options_of(
    api.build_weights,
    out=typer.Argument(help="Folder to write the model to."),
    photos=typer.Option(exists=True, file_okay=False, help="Portraits.", show_default="the bundled photo"),
    subjects_per_photo=typer.Option(min=1, help="People to make from each photo."),
    steps=typer.Option(min=1, help="Training steps."),
    seed=SeedOption,
    workers=WorkersOption,
)
def build(options: dict[str, Any], as_json: JsonOption = False) -> None:
    """Make a model for mbert predict: synthetic people, pretraining, calibration, action units, card."""
    with Progress("weights") as progress:
        built = api.build_weights(**options, on_note=lambda text: progress.say(f"weights: {text} ..."))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(built)))
        return
    typer.echo(f"{len(built.subjects)} people, {built.calibrated_minutes:.1f} min of still faces")
    typer.echo(f"{built.num_bytes / 1e6:.1f} MB in {built.folder}; next: mbert predict VIDEO --model {built.folder}")
