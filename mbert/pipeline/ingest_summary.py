"""What an ingest says: what it is going to do, how far an input has come, what became of it, and of all."""

import dataclasses
import json

from mbert.manifests.labels.changes import LabelChanges
from mbert.manifests.schema import ClipRow, VideoRow


@dataclasses.dataclass(frozen=True, slots=True)
class Going:
    """How far an input has come."""

    video_id: str
    num_bytes: int  # of the input, done so far
    num_frames: int  # decoded so far


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input."""

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
    """What a run is going to do."""

    num_inputs: int  # in the folder at hand
    num_to_do: int
    num_bytes: int  # of the inputs that are still to do
    redone: tuple[str, ...]  # inputs that are ingested again, as labels lie across the cuts of their clips
    notes: tuple[str, ...]  # how the folder was understood


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IngestEstimate:
    """What a run would do, and how long it may take; from a rehearsal on a few inputs."""

    num_inputs: int
    num_to_do: int
    num_bytes: int
    redone: tuple[str, ...]  # as in `IngestPlan`
    workers: int
    seconds: float | None  # with so many workers; None: nothing to do, or no input that was tried can be used
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
    num_labels_in_clips: int  # of them, those that a clip holds
    label_remarks: int  # labels that cannot be used, or not as they are written
    label_changes: LabelChanges  # since they were read last
    redone: tuple[str, ...]  # inputs that this run ingested again, as labels lie across the cuts of their clips
    forgotten: tuple[str, ...]  # inputs at hand that `mbert forget` keeps out
    changed: tuple[str, ...]  # inputs whose content is not what was ingested
    vanished: tuple[str, ...]  # ingested inputs that are no longer there; their crops are kept
    ignored: tuple[str, ...]  # files that are no inputs
    failures: dict[str, str]  # path -> reason
    remarks: dict[str, str]  # path -> what is to be known of an input that is ok
    notes: tuple[str, ...]  # how the folder was understood
    labels_path: str
    corpus: str
    page: str | None = None  # of the corpus, to look at; `mbert.api` makes it
