"""Parquet in and out: atomically written, schema checked on reading."""

import contextlib
import dataclasses
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbert import ManifestError
from mbert.manifests.files import replacing
from mbert.manifests.schema import arrow_schema
from mbert.manifests.subject import Subject

Row = TypeVar("Row")


def write_rows(path: Path, row_type: type[Row], rows: Iterable[Row], *, extra: dict[str, str] | None = None) -> None:
    """Write rows of one class as Parquet, atomically. `extra` goes into the file's metadata."""
    write_table(path, to_table(row_type, rows), row_type=row_type, extra=extra)


class RowWriter:
    """Appends rows to an open manifest; memory does not grow with their number."""

    _ROWS_PER_GROUP = 4096

    def __init__(self, file: pq.ParquetWriter, row_type: type[Any]) -> None:
        self._file = file
        self._row_type = row_type
        self._rows: list[Any] = []
        self.num_rows = 0

    def add(self, rows: Sequence[Any]) -> None:
        """Append some rows."""
        self._rows += rows
        self.num_rows += len(rows)
        if len(self._rows) >= self._ROWS_PER_GROUP:
            self._flush()

    def finish(self, extra: dict[str, str]) -> None:
        """Write the remaining rows; `extra` goes into the file's metadata."""
        self._flush()
        self._file.add_key_value_metadata(extra)

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(to_table(self._row_type, self._rows))
            self._rows = []


@contextlib.contextmanager
def writing_rows(path: Path, row_type: type[Any]) -> Iterator[RowWriter]:
    """Write a manifest row by row; it only appears under its name on success. End with `finish`."""
    schema = arrow_schema(row_type)  # type: ignore[arg-type]
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
        yield RowWriter(file, row_type)


def to_table(row_type: type[Row], rows: Iterable[Row]) -> pa.Table:
    """Rows as an Arrow table with the schema of their class."""
    schema: pa.Schema = arrow_schema(row_type)  # type: ignore[arg-type]
    rows = list(rows)
    return pa.table(
        {name: pa.array([getattr(row, name) for row in rows], schema.field(name).type) for name in schema.names},
        schema=schema,
    )


def write_table(path: Path, table: pa.Table, *, row_type: type, extra: dict[str, str] | None = None) -> None:
    """Write a table that has the columns of `row_type`, atomically."""
    schema = arrow_schema(row_type)
    table = table.select(schema.names).cast(schema)
    table = table.replace_schema_metadata({**(schema.metadata or {}), **(extra or {})})
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(
    path: Path | BinaryIO, row_type: type, *, columns: Sequence[str] | None = None, where: pc.Expression | None = None
) -> pa.Table:
    """Read some columns of a manifest; raises ManifestError if it is missing, damaged or of another schema."""
    _checked_metadata(path, row_type)
    if not isinstance(path, Path):
        path.seek(0)
    return pq.read_table(path, columns=None if columns is None else list(columns), filters=where)


def read_rows(path: Path | BinaryIO, row_type: type[Row], *, where: pc.Expression | None = None) -> list[Row]:
    """Read a whole manifest as rows of its class. For manifests of videos and clips; frames and pairs stay tables."""
    return to_rows(row_type, read_table(path, row_type, where=where))


def iterate_rows(path: Path, row_type: type[Row]) -> Iterator[Row]:
    """The rows of a manifest one after the other, with a few thousand in memory at a time."""
    _checked_metadata(path, row_type)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096):
            yield from to_rows(row_type, pa.Table.from_batches([batch]))


def to_rows(row_type: type[Row], table: pa.Table) -> list[Row]:
    """The rows of a table that has the columns of their class. Inverse of `to_table`."""
    hints = typing.get_type_hints(row_type)
    subjects = {name for name, hint in hints.items() if Subject in (hint, *typing.get_args(hint))}
    names = [field.name for field in dataclasses.fields(row_type)]  # type: ignore[arg-type]
    return [row_type(**{name: _typed(value[name], name in subjects) for name in names}) for value in table.to_pylist()]


def _typed(value: Any, is_subject: bool) -> Any:
    if is_subject and value is not None:
        return Subject.parse(value)
    return tuple(value) if isinstance(value, list) else value


def read_extra(path: Path, row_type: type, key: str) -> str:
    """Read one entry of a manifest's own metadata; raises ManifestError if it is absent."""
    try:
        return str(_checked_metadata(path, row_type)[key.encode()].decode())
    except KeyError:
        raise ManifestError(f"{path} has no metadata entry {key!r}; it was not written by this tool") from None


def _checked_metadata(path: Path | BinaryIO, row_type: type) -> dict[bytes, bytes]:
    """The metadata of a manifest, whose schema must match its rows."""
    expected = arrow_schema(row_type)
    try:
        with pq.ParquetFile(path) as file:
            found, metadata = file.schema_arrow, file.metadata.metadata or {}
    except FileNotFoundError as exc:
        raise ManifestError(f"{path} does not exist") from exc
    except (pa.ArrowInvalid, OSError) as exc:
        raise ManifestError(f"{path} cannot be read as Parquet: {exc}") from exc
    want = expected.metadata[b"mbert_schema"].decode()
    have = metadata.get(b"mbert_schema", b"none").decode()
    if have != want or not found.equals(expected):
        raise ManifestError(
            f"{path} has schema {have!r}, this version of mbert reads {want!r}: "
            "run `mbert ingest` and `mbert shard --pairs` again with --overwrite, or use the mbert that wrote it"
        )
    return dict(metadata)
