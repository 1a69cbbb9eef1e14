"""DFME: `sub0003_01/00109.png` in one folder for each split, whose names do not matter.

Each split has its own sheet (training_full_with_AU.xlsx, testA..., testB...). Clips were recorded at 200, 300 or 500
frames per second, as given in the sheets only. Frames count from 0.
"""

import re
from collections import Counter
from pathlib import Path

from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import (
    Tree,
    choose_tree,
    find_annotation,
    find_trees,
    first_image,
    matched,
    search_annotation,
    subfolders,
)
from mbert.pipeline.corpora.sheet import read_sheet
from mbert.pipeline.video.source import Corpus, Distribution, Listing, frames_source

_TITLE = "DFME"
_LAYOUT = "sub0003_01/00109.png"
_SHEETS = (r"train.*AU.*\.xlsx?", r"test_?A.*AU.*\.xlsx?", r"test_?B.*AU.*\.xlsx?")
_CLIP = re.compile(r"sub(\d{4})_\d+", re.IGNORECASE)


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{trees[0].folder} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    trees = _trees(root)
    choose_tree(trees, distribution, root, _TITLE, _LAYOUT)  # raises if there is none
    clips, notes = _clips(trees)
    found = [annotation] if annotation else [search_annotation(root, (pattern,)) for pattern in _SHEETS]
    sheets = [sheet for sheet in found if sheet] or [find_annotation(root, None, _SHEETS, _TITLE)]
    labels = []
    fps: dict[str, float] = {}
    for sheet in sheets:
        rows = [
            (row, name, subject)
            for row in read_sheet(sheet, ("Subject", "Filename", "OnsetFrame", "OffsetFrame", "Fps"))
            if (name := row.text("Filename")) and (subject := _subject(row.text("Subject") or ""))
        ]
        # A clip that is missing is expected where most of its sheet's clips are.
        homes = Counter(clips[matched(name)].parent for _, name, _ in rows if matched(name) in clips)
        home = max(homes, key=lambda folder: homes[folder], default=trees[0].folder)
        for row, name, subject in rows:
            if rate := row.number("Fps"):
                fps[matched(name)] = float(rate)
            labels.append(
                Label(
                    line=row.line,
                    path=relative_path(root, clips.get(matched(name), home / name)),
                    dataset="dfme",
                    subject=subject,
                    sample=name,
                    onset=row.number("OnsetFrame"),
                    apex=row.number("ApexFrame"),
                    offset=row.number("OffsetFrame"),
                    emotion=row.text("Emotion"),
                    action_units=row.text("AU"),
                    fault=row.fault,
                )
            )
    sources = [
        frames_source(root, folder, "dfme", subject=_subject(folder.name.split("_")[0]), fps=fps.get(name))
        for name, folder in clips.items()
    ]
    if unknown := sum(source.fps is None for source in sources):
        notes.append(f"{_TITLE}: no sheet has the frame rate of {unknown} clips; they are read as any frame folder")
    return Listing(
        root=root, sources=tuple(sources), labels=tuple(labels), annotations=tuple(sheets), notes=tuple(notes)
    )


def _clips(trees: list[Tree]) -> tuple[dict[str, Path], list[str]]:
    """The folders of all splits by name, and notes. Of duplicate clips, the first counts."""
    clips: dict[str, Path] = {}
    twice: Counter[Path] = Counter()
    for tree in trees:
        for folder in subfolders(tree.folder):
            if clips.setdefault(matched(folder.name), folder) != folder:
                twice[tree.folder] += 1
    return clips, [f"{_TITLE}: images in {', '.join(str(tree.folder) for tree in trees)}"] + [
        f"{_TITLE}: {count} clips in {folder} not read, because they are in another folder too"
        for folder, count in twice.items()
    ]


def _trees(root: Path) -> list[Tree]:
    return find_trees(root, _is_tree, lambda folder: False)


def _is_tree(folder: Path) -> bool:
    clips = (clip for clip in subfolders(folder) if _CLIP.fullmatch(clip.name))
    image = next((name for clip in clips if (name := first_image(clip))), "")
    return re.fullmatch(r"\d+\.png", image, re.IGNORECASE) is not None


def _subject(text: str) -> Subject | None:
    """`dfme/sub0003` for `sub0003`, `0003` or `3`."""
    found = re.fullmatch(r"(?:sub)?\s*0*(\d+)", text.strip(), re.IGNORECASE)
    return Subject("dfme", f"sub{int(found[1]):04d}") if found else None


CORPUS = Corpus(name="dfme", title=_TITLE, recognise=_recognise, read=_read)
