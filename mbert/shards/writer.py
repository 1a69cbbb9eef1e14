"""Write a tar that is either complete under its own name or not there at all."""

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mbert.manifests.store import replacing

_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE


class TarWriter:
    """Appends members to an open file; the same members give the same bytes (no time, no owner)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0
        self.num_members = 0

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Append one member. Returns the byte range (offset, size) of `data` in the tar."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mtime = 0
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self._position + _BLOCK
        self._file.write(data)
        self._file.write(bytes(-len(data) % _BLOCK))
        self._position = offset + len(data) + (-len(data) % _BLOCK)
        self.num_members += 1
        return offset, len(data)

    def finish(self) -> None:
        """Write the end-of-archive blocks, padded to a whole record as other tars are."""
        self._file.write(bytes(2 * _BLOCK))
        self._file.write(bytes(-(self._position + 2 * _BLOCK) % _RECORD))


@contextlib.contextmanager
def writing_tar(path: Path) -> Iterator[TarWriter]:
    """Write the tar at `path`. It appears under its name on success only, and never without a member."""
    with contextlib.suppress(_NothingWritten), replacing(path) as temporary:
        with temporary.open("wb", buffering=1 << 20) as file:
            writer = TarWriter(file)
            yield writer
            writer.finish()
        if not writer.num_members:
            raise _NothingWritten


class _NothingWritten(Exception):
    """Takes the temporary file away on the same path as an error does."""
