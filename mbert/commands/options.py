"""How a command gets its options from a function of the API, and what several commands share."""

import dataclasses
import functools
import inspect
import json
import shlex
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.models import ParameterInfo

from mbert.api import is_first_process

if TYPE_CHECKING:
    from mbert.manifests.workspace import Workspace

DEFAULT_WORKSPACE = Path("workspace")
_TELL_THEMSELVES = ("ingest", "forget")  # after their work


def report_expired(workspace: Path) -> None:
    """Print one line to stderr if a corpus has inputs that may no longer be kept."""
    videos = workspace / "corpus" / "videos.parquet"
    if not videos.exists() or not is_first_process():  # before anything heavy is loaded
        return
    from mbert import ManifestError
    from mbert.manifests.labels.provenance import expired

    try:
        rows = expired(videos)
    except ManifestError:  # the command reports what is wrong
        return
    if rows:
        what = f"--video {rows[0].video_id}" if len(rows) == 1 else "--expired"
        where = "" if workspace == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(str(workspace))}"
        until = min(row.retention_until or "" for row in rows)
        typer.secho(
            f"retention_until has passed for {len(rows)} input{'s' * (len(rows) > 1)} ({until} is the first): "
            f"mbert forget {what}{where}",
            fg="yellow",
            err=True,
        )


def _opened(context: typer.Context, workspace: Path) -> Path:
    if not context.resilient_parsing and context.info_name not in _TELL_THEMSELVES:
        report_expired(workspace)
    return workspace


WorkspaceOption = Annotated[
    Path,
    typer.Option(
        "--workspace", "-w", envvar="MBERT_WORKSPACE", callback=_opened, help="Folder that the commands share."
    ),
]
WorkspaceArgument = Annotated[
    Path, typer.Argument(envvar="MBERT_WORKSPACE", callback=_opened, help="Folder that the commands share.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Number of worker processes.", show_default="one per core")
]
FpsOption = Annotated[
    float | None,
    typer.Option(
        help="Frame rate of frame folders; video files carry their own.", show_default="the times in the names, else 30"
    ),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        help="True frame rate of video files, e.g. 240 for slow motion that plays at 30.", show_default="from the file"
    ),
]
BitDepthOption = Annotated[
    int | None,
    typer.Option(
        min=8,
        max=16,
        help="Bits in use in images that are padded to 16.",
        show_default="the fewest that hold the whole folder",
    ),
]
EngineOption = Annotated[
    Literal["local", "ray"], typer.Option(help="Run on this machine, or on a Ray cluster (needs mbert[ray]).")
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster.", show_default="RAY_ADDRESS, else a cluster on this machine"),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Random seed.")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(exists=True, help="Checkpoint or run.", show_default="WORKSPACE/runs/pretrain, else built in"),
]
ExpressionsOption = Annotated[
    str | None,
    typer.Option(
        "--shards",
        help="Shards of the onset-apex pairs: a folder, a URL or a brace pattern.",
        show_default="WORKSPACE/shards/expressions",
    ),
]
AnnotationsOption = Annotated[
    str | None,
    typer.Option(
        "--labels", help="Annotations: a labels.parquet, or its URL.", show_default="WORKSPACE/corpus/labels.parquet"
    ),
]
CacheOption = Annotated[
    Path | None, typer.Option(help="Folder for copies of remote shards.", show_default="none: read ranges")
]


def workspace_of(path: Path) -> "Workspace":
    """The workspace in a folder."""
    from mbert.manifests.workspace import Workspace

    return Workspace(path)


def print_json(summary: Any) -> None:
    """A summary as one JSON object on stdout."""
    typer.echo(json.dumps(dataclasses.asdict(summary)))


def print_next(where: str, command: str) -> None:
    """The last line of a summary: where things are, and the next command."""
    typer.echo(f"in {where}; next: {command}")


def print_page(page: str | None, run: str) -> None:
    """Print where the page of a run is, or how to find out why there is none."""
    if page is not None:
        return typer.echo(f"open {page}")
    return typer.secho(f"no page could be written; mbert report {shlex.quote(run)} says why", fg="yellow")


def listed(text: str | None) -> tuple[str, ...] | None:
    """The comma-separated parts of an option."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def options_of(function: Callable[..., Any], **texts: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of a function of the API: names, types and defaults are only defined there.

    `texts` has the rest of each option: a help text, a typer.Option or Argument, or these with another type in
    Annotated. The command gets all values of these options in a dictionary, as its first argument. Options with several
    words take them separated by commas.
    """
    found = inspect.signature(function).parameters.items()
    wanted = {name: parameter for name, parameter in found if not name.startswith("on_")}
    if texts.keys() != wanted.keys():
        raise TypeError(f"{function.__name__}: texts and options differ in {texts.keys() ^ wanted.keys()}")
    several = {name for name, parameter in wanted.items() if Sequence[str] in typing.get_args(parameter.annotation)}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = list(inspect.signature(command).parameters.values())[1:]

        @functools.wraps(command)
        def run(**values: Any) -> Any:
            options = {name: values.pop(name) for name in wanted}
            for name in several:
                if isinstance(options[name], str):
                    options[name] = listed(options[name])
            return command(options, **values)

        of_api = [
            parameter.replace(annotation=_annotated(parameter.annotation, texts[name]), kind=parameter.KEYWORD_ONLY)
            for name, parameter in wanted.items()
        ]
        of_command = [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in own]
        run.__signature__ = inspect.Signature([*of_api, *of_command])  # type: ignore[attr-defined]
        run.__annotations__ = {}
        return run

    return decorate


def _annotated(annotation: Any, text: Any) -> Any:
    """The type of an option on the command line, and its text."""
    if typing.get_origin(text) is Annotated:
        return text
    info = text if isinstance(text, ParameterInfo) else typer.Option(help=text)
    parts = typing.get_args(annotation) or (annotation,)
    shown: Any = annotation
    if Mapping[str, Any] in parts:
        shown = list[str]
    elif Sequence[str] in parts or {int, str} <= set(parts):
        shown = str
    elif Path in parts:
        shown = Path
    return Annotated[shown | None if type(None) in parts and shown is not annotation else shown, info]
