"""4DME, micro-expressions of the gray camera: `gray_micro/<sub_ID>/<fold_name>/*.jpg`, crops in `gray_micro_crop`.

60 frames per second. The sheet (4DME_Labelling_Micro_release v1.xlsx) writes mixed emotions as `Surprise+Positive` and
action units that do not move as `AU4(k)`; both stay as annotated. Only the folders above are known, not the long
videos nor the other cameras.
"""

import re
from pathlib import Path

from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import (
    Tree,
    choose_tree,
    find_annotation,
    find_trees,
    matched,
    subfolders,
)
from mbert.pipeline.corpora.sheet import read_sheet
from mbert.pipeline.video.source import Corpus, Distribution, Listing, frames_source

_TITLE = "4DME"
_FPS = 60.0
_LAYOUT = "gray_micro/<sub_ID>/<fold_name>/ or gray_micro_crop/<sub_ID>/<fold_name>/"
_SHEETS = (r"4DME.*micro.*release.*\.xlsx?", r"4DME.*label.*\.xlsx?", r"4DME.*\.csv")
_TREE = re.compile(r"gr[ae]y[-_ ]?micro([-_ ]?crop(ped)?)?", re.IGNORECASE)


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{trees[0].folder} is named like those of {_TITLE}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    tree, notes = choose_tree(_trees(root), distribution, root, _TITLE, _LAYOUT)
    annotation = find_annotation(root, annotation, _SHEETS, _TITLE)
    people = {_subject(folder.name): folder for folder in subfolders(tree.folder)}
    clips = {
        (_subject(person.name), matched(clip.name)): clip
        for person in subfolders(tree.folder)
        for clip in subfolders(person)
    }
    sources = [frames_source(root, folder, "4dme", subject=subject, fps=_FPS) for (subject, _), folder in clips.items()]
    labels = []
    for row in read_sheet(annotation, ("sub_ID", "fold_name", "Onset", "Apex", "Offset")):
        person, name = row.text("sub_ID"), row.text("fold_name")
        if person is None or name is None:
            continue  # sums below the table
        subject = _subject(person)
        folder = clips.get((subject, matched(name)), people.get(subject, tree.folder / person) / name)
        labels.append(
            Label(
                line=row.line,
                path=relative_path(root, folder),
                dataset="4dme",
                subject=subject,
                sample=name,
                onset=row.number("Onset"),
                apex=row.number("Apex"),
                offset=row.number("Offset"),
                emotion=row.text("Emotion"),
                action_units=row.text("AUs"),
                fault=row.fault,
            )
        )
    return Listing(root=root, sources=tuple(sources), labels=tuple(labels), annotations=(annotation,), notes=notes)


def _trees(root: Path) -> list[Tree]:
    return find_trees(
        root,
        lambda folder: _TREE.fullmatch(folder.name) is not None and bool(subfolders(folder)),
        lambda folder: "crop" in folder.name.casefold(),
    )


def _subject(text: str) -> Subject:
    """`4dme/01` for `sub01`, `01` or `1`; other names are only converted to lower case."""
    found = re.fullmatch(r"(?:sub|s)?[-_ ]*0*(\d+)", text.strip(), re.IGNORECASE)
    return Subject("4dme", f"{int(found[1]):02d}" if found else matched(text))


CORPUS = Corpus(name="4dme", title=_TITLE, recognise=_recognise, read=_read)
