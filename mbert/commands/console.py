"""The terminal output during a command, and the wording of summaries. Used by the commands only."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import typer

from mbert import MbertError


class Progress:
    """One line on stderr: progress, speed, remaining time. Plain lines without a terminal."""

    _PLAIN_EVERY_SECONDS = 5.0

    def __init__(self, name: str, *, quiet: bool = False) -> None:
        self._name, self._quiet = name, quiet
        self._total = self._done = 0
        self._began = self._told = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self.say(f"{name}: starting ...")  # libraries and plans take seconds before the first figure

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return max(time.monotonic() - self._began, 1e-9)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._quiet:
            typer.echo(text, err=True)

    def begin(self, total: int) -> None:
        """Start the clock, or start it again for the next part; `total` is in the units of `advance`."""
        if self._bar is not None:
            self._bar.stop()
        self._total, self._done, self._began, self._told = total, 0, time.monotonic(), time.monotonic()
        if total and not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn(self._name), BarColumn(), TextColumn("{task.fields[status]}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._name, total=total, status="")
            self._bar.start()

    def advance(self, amount: int, status: str) -> None:
        """Report that some of the work is done."""
        self._done += amount
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, status=status)
        elif time.monotonic() - self._told >= self._PLAIN_EVERY_SECONDS or self._done >= self._total:
            self._told = time.monotonic()
            left = self.seconds * (self._total - self._done) / max(self._done, 1)
            typer.echo(f"{self._name}: {status}, {human_time(left)} left", err=True)


def named_fault(exc: OSError) -> MbertError:
    """A full disk, or an unreadable or read-only file, as an error to report. Re-raises anything else."""
    from mbert.manifests.files import is_fault_of_place

    if exc.filename is None or not is_fault_of_place(exc):
        raise exc
    return MbertError(f"cannot use {exc.filename}: {exc.strerror}; fix that, then run the same command again")


def print_some(lines: Sequence[str], most: int = 10, *, rest: str = "see videos.parquet") -> None:
    """Print lines, indented, and say how many were left out; `rest` says where the others are."""
    for line in lines[:most]:
        typer.echo(f"  {line}")
    if len(lines) > most:
        typer.echo(f"  ... and {len(lines) - most} more: {rest}")


def human_time(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(count: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
