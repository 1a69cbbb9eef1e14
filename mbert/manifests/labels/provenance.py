"""`videos.csv`: under which licence and consent each input is kept, where it is from, until when, and who is seen."""

import csv
import dataclasses
import datetime
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.compute as pc

from mbert import ManifestError
from mbert.manifests.labels.people import people_of
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.subject import Subject

VIDEOS_NAME = "videos.csv"  # looked for in the ingested folder, in any case
_TEXTS = ("license", "consent", "source")
VIDEOS_COLUMNS = ("path", *_TEXTS, "retention_until", "subject")


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
        """The row of an input with what this line says."""
        texts = {name: getattr(self, name) for name in (*_TEXTS, "retention_until")}
        return dataclasses.replace(row, **texts, subject=self.person(row.dataset))

    def person(self, dataset: str) -> Subject | None:
        """Who is seen, as a person of the input's dataset."""
        return Subject(people_of(dataset), self.subject) if self.subject else None


def find_videos_table(folder: Path) -> Path | None:
    """The `videos.csv` of a folder. Raises ManifestError where several names differ in case only."""
    try:
        found = sorted(file for file in folder.iterdir() if file.name.casefold() == VIDEOS_NAME and file.is_file())
    except OSError:
        return None
    if len(found) > 1:
        raise ManifestError(f"{folder} holds {' and '.join(file.name for file in found)}: keep one")
    return found[0] if found else None


def read_provenance(path: Path) -> list[Provenance]:
    """The lines of a `videos.csv`; cells may be empty, and columns but `path` absent.

    Raises ManifestError that names the file and the column, the line or the value which cannot be used.
    """
    lines: dict[str, Provenance] = {}
    for number, row in _read(path):
        name = row.get("path", "").replace("\\", "/").removeprefix("./").rstrip("/")
        if not name:
            raise ManifestError(f"{path} line {number}: path is empty; it names a video, a folder, or . for all")
        if name in lines:
            raise ManifestError(f"{path} line {number}: line {lines[name].line} names {name} too: keep one")
        until = row.get("retention_until") or None
        lines[name] = Provenance(
            line=number,
            path=name,
            **{column: row.get(column) or None for column in _TEXTS},
            retention_until=until and _date(path, number, until),
            subject=row.get("subject") or None,
        )
    return list(lines.values())


def _read(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column; lines without any cell are passed over."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip().casefold() for name in next(reader, [])]
            unknown = [name for name in header if name not in VIDEOS_COLUMNS]
            if "path" not in header or unknown:
                wrong = f"has the columns {', '.join(unknown)}" if unknown else "lacks the column path"
                raise ManifestError(f"{path} {wrong}; allowed are {', '.join(VIDEOS_COLUMNS)}")
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=False))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ManifestError(f"{path} cannot be read as CSV in UTF-8: {exc}") from exc


def _date(path: Path, line: int, text: str) -> str:
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date().isoformat()
    except ValueError:
        raise ManifestError(
            f"{path} line {line}: retention_until is {text!r}; a date is written YYYY-MM-DD, as 2027-12-31"
        ) from None


def provenance_of(path: str, lines: Iterable[Provenance]) -> Provenance | None:
    """The line that speaks of an input: its own, else that of the nearest folder above it."""
    by_path = {unicodedata.normalize("NFC", line.path): line for line in lines}
    parts = unicodedata.normalize("NFC", path).split("/")
    above = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((by_path[name] for name in (*above, ".") if name in by_path), None)


def expired(videos: Path, today: datetime.date | None = None) -> list[VideoRow]:
    """The inputs of a `videos.parquet` that may no longer be kept; none where there is no such file."""
    day = (today or datetime.date.today()).isoformat()
    return read_rows(videos, VideoRow, where=pc.field("retention_until") < day) if videos.exists() else []
