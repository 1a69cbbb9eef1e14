"""Commands as functions: from videos to a corpus and its shards, and removing inputs from them again."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mbert import ConfigError
from mbert.api.options import (
    DEFAULT_WORKSPACE,
    EngineName,
    Where,
    choices_checked,
    engine_of,
    given_only,
    max_faces_of,
    path_of,
)
from mbert.extras import require_video
from mbert.manifests.workspace import Workspace

if TYPE_CHECKING:
    from mbert.pipeline.ingest_summary import Going, IngestEstimate, IngestPlan, IngestSummary, Outcome
    from mbert.pipeline.shard import ShardSummary
    from mbert.pipeline.synthetic.synthesize import SynthesisSummary
    from mbert.prediction.forget import ForgetSummary
    from mbert.prediction.info import WorkspaceInfo
    from mbert.prediction.preview import PreviewSummary


@choices_checked
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
    page: bool = True,
    dry_run: bool = False,
    on_plan: "Callable[[IngestPlan], None]" = lambda plan: None,
    on_outcome: "Callable[[Outcome], None]" = lambda outcome: None,
    on_going: "Callable[[Going], None]" = lambda going: None,
) -> "IngestSummary | IngestEstimate":
    """Turn raw face video into aligned face crops with manifests: `mbert ingest`.

    With `page`, also makes the page of `preview` if anything is new. With `dry_run`, writes nothing and returns the
    estimate instead of the summary. Raises ConfigError for options and folders that cannot be used, ManifestError
    for a label file that cannot be read.
    """
    require_video("mbert ingest")
    from mbert.pipeline.ingest import CorpusChoice, estimate_ingest, run_ingest
    from mbert.pipeline.ingest_options import IngestOptions

    options = IngestOptions(
        size=size,
        jpeg_quality=jpeg_quality,
        align=align,
        landmarker=landmarker,
        landmarker_model=None if landmarker_model is None else str(Path(landmarker_model).absolute()),
        landmark_hz=landmark_hz,
        max_faces=max_faces_of(faces),
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
    summary = run_ingest(Path(folder), space, options, **how, on_plan=on_plan, on_outcome=on_outcome, on_going=on_going)
    if page and (summary.num_new or not space.preview.exists()):
        preview(space.root)
    return dataclasses.replace(summary, page=str(space.preview) if page else None)


def info(workspace: Where = DEFAULT_WORKSPACE) -> "WorkspaceInfo":
    """Summarize a workspace: `mbert info`. For parts that do not exist yet, the numbers are 0, None or empty.

    Raises ManifestError if the folder does not exist or a manifest cannot be read.
    """
    from mbert.prediction.info import run_info

    return run_info(Workspace(Path(workspace)))


def preview(
    workspace: Where = DEFAULT_WORKSPACE, *, pictures: int = 12, seed: int = 0, out: Where | None = None
) -> "PreviewSummary":
    """Make the page of a corpus: `mbert preview`.

    It shows at most `pictures` crops of each kind and as many rejected inputs, whatever the size of the corpus; `seed`
    selects the random crops. Raises ManifestError if there is no corpus or a manifest cannot be read, ConfigError for
    options that cannot be used.
    """
    from mbert.prediction.preview import run_preview

    return run_preview(Workspace(Path(workspace)), pictures=pictures, seed=seed, out=path_of(out))


@choices_checked
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
    """Pair the crops and distribute the pairs over WebDataset shards: `mbert shard`. `pairs` selects one kind.

    Raises ManifestError if there is no corpus, ConfigError if the options allow no pairs.
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


@choices_checked
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
    """Make labelled videos of small facial motion from photos, with ground truth: `mbert synthesize`.

    `photos` is a folder of portraits; None: the bundled one. A strength of None takes the preset's value. Raises
    ConfigError for options and folders that cannot be used.
    """
    require_video("mbert synthesize")
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
        nuisance=dataclasses.replace(base.nuisance, **given_only(strengths)),
        seed=seed,
        **given_only(amplitudes),
    )
    return make(
        Path(out),
        options,
        photos=path_of(photos),
        engine=engine_of("local", workers),
        overwrite=overwrite,
        on_note=on_note,
        on_plan=on_plan,
        on_clip=on_clip,
    )


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

    Select the inputs with exactly one of `paths` (files or folders, on disk or as in `videos.parquet`), `subjects`,
    `videos` (ids) and `expired` (`retention_until` has passed). `predictions` is an `out` of `predict` that is also
    searched. With `dry_run`, changes nothing. Raises ConfigError for a selection that is missing or ambiguous,
    ManifestError if there is no corpus or a run is in progress.
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
    return run_forget(Workspace(Path(workspace)), by, wanted, predictions=path_of(predictions), dry_run=dry_run)


def lift(paths: Sequence[Where], *, workspace: Where = DEFAULT_WORKSPACE) -> int:
    """Allow forgotten inputs to be ingested again: `mbert forget --lift PATH`. Returns how many were lifted."""
    from mbert.prediction.forget import lift as lift_these

    return lift_these(Workspace(Path(workspace)), [Path(path) for path in paths])
