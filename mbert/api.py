"""The Python API: each command as a function with the command's options, and what one needs to look at data and models.

`import mbert` offers everything here by name and loads it when it is used. A function returns the summary that its
command prints, and raises what the command reports as an error. The functions `on_...` are called during the work.
"""

import functools
import inspect
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from mbert import ConfigError
from mbert.manifests.workspace import Workspace

if TYPE_CHECKING:
    import pandas

    from mbert.model.network.compare import Comparison
    from mbert.model.network.micron_bert import MicronBert
    from mbert.model.scoring.evaluate import EvalResult
    from mbert.model.scoring.predictions import PredictionScores
    from mbert.model.training.finetune import FinetunePlan, FinetuneSummary
    from mbert.model.training.pretrain import PretrainEstimate, PretrainPlan, PretrainSummary
    from mbert.model.training.run_log import StepReport
    from mbert.pipeline.ingest import IngestEstimate, IngestPlan, IngestSummary
    from mbert.pipeline.ingest_input import Going, Outcome
    from mbert.pipeline.shard import ShardSummary
    from mbert.pipeline.synthetic.synthesize import SynthesisSummary
    from mbert.prediction.build import BuiltWeights
    from mbert.prediction.forget import ForgetSummary
    from mbert.prediction.run import PredictRun
    from mbert.shards.engine import Engine
    from mbert.shards.frames import CorpusFrames, PairFrames

