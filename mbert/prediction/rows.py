"""Rows of `frames.csv` and `events.csv` from the findings in a stretch of a face."""

import numpy as np
import numpy.typing as npt

from mbert.manifests.predictions import EventRow, MovementRow
from mbert.manifests.regions import REGIONS
from mbert.manifests.schema import FrameRow
from mbert.model.movement.findings import Findings, Found
from mbert.prediction.face import FaceStretch


def movement_rows(face: int, stretch: FaceStretch, findings: Findings, size: int) -> list[MovementRow]:
    """One row for each frame of a stretch."""
    boxes = boxes_of(stretch.rows, size)
    found = []
    for place, row in enumerate(stretch.rows):
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
                eye_open=float(stretch.measured.eye_open[place]),
                mouth_open=float(stretch.measured.mouth_open[place]),
                blink=int(findings.blink[place]),
                speech=int(findings.speech[place]),
                brightness=row.brightness,
                light=float(findings.light[place]),
                sharpness=row.sharpness,
                repeated=int(stretch.measured.paths.repeated[place]),
            )
        )
    return found


def event_row(video: str, face: int, rows: list[FrameRow], found: Found) -> EventRow:
    """Its number and likeness are filled in once all events of the video are known."""
    onset, apex, offset = (rows[place] for place in (found.onset, found.apex, found.offset))
    alarms = found.false_alarms_per_minute
    return EventRow(
        video=video,
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
        score=found.score,
        false_alarms_per_minute=alarms,
        like=None,
        flags=" ".join(found.flags) or None,
    )


def boxes_of(rows: list[FrameRow], size: int) -> npt.NDArray[np.float32]:
    """(N, 4): x, y, width, height around the face in pixels of the video, from the crop's position in it."""
    matrices = np.array([row.transform for row in rows]).reshape(-1, 2, 3)
    inverse = np.linalg.inv(matrices[:, :, :2])
    middle = np.einsum("nij,nj->ni", inverse, np.full((len(rows), 2), size / 2) - matrices[:, :, 2])
    side = np.array([row.face_px for row in rows])[:, None]
    boxes: npt.NDArray[np.float32] = np.concatenate(
        [middle - side / 2, np.repeat(side, 2, axis=1)], axis=1, dtype=np.float32
    )
    return boxes
