"""`mbert synthesize`: videos whose motion is known."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mbert.commands.console import Progress, counted, print_some
from mbert.commands.options import JsonOption, SeedOption, WorkersOption, print_json, print_next

_BY_PRESET = "by the preset"


def _strength(text: str) -> Any:
    return typer.Option(min=0, help=f"{text}; 0: off.", show_default=_BY_PRESET, rich_help_panel="Nuisances")


def synthesize(
    photos: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            file_okay=False,
            help="Portraits, one of each person.",
            show_default="the bundled photo, varied",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the videos, their labels and their truth.")] = Path("videos"),
    preset: Annotated[
        Literal["easy", "standard", "hard"], typer.Option(help="Amplitudes and nuisances (docs/synthetic.md).")
    ] = "standard",
    part: Annotated[
        Literal["all", "pretrain", "train", "test"],
        typer.Option(help="Of the fixed split of photos, mbert-synth-v1: make these clips only."),
    ] = "all",
    emotions: Annotated[
        Literal["three", "five"],
        typer.Option(help="Disgust, happiness, surprise; five: anger and sadness besides."),
    ] = "three",
    prototypes: Annotated[
        bool, typer.Option("--prototypes", help="Show each emotion by the same units always, as in a textbook.")
    ] = False,
    subjects_per_photo: Annotated[
        int | None,
        typer.Option(min=1, help="Pseudo-subjects made of a photo.", show_default="2; of the bundled photo 8"),
    ] = None,
    clips_per_emotion: Annotated[int, typer.Option(min=1, help="Clips of each emotion, per subject.")] = 4,
    neutral_clips: Annotated[int, typer.Option(min=0, help="Clips without an expression, per subject.")] = 2,
    label_neutral: Annotated[
        bool, typer.Option("--label-neutral", help="List neutral clips in labels.csv, with the emotion neutral.")
    ] = False,
    fps: Annotated[int, typer.Option(min=30, max=500, help="Frames per second.")] = 100,
    frame_folders: Annotated[
        bool, typer.Option("--frame-folders", help="Write folders of JPEG images instead of H.264 videos.")
    ] = False,
    min_amplitude_px: Annotated[
        float | None,
        typer.Option(help="Smallest motion at the apex, in pixels of a 224 px crop.", show_default=_BY_PRESET),
    ] = None,
    max_amplitude_px: Annotated[
        float | None, typer.Option(help="Largest motion at the apex.", show_default=_BY_PRESET)
    ] = None,
    asymmetry: Annotated[
        float, typer.Option(min=0, max=0.99, help="A side of the face may be weaker by this share.")
    ] = 0.3,
    noise: Annotated[float | None, _strength("Noise of the sensor, standard deviation, 0-255")] = None,
    crf: Annotated[int | None, _strength("Compression, H.264's crf")] = None,
    light: Annotated[float | None, _strength("Slow drift of the light, as a share")] = None,
    flicker: Annotated[float | None, _strength("Flicker of the lamps, as a share")] = None,
    tone: Annotated[float | None, _strength("Slow drift of white balance and gamma, as a share")] = None,
    head_px: Annotated[float | None, _strength("Slow drift of the head, in crop pixels")] = None,
    head_degrees: Annotated[float | None, _strength("Slow rotation of the head in the image")] = None,
    blinks: Annotated[float | None, _strength("Blinks per second")] = None,
    gaze_px: Annotated[float | None, _strength("Jumps of the eyes, in crop pixels")] = None,
    mouth_px: Annotated[float | None, _strength("Motion of the mouth as in speech, in crop pixels")] = None,
    scene_px: Annotated[float | None, _strength("Motion in hair and background, in crop pixels")] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    overwrite: Annotated[
        bool, typer.Option(help="Delete the synthetic corpus in the folder and make it again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make labelled videos of small facial motion, and the truth of it, from photos of faces."""
    progress = Progress("synthesize")
    from mbert import api
    from mbert.pipeline.synthetic.synthesize import TRUTH_NAME

    with progress:
        done = 0

        def tell() -> None:
            nonlocal done
            done += 1
            progress.advance(1, f"{counted(done, 'clip')}, {done / progress.seconds:.1f} clips/s")

        summary = api.synthesize(
            photos,
            out=out,
            preset=preset,
            part=part,
            emotions=emotions,
            prototypes=prototypes,
            subjects_per_photo=subjects_per_photo,
            clips_per_emotion=clips_per_emotion,
            neutral_clips=neutral_clips,
            label_neutral=label_neutral,
            fps=fps,
            frame_folders=frame_folders,
            min_amplitude_px=min_amplitude_px,
            max_amplitude_px=max_amplitude_px,
            asymmetry=asymmetry,
            noise=noise,
            crf=crf,
            light=light,
            flicker=flicker,
            tone=tone,
            head_px=head_px,
            head_degrees=head_degrees,
            blinks=blinks,
            gaze_px=gaze_px,
            mouth_px=mouth_px,
            scene_px=scene_px,
            seed=seed,
            workers=workers,
            overwrite=overwrite,
            on_note=progress.say,
            on_plan=progress.begin,
            on_clip=tell,
        )
    if as_json:
        return print_json(summary)
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
    typer.echo(f"the true motion is in {out / TRUTH_NAME}")
    rate = f" --fps {fps}" if frame_folders else ""
    print_next(summary.folder, f"mbert ingest {out}{rate}")
