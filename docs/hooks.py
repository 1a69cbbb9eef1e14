"""What the site has besides the pages in docs/: the reference of the commands, and files from other folders.

A link is written as it works in the repository; on the site it leads to the page made from the same file.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from mbert.cli import app

ROOT = Path(__file__).parents[1]
ELSEWHERE = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").iterdir() if path.is_file()),
    "mbert/weights/README.md",
)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def on_files(files: Any, *, config: Any) -> None:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "commands.md", content=command_reference()))
    for path in ELSEWHERE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    source = here if here in ELSEWHERE else f"docs/{here}"

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    return _LINK.sub(on_site, markdown)


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
