"""The command line: parse, one library call, one summary. Heavy imports stay inside the command bodies.

Results go to stdout (with --json as one JSON object), progress and errors to stderr.
Exit code 0: done; 1: our error; 2: wrong usage; 130: interrupted.
"""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from mbert import ConfigError, MbertError, __version__
from mbert.console import Progress, counted, print_some, told_time

if TYPE_CHECKING:
    from mbert.manifests.workspace import Workspace
    from mbert.model.finetune import FinetuneSummary
    from mbert.model.loop import LoopPlan
    from mbert.model.pretrain import PretrainEstimate, PretrainSummary
    from mbert.model.run_log import StepReport
    from mbert.pipeline.engine import Engine


class _Group(TyperGroup):
    """The single place that turns our errors and Ctrl-C into a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MbertError as exc:
            if _is_first_process() or not exc.is_told:
                typer.secho(f"error: {exc}", fg="red", err=True)
            raise typer.Exit(2 if isinstance(exc, ConfigError) else 1) from exc
        except KeyboardInterrupt:
            typer.secho("interrupted: run the same command again to go on", fg="yellow", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Micron-BERT (μ-BERT) for micro-expressions: face video to aligned frame-pair shards to honest scores.",
)
train = typer.Typer(no_args_is_help=True, help="Train μ-BERT on pair shards.")
app.add_typer(train, name="train")

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-w", envvar="MBERT_WORKSPACE", help="Folder that the commands share.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Processes of this machine.", show_default="one per core")
]
EngineOption = Annotated[Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster (the ray extra).")]
AddressOption = Annotated[
    str | None, typer.Option(help="Of the Ray cluster.", show_default="RAY_ADDRESS, else a cluster of this machine")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
DEFAULT_WORKSPACE = Path("workspace")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mbert {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def ingest(
    folder: Annotated[Path, typer.Argument(exists=True, help="Videos and frame folders, nested; labels.csv optional.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    align: Annotated[
        Literal["auto", "clip", "smooth", "frame"],
        typer.Option(help="One transform per still clip and a smooth track else (auto); `frame` is for comparison."),
    ] = "auto",
    size: Annotated[int, typer.Option(min=32, max=1024, help="Width and height of a crop, in pixels.")] = 224,
    faces: Annotated[str, typer.Option(help="How many faces to follow at a time: all, largest, or a number.")] = "all",
    landmarker: Annotated[
        Literal["mediapipe", "fan"], typer.Option(help="MediaPipe's face mesh, or face-alignment's 68 points.")
    ] = "mediapipe",
    landmarker_model: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A face_landmarker.task.", show_default="bundled weights"),
    ] = None,
    landmark_hz: Annotated[float, typer.Option(help="Landmark measurements per second of video.")] = 5.0,
    decoder: Annotated[
        Literal["pyav", "ffmpeg"], typer.Option(help="FFmpeg's libraries, or the ffmpeg program.")
    ] = "pyav",
    hwaccel: Annotated[
        str | None, typer.Option(help="Decode on hardware: a name from `ffmpeg -hwaccels`; with --decoder ffmpeg.")
    ] = None,
    filters: Annotated[
        str | None, typer.Option("--filter", help="A filter graph as for `ffmpeg -vf`; with --decoder ffmpeg.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frame rate of frame folders; video files carry their own.")] = 30.0,
    dataset: Annotated[
        str, typer.Option(help="The layout of FOLDER: auto, videos, or a dataset's name (docs/datasets.md).")
    ] = "auto",
    name: Annotated[
        str | None, typer.Option(help="Prefix of the ids of your own videos.", show_default="videos")
    ] = None,
    distribution: Annotated[
        Literal["auto", "raw", "cropped"],
        typer.Option(help="Of a dataset that comes in both; auto: raw if it is there."),
    ] = "auto",
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="labels.csv, or a dataset's annotation sheet.",
            show_default="searched for",
        ),
    ] = None,
    errata: Annotated[
        Literal["default", "none"], typer.Option(help="Correct known mistakes of annotations (docs/datasets.md).")
    ] = "default",
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which one input is given up.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ingest at most so many new inputs this time.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try the inputs that failed again, and no others.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Delete the corpus of this workspace and make it anew.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done and how long it may take, then stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn raw face video into aligned face crops with manifests."""
    from mbert.pipeline.ingest import CorpusChoice, IngestPlan, estimate_ingest, run_ingest
    from mbert.pipeline.ingest_input import Going, IngestOptions, Outcome

    options = IngestOptions(
        size=size,
        align=align,
        landmarker=landmarker,
        landmarker_model=None if landmarker_model is None else str(landmarker_model.absolute()),
        landmark_hz=landmark_hz,
        max_faces=_max_faces(faces),
        decoder=decoder,
        hwaccel=hwaccel,
        filters=filters,
        folder_fps=fps,
    )
    choice = CorpusChoice(dataset=dataset, name=name, labels_path=labels, distribution=distribution, errata=errata)
    where = _engine(engine, workers, address, timeout)
    if dry_run:
        estimate = estimate_ingest(
            folder,
            _workspace(workspace),
            options,
            engine=where,
            limit=limit,
            overwrite=overwrite,
            retry_failed=retry_failed,
            choice=choice,
        )
        if as_json:
            return _print_json(estimate)
        typer.echo(
            f"{estimate.num_to_do} of {counted(estimate.num_inputs, 'input')} to do, {estimate.num_bytes / 1e6:.0f} MB"
        )
        if estimate.tried:
            typer.echo("tried on the first frames of:")
            print_some([f"{path}: {result}" for path, result in estimate.tried.items()])
        if estimate.seconds is not None:
            typer.echo(f"about {told_time(estimate.seconds)} with {counted(max(where.workers, 1), 'worker')}")
        typer.echo(f"nothing was written to {estimate.corpus}; next: the same command without --dry-run")
        return None
    with Progress("ingest") as progress:
        counts = {"done": 0, "failed": 0, "frames": 0}
        told: dict[str, Going] = {}  # of the inputs that are going on

        def begin(plan: IngestPlan) -> None:
            counts["total"] = plan.num_to_do
            for note in plan.notes:
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

        summary = run_ingest(
            folder,
            _workspace(workspace),
            options,
            engine=where,
            limit=limit,
            overwrite=overwrite,
            retry_failed=retry_failed,
            choice=choice,
            on_plan=begin,
            on_outcome=note_outcome,
            on_going=note_going,
        )
    if as_json:
        return _print_json(summary)
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
        typer.echo("when they are mended: the same command with --retry-failed")
    if summary.labels_path:
        typer.echo(f"labels: {counted(summary.num_labelled_clips, 'clip')} labelled by {summary.labels_path}")
    if summary.label_remarks:
        typer.echo(f"{counted(summary.label_remarks, 'label')} cannot be used as annotated: see them with mbert labels")
    if summary.vanished:
        typer.echo("no longer there, their crops are kept:")
        print_some(list(summary.vanished))
    if summary.changed:
        typer.echo("changed since they were ingested (--overwrite makes the corpus anew):")
        print_some(list(summary.changed))
    if summary.ignored:
        typer.echo(f"{len(summary.ignored)} files are neither video nor image, the first is {summary.ignored[0]}")
    _print_next(summary.corpus, "mbert shard --pairs")


