"""Annotation sheets of any spreadsheet format: found by the content of their header, not by its position."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mbert import ManifestError
from mbert.manifests.cells import Row, plain_name, read_sheets
from mbert.manifests.columns import is_absent, whole_number

SHEET_SUFFIXES = frozenset([".csv", ".xls", ".xlsx"])


@dataclasses.dataclass(slots=True)
class SheetRow:
    """One row below a header. Only letters and digits of column names count: `Onset Frame` equals `OnsetFrame`."""

    line: int  # in the sheet, from 1
    cells: dict[str, str]
    faults: list[str] = dataclasses.field(default_factory=list)

    def text(self, *names: str) -> str | None:
        """The text of the first of `names` that exists and is not empty."""
        for name in names:
            if value := self.cells.get(_plain(name), ""):
                return value
        return None

    def number(self, *names: str) -> int | None:
        """A whole number; None for an empty cell, a slash or the like. Anything else is noted in `faults`."""
        value = self.text(*names)
        if value is None or is_absent(value):
            return None
        number = whole_number(value, delimiter=None)
        if number is None:
            self.faults.append(f"{names[0]} is {value!r}, not a frame number")
        return number

    @property
    def fault(self) -> str | None:
        """What is wrong with the requested cells."""
        return f"label line {self.line}: {', '.join(self.faults)}" if self.faults else None


def read_sheet(path: Path, header: Sequence[str | tuple[str, ...]], *, sheet: str | None = None) -> list[SheetRow]:
    """The rows below the first row that has all of the `header` columns; empty rows are left out.

    A tuple holds the names that a column has in different editions. All sheets are searched, or those whose name
    contains `sheet`. Raises ManifestError naming file and columns if no sheet has such a row.
    """
    columns = [(name,) if isinstance(name, str) else name for name in header]
    found: list[str] = []
    wanted = {plain_name(name) for column in columns for name in column}
    for each in read_sheets(path, columns=wanted):
        if sheet is not None and sheet.casefold() not in each.name.casefold():
            continue
        for place, row in enumerate(each.rows):
            names = [_plain(cell) for cell in row.cells]
            if all(any(_plain(name) in names for name in column) for column in columns):
                return list(_named(names, each.rows[place + 1 :]))
        found.append(each.name)
    told = ", ".join(" or ".join(column) for column in columns)
    raise ManifestError(f"{path}: no sheet ({', '.join(found) or 'it has none'}) has a row with the columns {told}")


def columns_by_place(path: Path, sheet: int, columns: Sequence[str]) -> list[SheetRow]:
    """The rows of a sheet without a header, with columns named by `columns`; empty rows are left out.

    `sheet` counts from 0. Raises ManifestError if the file has fewer sheets.
    """
    sheets = read_sheets(path)
    if sheet >= len(sheets):
        raise ManifestError(f"{path} has {len(sheets)} sheets; sheet {sheet + 1} is needed")
    return list(_named([_plain(name) for name in columns], sheets[sheet].rows))


def _named(names: Sequence[str], rows: Sequence[Row]) -> Iterator[SheetRow]:
    for row in rows:
        # Of columns with the same name, the first counts.
        cells = {name: cell for name, cell in reversed(list(zip(names, row.cells, strict=False))) if name}
        yield SheetRow(line=row.line, cells=cells)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
