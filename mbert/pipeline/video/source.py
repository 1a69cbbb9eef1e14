"""Shared by all corpus adapters: inputs, listings, and the definition of an adapter."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mbert import InputError
from mbert.manifests.labels.provenance import Provenance
from mbert.manifests.labels.table import Label
from mbert.manifests.paths import relative_path
from mbert.manifests.schema import video_key
from mbert.manifests.subject import Subject
from mbert.pipeline.video.numbering import number_images

VIDEO_SUFFIXES = frozenset(
    (
        *(".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".m2t", ".m2ts", ".m4v"),
        *(".mj2", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt"),
        *(".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv"),
        # Streams without a container:
        *(".264", ".265", ".266", ".av1", ".avc", ".h264", ".h265", ".h266", ".hevc", ".ivf", ".m1v", ".m2v"),
        *(".mjpeg", ".mjpg", ".obu", ".vvc", ".y4m"),
    )
)
IMAGE_SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".heic", ".heif", ".hif", ".j2k", ".jp2", ".jpe", ".jpeg", ".jpg", ".png"),
        *(".tif", ".tiff", ".webp"),
    )
)
ANIMATED_SUFFIXES = frozenset([".apng", ".avif", ".png", ".webp"])  # images that may hold several frames

Distribution = Literal["auto", "raw", "cropped"]
_WEIGHED = 64  # images of a folder whose sizes and times are queried
_HEAD_BYTES = 4096  # of an image, which show whether it is animated


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One input of a corpus: a video file, or a folder whose images are its frames."""

    video_id: str
    dataset: str
    path: str  # relative to the ingested folder, with forward slashes
    kind: Literal["video", "frames"]
    location: Path
    num_bytes: int  # for a folder with many images an estimate, stable as long as the images are
    mtime_ns: int
    subject: Subject | None = None  # if the layout shows it
    fps: float | None = None  # of a frame folder; None: unknown
    root: int = 1  # see `VideoRow`
    provenance: Provenance | None = None  # its facts from `videos.csv`


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The content of a folder: its inputs in reading order, their labels, and the files that are not inputs."""

    root: Path
    sources: tuple[Source, ...]
    labels: tuple[Label, ...] = ()
    annotations: tuple[Path, ...] = ()  # the files the labels were read from
    ignored: tuple[str, ...] = ()
    videos_table: Path | None = None  # the `videos.csv` of the folder
    table_notes: tuple[str, ...] = ()  # its problems; they name inputs, so they are not stored in the corpus
    notes: tuple[str, ...] = ()  # what a user should know: the chosen distribution, what does not match


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """A downloadable dataset, as an adapter describes it.

    `recognise` says briefly why a folder looks like it, or returns None; it checks names only. `read` lists inputs and
    labels, given the folder, the annotation file (None: search for it) and the distribution. It raises ConfigError if
    the folder holds nothing of the dataset, ManifestError if the annotation is missing or damaged.
    """

    name: str  # as in `--dataset`
    title: str
    recognise: Callable[[Path], str | None]
    read: Callable[[Path, Path | None, Distribution], Listing]


def natural_order(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which `clip2` comes before `clip10`."""
    parts = re.findall(r"\d+|\D+", text.casefold())
    return [(0, int(part), part) if part.isascii() and part.isdigit() else (1, 0, part) for part in parts] + [
        (2, 0, text)
    ]


def suffix_of(name: str) -> str:
    """`.jpg` of `clip.JPG`; empty without one. For millions of names, because creating paths is slow."""
    stem, dot, end = name.rpartition(".")
    return f"{dot}{end}".lower() if stem else ""


def followed(entry: os.DirEntry[str]) -> Path | os.DirEntry[str]:
    """For checking whether an entry is a file or a folder. An entry fails for a link to itself, a path does not."""
    return Path(entry.path) if entry.is_symlink() else entry


def image_names(folder: Path) -> list[str]:
    """The names of all images in a folder, sorted; hidden ones are left out."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if suffix_of(entry.name) in IMAGE_SUFFIXES and not entry.name.startswith(".")
        )


def frame_numbers(folder: Path) -> list[int]:
    """The frame indices of a folder's images, ascending; empty if it cannot be read or is not a single series."""
    try:
        return number_images(image_names(folder)).indices
    except (OSError, InputError):
        return []  # reading the input will report the reason


def is_animated(file: Path) -> bool:
    """Whether the beginning of an image file says that it holds several frames."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
    except OSError:
        return False
    if head.startswith(b"RIFF"):
        return head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
    if head.startswith(b"\x89PNG"):
        return b"acTL" in head.partition(b"IDAT")[0]
    return head[4:12] == b"ftypavis"


def video_source(root: Path, path: Path, dataset: str, *, subject: Subject | None = None) -> Source:
    """A video file as an input."""
    try:
        status = path.stat()
        num_bytes, mtime_ns = status.st_size, status.st_mtime_ns
    except OSError:  # a dangling link: opening it will report the reason
        num_bytes, mtime_ns = 0, 0
    return _source(root, path, dataset, "video", num_bytes, mtime_ns, subject, None)


def frames_source(
    root: Path, folder: Path, dataset: str, *, subject: Subject | None = None, fps: float | None = None
) -> Source:
    """A folder of images as an input."""
    num_bytes = mtime_ns = 0
    try:
        names = image_names(folder)
        # Querying each of millions of images would take most of the time. The folder's own time reveals images that
        # were added, removed or replaced.
        asked = names[:: -(-len(names) // _WEIGHED) or 1]
        statuses = [(folder / name).stat() for name in asked]
        mtime_ns = max(status.st_mtime_ns for status in (folder.stat(), *statuses))
        num_bytes = sum(status.st_size for status in statuses) * len(names) // max(1, len(asked))
    except OSError:
        pass
    return _source(root, folder, dataset, "frames", num_bytes, mtime_ns, subject, fps)


def content_hash(source: Source) -> str | None:
    """SHA-256 of a file, or of the names and bytes of a frame folder's images; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        if source.kind == "video":
            _hash_file(source.location, digest)
        else:
            for name in image_names(source.location):
                digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
                _hash_file(source.location / name, digest)
    except OSError:
        return None
    return digest.hexdigest()


def _source(
    root: Path,
    path: Path,
    dataset: str,
    kind: Literal["video", "frames"],
    num_bytes: int,
    mtime_ns: int,
    subject: Subject | None,
    fps: float | None,
) -> Source:
    relative = relative_path(root, path)
    return Source(
        video_id=video_key(dataset, relative),
        dataset=dataset,
        path=relative,
        kind=kind,
        location=path,
        num_bytes=num_bytes,
        mtime_ns=mtime_ns,
        subject=subject,
        fps=fps,
    )


def _hash_file(path: Path, digest: Any) -> None:
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
