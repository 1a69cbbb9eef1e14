"""Labels: which expression lies where, as annotated; their checks, and which clip holds each one."""

import csv
import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from mbert import ManifestError
from mbert.manifests.schema import ClipRow, Expression, LabelRow, VideoRow, video_key
from mbert.manifests.subject import Subject

LABELS_NAME = "labels.csv"  # looked for in the ingested folder
LABEL_COLUMNS = ("path", "subject", "onset", "apex", "offset", "emotion")
OPTIONAL_COLUMNS = ("action_units", "sample", "objective_class")
_FRAMES = ("onset", "apex", "offset")
_SMALLEST_SHARE = 0.5  # of an expression that its clip must hold


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One annotated expression. Frames are frame indices of the input; empty cells are None."""

    line: int  # in the label file or sheet, for messages
    path: str  # relative to the ingested folder, with forward slashes
    dataset: str
    subject: Subject | None
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
    root: int = 1  # of the input, see `VideoRow`

    @property
    def video_id(self) -> str:
        """Of the input it describes."""
        return video_key(self.dataset, self.path, self.root)

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
        subject=Subject(dataset, subject) if subject else None,
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
    video: VideoRow, clips: Sequence[ClipRow], labels: Sequence[Label], *, subject: Subject | None = None
) -> tuple[list[ClipRow], list[LabelRow]]:
    """Find the clip that holds each label of one input, and say whose faces the clips show.

    No annotated frame is moved. A micro-expression belongs to the clip that holds most of it, at least half; of several
    faces to the largest. Its onset and apex (its offset, where no apex is annotated) must lie in that clip, or not
    exist in the input, as where images are missing. What cannot be used says why. A label without frames describes the
    whole input, and belongs to its longest clip. `subject` is whose input it is, where that is known without a label.
    """
    subjects = {label.subject for label in labels if label.subject}
    if len(subjects) == 1:  # frames outside the expression show the same person
        subject = subjects.pop()
    people: dict[int, Subject] = {}  # of the tracks, where the labels name several people
    lines: dict[tuple[Subject | None, str], int] = {}
    rows = []
    for label in labels:
        line = lines.setdefault((label.subject, label.sample), label.line)
        if line != label.line and label.fault is None:
            label = dataclasses.replace(label, fault=f"{_where(label)}: line {line} has the same subject and sample")
        possible = [clip for clip in clips if label.subject in (None, people.get(clip.track, label.subject))]
        clip = None if label.fault else _clip_of(label, possible)
        problem = label.fault or _why_unusable(label, clip, video, clips)
        if clip is None or problem:
            rows.append(label_row(label, clip_id=None, problem=problem))
            continue
        if label.subject and subjects:
            people[clip.track] = label.subject
        rows.append(label_row(_remarked(label, clip, video), clip_id=clip.clip_id, problem=None))
    return [dataclasses.replace(clip, subject=people.get(clip.track, subject)) for clip in clips], rows


def is_cut(video: VideoRow, clips: Sequence[ClipRow], label: Label) -> bool:
    """Whether the clips of an input cut a label through, and ingesting the input again would keep it whole.

    It would not where the face was lost, and where the label was known when the input was ingested.
    """
    if label.fault or label.span is None or _told_span(label.span) in (video.kept_whole or "").split():
        return False
    first, last = label.span
    if any(clip.first_frame <= first and last <= clip.last_frame for clip in clips):
        return False
    cut = Counter(clip.track for clip in clips if clip.first_frame <= last and first <= clip.last_frame)
    return any(count > 1 for count in cut.values())


def told_spans(labels: Iterable[Label]) -> str | None:
    """The frame ranges of labels, for `VideoRow.kept_whole`."""
    spans = {label.span for label in labels if label.span and not label.fault}
    return " ".join(_told_span(span) for span in sorted(spans)) or None


def digest_of_frames(labels: Iterable[LabelRow]) -> str:
    """A hash of which expressions the clips hold, and where: all that onset-apex pairs depend on, and no class."""
    digest = hashlib.sha256()
    for row in sorted(labels, key=lambda row: (row.dataset, row.subject or "", row.sample, row.line)):
        if row.expression == "micro" and row.clip_id is not None:
            digest.update(
                f"{row.dataset} {row.subject} {row.sample} {row.clip_id} {row.onset} {row.apex} {row.offset}\n".encode()
            )
    return digest.hexdigest()


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


def _told_span(span: tuple[int, int]) -> str:
    return f"{span[0]}-{span[1]}"


def _clip_of(label: Label, clips: Sequence[ClipRow]) -> ClipRow | None:
    if label.span is None:
        return max(clips, key=lambda clip: (clip.num_frames, clip.face_px), default=None)
    first, last = label.span

    def held(clip: ClipRow) -> float:
        return (min(last, clip.last_frame) - max(first, clip.first_frame) + 1) / (last - first + 1)

    holding = [clip for clip in clips if held(clip) >= _SMALLEST_SHARE]
    return max(holding, key=lambda clip: (held(clip), clip.face_px), default=None)


def _why_unusable(label: Label, clip: ClipRow | None, video: VideoRow, clips: Sequence[ClipRow]) -> str | None:
    """Why no clip can take a label, or None."""
    if is_cut(video, clips, label):
        assert label.span is not None
        return (
            f"{_where(label)}: the clips are cut inside of frames {_told_span(label.span)}, as they were made before "
            "it: run `mbert ingest` without --no-redo to ingest this input again"
        )
    if clip is None:
        if label.span is None or not clips:
            return f"{_where(label)}: there is no clip to join"
        return f"{_where(label)}: no clip holds frames {_told_span(label.span)}"
    needed = ("onset", "offset") if label.apex is None else ("onset", "apex")
    lost = [name for name in needed if label.expression == "micro" and _is_lost(getattr(label, name), clip, video)]
    if lost:
        told = ", ".join(f"{name} {getattr(label, name)}" for name in lost)
        return f"{_where(label)}: {told} shows no face that is followed; the clip has frames {_told_frames(clip)}"
    return None


def _is_outside(frame: int | None, clip: ClipRow) -> bool:
    return frame is not None and not clip.first_frame <= frame <= clip.last_frame


def _is_lost(frame: int | None, clip: ClipRow, video: VideoRow) -> bool:
    """Whether a frame exists in the input, but not in the clip."""
    if frame is None or not _is_outside(frame, clip) or video.first_frame is None or video.last_frame is None:
        return False
    return video.first_frame <= frame <= video.last_frame


def _told_frames(clip: ClipRow) -> str:
    return f"{clip.first_frame}-{clip.last_frame}"


def _remarked(label: Label, clip: ClipRow, video: VideoRow) -> Label:
    """The label with a remark on the frames of it that have no crop."""
    outside = [name for name in _FRAMES if _is_outside(getattr(label, name), clip)]
    if not outside:
        return label
    told = ", ".join(
        f"{name} {frame} {'has no crop' if _is_lost(frame, clip, video) else 'does not exist'}"
        for name in outside
        if (frame := getattr(label, name)) is not None
    )
    remark = f"{told}: the nearest crop stands in, of frames {_told_frames(clip)}"
    remark = f"{label.remark}; {remark}" if label.remark else f"{_where(label)}: {remark}"
    return dataclasses.replace(label, remark=remark)
