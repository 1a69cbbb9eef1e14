"""`mbert report`: pages of runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mbert import api
from mbert.commands.console import Progress, counted, print_some
from mbert.commands.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption, print_json

if TYPE_CHECKING:
    from mbert.run_report import ReportSummary


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Runs, by name or folder, or folders of runs.", show_default="all runs of the workspace"),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write, or a folder for report.html.", show_default="report.html next to the runs"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a page about a run: losses, pictures, scores, errors; of several runs also a table that compares them."""
    with Progress("report") as progress:
        at = 0

        def tell(name: str, done: int, total: int) -> None:
            nonlocal at
            if not done:
                progress.begin(total)
            progress.advance(done - at, f"{done}/{total} {name}")
            at = done

        summary = api.report(runs, workspace=workspace, out=out, on_run=tell)
    if as_json:
        print_json(summary)
    else:
        _print(summary)
    if summary.num_failed == len(summary.runs):
        raise typer.Exit(1)


def _print(summary: "ReportSummary") -> None:
    done = len(summary.runs) - summary.num_failed
    typer.echo(f"{counted(done, 'run')} in {summary.seconds:.1f} s")
    if summary.num_failed:
        typer.echo("without a page:")
        print_some([f"{run.run}: {run.reason}" for run in summary.runs if run.page is None], rest="see the page")
    typer.echo(f"open {summary.page}")
