"""The overlay's data about a video's faces: where each is, how its patches move, which events are in progress."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mbert.manifests.predictions import OVERLAY, EventRow, MovementRow
from mbert.pipeline.video.decode import Decoder
from mbert.pipeline.video.overlay import OverlayFace, write_overlay
from mbert.prediction.face import FaceStretch
from mbert.prediction.task import PredictTask

_ENCODING_THREADS = 2


@dataclasses.dataclass(slots=True)
class Shown:
    """One stretch of one face: arrays over its frames."""

    face_id: int
    frames: npt.NDArray[np.int64]
    transforms: npt.NDArray[np.float64]  # (N, 2, 3)
    boxes: npt.NDArray[np.float32]  # (N, 4)
    maps: npt.NDArray[np.uint8]  # (N, 14, 14)
    movement: npt.NDArray[np.float32]

    @classmethod
    def of(cls, face: int, stretch: FaceStretch, found: Sequence[MovementRow]) -> "Shown":
        """From a stretch: its crops' rows, and its measured rows."""
        return cls(
            face,
            np.array([row.frame_index for row in stretch.rows]),
            np.array([row.transform for row in stretch.rows]).reshape(-1, 2, 3),
            np.array([(row.x, row.y, row.w, row.h) for row in found], np.float32),
            stretch.measured.paths.maps,
            np.array([row.movement for row in found], np.float32),
        )


def draw_overlay(
    decoder: Decoder, task: PredictTask, stretches: Sequence[Shown], events: Sequence[EventRow], *, sound: Path | None
) -> None:
    """Write `overlay.mp4` of the ingested frames, with the sound of a file with the same times."""
    labels = _Labels(events)
    places: dict[int, list[tuple[Shown, int]]] = {}
    for shown in stretches:
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

    # x264's output depends on the number of threads.
    write_overlay(
        decoder, task.folder / OVERLAY, faces_at, sound=sound, num_threads=_ENCODING_THREADS, on_frame=lambda: None
    )


class _Labels:
    """The text that the overlay writes at a face during an event."""

    def __init__(self, events: Sequence[EventRow]) -> None:
        self._events = [event for event in events if event.type != "speech"]

    def at(self, face: int, frame: int) -> str:
        running = [
            event
            for event in self._events
            if event.face_id == face and event.onset_frame <= frame <= max(event.offset_frame, event.apex_frame + 2)
        ]
        running.sort(key=lambda event: (event.is_doubtful, event.type == "macro"))
        return ", ".join("blink" if event.type == "blink" else f"{event.type}: {event.part}" for event in running[:2])
