"""The generic corpus: any mix of video files and frame folders, nested, with an optional `labels.csv`."""

import os
from pathlib import Path

from mbert import ConfigError
from mbert.manifests.labels.provenance import VIDEOS_NAME
from mbert.manifests.labels.table import LABELS_NAME, read_labels
from mbert.manifests.predictions import FRAMES, OVERLAY
from mbert.pipeline.video.source import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Listing,
    Source,
    followed,
    frames_source,
    natural_order,
    relative_path,
    suffix_of,
    video_source,
)

DATASET = "videos"


def list_videos(
    path: Path, labels_path: Path | None = None, *, dataset: str = DATASET, with_labels: bool = True
) -> Listing:
    """Find every input under a folder (or the one file given), and its labels. Raises ConfigError when there is none.

    A folder that holds images is one input, its images are the frames. A folder without anything in it is an input
    too, so that it gets a row that says so. Hidden files and folders are left out. Labels are read from `labels_path`,
    else from `labels.csv` in the folder, where it is there and they are wanted. `dataset` is the prefix of all ids. An
    overlay that `mbert predict` has made is no input.
    """
    path = path.absolute()
    sources: list[Source] = []
    ignored: list[str] = []
    if path.is_file():
        root = path.parent
        sources.append(video_source(root, path, dataset))
    elif path.is_dir():
        root = path
        _Walk(root, dataset, sources, ignored).into(path)
        sources.sort(key=lambda source: natural_order(source.path))
    else:
        raise ConfigError(f"{path} does not exist; give a video file or a folder of videos and frame folders")
    if not sources:
        raise ConfigError(
            f"{path} holds no video file ({', '.join(sorted(VIDEO_SUFFIXES))}) and no folder of images "
            f"({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    labels_path = labels_path or root / LABELS_NAME
    has_labels = with_labels and labels_path.exists()
    return Listing(
        root=root,
        sources=tuple(sources),
        labels=tuple(read_labels(labels_path, dataset)) if has_labels else (),
        annotations=(labels_path,) if has_labels else (),
        ignored=tuple(sorted(ignored)),
    )


class _Walk:
    """Collects the inputs below a folder."""

    def __init__(self, root: Path, dataset: str, sources: list[Source], ignored: list[str]) -> None:
        self._root, self._dataset, self._sources, self._ignored = root, dataset, sources, ignored
        self._visited = {root.resolve()}

    def into(self, folder: Path) -> None:
        """Look at a folder, then at those below it."""
        try:
            with os.scandir(folder) as found:  # tells what each entry is, without asking for it
                entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError:
            self._sources.append(frames_source(self._root, folder, self._dataset))  # opening it will give the reason
            return
        images = {
            entry.name for entry in entries if suffix_of(entry.name) in IMAGE_SUFFIXES and followed(entry).is_file()
        }
        if images or (not entries and folder != self._root):
            self._sources.append(frames_source(self._root, folder, self._dataset))
        results = {OVERLAY} if {OVERLAY, FRAMES} <= {entry.name for entry in entries} else set()
        for entry in entries:
            if entry.name in images:
                continue
            path = folder / entry.name
            if followed(entry).is_dir():
                target = path.resolve()
                if target not in self._visited:  # a link that leads back up would never end
                    self._visited.add(target)
                    self.into(path)
            elif suffix_of(entry.name) in VIDEO_SUFFIXES and entry.name not in results:
                self._sources.append(video_source(self._root, path, self._dataset))
            elif entry.name != LABELS_NAME and entry.name.casefold() != VIDEOS_NAME:
                self._ignored.append(relative_path(self._root, path))
