"""`mbert preview`: a corpus as a page to look at."""

from typing import Any

import typer

from mbert import api
from mbert.commands.console import counted
from mbert.commands.options import JsonOption, WorkspaceArgument, options_of, print_json


@options_of(
    api.preview,
    workspace=WorkspaceArgument,
    pictures=typer.Option(min=0, max=100, help="Crops to show of each kind, and rejected inputs."),
    seed=typer.Option(min=0, help="Random seed of the crops that are drawn by chance."),
    out=typer.Option(dir_okay=False, help="File of the page.", show_default="WORKSPACE/corpus/preview.html"),
)
def preview(options: dict[str, Any], as_json: JsonOption = False) -> None:
    """Make a page of a corpus: what was lost where, crops to look at, rejected inputs, quality."""
    summary = api.preview(**options)
    if as_json:
        return print_json(summary)
    typer.echo(
        f"{counted(summary.num_inputs, 'input')}; the page shows {counted(summary.num_crops, 'crop')} and "
        f"{counted(summary.num_rejected, 'rejected input')}, {summary.num_bytes / 1e6:.1f} MB"
    )
    typer.echo(f"open {summary.page}")
    return None
