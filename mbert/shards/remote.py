"""Bytes behind a URL: ranged reads that survive a broken connection, and a cache of whole files."""

import dataclasses
import fcntl
import hashlib
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mbert import ConfigError, ShardError
from mbert.manifests.files import naming_write_faults, replacing

Result = TypeVar("Result")

_LARGEST_PIECE = 8 << 20  # bytes of one request
_SMALLEST_PIECE = 32 << 10  # small enough for a connection that keeps breaking
_PIECE_DIVISOR = 8
_WORTH_ANOTHER_TRY = frozenset([408, 425, 429])  # among the HTTP statuses 400 to 499


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """The patience of reads: `tries` in a row without a byte, with doubling pauses."""

    tries: int = 5
    first_pause_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.tries < 1 or self.first_pause_seconds < 0:
            raise ConfigError(f"{self} is not possible: at least 1 try, and no pause below 0 s")


def is_url(where: str) -> bool:
    """Whether this is a URL; `file://` counts as a path."""
    return "://" in where and not where.startswith("file://")


def read_range(url: str, start: int, stop: int | None, *, retry: Retry) -> bytes:
    """The bytes `[start, stop)` of a file, or fewer if it ends earlier. None: to its end.

    A connection that breaks is reopened where it broke, with smaller requests. Raises ShardError naming URL and reason
    if the file is missing, or if several tries in a row give no byte.
    """
    size = file_size(url, retry=retry)
    return b"".join(_pieces(url, start, size if stop is None else min(stop, size), retry, may_send_all=False))


def file_size(url: str, *, retry: Retry) -> int:
    """The size in bytes; raises ShardError as `read_range` does."""
    size = _tried(url, lambda files, path: files.info(path)["size"], retry)
    if size is None:
        raise ShardError(f"the server of {url} does not say how large it is: copy the shards to a disk")
    return int(size)


def fetch_file(url: str, cache: Path, *, retry: Retry) -> Path:
    """The path of a whole file in the cache, downloaded if needed; several processes may call this at once.

    The cache grows by the size of the file and is never cleared here. Raises ShardError as `read_range` does,
    MbertError if the disk is full.
    """
    digest = hashlib.sha256(url.rpartition("/")[0].encode()).hexdigest()[:16]
    target = cache / digest / url.rpartition("/")[2]
    if target.exists():
        return target
    with naming_write_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process downloads, the others wait for its file
        if not target.exists():
            size = file_size(url, retry=retry)
            with replacing(target) as temporary, temporary.open("wb") as file:
                _fetch_into(file, url, size, retry)
    return target


def _fetch_into(file: BinaryIO, url: str, size: int, retry: Retry) -> None:
    for piece in _pieces(url, 0, size, retry, may_send_all=True):
        file.write(piece)
    if file.tell() != size:
        raise ShardError(f"{url} gave {file.tell()} of {size} bytes")


def _pieces(url: str, start: int, stop: int, retry: Retry, *, may_send_all: bool) -> Iterator[bytes]:
    """Consecutive pieces of `[start, stop)`. A server without ranges sends everything at once, if allowed."""
    largest = _LARGEST_PIECE

    def ask_for_less() -> None:
        nonlocal largest
        largest = max(largest // _PIECE_DIVISOR, _SMALLEST_PIECE)

    while start < stop:

        def read(files: Any, path: str, start: int = start) -> bytes:
            return bytes(files.cat_file(path, start=start, end=min(stop, start + largest)))

        piece = _tried(url, read, retry, on_failure=ask_for_less)
        if len(piece) > min(stop - start, largest):
            if not (may_send_all and start == 0 and len(piece) == stop):
                raise ShardError(f"the server of {url} sends whole files instead of ranges: use a cache folder")
        elif not piece:
            return
        yield piece
        start += len(piece)


def _tried(
    url: str, action: Callable[[Any, str], Result], retry: Retry, *, on_failure: Callable[[], None] = lambda: None
) -> Result:
    files, path = _file_system(url)
    for number in range(retry.tries):
        try:
            return action(files, path)
        except _transient_errors() as exc:
            if reason := _final_reason(exc):
                raise ShardError(f"{url} cannot be read: {reason}") from exc
            if number + 1 == retry.tries:
                raise ShardError(f"{url} cannot be read after {retry.tries} tries: {_plain(exc)}") from exc
        on_failure()
        time.sleep(retry.first_pause_seconds * 2**number)
    raise AssertionError("a retry has at least one try")


def _file_system(url: str) -> tuple[Any, str]:
    """From fsspec on each call: it caches them itself, one per process, because they do not survive a fork."""
    try:
        files, path = importlib.import_module("fsspec.core").url_to_fs(url)
    except ImportError as exc:
        raise ConfigError(f"reading {url} needs another package ({exc}): pip install 'mbert[remote]'") from exc
    except ValueError as exc:
        raise ConfigError(f"{url} cannot be read: {exc}") from exc
    return files, path


def _transient_errors() -> tuple[type[Exception], ...]:
    """Errors that file systems raise when a network fails; their libraries are loaded by then."""
    kinds: list[type[Exception]] = [OSError, EOFError, TimeoutError]
    for module, name in (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError")):
        if module in sys.modules:
            kinds.append(getattr(sys.modules[module], name))
    return tuple(kinds)


def _final_reason(exc: BaseException) -> str | None:
    """Why another try is useless, or None. fsspec hides server failures behind FileNotFoundError."""
    cause = exc.__cause__ if isinstance(exc, FileNotFoundError) and exc.__cause__ is not None else exc
    status = getattr(cause, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in _WORTH_ANOTHER_TRY:
        return "there is no such file (404)" if status == 404 else _plain(cause)
    if isinstance(cause, PermissionError):
        return f"permission denied ({_plain(cause)})"
    if isinstance(exc, FileNotFoundError) and (cause is exc or type(cause).__module__.startswith("botocore")):
        return "there is no such file"
    return None


def _plain(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}".rstrip(": ")
