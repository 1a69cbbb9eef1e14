"""`mbert predict`: any face video in; what moved, when and how sure out."""

from typing import Any

import typer

from mbert import api
from mbert.commands.console import Progress, counted, human_time, print_some
from mbert.commands.options import (
    BitDepthOption,
    FpsOption,
    JsonOption,
    RateOption,
    WorkersOption,
    options_of,
    print_json,
)


@options_of(
    api.predict,
    video=typer.Argument(exists=True, help="A video, a frame folder, or a folder of them."),
    out="Folder to write tables and pages to.",
    per_minute="False alarms to accept per minute of a still face; fewer is stricter.",
    faces="Faces to follow at the same time: all, largest, or a number.",
    model=typer.Option(exists=True, help="Checkpoint or run.", show_default="built in"),
    classifier=typer.Option(exists=True, help="A run of mbert train finetune or mbert eval, to name emotions."),
    overlay=typer.Option("--overlay/--no-overlay", help="Draw what was found over a copy of the video."),
    embed_video="Put a small copy of the video into the page.",
    fps=FpsOption,
    rate=RateOption,
    bit_depth=BitDepthOption,
    decoder="FFmpeg's libraries, or the ffmpeg program.",
    workers=WorkersOption,
    overwrite="Predict again what is already there.",
)
def predict(options: dict[str, Any], as_json: JsonOption = False) -> None:
    """Find what moves in the faces of a video; write tables, files for ELAN and Praat, an overlay and a page."""
    with Progress("predict") as progress:
        frames: dict[str, int] = {}
        counts = {"ingested": 0}

        def note_ingested(outcome: Any) -> None:
            counts["ingested"] += 1
            progress.say(f"predict: {outcome.video.path}: {outcome.video.reason or 'faces found'}")

        def advance(video: str, num_frames: int) -> None:
            before = sum(frames.values())
            frames[video] = max(frames.get(video, 0), num_frames)
            done = sum(frames.values())
            progress.advance(done - before, f"{done} frames, {done / progress.seconds:.0f} frames/s")

        run = api.predict(
            **options,
            on_plan=lambda num_videos, num_frames: progress.begin(num_frames),
            on_ingested=note_ingested,
            on_progress=advance,
        )
    if as_json:
        print_json(run)
        return _end(run)
    typer.echo(
        f"{counted(len(run.folders), 'video')} of {run.num_videos}, {run.num_new} new, {run.num_frames} frames in "
        f"{human_time(run.seconds)}"
    )
    found = run.counts
    typer.echo(
        f"{counted(found.get('micro', 0), 'micro movement')}, {found.get('macro', 0)} macro "
        f"({found.get('doubtful', 0)} of both in doubt: speech, blink, head, ...), "
        f"{counted(found.get('blink', 0), 'blink')}, {found.get('speech', 0)} stretches of speech"
    )
    if run.failures:
        typer.echo("without predictions:")
        print_some([f"{path}: {reason}" for path, reason in run.failures.items()], rest="see the page")
    if run.page:
        typer.echo(f"open {run.page}")
    return _end(run)


def _end(run: Any) -> None:
    """Without any result the command has failed."""
    if not run.folders:
        raise typer.Exit(1)
