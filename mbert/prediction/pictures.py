"""Onset and apex crops of events: what the model sees between them, and which of them a page shows."""

import concurrent.futures
import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mbert.manifests.predictions import EventRow
from mbert.manifests.regions import REGIONS
from mbert.manifests.schema import FrameRow
from mbert.model.movement.displacement import GRID
from mbert.model.network.compare import compare_crops, name_emotions
from mbert.pipeline.faces.measure import guessed_measures
from mbert.prediction.task import PredictTask, load, load_classifier
from mbert.reports.predict_page import EventPicture
from mbert.shards.frames import ClipFrames
from mbert.shards.image import decode_jpeg

_AT_ONCE = 16  # pairs shown to the model at once
_MOST = 60  # events with pictures on a page

Tracks = Mapping[int, Sequence[ClipFrames]]  # the clips of each face in time order


def picture_events(
    task: PredictTask, events: Sequence[EventRow], tracks: Tracks
) -> tuple[list[EventRow], list[EventPicture]]:
    """The events with action units, size and emotion filled in, and pictures of the most certain ones."""
    wanted = [event for event in events if event.type in ("micro", "macro")]
    surest = sorted(wanted, key=lambda event: (event.is_doubtful, -(event.score or 0)))
    pictured = {event.event for event in surest[:_MOST]}
    batches = [wanted[start : start + _AT_ONCE] for start in range(0, len(wanted), _AT_ONCE)]
    with concurrent.futures.ThreadPoolExecutor(task.threads) as threads:
        found = list(threads.map(lambda batch: _picture(task, batch, tracks, pictured), batches))
    named = {event.event: event for described, _ in found for event in described}
    return [named.get(event.event, event) for event in events], [each for _, pictures in found for each in pictures]


def _picture(
    task: PredictTask, events: Sequence[EventRow], tracks: Tracks, pictured: set[int]
) -> tuple[list[EventRow], list[EventPicture]]:
    model, classifier = load(task.options.model), task.options.classifier
    rows = [
        [_row_at(tracks[event.face_id], frame) for frame in (event.onset_frame, event.apex_frame)] for event in events
    ]
    ends = [[_jpeg_of(tracks[event.face_id], row) for row in pair] for event, pair in zip(events, rows, strict=True)]
    t0, t1 = (np.stack([decode_jpeg(pair[place]) for pair in ends]) for place in (0, 1))
    found = compare_crops(t0, t1, model.network)
    emotions = name_emotions(t0, t1, load_classifier(classifier)) if classifier else []
    described, pictures = [], []
    for place, event in enumerate(events):
        like = model.units.likeness(found.displacement[place])
        size = _way_of(event, rows[place][0], found.displacement[place], task.ingest.size)
        emotion, probability = emotions[place] if emotions else (None, None)
        described.append(
            dataclasses.replace(
                event,
                like=" ".join(f"{unit}:{share:.2f}" for unit, share in like) or None,
                size_px=max(event.size_px, size),
                emotion=emotion,
                emotion_probability=probability,
            )
        )
        if event.event in pictured:
            onset, apex = ends[place]
            moved = _on_grid(found.moved[place])
            pictures.append(EventPicture(event=event.event, onset=onset, apex=apex, moved=moved))
    return described, pictures


def _row_at(clips: Sequence[ClipFrames], frame: int) -> FrameRow:
    """The row of a frame's crop; frames of events always have crops."""
    [clip] = [each for each in clips if each.clip.first_frame <= frame <= each.clip.last_frame]
    place = int(np.searchsorted(clip.frame_indices, frame))
    return clip.rows[place]


def _jpeg_of(clips: Sequence[ClipFrames], row: FrameRow) -> bytes:
    """The crop of a row as stored in its tar."""
    tar = next(each.tar for each in clips if each.clip.clip_id == row.clip_id)
    with tar.open("rb") as file:
        file.seek(row.offset)
        return file.read(row.size)


def _way_of(event: EventRow, onset: FrameRow, displacement: npt.NDArray[np.float32], size: int) -> float:
    """How far the regions of an event have moved at its apex according to the model, in px of a 224 px crop.

    The path of a region averages over more than what moves; the model's displacement (h, w, 2) is per patch.
    """
    grid = displacement.shape[0]
    places = np.clip(guessed_measures(onset).centres * (grid / size), 0, grid - 1).astype(int)
    ways = np.linalg.norm(displacement[places[:, 1], places[:, 0]], axis=-1)
    return float(max((ways[REGIONS.index(name)] for name in event.regions.split()), default=0.0))


def _on_grid(moved: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    found = cv2.resize(moved, (GRID, GRID), interpolation=cv2.INTER_AREA) if moved.shape[0] != GRID else moved
    return found.astype(np.float64)
