"""CAS(ME)^3: `spNO.1/a/color/166.jpg` (whole videos) or `frame/spNO.1_a_166/166.jpg` (excerpts), 30 frames per second.

Part A has labels (sheets whose frames are image numbers, `...JpgIndex...`), part B none, part C is a mock crime with
its own people (`01/a/color/373.jpg`). Depth images are ignored. Part A also comes as packages of excerpts, one folder
for each expression, named after its onset; they are read if the whole videos are missing.

Parts A and B share one numbering of people, and the same number is treated as the same person: then nobody is on both
sides of a split. That no number names two people was not verified. Part C numbers its people separately; whether some
of them are also in A or B is not known.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from mbert import ConfigError, ManifestError
from mbert.manifests.cells import read_sheets
from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.schema import Expression
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import (
    by_name,
    find_annotation,
    find_trees,
    first_image,
    search_annotation,
    subfolders,
)
from mbert.pipeline.corpora.sheet import SheetRow, read_sheet
from mbert.pipeline.video.source import Corpus, Distribution, Listing, Source, frames_source

_TITLE = "CAS(ME)^3"
_FPS = 30.0
_LAYOUT = "spNO.1/a/color/166.jpg, frame/spNO.1_a_166/166.jpg or (part C) 01/a/color/373.jpg"
_MICRO_SHEETS = (r"cas\(me\)3_part_A_ME_label_JpgIndex_v2.*\.xlsx?", r"cas\(me\)3_part_A_ME_label_JpgIndex.*\.xlsx?")
_MACRO_SHEETS = (r"cas\(me\)3_part_A_MaE_label_JpgIndex.*\.xlsx?",)
_CRIME_SHEETS = (r"cas\(me\)3_part_C_ME.*\.xlsx?",)
_PERSON = re.compile(r"spno\s*\.?\s*0*(\d+)", re.IGNORECASE)
_PERSON_OF_C = re.compile(r"0*(\d{1,2})")
_VIDEO = re.compile(r"[a-z]", re.IGNORECASE)
_EXCERPT = re.compile(r"(spno\s*\.?\s*\d+)_([a-z])_0*(\d+)", re.IGNORECASE)
_IMAGE = re.compile(r"\d+\.\w+")
_PART = re.compile(r"part[ _-]?([abc])(?![a-z0-9])", re.IGNORECASE)
_MACRO = re.compile(r"mae[ _-]?clip", re.IGNORECASE)

_Kind = Literal["part A", "part B", "part C", "excerpts", "excerpts of macro-expressions"]
_OF_A: frozenset[_Kind] = frozenset(["part A", "excerpts", "excerpts of macro-expressions"])
_Key = tuple[str, ...]  # subject and video; for an excerpt also the onset


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{next(iter(trees))} holds folders like {_LAYOUT}" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    if distribution == "cropped":
        raise ConfigError(f"{_TITLE} has no cropped images: leave --distribution out")
    trees = _trees(root)
    if not trees:
        raise ConfigError(f"{root} holds no images of {_TITLE}; looked for {_LAYOUT}")
    notes = []
    if "part A" in trees.values():
        left = [folder for folder, kind in trees.items() if kind.startswith("excerpts")]
        notes = [f"{_TITLE}: not read, because samples must not count twice: {folder}" for folder in left]
        trees = {folder: kind for folder, kind in trees.items() if folder not in left}
    kinds = frozenset(trees.values())
    of_c = annotation is not None and _part(annotation.name) == "c"
    parts = []
    if kinds & _OF_A:
        parts.append(_read_a(root, trees, None if of_c else annotation))
    if "part B" in kinds:
        parts.append(Listing(root=root, sources=_sources(root, _folders(trees, "part B"), "casme3b", "casme3")))
    if "part C" in kinds:
        parts.append(_read_c(root, trees, annotation if of_c else None))
    annotations = tuple(file for part in parts for file in part.annotations)
    if annotation is not None and annotation not in annotations:
        there = ", ".join(sorted(kinds))
        raise ManifestError(f"{annotation} is of a part of {_TITLE} that is not in {root}; there: {there}")
    return Listing(
        root=root,
        sources=tuple(source for part in parts for source in part.sources),
        labels=tuple(label for part in parts for label in part.labels),
        annotations=annotations,
        notes=(*(f"{_TITLE}: {kind} in {folder}" for folder, kind in trees.items()), *notes),
    )


def _read_a(root: Path, trees: Mapping[Path, _Kind], annotation: Path | None) -> Listing:
    kinds = sorted(_OF_A & frozenset(trees.values()))
    labels: list[Label] = []
    annotations = []
    for kind in kinds:
        if kind in ("part A", "excerpts"):
            micro = find_annotation(root, annotation, _MICRO_SHEETS, f"{_TITLE} part A")
            annotations.append(micro)
            labels += _labels_of_a(root, _micro_rows(micro), "micro", trees, kind)
        macro = search_annotation(root, _MACRO_SHEETS)
        if macro is not None and kind in ("part A", "excerpts of macro-expressions"):
            annotations.append(macro)
            rows = read_sheet(macro, ("sub", "seq", "onset", "offset"))
            labels += _labels_of_a(root, rows, "macro", trees, kind)
    sources = [source for kind in kinds for source in _sources(root, _folders(trees, kind), "casme3", "casme3")]
    return Listing(root=root, sources=tuple(sources), labels=tuple(labels), annotations=tuple(annotations))


def _micro_rows(annotation: Path) -> list[SheetRow]:
    """The rows of the sheet called `label` if there is one: others hold drafts."""
    own = [sheet.name for sheet in read_sheets(annotation) if sheet.name.casefold() == "label"]
    header = ("Subject", "Filename", "Onset", "Apex", "Offset", "emotion")
    return read_sheet(annotation, header, sheet=own[0] if own else None)


def _labels_of_a(
    root: Path, rows: Iterable[SheetRow], expression: Expression, trees: Mapping[Path, _Kind], kind: _Kind
) -> list[Label]:
    folders, tree = _folders(trees, kind), _tree(trees, kind)
    labels = []
    for row in rows:
        name, video = row.text("Subject", "sub"), row.text("Filename", "seq")
        subject = _subject(name or "")
        if name is None or subject is None or video is None:
            continue  # a remark below the table
        onset = row.number("Onset")
        if kind == "part A":
            folder = folders.get((subject, video.casefold()), tree / name / video / "color")
        else:
            folder = folders.get((subject, video.casefold(), str(onset)), tree / f"{name}_{video}_{onset}")
        # Expressions have no names: videos hold up to 17, so the onset distinguishes them.
        sample = f"{video.casefold()}_{f'line{row.line}' if onset is None else onset}"
        labels.append(
            Label(
                line=row.line,
                path=relative_path(root, folder),
                dataset="casme3",
                subject=Subject("casme3", subject),
                sample=sample if expression == "micro" else f"{sample}_macro",
                onset=onset,
                apex=row.number("Apex"),
                offset=row.number("Offset"),
                emotion=row.text("emotion"),
                action_units=row.text("AU"),
                objective_class=row.text("Objective class"),
                expression=expression,
                fault=row.fault,
            )
        )
    return labels


def _read_c(root: Path, trees: Mapping[Path, _Kind], annotation: Path | None) -> Listing:
    folders = _folders(trees, "part C")
    annotation = find_annotation(root, annotation, _CRIME_SHEETS, f"{_TITLE} part C")
    labels = []
    for row in read_sheet(annotation, ("sub", "count", "onset", "offset", "emotion")):
        found = _PERSON_OF_C.fullmatch(row.text("sub") or "")
        if found is None:
            continue  # a remark below the table
        subject = f"{int(found[1]):02d}"
        onset = row.number("onset")
        folder = folders.get((subject, "a"), _tree(trees, "part C") / subject / "a" / "color")
        labels.append(
            Label(
                line=row.line,
                path=relative_path(root, folder),
                dataset="casme3c",
                subject=Subject("casme3c", subject),
                sample=f"a_{f'line{row.line}' if onset is None else onset}",
                onset=onset,
                apex=None,
                offset=row.number("offset"),
                emotion=row.text("emotion"),
                action_units=row.text("au"),
                fault=row.fault,
            )
        )
    sources = _sources(root, folders, "casme3c", "casme3c")
    return Listing(root=root, sources=sources, labels=tuple(labels), annotations=(annotation,))


def _trees(root: Path) -> dict[Path, _Kind]:
    trees = find_trees(root, lambda folder: _kind(folder) is not None, lambda folder: False)
    return {tree.folder: kind for tree in trees if (kind := _kind(tree.folder))}


def _kind(folder: Path) -> _Kind | None:
    """The kind of tree in a folder, from the first of its subfolders with an image where one is expected."""
    for child in subfolders(folder):
        if _PERSON.fullmatch(child.name) and _has_images(_colors(child)):
            return "part B" if _part(str(folder)) == "b" else "part A"
        if _PERSON_OF_C.fullmatch(child.name) and _has_images(_colors(child)):
            return "part C"
        if _EXCERPT.fullmatch(child.name) and folder.name.casefold() != "depth" and _has_images([child]):
            is_macro = _MACRO.search(f"{folder.parent.name} {folder.name}")
            return "excerpts of macro-expressions" if is_macro else "excerpts"
    return None


def _part(path: str) -> str | None:
    """`a`, `b` or `c`, from the last folder in the path that names a part."""
    found = _PART.findall(path)
    return str(found[-1]).casefold() if found else None


def _colors(person: Path) -> list[Path]:
    videos = [video for video in subfolders(person) if _VIDEO.fullmatch(video.name)]
    return [color for video in videos if (color := by_name(subfolders(video)).get("color"))]


def _has_images(folders: Iterable[Path]) -> bool:
    return any(_IMAGE.fullmatch(first_image(folder) or "") for folder in folders)


def _tree(trees: Mapping[Path, _Kind], kind: _Kind) -> Path:
    return next(folder for folder, found in trees.items() if found == kind)


def _folders(trees: Mapping[Path, _Kind], kind: _Kind) -> dict[_Key, Path]:
    """The folders of frames of all trees of a kind; duplicates count once."""
    folders: dict[_Key, Path] = {}
    for tree in (folder for folder, found in trees.items() if found == kind):
        for child in subfolders(tree):
            if kind.startswith("excerpts"):
                if found_names := _EXCERPT.fullmatch(child.name):
                    key = (_subject(found_names[1]) or "", found_names[2].casefold(), found_names[3])
                    folders.setdefault(key, child)
            elif person := (_PERSON_OF_C.fullmatch(child.name) if kind == "part C" else _PERSON.fullmatch(child.name)):
                subject = f"{int(person[1]):02d}" if kind == "part C" else f"spno.{int(person[1])}"
                for color in _colors(child):
                    folders.setdefault((subject, color.parent.name.casefold()), color)
    return folders


def _sources(root: Path, folders: Mapping[_Key, Path], dataset: str, people: str) -> tuple[Source, ...]:
    return tuple(
        frames_source(root, folder, dataset, subject=Subject(people, key[0]), fps=_FPS)
        for key, folder in folders.items()
    )


def _subject(text: str) -> str | None:
    """`spno.1` for `spNO.1`, `spNo.1` and the like: the case differs between sheets and folders."""
    found = _PERSON.fullmatch(text.strip())
    return f"spno.{int(found[1])}" if found else None


CORPUS = Corpus(name="casme3", title=_TITLE, recognise=_recognise, read=_read)
