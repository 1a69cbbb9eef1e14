"""One video: measures its faces, finds what they do, and writes everything about it.

Frames are read once and results written as they come: memory does not grow with the length of a video, except for its
maps, 300 bytes per frame, which the overlay shows.
"""

import contextlib
import dataclasses
import functools
import hashlib
import heapq
import importlib.metadata
import itertools
import json
import mimetypes
import os.path
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mbert import InputError, MbertError, __version__
from mbert.manifests.files import naming_write_faults, read_json, write_json
from mbert.manifests.predictions import (
    FRAMES,
    NO_FACE,
    OVERLAY,
    RESEARCH_ONLY,
    EventRow,
    FaceSummary,
    MovementRow,
    PredictionSummary,
)
from mbert.manifests.regions import PARTS
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import iterate_rows, read_rows, write_rows, writing_rows
from mbert.model.device import limited_threads, pick_compute
from mbert.model.movement.displacement import MovementMeter
from mbert.model.movement.findings import find_events
from mbert.model.network.weights import hash_weights
from mbert.pipeline.faces.measure import CropMeter
from mbert.pipeline.ingest_options import fixes_of
from mbert.pipeline.video.decode import Decoder, VideoFile
from mbert.pipeline.video.preview import small_preview
from mbert.prediction.face import FaceMeter
from mbert.prediction.pictures import picture_events
from mbert.prediction.quality import Quality
from mbert.prediction.results import EVENTS, REPORT, SUMMARY, remove_results, summary_of
from mbert.prediction.rows import event_row, movement_rows
from mbert.prediction.shown import Shown, draw_overlay
from mbert.prediction.task import Predicted, PredictProgress, PredictTask, Unpredicted, load, load_classifier
from mbert.reports.formats import CsvRows, write_challenge, write_eaf, write_textgrid, write_vtt
from mbert.reports.predict_page import EventPicture, write_predict_page
from mbert.shards.engine import tell
from mbert.shards.frames import ClipFrames, CorpusFrames
from mbert.weights import BUILT_IN

_VERSIONS = ("av", "mediapipe", "numpy", "opencv-contrib-python", "torch")
_CURVE_POINTS = 120  # of the sparkline on the page of all videos
_TOLD_EVERY = 100  # frames


def predict_video(task: PredictTask) -> Predicted | Unpredicted:
    """Measure, find and write everything about one ingested video; `summary.json` is written last.

    Raises MbertError if writing fails; a fault of the video itself only costs this video.
    """
    try:
        with limited_threads(1):  # landmarks, flow and the model have one thread each, and do not wait for each other
            return _Prediction(task).run()
    except InputError as exc:
        return Unpredicted(task.source.path, exc.reason)
    except (MbertError, MemoryError):
        raise
    except Exception as exc:  # as in ingest: an unforeseen fault costs one video, not the run
        return Unpredicted(task.source.path, f"{type(exc).__name__}: {exc}")


