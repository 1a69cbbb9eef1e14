"""Labels of a corpus, next to what is published; and a label file to fill in."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mbert import ConfigError
from mbert.commands.console import counted, print_some
from mbert.commands.options import (
    DEFAULT_WORKSPACE,
    JsonOption,
    WorkspaceOption,
    print_json,
    print_next,
    workspace_of,
)

if TYPE_CHECKING:
    from mbert.manifests.labels.differences import LabelDifference
    from mbert.manifests.labels.report import Counts, DatasetReport, LabelReport

_MOST_DIFFERENCES = 20


def labels(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    show_all: Annotated[bool, typer.Option("--all", help="Print every difference, not the first 20.")] = False,
    template: Annotated[
        bool,
        typer.Option("--template", help="Instead, write a labels.csv to fill in, with a line for each ingested input."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="File to write the template to.", show_default="labels.csv in the ingested folder"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing label file with the template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare samples and subjects of each class with the published counts, and list every difference."""
    from mbert.manifests.labels.report import report_labels

    if template:
        return _write_template(workspace, out, overwrite=overwrite, as_json=as_json)
    if out is not None or overwrite:
        raise ConfigError("--out and --overwrite belong to --template")

    report = report_labels(workspace_of(workspace))
    if as_json:
        return print_json(report)
    rows = list(_rows(report))
    width = max(len(name) for name, _, _ in rows)
    typer.echo(f"{'':{width}}  {'usable':>7} {'annotated':>10} {'published':>10}")
    for name, counts, note in rows:
        published = " or ".join(map(str, counts.published)) or "-"
        typer.echo(f"{name:{width}}  {counts.usable:7} {counts.annotated:10} {published:>10}  {note}".rstrip())
    for dataset in report.datasets:
        typer.echo(f"{dataset.dataset}: {', '.join(_notes(dataset))}")
    for protocol in report.protocols:
        if protocol.missing:
            here = ", ".join(f"{name} {counts.usable}" for name, counts in protocol.datasets.items())
            what = "with action units" if protocol.class_map is None else "with a class"
            typer.echo(f"{protocol.protocol}: {here} {what}; it also needs {', '.join(protocol.missing)}")
    lines = [*map(_told, report.differences), *report.count_differences]
    if lines:
        typer.echo(
            f"{counted(len(report.differences), 'difference')} from the annotation, "
            f"{len(report.count_differences)} from published counts:"
        )
        print_some(lines, len(lines) if show_all else _MOST_DIFFERENCES, rest="mbert labels --all")
    for error in report.errors:
        typer.secho(f"error: {error}", fg="red")
    print_next(report.corpus, _next_step(report))
    return None


def _write_template(workspace: Path, out: Path | None, *, overwrite: bool, as_json: bool) -> None:
    from mbert.manifests.labels.template import write_template
    from mbert.pipeline.corpora.registry import CORPORA

    written = write_template(workspace_of(workspace), published=CORPORA, out=out, overwrite=overwrite)
    if as_json:
        return print_json(written)
    for file, count in written.files.items():
        typer.echo(f"wrote {file}: {counted(count, 'input')}, one line each")
    if written.num_left_out:
        typer.echo(
            f"left out: {counted(written.num_left_out, 'input')} of published datasets, or no longer in their folder"
        )
    typer.echo(
        "fill in onset, apex and offset (frames from 0; or name the columns onset_seconds, ... and write seconds), and "
        "emotion; copy a line for each further expression; lines that stay empty are no labels"
    )
    where = f" --labels {out}" if out else ""
    print_next(", ".join(written.files), f"the same mbert ingest again{where}, then mbert labels")
    return None


def _rows(report: "LabelReport") -> Iterator[tuple[str, "Counts", str]]:
    """Name, counts and a note of each line of the table."""
    for dataset in report.datasets:
        yield dataset.dataset, dataset.samples, "; ".join(filter(None, (dataset.standing, dataset.remark)))
        yield "  subjects", dataset.subjects, ""
    for item in report.classes:
        note = "; ".join(filter(None, (item.standing, item.remark)))
        yield f"{item.dataset} / {item.class_map}", item.samples, note
        if item.samples.annotated:
            for name, counts in item.classes.items():
                yield f"  {name}", counts, ""
            yield "  subjects", item.subjects, ""
    for protocol in report.protocols:
        if not protocol.missing:
            yield f"{protocol.protocol} / {protocol.class_map or 'action units'}", protocol.samples, ""
            for name, counts in protocol.datasets.items():
                yield f"  {name}", counts, ""
            yield "  subjects", protocol.subjects, ""


def _notes(dataset: "DatasetReport") -> Iterator[str]:
    yield "annotated as " + (", ".join(f"{name} {count}" for name, count in dataset.emotions.items()) or "no emotion")
    if dataset.num_macro:
        yield f"{counted(dataset.num_macro, 'macro-expression')} next to them"
    if dataset.num_apexes_missing:
        yield f"{dataset.num_apexes_missing} usable without an annotated apex (see mbert shard --apex)"
    for erratum, count in dataset.errata.items():
        yield f"erratum {erratum} applied to {counted(count, 'label')}"
    if dataset.num_unlabelled:
        yield f"{counted(dataset.num_unlabelled, 'input')} unlabelled"


def _told(difference: "LabelDifference") -> str:
    who = difference.subject or difference.dataset
    return f"{who} {difference.sample} (line {difference.line}): {difference.kind}: {difference.what}"


def _next_step(report: "LabelReport") -> str:
    kinds = {difference.kind for difference in report.differences}
    if "pending" in kinds:
        return "run the same mbert ingest again, it is not done"
    if report.errors or not report.num_usable:
        files = ", ".join(report.annotations) or "the labels"
        return f"fix {files} or the inputs, then run the same mbert ingest again"
    if kinds & {"missing", "failed", "no face"}:
        return "mbert shard --pairs, or fix the inputs named above and run mbert ingest again"
    return "mbert shard --pairs"
