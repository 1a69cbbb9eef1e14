"""The generic corpus: any mix of video files and frame folders, nested, with an optional `labels.csv`."""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mbert import ConfigError
from mbert.manifests.labels import LABELS_NAME
from mbert.manifests.schema import video_key

DATASET = "videos"
VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
    )
)
IMAGE_SUFFIXES = frozenset([".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One input of a corpus: a video file, or a folder whose images are its frames."""

    video_id: str
    dataset: str
    path: str  # relative to the ingested folder, with forward slashes
    kind: Literal["video", "frames"]
    location: Path
    num_bytes: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """What lies under a folder: its inputs in reading order, and the files that are none."""

    root: Path
    sources: tuple[Source, ...]
    ignored: tuple[str, ...]


def list_sources(path: Path) -> Listing:
    """Find every input under a folder (or the one file given). Raises ConfigError when there is none.

    A folder that holds images is one input, its images are the frames. A folder without anything in it is an input
    too, so that it gets a row that says so. Hidden files and folders are left out.
    """
    path = path.absolute()
    if path.is_file():
        listing = Listing(path.parent, (_video(path.parent, path),), ())
    elif path.is_dir():
        sources: list[Source] = []
        ignored: list[str] = []
        _walk(path, path, sources, ignored, visited={path.resolve()})
        sources.sort(key=lambda source: natural_order(source.path))
        listing = Listing(path, tuple(sources), tuple(sorted(ignored)))
    else:
        raise ConfigError(f"{path} does not exist; give a video file or a folder of videos and frame folders")
    if not listing.sources:
        raise ConfigError(
            f"{path} holds no video file ({', '.join(sorted(VIDEO_SUFFIXES))}) and no folder of images "
            f"({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return listing


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which `clip2` comes before `clip10`."""
    parts = re.findall(r"\d+|\D+", text.casefold())
    return [(0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in parts] + [
        (2, 0, text)
    ]


def frame_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """The images of a frame folder with their frame index, the last integer in the name, in numeric order."""
    numbered = []
    for entry in folder.iterdir():
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith("."):
            digits = re.findall(r"\d+", entry.stem)
            if digits:
                numbered.append((int(digits[-1]), entry))
    yield from sorted(numbered, key=lambda item: (item[0], item[1].name))


def _walk(root: Path, folder: Path, sources: list[Source], ignored: list[str], visited: set[Path]) -> None:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        sources.append(_frames(root, folder))  # opening it will give the reason
        return
    images = [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
    if images or (not entries and folder != root):
        sources.append(_frames(root, folder))
    for entry in entries:
        if entry.is_dir():
            target = entry.resolve()
            if target not in visited:  # a link that leads back up would never end
                visited.add(target)
                _walk(root, entry, sources, ignored, visited)
        elif entry.suffix.lower() in VIDEO_SUFFIXES:
            sources.append(_video(root, entry))
        elif entry not in images and entry.name != LABELS_NAME:
            ignored.append(_relative(root, entry))


def _video(root: Path, path: Path) -> Source:
    try:
        status = path.stat()
        num_bytes, mtime_ns = status.st_size, status.st_mtime_ns
    except OSError:  # a dangling link: opening it will give the reason
        num_bytes, mtime_ns = 0, 0
    return _source(root, path, "video", num_bytes, mtime_ns)


def _frames(root: Path, folder: Path) -> Source:
    num_bytes = mtime_ns = 0
    try:
        for _, file in frame_files(folder):
            status = file.stat()
            num_bytes += status.st_size
            mtime_ns = max(mtime_ns, status.st_mtime_ns)
    except OSError:
        pass
    return _source(root, folder, "frames", num_bytes, mtime_ns)


def _source(root: Path, path: Path, kind: Literal["video", "frames"], num_bytes: int, mtime_ns: int) -> Source:
    relative = _relative(root, path)
    return Source(
        video_id=video_key(DATASET, relative),
        dataset=DATASET,
        path=relative,
        kind=kind,
        location=path,
        num_bytes=num_bytes,
        mtime_ns=mtime_ns,
    )


def _relative(root: Path, path: Path) -> str:
    # Undecodable bytes in names become escapes: Parquet holds UTF-8 only.
    relative = os.fsencode(os.path.relpath(path, root)).decode("utf-8", "backslashreplace")
    return relative.replace(os.sep, "/")
