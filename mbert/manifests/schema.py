"""The rows of every manifest, their Arrow schemas, and the functions that make keys.

A manifest's Arrow schema is derived from its row class, so the class is the single definition of its columns.
Frame indices count decoded frames in presentation order from 0; in a frame folder they are the number in the file name.
"""

import dataclasses
import functools
import hashlib
import re
import types
import typing
from typing import Annotated, Any, Literal

import pyarrow as pa

from mbert.manifests.subject import Subject

SCHEMA_VERSION = 5


Status = Literal[
    "pending",  # planned, not done yet
    "ok",  # at least one clip was written
    "missing",  # named by a label or an earlier run, but absent
    "empty",  # zero bytes, or a folder without a file
    "unreadable",  # cannot be opened or decoded
    "no_video",  # opens, but holds no video stream
    "too_short",  # fewer than two frames: no pair can come from it
    "no_face",  # decodes, but no face track was found
    "timeout",  # took longer than --timeout
    "crashed",  # the process that worked on it died, twice
    "error",  # an unexpected error, named in the reason
]
STATUSES: tuple[str, ...] = typing.get_args(Status)
PairKind = Literal["sampled", "onset_apex", "onset_between"]  # between: the later frame lies before the apex
ApexSource = Literal["annotated", "middle", "spotted"]
Expression = Literal["micro", "macro"]
Packing = Literal["side by side", "one above the other"]
# The names of the images, the rate of --fps or of the dataset, or the default rate.
TimesFrom = Literal["names", "fps", "assumed"]
AlignMode = Literal["auto", "clip", "smooth", "frame"]
Part = Literal["pretrain", "train", "test"]  # of the synthetic benchmark; each photo is in only one

Float32 = Annotated[float, pa.float32()]
Affine = Annotated[tuple[float, ...], pa.list_(pa.float64(), 6)]  # row-major 2x3
Shares = Annotated[tuple[float, ...], pa.list_(pa.float32())]
FivePoints = Annotated[tuple[float, ...], pa.list_(pa.float32(), 10)]  # x, y of eyes, nose tip, mouth corners


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VideoRow:
    """One input, including failed ones. `reason` may also hold a remark on an input that is ok."""

    video_id: str
    dataset: str
    path: str  # relative to its root, an ingested folder, with forward slashes
    kind: Literal["video", "frames"]
    status: Status
    reason: str | None = None
    shard: str | None = None  # the tar in corpus/frames that holds its crops
    codec: str | None = None
    width: int | None = None  # upright and of square pixels, after rotation and aspect
    height: int | None = None
    fps: float | None = None  # mean rate, from the timestamps of the decoded frames
    num_frames: int | None = None  # decoded
    num_frames_from_header: int | None = None  # as the file claims
    bit_depth: int | None = None  # bits in use per sample; 8 are kept, with one scale for the whole input
    times_from: TimesFrom | None = None  # where the times of a folder's frames come from
    rotation: int | None = None  # degrees, as the file tells players to turn it
    mirrored: bool | None = None  # as the file requests, too
    turned: int | None = None  # further degrees: 180 if faces showed that it is upside down
    aspect: float | None = None  # width of a stored pixel by its height; made square
    stereo: Packing | None = None  # how pictures for two eyes are packed; the first is used
    stream: int | None = None  # number of the stream used in the file
    # The colours as the file states them; None: not stated. Then the range is assumed to be limited, and the matrix
    # BT.709 for pictures that are 1280 wide or higher than 576, else BT.601.
    transfer: str | None = None
    primaries: str | None = None
    matrix: str | None = None
    range: str | None = None  # "limited" or "full"
    tone_mapped: bool | None = None  # HDR, converted for a normal screen
    rate: float | None = None  # how many times slower than real time the file plays; its times were divided by it
    true_fps: float | None = None  # mean rate of distinct pictures: below `fps` if some are repeated
    seconds: float | None = None  # presentation time from first to last frame
    first_frame: int | None = None  # frame indices of the decoded part; a folder's numbers may begin anywhere
    last_frame: int | None = None
    kept_whole: str | None = None  # labelled frame ranges that no clip border cut when it was ingested: `7-20 45-60`
    num_clips: int = 0
    num_crops: int = 0  # aligned frames written
    num_bytes: int = 0
    mtime_ns: int = 0
    sha256: str | None = None
    root: int = 1  # which of the folders that the dataset was ingested from, in the order of their first ingest
    # As `videos.csv` says:
    license: str | None = None
    consent: str | None = None
    source: str | None = None  # where the recording comes from
    retention_until: str | None = None  # YYYY-MM-DD, the last day on which it may be kept
    subject: Subject | None = None  # who is shown


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClipRow:
    """One face track under one alignment. For its annotations see `LabelRow`."""

    clip_id: str
    video_id: str
    dataset: str
    shard: str
    track: int  # 0, 1, ... in order of appearance in the video
    first_frame: int
    last_frame: int  # inclusive
    num_frames: int
    fps: float
    align: AlignMode  # the method used: "clip", "smooth" or "frame"
    face_px: Float32  # median over the clip, in source pixels
    jitter_px: Float32 | None  # RMS motion of rigid regions between consecutive crops, in crop pixels
    subject: Subject | None = None  # who is shown; from the current labels and folders


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelRow:
    """One annotated expression, in the frames that were annotated, and what became of it.

    The only place for annotations. (dataset, subject, sample) identifies an expression everywhere.
    """

    dataset: str
    subject: Subject | None
    sample: str
    path: str  # of the input, relative to the ingested folder
    video_id: str
    clip_id: str | None  # the clip that holds it; None: it cannot be used, see `remark`
    line: int  # of the annotation
    expression: Expression
    onset: int | None  # frame indices, after errata and checks; never moved to existing crops
    apex: int | None
    offset: int | None
    emotion: str | None
    action_units: str | None
    objective_class: str | None
    errata: str | None  # ids of the corrections, separated by spaces
    remark: str | None  # what is wrong with it, or was changed
    root: str | None = None  # the ingested folder that the annotation is from


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FrameRow:
    """One aligned crop: the location of its bytes, how it was cut, and its quality."""

    clip_id: str
    video_id: str
    frame_index: int
    pts_seconds: float
    shard: str
    offset: int  # of the JPEG bytes in the tar
    size: int
    transform: Affine  # source pixels, upright and square -> crop pixels
    landmarks: FivePoints  # crop pixels
    landmarks_measured: bool  # False: interpolated between measured frames
    face_px: Float32  # longer side of the landmarks' box, in source pixels
    yaw: Float32  # degrees, positive: turned to the image's right
    pitch: Float32  # degrees, positive: looking up
    roll: Float32  # degrees, positive: clockwise in the image
    sharpness: Float32  # variance of the Laplacian of the crop's luma
    brightness: Float32  # mean luma of the crop, 0-255
    clipped: Float32  # share of the crop's pixels that are black or white: too dark, too bright, or outside the frame
    eye_open: Float32  # eye aspect ratio: about 0.3 when open, below 0.2 in a blink; linear between measured frames
    mouth_open: Float32  # distance of the inner lips, in mouth widths
    score: Float32 | None  # the landmarker's confidence, 0-1: low if the face is partly hidden
    repeated: bool = False  # repeats the previous picture: not used in pairs


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PairRow:
    """One frame pair: t0 is the earlier frame (the paper's I_t), t1 the later one (I_{t+δ}).

    The manifest of clips next to the shards says whose face it shows, and `LabelRow` how an expression is annotated.
    """

    key: str
    shard: str
    clip_id: str
    dataset: str
    t0: int  # frame_index
    t1: int
    delta_seconds: float
    kind: PairKind
    # Only on pairs of a labelled expression, that is of a kind other than `sampled`:
    subject: Subject | None = None  # identifies the label together with dataset and sample
    sample: str | None = None
    apex_source: ApexSource | None = None
    t0_offset: int  # byte range of each JPEG in the tar: any frame is one ranged read
    t0_size: int
    t1_offset: int
    t1_size: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TruthRow:
    """One synthetic clip: everything it was made from, apart from its photo. Written by `mbert synthesize`."""

    path: str  # relative to the folder of the videos, with forward slashes
    subject: str
    part: Part
    photo: str  # name of the file
    photo_sha256: str
    variation: int  # which pseudo-subject of the photo
    emotion: str  # `neutral`: the face does not move
    action_units: str | None  # as annotation sheets write them: 6+12
    left_strengths: Shares  # of each unit, on the left of the image
    right_strengths: Shares
    amplitude_px: float  # largest displacement at the apex, in pixels of a 224 px crop; 0 for a neutral clip
    onset: int | None  # frame indices; None for a neutral clip
    apex: int | None
    offset: int | None
    num_frames: int
    fps: int
    width: int
    height: int
    seed: int  # of the clip's nuisances
    # Nuisances, as in `mbert.pipeline.synthetic.nuisance.Nuisance`:
    noise: float
    crf: int
    light: float
    flicker: float
    tone: float
    head_px: float
    head_degrees: float
    blinks: float
    gaze_px: float
    mouth_px: float
    scene_px: float


