"""Photos of faces -> labelled videos of small, brief, local facial motion with ground truth: a corpus free for anyone.

A photo gives pseudo-subjects: its face unchanged and with changed shape, tone and light. Each shows every emotion
several times, plus clips without expression. `facial_motion.py` knows how expressions move a face, `nuisance.py` what
disturbs, `render.py` makes one clip; this module plans the clips and writes them to disk.

A clip depends only on the options and its own photo, so the same photo gives the same clips alongside any others.
"""

import csv
import dataclasses
import hashlib
import shutil
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np

from mbert import ConfigError
from mbert.manifests.files import describe_differences, exclusive, read_json, replacing, write_json
from mbert.manifests.labels.table import LABEL_COLUMNS, LABELS_NAME
from mbert.manifests.schema import Part, TruthRow
from mbert.manifests.store import read_rows, write_rows
from mbert.pipeline.faces.align import fit_pose, pose_matrices
from mbert.pipeline.faces.landmarkers import open_landmarker
from mbert.pipeline.faces.landmarks import Landmarker
from mbert.pipeline.synthetic.facial_motion import EMOTION_SETS, EMOTIONS, pixel_grid
from mbert.pipeline.synthetic.nuisance import Nuisance
from mbert.pipeline.synthetic.render import Portrait, Scene
from mbert.pipeline.video.source import IMAGE_SUFFIXES, natural_order
from mbert.shards.engine import IN_PROCESS, Engine, run_tasks
from mbert.shards.image import Image, encode_jpeg

