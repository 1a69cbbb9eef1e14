"""SAMM long videos: `006_1/006_1_0001.jpg`, a folder for each subject and stimulus, 200 frames per second.

The sheet (SAMM_LongVideos_V*_Release.xlsx; the latest release is read) has micro- and macro-expressions, and no
emotions: those of the micro-expressions are in the sheet of SAMM, where they have the same name. The people are those
of SAMM, so subjects are `samm/006` in both.
"""

import dataclasses
import re
from collections import Counter
from pathlib import Path

from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora import samm
from mbert.pipeline.corpora.layout import (
    Tree,
    choose_tree,
    find_annotation,
    find_trees,
    first_image,
    search_annotation,
    subfolders,
)
from mbert.pipeline.corpora.sheet import SheetRow, read_sheet
from mbert.pipeline.video.source import Corpus, Distribution, Listing, frames_source

_TITLE = "SAMM long videos"
_LAYOUT = "006_1/006_1_0001.jpg"
_SHEETS = (*(rf"SAMM_?LongVideos_V{release}.*\.xlsx?" for release in (3, 2, 1)), r"SAMM_?Long_?Videos.*\.(xlsx?|csv)")
_ONSET, _APEX, _OFFSET = ("Onset", "Onset Frame"), ("Apex", "Apex Frame"), ("Offset", "Offset Frame")
_TYPE = ("Type", "Micro")  # 'Micro - 1/2' or 'Macro'
_VIDEO = re.compile(r"(\d{1,3})_(\d+)")
_IMAGE = re.compile(r"\d{1,3}_\d+_\d+\.\w+")


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{trees[0].folder} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    tree, notes = choose_tree(_trees(root), distribution, root, _TITLE, _LAYOUT)
    annotations = [find_annotation(root, annotation, _SHEETS, _TITLE)]
    emotions: dict[str, SheetRow] = {}
    if micro := search_annotation(root, samm.SHEETS):
        annotations.append(micro)
        emotions = {row.text("Filename") or "": row for row in samm.read_rows(micro)}
    else:
        notes = (*notes, f"{_TITLE}: without emotions, which are in the annotation file of SAMM; it is not here")
    videos = {video: folder for folder in subfolders(tree.folder) if (video := _video(folder.name))}
    labels = []
    for row in read_sheet(annotations[0], ("Subject", "Filename", _ONSET, _OFFSET, _TYPE)):
        name = row.text("Filename")
        video = _video(name or "")
        if name is None or video is None:
            continue  # a remark below the table
        labels.append(_label(row, name, video, relative_path(root, videos.get(video, tree.folder / video)), emotions))
    return Listing(
        root=root,
        sources=tuple(
            frames_source(root, folder, "samm_lv", subject=_subject(video), fps=samm.FPS)
            for video, folder in videos.items()
        ),
        labels=_with_own_names(labels),
        annotations=tuple(annotations),
        notes=notes,
    )


def _label(row: SheetRow, name: str, video: str, path: str, emotions: dict[str, SheetRow]) -> Label:
    is_micro = not (row.text(*_TYPE) or "").casefold().startswith("macro")
    described = emotions.get(name) if is_micro else None
    onset, fault = row.number(*_ONSET), None
    if onset == 0:
        fault = f"label line {row.line}: onset is 0, as of macro-expressions that are too long to have one"
    return Label(
        line=row.line,
        path=path,
        dataset="samm_lv",
        subject=_subject(video),
        sample=name,
        onset=onset,
        apex=row.number(*_APEX),
        offset=row.number(*_OFFSET),
        emotion=described.text("Estimated Emotion") if described else None,
        action_units=row.text("Action Units"),
        objective_class=described.text("Objective Classes", "Objective Class") if described else None,
        expression="micro" if is_micro else "macro",
        fault=fault or row.fault,
    )


def _with_own_names(labels: list[Label]) -> tuple[Label, ...]:
    """Distinguish expressions of the same name by their onset."""
    counts = Counter(label.sample for label in labels)
    return tuple(
        dataclasses.replace(label, sample=f"{label.sample}_{label.onset}") if counts[label.sample] > 1 else label
        for label in labels
    )


def _trees(root: Path) -> list[Tree]:
    return find_trees(root, _is_tree, lambda folder: False)


def _is_tree(folder: Path) -> bool:
    videos = [video for video in subfolders(folder) if _VIDEO.fullmatch(video.name)]
    image = next((name for video in videos if (name := first_image(video))), None)
    return _IMAGE.fullmatch(image or "") is not None


def _video(name: str) -> str | None:
    """`006_1` (subject and stimulus) for `006_1` or for an expression in it, `006_1_2`."""
    found = _VIDEO.match(name)
    return f"{samm.subject_of(found[1])}_{int(found[2])}" if found else None


def _subject(video: str) -> Subject:
    return Subject("samm", video.partition("_")[0])


CORPUS = Corpus(name="samm_lv", title=_TITLE, recognise=_recognise, read=_read)
