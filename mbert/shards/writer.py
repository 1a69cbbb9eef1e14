"""Write a tar that is either complete under its own name or does not exist."""

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mbert.manifests.files import replacing

Data = bytes | memoryview

TAR_HASH_ENTRY = "mbert_tar_sha256"  # in the metadata of the twin
_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE


_PLAIN_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # no name, size 0, time 0, no owner
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)
_PLAIN_SUM = sum(_PLAIN_HEADER[: _SIZE.start] + _PLAIN_HEADER[_SIZE.stop : _CHECKSUM.start] + b" " * 8) + sum(
    _PLAIN_HEADER[_CHECKSUM.stop :]
)
_PADDING = [bytes(size) for size in range(_BLOCK)]


def _header(name: str, size: int) -> bytes:
    """The output of `TarInfo.tobuf`, in a fortieth of the time: only name, size and checksum differ between members."""
    encoded = name.encode()
    if len(encoded) > _NAME.stop:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT)
    digits = b"%011o" % size
    checksum = b"%06o\0 " % (_PLAIN_SUM + sum(encoded) + sum(digits))
    return b"".join(
        (
            encoded.ljust(_NAME.stop, b"\0"),
            _PLAIN_HEADER[_NAME.stop : _SIZE.start],
            digits,
            b"\0",
            _PLAIN_HEADER[_SIZE.stop : _CHECKSUM.start],
            checksum,
            _PLAIN_HEADER[_CHECKSUM.stop :],
        )
    )


class TarWriter:
    """Appends members to an open file; the same members give the same bytes (no time, no owner)."""

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._position = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of all bytes written so far, in hex."""
        return self._hash.hexdigest()

    def add(self, name: str, data: Data) -> tuple[int, int]:
        """Append one member. Returns the byte range (offset, size) of `data` in the tar."""
        return self.add_all([(name, data)])[0]

    def add_all(self, members: Sequence[tuple[str, Data]]) -> list[tuple[int, int]]:
        """Append some members at once; returns their byte ranges."""
        ranges = []
        parts: list[Data] = []
        position = self._position
        for name, data in members:
            size = len(data)
            parts += (_header(name, size), data, _PADDING[-size % _BLOCK])
            ranges.append((position + _BLOCK, size))
            position += _BLOCK + size + -size % _BLOCK
        self._write(parts)
        return ranges

    def finish(self) -> None:
        """Write the end-of-archive blocks, padded to a whole record like other tars."""
        self._write([bytes(2 * _BLOCK)])
        self._write([bytes(-self._position % _RECORD)])

    def _write(self, parts: list[Data]) -> None:
        size = sum(map(len, parts))
        # One system call and no copy: the frames go from the page cache to the page cache.
        written = os.writev(self._descriptor, parts)
        if written != size:  # a signal, or a full disk: write reports which
            rest = memoryview(b"".join(parts))[written:]
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        for part in parts:
            self._hash.update(part)
        self._position += size


@contextlib.contextmanager
def writing_tar(path: Path) -> Iterator[TarWriter]:
    """Write the tar at `path`. It only appears under its name on success."""
    with replacing(path) as temporary, temporary.open("wb", buffering=0) as file:
        writer = TarWriter(file)
        yield writer
        writer.finish()
