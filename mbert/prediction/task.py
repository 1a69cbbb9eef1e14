"""What one video's work needs: options, the model and what is known about it; and what it gives."""

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
    """What decides the numbers, and what is written beside them."""

    per_minute: float = 1.0  # false alarms of a still face that are accepted
    model: str  # folder of the weights
    classifier: str | None = None  # folder of the user's finetuned model
    overlay: bool = True
    embed_video: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.per_minute < math.inf:
            raise ConfigError(f"per_minute is {self.per_minute:g}; it must be above 0, and a number")


@dataclasses.dataclass(frozen=True, slots=True)
class PredictTask:
    """One ingested video, and where its predictions go."""

    source: Source
    name: str  # the source's path; of a frame folder that was given itself, its name
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
    """What became of one video."""

    video: str
    folder: str  # its pages and tables
    summary: PredictionSummary
    curve: tuple[float, ...]  # movement of the face that is seen longest, thinned


@dataclasses.dataclass(frozen=True, slots=True)
class Unpredicted:
    """A video whose predictions could not be made, and why."""

    video: str
    reason: str


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with what was measured about it."""

    network: MicronBert
    calibration: Calibration
    units: ActionUnitBases
    is_calibrated: bool  # else its figures are those of the built-in model
    digest: str  # of the weights

    @property
    def fingerprint(self) -> str:
        """Of all that decides what is found."""
        return f"{self.digest} {self.calibration} {self.units.numbers} {self.units.fields.tobytes().hex()}"


def load(model: str) -> LoadedModel:
    """Read once per process, and again when its files have changed. Raises ModelError where there is no such model."""
    return _load(model, _written(model))


def load_classifier(run: str) -> Classifier:
    """As `load`. Raises ModelError where there is none."""
    return _load_classifier(run, _written(run))


def _written(model: str) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each file of a model: one that was trained on since is another one."""
    path = Path(model)
    if not path.exists():
        return ()
    files = [path] if path.is_file() else sorted(file for file in model_folder(path).iterdir() if file.is_file())
    return tuple((file.name, (status := file.stat()).st_size, status.st_mtime_ns) for file in files)


@functools.lru_cache(maxsize=1)
def _load(model: str, written: object) -> LoadedModel:
    network = MicronBert.from_pretrained(model).eval()
    path = Path(model)
    # Of a name on the hub nothing else is known: what lies in the current folder belongs to another model.
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
