"""The results of `mbert predict` as files for other programs: CSV, ELAN, Praat, WebVTT and the challenges' tables.

Every file is written completely or not at all. Times are those of the rows, in seconds on the video's own clock; ELAN,
Praat and WebVTT get them in whole milliseconds.
"""

import dataclasses
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import pyarrow as pa

from mbert.manifests.files import replacing
from mbert.manifests.predictions import DOUBTS, EventRow
from mbert.manifests.regions import region_text
from mbert.manifests.schema import arrow_schema

# A spreadsheet runs a cell that begins like this as a formula. After an apostrophe, it is text in every spreadsheet and
# reader. A text that begins with an apostrophe gets another one, so that removing one restores every text exactly: in
# pandas, `column.str.removeprefix("'")`. The last four are the wide forms of `=+-@`.
_RUN_AS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NEEDS_QUOTES = re.compile(r'[",\r\n]')
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SCHEMA = "{http://www.w3.org/2001/XMLSchema-instance}noNamespaceSchemaLocation"


class CsvRows:
    """Rows of a dataclass as CSV, written as they come; the file appears under its name on success only.

    The header has the names of the fields. Numbers have their meaningful digits: six decimals for a `float` (seconds to
    a microsecond), six significant digits for a `Float32`. None and NaN are empty cells, bools are 1 and 0. A text that
    a spreadsheet would run as a formula gets an apostrophe before it.
    """

    def __init__(self, path: Path, row_type: type[Any]) -> None:
        self._path = path
        schema = arrow_schema(row_type)  # type: ignore[arg-type]
        self._columns = [(field.name, _CELLS[field.type]) for field in schema]
        self._stack = ExitStack()

    def __enter__(self) -> "CsvRows":
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self._path))
            # `backslashreplace`: a name with undecodable bytes must not end a run.
            self._file = stack.enter_context(
                temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            )
            self._file.write(",".join(name for name, _ in self._columns) + "\n")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, rows: Iterable[Any]) -> None:
        """Append some rows."""
        for row in rows:
            values = [(getattr(row, name), cell) for name, cell in self._columns]
            self._file.write(",".join(["" if value is None else cell(value) for value, cell in values]) + "\n")


def _text_cell(value: Any) -> str:
    text = str(value)
    return _quoted("'" + text if text.startswith(_RUN_AS_FORMULA) else text)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def _double_cell(value: float) -> str:
    return "" if math.isnan(value) else repr(round(float(value), 6))


def _single_cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(f"{value:.6g}"))


_CELLS: dict[pa.DataType, Callable[[Any], str]] = {
    pa.string(): _text_cell,
    pa.float64(): _double_cell,
    pa.float32(): _single_cell,
    pa.int64(): lambda value: str(int(value)),
    pa.bool_(): lambda value: str(int(value)),
}


def write_eaf(path: Path, events: Sequence[EventRow], *, media: Path | None, media_type: str, seconds: float) -> None:
    """Write events as an ELAN document (EAF 3.0).

    Each face has tiers of events (`micro brows`), blinks and speech. Phases (onset to apex, apex to offset) and regions
    depend on their event, and so do emotions and flags if there are any: ELAN moves and deletes them with it.
    Overlapping events go to additional tiers of their kind, because annotations of one tier must not overlap.

    `media` is the video that ELAN opens with it, `media_type` its MIME type, `seconds` its duration.
    """
    tiers = _tiers(events, _length_ms(events, seconds))
    # A fixed date makes equal runs give equal files; ELAN sets its own on saving.
    root = ET.Element("ANNOTATION_DOCUMENT", AUTHOR="mbert", DATE="1970-01-01T00:00:00+00:00", FORMAT="3.0")
    root.attrib.update({"VERSION": "3.0", _SCHEMA: "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"})
    header = ET.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if media is not None:
        _add_media(header, media, media_type, path)
    order = ET.SubElement(root, "TIME_ORDER")
    slots: list[tuple[int, ET.Element, str]] = []
    ids: dict[tuple[str, int], str] = {}
    for tier in tiers:
        element = ET.SubElement(root, "TIER", TIER_ID=tier.name, LINGUISTIC_TYPE_REF=tier.kind)
        if tier.parent:
            element.set("PARENT_REF", tier.parent)
        for number, span in enumerate(tier.spans):
            ids[tier.name, number] = f"a{len(ids) + 1}"
            annotation = ET.SubElement(element, "ANNOTATION")
            if tier.kind == "descriptions":
                on = ids[str(tier.parent), span.parent]
                inner = ET.SubElement(annotation, "REF_ANNOTATION", ANNOTATION_REF=on)
            else:
                inner = ET.SubElement(annotation, "ALIGNABLE_ANNOTATION")
                slots += [(span.start, inner, "TIME_SLOT_REF1"), (span.end, inner, "TIME_SLOT_REF2")]
            inner.set("ANNOTATION_ID", ids[tier.name, number])
            ET.SubElement(inner, "ANNOTATION_VALUE").text = span.text
    for number, (time, annotation, end) in enumerate(sorted(slots, key=lambda slot: slot[0]), 1):
        annotation.set(end, f"ts{number}")
        ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{number}", TIME_VALUE=str(time))
    ET.SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId").text = str(len(ids))
    _add_types(root)
    ET.indent(root)
    with replacing(path) as temporary:
        ET.ElementTree(root).write(temporary, encoding="UTF-8", xml_declaration=True)


