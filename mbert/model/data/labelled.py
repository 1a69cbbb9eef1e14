"""Labelled expressions for finetuning and evaluation: few pairs, kept compressed in memory.

The shards say which frames an expression has, `labels.parquet` how it is annotated; the two are joined here by
(dataset, subject, sample).
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mbert import ConfigError, ManifestError
from mbert.manifests.files import read_json
from mbert.manifests.labels.classes import CLASS_MAPS, ClassMap
from mbert.manifests.labels.label_file import find_label_file
from mbert.manifests.labels.table import LABEL_COLUMNS, LABELS_NAME, digest_of_frames
from mbert.manifests.schema import LabelRow, PairRow
from mbert.manifests.store import read_rows
from mbert.manifests.subject import Subject
from mbert.model.data.augment import draw
from mbert.model.data.pixels import resize, stack_images
from mbert.shards.pair import FramePair
from mbert.shards.reader import read_all
from mbert.shards.source import ShardSource, open_manifest

_OF_PARTNERS = 2**32  # added to the epoch in seeds: partners are drawn independently of the pairs they are mixed into


@dataclasses.dataclass(frozen=True, slots=True)
class Expression:
    """A labelled expression: its annotation and the keys of its pairs."""

    annotation: LabelRow
    label: str  # its class
    row: PairRow  # of onset and apex
    steps: tuple[str, ...]  # the onset with later frames in time order; the last one is the apex

    @property
    def subject(self) -> Subject:
        """Who shows it; expressions without a subject are left out."""
        assert self.annotation.subject is not None
        return self.annotation.subject


@dataclasses.dataclass(frozen=True, slots=True)
class Expressions:
    """The expressions used, in key order, and how many were left out and why. Holds no frames."""

    source: ShardSource
    found: tuple[Expression, ...]
    left_out: Mapping[str, int]

    def pairs(self, step: int = -1) -> list[FramePair]:
        """One pair of each expression, that of onset and apex by default, still compressed."""
        frames = frames_of(self.source)
        return [frames[expression.steps[step]] for expression in self.found]


@functools.lru_cache(maxsize=1)
def _read_once(source: ShardSource) -> tuple[tuple[PairRow, ...], dict[str, FramePair]]:
    """Rows and frames of a set of expressions: read once per process, so that tasks need not carry them."""
    rows, pairs = zip(*found, strict=True) if (found := read_all(source)) else ((), ())
    return rows, {pair.key: pair for pair in pairs}


def frames_of(source: ShardSource) -> Mapping[str, FramePair]:
    """The pairs of a set of expressions by key, still compressed."""
    return _read_once(source)[1]


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledPairs:
    """The training data: pairs in key order, the class of each, and the subjects shown."""

    pairs: tuple[FramePair, ...]
    labels: tuple[int, ...]  # indices into `classes`
    classes: tuple[str, ...]  # those that occur, in the order of the class map
    subjects: tuple[str, ...]  # of these pairs, sorted

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each class."""
        return {name: self.labels.count(place) for place, name in enumerate(self.classes)}

    @property
    def digest(self) -> str:
        """A hash of the pairs and their classes."""
        told = [[pair.key, self.classes[place]] for pair, place in zip(self.pairs, self.labels, strict=True)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledBatch:
    """One rank's share of a global batch."""

    keys: list[str]
    t0: Tensor  # (B, 3, S, S) uint8 RGB
    t1: Tensor
    draws: Tensor  # (B, 6) random numbers in [0, 1) for `augment`
    labels: Tensor  # (B,) int64
    partners: "LabelledBatch | None" = None  # what mixup mixes in, pair by pair


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledPosition:
    """Where the next batch begins; seed and step alone determine order and augmentation."""

    step: int

    def to_json(self) -> dict[str, int]:
        """For training.json."""
        return {"step": self.step}


class LabelledLoader:
    """Endless batches, starting at a given step. `batch_size` counts the pairs of all ranks.

    Each epoch is a separate permutation; the epochs are concatenated, and the global batch of step k holds their places
    [k * batch_size, (k + 1) * batch_size), so a batch may be larger than the set. Rank r takes every world-th place.
    `steps_per_epoch` is therefore not always a whole number.
    """

    def __init__(
        self,
        labelled: LabelledPairs,
        *,
        batch_size: int,
        image_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        step: int = 0,
        has_partners: bool = False,
    ) -> None:
        if batch_size % world:
            raise ConfigError(f"batch_size is {batch_size}; it must be a multiple of the {world} ranks")
        self.steps_per_epoch = len(labelled.pairs) / batch_size
        self.position = LabelledPosition(step)
        self._labelled, self._batch_size, self._image_size = labelled, batch_size, image_size
        self._seed, self._rank, self._world, self._has_partners = seed, rank, world, has_partners

    def __iter__(self) -> Iterator[LabelledBatch]:
        """Resume from `position`. Raises ShardError naming a pair that cannot be decoded."""
        while True:
            step = self.position.step
            batch = self._read(step)
            if self._has_partners:
                batch = dataclasses.replace(batch, partners=self._read(step, apart=_OF_PARTNERS))
            self.position = LabelledPosition(step + 1)
            yield batch

    def _read(self, step: int, apart: int = 0) -> LabelledBatch:
        start, total = step * self._batch_size, len(self._labelled.pairs)
        chosen: list[int] = []
        draws = []
        places = range(start + self._rank, start + self._batch_size, self._world)
        for epoch, group in itertools.groupby(places, key=lambda place: place // total):
            inside = [place - epoch * total for place in group]
            order = np.random.default_rng([self._seed, epoch + apart]).permutation(total)
            chosen += order[inside].tolist()
            draws.append(draw(range(inside[0], inside[-1] + 1, self._world), seed=self._seed, epoch=epoch + apart))
        pairs = [self._labelled.pairs[index] for index in chosen]
        t0, t1 = decode_pairs(pairs, self._image_size)
        labels = torch.tensor([self._labelled.labels[index] for index in chosen])
        return LabelledBatch([pair.key for pair in pairs], t0, t1, torch.from_numpy(np.concatenate(draws)), labels)


def read_labelled(
    source: ShardSource,
    labels: Path | str,
    *,
    classes: ClassMap = CLASS_MAPS["annotated"],
    exclude_subjects: Sequence[str] = (),
) -> LabelledPairs:
    """The labelled expressions of all subjects but the excluded ones, under a class map.

    Raises ManifestError without labelled pairs, ConfigError for an excluded subject that does not occur or if fewer
    than two classes are left.
    """
    expressions = labelled_expressions(source, labels, classes=classes).found
    everybody = sorted({expression.subject for expression in expressions})
    if unknown := sorted(set(exclude_subjects) - set(everybody)):
        raise ConfigError(f"no labelled expression is of {', '.join(unknown)}; the subjects are {', '.join(everybody)}")
    kept = [expression for expression in expressions if expression.subject not in exclude_subjects]
    found = {expression.label for expression in kept}
    if len(found) < 2:
        without = f" without {', '.join(exclude_subjects)}" if exclude_subjects else ""
        raise ConfigError(
            f"finetuning needs at least 2 classes, the {len(kept)} labelled expressions in {source.where}{without} "
            f"have {len(found)}: {', '.join(sorted(found)) or 'none'}; label more, or exclude fewer subjects"
        )
    return labelled_pairs(source, kept, [name for name in classes.classes if name in found] or sorted(found))


def labelled_pairs(source: ShardSource, expressions: Sequence[Expression], classes: Sequence[str]) -> LabelledPairs:
    """Expressions in the form that finetuning takes; each label must be among the classes."""
    frames = frames_of(source)
    return LabelledPairs(
        pairs=tuple(frames[expression.steps[-1]] for expression in expressions),
        labels=tuple(classes.index(expression.label) for expression in expressions),
        classes=tuple(classes),
        subjects=tuple(sorted({expression.subject for expression in expressions})),
    )


def labelled_expressions(
    source: ShardSource,
    labels: Path | str,
    *,
    classes: ClassMap | None = CLASS_MAPS["annotated"],
    datasets: Sequence[str] = (),
    frames: int = 1,
) -> Expressions:
    """The expressions of the shards that have a subject and a class, and how many were left out and why.

    `labels` is the `labels.parquet` of the corpus, or its URL. Without a class map, returns those with annotated action
    units, with the label "". `datasets` restricts the datasets (empty: all). Each has `frames` pairs, from the onset to
    frames evenly spread up to the apex.

    Raises ManifestError if there are none, or if labels were added, removed or moved since the pairs were made;
    ConfigError if the shards do not hold that many frames.
    """
    annotations = _read_annotations(source, labels)
    rows = sorted(_read_once(source)[0], key=lambda row: row.t1)
    steps: dict[_Name, list[str]] = {}
    apexes: list[PairRow] = []
    for row in rows:  # in time order: the apex last
        steps.setdefault(_name(row), []).append(row.key)
        if row.kind == "onset_apex":
            apexes.append(row)
    left_out: Counter[str] = Counter()
    found = []
    for row in sorted(apexes, key=lambda row: row.key):
        annotation = annotations[_name(row)]
        label = "" if classes is None else classes.class_of(annotation)
        if datasets and row.dataset not in datasets:
            left_out[f"of {row.dataset}"] += 1
        elif not annotation.subject:
            left_out["without a subject"] += 1
        elif label is None:
            left_out[f"without a class in {classes.name}" if classes else ""] += 1
        elif classes is None and annotation.action_units is None:
            left_out["without action units"] += 1
        else:
            found.append(Expression(annotation, label, row, tuple(_spread(steps[_name(row)], frames))))
    if not found:
        raise _without_expressions(labels, left_out)
    if frames > 1 and frames > (most := max(len(group) for group in steps.values())):
        raise ConfigError(
            f"{frames} frames of an expression are requested, the shards hold {most}: make them again with "
            f"`mbert shard --pairs --frames-between {frames - 1} --overwrite`"
        )
    return Expressions(source, tuple(found), dict(left_out))


_Name = tuple[str, str | None, str | None]


def _name(row: PairRow | LabelRow) -> _Name:
    """The name that identifies an expression everywhere."""
    return row.dataset, row.subject, row.sample


def _read_annotations(source: ShardSource, labels: Path | str) -> dict[_Name, LabelRow]:
    """The label of each expression in the shards."""
    if any(row.kind == "sampled" for row in _read_once(source)[0]):
        raise ManifestError(
            f"{source.where} holds pairs sampled by time, of which no label is known: give the shards of expressions, "
            "which lie in WORKSPACE/shards/expressions"
        )
    rows = read_rows(open_manifest(labels, source.retry), LabelRow)
    if source.labels is not None and source.labels != digest_of_frames(rows):
        raise ManifestError(
            f"labels came, went or moved in {labels} since the pairs in {source.where} were made: run "
            "`mbert shard --pairs` again; it makes the pairs of labels alone, a pretraining is not touched"
        )
    found = {_name(row): row for row in rows if row.expression == "micro"}
    if unknown := [row.key for row in _read_once(source)[0] if _name(row) not in found]:
        raise ManifestError(
            f"{labels} has no label of the pair {unknown[0]} in {source.where}: they do not belong together"
        )
    return found


def _spread(steps: list[str], frames: int) -> list[str]:
    """`frames` of the steps, evenly spread and including the last; a quick expression repeats some."""
    places = np.linspace(len(steps) / frames, len(steps), frames).round().astype(int) - 1
    return [steps[max(place, 0)] for place in places.tolist()]


def _without_expressions(labels: Path | str, left_out: Mapping[str, int]) -> ManifestError:
    if left_out:
        told = ", ".join(f"{count} {why}" for why, count in left_out.items())
        return ManifestError(f"no labelled expression is left: {told}; see `mbert labels` for what there is")
    config = Path(labels).with_name("config.json")  # the corpus's
    root = Path((config.exists() and read_json(config)["root"]) or ".")
    file = find_label_file(root)[0] or root / LABELS_NAME
    state = "has no row with subject, onset, apex or offset, and emotion that fits a clip"
    return ManifestError(
        f"labelled expressions are needed, but {file} {state if file.exists() else 'is missing'}: write one line per "
        f"expression with the columns {', '.join(LABEL_COLUMNS)} (`mbert labels --template` begins such a file), then "
        "run `mbert ingest` and `mbert shard --pairs` again"
    )


def decode_pairs(pairs: Sequence[FramePair], size: int) -> tuple[Tensor, Tensor]:
    """Both frames of the pairs, two tensors (B, 3, size, size) uint8; raises ShardError naming a damaged pair."""
    t0, t1 = zip(*(pair.images() for pair in pairs), strict=True)
    return stack_images([resize(image, size) for image in t0]), stack_images([resize(image, size) for image in t1])
