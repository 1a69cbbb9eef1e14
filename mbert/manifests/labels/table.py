"""Labels: which expression lies where, as annotated; their checks, and joining them to the clips."""

import csv
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mbert import ManifestError
from mbert.manifests.schema import ClipRow, Expression, LabelRow, video_key

LABELS_NAME = "labels.csv"  # looked for in the ingested folder
LABEL_COLUMNS = ("path", "subject", "onset", "apex", "offset", "emotion")
OPTIONAL_COLUMNS = ("action_units", "sample", "objective_class")
_FRAMES = ("onset", "apex", "offset")
_DESCRIPTION = ("sample", *_FRAMES, "emotion", "action_units", "objective_class")
LABEL_FIELDS = ("subject", *_DESCRIPTION)  # of a clip, given by its label
_SMALLEST_SHARE = 0.5  # of an expression that its clip must hold


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One annotated expression. Frames are frame indices of the input; empty cells are None."""

    line: int  # in the label file or sheet, for messages
    path: str  # relative to the ingested folder, with forward slashes
    dataset: str
    subject: str | None  # prefixed by the dataset that the people were recorded for
    sample: str  # the expression's name in its dataset; unique within the dataset's subject
    onset: int | None
    apex: int | None
    offset: int | None
    emotion: str | None
    action_units: str | None = None
    objective_class: str | None = None
    expression: Expression = "micro"
    errata: tuple[str, ...] = ()
    fault: str | None = None  # why it cannot be used
    remark: str | None = None  # what was changed to use it

    @property
    def video_id(self) -> str:
        """Of the input it describes."""
        return video_key(self.dataset, self.path)

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last annotated frame, or None when no frame is annotated."""
        frames = [frame for frame in (self.onset, self.apex, self.offset) if frame is not None]
        return (min(frames), max(frames)) if frames else None


def checked(label: Label) -> Label:
    """The label with what contradicts itself taken as missing, and a remark that says so.

    An apex outside of onset and offset, or on the onset, cannot be right: it becomes missing, to be filled in like any
    other. An offset before the onset becomes missing where there is an apex after the onset; else it is a fault.
    """
    if label.fault is not None:
        return label
    onset, apex, offset = label.onset, label.apex, label.offset
    remarks = []
    if onset is None and (apex is not None or offset is not None):
        return dataclasses.replace(label, fault=f"{_where(label)}: onset is missing")
    if onset is not None and offset is not None and offset <= onset:
        if apex is None or apex <= onset:
            return dataclasses.replace(
                label, fault=f"{_where(label)}: onset {onset} does not lie before offset {offset}"
            )
        remarks.append(f"offset {offset} does not lie after onset {onset}: taken as missing")
        offset = None
    if onset is not None and apex is not None and not onset < apex <= (apex if offset is None else offset):
        remarks.append(f"apex {apex} does not lie between onset {onset} and offset {offset}: taken as missing")
        apex = None
    if not remarks:
        return label
    told = "; ".join(remarks)
    remark = f"{label.remark}; {told}" if label.remark else f"{_where(label)}: {told}"
    return dataclasses.replace(label, apex=apex, offset=offset, remark=remark)