PARTS: tuple[Part, ...] = typing.get_args(Part)
SPLIT_NAME = "mbert-synth-v1"
TRUTH_NAME = "truth.parquet"
TRUTH_FOLDER = "truth"
NEUTRAL = "neutral"
_CONFIG_NAME = "synthesis.json"
_VIDEO_SIZE = 320  # pixels; the crop covers about two thirds of it
_MIN_FACE_PX = 100  # in the photo: a smaller face would be blurred in the video
_REST_SECONDS = 0.15  # at least, before the onset and after the offset
# One thread and no macroblock tree: with either of them, the same frames do not always give the same bytes.
_X264 = {"preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
_BUNDLED = "scikit-image astronaut"  # the bundled photo


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisOptions:
    """Size and difficulty of the corpus. The defaults are the preset `standard`."""

    emotions: Literal["three", "five"] = "three"
    prototypes: bool = False  # an emotion always uses the same units
    subjects_per_photo: int = 2
    clips_per_emotion: int = 4  # per subject
    neutral_clips: int = 2  # per subject
    label_neutral: bool = False  # neutral clips get a line in labels.csv, without frames
    part: Literal["all", "pretrain", "train", "test"] = "all"  # part of the split to write
    fps: int = 100
    frame_folders: bool = False  # JPEG images instead of H.264 videos
    min_seconds: float = 1.0  # of a clip
    max_seconds: float = 1.4
    min_phase_ms: float = 100.0  # from onset to apex, and from there to the offset
    max_phase_ms: float = 250.0
    min_amplitude_px: float = 1.0  # largest displacement at the apex, in pixels of a 224 px crop
    max_amplitude_px: float = 2.0
    asymmetry: float = 0.3  # a side of a unit is weaker by up to this share
    nuisance: Nuisance = dataclasses.field(default_factory=Nuisance)
    seed: int = 0

    def __post_init__(self) -> None:
        clips = (self.clips_per_emotion, self.neutral_clips)
        if self.subjects_per_photo < 1 or min(clips) < 0 or not any(clips):
            raise ConfigError("a corpus needs at least 1 subject per photo, and 1 clip per emotion or neutral")
        if not 30 <= self.fps <= 500:
            raise ConfigError(f"fps is {self.fps}; allowed are 30 to 500")
        if not 0 < self.min_amplitude_px <= self.max_amplitude_px:
            raise ConfigError("amplitudes must be 0 < min <= max")
        if not 0 <= self.asymmetry < 1:
            raise ConfigError(f"asymmetry is {self.asymmetry:g}; it must be at least 0 and below 1")
        if not 50 <= self.min_phase_ms <= self.max_phase_ms:
            raise ConfigError("onset to apex, and apex to offset, must take at least 50 ms, and min <= max")
        shortest = 2 * (self.max_phase_ms / 1000 + _REST_SECONDS)
        if not shortest <= self.min_seconds <= self.max_seconds:
            raise ConfigError(f"clips must be {shortest:g} s <= min <= max: the longest expression and a rest fit in")


# `standard` is a recording in a laboratory. In `hard`, drift of head, light and tone are four times as large.
PRESETS: dict[str, SynthesisOptions] = {
    "easy": SynthesisOptions(
        min_amplitude_px=2.0,
        max_amplitude_px=3.0,
        nuisance=Nuisance(noise=1.0, crf=8, light=0.005, tone=0.0, head_px=0.5, head_degrees=0.15, blinks=0.0),
    ),
    "standard": SynthesisOptions(),
    "hard": SynthesisOptions(
        min_amplitude_px=0.5,
        max_amplitude_px=1.5,
        nuisance=Nuisance(
            noise=4.0,
            crf=14,
            light=0.04,
            flicker=0.01,
            tone=0.04,
            head_px=4.0,
            head_degrees=1.2,
            blinks=0.3,
            gaze_px=1.5,
            mouth_px=1.0,
            scene_px=2.0,
        ),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisSummary:
    """The result of a run."""

    folder: str
    num_clips: int
    num_new: int  # made by this run
    num_labelled: int
    num_subjects: int
    subjects_by_part: dict[str, int]
    skipped: dict[str, str]  # photos that were not used, and why
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class _Photo:
    name: str
    sha256: str
    path: Path | None  # None: the bundled one

    @property
    def part(self) -> Part:
        """Pretraining gets about half of the photos, training and test a quarter each, independent of other photos."""
        lot = hashlib.sha256(f"{SPLIT_NAME}{self.sha256}".encode()).digest()[0] % 4
        return ("pretrain", "pretrain", "train", "test")[lot]

    def read(self) -> Image | None:
        if self.path is None:
            return _bundled_photo()
        image = cv2.imdecode(np.fromfile(self.path, np.uint8), cv2.IMREAD_COLOR)
        return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclasses.dataclass(frozen=True, slots=True)
class _ClipTask:
    row: TruthRow
    portrait: Portrait
    folder: Path
    num_threads: int


def synthesize(
    folder: Path,
    options: SynthesisOptions,
    *,
    photos: Path | None = None,
    engine: Engine = IN_PROCESS,
    overwrite: bool = False,
    on_note: Callable[[str], None] = lambda note: None,
    on_plan: Callable[[int], None] = lambda num_clips: None,
    on_clip: Callable[[], None] = lambda: None,
) -> SynthesisSummary:
    """Write `<subject>/<emotion>_<take>.mp4`, `labels.csv`, `truth.parquet` and `truth/<subject>/<clip>.npz`.

    `photos` is a folder of portraits, one per person; without it, varies the public-domain astronaut photo of
    scikit-image. Existing clips are kept, so that a second run resumes where the first one ended. Raises ConfigError if
    no photo shows a face, or the folder holds something else; `overwrite` recreates a synthetic corpus.
    """
    began = time.monotonic()
    found = _list_photos(photos)
    config = {"options": dataclasses.asdict(options), "photos": {photo.name: photo.sha256 for photo in found}}
    _check_folder(folder, config, overwrite=overwrite)
    complete = None if overwrite else _complete_rows(folder)
    if complete is not None:
        return _summary(folder, complete, 0, read_json(folder / _CONFIG_NAME)["skipped"], began)
    subjects, skipped = _subjects(found, options, on_note)
    rows = [row for row, _ in subjects]
    with exclusive(folder):
        if overwrite:
            _remove(folder)
        names = sorted({row.subject for row in rows})
        write_json(folder / _CONFIG_NAME, {**config, "skipped": skipped, "subjects": names})
        tasks = [
            _ClipTask(row, portrait, folder, 1 if engine.workers else cv2.getNumThreads())
            for row, portrait in subjects
            if not _is_done(folder, row)
        ]
        on_plan(len(tasks))
        for _ in run_tasks(_write_clip, tasks, engine):
            on_clip()
        _write_labels(folder / LABELS_NAME, rows, options)
        write_rows(folder / TRUTH_NAME, TruthRow, rows)
    return _summary(folder, rows, len(tasks), skipped, began)


def truth_path(folder: Path, path: str) -> Path:
    """The file with the fields of a clip, from its path in `truth.parquet`."""
    return folder / TRUTH_FOLDER / Path(path).with_suffix(".npz")


def _list_photos(photos: Path | None) -> list[_Photo]:
    if photos is None:
        return [_Photo(_BUNDLED, hashlib.sha256(_bundled_photo().tobytes()).hexdigest(), None)]
    files = [file for file in photos.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    if not files:
        raise ConfigError(f"{photos} holds no photo ({', '.join(sorted(IMAGE_SUFFIXES))})")
    files.sort(key=lambda file: natural_order(file.name))
    return [_Photo(file.name, hashlib.sha256(file.read_bytes()).hexdigest(), file) for file in files]


def _bundled_photo() -> Image:
    import skimage.data

    photo: Image = skimage.data.astronaut()
    return photo


def _check_folder(folder: Path, config: dict[str, Any], *, overwrite: bool) -> None:
    """Reject a folder that holds something else or was made with other options."""
    if not (folder / _CONFIG_NAME).exists():
        if folder.exists() and any(entry.name != ".lock" for entry in folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and holds no synthetic corpus; give another folder with --out")
        return
    if overwrite:
        return
    made = read_json(folder / _CONFIG_NAME)
    flat = [{**part["options"], **part["options"]["nuisance"], "photos": part["photos"]} for part in (made, config)]
    for part in flat:
        del part["nuisance"]
    if flat[0]["photos"] != flat[1].pop("photos"):
        raise ConfigError(f"{folder} was made from other photos: give another folder, or --overwrite")
    if told := describe_differences(flat[0], flat[1], "folder"):
        raise ConfigError(f"{folder} was made with other options ({told}): give another folder, or --overwrite")


def _complete_rows(folder: Path) -> list[TruthRow] | None:
    if not (folder / TRUTH_NAME).exists():
        return None
    rows = read_rows(folder / TRUTH_NAME, TruthRow)
    return rows if all(_is_done(folder, row) for row in rows) else None


def _is_done(folder: Path, row: TruthRow) -> bool:
    return (folder / row.path).exists() and truth_path(folder, row.path).exists()


def _remove(folder: Path) -> None:
    """Remove only what an earlier run made."""
    if (folder / _CONFIG_NAME).exists():
        names = [*read_json(folder / _CONFIG_NAME)["subjects"], TRUTH_FOLDER]
        if strange := [name for name in names if name in ("", ".", "..") or Path(name).name != name]:
            raise ConfigError(
                f"{folder / _CONFIG_NAME} names {strange[0]!r} as a subject, which is not a folder in {folder}: "
                "nothing was removed; give another folder with --out"
            )
        for name in names:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (LABELS_NAME, TRUTH_NAME, _CONFIG_NAME):
            (folder / name).unlink(missing_ok=True)


def _subjects(
    photos: list[_Photo], options: SynthesisOptions, on_note: Callable[[str], None]
) -> tuple[list[tuple[TruthRow, Portrait]], dict[str, str]]:
    """All clips with their portraits, and the photos that were left out."""
    clips: list[tuple[TruthRow, Portrait]] = []
    skipped: dict[str, str] = {}
    owners: dict[str, str] = {}
    digits = max(2, len(str(len(photos) * options.subjects_per_photo)))
    landmarker = open_landmarker("mediapipe", max_faces=1)
    try:
        for place, photo in enumerate(photos):
            if options.part not in ("all", photo.part):
                continue
            framed = _frame_portrait(photo, landmarker)
            if photo.sha256 in owners:
                framed = f"the same photo as {owners[photo.sha256]}"
            if isinstance(framed, str):
                skipped[photo.name] = framed
                on_note(f"{photo.name} is left out: {framed}")
                continue
            owners[photo.sha256] = photo.name
            for variation in range(options.subjects_per_photo):
                # A photo left out leaves a gap, so that all parts of a split number their subjects the same way.
                subject = f"s{place * options.subjects_per_photo + variation + 1:0{digits}d}"
                portrait = framed
                if variation or photo.path is None:
                    rng = np.random.default_rng(_seed(options.seed, photo, variation, "face"))
                    portrait = _vary(framed, rng, landmarker)
                clips += [(row, portrait) for row in _plan_subject(subject, photo, variation, options)]
    finally:
        landmarker.close()
    if not clips:
        if options.part != "all" and not skipped:
            raise ConfigError(f"no photo belongs to the part {options.part} of {SPLIT_NAME}; give more photos")
        raise ConfigError(f"no face was found in any photo; portraits of at least {_MIN_FACE_PX} px are needed")
    return clips, skipped


def _seed(seed: int, photo: _Photo, variation: int, purpose: str) -> int:
    """A seed for one purpose, independent of what else is made."""
    text = f"{seed}/{photo.sha256}/{variation}/{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _plan_subject(subject: str, photo: _Photo, variation: int, options: SynthesisOptions) -> Iterator[TruthRow]:
    takes = [
        *((name, take) for name in EMOTION_SETS[options.emotions] for take in range(options.clips_per_emotion)),
        *((NEUTRAL, take) for take in range(options.neutral_clips)),
    ]
    suffix = "" if options.frame_folders else ".mp4"
    for emotion, take in takes:
        seed = _seed(options.seed, photo, variation, f"{emotion}/{take}")
        yield TruthRow(
            path=f"{subject}/{emotion}_{take + 1}{suffix}",
            subject=subject,
            part=photo.part,
            photo=photo.name,
            photo_sha256=photo.sha256,
            variation=variation,
            emotion=emotion,
            **_plan_expression(emotion, options, np.random.default_rng([seed, 0])),
            fps=options.fps,
            width=_VIDEO_SIZE,
            height=_VIDEO_SIZE,
            seed=seed,
            **dataclasses.asdict(options.nuisance),
        )


def _plan_expression(emotion: str, options: SynthesisOptions, rng: np.random.Generator) -> dict[str, Any]:
    """Plan which units move how much, and when."""
    seconds = rng.uniform(options.min_seconds, options.max_seconds)
    num_frames = round(seconds * options.fps)
    if emotion == NEUTRAL:
        frames = dict.fromkeys(("onset", "apex", "offset"))
        nothing = {"action_units": None, "left_strengths": (), "right_strengths": (), "amplitude_px": 0.0}
        return {**nothing, **frames, "num_frames": num_frames}
    combinations = EMOTIONS[emotion][: 1 if options.prototypes else None]
    units = combinations[rng.integers(len(combinations))]
    sides = rng.uniform(1 - options.asymmetry, 1, size=(2, len(units)))
    rise, fall = rng.uniform(options.min_phase_ms, options.max_phase_ms, size=2) / 1000
    start = rng.uniform(_REST_SECONDS, seconds - _REST_SECONDS - rise - fall)
    onset = round(start * options.fps)
    apex = onset + round(rise * options.fps)
    return {
        "action_units": "+".join(str(number) for number in units),
        "left_strengths": tuple(sides[0].tolist()),
        "right_strengths": tuple(sides[1].tolist()),
        "amplitude_px": float(rng.uniform(options.min_amplitude_px, options.max_amplitude_px)),
        "onset": onset,
        "apex": apex,
        "offset": apex + round(fall * options.fps),
        "num_frames": num_frames,
    }


def _write_clip(task: _ClipTask) -> None:
    """Render one clip; its truth is written first, so the video is the commit mark."""
    cv2.setNumThreads(task.num_threads)
    scene = Scene(task.portrait, task.row)
    with replacing(truth_path(task.folder, task.row.path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **scene.truth())
    path = task.folder / task.row.path
    if path.suffix:
        _write_video(path, task.row, scene.frames())
    else:
        _write_frames(path, scene.frames())


def _write_video(path: Path, row: TruthRow, frames: Iterator[Image]) -> None:
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=row.fps, options={**_X264, "crf": str(row.crf)})
        stream.width, stream.height, stream.pix_fmt = row.width, row.height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _write_frames(path: Path, frames: Iterator[Image]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for index, frame in enumerate(frames):
        (temporary / f"{index:05d}.jpg").write_bytes(encode_jpeg(frame))
    temporary.replace(path)


def _write_labels(path: Path, rows: list[TruthRow], options: SynthesisOptions) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*LABEL_COLUMNS, "action_units"])
        writer.writeheader()
        for row in rows:
            if row.onset is not None or options.label_neutral:
                writer.writerow({name: getattr(row, name) for name in writer.fieldnames})


def _summary(
    folder: Path, rows: list[TruthRow], num_new: int, skipped: dict[str, str], began: float
) -> SynthesisSummary:
    people = {row.subject: row.part for row in rows}
    return SynthesisSummary(
        folder=str(folder),
        num_clips=len(rows),
        num_new=num_new,
        num_labelled=sum(row.onset is not None for row in rows),
        num_subjects=len(people),
        subjects_by_part={part: list(people.values()).count(part) for part in PARTS},
        skipped=skipped,
        seconds=time.monotonic() - began,
    )


def _frame_portrait(photo: _Photo, landmarker: Landmarker) -> Portrait | str:
    """Crop the photo so that the face fills the video as in a laboratory recording; return the reason if that fails."""
    image = photo.read()
    if image is None:
        return "it cannot be decoded"
    faces = landmarker.detect(np.ascontiguousarray(image))
    if not faces:
        return "no face was found"
    if faces[0].size_px < _MIN_FACE_PX:
        return f"its face is {faces[0].size_px:.0f} px, {_MIN_FACE_PX} px are needed"
    pose = fit_pose(faces[0].points)
    pose[2] -= np.log(1.45)  # wider than the crop
    matrix = pose_matrices(pose[None], _VIDEO_SIZE)[0]
    shrink = 1 / np.exp(pose[2]) / _VIDEO_SIZE
    if shrink > 2:  # average before sampling, or the warp would alias
        image = cv2.GaussianBlur(image, (0, 0), shrink / 2)
    # Areas outside the photo get the colours of its border.
    size = (_VIDEO_SIZE, _VIDEO_SIZE)
    cut = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _measure(cut, landmarker) or "no face was found"


def _measure(image: Image, landmarker: Landmarker) -> Portrait | None:
    faces = landmarker.detect(image)
    return Portrait(image, faces[0].points) if faces else None


def _vary(portrait: Portrait, rng: np.random.Generator, landmarker: Landmarker) -> Portrait:
    """A pseudo-subject: the face with a smoothly changed shape, another tone and another light."""
    for strength in (1.0, 0.5, 0.0):  # halve a change that the landmarker no longer recognises as a face
        varied = _measure(_change_face(portrait.image, rng, strength), landmarker)
        if varied is not None:
            return varied
    return portrait


def _change_face(image: Image, rng: np.random.Generator, strength: float) -> Image:
    size = image.shape[0]
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    knots = rng.normal(0, 0.022 * size * strength, size=(5, 5, 2)).astype(np.float32)
    source = pixel_grid((size, size)) + cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)
    changed = cv2.remap(image, source, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
    tone = 1 + strength * rng.uniform(-0.18, 0.18, size=3)
    gamma = np.exp(strength * rng.uniform(-0.35, 0.35))
    angle, slope = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0, 0.25)
    across = (pixel_grid((size, size)) / size - 0.5) @ np.array([np.cos(angle), np.sin(angle)], np.float32)
    lit = 255 * (changed.clip(0, 255) / 255) ** gamma * tone * (1 + slope * across[..., None] * 2)
    varied: Image = lit.clip(0, 255).round().astype(np.uint8)
    return varied
