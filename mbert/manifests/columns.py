"""Tables with named columns: finding the columns, interpreting the cells, and reporting all faults at once."""

import dataclasses
import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from mbert import ManifestError
from mbert.manifests.cells import Row, Sheet, plain_name

_MOST_FAULTS = 20
_MOST_ABOVE = 50  # rows searched for a header
_ABSENT = frozenset(
    (
        "",
        "-",
        "--",
        "\u2013",
        "\u2014",
        "/",
        "\\",
        ".",
        "?",
        "na",
        "n/a",
        "#n/a",
        "#na",
        "#nv",
        "<na>",
        "nan",
        "#nan",
        "null",
        "none",
    )
)
_NUMBER = re.compile(r"\+?\d+(?:\.\d*)?|\+?\.\d+")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column that a table may have, and its other names."""

    name: str
    aliases: tuple[str, ...] = ()  # in the form of `plain_name`, the best first
    is_needed: bool = False
    takes_first: bool = False  # if several exist; otherwise several are an error

    @property
    def names(self) -> tuple[str, ...]:
        """All its names."""
        return (self.name, *self.aliases)


class Faults:
    """The faults of a file, as one error: whoever fixes it needs to know all of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: dict[str, None] = {}

    def add(self, told: str) -> None:
        """One fault, as in `line 3: apex is 'two'`."""
        self._told[told] = None

    def check(self) -> None:
        """Raise ManifestError with all faults; the first 20 in words."""
        told = list(self._told)
        if len(told) == 1:
            raise ManifestError(f"{self._path} {told[0]}")
        if told:
            more = [f"and {len(told) - _MOST_FAULTS} more"] if len(told) > _MOST_FAULTS else []
            lines = "\n  ".join([*told[:_MOST_FAULTS], *more])
            raise ManifestError(f"{self._path} has {len(told)} faults:\n  {lines}")


def find_columns(path: Path, header: Sequence[str], columns: Sequence[Column]) -> dict[str, int]:
    """The position of each column. Raises ManifestError for ambiguous and missing ones."""
    plain = [plain_name(name) for name in header]
    places = {}
    for column in columns:
        found = [name for name in column.names if name in plain]
        if not found:
            continue
        is_clear = column.takes_first or found[0] == column.name or len(found) == 1
        if plain.count(found[0]) > 1 or not is_clear:
            raise ManifestError(
                f"{path} has more than one column that may be the {column.name}: {', '.join(found)}; "
                f"name the one that is meant {column.name!r}"
            )
        places[column.name] = plain.index(found[0])
    missing = [column for column in columns if column.is_needed and column.name not in places]
    if missing:
        raise ManifestError(_told_missing(path, header, missing, columns))
    return places


def _told_missing(path: Path, header: Sequence[str], missing: Sequence[Column], columns: Sequence[Column]) -> str:
    needed = ", ".join(column.name for column in columns if column.is_needed)
    optional = ", ".join(column.name for column in columns if not column.is_needed)
    told = f"{path} lacks the columns {', '.join(column.name for column in missing)}"
    told += "".join(f"; {c.name} may be called {', '.join(c.aliases)}" for c in missing if c.aliases)
    near = [
        f"{name!r} may be meant for {column.name}"
        for column in missing
        for name in header
        if difflib.get_close_matches(plain_name(name), column.names, n=1, cutoff=0.75)
    ]
    told += f"; it has {', '.join(map(repr, header))}"
    told += f" ({'; '.join(near)})" if near else ""
    return f"{told}; it needs {needed} (optional: {optional})"


def has_column(row: Row, columns: Sequence[Column]) -> bool:
    """Whether a row names a column."""
    names = {plain_name(cell) for cell in row.cells}
    return any(name in names for column in columns for name in column.names)


def find_header(sheets: Sequence[Sheet], columns: Sequence[Column]) -> tuple[Sheet, int] | None:
    """The sheet and the index of the first row that names most columns; None if no row names any."""
    best: tuple[int, Sheet, int] | None = None
    for sheet in sheets:
        for place, row in enumerate(sheet.rows[:_MOST_ABOVE]):
            plain = {plain_name(cell) for cell in row.cells}
            named = sum(any(name in plain for name in column.names) for column in columns)
            if named and (best is None or named > best[0]):
                best = (named, sheet, place)
    return best[1:] if best else None


def named_cells(
    rows: Sequence[Row], header: Row, places: dict[str, int], faults: Faults, *, delimiter: str | None
) -> Iterator[tuple[Row, dict[str, str]]]:
    """Each row with its cells by column; a fault for one with too many or too few cells."""
    width = len(header.cells)
    for row in rows:
        if len(row.cells) > width or (delimiter == " " and len(row.cells) < width):
            faults.add(f"line {row.line} {_told_width(row, header, places, delimiter)}")
            continue
        padded = [*row.cells, *[""] * (width - len(row.cells))]
        yield row, {name: padded[place] for name, place in places.items()}


def _told_width(row: Row, header: Row, places: dict[str, int], delimiter: str | None) -> str:
    told = f"has {len(row.cells)} cells, but line {header.line} has {len(header.cells)}: {list(row.cells)}"
    more = len(row.cells) - len(header.cells)
    if delimiter in (None, " ") or more <= 0:
        return told
    start = places.get("path", 0)
    joined = f"{delimiter} ".join(row.cells[start : start + more + 1])
    return f'{told}; a cell that holds {delimiter!r} is written in quotes, as "{joined}" may be'


def is_absent(text: str) -> bool:
    """Whether a cell says that there is nothing: empty, a slash, a dash, NA, #N/A, nan and the like."""
    return text.strip().casefold() in _ABSENT


def number(text: str, *, delimiter: str | None) -> float | None:
    """A number from 0 up as people and spreadsheets write it; None if it is not one, or is ambiguous.

    A decimal comma is read if commas do not separate the cells. Exponents and thousands are not: 1.23E+05, a
    spreadsheet's form of 123456, has lost digits, and 1,234 may be two numbers.
    """
    text = unicodedata.normalize("NFKC", text).strip()
    if "," in text and delimiter not in (",", None) and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    return float(text) if _NUMBER.fullmatch(text) else None


def whole_number(text: str, *, delimiter: str | None) -> int | None:
    """A whole number as `number` reads it, also 46.0 and 46,0; None for any other.

    If commas do not separate the cells, points may separate thousands: then 46.000 and 46,000 are not read.
    """
    if delimiter not in (",", None) and re.search(r"[.,]\d{3}$", text.strip()):
        return None
    value = number(text, delimiter=delimiter)
    return int(value) if value is not None and value.is_integer() else None
