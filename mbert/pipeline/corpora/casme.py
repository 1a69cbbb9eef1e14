"""CASME: `sub01/EP01_5/EP01_5-113.jpg` (raw) or `reg_EP01_5-113.jpg` (cropped), 60 frames per second.

Image numbers have three digits in some clips and no padding in others. The sheet (casme.xlsx) has two columns for the
apex: the first counts, the second only where the first is empty.
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

_TITLE = "CASME"
_FPS = 60.0
_LAYOUT = "sub01/EP01_5/EP01_5-113.jpg or reg_EP01_5-113.jpg"
_SHEETS = (r"casme\.xlsx?", r"casme[-_ ]coding.*\.xlsx?", r"casme\.csv")
_FOLDERS = PeopleLayout(
    subject=sub_number,
    clip=re.compile(r"EP.*", re.IGNORECASE),
    image=re.compile(r"(reg_)?(EP\w+-)?\d+\.\w+", re.IGNORECASE),
)


def _recognise(root: Path) -> str | None:
    trees = _FOLDERS.trees(root)
    return f"{trees[0].folder} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    tree, notes = choose_tree(_FOLDERS.trees(root), distribution, root, _TITLE, _LAYOUT)
    annotation = find_annotation(root, annotation, _SHEETS, _TITLE)
    people = _FOLDERS.people(tree)
    labels = []
    for row in read_sheet(annotation, ("Subject", "Filename", "OnsetF", ("ApexF1", "ApexF"), "OffsetF")):
        name, subject = row.text("Filename"), sub_number(row.text("Subject") or "")
        if name is None or subject is None:
            continue  # a remark below the table
        apex = row.number("ApexF1", "ApexF")
        labels.append(
            Label(
                line=row.line,
                path=relative_path(root, people.folder(subject, name)),
                dataset="casme",
                subject=Subject("casme", subject),
                sample=name,
                onset=row.number("OnsetF"),
                apex=row.number("ApexF2") if apex is None else apex,
                offset=row.number("OffsetF"),
                emotion=row.text("Emotion", "Estimated Emotion"),
                action_units=row.text("AU", "AUs", "Action Units"),
                fault=row.fault,
            )
        )
    return Listing(
        root=root,
        sources=people.sources(root, "casme", _FPS),
        labels=tuple(labels),
        annotations=(annotation,),
        notes=notes,
    )


CORPUS = Corpus(name="casme", title=_TITLE, recognise=_recognise, read=_read)
