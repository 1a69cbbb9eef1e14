"""`mbert weights build`: reproduces the model that ships with the package.

Synthetic people -> ingest -> shards -> pretraining; then what `predict` needs to know about the model: the events of
still faces (calibration.json), and each action unit as the model sees it (action_units.safetensors). The card lists it.
"""

import dataclasses
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mbert import ConfigError, __version__
from mbert.manifests.files import replacing, write_json
from mbert.manifests.regions import PARTS, REGIONS
from mbert.manifests.workspace import Workspace
from mbert.model.device import limited_threads, num_threads
from mbert.model.movement.action_units import ActionUnitBases
from mbert.model.movement.calibration import Calibration
from mbert.model.movement.curves import velocity
from mbert.model.movement.displacement import MovementMeter
from mbert.model.movement.events import find_movements
from mbert.model.network.compare import compare_crops
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import CONFIG, STATE, WEIGHTS, model_folder
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.faces.landmarkers import open_landmarker
from mbert.pipeline.faces.measure import CropMeter, guessed_measures
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthetic.facial_motion import (
    ACTION_UNITS,
    ActiveUnit,
    follow,
    pixel_grid,
    unit_velocity,
    with_amplitude,
)
from mbert.pipeline.synthetic.synthesize import PRESETS, SynthesisOptions, synthesize
from mbert.shards.engine import Engine
from mbert.shards.frames import CorpusFrames
from mbert.shards.image import Image

CARD = "README.md"
_SLOWEST = 0.02  # px per 100 ms: faster events of still faces are recorded
_KEPT = 200  # the fastest of these
_UNIT_PAIRS = 4  # per unit and person
_UNIT_PX = (0.7, 3.0)
_MODEL = {"image_size": 224, "patch_size": 16}  # preset `tiny` on whole crops: flow is computed at full resolution


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """The recipe; the package's own has the defaults."""

    seed: int = 0
    steps: int = 1000  # of pretraining
    subjects_per_photo: int = 14
    clips_per_emotion: int = 2
    still_clips: int = 4  # per subject
    still_seconds: float = 8.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuiltWeights:
    """The result of building."""

    folder: str
    num_bytes: int
    sha256: str  # of the weights
    calibrated_minutes: float
    subjects: tuple[str, ...]


def build_weights(
    out: Path,
    options: BuildOptions = BuildOptions(),
    *,
    photos: Path | None = None,
    engine: Engine,
    on_note: Callable[[str], None] = lambda text: None,
) -> BuiltWeights:
    """Make a model folder for `mbert predict`; `photos` are portraits, None: the bundled one."""
    with limited_threads(num_threads()), tempfile.TemporaryDirectory(prefix="mbert-weights-") as name:
        work = Path(name)
        on_note("making people and pretraining on them")
        people = dataclasses.replace(
            PRESETS["hard"],
            fps=30,
            part="pretrain" if photos else "all",
            subjects_per_photo=options.subjects_per_photo,
            clips_per_emotion=options.clips_per_emotion,
            seed=options.seed,
        )
        corpus = _ingested(work / "people", people, photos, engine)
        run_shard(corpus, PairOptions(seed=options.seed), engine=engine)
        settings = PretrainConfig(seed=options.seed, steps=options.steps, model=_MODEL)
        run_pretrain(corpus.pairs, work / "run", settings)
        folder = model_folder(work / "run")
        model = MicronBert.from_pretrained(folder).eval()
        on_note("drawing action units")
        bases = _learn_units(model, corpus, options.seed)
        on_note("measuring still faces")
        still = dataclasses.replace(
            people,
            clips_per_emotion=0,
            neutral_clips=options.still_clips,
            min_seconds=options.still_seconds,
            max_seconds=options.still_seconds,
            seed=options.seed + 1,
            nuisance=dataclasses.replace(people.nuisance, blinks=0.0, gaze_px=0.0, mouth_px=0.0),
        )
        calibration = calibrate(model, _ingested(work / "still", still, photos, engine), engine.workers)
        out.mkdir(parents=True, exist_ok=True)
        for file in (WEIGHTS, STATE, CONFIG):
            with replacing(out / file) as temporary:
                temporary.write_bytes((folder / file).read_bytes())
        bases.write(out)
        calibration.write(out)
        digest = hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest()
        recipe = _recipe(options, people, photos, digest)
        write_json(out / "recipe.json", recipe)
        with replacing(out / CARD) as temporary:
            temporary.write_text(_card(recipe, calibration, model), encoding="utf-8")
    subjects = model.state.subjects if model.state else ()
    num_bytes = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    return BuiltWeights(
        folder=str(out), num_bytes=num_bytes, sha256=digest, calibrated_minutes=calibration.minutes, subjects=subjects
    )


