"""Labels: where expressions are, as annotated; their checks, and which clip holds each one."""

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from mbert.manifests.schema import ClipRow, Expression, LabelRow, VideoRow, video_key
from mbert.manifests.subject import Subject

LABELS_NAME = "labels.csv"  # searched in the ingested folder, with any table suffix
LABEL_COLUMNS = ("path", "subject", "onset", "apex", "offset", "emotion")
OPTIONAL_COLUMNS = ("action_units", "sample", "objective_class")
_FRAMES = ("onset", "apex", "offset")
_NOTHING_THERE = "there is no such file or folder"
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
    onset_seconds: float | None = None  # on the video's own clock, as the timestamps in frames.csv
    apex_seconds: float | None = None
    offset_seconds: float | None = None
    is_located: bool = False  # whether any seconds have been converted to frames
    absent: str | None = None  # why no input has this path
    is_elsewhere: bool = False  # its input exists, but is not part of this run
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

    @property
    def span_seconds(self) -> tuple[float, float] | None:
        """First and last annotated time, or None when no time is annotated."""
        times = [time for time in (self.onset_seconds, self.apex_seconds, self.offset_seconds) if time is not None]
        return (min(times), max(times)) if times else None

    @property
    def is_blank(self) -> bool:
        """Whether nothing is annotated: at most it names the input's subject."""
        said = (self.emotion, self.action_units, self.objective_class, self.fault)
        return self.span is None and self.span_seconds is None and all(value is None for value in said)

    def remarked(self, what: str) -> "Label":
        """The label with one more remark."""
        remark = f"{self.remark}; {what}" if self.remark else f"{_where(self)}: {what}"
        return dataclasses.replace(self, remark=remark)


def checked(label: Label) -> Label:
    """The label with contradictory values treated as missing, and a remark that says so.

    An apex outside onset and offset, or on the onset, cannot be right: it becomes missing, to be filled in like any
    other. An offset before the onset becomes missing if there is an apex after the onset; otherwise it is a fault.
    """
    if label.fault is not None or (label.span_seconds is not None and not label.is_located):
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
    label = dataclasses.replace(label, apex=apex, offset=offset)
    return label.remarked("; ".join(remarks)) if remarks else label


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

    No annotated frame is moved. A micro-expression belongs to the clip that holds most of it, at least half; with
    several faces, to the largest. Its onset and apex (its offset, if no apex is annotated) must be in that clip, or not
    exist in the input, as with missing images. Unusable labels say why. A label without frames describes the whole
    input, and belongs to its longest clip; one without any annotation only names the input's subject, and gives no row.
    `subject` is the input's, if known without a label.
    """
    subjects = {label.subject for label in labels if label.subject}
    if len(subjects) == 1:  # frames outside the expression show the same person
        subject = subjects.pop()
    people: dict[int, Subject] = {}  # of the tracks, where the labels name several people
    lines: dict[tuple[Subject | None, str], int] = {}
    rows = []
    for label in labels:
        if label.is_blank:
            continue
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
    """Whether the clips of an input cut through a label that ingesting the input again would keep whole.

    It would not if the face was lost there, or if the label was known when the input was ingested.
    """
    if label.fault or label.span is None or not _span_keys(label).isdisjoint((video.kept_whole or "").split()):
        return False
    first, last = label.span
    if any(clip.first_frame <= first and last <= clip.last_frame for clip in clips):
        return False
    cut = Counter(clip.track for clip in clips if clip.first_frame <= last and first <= clip.last_frame)
    return any(count > 1 for count in cut.values())


def span_keys(labels: Iterable[Label]) -> str | None:
    """The ranges of labels in frames (`10-20`) or seconds (`1.5-2.25s`), for `VideoRow.kept_whole`."""
    usable = sorted((label for label in labels if not label.fault), key=lambda label: label.span or (-1, -1))
    return " ".join(dict.fromkeys(span for label in usable for span in sorted(_span_keys(label)))) or None


def digest_of_frames(labels: Iterable[LabelRow]) -> str:
    """A hash of the expressions in the clips and their frames: all that onset-apex pairs depend on, without classes."""
    digest = hashlib.sha256()
    for row in sorted(labels, key=lambda row: (row.dataset, row.subject or "", row.sample, row.line)):
        if row.expression == "micro" and row.clip_id is not None:
            digest.update(
                f"{row.dataset} {row.subject} {row.sample} {row.clip_id} {row.onset} {row.apex} {row.offset}\n".encode()
            )
    return digest.hexdigest()


def absence_message(labels: Sequence[Label]) -> str:
    """Why the labels of one path have no input, for `VideoRow.reason`."""
    lines, why = ", ".join(str(label.line) for label in labels), labels[0].absent or _NOTHING_THERE
    return f"label line {lines} names it{', but ' if why.startswith(_NOTHING_THERE) else ': '}{why}"


def why_absent(path: str, reason: str) -> str:
    """The text of `absence_message` for a path, without the lines."""
    why = re.sub(r"^label line [\d, ]+ names it(, but |: )?", "", reason)
    if why and not why.startswith(_NOTHING_THERE):
        return f"{path}: {why}"
    return f"there is no file or folder {path}{why.removeprefix(_NOTHING_THERE)}"


def label_row(label: Label, *, clip_id: str | None, problem: str | None) -> LabelRow:
    """The row to write for a label; `problem` is why it cannot be used."""
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


def _told_span(span: tuple[float, float]) -> str:
    return f"{span[0]}-{span[1]}"


def _span_keys(label: Label) -> set[str]:
    frames = {_told_span(label.span)} if label.span else set()
    return frames | ({f"{_told_span(label.span_seconds)}s"} if label.span_seconds else set())


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
    """The label with a remark on its frames without a crop."""
    outside = [name for name in _FRAMES if _is_outside(getattr(label, name), clip)]
    if not outside:
        return label
    told = ", ".join(
        f"{name} {frame} {'has no crop' if _is_lost(frame, clip, video) else 'does not exist'}"
        for name in outside
        if (frame := getattr(label, name)) is not None
    )
    return label.remarked(f"{told}: the nearest crop stands in, of frames {_told_frames(clip)}")
