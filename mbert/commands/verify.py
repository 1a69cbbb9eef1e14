"""`mbert verify`: are tars what their manifests say?"""

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
    workspace: WorkspaceOption = DEFAULT_WORKSPACE, workers: WorkersOption = None, as_json: JsonOption = False
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
            workspace_of(workspace), engine=engine_of("local", workers), on_plan=progress.begin, on_tar=tell
        )
    if as_json:
        return print_json(summary)
    typer.echo(
        f"{counted(summary.num_frame_tars, 'tar')} of crops and {counted(summary.num_pair_shards, 'pair shard')} "
        f"are as their manifests say: {summary.num_members} members"
    )
