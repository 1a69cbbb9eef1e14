"""Options and small pieces that several commands share."""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from mbert.manifests.workspace import Workspace

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", envvar="MBERT_WORKSPACE", help="Folder that the commands share.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Number of worker processes.", show_default="one per core")
]
EngineOption = Annotated[
    Literal["local", "ray"], typer.Option(help="Run on this machine, or on a Ray cluster (needs the ray extra).")
]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Address of the Ray cluster.", show_default="RAY_ADDRESS, else a cluster of this machine"),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Random seed.")]
CheckpointOption = Annotated[
    Path | None, typer.Option(exists=True, help="Checkpoint or run.", show_default="WORKSPACE/runs/pretrain")
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
DEFAULT_WORKSPACE = Path("workspace")


def workspace_of(path: Path) -> "Workspace":
    """The workspace in a folder."""
    from mbert.manifests.workspace import Workspace

    return Workspace(path)


def is_first_process() -> bool:
    """Of those that torchrun started; the others work and are silent."""
    return os.environ.get("RANK", "0") == "0"


def print_json(summary: Any) -> None:
    """A summary as one JSON object on stdout."""
    typer.echo(json.dumps(dataclasses.asdict(summary)))


def print_next(where: str, command: str) -> None:
    """The last line of a summary: where things are, and the next command."""
    typer.echo(f"in {where}; next: {command}")


def listed(text: str | None) -> tuple[str, ...] | None:
    """The parts of an option that takes several by commas."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())
