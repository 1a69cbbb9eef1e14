"""`mbert convert`: the authors' released checkpoint, in and out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mbert import ConfigError
from mbert.commands.options import (
    JsonOption,
    print_json,
    print_next,
)

if TYPE_CHECKING:
    pass


def convert(
    source: Annotated[
        Path, typer.Argument(exists=True, help="The authors' .pth file; with --to-released, a checkpoint of mbert.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder to write the checkpoint to; with --to-released, the file to write.")
    ],
    to_released: Annotated[
        bool, typer.Option(help="Convert a checkpoint of mbert to a file with the authors' names.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert the authors' released checkpoint to safetensors, or back. Nothing is unpickled."""
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