def read_labels(path: Path, dataset: str) -> list[Label]:
    """Read a label file. Raises ManifestError naming missing columns, or the line of a frame that is not a number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in LABEL_COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise ManifestError(
                    f"{path} lacks the columns {', '.join(missing)}; it needs {', '.join(LABEL_COLUMNS)} "
                    f"(optional: {', '.join(OPTIONAL_COLUMNS)})"
                )
            labels = [_parse(path, dataset, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ManifestError(f"{path} cannot be read as CSV in UTF-8: {exc}") from exc
    return _with_own_names(labels)


def _parse(path: Path, dataset: str, line: int, row: dict[str, str | None]) -> Label:
    def text(name: str) -> str | None:
        return (row.get(name) or "").strip() or None

    def frame(name: str) -> int | None:
        value = text(name)
        if value is None or value == "/":  # CASME II writes a missing apex as a slash
            return None
        try:
            return int(value)
        except ValueError:
            raise ManifestError(
                f"{path} line {line}: {name} is {value!r}; allowed are a frame number, '/' or nothing"
            ) from None

    name = text("path")
    if name is None:
        raise ManifestError(f"{path} line {line}: path is empty; it names a file or folder beside the label file")
    name = name.replace("\\", "/").removeprefix("./").rstrip("/")
    subject = text("subject")
    return Label(
        line=line,
        path=name,
        dataset=dataset,
        subject=f"{dataset}/{subject}" if subject else None,
        sample=text("sample") or name,
        onset=frame("onset"),
        apex=frame("apex"),
        offset=frame("offset"),
        emotion=text("emotion"),
        action_units=text("action_units"),
        objective_class=text("objective_class"),
    )


def _with_own_names(labels: list[Label]) -> list[Label]:
    """Several expressions of one input are told apart by their onset."""
    counts = Counter((label.subject, label.sample) for label in labels)
    return [
        dataclasses.replace(label, sample=f"{label.sample}_{label.onset}")
        if counts[label.subject, label.sample] > 1
        else label
        for label in labels
    ]


def labels_by_input(labels: Iterable[Label]) -> dict[str, list[Label]]:
    """Labels of each input, by its video_id, in order of their first frame."""
    groups: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        groups[label.video_id].append(label)
    for group in groups.values():
        group.sort(key=lambda label: (label.span or (-1, -1), label.line))
    return dict(groups)


def join_labels(
    clips: Sequence[ClipRow], labels: Sequence[Label], *, subject: str | None = None
) -> tuple[list[ClipRow], list[LabelRow]]:
    """Join the labels of one input to its clips; also tell what became of each label.

    A micro-expression belongs to the clip that holds most of it, at least half; of several faces to the largest. Where
    the clip lacks its first or last frame (missing images, a lost face), the clip's nearest frame is taken; an apex
    outside of the clip becomes missing; both are remarked. A label
    without frames describes the whole input, and joins its longest clip. Macro-expressions are told, not joined.
    `subject` is whose input it is, where that is known without a label.
    """
    joined = {clip.clip_id: clip for clip in clips}
    taken: dict[str, Label] = {}
    rows = []
    subjects = {label.subject for label in labels if label.subject}
    if len(subjects) == 1:  # frames outside the expression show the same person
        subject = subjects.pop()
    joined = {key: dataclasses.replace(clip, subject=subject) for key, clip in joined.items()}
    for label in labels:
        clip, fitted = None, label
        problem = label.fault
        if problem is None:
            clip = _clip_of(label, list(joined.values()))
            if clip is None:
                problem = (
                    f"{_where(label)}: no clip holds frames {label.span[0]}-{label.span[1]}"
                    if label.span
                    else f"{_where(label)}: there is no clip to join"
                )
            elif label.expression == "micro" and clip.clip_id in taken:
                problem = (
                    f"{_where(label)}: its clip already holds the expression of line {taken[clip.clip_id].line}; "
                    "ingest with --overwrite to cut the clips between the expressions"
                )
                clip = None
        if clip is not None:
            fitted = _fitted(label, clip)
            if label.expression == "micro":
                taken[clip.clip_id] = label
                joined[clip.clip_id] = dataclasses.replace(
                    clip,
                    subject=label.subject or clip.subject,
                    **{name: getattr(fitted, name) for name in _DESCRIPTION},
                )
        rows.append(label_row(fitted, clip_id=clip.clip_id if clip else None, problem=problem))
    return list(joined.values()), rows


def label_row(label: Label, *, clip_id: str | None, problem: str | None) -> LabelRow:
    """What is written of a label; `problem` is why it cannot be used."""
    return LabelRow(
        dataset=label.dataset,
        subject=label.subject,
        sample=label.sample,
        path=label.path,
        video_id=label.video_id,
        clip_id=clip_id,
        line=label.line,
        expression=label.expression,
        onset=label.onset,
        apex=label.apex,
        offset=label.offset,
        emotion=label.emotion,
        action_units=label.action_units,
        objective_class=label.objective_class,
        errata=" ".join(label.errata) or None,
        remark=problem or label.remark,
    )


def _where(label: Label) -> str:
    return f"label line {label.line}"


def _clip_of(label: Label, clips: Sequence[ClipRow]) -> ClipRow | None:
    if label.span is None:
        return max(clips, key=lambda clip: (clip.num_frames, clip.face_px), default=None)
    first, last = label.span

    def held(clip: ClipRow) -> float:
        return (min(last, clip.last_frame) - max(first, clip.first_frame) + 1) / (last - first + 1)

    holding = [clip for clip in clips if held(clip) >= _SMALLEST_SHARE]
    return max(holding, key=lambda clip: (held(clip), clip.face_px), default=None)


def _fitted(label: Label, clip: ClipRow) -> Label:
    """The label with its frames inside of the clip."""
    outside = [
        name
        for name in _FRAMES
        if (frame := getattr(label, name)) is not None and not clip.first_frame <= frame <= clip.last_frame
    ]
    if not outside:
        return label
    moved: dict[str, Any] = {"onset": clip.first_frame, "apex": None, "offset": clip.last_frame}
    told = ", ".join(f"{name} {getattr(label, name)}" for name in outside)
    taken = ", ".join(f"{name} {'missing' if moved[name] is None else moved[name]}" for name in outside)
    remark = f"{told} is outside of the clip ({clip.first_frame}-{clip.last_frame}): taken as {taken}"
    remark = f"{label.remark}; {remark}" if label.remark else f"{_where(label)}: {remark}"
    return dataclasses.replace(label, remark=remark, **{name: moved[name] for name in outside})
