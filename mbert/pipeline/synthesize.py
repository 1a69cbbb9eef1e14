"""Still photos of faces -> labelled videos of small, brief, local facial motion: a corpus that anybody may have.

An expression is a set of action units; each moves the skin around a few landmarks, with a Gaussian fall-off. It rises
from onset to apex and falls to the offset, under sensor noise, slow head drift and slow lighting drift. Lengths are in
crop widths (see `align`), so the motion has the same size in the aligned crop whatever the photo's resolution is.
"""

import csv
import dataclasses
import functools
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from mbert import ConfigError
from mbert.manifests.labels import LABEL_COLUMNS, LABELS_NAME
from mbert.manifests.store import replacing
from mbert.pipeline.align import fit_pose, pose_matrices, warp
from mbert.pipeline.corpora.source import IMAGE_SUFFIXES
from mbert.pipeline.engine import IN_PROCESS, Engine, run_tasks
from mbert.pipeline.landmarkers import MediaPipeMesh
from mbert.pipeline.landmarks import Points
from mbert.shards.image import Image

FPS = 30
_VIDEO_SIZE = 320  # pixels; the crop covers about two thirds of it
# One thread and no macroblock tree: with either of them, the same frames do not always give the same bytes.
_X264 = {"crf": "16", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
_CROP_PX = 224  # amplitudes are given in pixels of the default crop


@dataclasses.dataclass(frozen=True, slots=True)
class ActionUnit:
    """Mesh points on the image's left, their mirror images, and where the skin goes on the left (x is mirrored)."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    direction: tuple[float, float]
    spread: float = 0.06  # standard deviation of the fall-off, in crop widths


# FACS (Ekman & Friesen): which part of the face each unit moves, and which way.
ACTION_UNITS: dict[int, ActionUnit] = {
    1: ActionUnit((107, 55), (336, 285), (0.0, -1.0)),  # inner brow raiser
    2: ActionUnit((70, 105), (300, 334), (-0.2, -1.0)),  # outer brow raiser
    4: ActionUnit((107, 66), (336, 296), (0.5, 0.9)),  # brow lowerer
    5: ActionUnit((159,), (386,), (0.0, -0.5), 0.03),  # upper lid raiser
    6: ActionUnit((117, 50), (346, 280), (0.1, -0.6)),  # cheek raiser
    9: ActionUnit((98, 49), (327, 279), (0.1, -1.0), 0.05),  # nose wrinkler
    10: ActionUnit((39,), (269,), (0.0, -0.8), 0.05),  # upper lip raiser
    12: ActionUnit((61,), (291,), (-0.6, -0.8), 0.07),  # lip corner puller
}
# Combinations as the micro-expression corpora code them.
EXPRESSIONS: dict[str, tuple[int, ...]] = {"disgust": (4, 9, 10), "happiness": (6, 12), "surprise": (1, 2, 5)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisOptions:
    """Size and difficulty of the corpus."""

    num_subjects: int = 8
    clips_per_emotion: int = 4
    min_amplitude_px: float = 1.5  # largest displacement at the apex, in pixels of a 224 px crop
    max_amplitude_px: float = 3.0
    noise: float = 2.0  # standard deviation of the sensor noise, 0-255
    drift_px: float = 1.0  # of the head, standard deviation over a clip, in pixels of a 224 px crop
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_subjects < 2 or self.clips_per_emotion < 1:
            raise ConfigError("a corpus needs at least 2 subjects and 1 clip per emotion")
        if not 0 < self.min_amplitude_px <= self.max_amplitude_px:
            raise ConfigError("amplitudes must be 0 < min <= max")


@dataclasses.dataclass(frozen=True, slots=True)
class Portrait:
    """A neutral face and its landmarks, framed for a video."""

    image: Image
    mesh: Points


@dataclasses.dataclass(frozen=True, slots=True)
class SyntheticClip:
    """One video to make, and its label."""

    path: str
    subject: str
    emotion: str
    onset: int
    apex: int
    offset: int
    num_frames: int
    amplitude_px: float
    seed: int

    @property
    def action_units(self) -> str:
        """As annotation sheets write them."""
        return "+".join(str(number) for number in EXPRESSIONS[self.emotion])


@dataclasses.dataclass(frozen=True, slots=True)
class _ClipTask:
    clip: SyntheticClip
    portrait: Portrait
    options: SynthesisOptions
    folder: Path


def synthesize(
    folder: Path, options: SynthesisOptions, *, photos: Path | None = None, engine: Engine = IN_PROCESS
) -> int:
    """Write `folder/<subject>/<clip>.mp4` and `folder/labels.csv`; returns the number of clips.

    `photos` is a folder of portraits; without it the public-domain astronaut photo of scikit-image is varied into
    pseudo-subjects. Raises ConfigError when no photo shows a face.
    """
    portraits = _portraits(options, photos)
    tasks = []
    for number, portrait in enumerate(portraits):
        for clip in _clips_of_subject(f"s{number + 1:02d}", number, options):
            tasks.append(_ClipTask(clip, portrait, options, folder))
    for _ in run_tasks(_write_clip, tasks, engine):
        pass
    with replacing(folder / LABELS_NAME) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*LABEL_COLUMNS, "action_units"])
        writer.writeheader()
        for task in tasks:
            writer.writerow({name: getattr(task.clip, name) for name in writer.fieldnames})
    return len(tasks)


def displacement_field(portrait: Portrait, emotion: str) -> npt.NDArray[np.float32]:
    """(H, W, 2) displacement in pixels of the portrait, for an amplitude of one pixel of a 224 px crop."""
    height, width = portrait.image.shape[:2]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    crop_width = float(np.exp(-fit_pose(portrait.mesh)[2]))  # in pixels of the portrait
    field = np.zeros((height, width, 2), np.float32)
    for number in EXPRESSIONS[emotion]:
        unit = ACTION_UNITS[number]
        for points, mirror in ((unit.left, 1.0), (unit.right, -1.0)):
            direction = np.array([unit.direction[0] * mirror, unit.direction[1]], np.float32)
            for x, y in portrait.mesh[list(points)]:
                distance = ((xs - x) ** 2 + (ys - y) ** 2) / (2 * (unit.spread * crop_width) ** 2)
                field += np.exp(-distance)[..., None] * direction
    peak = np.linalg.norm(field, axis=-1).max()
    field *= crop_width / _CROP_PX / peak
    return field


def expression_profile(clip: SyntheticClip) -> npt.NDArray[np.float64]:
    """Strength of the expression in each frame, 0 up to the onset, 1 at the apex, 0 from the offset on."""
    frames = np.arange(clip.num_frames)
    rise = np.clip((frames - clip.onset) / (clip.apex - clip.onset), 0, 1)
    fall = np.clip((clip.offset - frames) / (clip.offset - clip.apex), 0, 1)
    strength: npt.NDArray[np.float64] = np.sin(0.5 * np.pi * np.minimum(rise, fall)) ** 2
    return strength


def _clips_of_subject(subject: str, number: int, options: SynthesisOptions) -> list[SyntheticClip]:
    rng = np.random.default_rng([options.seed, number, 1])
    clips = []
    for emotion in EXPRESSIONS:
        for take in range(options.clips_per_emotion):
            rise, fall = (int(value) for value in rng.integers(round(0.2 * FPS), round(0.5 * FPS) + 1, size=2))
            onset = int(rng.integers(8, 20))
            apex, offset = onset + rise, onset + rise + fall
            clips.append(
                SyntheticClip(
                    path=f"{subject}/{emotion}_{take + 1}.mp4",
                    subject=subject,
                    emotion=emotion,
                    onset=onset,
                    apex=apex,
                    offset=offset,
                    num_frames=int(rng.integers(max(40, offset + 6), 61)),
                    amplitude_px=float(rng.uniform(options.min_amplitude_px, options.max_amplitude_px)),
                    seed=int(rng.integers(2**31)),
                )
            )
    return clips


def _write_clip(task: _ClipTask) -> None:
    """Render and encode one video."""
    clip, portrait, options = task.clip, task.portrait, task.options
    rng = np.random.default_rng(clip.seed)
    field = displacement_field(portrait, clip.emotion) * clip.amplitude_px
    scale = float(np.exp(-fit_pose(portrait.mesh)[2])) / _CROP_PX  # pixels of the portrait per crop pixel
    head = _slow_walk(rng, clip.num_frames, 2) * options.drift_px * scale
    turn = np.radians(_slow_walk(rng, clip.num_frames, 1)[:, 0] * 0.3)
    light = 1 + 0.01 * _slow_walk(rng, clip.num_frames, 1)[:, 0]
    height, width = portrait.image.shape[:2]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    center = portrait.mesh.mean(axis=0)
    path = task.folder / clip.path
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=_X264)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index, strength in enumerate(expression_profile(clip)):
            # Backwards: where in the still photo does each pixel of this frame come from?
            x, y = xs - center[0] - head[index, 0], ys - center[1] - head[index, 1]
            cos, sin = np.cos(turn[index]), np.sin(turn[index])
            map_x = cos * x + sin * y + center[0] - strength * field[..., 0]
            map_y = -sin * x + cos * y + center[1] - strength * field[..., 1]
            frame = cv2.remap(
                portrait.image,
                map_x.astype(np.float32),
                map_y.astype(np.float32),
                cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            noisy = frame * light[index] + rng.normal(0, options.noise, frame.shape)
            picture = av.VideoFrame.from_ndarray(np.clip(noisy, 0, 255).round().astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _slow_walk(rng: np.random.Generator, num_frames: int, columns: int) -> npt.NDArray[np.float64]:
    """Smooth random motion, (num_frames, columns), standard deviation about 1, periods of a second and longer."""
    seconds = np.arange(num_frames)[:, None] / FPS
    walk = np.zeros((num_frames, columns))
    for hertz in (0.15, 0.3, 0.5):
        walk += rng.normal(size=columns) * np.sin(2 * np.pi * (hertz * seconds + rng.random(columns)))
    walk /= np.sqrt(1.5)
    return walk


def _portraits(options: SynthesisOptions, photos: Path | None) -> list[Portrait]:
    """One portrait per subject; fewer photos than subjects are varied."""
    landmarker = MediaPipeMesh(max_faces=1)
    try:
        framed = [
            portrait for image in _load_photos(photos) if (portrait := _frame_portrait(image, landmarker)) is not None
        ]
        if not framed:
            raise ConfigError(f"no face was found in any photo of {photos}; portraits of at least 100 px are needed")
        portraits: list[Portrait] = []
        for number in range(options.num_subjects):
            still = framed[number % len(framed)]
            if number >= len(framed) or photos is None:
                still = _vary(still, np.random.default_rng([options.seed, number, 0]), landmarker)
            portraits.append(still)
        return portraits
    finally:
        landmarker.close()


def _load_photos(photos: Path | None) -> list[Image]:
    if photos is None:
        import skimage.data

        return [skimage.data.astronaut()]
    files = sorted(file for file in photos.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ConfigError(f"{photos} holds no photo ({', '.join(sorted(IMAGE_SUFFIXES))})")
    images = [cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) for file in files]
    return [cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images if image is not None]


def _frame_portrait(image: Image, landmarker: MediaPipeMesh) -> Portrait | None:
    """Cut the photo so that the face fills the video as in a laboratory recording; None without a face."""
    faces = landmarker.detect(np.ascontiguousarray(image))
    if not faces:
        return None
    pose = fit_pose(faces[0].points)
    pose[2] -= np.log(1.45)  # wider than the crop
    matrix = pose_matrices(pose[None], _VIDEO_SIZE)[0]
    shrink = 1 / np.exp(pose[2]) / _VIDEO_SIZE
    if shrink > 2:  # average before sampling, or the warp aliases
        image = cv2.GaussianBlur(image, (0, 0), shrink / 2)
    return _measure(warp(image, matrix, _VIDEO_SIZE), landmarker)


def _measure(image: Image, landmarker: MediaPipeMesh) -> Portrait | None:
    faces = landmarker.detect(image)
    return Portrait(image, faces[0].points) if faces else None


def _vary(portrait: Portrait, rng: np.random.Generator, landmarker: MediaPipeMesh) -> Portrait:
    """A pseudo-subject: the face with a smoothly changed shape, another tone and another light."""
    for strength in (1.0, 0.5, 0.0):  # a change that the landmarker no longer takes for a face is halved
        varied = _measure(_change_face(portrait.image, rng, strength), landmarker)
        if varied is not None:
            return varied
    return portrait


@functools.cache
def _grid(size: int) -> npt.NDArray[np.float32]:
    ys, xs = np.mgrid[:size, :size].astype(np.float32)
    return np.stack([xs, ys], axis=-1)


def _change_face(image: Image, rng: np.random.Generator, strength: float) -> Image:
    size = image.shape[0]
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    knots = rng.normal(0, 0.022 * size * strength, size=(5, 5, 2)).astype(np.float32)
    source = _grid(size) + cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)
    changed = cv2.remap(image, source, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
    tone = 1 + strength * rng.uniform(-0.18, 0.18, size=3)
    gamma = np.exp(strength * rng.uniform(-0.35, 0.35))
    angle, slope = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0, 0.25)
    across = (_grid(size) / size - 0.5) @ np.array([np.cos(angle), np.sin(angle)], np.float32)
    lit = 255 * (changed.clip(0, 255) / 255) ** gamma * tone * (1 + slope * across[..., None] * 2)
    varied: Image = lit.clip(0, 255).round().astype(np.uint8)
    return varied
