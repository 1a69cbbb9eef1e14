"""The reports of an ingest: its plan, the progress of an input, the outcome of each and of all."""

import dataclasses
import json

from mbert.manifests.labels.changes import LabelChanges
from mbert.manifests.schema import ClipRow, VideoRow


@dataclasses.dataclass(frozen=True, slots=True)
class Going:
    """The progress of an input."""

    video_id: str
    num_bytes: int  # of the input, done so far
    num_frames: int  # decoded so far


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one input."""

    video: VideoRow
    clips: tuple[ClipRow, ...] = ()

    def to_json(self) -> str:
        """For the metadata of the twin."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """Inverse of `to_json`."""
        value = json.loads(text)
        return cls(VideoRow(**value["video"]), tuple(ClipRow(**clip) for clip in value["clips"]))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestPlan:
    """What a run will do."""

    num_inputs: int  # in the current folder
    num_to_do: int
    num_bytes: int  # of the inputs that are still to do
    redone: tuple[str, ...]  # inputs that are ingested again, because their clips cut through labels
    notes: tuple[str, ...]  # how the folder was interpreted


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestEstimate:
    """What a run would do, and how long it may take; from a rehearsal on a few inputs."""

    num_inputs: int
    num_to_do: int
    num_bytes: int
    redone: tuple[str, ...]  # as in `IngestPlan`
    workers: int
    seconds: float | None  # with that many workers; None: nothing to do, or no input tried can be used
    tried: dict[str, str]  # path -> what became of the first frames
    corpus: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestSummary:
    """The state of the corpus after a run, and what this run did."""

    statuses: dict[str, int]  # inputs by status, all runs
    num_new: int  # inputs done by this run
    num_clips: int
    num_crops: int
    num_frames_decoded: int  # by this run
    seconds: float  # wall time of this run
    num_labels: int
    num_labels_in_clips: int  # those of them contained in a clip
    label_remarks: int  # labels that cannot be used, or not as written
    label_changes: LabelChanges  # since they were last read
    redone: tuple[str, ...]  # inputs that this run ingested again, because their clips cut through labels
    forgotten: tuple[str, ...]  # current inputs that `mbert forget` keeps out
    changed: tuple[str, ...]  # inputs whose content has changed since they were ingested
    vanished: tuple[str, ...]  # ingested inputs that no longer exist; their crops are kept
    ignored: tuple[str, ...]  # files that are not inputs
    failures: dict[str, str]  # path -> reason
    remarks: dict[str, str]  # path -> what to know about an input that is ok
    notes: tuple[str, ...]  # how the folder was interpreted
    labels_path: str
    corpus: str
    page: str | None = None  # of the corpus; made by `mbert.api`