Where = str | Path
EngineName = Literal["local", "ray"]
DEFAULT_WORKSPACE = Path("workspace")
Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def _choices_checked(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Refuse what is not among the allowed words of an option, as the command line does."""
    signature = inspect.signature(function)
    choices = {name: _words(parameter.annotation) for name, parameter in signature.parameters.items()}

    @functools.wraps(function)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if choices[name] and value not in choices[name]:
                raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(map(str, choices[name]))}")
        return function(*args, **kwargs)

    return checked


def _words(annotation: Any) -> tuple[Any, ...]:
    """The words of a Literal, with None where nothing may be given too; of another type none."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    if not any(typing.get_origin(part) is Literal for part in parts):
        return ()
    return tuple(word for part in parts for word in (_words(part) or (None,)))


@_choices_checked
def ingest(
    folder: Where,
    *,
    workspace: Where = DEFAULT_WORKSPACE,
    align: Literal["auto", "clip", "smooth", "frame"] = "auto",
    size: int = 224,
    jpeg_quality: int = 95,
    faces: str | int = "all",
    landmarker: Literal["mediapipe", "fan"] = "mediapipe",
    landmarker_model: Where | None = None,
    landmark_hz: float = 5.0,
    decoder: Literal["pyav", "ffmpeg"] = "pyav",
    hwaccel: str | None = None,
    filters: str | None = None,
    fps: float | None = None,
    rate: float | None = None,
    bit_depth: int | None = None,
    dataset: str = "auto",
    name: str | None = None,
    distribution: Literal["auto", "raw", "cropped"] = "auto",
    labels: Where | None = None,
    errata: Literal["default", "none"] = "default",
    workers: int | None = None,
    engine: EngineName = "local",
    address: str | None = None,
    timeout: float | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    redo: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    on_plan: "Callable[[IngestPlan], None]" = lambda plan: None,
    on_outcome: "Callable[[Outcome], None]" = lambda outcome: None,
    on_going: "Callable[[Going], None]" = lambda going: None,
) -> "IngestSummary | IngestEstimate":
    """Turn raw face video into aligned face crops with manifests: `mbert ingest`.

    With `dry_run` nothing is written and the estimate is returned, else the summary. Raises ConfigError for options
    and folders that cannot be used, ManifestError for a label file that cannot be read.
    """
    from mbert.pipeline.ingest import CorpusChoice, estimate_ingest, run_ingest
    from mbert.pipeline.ingest_input import IngestOptions

    options = IngestOptions(
        size=size,
        jpeg_quality=jpeg_quality,
        align=align,
        landmarker=landmarker,
        landmarker_model=None if landmarker_model is None else str(Path(landmarker_model).absolute()),
        landmark_hz=landmark_hz,
        max_faces=_max_faces(faces),
        decoder=decoder,
        hwaccel=hwaccel,
        filters=filters,
        folder_fps=fps,
        rate=rate,
        bit_depth=bit_depth,
    )
    choice = CorpusChoice(
        dataset=dataset,
        name=name,
        labels_path=None if labels is None else Path(labels),
        distribution=distribution,
        errata=errata,
    )
    how: dict[str, Any] = {
        "engine": engine_of(engine, workers, address, timeout),
        "limit": limit,
        "overwrite": overwrite,
        "retry_failed": retry_failed,
        "redo": redo,
        "choice": choice,
    }
    space = Workspace(Path(workspace))
    if dry_run:
        return estimate_ingest(Path(folder), space, options, **how)
    return run_ingest(Path(folder), space, options, **how, on_plan=on_plan, on_outcome=on_outcome, on_going=on_going)


@_choices_checked
def shard(
    *,
    pairs: bool = True,
    workspace: Where = DEFAULT_WORKSPACE,
    min_delta_ms: float = 167.0,
    max_delta_ms: float = 367.0,
    pairs_per_second: float = 10.0,
    pairs_per_shard: int = 2048,
    apex: Literal["annotated", "middle", "spotted"] = "middle",
    frames_between: int = 0,
    seed: int = 0,
    where: str | None = None,
    workers: int | None = None,
    engine: EngineName = "local",
    address: str | None = None,
    overwrite: bool = False,
    on_plan: Callable[[int, int], None] = lambda num_pairs, num_shards: None,
    on_shard: Callable[[int], None] = lambda num_pairs: None,
) -> "ShardSummary":
    """Pair the crops and deal the pairs to WebDataset shards: `mbert shard`. `pairs` is the one kind of shards.

    Raises ManifestError where there is no corpus, ConfigError for options that allow no pair.
    """
    from mbert.pipeline.pairs.plan import PairOptions
    from mbert.pipeline.shard import run_shard

    if not pairs:
        raise ConfigError("pairs is False, but pair shards are the only kind")
    options = PairOptions(
        min_delta_ms=min_delta_ms,
        max_delta_ms=max_delta_ms,
        pairs_per_second=pairs_per_second,
        pairs_per_shard=pairs_per_shard,
        apex=apex,
        frames_between=frames_between,
        where=where,
        seed=seed,
    )
    return run_shard(
        Workspace(Path(workspace)),
        options,
        engine=engine_of(engine, workers, address),
        overwrite=overwrite,
        on_plan=on_plan,
        on_shard=on_shard,
    )


@_choices_checked
def pretrain(
    *,
    workspace: Where = DEFAULT_WORKSPACE,
    shards: Where | None = None,
    cache: Where | None = None,
    preset: Literal["tiny", "small", "base"] | None = None,
    variant: Literal["motion", "paper", "released"] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    lr: float | None = None,
    exclude_subjects_of: Sequence[str] | None = None,
    swap_ratio: float | None = None,
    swap_block: int | None = None,
    config: Where | None = None,
    set: Sequence[str] | Mapping[str, Any] | None = None,
    seed: int | None = None,
    precision: Literal["auto", "bf16", "fp16", "fp32"] | None = None,
    compile: bool | None = None,
    workers: int | None = None,
    max_bad: float | None = None,
    max_minutes: float | None = None,
    keep: int | None = None,
    report_to: Literal["none", "wandb"] | None = None,
    out: Where | None = None,
    resume: bool = False,
    force: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    on_plan: "Callable[[PretrainPlan], None]" = lambda plan: None,
    on_step: "Callable[[StepReport], None]" = lambda report: None,
) -> "PretrainSummary | PretrainEstimate":
    """Pretrain without labels, or resume a run: `mbert train pretrain`. None: the default.

    `config` is a YAML file of settings; `set` are further ones, as `["objective.crop_scale=0.4"]` or
    `{"objective.crop_scale": 0.4}`. With `dry_run` nothing is written and the estimate is returned, else the summary.
    Raises ShardError without shards, ConfigError for settings that cannot be used and for a run of other settings,
    ModelError when the loss is not finite.
    """
    from mbert.model.training.pretrain import PretrainConfig, estimate_pretrain, run_pretrain
    from mbert.model.training.settings import configured

    space = Workspace(Path(workspace))
    settings = configured(
        PretrainConfig(),
        config,
        set,
        {
            "preset": preset,
            "variant": variant,
            "steps": steps,
            "epochs": epochs,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "lr": lr,
            "exclude_subjects": exclude_subjects_of or None,
            "seed": seed,
            "precision": precision,
            "compile": compile,
            "workers": workers,
            "max_bad": max_bad,
            "max_minutes": max_minutes,
            "keep": keep,
            "report_to": report_to,
            "objective": {"swap_ratio": swap_ratio, "swap_block": swap_block},
        },
    )
    where, copies = shards or space.pairs, _path(cache)
    if dry_run:
        return estimate_pretrain(where, settings, cache=copies)
    return run_pretrain(
        where,
        _path(out) or space.runs / "pretrain",
        settings,
        cache=copies,
        overwrite=overwrite,
        force=force,
        resume=resume,
        on_plan=on_plan,
        on_step=on_step,
    )


@_choices_checked
def finetune(
    *,
    workspace: Where = DEFAULT_WORKSPACE,
    shards: Where | None = None,
    labels: Where | None = None,
    cache: Where | None = None,
    checkpoint: Where | None = None,
    classes: str | None = None,
    inputs: Sequence[str] | None = None,
    head: Literal["linear", "mlp"] | None = None,
    frozen: bool | None = None,
    layer_decay: float | None = None,
    class_weights: Literal["balanced", "none"] | None = None,
    label_smoothing: float | None = None,
    mixup: float | None = None,
    exclude_subject: Sequence[str] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    config: Where | None = None,
    set: Sequence[str] | Mapping[str, Any] | None = None,
    seed: int | None = None,
    precision: Literal["auto", "bf16", "fp16", "fp32"] | None = None,
    max_minutes: float | None = None,
    out: Where | None = None,
    resume: bool = False,
    force: bool = False,
    overwrite: bool = False,
    on_plan: "Callable[[FinetunePlan], None]" = lambda plan: None,
    on_step: "Callable[[StepReport], None]" = lambda report: None,
) -> "FinetuneSummary":
    """Learn the labels of onset-apex pairs, or resume a run: `mbert train finetune`. None: the default.

    `config` and `set` as in `pretrain`. Raises ManifestError without labelled pairs, ConfigError for settings that
    cannot be used, ModelError without a checkpoint.
    """
    from mbert.model.training.finetune import FinetuneConfig, run_finetune
    from mbert.model.training.settings import configured

    space = Workspace(Path(workspace))
    settings = configured(
        FinetuneConfig(),
        config,
        set,
        {
            "classes": classes,
            "inputs": inputs,
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
        },
    )
    return run_finetune(
        shards or space.expressions,
        labels or space.labels,
        _checkpoint(checkpoint, space),
        _path(out) or space.runs / "finetune",
        settings,
        cache=_path(cache),
        overwrite=overwrite,
        force=force,
        resume=resume,
        on_plan=on_plan,
        on_step=on_step,
    )


@_choices_checked
def evaluate(
    *,
    protocol: Literal["loso", "cde", "hde", "lodo", "kfold", "holdout", "cd6me"] | None = None,
    workspace: Where = DEFAULT_WORKSPACE,
    shards: Where | None = None,
    labels: Where | None = None,
    cache: Where | None = None,
    checkpoint: Where | None = None,
    classes: str | None = None,
    datasets: Sequence[str] | None = None,
    mode: Literal["probe", "finetune"] | None = None,
    select: Literal["fixed", "inner", "oracle"] | None = None,
    inputs: Sequence[str] | None = None,
    frames: int | None = None,
    baselines: Sequence[str] | None = None,
    seeds: int | None = None,
    seed: int | None = None,
    k: int | None = None,
    test_share: float | None = None,
    test_subject: Sequence[str] | None = None,
    config: Where | None = None,
    set: Sequence[str] | Mapping[str, Any] | None = None,
    workers: int | None = None,
    out: Where | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> "EvalResult":
    """Evaluate a model on held-out subjects: `mbert eval`. None: the default.

    A file of predictions is scored by `score_predictions`. `config` and `set` as in `pretrain`. Raises ManifestError
    without labelled expressions, ConfigError for a leak and where the samples do not allow the protocol, ModelError
    without a checkpoint.
    """
    from mbert.model.scoring.config import EvalConfig
    from mbert.model.scoring.evaluate import run_eval
    from mbert.model.training.settings import configured

    space = Workspace(Path(workspace))
    settings = configured(
        EvalConfig(),
        config,
        set,
        {
            "protocol": protocol,
            "classes": classes,
            "datasets": datasets,
            "mode": mode,
            "select": select,
            "inputs": inputs,
            "frames": frames,
            "baselines": baselines,
            "seeds": seeds,
            "seed": seed,
            "k": k,
            "test_share": test_share,
            "test_subjects": test_subject or None,
            "workers": workers,
        },
    )
    return run_eval(
        shards or space.expressions,
        labels or space.labels,
        _checkpoint(checkpoint, space),
        _path(out) or space.runs / settings.protocol,
        settings,
        cache=_path(cache),
        on_progress=on_progress,
    )


def score_predictions(predictions: Where, *, classes: Sequence[str] | None = None, seed: int = 0) -> "PredictionScores":
    """Score a file of predictions, whoever made them: `mbert eval --predictions FILE`.

    `classes` are those of the protocol, needed only when some have no sample; `seed` draws the intervals. Raises
    ManifestError for a file that cannot be read as predictions.
    """
    from mbert.model.scoring.predictions import score_predictions as score

    return score(Path(predictions), classes=classes, seed=seed)


@_choices_checked
def synthesize(
    photos: Where | None = None,
    *,
    out: Where = Path("videos"),
    preset: Literal["easy", "standard", "hard"] = "standard",
    part: Literal["all", "pretrain", "train", "test"] = "all",
    emotions: Literal["three", "five"] = "three",
    prototypes: bool = False,
    subjects_per_photo: int | None = None,
    clips_per_emotion: int = 4,
    neutral_clips: int = 2,
    label_neutral: bool = False,
    fps: int = 100,
    frame_folders: bool = False,
    min_amplitude_px: float | None = None,
    max_amplitude_px: float | None = None,
    asymmetry: float = 0.3,
    noise: float | None = None,
    crf: int | None = None,
    light: float | None = None,
    flicker: float | None = None,
    tone: float | None = None,
    head_px: float | None = None,
    head_degrees: float | None = None,
    blinks: float | None = None,
    gaze_px: float | None = None,
    mouth_px: float | None = None,
    scene_px: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    on_note: Callable[[str], None] = lambda text: None,
    on_plan: Callable[[int], None] = lambda num_clips: None,
    on_clip: Callable[[], None] = lambda: None,
) -> "SynthesisSummary":
    """Make labelled videos of small facial motion from photos, and the truth of it: `mbert synthesize`.

    `photos` is a folder of portraits; None: the bundled one. A strength that is None is that of the preset. Raises
    ConfigError for options and folders that cannot be used.
    """
    import dataclasses

    from mbert.pipeline.synthetic.synthesize import PRESETS
    from mbert.pipeline.synthetic.synthesize import synthesize as make

    base = PRESETS[preset]
    strengths = {
        "noise": noise,
        "crf": crf,
        "light": light,
        "flicker": flicker,
        "tone": tone,
        "head_px": head_px,
        "head_degrees": head_degrees,
        "blinks": blinks,
        "gaze_px": gaze_px,
        "mouth_px": mouth_px,
        "scene_px": scene_px,
    }
    amplitudes = {"min_amplitude_px": min_amplitude_px, "max_amplitude_px": max_amplitude_px}
    options = dataclasses.replace(
        base,
        emotions=emotions,
        prototypes=prototypes,
        subjects_per_photo=subjects_per_photo or (8 if photos is None else 2),
        clips_per_emotion=clips_per_emotion,
        neutral_clips=neutral_clips,
        label_neutral=label_neutral,
        part=part,
        fps=fps,
        frame_folders=frame_folders,
        asymmetry=asymmetry,
        nuisance=dataclasses.replace(base.nuisance, **_given(strengths)),
        seed=seed,
        **_given(amplitudes),
    )
    return make(
        Path(out),
        options,
        photos=_path(photos),
        engine=engine_of("local", workers),
        overwrite=overwrite,
        on_note=on_note,
        on_plan=on_plan,
        on_clip=on_clip,
    )


@_choices_checked
def predict(
    video: Where,
    *,
    out: Where = Path("predictions"),
    per_minute: float = 1.0,
    faces: str | int = "all",
    model: Where | None = None,
    classifier: Where | None = None,
    overlay: bool = True,
    embed_video: bool = False,
    fps: float | None = None,
    rate: float | None = None,
    bit_depth: int | None = None,
    decoder: Literal["pyav", "ffmpeg"] = "pyav",
    workers: int | None = None,
    overwrite: bool = False,
    on_plan: "Callable[[int, int], None]" = lambda num_videos, num_frames: None,
    on_ingested: "Callable[[Outcome], None]" = lambda outcome: None,
    on_progress: "Callable[[str, int], None]" = lambda video, num_frames: None,
) -> "PredictRun":
    """Find what moves in the faces of a video, or of each video of a folder: `mbert predict`.

    `model` is whatever `load_model` takes, None: the built-in one; `classifier` a run of `mbert train finetune`, which
    names emotions. Tables and pages go to a folder of each video in `out`. Raises ConfigError for options that cannot
    be used and a folder without videos, ModelError for a model that cannot.
    """
    from mbert.prediction.run import run_predict

    chosen = {
        "out": out,
        "per_minute": per_minute,
        "faces": faces,
        "model": model,
        "classifier": classifier,
        "overlay": overlay,
        "embed_video": embed_video,
        "fps": fps,
        "rate": rate,
        "bit_depth": bit_depth,
        "decoder": decoder,
    }
    return run_predict(
        Path(video),
        Path(out),
        per_minute=per_minute,
        max_faces=_max_faces(faces),
        model=model,
        classifier=_path(classifier),
        overlay=overlay,
        embed_video=embed_video,
        folder_fps=fps,
        rate=rate,
        bit_depth=bit_depth,
        decoder=decoder,
        engine=engine_of("local", workers),
        overwrite=overwrite,
        command=_command_line(predict, video, chosen),
        on_plan=on_plan,
        on_ingested=on_ingested,
        on_progress=on_progress,
    )


@_choices_checked
def build_weights(
    out: Where,
    *,
    photos: Where | None = None,
    subjects_per_photo: int = 14,
    steps: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> "BuiltWeights":
    """Make a model for `predict` from synthetic people: `mbert weights build`. None: the bundled photo, all steps."""
    from mbert.prediction.build import BuildOptions
    from mbert.prediction.build import build_weights as build

    options = BuildOptions(seed=seed, steps=steps, subjects_per_photo=subjects_per_photo)
    return build(Path(out), options, photos=_path(photos), engine=engine_of("local", workers), on_note=on_note)


def forget(
    paths: Sequence[Where] | None = None,
    *,
    workspace: Where = DEFAULT_WORKSPACE,
    subjects: Sequence[str] | None = None,
    videos: Sequence[str] | None = None,
    expired: bool = False,
    predictions: Where | None = None,
    dry_run: bool = False,
) -> "ForgetSummary":
    """Forget inputs whose consent was withdrawn: `mbert forget`.

    Exactly one of `paths` (files or folders, on disk or as in `videos.parquet`), `subjects`, `videos` (ids) and
    `expired` (what `retention_until` allows no longer) says which. `predictions` is an `out` of `predict` that is
    looked through, too. With `dry_run` nothing is changed. Raises ConfigError for what is not there or not clear,
    ManifestError where there is no corpus or a run is at work.
    """
    from mbert.prediction.forget import run_forget

    ways: list[tuple[Any, Sequence[Any]]] = [
        ("path", [str(path) for path in paths or ()]),
        ("subject", list(subjects or ())),
        ("video", list(videos or ())),
        ("expired", ["expired"] if expired else []),
    ]
    given = [(by, wanted) for by, wanted in ways if wanted]
    if len(given) != 1:
        chosen = " and ".join(by for by, _ in given) or "nothing"
        raise ConfigError(f"{chosen} is given; give exactly one of paths, --subject, --video and --expired")
    ((by, wanted),) = given
    return run_forget(Workspace(Path(workspace)), by, wanted, predictions=_path(predictions), dry_run=dry_run)


def lift(paths: Sequence[Where], *, workspace: Where = DEFAULT_WORKSPACE) -> int:
    """Allow forgotten inputs to be ingested again: `mbert forget --lift PATH`. Gives how many had been forgotten."""
    from mbert.prediction.forget import lift as lift_these

    return lift_these(Workspace(Path(workspace)), [Path(path) for path in paths])


def load_model(model: Where | None = None, *, workspace: Where = DEFAULT_WORKSPACE) -> "MicronBert":
    """A trained μ-BERT, ready to use: a run, a checkpoint folder, a file, or a name on the hub.

    None: the workspace's run `pretrain` where there is one, else the model that comes with mbert. Raises ModelError
    when there is no such model.
    """
    from mbert.model.network.micron_bert import MicronBert

    return MicronBert.from_pretrained(_checkpoint(model, Workspace(Path(workspace)))).eval()


def compare(t0: Any, t1: Any, model: "MicronBert | Where | None" = None) -> "Comparison":
    """What moved from one aligned face crop to another.

    `t0` is the earlier crop, `t1` the later one: uint8 RGB arrays (H, W, 3), or batches (B, H, W, 3), as `mbert ingest`
    writes them. `model` is whatever `load_model` takes, or a model, which saves loading it each time. Raises
    ConfigError that says what is expected of an array, ModelError without a model.
    """
    from mbert.model.network.compare import compare_crops
    from mbert.model.network.micron_bert import MicronBert

    return compare_crops(t0, t1, model if isinstance(model, MicronBert) else load_model(model))


def open_frames(workspace: Where = DEFAULT_WORKSPACE) -> "CorpusFrames":
    """The clips of an ingested corpus and their crops as arrays, with times, rows and labels.

    Raises ManifestError where there is no corpus.
    """
    from mbert.shards.frames import CorpusFrames

    return CorpusFrames(Workspace(Path(workspace)))


def open_pairs(
    shards: Where | None = None, *, workspace: Where = DEFAULT_WORKSPACE, cache: Where | None = None
) -> "PairFrames":
    """The frame pairs of shards as arrays, with their rows: a folder, a URL or a brace pattern.

    None: the sampled pairs of the workspace; those of expressions are in `WORKSPACE/shards/expressions`. Raises
    ShardError where there are none.
    """
    from mbert.shards.frames import PairFrames
    from mbert.shards.source import open_source

    return PairFrames(open_source(shards or Workspace(Path(workspace)).pairs, cache=_path(cache)))


def to_pandas(rows: Any) -> "pandas.DataFrame":
    """Rows (of clips, labels, pairs, runs, differences, ...) or a summary with a table as a pandas DataFrame.

    Raises ConfigError where pandas is not installed, and for what has no table.
    """
    from mbert.manifests.tables import to_pandas as convert

    return convert(rows)


def _checkpoint(model: Where | None, space: Workspace) -> Where:
    """A model that is named, else the workspace's pretraining, else the built-in one."""
    from mbert.weights import BUILT_IN

    pretrained = space.runs / "pretrain"
    return model or (pretrained if (pretrained / "checkpoints").exists() else BUILT_IN)


def engine_of(
    kind: EngineName, workers: int | None, address: str | None = None, timeout: float | None = None
) -> "Engine":
    """Where the tasks of a pipeline run."""
    from mbert.shards.engine import Engine, default_workers

    return Engine(kind=kind, workers=workers or default_workers(), address=address, timeout_seconds=timeout)


def _max_faces(faces: str | int) -> int | None:
    named = {"all": None, "largest": 1}
    text = str(faces)
    if text not in named and not text.isdecimal():
        raise ConfigError(f"--faces is {text!r}; allowed are all, largest, or a number")
    return named[text] if text in named else int(text)


def _command_line(function: Callable[..., Any], argument: Where, chosen: Mapping[str, Any]) -> str:
    """The command that does the same, with the options that are not at their defaults."""
    usual = inspect.signature(function).parameters
    text = str(argument)
    words = ["mbert", function.__name__, f"./{text}" if text.startswith("-") else text]
    for name, value in chosen.items():
        flag = name.replace("_", "-")
        if value == usual[name].default or str(value) == str(usual[name].default):
            continue
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)


def _path(where: Where | None) -> Path | None:
    return None if where is None else Path(where)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
