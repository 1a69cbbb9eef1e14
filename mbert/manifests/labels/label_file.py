"""`labels.csv`, or the same table in a spreadsheet: found and read."""

import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mbert import ConfigError
from mbert.manifests.cells import TABLE_SUFFIXES, Row, plain_name, read_sheets
from mbert.manifests.columns import (
    Column,
    Faults,
    find_columns,
    find_header,
    is_absent,
    named_cells,
    number,
    whole_number,
)
from mbert.manifests.labels.inputs import Inputs, plain_path
from mbert.manifests.labels.table import LABEL_COLUMNS, LABELS_NAME, OPTIONAL_COLUMNS, Label
from mbert.manifests.subject import Subject

_NAMES = frozenset(Path(LABELS_NAME).with_suffix(suffix).name for suffix in TABLE_SUFFIXES)
_FRAMES = ("onset", "apex", "offset")
_ALIASES = {
    "path": ("file_path", "filepath", "file", "filename", "file_name", "video", "video_path"),
    "subject": ("subject_id", "sub", "participant", "participant_id"),
    **{name: (f"{name}_frame", f"{name}frame") for name in _FRAMES},
    "emotion": ("estimated_emotion",),
    "action_units": ("action_unit", "actionunits", "au", "aus"),
    "objective_class": ("objective_classes",),
}
_COLUMNS = tuple(
    Column(name=name, aliases=_ALIASES.get(name, ()), is_needed=name in LABEL_COLUMNS)
    for name in (*LABEL_COLUMNS, *OPTIONAL_COLUMNS)
)
_SECONDS = {
    name: Column(name=f"{name}_seconds", aliases=(f"{name}_sec", f"{name}_secs", f"{name}_s")) for name in _FRAMES
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelFile:
    """The content of a label file, and assumptions made to read it."""

    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()


def is_label_file(name: str) -> bool:
    """Whether a file in the ingested folder may hold labels: `labels.csv` in any case, or as a spreadsheet."""
    return name.casefold() in _NAMES


def has_label_file(folder: Path) -> bool:
    """Whether a folder holds a `labels.csv`, in any case: its videos are the user's own, whatever the layout."""
    return any(name.casefold() == LABELS_NAME for name in _names(folder))


def find_label_file(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The label file of a folder, and notes on others that are not read; None if there is none.

    CSV takes precedence over spreadsheets. Raises ConfigError naming both if there are two of a kind.
    """
    names = _names(folder)
    text = [name for name in names if name.casefold() == LABELS_NAME]
    wanted = text or names
    if len(wanted) > 1:
        raise ConfigError(
            f"{folder} holds {' and '.join(wanted)}: keep one of them, or say which is meant with --labels FILE"
        )
    others = tuple(f"{name} is not read, as {wanted[0]} is there" for name in names if name not in wanted)
    return (folder / wanted[0] if wanted else None), others


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if is_label_file(entry.name) and entry.is_file())
    except OSError:
        return []


def read_labels(path: Path, dataset: str, *, inputs: Inputs | None = None) -> LabelFile:
    """Read a label file. With `inputs`, each path becomes that of its input, or gets the reason why there is none.

    Empty rows are left out, equal ones are one label. Raises ManifestError naming the file, missing columns, and for
    every unreadable cell the line, the column, the value and what is allowed.
    """
    known = {name for column in _COLUMNS for name in column.names}
    sheets = read_sheets(path, columns=known, words=inputs.names if inputs else ())
    sheet, place = find_header(sheets, _COLUMNS) or (sheets[0], 0)
    header = sheet.rows[place] if sheet.rows else Row(1, ())
    places = find_columns(path, header.cells, _columns_for(header))
    faults = Faults(path)
    rows = named_cells(sheet.rows[place + 1 :], header, places, faults, delimiter=sheet.delimiter)
    labels = [
        label
        for row, cells in rows
        if (label := _label(_Cells(row.line, cells, sheet.delimiter, faults), dataset)) is not None
    ]
    faults.check()
    labels = [
        inputs.placed(label) if inputs else dataclasses.replace(label, path=plain_path(label.path)) for label in labels
    ]
    notes = [sheet.remark] if sheet.remark else []
    notes += [
        f"{path.name}: the column {header.cells[at]!r} is taken as {name}"
        for name, at in places.items()
        if plain_name(header.cells[at]) != name
    ]
    notes += [f"{path.name}: sheet {other.name!r} is not read" for other in sheets if other.rows and other is not sheet]
    if elsewhere := len({label.path for label in labels if label.is_elsewhere}):
        notes.append(f"{path.name}: {elsewhere} of its inputs are there, but not part of this run")
    return LabelFile(labels=tuple(_with_own_names(_without_copies(labels))), notes=tuple(notes))


def _columns_for(header: Row) -> list[Column]:
    """The columns; with seconds, frames are not needed."""
    plain = {plain_name(cell) for cell in header.cells}
    in_seconds = {name for name in _FRAMES if not plain.isdisjoint(_SECONDS[name].names)}
    columns = [
        dataclasses.replace(column, is_needed=column.is_needed and column.name not in in_seconds) for column in _COLUMNS
    ]
    return [*columns, *_SECONDS.values()]


@dataclasses.dataclass(frozen=True, slots=True)
class _Cells:
    """One row below the header."""

    line: int
    by_column: dict[str, str]
    delimiter: str | None
    faults: Faults

    def text(self, name: str) -> str | None:
        value = unicodedata.normalize("NFC", self.by_column.get(name, ""))
        if name == "emotion" and value.casefold() == "none":
            return value  # may be a class
        return None if is_absent(value) else value

    def name(self, name: str) -> str | None:
        """The name of a person or sample: 7.0 is a 7 from a column that some tool treated as numbers."""
        value = self.text(name)
        return value and re.sub(r"^(\d+)\.0$", r"\1", value)

    def frame(self, name: str) -> int | None:
        value = self.text(name)
        found = None if value is None else whole_number(value, delimiter=self.delimiter)
        if value is not None and found is None:
            self.faults.add(f"line {self.line}: {name} is {value!r}; allowed are a frame number as 46, '/' or nothing")
        return found

    def seconds(self, name: str) -> float | None:
        value = self.text(name)
        found = None if value is None else number(value, delimiter=self.delimiter)
        if value is not None and found is None:
            self.faults.add(f"line {self.line}: {name} is {value!r}; allowed are seconds as 1.25, '/' or nothing")
        return found


def _label(cells: _Cells, dataset: str) -> Label | None:
    """The label of a row; None if it says nothing about its input."""
    path = cells.by_column["path"]
    if not path:
        if any(not is_absent(value) for value in cells.by_column.values()):
            cells.faults.add(f"line {cells.line}: path is empty; it names a file or folder next to the label file")
        return None
    subject = cells.name("subject")
    label = Label(
        line=cells.line,
        path=path,
        dataset=dataset,
        subject=Subject(dataset, subject) if subject else None,
        sample=cells.name("sample") or "",
        onset=cells.frame("onset"),
        apex=cells.frame("apex"),
        offset=cells.frame("offset"),
        emotion=cells.text("emotion"),
        action_units=cells.text("action_units"),
        objective_class=cells.text("objective_class"),
        onset_seconds=cells.seconds("onset_seconds"),
        apex_seconds=cells.seconds("apex_seconds"),
        offset_seconds=cells.seconds("offset_seconds"),
    )
    return None if label.is_blank and subject is None else label


def _without_copies(labels: Iterable[Label]) -> list[Label]:
    """Each label once, with a remark on duplicates."""
    kept: dict[Label, Label] = {}
    for label in labels:
        what = dataclasses.replace(label, line=0, remark=None)
        kept[what] = kept[what].remarked(f"line {label.line} says the same, it counts once") if what in kept else label
    return list(kept.values())


def _with_own_names(labels: Iterable[Label]) -> list[Label]:
    """Samples without a name get that of their input; several of one input are distinguished by onset."""
    named = [dataclasses.replace(label, sample=label.sample or label.path) for label in labels]
    counts = Counter((label.subject, label.sample) for label in named if not label.is_blank)

    def onset(label: Label) -> str:
        return f"{label.onset}" if label.onset_seconds is None else f"{label.onset_seconds}s"

    return [
        dataclasses.replace(label, sample=f"{label.sample}_{onset(label)}")
        if counts[label.subject, label.sample] > 1
        else label
        for label in named
    ]
