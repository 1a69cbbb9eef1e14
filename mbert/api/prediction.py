"""Commands as functions: find what moves in a video, and build the model for it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mbert.api.options import Where, choices_checked, command_line, engine_of, max_faces_of, path_of
from mbert.extras import require_video

if TYPE_CHECKING:
    from mbert.pipeline.ingest_summary import Outcome
    from mbert.prediction.build import BuiltWeights
    from mbert.prediction.run import PredictRun


@choices_checked
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

    `model` is anything `load_model` takes; None: the built-in one. `classifier` is a run of `mbert train finetune`,
    which names emotions. Each video gets a folder of tables and pages in `out`. Raises ConfigError for options that
    cannot be used and a folder without videos, ModelError for a model that cannot be used.
    """
    require_video("mbert predict")
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
        max_faces=max_faces_of(faces),
        model=model,
        classifier=path_of(classifier),
        overlay=overlay,
        embed_video=embed_video,
        folder_fps=fps,
        rate=rate,
        bit_depth=bit_depth,
        decoder=decoder,
        engine=engine_of("local", workers),
        overwrite=overwrite,
        command=command_line(predict, video, chosen),
        on_plan=on_plan,
        on_ingested=on_ingested,
        on_progress=on_progress,
    )


@choices_checked
def build_weights(
    out: Where,
    *,
    photos: Where | None = None,
    subjects_per_photo: int = 14,
    steps: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> "BuiltWeights":
    """Train a model for `predict` on synthetic people: `mbert weights build`. None: the bundled photo."""
    require_video("mbert weights build")
    from mbert.prediction.build import BuildOptions
    from mbert.prediction.build import build_weights as build

    options = BuildOptions(seed=seed, steps=steps, subjects_per_photo=subjects_per_photo)
    return build(Path(out), options, photos=path_of(photos), engine=engine_of("local", workers), on_note=on_note)
