"""The cells of a table from any program: text with any usual delimiter and encoding, or a spreadsheet.

The content, not the suffix, determines the kind of file. The caller defines the columns (`columns.py`).
"""

import csv
import dataclasses
import io
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from mbert import ManifestError

DELIMITERS = (",", ";", "\t", "|")
TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx", ".xlsm", ".xls", ".ods")
_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")  # zip (xlsx, ods), compound file (xls)
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# Code pages in which known names are searched. Without any name found, the choice is between the first two.
_CODE_PAGES = {
    "gb18030": "the Chinese code page GB18030 (GBK)",
    "cp1252": "the Western code page 1252",
    "cp1250": "the Central European code page 1250",
    "cp1251": "the Cyrillic code page 1251",
    "cp932": "the Japanese code page 932 (Shift-JIS)",
    "euc_kr": "the Korean code page EUC-KR",
    "big5": "the Chinese code page Big5",
}
_SNIFFED_LINES = 20
_SOUGHT = 500  # names that are searched in every code page
_AROUND = " \t\r\n\v\f\u00a0\u3000\u200b\u200e\u200f\u202a\u202c\ufeff"  # blanks and invisible marks


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One non-empty row."""

    line: int  # where it starts in its file or sheet, from 1
    cells: tuple[str, ...]  # without blanks around them; the last one is not empty


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A text file, or one sheet of a spreadsheet."""

    name: str
    rows: tuple[Row, ...]
    delimiter: str | None = None  # " ": any blanks; None: a spreadsheet, whose cells are unambiguous
    remark: str | None = None  # assumptions made to read it


def read_sheets(path: Path, *, columns: Collection[str] = (), words: Collection[str] = ()) -> list[Sheet]:
    """Every sheet of a table; a text file has one.

    `columns` are possible header names in the form of `plain_name`: of several possible delimiters, the one that
    separates most of them is chosen. `words` are names that may occur, such as paths of inputs: of several possible
    code pages, the one that yields most of them is chosen. Raises ManifestError naming the file, and the line if there
    is one.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ManifestError(f"{path} cannot be read: {exc.strerror}") from exc
    if content.startswith(_SPREADSHEETS):
        return _spreadsheet(path, content)
    text, remark = _decoded(path, content, words)
    lines = io.StringIO(text, newline=None).readlines()
    delimiter, skipped = _delimiter(lines, columns)
    rows = _split_at_blanks(lines) if delimiter == " " else _split(path, lines, delimiter, skipped)
    return [Sheet(name=path.name, rows=tuple(rows), delimiter=delimiter, remark=remark)]


def plain_name(header: str) -> str:
    """The compared form of column names: `Onset Frame`, `onset-frame` and ` ONSET_FRAME ` are `onset_frame`."""
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", header).casefold()).strip("_")


def cell_text(cell: Any) -> str:
    """A cell as text, without surrounding invisible characters; a spreadsheet's 46.0 is 46."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str("" if cell is None else cell).replace("\u00a0", " ").strip(_AROUND)


def _row(line: int, cells: Sequence[Any]) -> Row | None:
    texts = [cell_text(cell) for cell in cells]
    while texts and not texts[-1]:  # spreadsheets pad all lines to the longest one
        texts.pop()
    return Row(line, tuple(texts)) if texts else None


def _spreadsheet(path: Path, content: bytes) -> list[Sheet]:
    import python_calamine

    try:
        with python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(content)) as book:
            sheets = []
            for name in book.sheet_names:
                sheet = book.get_sheet_by_name(name)
                first = (sheet.start or (0, 0))[0] + 1
                found = [_row(first + place, cells) for place, cells in enumerate(sheet.to_python())]
                sheets.append(Sheet(name=name, rows=tuple(row for row in found if row is not None)))
            return sheets
    except (python_calamine.CalamineError, OSError, ValueError) as exc:
        raise ManifestError(f"{path} cannot be read as a spreadsheet: {exc}") from exc


