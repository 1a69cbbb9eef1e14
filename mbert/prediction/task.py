"""What one video's work needs: options, the model and what is known about it; and what it gives."""

import dataclasses
import functools
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
from mbert.pipeline.ingest_input import IngestOptions
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
        if not self.per_minute > 0:
            raise ConfigError(f"per_minute is {self.per_minute:g}; it must be above 0")


@dataclasses.dataclass(frozen=True, slots=True)
class PredictTask:
    """One ingested video, and where its predictions go."""

    source: Source
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


@functools.cache
def load(model: str) -> LoadedModel:
    """One per process. Raises ModelError where there is no such model."""
    network = MicronBert.from_pretrained(model).eval()
    folder = model_folder(Path(model)) if Path(model).is_dir() else Path(model).parent
    is_calibrated = (folder / CALIBRATION).exists()
    return LoadedModel(
        network,
        Calibration.read(folder if is_calibrated else BUILT_IN),
        ActionUnitBases.read(folder if (folder / UNITS).exists() else BUILT_IN),
        is_calibrated,
        hash_weights(network),
    )


@functools.cache
def load_classifier(run: str) -> Classifier:
    """One per process. Raises ModelError where there is none."""
    return Classifier.from_pretrained(run).eval()
