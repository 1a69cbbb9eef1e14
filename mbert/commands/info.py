"""`mbert info`: a workspace on one screen."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mbert import api
from mbert.commands.console import counted, human_time
from mbert.commands.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceArgument, print_json

if TYPE_CHECKING:
    from mbert.manifests.overview import Overview

_LABEL = 11  # width of the first column
_MOST_REASONS, _MOST_RUNS = 4, 5


def info(workspace: WorkspaceArgument = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """Show what is in a workspace: inputs, people, faces, labels, pairs, licences, sizes, runs."""
    found = api.info(workspace)
    if as_json:
        return print_json(found)
    width = max(60, min(120, shutil.get_terminal_size((100, 24)).columns))
    for label, text in _lines(found, workspace):
        first = f"{label:{_LABEL}} "
        lines = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first))
        typer.echo("\n".join(lines))
    typer.echo(f"next: {found.next}")
    return None


def _lines(info: Any, workspace: Path) -> Iterator[tuple[str, str]]:
    """The parts of the screen: a label and its text; what there is nothing of is left out."""
    found: Overview = info.overview
    yield "workspace", f"{workspace}: {_sizes(found.num_bytes)}"
    for folder in found.at_work:
        yield "", f"another command is at work in {folder}: these figures will change"
    if not found.statuses:
        yield "inputs", "none yet"
    else:
        yield from _inputs(found)
        yield from _material(found)
        yield from _provenance(found)
    if found.num_clips:
        yield "pairs", _pairs(found)
    yield from _runs(info.runs)
    made = [", ".join(f"{name} {version}" for name, version in each.items()) for each in found.versions]
    yield "versions", f"mbert {info.mbert}" + (f"; ingested with {'; then '.join(made)}" if made else "")


def _inputs(found: "Overview") -> Iterator[tuple[str, str]]:
    total, used = sum(found.statuses.values()), found.statuses.get("ok", 0)
    others = {name: count for name, count in found.statuses.items() if name != "ok"}
    what = f" ({_listed(found.datasets)})" if len(found.datasets) > 1 else ""
    yield "inputs", f"{used} of {total}{what} have faces" + (f": {_listed(others)}" if others else "")
    for number, reason in enumerate(found.reasons[:_MOST_REASONS]):
        yield "rejected" if number == 0 else "", f"{reason.count} {reason.status}: {reason.reason}"
    if len(found.reasons) > _MOST_REASONS:
        rest = sum(reason.count for reason in found.reasons[_MOST_REASONS:])
        yield "", f"{rest} for other reasons: see mbert preview"


def _material(found: "Overview") -> Iterator[tuple[str, str]]:
    """What the inputs with faces are."""
    if not found.num_clips:
        return
    unnamed = f"; {counted(found.clips_without_person, 'clip')} without a subject" if found.clips_without_person else ""
    yield "people", f"{found.people or 'nobody is named'}" + (unnamed if found.people else "")
    yield "video", f"{human_time(found.seconds)}, {found.num_frames} frames; fps {_shares(found.fps)}"
    yield "", f"codec {_shares(found.codecs)}; size {_shares(found.sizes)}"
    if found.remarkable:
        yield "", _named(found.remarkable)
    size = f" of {found.crop_size} px" if found.crop_size else ""
    yield "faces", f"{counted(found.num_clips, 'clip')}, {counted(found.num_crops, 'crop')}{size}"
    texts = {"face_px": "face {} px", "yaw": "yaw {}°", "pitch": "pitch {}°", "jitter_px": "jitter {} px"}
    spreads = []
    for name, each in found.faces.items():
        decimals = 2 if name == "jitter_px" else 0
        median, low, high = (f"{value + 0.0:.{decimals}f}" for value in (each.median, each.low, each.high))
        spreads.append(texts[name].format(f"{_plain(median)} ({_plain(low)} to {_plain(high)})"))
    if spreads:
        yield "", f"{'; '.join(spreads)}: median, and where 90 % lie"
    if found.missing_tars:
        yield "", f"the manifests of {counted(found.missing_tars, 'tar')} of crops are missing"
    if not found.labels:
        yield "labels", "none: mbert labels --template begins a file"
    for number, (dataset, labels) in enumerate(found.labels.items()):
        macro = f", {labels.macro} macro" if labels.macro else ""
        classes = f": {_listed(labels.classes)}" if labels.classes else ""
        text = f"{dataset}: {labels.annotated} micro, {labels.usable} of them usable{macro}{classes}"
        yield "labels" if number == 0 else "", text


def _provenance(found: "Overview") -> Iterator[tuple[str, str]]:
    said = {"licence": found.licenses, "consent": found.consents, "source": found.sources}
    texts = [f"{name} {_listed(counts)}" for name, counts in said.items() if counts]
    if found.num_expired:
        texts.append(f"{counted(found.num_expired, 'input')} past retention_until: mbert forget --expired")
    if found.first_expiry:
        texts.append(f"next to expire: {found.first_expiry}")
    yield "kept under", "; ".join(texts) or "nothing recorded: videos.csv takes licence, consent, source and retention"


def _pairs(found: "Overview") -> str:
    if found.pairs is None:
        return "none yet"
    text = f"{found.pairs.num_pairs} sampled in {counted(found.pairs.num_shards, 'shard')}"
    if found.expressions is not None and found.expressions.num_pairs:
        kinds = ", ".join(f"{count} {name.replace('_', '-')}" for name, count in found.expressions.kinds.items())
        text += f"; {kinds} in {counted(found.expressions.num_shards, 'shard')}"
    return text


def _runs(runs: Iterable[Any]) -> Iterator[tuple[str, str]]:
    every = list(runs)
    if not every:
        yield "runs", "none yet"
    for number, run in enumerate(every[:_MOST_RUNS]):
        loss = "" if run.loss is None else f", loss {run.loss:.4f}"
        step = "" if run.steps is None else f", step {run.step} of {run.steps}"
        uf1 = "" if run.uf1 is None else f", UF1 {run.uf1:.3f}"
        yield "runs" if number == 0 else "", f"{run.name}: {run.kind}, {run.state}{step}{loss}{uf1}"
    if len(every) > _MOST_RUNS:
        yield "", f"and {len(every) - _MOST_RUNS} more: mbert runs"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _named(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _shares(counts: Mapping[str, int]) -> str:
    """`30 (12), 25 (3)`; of one value the value alone."""
    plain = {name.removesuffix(".00"): count for name, count in counts.items()}
    return next(iter(plain)) if len(plain) == 1 else ", ".join(f"{name} ({count})" for name, count in plain.items())


def _plain(number: str) -> str:
    return number.replace("-0", "0") if float(number) == 0 else number


def _sizes(num_bytes: Mapping[str, int]) -> str:
    if not num_bytes:
        return "empty"
    return ", ".join(f"{name} {_told_bytes(count)}" for name, count in num_bytes.items())


def _told_bytes(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
