"""Write a tar that is either complete under its own name or not there at all."""

import contextlib
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mbert.manifests.store import replacing

TAR_HASH_ENTRY = "mbert_tar_sha256"  # in the metadata of the twin
_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE


_PLAIN_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # no name, size 0, time 0, no owner
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)


def _header(name: str, size: int) -> bytes:
    """What `TarInfo.tobuf` gives, at a twentieth of the time: only name, size and checksum differ between members."""
    encoded = name.encode()
    if len(encoded) > _NAME.stop:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT)
    header = bytearray(_PLAIN_HEADER)
    header[: len(encoded)] = encoded
    header[_SIZE] = b"%011o\0" % size
    header[_CHECKSUM] = b" " * 8
    header[_CHECKSUM] = b"%06o\0 " % sum(header)
    return bytes(header)


class TarWriter:
    """Appends members to an open file; the same members give the same bytes (no time, no owner)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all bytes written so far, in hex."""
        return self._hash.hexdigest()

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Append one member. Returns the byte range (offset, size) of `data` in the tar."""
        offset = self._position + _BLOCK
        self._write(b"".join((_header(name, len(data)), data, bytes(-len(data) % _BLOCK))))
        return offset, len(data)

    def finish(self) -> None:
        """Write the end-of-archive blocks, padded to a whole record as other tars are."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._position % _RECORD))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._position += len(data)


@contextlib.contextmanager
def writing_tar(path: Path) -> Iterator[TarWriter]:
    """Write the tar at `path`. It appears under its name on success only."""
    with replacing(path) as temporary, temporary.open("wb", buffering=1 << 20) as file:
        writer = TarWriter(file)
        yield writer
        writer.finish()
