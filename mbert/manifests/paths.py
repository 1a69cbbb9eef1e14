"""Paths as they are compared."""

import unicodedata


def normalized(path: str) -> str:
    """A path in NFC: macOS writes `é` as a letter and an accent, other systems as one sign."""
    return unicodedata.normalize("NFC", path)
