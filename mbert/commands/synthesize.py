"""`mbert synthesize`: videos whose motion is known."""

from typing import Any

import typer

from mbert import api
from mbert.commands.console import Progress, counted, print_some
from mbert.commands.options import JsonOption, SeedOption, WorkersOption, options_of, print_json, print_next

_BY_PRESET = "by the preset"


def _strength(text: str) -> Any:
    return typer.Option(min=0, help=f"{text}; 0: off.", show_default=_BY_PRESET, rich_help_panel="Nuisances")


@options_of(
    api.synthesize,
    photos=typer.Argument(
        exists=True,
        file_okay=False,
        help="Portraits, one per person.",
        show_default="the bundled photo, varied",
    ),
    out="Folder to write the videos, their labels and their true motion to.",
    preset="Difficulty: amplitudes and nuisances (docs/synthetic.md).",
    part="Make only the clips of this part of the fixed split of photos, mbert-synth-v1.",
    emotions="three: disgust, happiness, surprise; five: also anger and sadness.",
    prototypes=typer.Option("--prototypes", help="Always show an emotion with the same units, as in a textbook."),
    subjects_per_photo=typer.Option(
        min=1, help="Pseudo-subjects to make from each photo.", show_default="2; 8 from the bundled photo"
    ),
    clips_per_emotion=typer.Option(min=1, help="Clips per emotion and subject."),
    neutral_clips=typer.Option(min=0, help="Clips without an expression, per subject."),
    label_neutral=typer.Option("--label-neutral", help="List neutral clips in labels.csv, with the emotion neutral."),
    fps=typer.Option(min=30, max=500, help="Frames per second."),
    frame_folders=typer.Option("--frame-folders", help="Write folders of JPEG images instead of H.264 videos."),
    min_amplitude_px=typer.Option(
        help="Smallest motion at the apex, in pixels of a 224 px crop.", show_default=_BY_PRESET
    ),
    max_amplitude_px=typer.Option(help="Largest motion at the apex.", show_default=_BY_PRESET),
    asymmetry=typer.Option(min=0, max=0.99, help="Largest share by which one side of the face may be weaker."),
    noise=_strength("Sensor noise: standard deviation on a scale of 0-255"),
    crf=_strength("Compression, H.264's crf"),
    light=_strength("Slow drift of the light, as a share"),
    flicker=_strength("Flicker of the lamps, as a share"),
    tone=_strength("Slow drift of white balance and gamma, as a share"),
    head_px=_strength("Slow drift of the head, in pixels of the crop"),
    head_degrees=_strength("Slow rotation of the head in the image"),
    blinks=_strength("Blinks per second"),
    gaze_px=_strength("Jumps of the eyes, in pixels of the crop"),
    mouth_px=_strength("Motion of the mouth as in speech, in pixels of the crop"),
    scene_px=_strength("Motion in hair and background, in pixels of the crop"),
    seed=SeedOption,
    workers=WorkersOption,
    overwrite="Delete the synthetic corpus in the folder, then make it again.",
)
def synthesize(options: dict[str, Any], as_json: JsonOption = False) -> None:
    """Make labelled videos of small facial motion from photos of faces, with the true motion of every pixel."""
    with Progress("synthesize") as progress:
        done = 0

        def tell() -> None:
            nonlocal done
            done += 1
            progress.advance(1, f"{counted(done, 'clip')}, {done / progress.seconds:.1f} clips/s")

        summary = api.synthesize(**options, on_note=progress.say, on_plan=progress.begin, on_clip=tell)
    if as_json:
        return print_json(summary)
    from mbert.pipeline.synthetic.synthesize import TRUTH_NAME

    parts = ", ".join(f"{name} {count}" for name, count in summary.subjects_by_part.items())
    typer.echo(
        f"{counted(summary.num_clips, 'clip')} of {counted(summary.num_subjects, 'subject')} ({parts}), "
        f"{summary.num_labelled} with an expression"
    )
    if summary.num_new:
        typer.echo(f"this run made {counted(summary.num_new, 'clip')} in {summary.seconds:.0f} s")
    else:
        typer.echo("nothing new to make")
    if summary.skipped:
        typer.echo(f"{counted(len(summary.skipped), 'photo')} left out:")
        print_some([f"{name}: {reason}" for name, reason in summary.skipped.items()], rest="see synthesis.json")
    typer.echo(f"the true motion is in {options['out'] / TRUTH_NAME}")
    rate = f" --fps {options['fps']}" if options["frame_folders"] else ""
    print_next(summary.folder, f"mbert ingest {options['out']}{rate}")
