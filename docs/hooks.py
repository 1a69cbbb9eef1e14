"""What the site has besides the pages in docs/: references made from the code, and files from other folders.

A link is written as it works in the repository; on the site it leads to the page made from the same file.
"""

import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from mbert.cli import app
from mbert.manifests.schema import SCHEMA_VERSION, ClipRow, FrameRow, LabelRow, PairRow, TruthRow, VideoRow

ROOT = Path(__file__).parents[1]
ELSEWHERE = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").iterdir() if path.is_file()),
    "mbert/weights/README.md",
)
ROWS = {
    VideoRow: "A row of `corpus/videos.parquet`",
    ClipRow: "A row of `corpus/clips.parquet`, and of `clips.parquet` of a set of pairs",
    LabelRow: "A row of `corpus/labels.parquet`",
    FrameRow: "A row of `corpus/frames/*.parquet`",
    PairRow: "A row of `shards/pairs/*.parquet` and `shards/expressions/*.parquet`",
    TruthRow: "A row of `truth.parquet`, which `mbert synthesize` writes",
}
_FIELD = re.compile(r"^    (\w+): ([^=#\n]+?)(?: = [^#\n]+?)?(?:  # (.*))?$", re.MULTILINE)
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def on_files(files: Any, *, config: Any) -> None:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "commands.md", content=command_reference()))
    files.append(File.generated(config, "columns.md", content=column_reference()))
    for path in ELSEWHERE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    source = here if here in ELSEWHERE else f"docs/{here}"

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    parts = _FENCE.split(markdown)  # text, block, text, ...
    parts[::2] = [_LINK.sub(on_site, text) for text in parts[::2]]
    return "".join(parts)


def command_reference() -> str:
    """Markdown with each command's help, arguments and options, made from the commands themselves."""
    parts = [
        "# Commands",
        "This page is made from the commands. `mbert COMMAND --help` prints the same in a terminal. With `--json` a "
        "command prints its summary as one JSON object on stdout; progress and errors go to stderr. "
        "Exit code 0: done; 1: an error; 2: wrong usage; 130: interrupted, run it again to resume.",
    ]
    for name, command in commands(typer.main.get_command(app), "mbert"):
        parts += [f"## `{name}`", str(command.help), *_table(command, name)]
    return "\n\n".join(parts) + "\n"


def column_reference() -> str:
    """Markdown with the columns of every manifest, made from the row classes and the comments on their fields."""
    parts = [
        "# Columns",
        f"This page is made from the row classes in `mbert/manifests/schema.py`, version {SCHEMA_VERSION}. "
        "[Architecture](architecture.md#data-contracts) has what holds for all of them.",
    ]
    for row, where in ROWS.items():
        fields = [(name, kind, comment or "") for name, kind, comment in _FIELD.findall(inspect.getsource(row))]
        lines = [f"| `{name}` | `{kind}` | {_escaped(comment)} |" for name, kind, comment in fields]
        parts += [f"## `{row.__name__}`", f"{where}. {inspect.cleandoc(row.__doc__ or '')}"]
        parts.append("\n".join(["| column | type | |", "|---|---|---|", *lines]))
    return "\n\n".join(parts) + "\n"


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands below a group, in the order of `--help`; a group that does something itself is one too."""
    below = getattr(command, "commands", {})
    if not below or getattr(command, "invoke_without_command", False):
        yield name, command
    for word, sub in below.items():
        yield from commands(sub, f"{name} {word}")


def _table(command: Any, name: str) -> list[str]:
    """Of the records that `--help` is made from: usage, then a row for each argument and option."""
    context = command.context_class(command, info_name=name)
    records = [param.get_help_record(context) for param in command.params if not param.hidden]
    rows = [f"| `{words}` | {_escaped(text)} |" for words, text in filter(None, records)]
    usage = " ".join(command.get_usage(context).split()).removeprefix("Usage: ")
    return [f"`{usage}`", "\n".join(["| | |", "|---|---|", *rows])]


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
