"""The location of a run's inputs, relative to its folder: a workspace may be moved or copied as a whole."""

import os
from pathlib import Path

from mbert.manifests.runs import RunLink
from mbert.shards.remote import is_url


def place_of(where: Path | str, run: Path) -> str:
    """A file or folder as a path relative to the run; a URL, or a path not on this disk, unchanged."""
    if is_url(str(where)) or not Path(where).exists():
        return str(where)
    try:
        return Path(os.path.relpath(Path(where).resolve(), run.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return str(Path(where).resolve())


def find_place(place: str, run: Path) -> Path | None:
    """Resolve what `place_of` wrote; None if it is not (or no longer) on this disk."""
    if is_url(place):
        return None
    found = Path(os.path.normpath(run.resolve() / place))
    return found if found.exists() else None


def linked_run(name: str, place: str | None, run: Path) -> RunLink:
    """A checkpoint that a run started from or scored, as the user named it, and the folder of its run."""
    found = find_place(place, run) if place else None
    folders = [] if found is None else [found, *found.parents[:2]]  # it may be RUN/checkpoints/last
    of_run = next((str(folder) for folder in folders if (folder / "metrics.jsonl").exists()), "")
    return RunLink(name=name, run=of_run)
