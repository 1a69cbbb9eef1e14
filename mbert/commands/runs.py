"""`mbert runs`: the training runs of a workspace."""

import dataclasses
import json
from typing import TYPE_CHECKING

import typer

from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    JsonOption,
    WorkspaceOption,
    workspace_of,
)

if TYPE_CHECKING:
    pass


def runs(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """List the training runs of a workspace: how far they are, their last loss, how they stand."""
    from mbert.model.training.runs import list_runs

    folder = workspace_of(workspace).runs
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
    return None