def _add_media(header: ET.Element, media: Path, media_type: str, path: Path) -> None:
    # Not percent-encoded, unlike other file URLs: ELAN uses the text after `file://` as the path, unchanged.
    whole = media.absolute().as_posix().lstrip("/")
    relative = Path(os.path.relpath(media, path.parent)).as_posix()
    if not relative.startswith("../"):
        relative = f"./{relative}"
    urls = {"MEDIA_URL": _xml_text(f"file:///{whole}"), "RELATIVE_MEDIA_URL": _xml_text(relative)}
    ET.SubElement(header, "MEDIA_DESCRIPTOR", urls, MIME_TYPE=media_type)


def _add_types(root: ET.Element) -> None:
    kinds = {"events": None, "phases": "Included_In", "descriptions": "Symbolic_Association"}
    for kind, constraint in kinds.items():
        element = ET.SubElement(root, "LINGUISTIC_TYPE", LINGUISTIC_TYPE_ID=kind, GRAPHIC_REFERENCES="false")
        element.set("TIME_ALIGNABLE", "false" if kind == "descriptions" else "true")
        if constraint:
            element.set("CONSTRAINTS", constraint)
    for name, text in [
        ("Included_In", "lies within the time of its parent, with gaps"),
        ("Symbolic_Association", "belongs to one parent, has no time of its own"),
    ]:
        ET.SubElement(root, "CONSTRAINT", STEREOTYPE=name, DESCRIPTION=text)


def _xml_text(text: str) -> str:
    """The text without characters that XML cannot hold even escaped, but file names can."""
    return _NOT_IN_XML.sub("\ufffd", text)


def write_textgrid(path: Path, events: Sequence[EventRow], *, seconds: float) -> None:
    """Write events as a Praat TextGrid, with the tiers of `write_eaf`; every tier covers 0 to `seconds`.

    Without events there is one empty tier for each kind: Praat does not open a TextGrid without tiers.
    """
    length = _length_ms(events, seconds)
    tiers = _tiers(events, length)
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {_seconds(length)}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, tier in enumerate(tiers, 1):
        spans = _without_gaps(tier.spans, length)
        name = tier.name.replace('"', '""')
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {_seconds(length)}", f"        intervals: size = {len(spans)}"]
        for place, span in enumerate(spans, 1):
            text = span.text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {_seconds(span.start)}"]
            lines += [f"            xmax = {_seconds(span.end)}", f'            text = "{text}"']
    _write_text(path, "\n".join(lines) + "\n")


def _without_gaps(spans: Sequence["_Span"], length: int) -> list["_Span"]:
    filled, time = [], 0
    for span in spans:
        if span.start > time:
            filled.append(_Span(time, span.start, ""))
        filled.append(span)
        time = span.end
    return [*filled, _Span(time, length, "")] if time < length else filled


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}"


def write_vtt(path: Path, events: Sequence[EventRow]) -> None:
    """Write events as WebVTT cues, which a player shows during the events."""
    length = _length_ms(events, 0)
    cues = ["WEBVTT\n"]
    for number, (start, end, event) in enumerate(_timed(events, length), 1):
        text = f"face {event.face_id}: {_title(event)}"
        if event.emotion:
            text += f", {_plain(event.emotion)}"
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{number}\n{_clock(start)} --> {_clock(end)}\n{text}\n")
    _write_text(path, "\n".join(cues))