def calibrate(model: MicronBert, workspace: Workspace, threads: int) -> Calibration:
    """Measure the events in an ingested corpus of still faces: none of them is real."""
    meter, crops = MovementMeter(model, threads=max(1, threads)), CropMeter()
    seconds = 0.0
    speeds: dict[str, list[float]] = {part: [] for part in PARTS}
    for clip in CorpusFrames(workspace):
        crops.forget()
        for row, crop in zip(clip.rows, clip.images(), strict=True):
            measured = crops.measure(crop) or guessed_measures(row)
            meter.push(row.pts_seconds, crop, measured.centres)
        paths = meter.finish()
        velocities = velocity(paths.seconds, paths.positions)
        seconds += float(paths.seconds[-1] - paths.seconds[0])
        for part, names in PARTS.items():
            places = [REGIONS.index(name) for name in names]
            found = find_movements(paths.seconds, paths.positions[:, places], velocities[:, places], _SLOWEST)
            speeds[part] += [each.speed for each in found]
    return Calibration(
        minutes=seconds / 60,
        speeds={part: [round(each, 4) for each in sorted(found)[::-1][:_KEPT]] for part, found in speeds.items()},
        source="synthetic people without expression, blink or gaze shift: sensor noise, H.264, light, head motion",
    )


def _ingested(folder: Path, options: SynthesisOptions, photos: Path | None, engine: Engine) -> Workspace:
    workspace = Workspace(folder / "workspace")
    synthesize(folder / "videos", options, photos=photos, engine=engine)
    run_ingest(folder / "videos", workspace, IngestOptions(), engine=engine)
    return workspace


def _learn_units(model: MicronBert, workspace: Workspace, seed: int) -> ActionUnitBases:
    """Draw each unit onto a crop of each person, and record the model's output."""
    numbers = tuple(ACTION_UNITS)
    rng = np.random.default_rng([seed, 2])
    landmarker = open_landmarker("mediapipe")
    strengths: list[npt.NDArray[np.float64]] = []
    displacements: list[npt.NDArray[np.float32]] = []
    for crop in _one_crop_each(workspace):
        faces = landmarker.detect(crop)
        if not faces:
            continue
        pairs: list[tuple[Image, Image]] = []
        for unit in np.repeat(np.arange(len(numbers)), _UNIT_PAIRS):
            amplitude = float(np.exp(rng.uniform(*np.log(_UNIT_PX))))
            left, right = 1 - 0.3 * rng.random(2)
            both = [ActiveUnit(number=numbers[unit], left=float(left), right=float(right))]
            pairs.append(drawn_pair(crop, both, faces[0].points, amplitude, rng))
            strength = np.zeros(len(numbers))
            strength[unit] = amplitude
            strengths.append(strength)
        found = compare_crops(np.stack([t0 for t0, _ in pairs]), np.stack([t1 for _, t1 in pairs]), model)
        displacements += list(found.displacement)
    if not strengths:
        raise ConfigError("no face was found in the crops of the people that were made: give other --photos")
    return ActionUnitBases.learn(numbers, np.stack(strengths), np.stack(displacements).astype(np.float64))


