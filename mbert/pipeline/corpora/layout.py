"""Navigation of unpacked datasets: folders by name, the raw and the cropped tree, annotation files."""

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from mbert import ConfigError, ManifestError
from mbert.pipeline.corpora.sheet import SHEET_SUFFIXES
from mbert.pipeline.video.source import IMAGE_SUFFIXES, Distribution, followed, natural_order, suffix_of

_DEPTH = 3  # levels below the given folder at which a dataset may begin
_ENOUGH = 32  # a folder that starts with this many images and nothing else is a frame folder


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """The folder in which a distribution of a dataset begins."""

    folder: Path
    is_cropped: bool


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, in reading order; empty if it cannot be read. Hidden ones are left out."""
    try:
        with os.scandir(folder) as entries:
            found = [e.name for e in entries if not e.name.startswith(".") and followed(e).is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(found, key=natural_order)]


def folders_below(root: Path, depth: int = _DEPTH, *, beginning: Collection[Path] = ()) -> Iterator[Path]:
    """A folder and those below it, level by level, down to `depth` levels.

    Skips folders of frames, because reading millions of names is slow. Also skips everything inside the folders in
    `beginning`; the caller may add folders to it while iterating.
    """
    yield root
    level = [root]
    for _ in range(depth):
        inside = [child for folder in level if folder not in beginning for child in subfolders(folder)]
        level = [folder for folder in inside if not _is_of_frames(folder)]
        yield from level


def _is_of_frames(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, _ENOUGH)]
    except OSError:
        return False
    return len(names) == _ENOUGH and all(suffix_of(name) in IMAGE_SUFFIXES for name in names)


def first_image(folder: Path) -> str | None:
    """The name of any one image in a folder; None if there is none."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if suffix_of(entry.name) in IMAGE_SUFFIXES and not entry.name.startswith("."):
                    return entry.name
    except OSError:
        pass
    return None


def find_trees(root: Path, is_tree: Callable[[Path], bool], is_cropped: Callable[[Path], bool]) -> list[Tree]:
    """Every folder at which a dataset begins; the inside of one is not searched again."""
    found: dict[Path, Tree] = {}
    for folder in folders_below(root, beginning=found.keys()):
        if is_tree(folder):
            found[folder] = Tree(folder, is_cropped(folder))
    return list(found.values())


def choose_tree(
    trees: Sequence[Tree], distribution: Distribution, root: Path, title: str, layout: str
) -> tuple[Tree, tuple[str, ...]]:
    """The tree of the wanted distribution (raw before cropped), and notes for the user.

    Raises ConfigError if there is none; `layout` describes what is expected.
    """
    kinds = {"raw": False, "cropped": True}
    wanted = [tree for tree in trees if distribution == "auto" or tree.is_cropped == kinds[distribution]]
    if not wanted:
        other = f" (there is another distribution: {trees[0].folder})" if trees else ""
        which = "" if distribution == "auto" else f"{distribution} "
        raise ConfigError(f"{root} holds no {which}images of {title}{other}; looked for {layout}")
    chosen = min(wanted, key=lambda tree: tree.is_cropped)
    notes = [f"{title}: {'cropped' if chosen.is_cropped else 'raw'} images in {chosen.folder}"]
    left = [str(tree.folder) for tree in trees if tree is not chosen]
    if left:
        notes.append(f"{title}: not read, because samples must not count twice: {', '.join(left)}")
    return chosen, tuple(notes)


def find_annotation(root: Path, given: Path | None, patterns: Sequence[str], title: str) -> Path:
    """The annotation file: the given one, else the one in `root` (two levels deep) or next to it that matches.

    `patterns` are regular expressions for names, case-insensitive, preferred first. Raises ManifestError naming what
    was searched for.
    """
    if given is not None:
        return given
    found = search_annotation(root, patterns)
    if found is None:
        raise ManifestError(
            f"the annotation file of {title} is neither in {root} nor next to it; its name is like "
            f"{' or '.join(pattern.replace(chr(92), '') for pattern in patterns)}: give it with --labels FILE "
            "(or ingest the images without labels: --dataset videos)"
        )
    return found


def search_annotation(root: Path, patterns: Sequence[str]) -> Path | None:
    """As `find_annotation`; None if there is none."""
    files = [file for folder in (*folders_below(root, 2), root.parent) for file in _sheets(folder)]
    for pattern in patterns:
        for file in files:
            if re.fullmatch(pattern, file.name, re.IGNORECASE):
                return file
    return None


def _sheets(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if suffix_of(entry.name) in SHEET_SUFFIXES)
    except OSError:
        return
    yield from (folder / name for name in names if not name.startswith((".", "~$")))


def matched(name: str) -> str:
    """The form in which folder names and annotated names are compared: case and spaces vary within a dataset."""
    return re.sub(r"\s+", "", name.casefold())


def by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders by the compared form of their names."""
    return {matched(folder.name): folder for folder in folders}
