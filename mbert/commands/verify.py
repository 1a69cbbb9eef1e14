"""`mbert verify`: do tars match their manifests?"""

from pathlib import Path
from typing import Annotated

import typer

from mbert.commands.console import Progress, counted
from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    JsonOption,
    WorkersOption,
    WorkspaceOption,
    print_json,
    workspace_of,
)


def verify(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Look for one recording in two inputs, by how faces move.")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(exists=True, help="Another workspace; look for its recordings in this one.")
    ] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every tar against its manifest: bytes, names, order, images. Exit with 1 at the first fault."""
    progress = Progress("verify")
    from mbert.api import engine_of
    from mbert.pipeline.verify import run_verify

    with progress:
        done = 0

        def tell(num_members: int) -> None:
            nonlocal done
            done += num_members
            progress.advance(1, f"{done} members")

        summary = run_verify(
            workspace_of(workspace),
            engine=engine_of("local", workers),
            duplicates=duplicates,
            against=None if against is None else workspace_of(against),
            on_plan=progress.begin,
            on_tar=tell,
        )
    if as_json:
        return print_json(summary)
    typer.echo(
        f"{counted(summary.num_frame_tars, 'tar')} of crops and {counted(summary.num_pair_shards, 'pair shard')} "
        f"are as their manifests say: {summary.num_members} members"
    )
    if summary.duplicates is None:
        return None
    where = "here" if against is None else f"here and in {against}"
    typer.echo(f"recordings that are {where} twice, as far as their faces tell: {len(summary.duplicates)}")
    for found in summary.duplicates:
        typer.echo(f"  {found}{'' if found.is_of_one_person else ': not known as one person, a split may part them'}")
    return None