def drawn_pair(
    crop: Image, units: Sequence[ActiveUnit], mesh: npt.NDArray[np.float64], amplitude: float, rng: np.random.Generator
) -> tuple[Image, Image]:
    """A crop (S, S, 3) twice, with skin moved by units by `amplitude` pixels in the second, each with its noise."""
    velocity_field = with_amplitude(unit_velocity(units, mesh, (crop.shape[0], crop.shape[1])), amplitude)
    places = pixel_grid(crop.shape) + follow(-velocity_field)
    moved = cv2.remap(crop, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    noisy = [np.clip(each + rng.normal(0, 2.0, crop.shape), 0, 255).round().astype(np.uint8) for each in (crop, moved)]
    return noisy[0], noisy[1]


def _one_crop_each(workspace: Workspace) -> list[Image]:
    seen: dict[str, Image] = {}
    for clip in CorpusFrames(workspace):
        person = str(clip.clip.subject)
        if person not in seen:
            seen[person] = clip.images(0, 1)[0]
    return list(seen.values())


def _recipe(options: BuildOptions, people: SynthesisOptions, photos: Path | None, digest: str) -> dict[str, Any]:
    files = sorted(file.name for file in photos.iterdir() if file.is_file()) if photos else ["skimage.data.astronaut()"]
    names = ("torch", "timm", "numpy", "opencv-contrib-python", "mediapipe", "av")
    return {
        "command": _command(options, photos),
        "options": dataclasses.asdict(options),
        "people": dataclasses.asdict(people),
        "photos": files,
        "weights_sha256": digest,
        "versions": {"mbert": __version__, **{name: importlib.metadata.version(name) for name in names}},
        "threads": num_threads(),
    }


def _command(options: BuildOptions, photos: Path | None) -> str:
    words = ["mbert weights build OUT"] + ([f"--photos {photos.name}"] if photos else [])
    for name in ("subjects_per_photo", "steps", "seed"):
        value, usual = getattr(options, name), getattr(BuildOptions(), name)
        words += [f"--{name.replace('_', '-')} {value}"] if value != usual else []
    return " ".join(words)


def _card(recipe: dict[str, Any], calibration: Calibration, model: MicronBert) -> str:
    """The model card, in Markdown."""
    photos = recipe["photos"]
    source = (
        "the photo of an astronaut that scikit-image carries (NASA, public domain)"
        if photos == ["skimage.data.astronaut()"]
        else f"{len(photos)} portraits: {', '.join(photos)}"
    )
    thresholds = "\n".join(
        f"| {part} | {calibration.threshold(part, 1.0):.2f} | {len(calibration.speeds[part])} | "
        f"{calibration.speeds[part][0] if calibration.speeds[part] else 0:.2f} |"
        for part in PARTS
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"""# The model that comes with mbert

A μ-BERT of preset `tiny` with attention `motion` ({parameters / 1e6:.1f} M parameters): what `mbert predict`,
`load_model()` and `compare()` use when you name no other. It says which patches of a face moved between two aligned
crops. It was trained without labels, on motion that is drawn onto faces. The shapes of that motion are principal
components of how the faces of nine people in public clips moved (`facial_motion.safetensors`); it has seen no picture
of them, and no recorded expression.

- **Made by** `{recipe["command"]}` with seed {recipe["options"]["seed"]}. The same versions and the same number of
  threads ({recipe["threads"]}) give the same bytes. All options and versions are in `recipe.json`.
- **Data**: {len(model.state.subjects) if model.state else 0} synthetic people, varied from {source}. No
  photo or video of a dataset, and nobody's private recording.
- **Weights**: SHA-256 `{recipe["weights_sha256"]}`, Apache-2.0 as the code.
- **Limits**: what it finds in people of other ages, skin colours, glasses and beards than its source shows was not
  measured separately. `docs/evidence.md` and `docs/predict.md` have what was measured.
- **Not for** judging people: it does not know what a person feels, and it is no lie detector.

## Calibration
{calibration.minutes:.1f} minutes of {calibration.source}.
Speeds in pixels of a 224 px crop per 100 ms.

| part | threshold at 1 false alarm per minute | alarms written down | the fastest |
|---|---|---|---|
{thresholds}

A part that never rests has a higher one: three times how fast it moves for most of the time (`docs/predict.md`).

## Action units
`action_units.safetensors`: for each of {len(ACTION_UNITS)} units the displacement that this model sees when the unit
is drawn onto its synthetic people. An event is "like AU 12" when its displacement is like that of AU 12.
"""
