"""The source of each input, for a corpus made from several folders.

An input is its content and its path from its root. Equal paths below two roots are two inputs; a root that was moved or
copied is recognised by the content of its inputs and stays the same source.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbert.manifests.labels.people import person
from mbert.manifests.labels.table import Label
from mbert.manifests.schema import ClipRow, VideoRow, video_key
from mbert.manifests.subject import Subject
from mbert.pipeline.corpora.registry import CORPORA
from mbert.pipeline.video.source import Listing, Source, content_hash

_COMPARED = 16  # inputs by whose content two roots are compared
_LISTED = 3

# For each dataset, the folders it was ingested from, as last given; number 1 comes first. Empty if all inputs of a
# folder were forgotten.
Roots = Mapping[str, Sequence[str | None]]


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """A listing whose inputs and labels have their roots assigned."""

    listing: Listing
    roots: Roots  # including new ones
    numbers: frozenset[tuple[str, int]]  # dataset and number of each root that contains the listing, or is in it
    notes: tuple[str, ...]  # what a user should know

    @property
    def others(self) -> list[str]:
        """The roots of the corpus that the listing does not cover."""
        return [
            root
            for dataset, roots in self.roots.items()
            for number, root in enumerate(roots, 1)
            if root is not None and (dataset, number) not in self.numbers
        ]


def read_roots(config: Mapping[str, Any]) -> Roots:
    """Read the roots from a corpus's config.json."""
    return {name: about.get("roots", [about["root"]]) for name, about in config.get("datasets", {}).items()}


def root_of(row: VideoRow, roots: Roots) -> str | None:
    """The folder of an input, as last given; None if that is no longer known."""
    known = roots.get(row.dataset, ())
    return known[row.root - 1] if row.root <= len(known) else None


def place(listing: Listing, roots: Roots, videos: Iterable[VideoRow]) -> Placed:
    """Assign every input and label of a listing its root: one that the corpus knows, or a new one.

    Anything below a known root belongs to it, even if a folder above or inside it is given. `videos` are the rows of
    the corpus.
    """
    rows = {(row.dataset, row.root, row.path): row for row in videos}
    datasets = [*(source.dataset for source in listing.sources), *(label.dataset for label in listing.labels)]
    placements = {
        dataset: _Placement(dataset, listing, roots.get(dataset, ()), rows) for dataset in dict.fromkeys(datasets)
    }
    sources = [placements[source.dataset].source(source) for source in listing.sources]
    labels = [placements[label.dataset].label(label) for label in listing.labels]
    return Placed(
        dataclasses.replace(listing, sources=tuple(sources), labels=tuple(labels)),
        {**roots, **{dataset: each.roots for dataset, each in placements.items()}},
        frozenset(
            (dataset, number)
            for dataset, each in placements.items()
            for number in (each.number, *(number for _, number in each.inside))
        ),
        tuple(note for each in placements.values() for note in each.notes),
    )


