"""What is in a workspace, counted by SQL over its manifests: inputs, people, faces, labels, pairs, licences, sizes."""

import dataclasses
import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbert.manifests.corpus_tables import CorpusTables
from mbert.manifests.distributions import Distribution, clip_distributions
from mbert.manifests.files import is_locked, read_json
from mbert.manifests.labels.people import person
from mbert.manifests.labels.report import report_labels
from mbert.manifests.schema import LabelRow
from mbert.manifests.selection import RejectedReason, rejected_reasons
from mbert.manifests.store import read_table
from mbert.manifests.subject import Subject
from mbert.manifests.workspace import PAIRS_INDEX, Workspace

OVERVIEW_COLUMNS = ("face_px", "yaw", "pitch")  # of the crops
_MOST = 6  # values of a column listed by name
_OK = "videos WHERE status = 'ok'"
# What was done to inputs, or is notable about them, and the condition for those inputs.
_REMARKABLE = {
    "turned as the file says": "rotation <> 0 OR mirrored",
    "stood on their head": "turned <> 0",
    "made square from other pixels": "aspect <> 1",
    "one eye of a stereo pair": "stereo IS NOT NULL",
    "HDR, tone-mapped": "tone_mapped",
    "slow motion": "rate > 1",
    "with repeated pictures": "true_fps < 0.99 * fps",
    "at an assumed frame rate": "times_from = 'assumed'",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The range of 90 % of a column's values, and their median."""

    low: float  # 5 % of the values are below
    median: float
    high: float  # 5 % are above


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelCounts:
    """The labels of one dataset."""

    annotated: int  # micro-expressions
    usable: int  # as samples of an evaluation
    macro: int
    classes: dict[str, int]  # annotated micro-expressions by emotion


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairCounts:
    """One set of pair shards."""

    num_pairs: int
    num_shards: int
    kinds: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """A workspace in numbers. Parts that do not exist yet are empty, 0 or None."""

    workspace: str
    at_work: tuple[str, ...]  # folders locked by another command
    statuses: dict[str, int]  # inputs by status
    datasets: dict[str, int]
    reasons: tuple[RejectedReason, ...]
    seconds: float  # of the inputs that have faces
    num_frames: int  # decoded, of these
    num_clips: int
    num_crops: int
    crop_size: int | None
    people: int
    clips_without_person: int
    fps: dict[str, int]  # inputs by rounded rate
    codecs: dict[str, int]
    sizes: dict[str, int]  # inputs by width x height
    remarkable: dict[str, int]
    faces: dict[str, Spread]  # face_px, yaw, pitch of all crops; jitter_px of the clips
    missing_tars: int  # of crops, with missing manifests
    labels: dict[str, LabelCounts]  # by dataset
    pairs: PairCounts | None
    expressions: PairCounts | None
    licenses: dict[str, int]  # of all inputs; `not given` if unknown
    consents: dict[str, int]
    sources: dict[str, int]
    first_expiry: str | None  # YYYY-MM-DD, of unexpired inputs
    num_expired: int
    num_bytes: dict[str, int]  # on disk, by part of the workspace
    versions: tuple[dict[str, str], ...]  # of the software that made the corpus, one entry per difference


def overview(workspace: Workspace, tables: CorpusTables, frames: Mapping[str, Distribution]) -> Overview:
    """Count what is in a workspace; an empty or unfinished one has empty parts.

    `frames` are the distributions of `OVERVIEW_COLUMNS`, or of more. Raises ManifestError for an unreadable manifest.
    """
    config: dict[str, Any] = read_json(workspace.corpus_config) if workspace.corpus_config.exists() else {}
    of_faces = {name: frames[name] for name in OVERVIEW_COLUMNS} | {
        "jitter_px": clip_distributions(tables)["jitter_px"]
    }
    seconds, num_frames, num_crops = tables.rows(
        f"SELECT coalesce(sum(seconds), 0), coalesce(sum(num_frames), 0)::BIGINT, sum(num_crops)::BIGINT FROM {_OK}"
    )[0]
    subjects = tables.rows(
        f"SELECT DISTINCT subject FROM (SELECT subject FROM clips UNION ALL SELECT subject FROM {_OK}) "
        "WHERE subject IS NOT NULL"
    )
    today = datetime.date.today().isoformat()
    ((first_expiry, num_expired),) = tables.rows(
        "SELECT min(retention_until) FILTER (retention_until >= ?), count(*) FILTER (retention_until < ?) FROM videos",
        (today, today),
    )
    return Overview(
        workspace=str(workspace.root),
        at_work=tuple(str(each) for each in (workspace.corpus, workspace.pairs.parent) if is_locked(each)),
        statuses=tables.counts("status", "videos"),
        datasets=tables.counts("dataset", "videos"),
        reasons=tuple(rejected_reasons(tables, _MOST)),
        seconds=float(seconds),
        num_frames=num_frames,
        num_clips=tables.one("SELECT count(*) FROM clips"),
        num_crops=num_crops or 0,
        crop_size=config.get("options", {}).get("size"),
        people=len({person(Subject.parse(name)) for (name,) in subjects}),
        clips_without_person=tables.one("SELECT count(*) FROM clips WHERE subject IS NULL"),
        fps=tables.counts("round(fps, 2)::DECIMAL(10, 2)", _OK, most=_MOST),
        codecs=tables.counts("coalesce(codec, kind)", _OK, most=_MOST),
        sizes=tables.counts("width || 'x' || height", _OK, most=_MOST),
        remarkable={
            name: count
            for name, condition in _REMARKABLE.items()
            if (count := tables.one(f"SELECT count(*) FROM {_OK} AND ({condition})"))
        },
        faces={name: _spread(each) for name, each in of_faces.items() if each.num_values},
        missing_tars=len(tables.missing),
        labels=_labels(workspace),
        pairs=_pairs(workspace.pairs),
        expressions=_pairs(workspace.expressions),
        licenses=_said(tables, "license"),
        consents=_said(tables, "consent"),
        sources=_said(tables, "source"),
        first_expiry=first_expiry,
        num_expired=num_expired,
        num_bytes=_sizes(workspace),
        versions=tuple(config.get("versions", ())),
    )


def _spread(values: Distribution) -> Spread:
    low, median, high = (round(values.quantile(share), 3) for share in (0.05, 0.5, 0.95))
    return Spread(low=low, median=median, high=high)


def _said(tables: CorpusTables, column: str) -> dict[str, int]:
    """The facts from `videos.csv` about the inputs; empty if there are none."""
    found = tables.counts(f"coalesce({column}, 'not given')", "videos", most=_MOST)
    return {} if found.keys() == {"not given"} else found


def _labels(workspace: Workspace) -> dict[str, LabelCounts]:
    if not workspace.labels.exists() or not len(read_table(workspace.labels, LabelRow, columns=["line"])):
        return {}
    return {
        each.dataset: LabelCounts(
            annotated=each.samples.annotated,
            usable=each.samples.usable,
            macro=each.num_macro,
            classes=dict(each.emotions),
        )
        for each in report_labels(workspace).datasets
    }


def _pairs(folder: Path) -> PairCounts | None:
    """Read from the index of a finished set."""
    if not (folder / PAIRS_INDEX).exists():
        return None
    index = read_json(folder / PAIRS_INDEX)
    return PairCounts(num_pairs=index["num_pairs"], num_shards=len(index["shards"]), kinds=dict(index.get("kinds", {})))


def _sizes(workspace: Workspace) -> dict[str, int]:
    parts = {"corpus": workspace.corpus, "pairs": workspace.pairs.parent, "runs": workspace.runs}
    return {name: _bytes_below(folder) for name, folder in parts.items() if folder.is_dir()}


def _bytes_below(folder: Path) -> int:
    """The size of all files; links are not followed, and files that disappear meanwhile do not count."""
    total, folders = 0, [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