def _decoded(path: Path, content: bytes, words: Collection[str]) -> tuple[str, str | None]:
    """The text, and the assumed encoding if nothing states it."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content:
        zeros = [content[place::2].count(0) for place in (0, 1)]  # for plain letters, every other byte
        if 3 * sum(zeros) < len(content) // 2:
            raise ManifestError(f"{path} is neither a text nor a spreadsheet: save it as CSV in UTF-8, or as .xlsx")
        encoding = "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    if encoding is not None:
        try:
            return content.decode(encoding), None
        except UnicodeDecodeError as exc:
            raise ManifestError(f"{path} is damaged: it is no {encoding} from byte {exc.start} on") from exc
    utf8 = _try(content, "utf-8")
    if utf8 is not None and utf8.isascii():
        return utf8, None
    names = {unicodedata.normalize("NFC", word) for word in words if not word.isascii()}
    # A few Chinese characters in GBK are valid UTF-8 by chance, so known names count more.
    if utf8 is not None and (not names or _count(utf8, names)):
        return utf8, None
    names = set(sorted(names)[:_SOUGHT])
    possible = {name: text for name in _CODE_PAGES if (text := _try(content, name)) is not None}
    found = {name: _count(text, names) for name, text in possible.items()}
    chosen = max(found, key=lambda name: found[name], default="cp1252")
    if not found.get(chosen):
        if utf8 is not None:
            return utf8, None
        chosen = "gb18030" if "gb18030" in possible and _looks_chinese(content) else "cp1252"
    if chosen not in possible:
        raise ManifestError(f"{path} is neither UTF-8 nor in a code page that is known: save it as CSV in UTF-8")
    how = "by the names of the inputs" if found[chosen] else "which is a guess"
    return possible[chosen], (
        f"{path.name} is not UTF-8: read in {_CODE_PAGES[chosen]}, {how}; where names come out wrong, save it as UTF-8"
    )


def _count(text: str, names: Collection[str]) -> int:
    """How many of the names a text contains."""
    text = unicodedata.normalize("NFC", text)
    return sum(name in text for name in names)


def _try(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _looks_chinese(content: bytes) -> bool:
    """Whether bytes above 127 come in the pairs of Chinese characters, not as single letters inside words.

    In Western text they are isolated; two in a row, as in Größe, are surrounded by other letters.
    """
    runs = list(re.finditer(rb"(?i)([a-z]?)([\x80-\xff]+)([a-z]?)", content))
    pairs = rb"(?:[\xa1-\xf7][\xa1-\xfe])+"
    if not all(re.fullmatch(pairs, run[2]) for run in runs):
        return False
    inside = sum(len(run[2]) == 2 and bool(run[1] and run[3]) for run in runs)
    return inside < len(runs) / 2


def _delimiter(lines: Sequence[str], columns: Collection[str]) -> tuple[str, int]:
    """The delimiter, and how many leading lines only state it; " " if there is none of the usual ones."""
    if lines and (said := re.fullmatch(r"\s*sep=(.)\s*", lines[0])):  # an instruction to Excel
        return said[1], 1
    first = [line for line in lines if line.strip()][:_SNIFFED_LINES]

    scores = {delimiter: _score(first, delimiter, columns) for delimiter in DELIMITERS} if first else {}
    best = max(scores, key=lambda delimiter: scores[delimiter], default=" ")
    return (best if scores and max(scores[best]) > 1 else " "), 0


def _score(lines: Sequence[str], delimiter: str, columns: Collection[str]) -> tuple[int, int]:
    """How many known columns one line has under a delimiter, and how many cells the first one has."""
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error:
        return 0, 0
    names = max(sum(plain_name(cell) in columns for cell in row) for row in rows)
    return names, sum(bool(cell.strip()) for cell in rows[0])


def _split_at_blanks(lines: Sequence[str]) -> Iterator[Row]:
    found = (_row(number, line.split()) for number, line in enumerate(lines, start=1))
    yield from (row for row in found if row is not None)


def _split(path: Path, lines: Sequence[str], delimiter: str, skipped: int) -> Iterator[Row]:
    # Strict, because an unclosed quote would silently swallow the lines below it.
    reader = csv.reader(lines[skipped:], delimiter=delimiter, skipinitialspace=True, strict=True)
    last = 0
    try:
        for cells in reader:
            if row := _row(skipped + last + 1, cells):
                yield row
            last = reader.line_num
    except csv.Error as exc:
        raise ManifestError(
            f"{path} line {skipped + last + 1} cannot be read as CSV ({exc}): a quote that begins a cell must end it, "
            'and a quote inside of it is doubled, as in "a ""b"""'
        ) from exc