def _clock(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"


def write_challenge(
    path: Path,
    events: Sequence[EventRow],
    *,
    with_emotion: bool | None = None,
    leave_out: Collection[str] = DOUBTS,
) -> int:
    """Write expressions in the format of MEGC's spotting challenges, in frames; returns the number of rows.

    Without emotions: `vid,pred_onset,pred_offset,type`, for micro- (`me`) and macro-expressions (`mae`). With emotions,
    spot-then-recognise: `subject,video,onset,offset,emotion`, for those micro-expressions that have one. None: with
    emotions if any event has one. Events with one of the flags in `leave_out` are left out.

    The video is named by its file name without the suffix, the subject by the folder that holds it.
    """
    kept = [event for event in events if set((event.flags or "").split()).isdisjoint(leave_out)]
    kept.sort(key=lambda event: (event.video, event.onset_frame, event.offset_frame))
    if with_emotion is None:
        with_emotion = any(event.emotion for event in events)
    if with_emotion:
        rows = [["subject", "video", "onset", "offset", "emotion"]]
        rows += [
            [*_subject_and_name(event.video), str(event.onset_frame), str(event.offset_frame), event.emotion]
            for event in kept
            if event.type == "micro" and event.emotion
        ]
    else:
        rows = [["vid", "pred_onset", "pred_offset", "type"]]
        types = {"micro": "me", "macro": "mae"}
        rows += [
            [_subject_and_name(event.video)[1], str(event.onset_frame), str(event.offset_frame), types[event.type]]
            for event in kept
            if event.type in types
        ]
    # Names unchanged, without apostrophes: a scoring script compares them.
    _write_text(path, "".join(",".join(map(_quoted, row)) + "\r\n" for row in rows))
    return len(rows) - 1


def _subject_and_name(video: str) -> tuple[str, str]:
    """The last folder and the name of a listed path; names of frame folders may contain dots (`s1/take.2`)."""
    path = PurePosixPath(video)
    is_file = re.fullmatch(r"\.(?=.*[a-zA-Z])\w{2,4}", path.suffix) is not None
    return path.parent.name, path.stem if is_file else path.name


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


@dataclasses.dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of a tier, in milliseconds."""

    start: int
    end: int
    text: str
    parent: int = -1  # index of its event in the parent tier


@dataclasses.dataclass(frozen=True, slots=True)
class _Tier:
    """Spans in time order that do not overlap."""

    name: str
    kind: str  # events, phases, descriptions: ELAN's linguistic type
    parent: str | None
    spans: list[_Span]


_Timed = tuple[int, int, EventRow]  # start and end in milliseconds


def _tiers(events: Sequence[EventRow], length: int) -> list[_Tier]:
    """The tiers of every face; without events the empty tiers of face 0."""
    tiers = []
    for face in sorted({event.face_id for event in events}) or [0]:
        of_face = _timed([event for event in events if event.face_id == face], length)
        for number, lane in enumerate(_lanes([item for item in of_face if item[2].type in ("micro", "macro")])):
            tiers += _event_tiers(lane, face, _lane_name(number))
        for kind, tier in [("blink", "blinks"), ("speech", "speech")]:
            for number, lane in enumerate(_lanes([item for item in of_face if item[2].type == kind])):
                spans = [_Span(start, end, kind) for start, end, _ in lane]
                tiers.append(_Tier(f"face {face} {tier}{_lane_name(number)}", "events", None, spans))
    return tiers


def _lane_name(number: int) -> str:
    return f" {number + 1}" if number else ""


def _event_tiers(lane: Sequence[_Timed], face: int, lane_name: str) -> list[_Tier]:
    """One tier of events, and its dependent tiers."""
    name = f"face {face} events{lane_name}"
    tiers = [_Tier(name, "events", None, [_Span(start, end, _title(event)) for start, end, event in lane])]
    phases = []
    for number, (start, end, event) in enumerate(lane):
        apex = min(max(round(event.apex_s * 1000), start), end)
        parts = [_Span(start, apex, "onset to apex", number), _Span(apex, end, "apex to offset", number)]
        phases += [part for part in parts if part.start < part.end]
    tiers.append(_Tier(f"face {face} phases{lane_name}", "phases", name, phases))
    for title, text_of in _DESCRIPTIONS.items():
        texts = [text_of(event) for _, _, event in lane]
        spans = [_Span(*lane[number][:2], text, number) for number, text in enumerate(texts) if text]
        if spans or title == "regions":
            tiers.append(_Tier(f"face {face} {title}{lane_name}", "descriptions", name, spans))
    return tiers


_DESCRIPTIONS: dict[str, Callable[[EventRow], str]] = {
    "regions": lambda event: "; ".join(region_text(region) for region in event.regions.split()),
    "emotion": lambda event: _plain(event.emotion or ""),
    "flags": lambda event: _plain(event.flags or ""),
}


def _title(event: EventRow) -> str:
    return f"{event.type} {event.part}" if event.type in ("micro", "macro") else event.type


def _plain(text: str) -> str:
    """The text on one line, without control characters, because class names are the user's own."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _length_ms(events: Iterable[EventRow], seconds: float) -> int:
    """The length of the video in whole milliseconds, at least that of its events, and never 0."""
    return max([1, round(seconds * 1000), *(round(event.offset_s * 1000) for event in events)])


def _timed(events: Iterable[EventRow], length: int) -> list[_Timed]:
    """Events in time order. Events within one frame last a millisecond, the minimum of all formats."""
    timed = []
    for event in events:
        start = min(max(round(event.onset_s * 1000), 0), length - 1)
        timed.append((start, max(round(event.offset_s * 1000), start + 1), event))
    return sorted(timed, key=lambda item: (item[0], item[1], item[2].face_id, item[2].event))


def _lanes(items: Sequence[_Timed]) -> list[list[_Timed]]:
    """Items in time order, spread over as few lanes as possible without overlap; at least one lane."""
    lanes: list[list[_Timed]] = [[]]
    for item in items:
        free = next((lane for lane in lanes if not lane or lane[-1][1] <= item[0]), None)
        if free is None:
            lanes.append(free := [])
        free.append(item)
    return lanes