@functools.cache
def arrow_schema(row_type: type[Any]) -> pa.Schema:
    """The Arrow schema of a row class, with its name and version in the metadata."""
    hints = typing.get_type_hints(row_type, include_extras=True)
    fields = [pa.field(field.name, *_arrow_type(hints[field.name])) for field in dataclasses.fields(row_type)]
    return pa.schema(fields, metadata={"mbert_schema": f"{row_type.__name__}/{SCHEMA_VERSION}"})


def _arrow_type(hint: Any) -> tuple[pa.DataType, bool]:
    nullable = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
        nullable = True
    if typing.get_origin(hint) is Annotated:
        return hint.__metadata__[0], nullable
    if typing.get_origin(hint) is Literal:
        hint = str
    plain = {str: pa.string(), Subject: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return plain[hint], nullable


# A tar header holds 100 characters: dataset (10) + slug + hash, clip and frame numbers, `.t0.jpg` must fit.
_SLUG_LENGTH = 40


def video_key(dataset: str, path: str, root: int = 1) -> str:
    """The id of an input: dataset, readable part of its relative path, 8 hex digits of a hash of path and root.

    The hash separates names that the readable part may merge (`a b.mp4`, `a_b.mp4`, names in other scripts, equal paths
    below two roots), and does not depend on which other files exist.
    """
    stem = re.sub(r"\.[^./]*$", "", path)
    slug = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[-_SLUG_LENGTH:].strip("-")
    told = path if root == 1 else f"{path}\0{root}"
    digest = hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return "-".join(part for part in (dataset, slug, digest) if part)


def clip_key(video_id: str, track: int, clip_index: int) -> str:
    """The id of a clip: face track, then running number within the track."""
    return f"{video_id}_f{track:02d}_c{clip_index:05d}"


def pair_key(clip_id: str, t0: int, t1: int, copy: int = 0) -> str:
    """The id of a pair; sorts by time within a clip. `copy` counts additional labels that give the same two frames."""
    return f"{clip_id}_{t0:07d}_{t1:07d}" + (f"_{copy}" if copy else "")
