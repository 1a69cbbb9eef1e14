"""Why a label does not count as annotated: each difference with its sample, its input and its line."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from mbert import ManifestError
from mbert.manifests.labels.action_units import parse_action_units
from mbert.manifests.labels.table import why_absent
from mbert.manifests.schema import LabelRow, VideoRow

DifferenceKind = Literal[
    "missing",  # the input does not exist
    "pending",  # the input is not done yet
    "no face",  # the input can be decoded, but shows no face
    "failed",  # the input cannot be used for another reason
    "unusable",  # the input is fine, but no clip can take the label
    "changed",  # it is used, but not exactly as written
    "no apex",  # it has a clip, but no onset-apex pair can come from it
    "left out",  # folds need a subject, class maps an emotion
    "action units",  # their cell cannot be read
    "frames",  # some frames of its input cannot be decoded
]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelDifference:
    """One thing that keeps a label from counting as annotated."""

    dataset: str
    subject: str | None
    sample: str
    path: str  # of the input, relative to the ingested folder
    line: int  # of the annotation
    kind: DifferenceKind
    what: str


def gives_pair(label: LabelRow) -> bool:
    """Whether an onset-apex pair can come from a label: a clip holds it, and an apex is annotated or can be filled in.

    With missing images, onset and apex may still fall on one frame; `mbert shard` counts those.
    """
    last = label.offset if label.apex is None else label.apex
    return label.clip_id is not None and label.onset is not None and last is not None and label.onset < last


def is_usable(label: LabelRow) -> bool:
    """Whether an expression can be a sample of an evaluation: it is micro, gives a pair, and has a subject."""
    return label.expression == "micro" and label.subject is not None and gives_pair(label)


def find_differences(labels: Iterable[LabelRow], videos: Mapping[str, VideoRow]) -> Iterator[LabelDifference]:
    """Differences from the annotation, label by label; `videos` are the inputs by their video_id.

    A remark on an input with several labels is reported with the first of them.
    """
    remarked: set[str] = set()
    for label in labels:
        video = videos.get(label.video_id)
        found = [] if video is None or video.status != "ok" else list(_of_label(label))
        if video is None or video.status != "ok":
            found = [_of_lost_input(label, video)]
        elif video.reason and video.video_id not in remarked:
            found.append(("frames", video.reason))
            remarked.add(video.video_id)
        for kind, what in found:
            yield LabelDifference(
                dataset=label.dataset,
                subject=label.subject,
                sample=label.sample,
                path=label.path,
                line=label.line,
                kind=kind,
                what=what,
            )


def _of_lost_input(label: LabelRow, video: VideoRow | None) -> tuple[DifferenceKind, str]:
    if video is None or video.status == "pending":
        return "pending", f"{label.path} is not ingested yet: run the same `mbert ingest` again"
    if video.status == "missing":
        return "missing", why_absent(label.path, video.reason or "")
    reason = f"{label.path}: {video.reason or video.status}"
    return ("no face", reason) if video.status == "no_face" else ("failed", f"{reason} ({video.status})")


def _of_label(label: LabelRow) -> Iterator[tuple[DifferenceKind, str]]:
    """The differences of a label whose input is fine."""
    remark = (label.remark or "").removeprefix(f"label line {label.line}: ")
    if label.clip_id is None:
        yield "unusable", remark
        return
    if remark:
        yield "changed", remark
    if label.expression != "micro":
        return
    if not gives_pair(label):
        yield "no apex", "onset is missing, or no apex or offset lies after it: it gives no onset-apex pair"
    if label.subject is None:
        yield "left out", "subject is missing: no fold can take it"
    if label.emotion is None and label.objective_class is None:
        yield "left out", "emotion is missing: no class map can take it"
    try:
        parse_action_units(label.action_units)
    except ManifestError as exc:
        yield "action units", str(exc)
