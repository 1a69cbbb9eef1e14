"""What `mbert predict` writes about a video: rows of `frames.csv` and `events.csv`, and `summary.json`.

Lengths are in pixels of a 224 px crop, in which the eyes are 67 px apart, unless said otherwise; speeds in these pixels
per 100 ms.
"""

import dataclasses
from typing import Any, Literal

from mbert.manifests.regions import Part
from mbert.manifests.schema import Float32

EventType = Literal["micro", "macro", "blink", "speech"]
# blink: close to one. speech: the mouth moves in speech. head: it moves strongly. light: it changes. low_light: the
# face is dark. cut: at the beginning or end of the part in which the face was followed.
DOUBTS = frozenset(["blink", "speech", "head", "light", "low_light", "cut"])
FRAMES, OVERLAY = "frames.parquet", "overlay.mp4"  # these two identify a folder of results
NO_FACE = -1  # `face_id` of a frame without a face
MICRO_SECONDS = 0.5  # an expression that is over by then is micro (Yan et al. 2013)
RESEARCH_ONLY = (
    "For research: mbert shows what moved in a face, it does not know what a person feels, and it is no lie detector."
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MovementRow:
    """One face in one frame; a frame without a face has one row, too, with `success` 0 and no values."""

    frame: int  # as in labels: from 0, in a frame folder the number in the file name
    timestamp: float  # seconds, from the presentation time
    face_id: int  # the track: 0, 1, ... in order of appearance; NO_FACE: none
    confidence: Float32 | None = None  # the landmarker's, 0-1
    success: int  # 1: the face was found
    x: Float32 | None = None  # of the face's box, in pixels of the upright video
    y: Float32 | None = None
    w: Float32 | None = None
    h: Float32 | None = None
    pitch: Float32 | None = None  # degrees, positive: looking up
    yaw: Float32 | None = None  # degrees, positive: turned to the image's right
    roll: Float32 | None = None  # degrees, positive: clockwise in the image
    head: Float32 | None = None  # speed of the whole head
    movement: Float32 | None = None  # the largest of the regions below: how fast the skin moves relative to the head
    brow_outer_l: Float32 | None = None
    brow_inner_l: Float32 | None = None
    brow_inner_r: Float32 | None = None
    brow_outer_r: Float32 | None = None
    lids_l: Float32 | None = None
    lids_r: Float32 | None = None
    nose: Float32 | None = None
    cheek_l: Float32 | None = None
    cheek_r: Float32 | None = None
    lip_corner_l: Float32 | None = None
    lip_corner_r: Float32 | None = None
    upper_lip: Float32 | None = None
    lower_lip: Float32 | None = None
    chin: Float32 | None = None
    eye_open: Float32 | None = None  # eye aspect ratio, mean of both eyes: about 0.3 when open
    mouth_open: Float32 | None = None  # distance of the inner lips, in mouth widths
    blink: int | None = None  # 1: within a blink
    speech: int | None = None  # 1: the mouth moves as in speech
    brightness: Float32 | None = None  # mean luma of the crop, 0-255
    light: Float32 | None = None  # how fast it changes, in levels per 100 ms
    sharpness: Float32 | None = None  # variance of the Laplacian of the crop
    repeated: int | None = None  # 1: the same picture as before; nothing can be said about its motion


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EventRow:
    """One movement from its onset over its apex to its offset, all of them frames of the video; also blinks, speech."""

    video: str  # the input's path as listed
    face_id: int
    event: int  # 1, 2, ... in order of onset within the video
    type: EventType  # micro: over within MICRO_SECONDS
    part: Part
    onset_frame: int  # the first that differs
    apex_frame: int  # the largest displacement
    offset_frame: int  # the last before the face is back, or before another movement
    onset_s: float
    apex_s: float
    offset_s: float
    duration_ms: float
    size_px: Float32  # displacement at the apex, of the region that moved furthest
    speed: Float32  # the fastest frame, px per 100 ms
    direction: str | None  # where that region moved, in the image: `up`, `down left`, ...
    regions: str  # those that moved, furthest first, separated by spaces
    score: Float32 | None  # `speed` over the threshold of the part, so at least 1; None: for blinks and speech
    false_alarms_per_minute: Float32 | None  # how often at most a still face gives an event this fast
    like: str | None  # action units whose motion it is most like, best first: `12:0.81 6:0.40 25:0.11`
    emotion: str | None = None  # of the user's own classifier
    emotion_probability: Float32 | None = None
    # What else happened from onset to apex, separated by spaces: DOUBTS, or `held`, an expression without a return.
    flags: str | None

    @property
    def is_doubtful(self) -> bool:
        """Whether something else happened that may explain the movement."""
        return not DOUBTS.isdisjoint((self.flags or "").split())


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Warning:
    """Why the result should be read with care."""

    kind: Literal["fps", "face_size", "compression", "head", "light", "repeats", "cut", "input"]
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FaceSummary:
    """One face of a video."""

    face_id: int
    first_s: float
    last_s: float
    num_frames: int
    face_px: float  # median, in pixels of the video


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PredictionSummary:
    """`summary.json` of one video: its facts, what was found, and what it was made with."""

    video: str
    sha256: str | None
    width: int | None
    height: int | None
    fps: float | None  # mean, from the timestamps of the decoded frames
    fps_nominal: float | None  # the most frequent interval between two frames, as a rate
    is_vfr: bool
    num_frames: int
    seconds: float
    faces: tuple[FaceSummary, ...]
    counts: dict[str, int]  # events by type; `doubtful`: micro and macro that may be something else
    warnings: tuple[Warning, ...]
    note: str  # RESEARCH_ONLY
    settings: dict[str, Any]
    versions: dict[str, str]
    model: dict[str, str]  # name, sha256
    command: str
    outputs: tuple[str, ...]  # file names in the same folder
