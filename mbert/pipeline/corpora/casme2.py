"""CASME II: `sub01/EP02_01f/img46.jpg` (raw) or `reg_img46.jpg` (cropped), 200 frames per second.

The sheet (CASME2-coding-*.xlsx) names subjects `01`, as text in one edition and as a number in another, and a missing
apex with a slash. Clip names recur across subjects.
"""

import re
from pathlib import Path

from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import choose_tree, find_annotation
from mbert.pipeline.corpora.people import PeopleLayout, sub_number
from mbert.pipeline.corpora.sheet import read_sheet
from mbert.pipeline.video.source import Corpus, Distribution, Listing

_TITLE = "CASME II"
_FPS = 200.0
_LAYOUT = "sub01/EP02_01f/img46.jpg or reg_img46.jpg"
_SHEETS = (r"CASME2[-_ ]coding.*\.xlsx?", r"CASME2.*label.*\.xlsx?", r"CASME2.*\.csv")
_FOLDERS = PeopleLayout(
    subject=sub_number,
    clip=re.compile(r"EP.*", re.IGNORECASE),
    image=re.compile(r"(reg_)?img\d+\.\w+", re.IGNORECASE),
)


def _recognise(root: Path) -> str | None:
    trees = _FOLDERS.trees(root)
    return f"{trees[0].folder} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    tree, notes = choose_tree(_FOLDERS.trees(root), distribution, root, _TITLE, _LAYOUT)
    annotation = find_annotation(root, annotation, _SHEETS, _TITLE)
    people = _FOLDERS.people(tree)
    labels = []
    for row in read_sheet(annotation, ("Subject", "Filename", "OnsetFrame", "OffsetFrame")):
        name, subject = row.text("Filename"), sub_number(row.text("Subject") or "")
        if name is None or subject is None:
            continue  # a remark below the table
        labels.append(
            Label(
                line=row.line,
                path=relative_path(root, people.folder(subject, name)),
                dataset="casme2",
                subject=Subject("casme2", subject),
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
    return Listing(
        root=root,
        sources=people.sources(root, "casme2", _FPS),
        labels=tuple(labels),
        annotations=(annotation,),
        notes=notes,
    )


CORPUS = Corpus(name="casme2", title=_TITLE, recognise=_recognise, read=_read)
