"""The cells of a table, whatever wrote it: text with any usual delimiter and encoding, or a spreadsheet.

What kind of file it is says its content, not its suffix. What the columns mean is said by who asks (`columns.py`).
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
# Code pages in which known names are looked for. Without a name to go by, the choice is between the first two.
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
_SOUGHT = 500  # names that a text is searched for in every code page
_AROUND = " \t\r\n\v\f\u00a0\u3000\u200b\u200e\u200f\u202a\u202c\ufeff"  # blanks, and marks that nobody sees


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row that holds something."""

    line: int  # where it begins in its file or sheet, from 1
    cells: tuple[str, ...]  # without blanks around them; the last one is not empty


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A text file, or one sheet of a spreadsheet."""

    name: str
    rows: tuple[Row, ...]
    delimiter: str | None = None  # " ": any blanks; None: a spreadsheet, where cells cannot run together
    remark: str | None = None  # what had to be assumed to read it


def read_sheets(path: Path, *, columns: Collection[str] = (), words: Collection[str] = ()) -> list[Sheet]:
    """Every sheet of a table; a text file has one.

    `columns` are names that a header may have, as `plain_name` gives them: of several possible delimiters, the one that
    separates most of them is meant. `words` are names that may occur, such as paths of inputs: of several possible code
    pages, the one that gives most of them is meant. Raises ManifestError naming the file, and the line where there is
    one.
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
    """What is compared of a column's name: `Onset Frame`, `onset-frame` and ` ONSET_FRAME ` are `onset_frame`."""
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", header).casefold()).strip("_")


def cell_text(cell: Any) -> str:
    """A cell as text, without what cannot be seen around it; a spreadsheet's 46.0 is 46."""
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
    """The text, and what was assumed of its encoding where nothing says it."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content:
        zeros = [content[place::2].count(0) for place in (0, 1)]  # of plain letters, every other byte
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
    # A few Chinese signs in GBK are UTF-8 by chance, so known names count more.
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
    """How many of some names a text holds."""
    text = unicodedata.normalize("NFC", text)
    return sum(name in text for name in names)


def _try(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return None


def _looks_chinese(content: bytes) -> bool:
    """Whether bytes above 127 come as the pairs of Chinese signs, and not as single letters inside of words.

    In Western text they come one by one; two that follow each other, as in Größe, stand between other letters.
    """
    runs = list(re.finditer(rb"(?i)([a-z]?)([\x80-\xff]+)([a-z]?)", content))
    pairs = rb"(?:[\xa1-\xf7][\xa1-\xfe])+"
    if not all(re.fullmatch(pairs, run[2]) for run in runs):
        return False
    inside = sum(len(run[2]) == 2 and bool(run[1] and run[3]) for run in runs)
    return inside < len(runs) / 2


def _delimiter(lines: Sequence[str], columns: Collection[str]) -> tuple[str, int]:
    """What separates the cells, and how many lines say nothing else. " " where none of the usual signs is there."""
    if lines and (said := re.fullmatch(r"\s*sep=(.)\s*", lines[0])):  # a word to Excel
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
    # Strict, as a quote that nobody closes would swallow the lines below it without a word.
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
