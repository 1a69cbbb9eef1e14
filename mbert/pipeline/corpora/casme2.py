"""CASME II: `sub01/EP02_01f/img46.jpg` (raw) or `reg_img46.jpg` (cropped), 200 frames per second.

The sheet (CASME2-coding-*.xlsx) names subjects `01`, as text in one edition and as a number in another, and a missing
apex with a slash. Clip names recur across subjects.
"""

import re
from pathlib import Path

from mbert.manifests.labels import Label
from mbert.pipeline.corpora.layout import (
    Tree,
    by_name,
    choose_tree,
    find_annotation,
    find_trees,
    first_image,
    matched,
    subfolders,
)
from mbert.pipeline.corpora.sheet import read_sheet
from mbert.pipeline.corpora.source import Corpus, Distribution, Listing, frames_source, relative_path

_TITLE = "CASME II"
_FPS = 200.0
_LAYOUT = "sub01/EP02_01f/img46.jpg or reg_img46.jpg"
_SHEETS = (r"CASME2[-_ ]coding.*\.xlsx?", r"CASME2.*label.*\.xlsx?", r"CASME2.*\.csv")
_SUBJECT = re.compile(r"sub\s*0*(\d+)", re.IGNORECASE)
_IMAGE = re.compile(r"(reg_)?img\d+\.\w+", re.IGNORECASE)


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{trees[0].folder} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    tree, notes = choose_tree(_trees(root), distribution, root, _TITLE, _LAYOUT)
    annotation = find_annotation(root, annotation, _SHEETS, _TITLE)
    people = {name: folder for folder in subfolders(tree.folder) if (name := _subject(folder.name))}
    clips = {name: by_name(subfolders(folder)) for name, folder in people.items()}
    sources = [
        frames_source(root, folder, "casme2", subject=f"casme2/{subject}", fps=_FPS)
        for subject, folders in clips.items()
        for folder in folders.values()
    ]
    labels = []
    for row in read_sheet(annotation, ("Subject", "Filename", "OnsetFrame", "OffsetFrame")):
        name, subject = row.text("Filename"), _subject(row.text("Subject") or "")
        if name is None or subject is None:
            continue  # a remark below the table
        expected = people.get(subject, tree.folder / subject) / name
        folder = clips.get(subject, {}).get(matched(name), expected)
        labels.append(
            Label(
                line=row.line,
                path=relative_path(root, folder),
                dataset="casme2",
                subject=f"casme2/{subject}",
                sample=name,
                onset=row.number("OnsetFrame"),
                apex=row.number("ApexFrame"),
                offset=row.number("OffsetFrame"),
                emotion=row.text("Estimated Emotion"),
                action_units=row.text("Action Units"),
                objective_class=row.text("Objective Class", "Objective Classes"),
                fault=row.fault,
            )
        )
    return Listing(root=root, sources=tuple(sources), labels=tuple(labels), annotations=(annotation,), notes=notes)


def _trees(root: Path) -> list[Tree]:
    return find_trees(root, _is_tree, lambda folder: (_some_image(folder) or "").casefold().startswith("reg_"))


def _is_tree(folder: Path) -> bool:
    return _IMAGE.fullmatch(_some_image(folder) or "") is not None


def _some_image(folder: Path) -> str | None:
    """An image of the first clip of the first subject, if the folder holds subjects."""
    for subject in subfolders(folder):
        if _SUBJECT.fullmatch(subject.name):
            return next((name for clip in subfolders(subject) if (name := first_image(clip))), None)
    return None


def _subject(text: str) -> str | None:
    """`sub01` of `sub01`, `01` or `1`."""
    found = re.fullmatch(r"(?:sub)?\s*0*(\d+)", text.strip(), re.IGNORECASE)
    return f"sub{int(found[1]):02d}" if found else None


CORPUS = Corpus(name="casme2", title=_TITLE, recognise=_recognise, read=_read)
