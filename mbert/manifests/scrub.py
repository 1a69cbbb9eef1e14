"""Removing names from the small files that commands leave: JSON, lines, tables."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbert.manifests.files import replacing

GONE = "(forgotten)"
_TEXTS = frozenset([".json", ".jsonl", ".csv", ".html", ".md", ".txt", ".log", ".yaml"])
_NAMING = ("video_id", "clip_id", "key", "path", "subject")  # columns that identify whose row it is


class Scrubber:
    """Removes some names, and keys that begin with some ids, from files."""

    def __init__(self, *, ids: Collection[str], names: Collection[str]) -> None:
        parts = [rf"{re.escape(id)}(?![a-z0-9-])[a-z0-9_-]*" for id in ids]
        parts += [re.escape(name) for name in sorted(names, key=len, reverse=True)]
        self._pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(parts)})(?![\w-])") if parts else re.compile(r"(?!)")

    def is_named(self, text: str) -> bool:
        """Whether a text is one of the names, or belongs to one of the inputs."""
        return self._pattern.fullmatch(text) is not None

    def value(self, value: Any) -> Any:
        """JSON without the names: removed from lists and object keys, and blanked out in texts."""
        if isinstance(value, dict):
            return {self.text(name): self.value(each) for name, each in value.items() if not self.is_named(name)}
        if isinstance(value, list):
            return [self.value(each) for each in value if not (isinstance(each, str) and self.is_named(each))]
        return self.text(value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        """A text with the names blanked out."""
        return self._pattern.sub(GONE, text)

    def file(self, file: Path) -> bool:
        """Remove the names from a file; returns whether it had any. Raises MbertError if it cannot be written."""
        if file.suffix == ".parquet":
            return self._table(file)
        if file.suffix not in _TEXTS:
            return False
        before = file.read_text(encoding="utf-8", errors="surrogateescape")
        if file.suffix == ".json":
            try:
                value = json.loads(before)
            except ValueError:
                after = self.text(before)
            else:
                if (clean := self.value(value)) == value:
                    return False
                after = json.dumps(clean, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        elif file.suffix in (".jsonl", ".csv"):
            lines = before.splitlines(keepends=True)
            after = "".join(line for line in lines if not self._pattern.search(line))
        else:
            after = self.text(before)
        if after == before:
            return False
        with replacing(file) as temporary:
            temporary.write_text(after, encoding="utf-8", errors="surrogateescape")
        return True

    def _table(self, file: Path) -> bool:
        table = pq.read_table(file)
        kept = pa.array([True] * len(table))
        for name in set(_NAMING) & set(table.column_names):
            named = [text is not None and self.is_named(str(text)) for text in table[name].to_pylist()]
            kept = pc.and_(kept, pc.invert(pa.array(named, pa.bool_())))
        if kept.true_count == len(table):
            return False
        with replacing(file) as temporary:
            pq.write_table(table.filter(kept), temporary)
        return True
