"""How paths are written in manifests, and how two of them are compared."""

import os
import unicodedata
from pathlib import Path


def relative_path(root: Path, path: Path) -> str:
    """A path as manifests and labels write it: relative to the ingested folder, with forward slashes.

    Parquet and CSV only hold UTF-8. A byte of a name that is not UTF-8 becomes `%` and two hexadecimal digits:
    `%C4%E3.mp4`.
    """
    return escaped(os.path.relpath(path, root).replace(os.sep, "/"))


def escaped(text: str) -> str:
    """Text that contains names, with bytes that are not UTF-8 escaped as in `relative_path`."""
    return os.fsencode(text).decode("utf-8", "surrogateescape").translate(_ESCAPES)


_ESCAPES = {0xDC00 + byte: f"%{byte:02X}" for byte in range(128, 256)}  # by Python's code for a stray byte


def normalized(path: str) -> str:
    """The compared form of a path: macOS stores an accent as a separate character, other systems do not."""
    return unicodedata.normalize("NFC", path)
