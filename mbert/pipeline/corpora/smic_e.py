"""SMIC-E, long clips: `SMIC-HS-E/s01/s1_ne_01/image559740.jpg`, with frames before and after the expression.

Like SMIC, it has up to three cameras, HS (100 frames per second, dataset `smic_e`), VIS (25, `smic_e_vis`) and NIR (25,
`smic_e_nir`), and the same people. Each has its own sheet (SMIC-HS-E_annotation.xlsx). A row lists up to three
expressions of one clip, in the camera's frame numbers, which the file names also use. The first has the name of the
clip, further ones that name and their onset. No apex is marked, except in one edition.
"""

import dataclasses
import re
from pathlib import Path

from mbert import ConfigError
from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import Tree, find_annotation, find_trees, first_image, subfolders
from mbert.pipeline.corpora.sheet import SheetRow, read_sheet
from mbert.pipeline.corpora.smic import CAMERA_FPS, choose_by_camera, sample_of, subject_of
from mbert.pipeline.video.source import Corpus, Distribution, Listing, frame_numbers, frames_source

_TITLE = "SMIC-E"
_LAYOUT = "SMIC-HS-E/s01/s1_ne_01/image559740.jpg"
_DATASETS = {"hs": "smic_e", "vis": "smic_e_vis", "nir": "smic_e_nir"}
_EXPRESSIONS = ("", "2", "3")  # OnsetF, Onset2F, Onset3F


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{trees[0].folder} holds folders like s01/s1_ne_01" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    trees, notes = choose_by_camera(_trees(root), distribution, root, _TITLE, _LAYOUT)
    sheets = _sheets(root, annotation, list(trees))
    sources = []
    labels: list[Label] = []
    for camera, tree in trees.items():
        dataset = _DATASETS[camera]
        clips: dict[tuple[Subject, str], Path] = {}
        for person in subfolders(tree.folder):
            if subject := subject_of(person.name):
                for clip in subfolders(person):
                    clips[subject, sample_of(clip.name) or clip.name] = clip
                    sources.append(frames_source(root, clip, dataset, subject=subject, fps=CAMERA_FPS[camera]))
        for row in read_sheet(sheets[camera], ("Subject", "Filename", "OnsetF", "OffsetF")):
            subject = subject_of(f"s{(row.text('Subject') or '').casefold().removeprefix('s')}")
            sample = sample_of(row.text("Filename") or "")
            if subject is None or sample is None:
                continue  # text below the table
            expected = tree.folder / subject.id / sample
            folder = clips.get((subject, sample), expected)
            found = _expressions(row, relative_path(root, folder), dataset, subject, sample)
            labels += [_in_file_numbers(label, folder, row.text("FirstF") or "") for label in found]
    return Listing(
        root=root, sources=tuple(sources), labels=tuple(labels), annotations=tuple(sheets.values()), notes=notes
    )


def _sheets(root: Path, given: Path | None, cameras: list[str]) -> dict[str, Path]:
    """The annotation file of each camera. A given one is for the camera in its name, or for the only one."""
    patterns = {
        camera: (rf"SMIC[-_ ]{camera.upper()}[-_ ]E.*\.xlsx?", rf"SMIC[-_ ]{camera.upper()}[-_ ]E.*\.csv")
        for camera in cameras
    }
    fitting = [
        camera
        for camera in cameras
        if given is not None
        and (len(cameras) == 1 or re.fullmatch("|".join(patterns[camera]), given.name, re.IGNORECASE))
    ]
    if given is not None and not fitting:
        raise ConfigError(
            f"{given.name} does not say for which of the cameras it is ({', '.join(cameras)}): "
            "ingest the folder of one camera at a time"
        )
    return {
        camera: find_annotation(
            root, given if camera in fitting else None, patterns[camera], f"{_TITLE} {camera.upper()}"
        )
        for camera in cameras
    }


def _expressions(row: SheetRow, path: str, dataset: str, subject: Subject, sample: str) -> list[Label]:
    labels = []
    for which in _EXPRESSIONS:
        # 0 is an empty cell here: frame numbers are those of a camera that was already running.
        onset, apex, offset = (row.number(f"{name}{which}F") or None for name in ("Onset", "Apex", "Offset"))
        if which == "" or (onset, offset) != (None, None):
            fault = row.fault
            if fault is None and onset is None:
                fault = f"label line {row.line}: onset is missing"  # else it would cover the whole long clip
            labels.append(
                Label(
                    line=row.line,
                    path=path,
                    dataset=dataset,
                    subject=subject,
                    sample=sample if which == "" else f"{sample}_{onset}",
                    onset=onset,
                    apex=apex,
                    offset=offset,
                    emotion=row.text("Emotion"),
                    fault=fault,
                )
            )
    return labels


def _in_file_numbers(label: Label, folder: Path, first: str) -> Label:
    """The label in the file names' numbers: if those were renumbered, the first image is the camera's `FirstF`."""
    files = frame_numbers(folder)
    if not files or label.span is None or not first.isdecimal():
        return label
    by = files[0] - int(first)
    fits = {shift: files[0] <= label.span[0] + shift and label.span[1] + shift <= files[-1] for shift in (0, by)}
    if fits[0] or not fits[by]:
        return label
    frames = {name: frame + by for name in ("onset", "apex", "offset") if (frame := getattr(label, name)) is not None}
    remark = f"label line {label.line}: the images are renumbered, so {-by} was taken from its frames"
    return dataclasses.replace(label, remark=remark, **frames)


def _trees(root: Path) -> list[Tree]:
    return find_trees(root, lambda folder: bool(_some_clip(folder)), _is_cropped)


def _is_cropped(folder: Path) -> bool:
    clip = _some_clip(folder)
    return clip is not None and (first_image(clip) or "").casefold().startswith("reg_")


def _some_clip(folder: Path) -> Path | None:
    """The first clip of the first person that has one."""
    people = (child for child in subfolders(folder) if subject_of(child.name))
    return next((clip for person in people for clip in subfolders(person) if sample_of(clip.name)), None)


CORPUS = Corpus(name="smic_e", title=_TITLE, recognise=_recognise, read=_read)
