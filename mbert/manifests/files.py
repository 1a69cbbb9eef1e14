"""Files that are written completely or not at all, JSON in and out, and folders locked by a command."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mbert import ManifestError, MbertError

_WRITE_FAULTS = frozenset(
    [
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR),  # a file in place of a folder, or vice versa
    ]
)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is synced and renamed, on an exception it is removed.

    Raises MbertError if the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming_write_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming_write_faults(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an MbertError that says what to do."""
    try:
        yield
    except OSError as exc:
        if not is_fault_of_place(exc):
            raise
        reason = os.strerror(exc.errno or 0)
        raise MbertError(f"cannot write {path}: {reason}; fix that, then run the same command to resume") from exc


def is_fault_of_place(exc: OSError) -> bool:
    """Whether the cause is a full, unreadable or read-only disk, not the program."""
    return exc.errno in _WRITE_FAULTS


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_differences(found: Mapping[str, Any], requested: Mapping[str, Any], owner: str) -> str:
    """Where saved options differ from those requested: `size: corpus 224, requested 112; ...`, or an empty string."""
    return "; ".join(
        f"{name}: {owner} {found.get(name)}, requested {value}"
        for name, value in requested.items()
        if found.get(name) != value
    )


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder for this process.

    The lock is the operating system's: it ends with the process, in any case. Raises ManifestError if another process
    is using the folder, MbertError if it is not writable or its file system has no locks.
    """
    import fcntl

    with naming_write_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ManifestError(
                f"another mbert command is at work in {folder}: wait for it, or use another folder"
            ) from exc
        except OSError as exc:
            raise MbertError(f"{folder} cannot be locked: {exc.strerror}; use a folder on another file system") from exc
        yield


def is_locked(folder: Path) -> bool:
    """Whether another process holds the folder's lock right now."""
    import fcntl

    try:
        with (folder / ".lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock, or locks are not supported
        return False
    return False


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, atomically."""
    with replacing(path) as temporary:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        # Names may hold bytes that are not UTF-8; JSON escapes them.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Read JSON; raises ManifestError if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ManifestError(f"{path} does not exist") from exc
    except ValueError as exc:
        raise ManifestError(f"{path} is not valid JSON: {exc}") from exc
