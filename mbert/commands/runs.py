"""`mbert runs`: the training runs of a workspace."""

import dataclasses
import json

import typer

from mbert import ManifestError
from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    JsonOption,
    WorkspaceOption,
    workspace_of,
)


def runs(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """List the training runs of a workspace: step, last loss, state."""
    from mbert.model.training.runs import list_runs

    folder = workspace_of(workspace).runs
    if not workspace.exists():
        raise ManifestError(
            f"there is no workspace in {workspace}: run `mbert ingest FOLDER` first, or name another one"
        )
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
    return typer.echo("next: mbert report, for a page of each and a table that compares them")
