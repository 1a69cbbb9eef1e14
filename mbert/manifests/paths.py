"""How paths are written in manifests, and how two of them are compared."""

import os
import unicodedata
from pathlib import Path


def relative_path(root: Path, path: Path) -> str:
    """A path as manifests and labels write it: relative to the ingested folder, with forward slashes.

    Parquet and CSV hold UTF-8 only. A byte of a name that is none is written as `%` and two hexadecimal digits:
    `%C4%E3.mp4`.
    """
    return escaped(os.path.relpath(path, root).replace(os.sep, "/"))


def escaped(text: str) -> str:
    """Text with names in it, with what `relative_path` writes for bytes that are no UTF-8."""
    return os.fsencode(text).decode("utf-8", "surrogateescape").translate(_ESCAPES)


_ESCAPES = {0xDC00 + byte: f"%{byte:02X}" for byte in range(128, 256)}  # by what Python makes of a stray byte


def normalized(path: str) -> str:
    """What is compared of a path: macOS writes an accent as a character of its own, other systems do not."""
    return unicodedata.normalize("NFC", path)
