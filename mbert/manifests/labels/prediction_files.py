"""Predictions of any program: CSV with or without header, the log of the MEGC challenges, or Parquet."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mbert import ManifestError
from mbert.manifests.labels.people import people_of
from mbert.manifests.subject import Subject

# Names of each column, ours first. Spaces, hyphens and capitals in a header do not matter.
_NAMES = {
    "dataset": ("dataset", "db", "database"),
    "subject": ("subject", "subject_id", "sub"),
    "clip": ("clip", "key", "clip_id", "sample", "filename"),
    "label": ("label", "gt", "truth", "ground_truth", "y_true", "emotion"),
    "prediction": ("prediction", "pred", "predicted", "y_pred"),
}
_NEEDED = ("subject", "label", "prediction")
_WITHOUT_HEADER = {
    5: ("dataset", "subject", "clip", "label", "prediction"),
    4: ("subject", "clip", "label", "prediction"),
}
_FORMS = (
    "allowed are a table whose header names subject, label, prediction (optional: dataset, clip); a table without "
    "header, 'dataset,subject,clip,label,prediction' or 'subject,clip,label,prediction'; and a log with a line "
    "'dataset subject' before the lines 'clip label prediction' of that subject"
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What was predicted for one sample. Label and prediction are text, casefolded: `0` and `0.0` are two classes."""

    dataset: str | None  # casefolded
    subject: str  # `<dataset>/<id>` where the dataset is known, so that equal ids of two datasets stay two people
    clip: str | None
    label: str
    prediction: str


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions in the order of the file.

    Text is UTF-8, with commas, tabs, semicolons or spaces between the cells. Without a header, four columns are
    subject, clip, label, prediction, and five have the dataset before them. In a log a line of two words names dataset
    and subject of the lines of three words, clip, label and prediction, that follow. Raises ManifestError naming the
    line for a file that is none of these, an empty cell, and a clip that a subject has twice.
    """
    predictions = []
    seen: dict[tuple[str | None, str, str], str] = {}
    for where, cells in _rows(path):
        prediction = _prediction(path, where, cells)
        if prediction.clip is not None:
            first = seen.setdefault((prediction.dataset, prediction.subject, prediction.clip), where)
            if first != where:
                raise ManifestError(
                    f"{path} {where}: clip {prediction.clip!r} of subject {prediction.subject} is already in {first}; "
                    "a sample is scored once, so give each expression a clip name of its own"
                )
        predictions.append(prediction)
    if not predictions:
        raise ManifestError(f"{path} holds no predictions; {_FORMS}")
    return predictions


def _prediction(path: Path, where: str, cells: dict[str, str]) -> Prediction:
    for name, value in cells.items():
        if not value:
            raise ManifestError(f"{path} {where}: {name} is empty; fill it in, or leave out a column that is optional")
    dataset = cells["dataset"].casefold() if "dataset" in cells else None
    subject = cells["subject"]
    if dataset is not None:
        given = Subject.parse(subject)
        is_prefixed = given.dataset.casefold() in (dataset, people_of(dataset))
        # Releases of the same people share their dataset, so that an interval counts each person once.
        subject = Subject(people_of(dataset), given.id if is_prefixed else subject)
    return Prediction(
        dataset=dataset,
        subject=subject,
        clip=cells.get("clip"),
        label=cells["label"].casefold(),
        prediction=cells["prediction"].casefold(),
    )


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place in the file, cells by column) of each sample."""
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ManifestError(f"{path} cannot be read: {exc.strerror}") from exc
    if content.startswith(b"PAR1"):
        return _parquet_rows(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ManifestError(f"{path} is neither Parquet nor text in UTF-8: {exc}; save it as CSV in UTF-8") from exc
    return _text_rows(path, io.StringIO(text, newline=None).readlines())


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = _find_columns(path, names)
            table = file.read(columns=[names[index] for index in columns.values()])
    except (pa.ArrowInvalid, OSError) as exc:
        raise ManifestError(f"{path} cannot be read as Parquet: {exc}") from exc
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", {name: _text(row[names[index]]) for name, index in columns.items()}


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _text_rows(path: Path, lines: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    rows = list(_split(path, lines))
    if not rows:
        return
    first_line, first = rows[0]
    if any(_plain(cell) in names for cell in first for names in _NAMES.values()):
        columns, rows = _find_columns(path, first), rows[1:]
    elif len(_words(lines[first_line - 1])) == 2:
        yield from _log_rows(path, lines)
        return
    elif len(first) in _WITHOUT_HEADER:
        columns = {name: index for index, name in enumerate(_WITHOUT_HEADER[len(first)])}
    else:
        raise ManifestError(f"{path} line {first_line} has {len(first)} cells and names no column: {first}; {_FORMS}")
    for line, cells in rows:
        if len(cells) > len(first):
            raise ManifestError(
                f"{path} line {line} has {len(cells)} cells, but line {first_line} has {len(first)}: {cells}"
            )
        padded = [*cells, *[""] * (len(first) - len(cells))]
        yield f"line {line}", {name: padded[index] for name, index in columns.items()}


def _split(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is not blank. What separates the cells follows from the first such line."""
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.strip().count)
    if delimiter not in first.strip():
        yield from ((number, line.split()) for number, line in enumerate(lines, start=1) if line.strip())
        return
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:  # spreadsheets pad all lines to the longest one
                cells.pop()
            if cells:
                yield reader.line_num, cells
    except csv.Error as exc:
        raise ManifestError(f"{path} line {reader.line_num} cannot be read as CSV: {exc}") from exc


def _log_rows(path: Path, lines: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    dataset = subject = ""
    num_samples: dict[int, int] = {}  # of the subject that a line names
    for number, line in enumerate(lines, start=1):
        match _words(line):
            case []:
                pass
            case [dataset, subject]:
                latest = number
                num_samples[latest] = 0
            case [clip, label, prediction]:
                num_samples[latest] += 1
                cells = {"dataset": dataset, "subject": subject, "clip": clip, "label": label, "prediction": prediction}
                yield f"line {number}", cells
            case words:
                raise ManifestError(
                    f"{path} line {number} has {len(words)} words: {line.strip()!r}; a line of a log is "
                    "'dataset subject' or 'clip label prediction'"
                )
    bare = [number for number, samples in num_samples.items() if not samples]
    if bare:
        raise ManifestError(
            f"{path} line {bare[0]} has two words, which name dataset and subject, but no sample follows; "
            "take it out, or complete it to 'clip label prediction'"
        )


def _words(line: str) -> list[str]:
    return re.findall(r"[^\s,;]+", line)


def _find_columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Where each column lies. Another column that could as well be meant is an error, but for the clip."""
    plain = [_plain(name) for name in header]
    columns = {}
    for column, names in _NAMES.items():
        found = [name for name in names if name in plain]
        if not found:
            continue
        if plain.count(found[0]) > 1 or (len(found) > 1 and column not in ("clip", found[0])):
            raise ManifestError(
                f"{path} has more than one column that may be the {column}: {', '.join(found)}; "
                f"name the one that is meant {column!r}"
            )
        columns[column] = plain.index(found[0])
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        allowed = "; ".join(f"{name} may be called {', '.join(_NAMES[name][1:])}" for name in missing)
        raise ManifestError(f"{path} lacks the columns {', '.join(missing)}; {allowed}")
    return columns


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())
