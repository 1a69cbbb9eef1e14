"""SAMM: `006/006_1_2/006_05562.jpg`, gray, 200 frames per second; image numbers have four or five digits.

The sheet (SAMM_Micro_FACS_Codes*.xlsx) begins with a preamble, and names subjects `006`, as text or as a number.
"""

import re
from pathlib import Path

from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import choose_tree, find_annotation
from mbert.pipeline.corpora.people import PeopleLayout
from mbert.pipeline.corpora.sheet import SheetRow, read_sheet
from mbert.pipeline.video.source import Corpus, Distribution, Listing

FPS = 200.0
SHEETS = (r"SAMM_Micro_FACS_Codes.*\.xlsx?", r"SAMM_20.*\.xlsx?", r"SAMM.*Micro.*\.csv")
_TITLE = "SAMM"
_LAYOUT = "006/006_1_2/006_05562.jpg"


def subject_of(text: str) -> str | None:
    """`006` for `006` or `6`."""
    text = text.strip()
    return f"{int(text):03d}" if re.fullmatch(r"\d{1,3}", text, re.ASCII) else None


def read_rows(annotation: Path) -> list[SheetRow]:
    """The rows of the sheet of micro-expressions. Raises ManifestError as `read_sheet` does."""
    return read_sheet(annotation, ("Subject", "Filename", "Onset Frame", "Offset Frame", "Estimated Emotion"))


_FOLDERS = PeopleLayout(subject=subject_of, clip=re.compile(r"\d{1,3}_\d+_\d+"), image=re.compile(r"\d{1,3}_\d+\.\w+"))


def _recognise(root: Path) -> str | None:
    trees = _FOLDERS.trees(root)
    return f"{trees[0].folder} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    tree, notes = choose_tree(_FOLDERS.trees(root), distribution, root, _TITLE, _LAYOUT)
    annotation = find_annotation(root, annotation, SHEETS, _TITLE)
    people = _FOLDERS.people(tree)
    labels = []
    for row in read_rows(annotation):
        name, subject = row.text("Filename"), subject_of(row.text("Subject") or "")
        if name is None or subject is None:
            continue  # a remark below the table
        labels.append(
            Label(
                line=row.line,
                path=relative_path(root, people.folder(subject, name)),
                dataset="samm",
                subject=Subject("samm", subject),
                sample=name,
                onset=row.number("Onset Frame"),
                apex=row.number("Apex Frame"),
                offset=row.number("Offset Frame"),
                emotion=row.text("Estimated Emotion"),
                action_units=row.text("Action Units"),
                objective_class=row.text("Objective Classes", "Objective Class"),
                fault=row.fault,
            )
        )
    return Listing(
        root=root,
        sources=people.sources(root, "samm", FPS),
        labels=tuple(labels),
        annotations=(annotation,),
        notes=notes,
    )


CORPUS = Corpus(name="samm", title=_TITLE, recognise=_recognise, read=_read)
