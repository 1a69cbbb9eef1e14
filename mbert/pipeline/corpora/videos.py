"""The generic corpus: any mix of video files and frame folders, nested, with an optional `labels.csv`."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mbert import ConfigError, InputError
from mbert.manifests.labels.inputs import Inputs
from mbert.manifests.labels.label_file import LabelFile, find_label_file, is_label_file, read_labels
from mbert.manifests.labels.provenance import VIDEOS_NAME
from mbert.manifests.paths import escaped, relative_path
from mbert.manifests.predictions import FRAMES, OVERLAY
from mbert.pipeline.video.numbering import number_images
from mbert.pipeline.video.source import (
    ANIMATED_SUFFIXES,
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Listing,
    Source,
    followed,
    frames_source,
    is_animated,
    natural_order,
    suffix_of,
    video_source,
)

DATASET = "videos"
_STILLS = frozenset(["covers", "posters", "previews", "screenshots", "stills", "thumbnails", "thumbs"])  # folders
_ASKED = 3  # images of a suffix that are checked for animation


def list_videos(
    path: Path, labels_path: Path | None = None, *, dataset: str = DATASET, with_labels: bool = True
) -> Listing:
    """Find every input under a folder (or the one file given), and its labels. Raises ConfigError if there is none.

    A folder that holds images is one input with the images as frames; images next to videos are not, nor are images
    without a numbered series next to other inputs, and a note says so. An animated image is a video. An empty folder is
    an input too, so that it gets a row that says so. Anything reached twice, through links, is one input under its real
    path. Hidden files and folders are left out. Labels are read from `labels_path`, else from `labels.csv` in the
    folder, if it exists and labels are wanted. `dataset` is the prefix of all ids. An overlay made by `mbert predict`
    is not an input.
    """
    path = path.absolute()
    walk = _Walk(path if path.is_dir() else path.parent, dataset)
    if path.is_dir():
        walk.into(path)
        walk.follow_links()
    elif path.is_file():
        walk.sources.append(video_source(path.parent, path, dataset))
    else:
        raise ConfigError(f"{path} does not exist; give a video file or a folder of videos and frame folders")
    root, sources = walk.root, sorted(walk.sources, key=lambda source: natural_order(source.path))
    if not sources:
        told = "".join(f"; {note}" for note in walk.notes) or _told_suffixes(walk.ignored)
        raise ConfigError(
            f"{path} holds no video file ({', '.join(sorted(VIDEO_SUFFIXES))}) and no folder of images "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}){told}"
        )
    notes: tuple[str, ...] = ()
    if with_labels and labels_path is None:
        labels_path, notes = find_label_file(root)
    inputs = Inputs(root, [source.path for source in sources], is_whole=path.is_dir())
    found = read_labels(labels_path, dataset, inputs=inputs) if with_labels and labels_path else LabelFile()
    return Listing(
        root=root,
        sources=tuple(sources),
        labels=found.labels,
        annotations=(labels_path,) if labels_path else (),
        ignored=tuple(sorted(walk.ignored)),
        notes=(*walk.notes, *notes, *found.notes),
    )


def count_suffixes(paths: Iterable[str]) -> str:
    """The number of files per suffix, most frequent first: `12 .braw, 3 .txt, 1 without`."""
    counts = Counter(suffix_of(path.rpartition("/")[2]) or "without" for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())


def _told_suffixes(ignored: Sequence[str]) -> str:
    return f"; it holds {count_suffixes(ignored)}" if ignored else ""


class _Walk:
    """Collects the inputs below a folder. Links come last, so that anything reached twice has its real path."""

    def __init__(self, root: Path, dataset: str) -> None:
        self.root, self._dataset = root, dataset
        self.sources: list[Source] = []
        self.ignored: list[str] = []
        self.notes: list[str] = []
        self._seen: dict[tuple[int, ...], Path] = {}  # by the file system's identity of a file or folder
        self._links: list[Path] = []

    def into(self, folder: Path) -> None:
        """Look at a folder, then at those below it."""
        self._is_new(folder)
        try:
            with os.scandir(folder) as found:  # gives the type of each entry without a further query
                entries = sorted((entry for entry in found if not _is_hidden(entry.name)), key=lambda e: e.name)
        except OSError:
            self.sources.append(frames_source(self.root, folder, self._dataset))  # opening it will report the reason
            return
        names = [entry.name for entry in entries]
        images = [
            entry.name for entry in entries if suffix_of(entry.name) in IMAGE_SUFFIXES and followed(entry).is_file()
        ]
        animated = _animated(folder, images)
        stills = [name for name in images if name not in animated]
        results = {OVERLAY} if {OVERLAY, FRAMES} <= set(names) else set()
        num_before, has_videos = len(self.sources), bool(animated)
        known = set(stills)
        for entry in entries:
            if entry.name in known:
                continue
            path = folder / entry.name
            is_video = entry.name in animated or (suffix_of(entry.name) in VIDEO_SUFFIXES and entry.name not in results)
            is_folder = followed(entry).is_dir()
            has_videos |= is_video and not is_folder
            if (is_folder or is_video) and entry.is_symlink():
                self._links.append(path)
            elif is_folder:
                self.into(path)
            elif is_video:
                self._add_video(path)
            elif not is_label_file(entry.name) and entry.name.casefold() != VIDEOS_NAME:
                self.ignored.append(relative_path(self.root, path))
        if stills or (not entries and folder != self.root):
            self._add_frames(folder, stills, has_videos=has_videos, has_inputs=len(self.sources) > num_before)

    def follow_links(self) -> None:
        """Add the targets of links that were not reached without them."""
        while self._links:
            links, self._links = self._links, []
            for path in links:
                if path.is_dir():
                    if self._is_new(path):
                        self.into(path)
                else:
                    self._add_video(path)

    def _add_video(self, path: Path) -> None:
        if self._is_new(path):
            self.sources.append(video_source(self.root, path, self._dataset))

    def _add_frames(self, folder: Path, stills: Sequence[str], *, has_videos: bool, has_inputs: bool) -> None:
        """Add the images of a folder as frames, unless they are stills next to other inputs."""
        reason = None
        if has_videos:
            reason = "next to videos"
        elif folder != self.root and folder.name.casefold() in _STILLS:
            reason = "the name of the folder suggests stills"
        elif has_inputs and len(_series(stills)) < 2:
            reason = "without a numbered series, next to other inputs"
        if reason is None:
            self.sources.append(frames_source(self.root, folder, self._dataset))
            return
        where = "" if folder == self.root else f"{relative_path(self.root, folder)}: "
        images = f"{stills[0]} is" if len(stills) == 1 else f"{len(stills)} images ({stills[0]}, ...) are"
        self.notes.append(escaped(f"{where}{images} no clip ({reason}); frames need a folder of their own"))

    def _is_new(self, path: Path) -> bool:
        """Whether a file or folder is seen for the first time; noted if not."""
        try:
            status = path.stat()
        except OSError:  # opening it will report the reason
            return True
        # Some file systems have no file numbers, or no stable ones.
        known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        first = self._seen.setdefault(known, path) if status.st_ino else path
        if first == path:
            return True
        if not path.is_dir() or path.is_symlink():
            there = "the folder itself" if first == self.root else relative_path(self.root, first)
            self.notes.append(f"{relative_path(self.root, path)} is another name of {there}: one input")
        return False


def _is_hidden(name: str) -> bool:
    """Whether a name is hidden, including the folders that archives and network drives add."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _series(stills: Sequence[str]) -> list[str]:
    try:
        return number_images(stills).names
    except InputError:
        return []


def _animated(folder: Path, images: Sequence[str]) -> set[str]:
    """The images that hold several frames. With many of a suffix, the first ones decide whether to check the others."""
    found: set[str] = set()
    by_suffix: dict[str, list[str]] = {}
    for name in images:
        if (suffix := suffix_of(name)) in ANIMATED_SUFFIXES:
            by_suffix.setdefault(suffix, []).append(name)
    for names in by_suffix.values():
        if any(is_animated(folder / name) for name in names[:_ASKED]):
            found |= {name for name in names if is_animated(folder / name)}
    return found
