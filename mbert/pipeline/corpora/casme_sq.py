"""CAS(ME)^2: `rawpic/s15/15_0101disgustingteeth/img001.jpg` or the same in `cropped`, 30 frames per second.

Whole videos with micro- and macro-expressions. The workbook (CAS(ME)^2code_final.xlsx) has no header. Its first sheet
lists the expressions, by person number and video name; the second maps a number to its folder (`s15`), the third maps a
name to its code (`0101`). Folders are found by these two alone, because one lies in another person's folder with its
own person's number in its name.
"""

import re
from pathlib import Path

from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import Tree, choose_tree, find_annotation, find_trees, first_image, subfolders
from mbert.pipeline.corpora.sheet import columns_by_place
from mbert.pipeline.video.source import Corpus, Distribution, Listing, frames_source

_TITLE = "CAS(ME)^2"
_FPS = 30.0
_LAYOUT = "s15/15_0101disgustingteeth/img001.jpg"
_SHEETS = (r"(CAS\(ME\)\^?2)?[ _-]?code[ _-]?final.*\.xlsx?",)
_COLUMNS = ("subject", "video", "onset", "apex", "offset", "au", "emotion", "type", "self report")
_SUBJECT = re.compile(r"s\s*0*(\d+)", re.IGNORECASE)
_VIDEO = re.compile(r"\d+_(\d{4})\D.*")
_IMAGE = re.compile(r"img_?\d+\.\w+", re.IGNORECASE)


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{trees[0].folder} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    tree, notes = choose_tree(_trees(root), distribution, root, _TITLE, _LAYOUT)
    annotation = find_annotation(root, annotation, _SHEETS, _TITLE)
    people = {name: folder for folder in subfolders(tree.folder) if (name := _subject(folder.name))}
    videos = [(name, video) for name, folder in people.items() for video in subfolders(folder)]
    folders = {(name, found[1]): video for name, video in videos if (found := _VIDEO.fullmatch(video.name))}
    sources = [
        frames_source(root, video, "casme_sq", subject=Subject("casme_sq", name), fps=_FPS) for name, video in videos
    ]
    subjects = {
        row.text("number"): _subject(row.text("folder") or "")
        for row in columns_by_place(annotation, 1, ("person", "folder", "number"))
    }
    codes = {
        row.text("name"): (row.text("code") or "").zfill(4) for row in columns_by_place(annotation, 2, ("code", "name"))
    }
    labels = []
    for row in columns_by_place(annotation, 0, _COLUMNS):
        number, sample = row.text("subject"), row.text("video")
        if number is None or sample is None:
            continue  # a remark below the table
        subject, code = subjects.get(number), codes.get(sample.partition("_")[0])
        if subject is None:
            row.faults.append(f"the second sheet has no folder for the subject {number!r}")
        if code is None:
            row.faults.append(f"the third sheet has no code for the video {sample!r}")
        person = subject or number
        expected = people.get(person, tree.folder / person) / f"{person.removeprefix('s')}_{code or sample}"
        folder = folders.get((person, code or ""), expected)
        onset, apex, offset = (row.number(name) for name in ("onset", "apex", "offset"))
        labels.append(
            Label(
                line=row.line,
                path=relative_path(root, folder),
                dataset="casme_sq",
                subject=Subject("casme_sq", subject) if subject else None,
                sample=f"{sample}_{onset}",
                onset=onset,
                apex=apex,
                offset=apex if offset == 0 else offset,  # how an expression without an offset is written
                emotion=row.text("emotion"),
                action_units=row.text("au"),
                expression="macro" if (row.text("type") or "").casefold().startswith("macro") else "micro",
                fault=row.fault,
            )
        )
    return Listing(root=root, sources=tuple(sources), labels=tuple(labels), annotations=(annotation,), notes=notes)


def _trees(root: Path) -> list[Tree]:
    return find_trees(root, _is_tree, lambda folder: "crop" in folder.name.casefold())


def _is_tree(folder: Path) -> bool:
    """Folders of `selectedpic`, which repeats parts of the videos, are not."""
    if "selected" in folder.name.casefold():
        return False
    for subject in subfolders(folder):
        if _SUBJECT.fullmatch(subject.name):
            videos = [video for video in subfolders(subject) if _VIDEO.fullmatch(video.name)]
            if any(_IMAGE.fullmatch(first_image(video) or "") for video in videos):
                return True
    return False


def _subject(text: str) -> str | None:
    """`s15` for `s15`; the sheet of subjects uses the same form."""
    found = _SUBJECT.fullmatch(text.strip())
    return f"s{int(found[1]):02d}" if found else None


CORPUS = Corpus(name="casme_sq", title=_TITLE, recognise=_recognise, read=_read)
