"""Rows and summaries as pandas tables, if pandas is installed; it is not a dependency."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from mbert import ConfigError

if typing.TYPE_CHECKING:
    import pandas


class HasTable(typing.Protocol):
    """A summary that has a table."""

    def table(self) -> list[dict[str, Any]]:
        """Its rows, columns by name."""


def to_pandas(rows: Any) -> "pandas.DataFrame":
    """Rows of one class, dictionaries, or a summary with a `table` as a DataFrame.

    Raises ConfigError if pandas is not installed, or if `rows` is not a table.
    """
    try:
        import pandas
    except ImportError as exc:
        raise ConfigError("tables need pandas: pip install pandas") from exc
    if hasattr(rows, "table"):
        return pandas.DataFrame(rows.table())
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        if all(dataclasses.is_dataclass(row) for row in rows):
            return pandas.DataFrame([dataclasses.asdict(row) for row in rows])
        if all(isinstance(row, dict) for row in rows):
            return pandas.DataFrame(rows)
    raise ConfigError(
        f"{type(rows).__name__} has no table; rows are expected, as in CorpusFrames.clips, or a summary with a table, "
        "as that of evaluate"
    )
