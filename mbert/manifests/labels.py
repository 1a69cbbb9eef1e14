"""Labels from `labels.csv`: which expression lies where, and joining it to the clips."""

import csv
import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from mbert import ManifestError
from mbert.manifests.schema import ClipRow

LABELS_NAME = "labels.csv"  # looked for in the ingested folder
LABEL_COLUMNS = ("path", "subject", "onset", "apex", "offset", "emotion")
OPTIONAL_COLUMNS = ("action_units",)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One annotated expression. Frames are frame indices of the input; empty cells are None."""

    line: int  # in the label file, for messages
    path: str  # relative to the ingested folder, with forward slashes
    subject: str | None
    onset: int | None
    apex: int | None
    offset: int | None
    emotion: str | None
    action_units: str | None = None

    @property
    def span(self) -> tuple[int, int] | None:
        """First and last annotated frame, or None when no frame is annotated."""
        frames = [frame for frame in (self.onset, self.apex, self.offset) if frame is not None]
        return (min(frames), max(frames)) if frames else None

    @property
    def fault(self) -> str | None:
        """Why the frames cannot be used, or None."""
        known = [(name, getattr(self, name)) for name in ("onset", "apex", "offset") if getattr(self, name) is not None]
        for (name, frame), (next_name, next_frame) in itertools.pairwise(known):
            if frame > next_frame:
                return f"label line {self.line}: {name} {frame} lies after {next_name} {next_frame}"
        return None


def read_labels(path: Path) -> list[Label]:
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
            return [_parse(path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ManifestError(f"{path} cannot be read as CSV in UTF-8: {exc}") from exc


def _parse(path: Path, line: int, row: dict[str, str | None]) -> Label:
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
    return Label(
        line=line,
        path=name.replace("\\", "/").removeprefix("./").rstrip("/"),
        subject=text("subject"),
        onset=frame("onset"),
        apex=frame("apex"),
        offset=frame("offset"),
        emotion=text("emotion"),
        action_units=text("action_units"),
    )


def labels_by_path(labels: Iterable[Label]) -> dict[str, list[Label]]:
    """Labels of each input, in order of their first frame."""
    groups: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        groups[label.path].append(label)
    for group in groups.values():
        group.sort(key=lambda label: (label.span or (-1, -1), label.line))
    return dict(groups)


def join_labels(clips: Sequence[ClipRow], labels: Sequence[Label]) -> tuple[list[ClipRow], list[str]]:
    """Join the labels of one input to its clips. Returns the clips and a remark for each label that found no clip.

    A label belongs to the clip that holds all its annotated frames; of several faces to the largest. A label without
    frames names the subject and the emotion of the whole input, and joins its longest clip.
    """
    joined = {clip.clip_id: clip for clip in clips}
    taken: dict[str, Label] = {}
    remarks = []
    subjects = {label.subject for label in labels if label.subject}
    if len(subjects) == 1:  # frames outside the expression show the same person
        subject = f"{clips[0].dataset}/{subjects.pop()}" if clips else None
        joined = {key: dataclasses.replace(clip, subject=subject) for key, clip in joined.items()}
    for label in labels:
        if label.fault:
            remarks.append(label.fault)
            continue
        clip = _clip_of(label, list(joined.values()))
        if clip is None:
            remarks.append(
                f"label line {label.line}: no clip holds frames {label.span[0]}-{label.span[1]}"
                if label.span
                else f"label line {label.line}: there is no clip to join"
            )
        elif clip.clip_id in taken:
            remarks.append(
                f"label line {label.line}: its clip already holds the expression of line {taken[clip.clip_id].line}; "
                "ingest with --overwrite to cut the clips between the expressions"
            )
        else:
            taken[clip.clip_id] = label
            joined[clip.clip_id] = dataclasses.replace(
                clip,
                subject=f"{clip.dataset}/{label.subject}" if label.subject else clip.subject,
                onset=label.onset,
                apex=label.apex,
                offset=label.offset,
                emotion=label.emotion,
                action_units=label.action_units,
            )
    return list(joined.values()), remarks


def _clip_of(label: Label, clips: Sequence[ClipRow]) -> ClipRow | None:
    if label.span is None:
        return max(clips, key=lambda clip: (clip.num_frames, clip.face_px), default=None)
    first, last = label.span
    holding = [clip for clip in clips if clip.first_frame <= first and last <= clip.last_frame]
    return max(holding, key=lambda clip: clip.face_px, default=None)