def fingerprint(task: PredictTask) -> str:
    """A hash of what a video's predictions depend on; if it changes, they must be made again."""
    row = _video_row(task)
    classifier = task.options.classifier and load_classifier(task.options.classifier)
    parts = [
        *(row.sha256, task.source.path, str(task.source.location), task.name, __version__),
        *(load(task.options.model).fingerprint, dataclasses.asdict(task.options), dataclasses.asdict(task.ingest)),
        classifier and [hash_weights(classifier), classifier.config.classes],
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def finished(task: PredictTask) -> Predicted | None:
    """The predictions that an earlier run finished with the same options; None if there are none."""
    file = task.folder / SUMMARY
    if not file.exists():
        return None
    value = read_json(file)
    if value.get("fingerprint") != fingerprint(task):
        return None
    if not all((task.folder / name).exists() for name in value["outputs"]):
        return None
    return Predicted(task.source.path, str(task.folder), summary_of(value), tuple(value["curve"]))


@functools.cache
def _crop_meter(landmarker: str) -> CropMeter:
    return CropMeter(landmarker)  # type: ignore[arg-type]


def _video_row(task: PredictTask) -> VideoRow:
    rows = read_rows(task.workspace.videos, VideoRow)
    return next(row for row in rows if row.video_id == task.source.video_id)


class _Prediction:
    """The work on one video."""

    def __init__(self, task: PredictTask) -> None:
        self._task = task
        self._row = _video_row(task)
        self._model = load(task.options.model)
        self._corpus = CorpusFrames(task.workspace)
        movement = MovementMeter(self._model.network, compute=pick_compute(), threads=task.threads)
        self._meter = FaceMeter(movement, _crop_meter(task.ingest.landmarker), task.ingest.size, self._tell)
        self._events: list[EventRow] = []
        self._shown: list[Shown] = []
        self._faces: list[FaceSummary] = []
        self._quality = Quality()
        self._num_done = 0
        self._ends_s = 0.0  # of the last frame

    def run(self) -> Predicted:
        folder = self._task.folder
        with naming_write_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
            remove_results(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tracks-") as scratch:
            tracks = self._tracks()
            files = [self._write_track(number, clips, Path(scratch)) for number, clips in tracks.items()]
            self._write_frames(files)
        self._events.sort(key=lambda event: (event.onset_s, event.face_id))
        self._events = [dataclasses.replace(row, event=number) for number, row in enumerate(self._events, 1)]
        self._events, pictures = picture_events(self._task, self._events, tracks)
        outputs = self._write_events()
        if self._task.options.overlay:
            draw_overlay(self._decoder(), self._task, self._shown, self._events, sound=self._media)
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

    def _tell(self) -> None:
        self._num_done += 1
        if self._num_done % _TOLD_EVERY == 0:
            tell(PredictProgress(self._row.path, min(self._num_done, self._row.num_frames or 0)))

    def _write_track(self, number: int, clips: list[ClipFrames], scratch: Path) -> Path:
        """Measure one face from its first to its last frame; its rows go to a separate file."""
        size = self._task.ingest.size
        path = scratch / f"{number:06d}.parquet"
        with writing_rows(path, MovementRow) as writer:
            for stretch in self._meter.stretches(clips):
                findings = find_events(
                    stretch.measured, self._model.calibration, per_minute=self._task.options.per_minute
                )
                found = movement_rows(number, stretch, findings, size)
                writer.add(found)
                self._events += [event_row(self._task.name, number, stretch.rows, each) for each in findings.events]
                self._quality.add(stretch.measured, findings)
                self._shown.append(Shown.of(number, stretch, found))
            writer.finish({})
        self._faces.append(
            FaceSummary(
                face_id=number,
                first_s=clips[0].rows[0].pts_seconds,
                last_s=clips[-1].rows[-1].pts_seconds,
                num_frames=sum(each.clip.num_frames for each in clips),
                face_px=float(np.median([row.face_px for each in clips for row in each.rows])),
            )
        )
        return path

    def _write_frames(self, files: Sequence[Path]) -> None:
        """`frames.parquet` and `frames.csv`: the rows of all faces by frame, and a row for each frame without one."""
        tracks = [iterate_rows(file, MovementRow) for file in files]
        merged = heapq.merge(*tracks, key=lambda row: (row.frame, row.face_id))
        folder = self._task.folder
        with writing_rows(folder / FRAMES, MovementRow) as table, CsvRows(folder / "frames.csv", MovementRow) as csv:
            for rows in _batches(self._with_gaps(merged), 1000):
                table.add(rows)
                csv.add(rows)
                self._ends_s = rows[-1].timestamp
            table.finish({})

    def _with_gaps(self, rows: Iterator[MovementRow]) -> Iterator[MovementRow]:
        """The rows, and one for each frame in which no face was found."""
        seen = sum(face.num_frames for face in self._faces)
        if len(self._faces) == 1 and seen == self._row.num_frames:
            yield from rows  # every frame has a row: no need to decode again for missing times
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
        for frame in self._decoder():
            yield frame.index, frame.pts_seconds

    def _decoder(self) -> Decoder:
        """A decoder for the frames as ingested."""
        return self._task.ingest.open_decoder(self._task.source, self._task.threads, fixes=fixes_of(self._row))

    @property
    def _media(self) -> Path | None:
        """The file whose times match the tables."""
        has_own_times = self._row.kind == "video" and self._row.rate in (None, 1.0)
        return self._task.source.location if has_own_times else None

    def _write_events(self) -> list[str]:
        folder, events = self._task.folder, self._events
        seconds = self._ends_s
        with CsvRows(folder / EVENTS, EventRow) as csv:
            csv.add(events)
        write_rows(folder / "events.parquet", EventRow, events)
        media = self._media
        media_type = (media and mimetypes.guess_type(media.name)[0]) or "video/mp4"
        write_eaf(folder / "events.eaf", events, media=media, media_type=media_type, seconds=seconds)
        write_textgrid(folder / "events.TextGrid", events, seconds=seconds)
        write_vtt(folder / "events.vtt", events)
        write_challenge(folder / "challenge.csv", events, with_emotion=bool(self._task.options.classifier))
        return [EVENTS, "events.parquet", "events.eaf", "events.TextGrid", "events.vtt", "challenge.csv"]

    def _write_page(self, summary: PredictionSummary, pictures: Sequence[EventPicture]) -> None:
        folder, original = self._task.folder, self._media
        video = None
        if original is not None:
            with contextlib.suppress(ValueError):  # on another drive
                video = Path(_relative(original, folder)).as_posix()
        has_overlay = self._task.options.overlay
        embedded = None
        if self._task.options.embed_video:
            shown = (
                small_preview(VideoFile(folder / OVERLAY), sound=folder / OVERLAY)
                if has_overlay
                else small_preview(self._decoder(), sound=original)
            )
            embedded = ("video/mp4", shown)
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

    def _summary(self, outputs: list[str]) -> PredictionSummary:
        row, options = self._row, self._task.options
        counts = dict.fromkeys(("micro", "macro", "blink", "speech", "doubtful"), 0)
        for event in self._events:
            counts[event.type] += 1
            counts["doubtful"] += event.is_doubtful
        return PredictionSummary(
            video=self._task.name,
            sha256=row.sha256,
            width=row.width,
            height=row.height,
            fps=row.fps,
            fps_nominal=self._quality.fps_nominal,
            is_vfr=self._quality.is_vfr,
            num_frames=row.num_frames or 0,
            seconds=row.seconds or 0.0,
            faces=tuple(self._faces),
            counts=counts,
            warnings=tuple(self._quality.warnings(row, self._faces, is_calibrated=self._model.is_calibrated)),
            note=RESEARCH_ONLY,
            settings={
                "per_minute": options.per_minute,
                "thresholds_px_per_100_ms": {
                    part: round(self._model.calibration.threshold(part, options.per_minute), 3) for part in PARTS
                },
                "classifier": options.classifier,
                "ingest": {name: value for name, value in dataclasses.asdict(self._task.ingest).items() if value},
            },
            versions={"mbert": __version__, **{name: importlib.metadata.version(name) for name in _VERSIONS}},
            model={
                "name": "built in" if options.model == str(BUILT_IN) else options.model,
                "sha256": self._model.digest,
            },
            command=self._task.command,
            outputs=tuple(outputs),
        )

    def _curve(self) -> tuple[float, ...]:
        """Movement of the face visible longest, in a few steps."""
        if not self._faces:
            return ()
        longest = max(self._faces, key=lambda face: face.num_frames).face_id
        values = np.concatenate([shown.movement for shown in self._shown if shown.face_id == longest])
        parts = np.array_split(values, min(_CURVE_POINTS, len(values)))
        return tuple(round(float(part.max()), 3) for part in parts)


def _batches(rows: Iterator[MovementRow], size: int) -> Iterator[list[MovementRow]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _relative(file: Path, folder: Path) -> str:
    return os.path.relpath(file.resolve(), folder.resolve())
