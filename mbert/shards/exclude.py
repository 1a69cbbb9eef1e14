"""Leave people out of a source, so that a model can be evaluated on faces that it has never seen."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mbert import ConfigError, ShardError
from mbert.manifests.labels.people import people_of
from mbert.manifests.subject import Subject
from mbert.manifests.workspace import PAIRS_CLIPS
from mbert.shards.source import Exclusion, ShardSource

_TWINS_AT_ONCE = 16
_LISTED = 10  # subjects named in a message


def without_subjects(source: ShardSource, patterns: Sequence[str]) -> ShardSource:
    """The same shards without the pairs of some people, who no longer count in numbers, subjects or reading.

    A pattern with a slash is one subject, `casme2/sub01`, and excludes the pairs with its name. A pattern without one
    is a dataset, `casme2`, and excludes its pairs, even those without a subject, and the pairs of its people in other
    releases. So a pair without a subject is only excluded with its whole dataset; if single people of that dataset are
    excluded, it may show one of them, and `Exclusion` counts such pairs.

    Reads two columns of every twin, some in parallel, and whose faces the clips show. Raises ConfigError for a pattern
    that matches nobody in the shards, and if no pair is left; ShardError if a twin or the manifest of clips is missing
    or damaged, because then it is unknown whose pairs they are.
    """
    if not patterns:
        return source
    patterns = sorted(set(patterns))
    people = {clip.clip_id: clip.subject for clip in source.read_clips()}
    with ThreadPoolExecutor(_TWINS_AT_ONCE) as threads:
        found = list(threads.map(lambda shard: _scan(source, shard, patterns, people), range(len(source.tars))))
    subjects = {Subject.parse(name) for scan in found for name in scan.subjects}
    subjects |= {Subject.parse(name) for name in source.subjects or ()}
    datasets = {subject.dataset for subject in subjects} | {name for scan in found for name in scan.datasets}
    if unknown := [pattern for pattern in patterns if pattern not in subjects | datasets]:
        raise ConfigError(
            f"exclude_subjects names {', '.join(map(repr, unknown))}, of whom there is no pair in {source.where}; "
            f"its datasets: {listed(datasets)}; its subjects: {listed(subjects)}"
        )
    counts = tuple(scan.num_kept for scan in found)
    if not sum(counts):
        raise ConfigError(
            f"exclude_subjects leaves nothing: all {source.num_pairs} pairs in {source.where} are of "
            f"{listed(patterns)}; exclude fewer people, or train on other shards"
        )
    return dataclasses.replace(
        source,
        counts=counts,
        subjects=tuple(sorted({subject for scan in found for subject in scan.kept_subjects})),
        exclusion=Exclusion(
            patterns=tuple(patterns),
            kept=tuple(scan.kept for scan in found),
            num_pairs=source.num_pairs - sum(counts),
            num_unnamed=sum(scan.num_unnamed for scan in found),
        ),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Scan:
    """The result of scanning a shard's twin."""

    kept: bytes  # one bit per row
    num_kept: int
    num_unnamed: int  # kept pairs without a subject, from a dataset with single people excluded
    subjects: set[str]
    kept_subjects: set[str]
    datasets: set[str]


def _scan(source: ShardSource, shard: int, patterns: Sequence[str], people: Mapping[str, str | None]) -> _Scan:
    table = source.read_twin(shard, ["clip_id", "dataset"])
    if len(table) != source.counts[shard]:
        raise ShardError(
            f"the twin of shard {source.name(shard)} has {len(table)} rows instead of {source.counts[shard]}: "
            "whose pairs the others are is unknown; run `mbert shard --pairs` again"
        )
    clips, datasets = table["clip_id"].to_pylist(), table["dataset"].combine_chunks()
    if strangers := [clip for clip in clips if clip not in people]:
        raise ShardError(
            f"shard {source.name(shard)} has a pair of clip {strangers[0]}, which is not in {PAIRS_CLIPS} next to "
            "it; run `mbert shard --pairs` again"
        )
    subjects = pa.array([people[clip] for clip in clips], pa.string())
    is_excluded = pc.is_in(subjects, value_set=pa.array(patterns, pa.string()))
    for dataset in (pattern for pattern in patterns if "/" not in pattern):
        is_its_person = pc.fill_null(pc.starts_with(subjects, f"{people_of(dataset)}/"), False)
        is_excluded = pc.or_(is_excluded, pc.or_(is_its_person, pc.equal(datasets, dataset)))
    is_kept = pc.invert(is_excluded)
    of_nobody = datasets.filter(pc.and_(is_kept, pc.is_null(subjects)))
    named = {Subject.parse(pattern).dataset for pattern in patterns} - {""}
    doubtful = [dataset for dataset in of_nobody.to_pylist() if people_of(dataset) in named]
    return _Scan(
        kept=np.packbits(is_kept.to_numpy(zero_copy_only=False)).tobytes(),
        num_kept=is_kept.true_count,
        num_unnamed=len(doubtful),
        subjects=_names(subjects),
        kept_subjects=_names(subjects.filter(is_kept)),
        datasets=_names(datasets),
    )


def _names(column: pa.Array) -> set[str]:
    return set(column.unique().drop_null().to_pylist())


def listed(names: Collection[str]) -> str:
    """For messages: the first few."""
    shown = sorted(names)[:_LISTED]
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(shown) or "none is known") + rest