@app.command()
def shard(
    pairs: Annotated[bool, typer.Option("--pairs", help="Make frame-pair shards, the one kind there is.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    min_delta_ms: Annotated[float, typer.Option(help="Smallest distance of a pair's frames, in ms.")] = 167.0,
    max_delta_ms: Annotated[float, typer.Option(help="Largest distance, in ms.")] = 367.0,
    pairs_per_second: Annotated[float, typer.Option(help="Pairs drawn per second of video.")] = 10.0,
    pairs_per_shard: Annotated[int, typer.Option(min=1, help="Pairs in a tar.")] = 2048,
    seed: SeedOption = 0,
    where: Annotated[
        str | None,
        typer.Option(
            help="Keep a pair only if both frames fulfil this, e.g. 'jitter_px < 0.2 and face_px > 120': SQL over the "
            "columns of the frame, clip and video manifests."
        ),
    ] = None,
    workers: WorkersOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    overwrite: Annotated[bool, typer.Option(help="Make the shards anew with other options.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pair the crops by time and deal the pairs to WebDataset shards."""
    from mbert.pipeline.pair_plan import PairOptions
    from mbert.pipeline.shard import run_shard

    if not pairs:
        raise ConfigError("say what to make: `mbert shard --pairs`")
    options = PairOptions(
        min_delta_ms=min_delta_ms,
        max_delta_ms=max_delta_ms,
        pairs_per_second=pairs_per_second,
        pairs_per_shard=pairs_per_shard,
        where=where,
        seed=seed,
    )
    with Progress("shard") as progress:
        done = 0

        def tell(num_pairs: int) -> None:
            nonlocal done
            done += num_pairs
            progress.advance(num_pairs, f"{done} pairs, {done / progress.seconds:.0f} pairs/s")

        summary = run_shard(
            _workspace(workspace),
            options,
            engine=_engine(engine, workers, address),
            overwrite=overwrite,
            on_plan=lambda num_pairs, num_shards: progress.begin(num_pairs),
            on_shard=tell,
        )
    if as_json:
        return _print_json(summary)
    kinds = ", ".join(f"{count} {kind.replace('_', '-')}" for kind, count in sorted(summary.kinds.items()))
    typer.echo(
        f"{counted(summary.num_pairs, 'pair')} ({kinds}) in {counted(summary.num_shards, 'shard')}, "
        f"{summary.num_bytes / 1e6:.0f} MB"
    )
    typer.echo(f"this run wrote {counted(summary.num_new_shards, 'shard')} in {summary.seconds:.1f} s")
    if summary.pairs_left_out:
        typer.echo(f"{counted(summary.pairs_left_out, 'pair')} left out by --where")
    if summary.clips_without_pairs:
        typer.echo(f"{summary.clips_without_pairs} clips give no pair")
    if summary.labels_without_apex:
        typer.echo(f"{summary.labels_without_apex} labelled clips lack onset or apex: no onset-apex pair from them")
    _print_next(summary.folder, "mbert train pretrain")


@app.command()
def verify(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE, workers: WorkersOption = None, as_json: JsonOption = False
) -> None:
    """Check every tar against its manifest: bytes, names, neighbours, images. Ends with 1 at the first fault."""
    from mbert.pipeline.verify import run_verify

    with Progress("verify") as progress:
        done = 0

        def tell(num_members: int) -> None:
            nonlocal done
            done += num_members
            progress.advance(1, f"{done} members")

        summary = run_verify(
            _workspace(workspace), engine=_engine("local", workers, None), on_plan=progress.begin, on_tar=tell
        )
    if as_json:
        return _print_json(summary)
    typer.echo(
        f"{counted(summary.num_frame_tars, 'tar')} of crops and {counted(summary.num_pair_shards, 'pair shard')} "
        f"are as their manifests say: {summary.num_members} members"
    )


ShardsOption = Annotated[
    str | None,
    typer.Option(
        help="Where the shards are: a folder or URL with pairs.json, or a pattern like s3://bucket/{000000..000099}.tar.",
        show_default="WORKSPACE/shards/pairs",
    ),
]
CacheOption = Annotated[Path | None, typer.Option(help="Folder for copies of shards that are behind URLs.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Optimiser steps.", show_default="by the hardware")]
EpochsOption = Annotated[float | None, typer.Option(help="Passes over the pairs, instead of --steps.")]
BatchOption = Annotated[
    int | None, typer.Option(min=1, help="Pairs per process and pass.", show_default="by the hardware")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", exists=True, dir_okay=False, help="YAML file of settings.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, e.g. model.poi=false or objective.crop_scale=0.4 (docs/model.md)."),
]
LoadersOption = Annotated[
    int | None, typer.Option(min=0, help="Processes that load pairs, per GPU.", show_default="8 with a GPU, else 0")
]
TrainSeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.", show_default="0")]
PrecisionOption = Annotated[
    Literal["auto", "bf16", "fp16", "fp32"] | None,
    typer.Option(help="Of the forward passes.", show_default="auto: bf16, on old GPUs fp16, on a CPU fp32"),
]
MinutesOption = Annotated[float | None, typer.Option(help="Save and stop after so long; to be continued.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Fail where there is no run to go on with.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Go on although settings or corpus have changed.")]
OverwriteOption = Annotated[bool, typer.Option(help="Begin anew although the folder holds a run.")]
CheckpointOption = Annotated[
    Path | None, typer.Option(exists=True, help="Checkpoint or run.", show_default="WORKSPACE/runs/pretrain")
]


@train.command()
def pretrain(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    shards: ShardsOption = None,
    cache: CacheOption = None,
    preset: Annotated[
        Literal["tiny", "small", "base"] | None,
        typer.Option(help="Size of the model; `small` is the paper's.", show_default="small with a GPU, else tiny"),
    ] = None,
    variant: Annotated[
        Literal["paper", "released"] | None,
        typer.Option(
            help="The paper's model and loss, or those of the authors' released code (docs/model.md).",
            show_default="paper",
        ),
    ] = None,
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Passes per step.", show_default="1")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="by the preset")] = None,
    swap_ratio: Annotated[
        float | None, typer.Option(help="Share of the patches that are swapped.", show_default="0.5")
    ] = None,
    swap_block: Annotated[
        int | None,
        typer.Option(min=1, help="Side of the swapped squares, in patches.", show_default="1, as in the paper"),
    ] = None,
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    seed: TrainSeedOption = None,
    precision: PrecisionOption = None,
    compiled: Annotated[bool | None, typer.Option("--compile", help="Use torch.compile.")] = None,
    workers: LoadersOption = None,
    max_bad: Annotated[
        float | None, typer.Option(help="Share of an epoch's pairs that may be damaged.", show_default="0.001")
    ] = None,
    max_minutes: MinutesOption = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Newest checkpoints kept, beside the best.", show_default="1")
    ] = None,
    report_to: Annotated[
        Literal["none", "wandb"] | None, typer.Option(help="Where metrics go, beside the run's folder.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="WORKSPACE/runs/pretrain")] = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    dry_run: Annotated[bool, typer.Option(help="Say what the run would cost, then stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pretrain without labels; an interrupted run goes on where it was. Under torchrun: on all GPUs and nodes."""
    from mbert.model.pretrain import PretrainConfig, PretrainPlan, estimate_pretrain, run_pretrain
    from mbert.model.settings import read_settings, with_settings

    space = _workspace(workspace)
    options = {
        "preset": preset,
        "variant": variant,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "lr": lr,
        "seed": seed,
        "precision": precision,
        "compile": compiled,
        "workers": workers,
        "max_bad": max_bad,
        "max_minutes": max_minutes,
        "keep": keep,
        "report_to": report_to,
        "objective": {"swap_ratio": swap_ratio, "swap_block": swap_block},
    }
    config = with_settings(PretrainConfig(), read_settings(config_file, assignments or []))
    config = with_settings(config, _given(options))
    where = shards or space.pairs
    if dry_run:
        estimate = estimate_pretrain(where, config, cache=cache)
        return _print_json(estimate) if as_json else _print_estimate(estimate)
    with Progress("pretrain", quiet=not _is_first_process()) as progress:

        def begin(plan: PretrainPlan) -> None:
            _begin_training(progress, plan, plan.preset)

        summary = run_pretrain(
            where,
            out or space.runs / "pretrain",
            config,
            cache=cache,
            overwrite=overwrite,
            force=force,
            resume=resume,
            on_plan=begin,
            on_step=lambda report: progress.advance(1, _told_step(report)),
        )
    if not _is_first_process():
        return None
    if as_json:
        return _print_json(summary)
    _tell_training(summary)
    if summary.num_bad:
        bad = counted(summary.num_bad, "damaged pair")
        typer.echo(f"{bad} in the last epoch, good neighbours stood in; look with: mbert verify")
    if summary.collapsed:
        typer.secho(
            f"warning: the contextual token says nearly the same of every face "
            f"(spread {summary.last.parts['token_std']:.4f}), so the Patch of Interest means little: "
            "lower objective.agent_weight, or use more people",
            fg="yellow",
        )
    return _end_training(summary, "mbert eval --protocol loso")


@train.command()
def finetune(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    shards: Annotated[
        Path | None, typer.Option(help="Folder of the pair shards.", show_default="WORKSPACE/shards/pairs")
    ] = None,
    checkpoint: CheckpointOption = None,
    head: Annotated[
        Literal["linear", "mlp"] | None, typer.Option(help="What names the emotion.", show_default="linear")
    ] = None,
    frozen: Annotated[bool | None, typer.Option("--frozen", help="Learn the head alone.")] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(help="Factor of the learning rate from a block to the one below.", show_default="0.75"),
    ] = None,
    class_weights: Annotated[
        Literal["balanced", "none"] | None, typer.Option(help="Of rare classes in the loss.", show_default="balanced")
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of a label that is spread over all classes.", show_default="0")
    ] = None,
    mixup: Annotated[
        float | None, typer.Option(help="Mix pairs, by shares from Beta(MIXUP, MIXUP); 0: do not.", show_default="0")
    ] = None,
    exclude_subject: Annotated[
        list[str] | None, typer.Option(help="Hold a subject out, e.g. videos/s01; may be given several times.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps, instead of --epochs.", show_default="by the epochs")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the pairs.", show_default="30")] = None,
    batch_size: BatchOption = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate.", show_default="5e-4, with --frozen 1e-3")
    ] = None,
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    seed: TrainSeedOption = None,
    precision: PrecisionOption = None,
    max_minutes: MinutesOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="WORKSPACE/runs/finetune")] = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Learn the labels of the onset-apex pairs; an interrupted run goes on where it was. Runs under torchrun too."""
    from mbert.model.finetune import FinetuneConfig, FinetunePlan, run_finetune
    from mbert.model.settings import read_settings, with_settings

    space = _workspace(workspace)
    options = {
        "head": head,
        "frozen": frozen,
        "layer_decay": layer_decay,
        "class_weights": class_weights,
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "exclude_subjects": exclude_subject or None,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "precision": precision,
        "max_minutes": max_minutes,
    }
    config = with_settings(FinetuneConfig(), read_settings(config_file, assignments or []))
    config = with_settings(config, _given(options))
    with Progress("finetune", quiet=not _is_first_process()) as progress:

        def begin(plan: FinetunePlan) -> None:
            if config.frozen and layer_decay is not None:
                progress.say("--layer-decay has no effect: the encoder is frozen")
            part = "frozen encoder" if config.frozen else "encoder"
            _begin_training(progress, plan, f"{part} and {config.head} head for {len(plan.classes)} classes")

        summary = run_finetune(
            shards or space.pairs,
            checkpoint or space.runs / "pretrain",
            out or space.runs / "finetune",
            config,
            labels_path=_labels_path(space),
            overwrite=overwrite,
            force=force,
            resume=resume,
            on_plan=begin,
            on_step=lambda report: progress.advance(1, _told_step(report)),
        )
    if not _is_first_process():
        return None
    if as_json:
        return _print_json(summary)
    classes = ", ".join(f"{name} {count}" for name, count in summary.classes.items())
    held_out = f"; held out: {', '.join(summary.excluded_subjects)}" if summary.excluded_subjects else ""
    typer.echo(f"classes: {classes}, of {counted(summary.num_subjects, 'subject')}{held_out}")
    _tell_training(summary)
    typer.echo(
        f"{summary.train_accuracy:.0%} of the training pairs named right in the last pass: training accuracy is no "
        "score, these labels were learned from; the honest figure is that of people it has not seen: "
        "mbert eval --protocol loso, which starts from the pretrained model"
    )
    return _end_training(summary, "mbert eval --protocol loso")


@app.command()
def runs(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """List the training runs of a workspace: how far they are, their last loss, how they stand."""
    from mbert.model.runs import list_runs

    folder = _workspace(workspace).runs
    rows = list_runs(folder)
    if as_json:
        return typer.echo(json.dumps([dataclasses.asdict(row) for row in rows]))
    if not rows:
        return typer.echo(f"there are no runs in {folder}; next: mbert train pretrain")
    width = max(len(row.name) for row in rows)
    for row in rows:
        loss = "" if row.loss is None else f"loss {row.loss:.4f}"
        reason = f" ({row.reason})" if row.reason else ""
        typer.echo(
            f"{row.name:{width}}  {row.kind:9} {row.state:9} step {row.step}/{row.steps}  {loss:12}  {row.at}{reason}"
        )
    return None


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(exists=True, help="The authors' .pth file; with --to-released a folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; with --to-released the file to write.")],
    to_released: Annotated[bool, typer.Option(help="The way back: a converted folder to the authors' names.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn the authors' released checkpoint into one of ours (safetensors), or back. Nothing is unpickled."""
    from mbert.model.released import convert_released, write_released

    if out.exists() and (to_released or any(out.iterdir() if out.is_dir() else [out])):
        raise ConfigError(f"{out} exists already; give another --out")
    if to_released:
        num_tensors = write_released(source, out)
        typer.echo(json.dumps({"num_tensors": num_tensors, "file": str(out)}) if as_json else f"{num_tensors} tensors")
        return None
    summary = convert_released(source, out)
    if as_json:
        return _print_json(summary)
    trained = f"trained on {summary.dataset or 'an unknown corpus'}, epoch {summary.epoch}"
    typer.echo(f"{summary.num_tensors} tensors, {summary.num_parameters} parameters, {trained}")
    typer.echo(f"{summary.attention} cross-attention, roles as in the authors' code, no Patch of Interest")
    typer.secho(f"warning: {summary.warning}", fg="yellow")
    _print_next(summary.folder, f"mbert eval --checkpoint {summary.folder}")


@app.command("eval")
def evaluate(
    protocol: Annotated[Literal["loso"], typer.Option(help="Leave one subject out.")] = "loso",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    checkpoint: CheckpointOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result.", show_default="WORKSPACE/runs/loso")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a pretrained model on labelled expressions, each subject by a head that never saw it."""
    from mbert.model.evaluate import run_loso

    space = _workspace(workspace)
    with Progress(protocol) as progress:

        def tell(done: int, total: int) -> None:
            if done == 1:
                progress.begin(total)
            progress.advance(1, f"{done}/{total} subjects")

        result = run_loso(
            space.pairs,
            checkpoint or space.runs / "pretrain",
            out or space.runs / protocol,
            labels_path=_labels_path(space),
            on_fold=tell,
        )
    if as_json:
        return _print_json(result)
    typer.echo(
        f"{result.num_samples} expressions, {result.num_subjects} subjects, pooled over all folds, 95 % intervals:"
    )
    typer.echo(f"{'':18}{'UF1':>7}{'':16}{'UAR':>7}{'':16}{'accuracy':>9}")
    for name, scores in (
        ("μ-BERT", result.mbert),
        ("frame difference", result.frame_difference),
        ("majority class", result.majority),
    ):
        uf1 = f"{scores.uf1:7.3f}  {scores.uf1_interval[0]:.3f}-{scores.uf1_interval[1]:.3f}   "
        uar = f"{scores.uar:7.3f}  {scores.uar_interval[0]:.3f}-{scores.uar_interval[1]:.3f}   "
        typer.echo(f"{name:18}{uf1}{uar}{scores.accuracy:9.3f}")
    typer.echo(f"{'chance':18}{result.mbert.chance_uf1:7.3f}{'':16}{result.mbert.chance_uar:7.3f}")
    width = max(len(name) for name in result.mbert.classes)
    typer.echo("confusion of μ-BERT (rows true, columns predicted: " + ", ".join(result.mbert.classes) + "):")
    for name, row in zip(result.mbert.classes, result.mbert.confusion, strict=True):
        typer.echo(f"  {name:{width}} " + " ".join(f"{count:5d}" for count in row))
    if result.encoder_learned_labels_of:
        typer.secho(
            f"warning: the encoder was finetuned on the labels of {len(result.encoder_learned_labels_of)} of these "
            "subjects: its figures leak and are no score; evaluate the pretrained model, or hold these people out with "
            "`mbert train finetune --exclude-subject`",
            fg="yellow",
        )
    elif result.encoder_saw_test_subjects:
        typer.echo(
            "note: the encoder was pretrained, without labels, on frames of "
            f"{len(result.encoder_saw_test_subjects)} of these subjects; for a clean score pretrain on other people"
        )
    typer.echo(f"results: {result.folder}/results.json, {result.folder}/predictions.parquet")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to work in.")] = Path("mbert-demo"),
    photos: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Portraits to use instead of the bundled astronaut photo."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="A smaller corpus and fewer steps: does everything run?")] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a small labelled corpus of real videos and run the four commands on it; minutes, no network."""
    from mbert.pipeline.synthesize import SynthesisOptions, synthesize

    began = time.monotonic()
    if out.exists() and any(out.iterdir()) and not (out / "videos" / "labels.csv").exists():
        raise ConfigError(f"{out} is not empty and holds no demo; give another folder with --out")
    if (out / "videos" / "labels.csv").exists():
        typer.echo(f"using the videos that are already in {out / 'videos'}", err=True)
    else:
        typer.echo(f"making videos of pseudo-subjects in {out / 'videos'} ...", err=True)
        size = {"num_subjects": 4, "clips_per_emotion": 1} if quick else {}
        synthesize(
            out / "videos", SynthesisOptions(seed=seed, **size), photos=photos, engine=_engine("local", None, None)
        )
    results = {}
    for name, words in {
        "ingest": ["ingest", "videos/"],
        "shard": ["shard", "--pairs"],
        "pretrain": ["train", "pretrain", *(["--steps", "30"] if quick else [])],
        "loso": ["eval", "--protocol", "loso"],
    }.items():
        typer.secho(f"\n$ mbert {' '.join(words)}", bold=True, err=True)
        results[name] = _run_command(words, out)
    if as_json:
        typer.echo(json.dumps(results))
        return
    _print_demo(results, out, time.monotonic() - began)


def _run_command(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run one of our own commands as a user would, in `folder`; returns its JSON summary."""
    command = [sys.executable, "-m", "mbert.cli", *words, "--workspace", "workspace", "--json"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)  # the command has said why
    return dict(json.loads(done.stdout))


def _print_demo(results: dict[str, Any], out: Path, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    ingested, sharded, trained, scored = (results[name] for name in ("ingest", "shard", "pretrain", "loso"))
    table = Table("", "", title=f"the demo took {seconds:.0f} s", show_header=False)
    rate = ingested["num_frames_decoded"] / max(ingested["seconds"], 1e-9)
    table.add_row(
        "frames ingested", f"{ingested['num_crops']}" + (f", {rate:.0f} frames/s" if ingested["num_new"] else "")
    )
    table.add_row("pairs", f"{sharded['num_pairs']} in {counted(sharded['num_shards'], 'shard')}")
    table.add_row("pretraining loss", f"{trained['first']['loss']:.4f} -> {trained['last']['loss']:.4f}")
    for score in ("uf1", "uar"):
        mine, interval, chance = (scored["mbert"][name] for name in (score, f"{score}_interval", f"chance_{score}"))
        difference = scored["frame_difference"][score]
        table.add_row(
            f"LOSO {score.upper()}",
            f"{mine:.3f} ({interval[0]:.3f}-{interval[1]:.3f}), chance {chance:.3f}, frame difference {difference:.3f}",
        )
    workspace = out / "workspace"
    for name, path in {
        "videos and labels": out / "videos",
        "crops": workspace / "corpus",
        "pair shards": workspace / "shards" / "pairs",
        "checkpoint": workspace / "runs" / "pretrain" / "checkpoints" / "last",
        "scores": workspace / "runs" / "loso" / "results.json",
    }.items():
        table.add_row(name, str(path))
    Console().print(table)
    typer.echo("pseudo-subjects and drawn-on motion: this shows that everything runs, not how good the method is")


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """List what is installed, what will be used, and what is missing with the command that mends it."""
    import importlib.metadata

    checks: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in (
        "av",
        "mediapipe",
        "face-alignment",
        "webdataset",
        "pyarrow",
        "duckdb",
        "timm",
        "torch",
        "torchvision",
    ):
        try:
            checks[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing[name] = f"pip install {name}"
    with _noting(missing, "landmarker", "pip install 'mediapipe==0.10.21'"):
        from mbert.pipeline.landmarkers import open_landmarker

        landmarker = open_landmarker("mediapipe")
        checks["landmarker"] = f"{landmarker.name}, on CPU"
        landmarker.close()
    with _noting(missing, "decoder", "pip install av"):
        import av

        version = ".".join(str(part) for part in av.library_versions["libavcodec"])
        checks["decoder"] = f"PyAV {av.__version__}, libavcodec {version}"
    with _noting(missing, "ffmpeg", "pip install imageio-ffmpeg"):
        from mbert.pipeline.decode_ffmpeg import ffmpeg_program

        checks["ffmpeg"] = f"{ffmpeg_program()}, for --decoder ffmpeg"
    try:
        checks["ray"] = f"{importlib.metadata.version('ray')}, for --engine ray"
    except importlib.metadata.PackageNotFoundError:
        checks["ray"] = "not installed; only --engine ray needs it: pip install 'mbert[ray]'"
    with _noting(missing, "device", "pip install torch torchvision"):
        import torch

        from mbert.model.device import pick_compute

        compute = pick_compute()
        name = (
            torch.cuda.get_device_name() if compute.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        )
        checks["device"] = f"{name}, {compute.precision}"
    checks["free disk space"] = f"{shutil.disk_usage('.').free / 1e9:.0f} GB"
    if as_json:
        typer.echo(json.dumps({"mbert": __version__, "found": checks, "missing": missing}))
    else:
        typer.echo(f"mbert {__version__}")
        for name, text in checks.items():
            typer.echo(f"  {name:16} {text}")
        for name, mend in missing.items():
            typer.secho(f"  {name:16} missing: {mend}", fg="red")
        if not missing:
            typer.echo("everything that the four commands need is there")
    if missing:
        raise typer.Exit(1)


@contextlib.contextmanager
def _noting(missing: dict[str, str], name: str, mend: str) -> Iterator[None]:
    """Whatever keeps a part from loading is what `doctor` is there to report."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, MbertError) as exc:
        missing[name] = f"{mend} ({exc})"


def _is_first_process() -> bool:
    """Of those that torchrun started; the others work and are silent."""
    return os.environ.get("RANK", "0") == "0"


def _told_step(report: "StepReport") -> str:
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.4f}" for name, value in report.parts.items())
    memory = f", {report.memory_mb / 1024:.1f} GB" if report.memory_mb is not None else ""
    return (
        f"step {report.step}, loss {report.loss:.4f} ({parts}), {report.pairs_per_second:.0f} pairs/s, "
        f"{report.data_wait_share:.0%} waiting for data{memory}"
    )


def _begin_training(progress: Progress, plan: "LoopPlan", what: str) -> None:
    for note in plan.notes:
        progress.say(note)
    if 0 < plan.done_before < plan.steps:
        progress.say(f"going on after step {plan.done_before} of {plan.steps}")
    processes = f" on {plan.world} processes" if plan.world > 1 else ""
    progress.say(
        f"{what} on {plan.compute.device} in {plan.compute.precision}, {plan.steps} steps of "
        f"{plan.global_batch} pairs{processes}"
    )
    progress.begin(plan.steps - plan.done_before)


def _tell_training(summary: "PretrainSummary | FinetuneSummary") -> None:
    if summary.steps_done_now:
        typer.echo(f"{summary.steps_done_now} steps in {summary.seconds:.0f} s")
    else:
        typer.echo("this run was already finished; another one: --out FOLDER, or --overwrite")
    typer.echo(f"loss {summary.first.loss:.4f} -> {summary.last.loss:.4f} after {summary.steps_done} steps")


def _end_training(summary: "PretrainSummary | FinetuneSummary", command: str) -> None:
    if summary.stopped:
        typer.echo(f"stopped by {summary.stopped} after step {summary.steps_done} of {summary.steps}, all is saved")
        return typer.echo(f"resume with: mbert {shlex.join(sys.argv[1:])}")
    return _print_next(summary.run, command)


def _labels_path(space: "Workspace") -> Path | None:
    """The corpus' file of labels, to name it in errors."""
    from mbert.manifests.labels import LABELS_NAME
    from mbert.manifests.store import read_json

    return Path(read_json(space.corpus_config)["root"]) / LABELS_NAME if space.corpus_config.exists() else None


def _print_estimate(estimate: "PretrainEstimate") -> None:
    cost = estimate.cost
    typer.echo(
        f"{estimate.preset} on {estimate.device} in {estimate.precision}: {cost.num_learned / 1e6:.1f} M parameters to "
        f"learn ({cost.num_parameters / 1e6:.1f} M saved)"
    )
    typer.echo(
        f"{cost.flops_per_pair / 1e9:.1f} GFLOP per pair, {estimate.flops:.2e} FLOP in all; about "
        f"{cost.memory_bytes / 2**30:.1f} GiB of memory per process, without the workspace of its kernels"
    )
    typer.echo(
        f"{estimate.num_pairs} pairs in {counted(estimate.num_shards, 'shard')} ({estimate.shards_per_process:.1f} per "
        f"process): {counted(estimate.steps_per_epoch, 'step')} of {estimate.pairs_per_step} pairs per epoch, "
        f"{estimate.pairs_dropped_per_epoch} left over; {counted(estimate.steps, 'step')} in all"
    )
    typer.echo("nothing was written; next: the same command without --dry-run")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, in their groups: what was not may come from a file."""
    nested = {name: _given(value) if isinstance(value, dict) else value for name, value in options.items()}
    return {name: value for name, value in nested.items() if value not in (None, {})}


def _max_faces(text: str) -> int | None:
    named = {"all": None, "largest": 1}
    if text not in named and not text.isdecimal():
        raise ConfigError(f"--faces is {text!r}; allowed are all, largest, or a number")
    return named[text] if text in named else int(text)


def _engine(
    kind: Literal["local", "ray"], workers: int | None, address: str | None, timeout: float | None = None
) -> "Engine":
    from mbert.pipeline.engine import Engine, default_workers

    return Engine(kind=kind, workers=workers or default_workers(), address=address, timeout_seconds=timeout)


def _workspace(path: Path) -> "Workspace":
    from mbert.manifests.workspace import Workspace

    return Workspace(path)


def _print_json(summary: Any) -> None:
    typer.echo(json.dumps(dataclasses.asdict(summary)))


def _print_next(where: str, command: str) -> None:
    typer.echo(f"in {where}; next: {command}")


def main() -> None:
    """Entry point of the `mbert` command."""
    app()


if __name__ == "__main__":
    main()
