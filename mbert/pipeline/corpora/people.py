"""Datasets with a folder for each person, which has one for each clip: `sub01/EP02_01f/img46.jpg`."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.layout import Tree, by_name, find_trees, first_image, matched, subfolders
from mbert.pipeline.video.source import Source, frames_source


@dataclasses.dataclass(frozen=True, slots=True)
class People:
    """The clip folders of a tree, by subject."""

    tree: Path
    folders: dict[str, Path]  # subject -> folder
    clips: dict[str, dict[str, Path]]  # subject -> name as compared -> folder

    def folder(self, subject: str, clip: str) -> Path:
        """The actual or expected folder of a clip."""
        expected = self.folders.get(subject, self.tree / subject) / clip
        return self.clips.get(subject, {}).get(matched(clip), expected)

    def sources(self, root: Path, dataset: str, fps: float) -> tuple[Source, ...]:
        """Every clip as an input."""
        return tuple(
            frames_source(root, folder, dataset, subject=Subject(dataset, subject), fps=fps)
            for subject, folders in self.clips.items()
            for folder in folders.values()
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PeopleLayout:
    """How a dataset names people, clips and images; the images of its cropped distribution begin with `reg_`."""

    subject: Callable[[str], str | None]  # from the name of a person's folder; None: not such a folder
    clip: re.Pattern[str]
    image: re.Pattern[str]

    def trees(self, root: Path) -> list[Tree]:
        """Every folder of people in `root` or up to three levels below."""
        return find_trees(root, self._is_tree, self._is_cropped)

    def people(self, tree: Tree) -> People:
        """The clip folders of a tree, including those without images."""
        folders = {name: folder for folder in subfolders(tree.folder) if (name := self.subject(folder.name))}
        return People(tree.folder, folders, {name: by_name(subfolders(folder)) for name, folder in folders.items()})

    def _is_tree(self, folder: Path) -> bool:
        return self.image.fullmatch(next(self._images(folder), "")) is not None

    def _is_cropped(self, folder: Path) -> bool:
        return next(self._images(folder), "").casefold().startswith("reg_")

    def _images(self, folder: Path) -> Iterator[str]:
        """The name of an image of each clip."""
        for person in subfolders(folder):
            if self.subject(person.name):
                for clip in subfolders(person):
                    if self.clip.fullmatch(clip.name) and (name := first_image(clip)):
                        yield name


def sub_number(text: str) -> str | None:
    """`sub01` for `sub01`, `01` or `1`."""
    found = re.fullmatch(r"(?:sub)?\s*0*(\d+)", text.strip(), re.IGNORECASE)
    return f"sub{int(found[1]):02d}" if found else None
