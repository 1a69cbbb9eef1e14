"""Predictions of any program: a table with or without header, the log of the MEGC challenges, or Parquet."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mbert import ManifestError
from mbert.manifests.cells import Row, Sheet, cell_text, read_sheets
from mbert.manifests.columns import Column, Faults, find_columns, has_column, named_cells
from mbert.manifests.labels.people import people_of
from mbert.manifests.subject import Subject

_COLUMNS = (
    Column(name="dataset", aliases=("db", "database")),
    Column(name="subject", aliases=("subject_id", "sub"), is_needed=True),
    Column(name="clip", aliases=("key", "clip_id", "sample", "filename"), takes_first=True),
    Column(name="label", aliases=("gt", "truth", "ground_truth", "y_true", "emotion"), is_needed=True),
    Column(name="prediction", aliases=("pred", "predicted", "y_pred"), is_needed=True),
)
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
    """The prediction for one sample. Label and prediction are text, casefolded: `0` and `0.0` are two classes."""

    dataset: str | None  # casefolded
    subject: str  # `<dataset>/<id>` if the dataset is known, so that equal ids of two datasets stay two people
    clip: str | None
    label: str
    prediction: str


def read_predictions(path: Path) -> list[Prediction]:
    """Read predictions in the order of the file.

    Tables are read like label files, and also with blanks between the cells. Without a header, four columns are
    subject, clip, label, prediction, and five have the dataset before them. In a log, a line of two words gives dataset
    and subject for the following lines of three words, clip, label and prediction. Raises ManifestError naming the line
    for a file that is none of these, an empty cell, and a clip that a subject has twice.
    """
    predictions = []
    faults = Faults(path)
    seen: dict[tuple[str | None, str, str], str] = {}
    for where, cells in _rows(path, faults):
        if empty := [name for name, value in cells.items() if not value]:
            faults.add(f"{where}: {empty[0]} is empty; fill it in, or leave out a column that is optional")
            continue
        prediction = _prediction(cells)
        if prediction.clip is not None:
            first = seen.setdefault((prediction.dataset, prediction.subject, prediction.clip), where)
            if first != where:
                faults.add(
                    f"{where}: clip {prediction.clip!r} of subject {prediction.subject} is already in {first}; "
                    "a sample is scored once, so give each expression a clip name of its own"
                )
        predictions.append(prediction)
    faults.check()
    if not predictions:
        raise ManifestError(f"{path} holds no predictions; {_FORMS}")
    return predictions


def _prediction(cells: dict[str, str]) -> Prediction:
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


def _rows(path: Path, faults: Faults) -> Iterator[tuple[str, dict[str, str]]]:
    """(place in the file, cells by column) of each sample."""
    if _is_parquet(path):
        return _parquet_rows(path)
    return _sheet_rows(path, read_sheets(path, columns={name for column in _COLUMNS for name in column.names}), faults)


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as exc:
        raise ManifestError(f"{path} cannot be read: {exc.strerror}") from exc


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = find_columns(path, names, _COLUMNS)
            table = file.read(columns=[names[index] for index in columns.values()])
    except (pa.ArrowInvalid, OSError) as exc:
        raise ManifestError(f"{path} cannot be read as Parquet: {exc}") from exc
    for number, row in enumerate(table.to_pylist(), start=1):
        yield f"row {number}", {name: cell_text(row[names[index]]) for name, index in columns.items()}


def _sheet_rows(path: Path, sheets: Sequence[Sheet], faults: Faults) -> Iterator[tuple[str, dict[str, str]]]:
    sheet = next((sheet for sheet in sheets if sheet.rows), None)
    if sheet is None:
        return
    first, rows = sheet.rows[0], sheet.rows
    if has_column(first, _COLUMNS):
        columns, rows = find_columns(path, first.cells, _COLUMNS), rows[1:]
    elif len(_words(first)) == 2:
        yield from _log_rows(path, rows)
        return
    elif len(first.cells) in _WITHOUT_HEADER:
        columns = {name: index for index, name in enumerate(_WITHOUT_HEADER[len(first.cells)])}
    else:
        raise ManifestError(
            f"{path} line {first.line} has {len(first.cells)} cells and names no column: {list(first.cells)}; {_FORMS}"
        )
    for row, cells in named_cells(rows, first, columns, faults, delimiter=sheet.delimiter):
        yield f"line {row.line}", cells


def _log_rows(path: Path, rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, str]]]:
    dataset = subject = ""
    num_samples: dict[int, int] = {}  # of the subject named in a line
    for row in rows:
        number = row.line
        match _words(row):
            case [dataset, subject]:
                latest = number
                num_samples[latest] = 0
            case [clip, label, prediction]:
                num_samples[latest] += 1
                cells = {"dataset": dataset, "subject": subject, "clip": clip, "label": label, "prediction": prediction}
                yield f"line {number}", cells
            case words:
                raise ManifestError(
                    f"{path} line {number} has {len(words)} words: {' '.join(row.cells)!r}; a line of a log is "
                    "'dataset subject' or 'clip label prediction'"
                )
    bare = [number for number, samples in num_samples.items() if not samples]
    if bare:
        raise ManifestError(
            f"{path} line {bare[0]} has two words, which name dataset and subject, but no sample follows; "
            "take it out, or complete it to 'clip label prediction'"
        )


def _words(row: Row) -> list[str]:
    return re.findall(r"[^\s,;]+", " ".join(row.cells))
