"""`mbert forget`: consent was withdrawn."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mbert import ConfigError, api
from mbert.commands.console import counted, print_some
from mbert.commands.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption, print_json, report_expired


def forget(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Videos, frame folders, or folders of them.", show_default=False)
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    subject: Annotated[
        list[str] | None, typer.Option(help="Forget all inputs that show this person; may be given several times.")
    ] = None,
    video: Annotated[
        list[str] | None, typer.Option(help="Forget the input with this video_id; may be given several times.")
    ] = None,
    expired: Annotated[
        bool, typer.Option("--expired", help="Forget all inputs whose retention_until in videos.csv has passed.")
    ] = False,
    predictions: Annotated[
        Path | None, typer.Option(help="Also remove them from this folder of `mbert predict`.")
    ] = None,
    lift: Annotated[
        bool, typer.Option("--lift", help="Allow the inputs at PATHS, forgotten earlier, to be ingested again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be removed, then stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove inputs from corpus, shards and runs for good, and keep them from being ingested again."""
    if lift:
        return _lift(paths, workspace, bool(subject or video or expired or predictions or dry_run), as_json)
    summary = api.forget(
        paths,
        workspace=workspace,
        subjects=subject,
        videos=video,
        expired=expired,
        predictions=predictions,
        dry_run=dry_run,
    )
    report_expired(workspace)
    return print_json(summary) if as_json else _print(summary)


def _lift(paths: list[Path] | None, workspace: Path, has_others: bool, as_json: bool) -> None:
    if not paths or has_others:
        raise ConfigError("--lift takes the paths of forgotten inputs, and no other option than --workspace and --json")
    count = api.lift(paths, workspace=workspace)
    if as_json:
        return typer.echo(f'{{"lifted": {count}}}')
    return typer.echo(f"{counted(count, 'input')} may be ingested again; next: mbert ingest FOLDER")


def _print(summary: Any) -> None:
    would = "would go" if summary.dry_run else "gone"
    typer.echo(
        f"{would}: {counted(len(summary.inputs), 'input')}, {counted(summary.num_clips, 'clip')}, "
        f"{counted(summary.num_crops, 'crop')}, {counted(summary.num_labels, 'label')}, "
        f"{counted(summary.num_pairs, 'pair')}"
    )
    print_some(list(summary.inputs), rest="all with --json")
    if summary.shown:
        typer.echo(f"who is named in them: {', '.join(summary.shown)}")
    for title, runs in (
        ("runs that have seen them:", summary.runs_seen),
        ("runs that may have seen them:", summary.runs_unsure),
        ("their checkpoints, marked in state.json:", summary.checkpoints),
        ("changed in runs:", summary.changed_files),
        ("predictions:", summary.predictions),
    ):
        if runs:
            typer.echo(title)
            print_some(list(runs), rest="all with --json")
    if summary.without_tombstone:
        typer.echo(
            f"{counted(summary.without_tombstone, 'input')} without content: nothing can keep it from being "
            "ingested again"
        )
    typer.echo("not covered:")
    print_some(list(summary.not_covered))
    if summary.dry_run:
        typer.echo(f"nothing was changed in {summary.workspace}; next: the same command without --dry-run")
    else:
        typer.echo(f"in {summary.workspace}; next: mbert verify")
