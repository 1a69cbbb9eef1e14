"""The input and output of the work on one video: options, the model and facts about it; and the result."""

import dataclasses
import functools
import math
from pathlib import Path

from mbert import ConfigError
from mbert.manifests.predictions import PredictionSummary
from mbert.manifests.workspace import Workspace
from mbert.model.movement.action_units import FILE_NAME as UNITS
from mbert.model.movement.action_units import ActionUnitBases
from mbert.model.movement.calibration import FILE_NAME as CALIBRATION
from mbert.model.movement.calibration import Calibration
from mbert.model.network.classifier import Classifier
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import hash_weights, model_folder
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.source import Source
from mbert.weights import BUILT_IN


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Options that affect the numbers, and optional outputs."""

    per_minute: float = 1.0  # accepted false alarms of a still face
    model: str  # folder of the weights
    classifier: str | None = None  # folder of the user's finetuned model
    overlay: bool = True
    embed_video: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.per_minute < math.inf:
            raise ConfigError(f"per_minute is {self.per_minute:g}; it must be above 0, and a number")


@dataclasses.dataclass(frozen=True, slots=True)
class PredictTask:
    """One ingested video, and the place for its predictions."""

    source: Source
    name: str  # the source's path; for a single given frame folder, its name
    workspace: Workspace
    folder: Path
    options: PredictOptions
    ingest: IngestOptions
    command: str
    threads: int


@dataclasses.dataclass(frozen=True, slots=True)
class PredictProgress:
    """How many frames of a video are done."""

    video: str
    num_frames: int


@dataclasses.dataclass(frozen=True, slots=True)
class Predicted:
    """The outcome of one video."""

    video: str
    folder: str  # its pages and tables
    summary: PredictionSummary
    curve: tuple[float, ...]  # movement of the face visible longest, thinned out


@dataclasses.dataclass(frozen=True, slots=True)
class Unpredicted:
    """A video whose predictions could not be made, and why."""

    video: str
    reason: str


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with the measurements about it."""

    network: MicronBert
    calibration: Calibration
    units: ActionUnitBases
    is_calibrated: bool  # otherwise it uses the built-in model's figures
    digest: str  # of the weights

    @property
    def fingerprint(self) -> str:
        """A hash of everything that affects the findings."""
        return f"{self.digest} {self.calibration} {self.units.numbers} {self.units.fields.tobytes().hex()}"


def load(model: str) -> LoadedModel:
    """Load once per process, and again if its files have changed. Raises ModelError if there is no such model."""
    return _load(model, _written(model))


def load_classifier(run: str) -> Classifier:
    """As `load`. Raises ModelError if there is none."""
    return _load_classifier(run, _written(run))


def _written(model: str) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each file of a model: further training makes it a different one."""
    path = Path(model)
    if not path.exists():
        return ()
    files = [path] if path.is_file() else sorted(file for file in model_folder(path).iterdir() if file.is_file())
    return tuple((file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files)


@functools.lru_cache(maxsize=1)
def _load(model: str, written: object) -> LoadedModel:
    network = MicronBert.from_pretrained(model).eval()
    path = Path(model)
    # For a name on the hub nothing else is known: files in the current folder belong to another model.
    folder = model_folder(path) if path.is_dir() else path.parent if path.is_file() else None
    is_calibrated = folder is not None and (folder / CALIBRATION).exists()
    has_units = folder is not None and (folder / UNITS).exists()
    return LoadedModel(
        network,
        Calibration.read(folder if folder and is_calibrated else BUILT_IN),
        ActionUnitBases.read(folder if folder and has_units else BUILT_IN),
        is_calibrated,
        hash_weights(network),
    )


@functools.lru_cache(maxsize=1)
def _load_classifier(run: str, written: object) -> Classifier:
    return Classifier.from_pretrained(run).eval()
