"""`mbert ingest`: raw video to aligned face frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from mbert import api
from mbert.commands.console import Progress, counted, human_time, print_some
from mbert.commands.options import (
    AddressOption,
    BitDepthOption,
    EngineOption,
    FpsOption,
    JsonOption,
    RateOption,
    WorkersOption,
    WorkspaceOption,
    options_of,
    print_json,
    print_next,
    report_expired,
)

_LISTED = 5


@options_of(
    api.ingest,
    folder=typer.Argument(exists=True, help="Videos and frame folders, nested; labels.csv optional."),
    workspace=WorkspaceOption,
    align="How to align: auto takes one transform for a clip in which the head is still, else a smooth track; "
    "frame is for comparison only.",
    size=typer.Option(min=32, max=1024, help="Width and height of a crop, in pixels."),
    jpeg_quality=typer.Option(
        min=1, max=100, help="JPEG quality of the crops: 75 needs 40 % of the bytes of 95, and 100 twice as many."
    ),
    faces="Faces to follow at the same time: all, largest, or a number.",
    landmarker="MediaPipe's face mesh, or face-alignment's 68 points.",
    landmarker_model=typer.Option(
        exists=True, dir_okay=False, help="A face_landmarker.task file.", show_default="bundled weights"
    ),
    landmark_hz="Landmark measurements per second of video.",
    decoder="FFmpeg's libraries, or the ffmpeg program.",
    hwaccel="Decode on hardware: a name from `ffmpeg -hwaccels`. Needs --decoder ffmpeg.",
    filters=typer.Option("--filter", help="A filter graph, as for `ffmpeg -vf`. Needs --decoder ffmpeg."),
    fps=FpsOption,
    rate=RateOption,
    bit_depth=BitDepthOption,
    dataset="Layout of FOLDER: auto, videos, or the name of a dataset (docs/datasets.md).",
    name=typer.Option(help="Prefix of the ids of your own videos.", show_default="videos"),
    distribution="Which distribution of the dataset to read; auto reads raw where it exists.",
    labels=typer.Option(
        exists=True,
        dir_okay=False,
        help="labels.csv, a spreadsheet with its columns, or the annotation sheet of a dataset.",
        show_default="found by its name",
    ),
    errata="Correct known mistakes in annotations (docs/datasets.md).",
    workers=WorkersOption,
    engine=EngineOption,
    address=AddressOption,
    timeout="Per-input timeout, in seconds.",
    limit=typer.Option(min=1, help="Ingest at most this many inputs, then stop."),
    retry_failed="Retry the inputs that failed, and no others.",
    redo=typer.Option(
        "--redo/--no-redo", help="Ingest an input again if its clips cut through a label that was added later."
    ),
    overwrite="Delete what was ingested from FOLDER, then ingest it again.",
    page=typer.Option("--page/--no-page", help="Make the page of the corpus, as mbert preview does."),
    dry_run="Report what would be done and how long it may take, then stop.",
)
def ingest(options: dict[str, Any], as_json: JsonOption = False) -> None:
    """Turn raw face video into aligned face crops with manifests."""
    progress = Progress("ingest")
    from mbert.pipeline.corpora.videos import count_suffixes
    from mbert.pipeline.ingest_summary import Going, IngestEstimate, IngestPlan, IngestSummary, Outcome

    if options["dry_run"]:
        estimate = api.ingest(**options)
        assert isinstance(estimate, IngestEstimate)
        if as_json:
            return print_json(estimate)
        typer.echo(
            f"{estimate.num_to_do} of {counted(estimate.num_inputs, 'input')} to do, {estimate.num_bytes / 1e6:.0f} MB"
        )
        for line in _told_redone(estimate.redone, "would be ingested again"):
            typer.echo(line)
        if estimate.tried:
            typer.echo("tried on the first frames of:")
            print_some([f"{path}: {result}" for path, result in estimate.tried.items()])
        if estimate.seconds is not None:
            typer.echo(f"about {human_time(estimate.seconds)} with {counted(estimate.workers, 'worker')}")
        typer.echo(f"nothing was written to {estimate.corpus}; next: the same command without --dry-run")
        return None
    with progress:
        counts = {"done": 0, "failed": 0, "frames": 0}
        told: dict[str, Going] = {}  # of the inputs in progress

        def begin(plan: IngestPlan) -> None:
            counts["total"] = plan.num_to_do
            for note in (*plan.notes, *_told_redone(plan.redone, "are ingested again")):
                progress.say(note)
            progress.begin(plan.num_bytes + plan.num_to_do)

        def advance(num_bytes: int) -> None:
            rate = (counts["frames"] + sum(going.num_frames for going in told.values())) / progress.seconds
            status = f"{counts['done']}/{counts['total']} inputs, {counts['failed']} failed, {rate:.0f} frames/s"
            progress.advance(num_bytes, status)

        def note_going(going: Going) -> None:
            before = told.get(going.video_id)
            told[going.video_id] = going
            advance(going.num_bytes - (before.num_bytes if before else 0))

        def note_outcome(outcome: Outcome) -> None:
            before = told.pop(outcome.video.video_id, None)
            counts["done"] += 1
            counts["failed"] += outcome.video.status != "ok"
            counts["frames"] += outcome.video.num_frames or 0
            advance(outcome.video.num_bytes + 1 - (before.num_bytes if before else 0))

        summary = api.ingest(**options, on_plan=begin, on_outcome=note_outcome, on_going=note_going)
    report_expired(Path(options["workspace"]))
    assert isinstance(summary, IngestSummary)
    if as_json:
        return print_json(summary)
    done = summary.statuses.get("ok", 0)
    rate = summary.num_frames_decoded / max(summary.seconds, 1e-9)
    typer.echo(
        f"{done} of {counted(sum(summary.statuses.values()), 'input')} have faces: "
        f"{counted(summary.num_clips, 'clip')}, {counted(summary.num_crops, 'crop')}"
    )
    if summary.num_new:
        typer.echo(
            f"this run: {counted(summary.num_new, 'input')}, {summary.num_frames_decoded} frames, {rate:.0f} frames/s"
        )
    else:
        typer.echo("nothing new to ingest")
    if summary.failures:
        by_status = ", ".join(f"{count} {name}" for name, count in sorted(summary.statuses.items()) if name != "ok")
        typer.echo(f"without crops ({by_status}):")
        print_some([f"{path}: {reason}" for path, reason in summary.failures.items()])
        retried = " with --retry-failed" if set(summary.statuses) - {"ok", "pending", "missing"} else ""
        typer.echo(f"when they are fixed: the same command{retried}")
    if summary.remarks:
        typer.echo("notes (column reason of videos.parquet):")
        print_some([f"{path}: {remark}" for path, remark in summary.remarks.items()])
    for line in _told_redone(summary.redone, "were ingested again"):
        typer.echo(line)
    if summary.labels_path:
        typer.echo(
            f"labels: {summary.num_labels_in_clips} of {counted(summary.num_labels, 'label')} are in a clip, from "
            f"{summary.labels_path}"
        )
    if summary.label_changes:
        gone = "" if summary.labels_path or not summary.label_changes.removed else "; there is no label file any more"
        typer.echo(f"changes of labels: {summary.label_changes}{gone}")
    if summary.label_remarks:
        typer.echo(f"{counted(summary.label_remarks, 'label')} cannot be used as written: see mbert labels")
    if summary.forgotten:
        count = len(summary.forgotten)
        what = "1 input is not ingested: it was" if count == 1 else f"{count} inputs are not ingested: they were"
        typer.echo(f"{what} forgotten (mbert forget --lift PATH allows it again):")
        print_some(list(summary.forgotten), rest="all with --json")
    if summary.vanished:
        typer.echo("no longer there, their crops are kept:")
        print_some(list(summary.vanished))
    if summary.changed:
        typer.echo("changed since they were ingested, the crops are of the earlier content:")
        print_some(list(summary.changed))
        typer.echo(
            "where these are other recordings: move them to a folder of their own and ingest that; "
            "where they replace the earlier ones: mbert forget PATH, then the same command again"
        )
    if summary.ignored:
        typer.echo(
            f"{counted(len(summary.ignored), 'file')} of other kinds not read ({count_suffixes(summary.ignored)}), the "
            f"first is {summary.ignored[0]}"
        )
    if summary.page:
        typer.echo(f"open {summary.page}: what was lost where, crops to look at, quality")
    print_next(summary.corpus, "mbert shard --pairs")


def _told_redone(paths: Sequence[str], what: str) -> list[str]:
    if not paths:
        return []
    listed = ", ".join(paths[:_LISTED]) + (", ..." if len(paths) > _LISTED else "")
    return [f"{counted(len(paths), 'input')} {what}, as labels lie across the cuts of their clips: {listed}"]
