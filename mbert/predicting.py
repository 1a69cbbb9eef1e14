"""`mbert predict`: any face video in; what moved, when and how sure out.

It is ingest, then the model over the crops, then the pages: this module puts the rooms together. A video is one task;
what it needs is in the workspace of its folder, so a run that was stopped goes on, and other options need no decoding.
Frames are gone through once and written as they come: memory does not grow with the length of a video, but for its
maps, 250 bytes a frame, which the overlay shows.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import heapq
import importlib.metadata
import itertools
import json
import os.path
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch

from mbert import ConfigError, __version__
from mbert.manifests.files import exclusive, read_json, write_json
from mbert.manifests.predictions import (
    NO_FACE,
    RESEARCH_ONLY,
    EventRow,
    FaceSummary,
    MovementRow,
    PredictionSummary,
    Warning,
)
from mbert.manifests.regions import REGIONS
from mbert.manifests.schema import FrameRow, VideoRow
from mbert.manifests.store import iterate_rows, read_rows, write_rows, writing_rows
from mbert.manifests.workspace import Workspace
from mbert.model.device import pick_compute
from mbert.model.movement.action_units import ActionUnitBases
from mbert.model.movement.calibration import Calibration
from mbert.model.movement.displacement import GRID, MovementMeter, RegionPaths
from mbert.model.movement.findings import Findings, Found, Stretch, find_events
from mbert.model.network.classifier import Classifier
from mbert.model.network.compare import compare_crops, name_emotions
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.motion import CROP_PX
from mbert.model.network.weights import hash_weights
from mbert.pipeline.faces.measure import CropMeasures, CropMeter, guessed_measures
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_input import IngestOptions, Outcome
from mbert.pipeline.video.overlay import OverlayFace, write_overlay
from mbert.pipeline.video.preview import small_preview
from mbert.pipeline.video.source import Listing, Source
from mbert.reports.formats import CsvRows, write_challenge, write_eaf, write_textgrid, write_vtt
from mbert.reports.predict_page import EventPicture, IndexEntry, write_index_page, write_predict_page
from mbert.shards.engine import Engine, run_tasks, tell
from mbert.shards.frames import ClipFrames, CorpusFrames
from mbert.shards.image import Image, decode_jpeg
from mbert.weights import BUILT_IN

SUMMARY, FRAMES, EVENTS, REPORT, OVERLAY = "summary.json", "frames.parquet", "events.csv", "report.html", "overlay.mp4"
_CHUNK = 32  # crops that are read and measured ahead
_STRETCH_SECONDS = 60.0  # a stretch ends at the next quiet moment after this, ...
_STRETCH_MAX_SECONDS = 90.0  # ... at the latest after this
_GAP_SECONDS = 0.5  # without a crop: the face was lost
_QUIET = 0.3  # probability that any patch moved
_MOST_PICTURES = 60  # of events in a page
_TOLD_EVERY = 200  # frames
_CORNERS = np.array([(56.0, 56.0), (168.0, 56.0), (56.0, 190.0), (168.0, 190.0)]) / 224  # of the face, in crop widths


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

    video_id: str
    num_frames: int


@dataclasses.dataclass(frozen=True, slots=True)
class Predicted:
    """What became of one video."""

    video: str
    folder: str  # its pages and tables
    summary: PredictionSummary
    curve: tuple[float, ...]  # movement of the face that is seen longest, thinned


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PredictRun:
    """What a run has done; `page` is what to open."""

    num_videos: int
    num_new: int  # made by this run; the others were there
    num_frames: int  # of the videos that have pages
    counts: dict[str, int]  # events by type, of all videos
    failures: dict[str, str]  # path -> reason
    folders: dict[str, str]  # path -> where its predictions lie
    page: str | None
    seconds: float
    out: str


def run_predict(
    path: Path,
    out: Path,
    *,
    per_minute: float = 1.0,
    max_faces: int | None = None,
    model: str | Path | None = None,
    classifier: Path | None = None,
    overlay: bool = True,
    embed_video: bool = False,
    folder_fps: float = 30.0,
    decoder: Literal["pyav", "ffmpeg"] = "pyav",
    engine: Engine,
    overwrite: bool = False,
    command: str = "",
    on_plan: Callable[[int, int], None] = lambda num_videos, num_frames: None,
    on_ingested: Callable[[Outcome], None] = lambda outcome: None,
    on_progress: Callable[[str, int], None] = lambda video, num_frames: None,
) -> PredictRun:
    """Predict a video, or each video under a folder, into folders of `out`; see `mbert.api.predict`."""
    began = time.monotonic()
    options = PredictOptions(
        per_minute=per_minute,
        model=str(model or BUILT_IN),
        classifier=None if classifier is None else str(classifier),
        overlay=overlay,
        embed_video=embed_video,
    )
    _check_models(options)
    ingest = IngestOptions(max_faces=max_faces, folder_fps=folder_fps, decoder=decoder)
    choice = CorpusChoice(dataset="videos")  # whatever they are, all videos are wanted, and no label
    listing = choice.list(path)
    workspace = _workspace_of(listing.root, out, ingest)
    with exclusive(workspace.root):
        summary = run_ingest(path, workspace, ingest, engine=engine, choice=choice, on_outcome=on_ingested)
        if summary.changed:  # another video under the same name: what was cut of the old one is of no use
            summary = run_ingest(
                path, workspace, ingest, engine=engine, choice=choice, overwrite=True, on_outcome=on_ingested
            )
        rows = {row.video_id: row for row in read_rows(workspace.videos, VideoRow)}
        folders = folders_for([source.path for source in listing.sources], out)
        used = [source for source in listing.sources if rows[source.video_id].status == "ok"]
        threads = max(1, engine.workers // max(1, len(used)))
        tasks = [
            PredictTask(source, workspace, folders[source.path], options, ingest, command, threads) for source in used
        ]
        done = {} if overwrite else {task.source.path: found for task in tasks if (found := finished(task))}
        left = [task for task in tasks if task.source.path not in done]
        on_plan(len(left), sum(rows[task.source.video_id].num_frames or 0 for task in left))
        failures = {row.path: row.reason or row.status for row in rows.values() if row.status != "ok"}
        failures = {source.path: failures[source.path] for source in listing.sources if source.path in failures}
        # One video has all cores to itself, in this process; several have a process each.
        runner = dataclasses.replace(engine, workers=0 if len(left) < 2 else engine.workers)
        for predicted in run_tasks(
            predict_video, left, runner, on_note=lambda note: on_progress(note.video_id, note.num_frames)
        ):
            done[predicted.video] = predicted
            on_progress(predicted.video, predicted.summary.num_frames)
            _write_index(path, out, listing, rows, folders, done, command)
        page = _write_index(path, out, listing, rows, folders, done, command)
    counts = collections.Counter[str]()
    for each in done.values():
        counts.update(each.summary.counts)
    return PredictRun(
        num_videos=len(listing.sources),
        num_new=len(left),
        num_frames=sum(each.summary.num_frames for each in done.values()),
        counts=dict(counts),
        failures=failures,
        folders={name: str(folders[name]) for name in done},
        page=None if page is None else str(page),
        seconds=time.monotonic() - began,
        out=str(out),
    )


def _check_models(options: PredictOptions) -> None:
    """Fail before any work when a model cannot be used."""
    network = _model(options.model).network
    MovementMeter(network, threads=1)
    if options.classifier:
        _classifier(options.classifier)


def _workspace_of(root: Path, out: Path, ingest: IngestOptions) -> Workspace:
    """Where the crops of the videos of one folder, cut with the same options, are kept."""
    text = json.dumps([str(root.resolve()), dataclasses.asdict(ingest)])
    return Workspace(out / ".crops" / hashlib.sha256(text.encode()).hexdigest()[:16])


def _write_index(
    path: Path,
    out: Path,
    listing: Listing,
    rows: Mapping[str, VideoRow],
    folders: Mapping[str, Path],
    done: Mapping[str, Predicted],
    command: str,
) -> Path | None:
    """The page of all inputs; of one video its own page is enough."""
    if len(listing.sources) == 1:
        only = listing.sources[0].path
        return folders[only] / REPORT if only in done else None
    entries = []
    for source in listing.sources:
        row, found = rows[source.video_id], done.get(source.path)
        if row.status == "ok" and found is None:
            entries.append(
                IndexEntry(name=source.path, page=None, status="pending", reason=None, summary=None, curve=())
            )
            continue
        page = (folders[source.path] / REPORT).relative_to(out).as_posix() if found else None
        entries.append(
            IndexEntry(
                name=source.path,
                page=page,
                status=row.status,
                reason=row.reason,
                summary=found.summary if found else None,
                curve=found.curve if found else (),
            )
        )
    write_index_page(out / "index.html", entries, title=path.name or str(path), command=command)
    return out / "index.html"


def predict_video(task: PredictTask) -> Predicted:
    """Measure, find and write everything about one ingested video; `summary.json` is written last."""
    cv2.setNumThreads(1)  # the same flow whatever the machine
    torch.set_num_threads(task.threads)
    return _Prediction(task).run()


def fingerprint(task: PredictTask) -> str:
    """What the predictions of a video depend on; another one means that they are to be made again."""
    row = _video_row(task)
    parts = [row.sha256, _model(task.options.model).digest, __version__, dataclasses.asdict(task.options)]
    return hashlib.sha256(json.dumps([*parts, task.source.path], default=str).encode()).hexdigest()


def finished(task: PredictTask) -> Predicted | None:
    """The predictions that an earlier run has finished with the same options; None when there are none."""
    file = task.folder / SUMMARY
    if not file.exists():
        return None
    value = read_json(file)
    if value.get("fingerprint") != fingerprint(task):
        return None
    if not all((task.folder / name).exists() for name in value["outputs"]):
        return None
    return Predicted(task.source.path, str(task.folder), summary_of(value), tuple(value["curve"]))


def summary_of(value: dict[str, Any]) -> PredictionSummary:
    """Inverse of `dataclasses.asdict`, from a `summary.json`."""
    names = {field.name for field in dataclasses.fields(PredictionSummary)}
    value = {name: value[name] for name in names}
    value["faces"] = tuple(FaceSummary(**face) for face in value["faces"])
    value["warnings"] = tuple(Warning(**warning) for warning in value["warnings"])
    return PredictionSummary(**{**value, "outputs": tuple(value["outputs"])})


@dataclasses.dataclass(frozen=True)
class _Model:
    """A model with what was measured about it."""

    network: MicronBert
    calibration: Calibration
    units: ActionUnitBases
    is_calibrated: bool  # else the figures are those of the built-in model
    digest: str


@functools.cache
def _model(folder: str) -> _Model:
    network = MicronBert.from_pretrained(folder).eval()
    here = Path(folder)
    own = (here / "calibration.json").exists()
    beside = here if own else BUILT_IN
    units = here if (here / "action_units.safetensors").exists() else BUILT_IN
    return _Model(network, Calibration.read(beside), ActionUnitBases.read(units), own, hash_weights(network))


@functools.cache
def _classifier(folder: str) -> Classifier:
    return Classifier.from_pretrained(folder).eval()


@functools.cache
def _crop_meter(landmarker: str) -> CropMeter:
    return CropMeter(landmarker)  # type: ignore[arg-type]


def _video_row(task: PredictTask) -> VideoRow:
    rows = read_rows(task.workspace.videos, VideoRow)
    return next(row for row in rows if row.video_id == task.source.video_id)


@dataclasses.dataclass(slots=True)
class _Shown:
    """What the overlay draws of one face: arrays over its frames."""

    face_id: int
    frames: npt.NDArray[np.int64]
    transforms: npt.NDArray[np.float64]  # (N, 2, 3)
    boxes: npt.NDArray[np.float32]  # (N, 4)
    maps: npt.NDArray[np.uint8]  # (N, 14, 14)
    movement: npt.NDArray[np.float32]


class _Prediction:
    """The work on one video."""

    def __init__(self, task: PredictTask) -> None:
        self._task = task
        self._row = _video_row(task)
        self._model = _model(task.options.model)
        self._corpus = CorpusFrames(task.workspace)
        self._meter = MovementMeter(self._model.network, compute=pick_compute(), threads=task.threads)
        self._crops = _crop_meter(task.ingest.landmarker)
        self._events: list[EventRow] = []
        self._shown: list[_Shown] = []
        self._faces: list[FaceSummary] = []
        self._shares: dict[str, list[float]] = {"head": [], "dark": [], "repeated": []}
        self._times: list[float] = []  # distances of neighbouring frames
        self._num_done = 0

    def run(self) -> Predicted:
        folder = self._task.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).unlink(missing_ok=True)  # what is there is no longer whole
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tracks-") as scratch:
            tracks = self._tracks()
            files = [self._write_track(number, clips, Path(scratch)) for number, clips in tracks.items()]
            self._write_frames(files)
        self._events.sort(key=lambda event: (event.onset_s, event.face_id))
        self._events = [dataclasses.replace(row, event=number) for number, row in enumerate(self._events, 1)]
        pictures = self._picture_events(tracks)
        outputs = self._write_events()
        if self._task.options.overlay:
            self._write_overlay()
            outputs.append(OVERLAY)
        summary = self._summary([FRAMES, "frames.csv", *outputs, REPORT])
        self._write_page(summary, pictures)
        curve = self._curve()
        write_json(
            folder / SUMMARY, {**dataclasses.asdict(summary), "fingerprint": fingerprint(self._task), "curve": curve}
        )
        return Predicted(self._task.source.path, str(folder), summary, curve)

    def _tracks(self) -> dict[int, list[ClipFrames]]:
        found: dict[int, list[ClipFrames]] = {}
        for clip in self._corpus.clips:
            if clip.video_id == self._row.video_id:
                found.setdefault(clip.track, []).append(self._corpus[clip.clip_id])
        for clips in found.values():
            clips.sort(key=lambda each: each.clip.first_frame)
        return dict(sorted(found.items()))

    # --- one face

    def _write_track(self, number: int, clips: list[ClipFrames], scratch: Path) -> Path:
        """Measure one face from its first to its last frame; its rows go to a file of its own."""
        self._crops.forget()
        size = self._task.ingest.size
        path = scratch / f"{number:06d}.parquet"
        with writing_rows(path, MovementRow) as writer:
            for rows, stretch in self._stretches(clips):
                findings = find_events(stretch, self._model.calibration, per_minute=self._task.options.per_minute)
                writer.add(_movement_rows(number, rows, stretch, findings, size))
                self._events += [self._event_row(number, rows, found) for found in findings.events]
                self._note_quality(rows, stretch, findings)
                self._shown.append(_show(number, rows, stretch.paths, findings, size))
            writer.finish({})
        clip_rows = [each.clip for each in clips]
        self._faces.append(
            FaceSummary(
                face_id=number,
                first_s=clips[0].rows[0].pts_seconds,
                last_s=clips[-1].rows[-1].pts_seconds,
                num_frames=sum(clip.num_frames for clip in clip_rows),
                face_px=float(np.median([row.face_px for each in clips for row in each.rows])),
            )
        )
        return path

    def _stretches(self, clips: list[ClipFrames]) -> Iterator[tuple[list[FrameRow], Stretch]]:
        """The runs of frames in which a face is followed without a break, long ones parted where nothing moves."""
        rows: list[FrameRow] = []
        measures: list[CropMeasures] = []
        for row, crop, measure in self._measured(clips):
            is_long = bool(rows) and row.pts_seconds - rows[0].pts_seconds >= _STRETCH_SECONDS
            is_too_long = bool(rows) and row.pts_seconds - rows[0].pts_seconds >= _STRETCH_MAX_SECONDS
            is_lost = bool(rows) and row.pts_seconds - rows[-1].pts_seconds > _GAP_SECONDS
            if is_lost or is_too_long or (is_long and self._meter.moved_lately() < _QUIET):
                yield rows, _stretch(rows, measures, self._meter.finish(), self._task.ingest.size)
                rows, measures = [], []
            rows.append(row)
            measures.append(measure)
            self._meter.push(row.pts_seconds, crop, measure.centres)
            self._num_done += 1
            if self._num_done % _TOLD_EVERY == 0:
                tell(PredictProgress(self._row.video_id, self._num_done))
        if rows:
            yield rows, _stretch(rows, measures, self._meter.finish(), self._task.ingest.size)

    def _measured(self, clips: list[ClipFrames]) -> Iterator[tuple[FrameRow, Image, CropMeasures]]:
        """Each crop with what its landmarks say, read and measured ahead by a thread of its own."""
        places = [(clip, start) for clip in clips for start in range(0, len(clip), _CHUNK)]
        last: CropMeasures | None = None
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            waiting = [ahead.submit(self._measure, *place) for place in places[:1]]
            for number, (clip, start) in enumerate(places):
                crops, measures = waiting.pop().result()
                if number + 1 < len(places):
                    waiting.append(ahead.submit(self._measure, *places[number + 1]))
                for row, crop, measure in zip(clip.rows[start : start + _CHUNK], crops, measures, strict=True):
                    last = measure or last or guessed_measures(row)
                    yield row, crop, last

    def _measure(self, clip: ClipFrames, start: int) -> tuple[npt.NDArray[np.uint8], list[CropMeasures | None]]:
        crops = clip.images(start, start + _CHUNK)
        return crops, [self._crops.measure(crop) for crop in crops]

    def _event_row(self, face: int, rows: list[FrameRow], found: Found) -> EventRow:
        onset, apex, offset = (rows[place] for place in (found.onset, found.apex, found.offset))
        alarms = found.false_alarms_per_minute
        return EventRow(
            video=self._row.path,
            face_id=face,
            event=0,
            type=found.type,
            part=found.part,
            onset_frame=onset.frame_index,
            apex_frame=apex.frame_index,
            offset_frame=offset.frame_index,
            onset_s=onset.pts_seconds,
            apex_s=apex.pts_seconds,
            offset_s=offset.pts_seconds,
            duration_ms=1000 * (offset.pts_seconds - onset.pts_seconds),
            size_px=found.size_px,
            speed=found.speed,
            direction=found.direction,
            regions=" ".join(found.regions),
            score=None if alarms is None else float(-np.log10(max(alarms, 1e-9))),
            false_alarms_per_minute=alarms,
            like=None,
            flags=" ".join(found.flags) or None,
        )

    def _note_quality(self, rows: list[FrameRow], stretch: Stretch, findings: Findings) -> None:
        self._times += list(np.diff(stretch.paths.seconds))[: 5000 - len(self._times)]
        self._shares["head"] += [float((findings.head > 2.0).mean())] * len(rows)
        self._shares["dark"] += [float((stretch.brightness < 60).mean())] * len(rows)
        self._shares["repeated"] += [float(stretch.paths.repeated.mean())] * len(rows)

    # --- tables

    def _write_frames(self, files: Sequence[Path]) -> None:
        """`frames.parquet` and `frames.csv`: the rows of all faces by frame, and a row for each frame without one."""
        tracks = [iterate_rows(file, MovementRow) for file in files]
        merged = heapq.merge(*tracks, key=lambda row: (row.frame, row.face_id))
        folder = self._task.folder
        with writing_rows(folder / FRAMES, MovementRow) as table, CsvRows(folder / "frames.csv", MovementRow) as csv:
            for rows in _batches(self._with_gaps(merged), 1000):
                table.add(rows)
                csv.add(rows)
            table.finish({})

    def _with_gaps(self, rows: Iterator[MovementRow]) -> Iterator[MovementRow]:
        """The rows, and one for each frame in which no face was found."""
        seen = sum(face.num_frames for face in self._faces)
        if len(self._faces) == 1 and seen == self._row.num_frames:
            yield from rows  # every frame has its row: no need to decode again for the times of the others
            return
        row = next(rows, None)
        for index, seconds in self._frame_times():
            has_face = False
            while row is not None and row.frame <= index:
                has_face = has_face or row.frame == index
                yield row
                row = next(rows, None)
            if not has_face:
                yield MovementRow(frame=index, timestamp=seconds, face_id=NO_FACE, success=0)
        while row is not None:
            yield row
            row = next(rows, None)

    def _frame_times(self) -> Iterator[tuple[int, float]]:
        decoder = self._task.ingest.open_decoder(self._task.source, self._task.threads)
        for frame in decoder:
            yield frame.index, frame.pts_seconds

    def _write_events(self) -> list[str]:
        folder, events = self._task.folder, self._events
        seconds = self._row.seconds or 0.0
        with CsvRows(folder / EVENTS, EventRow) as csv:
            csv.add(events)
        write_rows(folder / "events.parquet", EventRow, events)
        media = self._task.source.location if self._row.kind == "video" else None
        write_eaf(folder / "events.eaf", events, media=media, media_type="video/mp4", seconds=seconds)
        write_textgrid(folder / "events.TextGrid", events, seconds=seconds)
        write_vtt(folder / "events.vtt", events)
        write_challenge(folder / "challenge.csv", events)
        return [EVENTS, "events.parquet", "events.eaf", "events.TextGrid", "events.vtt", "challenge.csv"]

    # --- pictures

    def _picture_events(self, tracks: dict[int, list[ClipFrames]]) -> list[EventPicture]:
        """Onset and apex of the surest events as they were cut, and what they are like."""
        wanted = [event for event in self._events if event.type in ("micro", "macro")]
        pictures, named = [], {}
        surest = sorted(wanted, key=lambda event: (bool(event.flags), -(event.score or 0)))
        shown = {event.event for event in surest[:_MOST_PICTURES]}
        for event in wanted:
            ends = [_jpeg_at(tracks[event.face_id], frame) for frame in (event.onset_frame, event.apex_frame)]
            t0, t1 = (decode_jpeg(data) for data in ends)
            found = compare_crops(t0, t1, self._model.network)
            like = self._model.units.likeness(found.displacement[0])
            changes: dict[str, Any] = {"like": " ".join(f"{unit}:{share:.2f}" for unit, share in like) or None}
            if self._task.options.classifier:
                [(emotion, probability)] = name_emotions(t0, t1, _classifier(self._task.options.classifier))
                changes |= {"emotion": emotion, "emotion_probability": probability}
            named[event.event] = dataclasses.replace(event, **changes)
            if event.event in shown:
                moved = _on_grid(found.moved[0])
                pictures.append(EventPicture(event=event.event, onset=ends[0], apex=ends[1], moved=moved))
        self._events = [named.get(event.event, event) for event in self._events]
        return pictures

    def _write_overlay(self) -> None:
        task = self._task
        decoder = task.ingest.open_decoder(task.source, task.threads)
        labels = _Labels(self._events)
        places: dict[int, list[tuple[_Shown, int]]] = {}
        for shown in self._shown:
            for place, frame in enumerate(shown.frames):
                places.setdefault(int(frame), []).append((shown, place))

        def faces_at(frame: int) -> list[OverlayFace]:
            return [
                OverlayFace(
                    face_id=shown.face_id,
                    box=tuple(float(side) for side in shown.boxes[place]),  # type: ignore[arg-type]
                    transform=shown.transforms[place],
                    crop_size=task.ingest.size,
                    heat=shown.maps[place],
                    movement=float(shown.movement[place]),
                    label=labels.at(shown.face_id, frame),
                )
                for shown, place in places.get(frame, ())
            ]

        sound = task.source.location if task.source.kind == "video" else None
        write_overlay(
            decoder, task.folder / OVERLAY, faces_at, sound=sound, num_threads=task.threads, on_frame=lambda: None
        )

    def _write_page(self, summary: PredictionSummary, pictures: Sequence[EventPicture]) -> None:
        folder, source = self._task.folder, self._task.source
        video = None
        if source.kind == "video":
            with contextlib.suppress(ValueError):  # on another drive
                video = Path(_relative(source.location, folder)).as_posix()
        has_overlay = self._task.options.overlay
        embedded = None
        if self._task.options.embed_video:
            shown = folder / OVERLAY if has_overlay else source.location
            embedded = ("video/mp4", small_preview(shown))
        write_predict_page(
            folder / REPORT,
            summary=summary,
            frames=folder / FRAMES,
            events=self._events,
            pictures=pictures,
            video=video,
            overlay=OVERLAY if has_overlay else None,
            embedded=embedded,
        )

    # --- summary

    def _summary(self, outputs: list[str]) -> PredictionSummary:
        row, options = self._row, self._task.options
        times = np.array(self._times) if self._times else np.array([0.0])
        common = float(np.median(times))
        counts = dict.fromkeys(("micro", "macro", "blink", "speech", "flagged"), 0)
        for event in self._events:
            counts[event.type] += 1
            counts["flagged"] += bool(event.flags) and event.type in ("micro", "macro")
        return PredictionSummary(
            video=row.path,
            sha256=row.sha256,
            width=row.width,
            height=row.height,
            fps=row.fps,
            fps_nominal=1 / common if common > 0 else None,
            is_vfr=bool(len(times) > 1 and common > 0 and np.quantile(np.abs(times - common), 0.98) > 0.1 * common),
            num_frames=row.num_frames or 0,
            seconds=row.seconds or 0.0,
            faces=tuple(self._faces),
            counts=counts,
            warnings=tuple(self._warnings()),
            note=RESEARCH_ONLY,
            settings={
                "per_minute": options.per_minute,
                "thresholds_px_per_100_ms": {
                    part: round(self._model.calibration.threshold(part, options.per_minute), 3)
                    for part in ("brows", "eyes", "mouth")
                },
                "classifier": options.classifier,
                "ingest": {name: value for name, value in dataclasses.asdict(self._task.ingest).items() if value},
            },
            versions={"mbert": __version__, **{name: importlib.metadata.version(name) for name in _VERSIONS}},
            model={"name": options.model, "sha256": self._model.digest},
            command=self._task.command,
            outputs=tuple(outputs),
        )

    def _warnings(self) -> Iterator[Warning]:
        row = self._row
        if row.fps and row.fps < 60:
            yield Warning(
                kind="fps",
                text=f"{row.fps:.3g} frames per second: an expression of 200 ms has {max(1, round(row.fps / 5))} "
                "frames; short ones can be missed, and times are no finer than a frame",
            )
        small = [face for face in self._faces if face.face_px < 100]
        if small:
            yield Warning(
                kind="face_size",
                text=f"a face of {min(face.face_px for face in small):.0f} px: below 100 px, small movements are lost",
            )
        pixels = (row.width or 0) * (row.height or 0) * (row.num_frames or 0)
        if row.kind == "video" and pixels and (bits := 8 * row.num_bytes / pixels) < _FEW_BITS:
            yield Warning(
                kind="compression",
                text=f"strongly compressed, {bits:.3f} bits per pixel: compression wipes out small movements, and its "
                "blocks can look like some",
            )
        share = {name: float(np.mean(values)) if values else 0.0 for name, values in self._shares.items()}
        if share["head"] > 0.1:
            yield Warning(
                kind="head",
                text=f"the head moves strongly in {share['head']:.0%} of the frames: what is left of that can look "
                "like an expression",
            )
        if share["dark"] > 0.2:
            yield Warning(kind="light", text=f"{share['dark']:.0%} of the frames are dark: noise hides small movements")
        if share["repeated"] > 0.05:
            yield Warning(
                kind="repeats",
                text=f"{share['repeated']:.0%} of the pictures repeat the one before: the true frame rate is lower, "
                "and movement comes in jumps",
            )
        if row.reason:
            yield Warning(kind="input", text=row.reason)
        if not self._model.is_calibrated:
            yield Warning(
                kind="input",
                text="the model has no calibration of its own: false-alarm rates are those of the built-in model",
            )

    def _curve(self) -> tuple[float, ...]:
        """Movement of the face that is seen longest, in at most 120 steps."""
        if not self._faces:
            return ()
        longest = max(self._faces, key=lambda face: face.num_frames).face_id
        values = np.concatenate([shown.movement for shown in self._shown if shown.face_id == longest])
        parts = np.array_split(values, min(120, len(values)))
        return tuple(round(float(part.max()), 3) for part in parts)


_VERSIONS = ("av", "mediapipe", "numpy", "opencv-contrib-python", "torch")
_FEW_BITS = 0.04  # per pixel; a webcam's H.264 has about 0.1


class _Labels:
    """What the overlay writes at a face while an event lasts."""

    def __init__(self, events: Sequence[EventRow]) -> None:
        self._events = [event for event in events if event.type != "speech"]

    def at(self, face: int, frame: int) -> str:
        running = [
            event
            for event in self._events
            if event.face_id == face and event.onset_frame <= frame <= max(event.offset_frame, event.apex_frame + 2)
        ]
        running.sort(key=lambda event: (bool(event.flags), event.type == "macro"))
        return ", ".join("blink" if event.type == "blink" else f"{event.type}: {event.part}" for event in running[:2])


def _stretch(rows: list[FrameRow], measures: list[CropMeasures], paths: RegionPaths, size: int) -> Stretch:
    return Stretch(
        paths,
        np.array([measure.eye_open.mean() for measure in measures]),
        np.array([measure.mouth_open for measure in measures]),
        _head_points(rows, size),
        np.array([row.brightness for row in rows]),
    )


def _head_points(rows: list[FrameRow], size: int) -> npt.NDArray[np.float64]:
    """(N, 8): where four points of the head are in the video, in px of a 224 px crop."""
    matrices = np.array([row.transform for row in rows]).reshape(-1, 2, 3)
    scale = float(np.median(np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))))
    inverse = np.linalg.inv(matrices[:, :, :2])
    points = np.einsum("nij,nkj->nki", inverse, _CORNERS * size - matrices[:, None, :, 2])
    return (points * scale * CROP_PX / size).reshape(len(rows), -1)


def _movement_rows(
    face: int, rows: list[FrameRow], stretch: Stretch, findings: Findings, size: int
) -> list[MovementRow]:
    boxes = _boxes(rows, size)
    found = []
    for place, row in enumerate(rows):
        regions = {name: float(value) for name, value in zip(REGIONS, findings.regions[place], strict=True)}
        x, y, w, h = (float(side) for side in boxes[place])
        found.append(
            MovementRow(
                frame=row.frame_index,
                timestamp=row.pts_seconds,
                face_id=face,
                confidence=row.score,
                success=1,
                x=x,
                y=y,
                w=w,
                h=h,
                pitch=row.pitch,
                yaw=row.yaw,
                roll=row.roll,
                head=float(findings.head[place]),
                movement=max(regions.values()),
                **regions,
                eye_open=float(stretch.eye_open[place]),
                mouth_open=float(stretch.mouth_open[place]),
                blink=int(findings.blink[place]),
                speech=int(findings.speech[place]),
                brightness=row.brightness,
                light=float(findings.light[place]),
                sharpness=row.sharpness,
                repeated=int(stretch.paths.repeated[place]),
            )
        )
    return found


def _boxes(rows: list[FrameRow], size: int) -> npt.NDArray[np.float32]:
    """(N, 4): x, y, width, height around the face in pixels of the video, from where the crop lies in it."""
    matrices = np.array([row.transform for row in rows]).reshape(-1, 2, 3)
    inverse = np.linalg.inv(matrices[:, :, :2])
    middle = np.einsum("nij,nj->ni", inverse, np.full((len(rows), 2), size / 2) - matrices[:, :, 2])
    side = np.array([row.face_px for row in rows])[:, None]
    return np.concatenate([middle - side / 2, np.repeat(side, 2, axis=1)], axis=1).astype(np.float32)


def _show(face: int, rows: list[FrameRow], paths: RegionPaths, findings: Findings, size: int) -> _Shown:
    return _Shown(
        face,
        np.array([row.frame_index for row in rows]),
        np.array([row.transform for row in rows]).reshape(-1, 2, 3),
        _boxes(rows, size),
        paths.maps,
        findings.regions.max(axis=1).astype(np.float32),
    )


def _batches(rows: Iterator[MovementRow], size: int) -> Iterator[list[MovementRow]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _jpeg_at(clips: Sequence[ClipFrames], frame: int) -> bytes:
    """The crop of a frame as it lies in its tar."""
    for clip in clips:
        if clip.clip.first_frame <= frame <= clip.clip.last_frame:
            for row in clip.rows:
                if row.frame_index == frame:
                    with clip.tar.open("rb") as file:
                        file.seek(row.offset)
                        return file.read(row.size)
    raise AssertionError(f"frame {frame} has no crop")  # events have frames of crops alone


def _on_grid(moved: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    found = cv2.resize(moved, (GRID, GRID), interpolation=cv2.INTER_AREA) if moved.shape[0] != GRID else moved
    return found.astype(np.float64)


def _relative(file: Path, folder: Path) -> str:
    return os.path.relpath(file.resolve(), folder.resolve())


def folders_for(paths: Sequence[str], out: Path) -> dict[str, Path]:
    """Where the predictions of each input go: its path without the suffix, unless two would share it."""
    short = {path: str(Path(path).with_suffix("")) if Path(path).suffix else path for path in paths}
    twice = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {path: out / (path.replace(".", "_") if name in twice else name) for path, name in short.items()}