class _Placement:
    """The roots of the inputs of one dataset of a listing."""

    def __init__(
        self,
        dataset: str,
        listing: Listing,
        roots: Sequence[str | None],
        rows: Mapping[tuple[str, int, str], VideoRow],
    ) -> None:
        self.roots: list[str | None] = list(roots)
        self.notes: list[str] = []
        self.inside: list[tuple[str, int]] = []  # paths in the listing at which another root begins
        self.prefix = ""  # path of the listing in its root
        self.number = 0
        here = os.path.realpath(listing.root)
        for number, root in enumerate(roots, 1):
            if root is None:
                continue
            known = os.path.realpath(root)
            if here == known or Path(known) in Path(here).parents:
                self.number, self.prefix = number, "" if here == known else f"{os.path.relpath(here, known)}/"
                return
            if Path(here) in Path(known).parents:
                self.inside.append((f"{os.path.relpath(known, here)}/", number))
        own = [source for source in listing.sources if source.dataset == dataset and self._inner(source.path) is None]
        for number, root in enumerate(roots, 1):
            if _is_same(own, {path: row for (name, at, path), row in rows.items() if (name, at) == (dataset, number)}):
                self.number, self.roots[number - 1] = number, str(listing.root)
                if root is not None:
                    self.notes.append(f"{listing.root} holds what was ingested from {root}: it is the same source")
                return
        self.roots.append(str(listing.root))
        self.number = len(self.roots)
        taken = sum(any((dataset, at, source.path) in rows for at in range(1, self.number)) for source in own)
        if taken:
            before = ", ".join(root for root in roots if root is not None)
            self.notes.append(
                f"{listing.root} is another source than {before}: it has {taken} of the same names with other content"
            )

    def source(self, source: Source) -> Source:
        number, path = self._placed(source.path)
        if (number, path) == (1, source.path):
            return source
        key = video_key(source.dataset, path, number)
        return dataclasses.replace(source, video_id=key, path=path, root=number)

    def label(self, label: Label) -> Label:
        number, path = self._placed(label.path)
        if (number, path) == (1, label.path):
            return label
        # Samples of the user's own videos are named after files: the same name in two sources is not the same sample.
        is_own = number > 1 and label.dataset not in CORPORA
        sample = f"{label.sample}_{number}" if is_own else label.sample
        return dataclasses.replace(label, path=path, root=number, sample=sample)

    def _placed(self, path: str) -> tuple[int, str]:
        found = self._inner(path)
        if found is not None:
            return found
        inside_root = f"{self.prefix}{path}" if path != "." else self.prefix.rstrip("/") or "."
        return self.number, inside_root

    def _inner(self, path: str) -> tuple[int, str] | None:
        for prefix, number in self.inside:
            if path.startswith(prefix):
                return number, path.removeprefix(prefix)
            if f"{path}/" == prefix:
                return number, "."
        return None


def _is_same(sources: Sequence[Source], rows: Mapping[str, VideoRow]) -> bool:
    """Whether most of the inputs with the same paths in a known root also have the same content."""
    both = [(source, rows[source.path]) for source in sources if source.path in rows]
    both = [(source, row) for source, row in both if source.num_bytes and row.num_bytes]
    chosen = np.unique(np.linspace(0, len(both) - 1, min(len(both), _COMPARED)).astype(int)) if both else ()
    equal = sum(_is_equal(*both[place]) for place in chosen)
    return 2 * equal > len(chosen)


def _is_equal(source: Source, row: VideoRow) -> bool:
    if source.num_bytes != row.num_bytes:
        return False
    if row.sha256 is None:  # an input that is not done
        return source.mtime_ns == row.mtime_ns
    return row.sha256 == content_hash(source)


def shared_subject_notes(
    placed: Placed, videos: Mapping[str, VideoRow], clips: Mapping[str, Sequence[ClipRow]]
) -> tuple[str, ...]:
    """Notes on people of the user's own videos who have one name in two roots: are they the same?"""
    before: dict[Subject, int] = {}
    for key, group in clips.items():
        for clip in group:
            if clip.subject is not None and (clip.dataset, videos[key].root) not in placed.numbers:
                before.setdefault(person(clip.subject), videos[key].root)
    named = [(label.subject, label.root) for label in placed.listing.labels]
    named += [(source.subject, source.root) for source in placed.listing.sources]
    shared = sorted({subject for subject, _ in named if subject is not None and person(subject) in before})
    shared = [subject for subject in shared if subject.dataset not in CORPORA]
    if not shared:
        return ()
    told = ", ".join(shared[:_LISTED]) + (f" and {len(shared) - _LISTED} more" if len(shared) > _LISTED else "")
    other = placed.roots[shared[0].dataset][before[person(shared[0])] - 1]
    return (
        f"{told} of {placed.listing.root}: these names were given in {other}, too, and are taken as the same people; "
        "if they are others, give them other names in its labels and run the same command again, which decodes nothing",
    )
