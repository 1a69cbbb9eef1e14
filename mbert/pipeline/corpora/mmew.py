"""MMEW: `S03/happiness/S03-01-002/1.jpg` or, without the folders of people, `happiness/S03-01-002/1.jpg`; 90 frames
per second.

The sheet (MMEW_Micro_Exp*.xlsx) calls `others` what lies in a folder `repression` in one release and `others` in
another. A release whose folders begin with the onset may come with a sheet that counts from the start of the video:
where the annotated expression is exactly as long as its folder, frames are counted as in the folder. The apex images of
macro-expressions, which are no videos, are left out.
"""

import dataclasses
import re
from collections.abc import Iterator
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
    subfolders,
)
from mbert.pipeline.corpora.sheet import read_sheet
from mbert.pipeline.video.source import (
    Corpus,
    Distribution,
    Listing,
    frame_numbers,
    frames_source,
)

_TITLE = "MMEW"
_FPS = 90.0
_LAYOUT = "S03/happiness/S03-01-002/1.jpg or happiness/S03-01-002/1.jpg"
_SHEETS = (r"MMEW_Micro_Exp_v2.*\.xlsx?", r"MMEW_Micro_Exp.*\.(xlsx?|csv)")
_EMOTIONS = frozenset(
    ("anger", "disgust", "fear", "happiness", "other", "others", "repression", "sadness", "surprise")
)  # that folders are named by
_PERSON = re.compile(r"S0*(\d+)", re.IGNORECASE)
_CLIP = re.compile(r"S\d+-\d+-\d+", re.IGNORECASE)
_IMAGE = re.compile(r"\d+\.\w+")


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{trees[0].folder} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    tree, notes = choose_tree(_trees(root), distribution, root, _TITLE, _LAYOUT)
    annotation = find_annotation(root, annotation, _SHEETS, _TITLE)
    clips = [clip for emotion in _emotion_folders(tree.folder) for clip in subfolders(emotion)]
    labels = []
    for row in read_sheet(annotation, ("Subject", "Filename", "OnsetFrame", "OffsetFrame", "Estimated Emotion")):
        name, subject = row.text("Filename"), _subject(row.text("Subject") or "")
        if name is None or subject is None:
            continue  # a remark below the table
        emotion = row.text("Estimated Emotion")
        folder = _clip_folder(clips, name, emotion) or tree.folder / (emotion or "") / name
        label = Label(
            line=row.line,
            path=relative_path(root, folder),
            dataset="mmew",
            subject=subject,
            sample=name,
            onset=row.number("OnsetFrame"),
            apex=row.number("ApexFrame"),
            offset=row.number("OffsetFrame"),
            emotion=emotion,
            action_units=row.text("Action Units"),
            fault=row.fault,
        )
        labels.append(_counted_as_in(folder, label))
    return Listing(
        root=root,
        sources=tuple(
            frames_source(root, clip, "mmew", subject=_subject(clip.name.partition("-")[0]), fps=_FPS) for clip in clips
        ),
        labels=tuple(labels),
        annotations=(annotation,),
        notes=notes,
    )


def _clip_folder(clips: list[Path], name: str, emotion: str | None) -> Path | None:
    """The folder of a clip; of several with its name, the one in its emotion's folder."""
    found = [clip for clip in clips if matched(clip.name) == matched(name)]
    return max(found, key=lambda clip: matched(clip.parent.name) == matched(emotion or ""), default=None)


def _counted_as_in(folder: Path, label: Label) -> Label:
    """The label with its folder's frame numbers, if that holds just the expression under different numbers."""
    numbers = frame_numbers(folder)  # empty if missing
    if not numbers or label.onset is None or label.offset is None or label.onset >= label.offset:
        return label
    shift = numbers[0] - label.onset
    if shift == 0 or numbers[-1] - numbers[0] != label.offset - label.onset:
        return label
    return dataclasses.replace(
        label,
        onset=numbers[0],
        apex=None if label.apex is None else label.apex + shift,
        offset=numbers[-1],
        remark=f"label line {label.line}: frames {label.onset}-{label.offset} are the images "
        f"{numbers[0]}-{numbers[-1]} of its folder",
    )


def _trees(root: Path) -> list[Tree]:
    return find_trees(root, _is_tree, lambda folder: "crop" in relative_path(root, folder).casefold())


def _is_tree(folder: Path) -> bool:
    clips = (clip for emotion in _emotion_folders(folder) for clip in subfolders(emotion))
    return any(_CLIP.fullmatch(clip.name) and _IMAGE.fullmatch(first_image(clip) or "") for clip in clips)


def _emotion_folders(folder: Path) -> Iterator[Path]:
    """The folders of emotions in a folder, or in its folders of people."""
    for child in subfolders(folder):
        for emotion in subfolders(child) if _PERSON.fullmatch(child.name) else [child]:
            if emotion.name.casefold() in _EMOTIONS:
                yield emotion


def _subject(text: str) -> Subject | None:
    """`mmew/s03` for `S03`, `03` or `3`."""
    found = re.fullmatch(r"(?:S|sub)?\s*0*(\d+)", text.strip(), re.IGNORECASE)
    return Subject("mmew", f"s{int(found[1]):02d}") if found else None


CORPUS = Corpus(name="mmew", title=_TITLE, recognise=_recognise, read=_read)
