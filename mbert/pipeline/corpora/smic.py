"""SMIC, short clips: `HS/s1/micro/negative/s1_ne_01/image257900.bmp` (raw) or `reg_image257900.bmp` (cropped).

Up to three cameras: HS (100 frames per second, dataset `smic`), VIS (25, `smic_vis`) and NIR (25, `smic_nir`). There is
no annotation file: a clip is one expression, from its first image to its last; its name gives the class; no apex is
marked. Clips below `non_micro` are inputs without a label. The people of all cameras, and of SMIC-E, are the same, so
each is one subject: `smic/s01`. The line of a label is its position in reading order.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mbert import ConfigError
from mbert.manifests.labels.table import Label
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import (
    Tree,
    by_name,
    choose_tree,
    find_trees,
    first_image,
    folders_below,
    subfolders,
)
from mbert.pipeline.video.source import (
    Corpus,
    Distribution,
    Listing,
    frame_numbers,
    frames_source,
)

CAMERA_FPS = {"hs": 100.0, "vis": 25.0, "nir": 25.0}

_TITLE = "SMIC"
_LAYOUT = "HS/s1/micro/negative/s1_ne_01/image257900.bmp or reg_image257900.bmp"
_DATASETS = {"hs": "smic", "vis": "smic_vis", "nir": "smic_nir"}
_EMOTIONS = {"n": "negative", "p": "positive", "s": "surprise"}  # by the first letter of ne, po, sur
_CAMERA = re.compile(r"(?<![a-z])(hs|vis|nir)(?![a-z])", re.IGNORECASE)
_SUBJECT = re.compile(r"s0*(\d+)", re.IGNORECASE)
_CLIP = re.compile(r"s0*(\d+)_((?:ne|po|sur)[a-z]*_\d+)", re.IGNORECASE)


def sample_of(clip: str) -> str | None:
    """`s1_ne_01` for `s1_ne_01` or `s01_ne_01`; None if it is not the name of a clip."""
    found = _CLIP.fullmatch(clip.strip())
    return f"s{found[1]}_{found[2]}".casefold() if found else None


def subject_of(folder: str) -> Subject | None:
    """`smic/s01` for `s1` or `s01`; None if it is not the name of a person."""
    found = _SUBJECT.fullmatch(folder.strip())
    return Subject("smic", f"s{int(found[1]):02d}") if found else None


def choose_by_camera(
    trees: Sequence[Tree], distribution: Distribution, root: Path, title: str, layout: str
) -> tuple[dict[str, Tree], tuple[str, ...]]:
    """One tree for each camera present (`hs`, `vis`, `nir`), chosen as by `choose_tree`, and notes.

    The camera is in the name of the tree or of the nearest folder above it; by default, it is HS.
    """
    groups: dict[str, list[Tree]] = {}
    for tree in trees:
        found = next((found for name in reversed(tree.folder.parts) if (found := _CAMERA.search(name))), None)
        groups.setdefault(found[1].casefold() if found else "hs", []).append(tree)
    chosen: dict[str, Tree] = {}
    notes: list[str] = []
    for camera in (camera for camera in CAMERA_FPS if camera in groups):
        chosen[camera], told = choose_tree(groups[camera], distribution, root, f"{title} {camera.upper()}", layout)
        notes += told
    if not chosen:
        choose_tree((), distribution, root, title, layout)
    return chosen, tuple(notes)


def _recognise(root: Path) -> str | None:
    trees = _trees(root)
    return f"{trees[0].folder} holds folders like s1/micro/negative/s1_ne_01" if trees else None


def _read(root: Path, annotation: Path | None, distribution: Distribution) -> Listing:
    if annotation is not None:
        raise ConfigError(f"--labels is {annotation}, but the names of {_TITLE}'s clips are its labels: leave it out")
    trees, notes = choose_by_camera(_trees(root), distribution, root, _TITLE, _LAYOUT)
    sources = []
    labels: list[Label] = []
    for camera, tree in trees.items():
        dataset = _DATASETS[camera]
        for subject, group, clip in _clips(tree.folder):
            sources.append(frames_source(root, clip, dataset, subject=subject, fps=CAMERA_FPS[camera]))
            sample = sample_of(clip.name)
            if group == "micro" and sample:
                frames = frame_numbers(clip)
                labels.append(
                    Label(
                        line=len(labels) + 1,
                        path=sources[-1].path,
                        dataset=dataset,
                        subject=subject,
                        sample=sample,
                        onset=min(frames, default=None),
                        apex=None,
                        offset=max(frames, default=None),
                        emotion=_EMOTIONS[sample.split("_")[1][0]],
                    )
                )
    return Listing(root=root, sources=tuple(sources), labels=tuple(labels), notes=notes)


def _trees(root: Path) -> list[Tree]:
    return find_trees(root, _is_tree, _is_cropped)


def _is_tree(folder: Path) -> bool:
    people = (child for child in subfolders(folder) if subject_of(child.name))
    return any("micro" in by_name(subfolders(person)) for person in people)


def _is_cropped(folder: Path) -> bool:
    image = next((name for *_, clip in _clips(folder) if (name := first_image(clip))), "")
    return image.casefold().startswith("reg_")


def _clips(folder: Path) -> Iterator[tuple[Subject, str, Path]]:
    """Subject, `micro` or `non_micro`, and folder of every clip; including empty ones if the name is that of a clip."""
    for person in subfolders(folder):
        subject, groups = subject_of(person.name), by_name(subfolders(person))
        for group in ("micro", "non_micro"):
            if subject and group in groups:
                for clip in folders_below(groups[group], 2):
                    if sample_of(clip.name) or first_image(clip):
                        yield subject, group, clip


CORPUS = Corpus(name="smic", title=_TITLE, recognise=_recognise, read=_read)
