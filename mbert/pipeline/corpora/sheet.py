"""Annotation sheets of any spreadsheet format: found by what their header says, not by where it stands."""

import csv
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mbert import ManifestError

SHEET_SUFFIXES = frozenset([".csv", ".xls", ".xlsx"])
_MISSING = frozenset(["", "/", "-", "nan", "none", "n/a"])


@dataclasses.dataclass(slots=True)
class SheetRow:
    """One row below a header. Columns go by their letters and digits alone: `Onset Frame` and `OnsetFrame` are one."""

    line: int  # in the sheet, from 1
    cells: dict[str, str]
    faults: list[str] = dataclasses.field(default_factory=list)

    def text(self, *names: str) -> str | None:
        """The first of some columns that is there and holds something."""
        for name in names:
            if value := self.cells.get(_plain(name), ""):
                return value
        return None

    def number(self, *names: str) -> int | None:
        """A whole number; None where nothing, a slash or the like stands. Anything else is noted in `faults`."""
        value = self.text(*names)
        if value is None or value.casefold() in _MISSING:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not number.is_integer():
            self.faults.append(f"{names[0]} is {value!r}, not a frame number")
            return None
        return int(number)

    @property
    def fault(self) -> str | None:
        """What is wrong with the cells that were asked for."""
        return f"label line {self.line}: {', '.join(self.faults)}" if self.faults else None


def read_sheet(path: Path, header: Sequence[str | tuple[str, ...]], *, sheet: str | None = None) -> list[SheetRow]:
    """The rows below the first row that has all of the `header` columns; empty rows are left out.

    A tuple holds the names that a column has in different editions. All sheets are searched, or those whose name
    contains `sheet`. Raises ManifestError naming file and columns when no sheet has such a row.
    """
    columns = [(name,) if isinstance(name, str) else name for name in header]
    found: list[str] = []
    for name, cells in read_cells(path).items():
        if sheet is not None and sheet.casefold() not in name.casefold():
            continue
        for index, row in enumerate(cells):
            names = [_plain(cell) for cell in row]
            if all(any(_plain(name) in names for name in column) for column in columns):
                return list(_rows_below(names, cells, index))
        found.append(name)
    told = ", ".join(" or ".join(column) for column in columns)
    raise ManifestError(f"{path}: no sheet ({', '.join(found) or 'it has none'}) has a row with the columns {told}")


def columns_by_place(path: Path, sheet: int, columns: Sequence[str]) -> list[SheetRow]:
    """The rows of a sheet without a header, whose columns are named here; empty rows are left out.

    `sheet` counts from 0. Raises ManifestError when the file has not so many.
    """
    sheets = list(read_cells(path).values())
    if sheet >= len(sheets):
        raise ManifestError(f"{path} has {len(sheets)} sheets; sheet {sheet + 1} is needed")
    return list(_rows_below([_plain(name) for name in columns], sheets[sheet], -1))


def read_cells(path: Path) -> dict[str, list[list[str]]]:
    """Every sheet's cells as text. Raises ManifestError when the file cannot be read as a spreadsheet."""
    if path.suffix.lower() == ".csv":
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                return {path.name: [[_text(cell) for cell in row] for row in csv.reader(file)]}
        except (OSError, UnicodeDecodeError, csv.Error) as exc:
            raise ManifestError(f"{path} cannot be read as CSV in UTF-8: {exc}") from exc
    import python_calamine

    try:
        with python_calamine.CalamineWorkbook.from_path(str(path)) as book:
            return {
                name: [[_text(cell) for cell in row] for row in book.get_sheet_by_name(name).to_python()]
                for name in book.sheet_names
            }
    except (python_calamine.CalamineError, OSError, ValueError) as exc:
        raise ManifestError(f"{path} cannot be read as a spreadsheet: {exc}") from exc


def _rows_below(names: Sequence[str], cells: Sequence[Sequence[str]], header: int) -> Iterator[SheetRow]:
    for index in range(header + 1, len(cells)):
        if any(cells[index]):
            # Of columns with the same name, the first counts.
            named = {name: cell for name, cell in reversed(list(zip(names, cells[index], strict=False))) if name}
            yield SheetRow(line=index + 1, cells=named)


def _text(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).replace("\u00a0", " ").strip()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
