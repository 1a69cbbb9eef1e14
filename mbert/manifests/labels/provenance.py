"""`videos.csv`: the licence and consent under which each input is kept, its source, until when, and who is shown."""

import dataclasses
import datetime
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc

from mbert import ManifestError
from mbert.manifests.cells import plain_name, read_sheets
from mbert.manifests.columns import Column, Faults, find_columns, is_absent, named_cells
from mbert.manifests.labels.inputs import plain_path
from mbert.manifests.labels.people import people_of
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.subject import Subject

VIDEOS_NAME = "videos.csv"  # searched in the ingested folder, in any case
_TEXTS = ("license", "consent", "source")
VIDEOS_COLUMNS = ("path", *_TEXTS, "retention_until", "subject")
_COLUMNS = [Column(name=name, is_needed=name == "path") for name in VIDEOS_COLUMNS]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """One line of `videos.csv`."""

    line: int
    path: str  # of an input or of a folder of inputs, relative to the ingested folder; `.` for all of them
    license: str | None = None
    consent: str | None = None
    source: str | None = None
    retention_until: str | None = None  # YYYY-MM-DD
    subject: str | None = None  # without the prefix of its dataset

    def applied(self, row: VideoRow) -> VideoRow:
        """The row of an input with the facts of this line."""
        texts = {name: getattr(self, name) for name in (*_TEXTS, "retention_until")}
        return dataclasses.replace(row, **texts, subject=self.person(row.dataset))

    def person(self, dataset: str) -> Subject | None:
        """Who is shown, as a person of the input's dataset."""
        return Subject(people_of(dataset), self.subject) if self.subject else None


def find_videos_table(folder: Path) -> Path | None:
    """The `videos.csv` of a folder. Raises ManifestError if several names differ only in case."""
    try:
        found = sorted(file for file in folder.iterdir() if file.name.casefold() == VIDEOS_NAME and file.is_file())
    except OSError:
        return None
    if len(found) > 1:
        raise ManifestError(f"{folder} holds {' and '.join(file.name for file in found)}: keep one")
    return found[0] if found else None


def read_provenance(path: Path) -> list[Provenance]:
    """Read the lines of a `videos.csv`, as tolerantly as labels; cells may be empty, and columns except `path` missing.

    Raises ManifestError naming the file and all lines, columns and values that cannot be used.
    """
    sheet = read_sheets(path, columns=VIDEOS_COLUMNS)[0]
    if not sheet.rows:
        raise ManifestError(f"{path} is empty; it needs a header: {', '.join(VIDEOS_COLUMNS)}")
    header, *rows = sheet.rows
    places = find_columns(path, header.cells, _COLUMNS)
    if unknown := [name for name in header.cells if name and plain_name(name) not in VIDEOS_COLUMNS]:
        raise ManifestError(f"{path} has the columns {', '.join(unknown)}; allowed are {', '.join(VIDEOS_COLUMNS)}")
    faults = Faults(path)
    lines: dict[str, Provenance] = {}
    for row, cells in named_cells(rows, header, places, faults, delimiter=sheet.delimiter):
        texts = {name: None if is_absent(cell) else cell for name, cell in cells.items()}
        name = plain_path(cells["path"]).removeprefix("/") if cells["path"] else ""
        if not name:
            faults.add(f"line {row.line}: path is empty; it names a video, a folder, or . for all")
        elif name in lines:
            faults.add(f"line {row.line}: line {lines[name].line} names {name} too: keep one")
        else:
            until = texts.pop("retention_until", None)
            told = {**texts, "path": name, "retention_until": until and _date(row.line, until, faults)}
            lines[name] = Provenance(line=row.line, **told)  # type: ignore[arg-type]
    faults.check()
    return list(lines.values())


def _date(line: int, text: str, faults: Faults) -> str | None:
    try:
        return datetime.datetime.strptime(text.split(" ")[0], "%Y-%m-%d").date().isoformat()
    except ValueError:
        faults.add(f"line {line}: retention_until is {text!r}; a date is written YYYY-MM-DD, as 2027-12-31")
        return None


def provenance_of(path: str, lines: Iterable[Provenance]) -> Provenance | None:
    """The line for an input: its own, else that of the nearest folder above it."""
    by_path = {unicodedata.normalize("NFC", line.path): line for line in lines}
    parts = unicodedata.normalize("NFC", path).split("/")
    above = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((by_path[name] for name in (*above, ".") if name in by_path), None)


def expired(videos: Path, today: datetime.date | None = None) -> list[VideoRow]:
    """The inputs of a `videos.parquet` that may no longer be kept; empty if there is no such file."""
    day = (today or datetime.date.today()).isoformat()
    return read_rows(videos, VideoRow, where=pc.field("retention_until") < day) if videos.exists() else []
