"""One face of a video: its crops -> measurements, stretch by stretch."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mbert.manifests.schema import FrameRow
from mbert.model.movement.displacement import MovementMeter, RegionPaths
from mbert.model.movement.findings import Stretch
from mbert.model.network.motion import CROP_PX
from mbert.pipeline.faces.measure import CropMeasures, CropMeter, guessed_measures
from mbert.shards.frames import ClipFrames
from mbert.shards.image import Image

_CHUNK = 32  # crops read and measured ahead
_STRETCH_SECONDS = 60.0  # a stretch ends at the next quiet moment after this, ...
_STRETCH_MAX_SECONDS = 90.0  # ... at the latest after this
_GAP_SECONDS = 0.5  # without a crop: the face was lost
_QUIET = 0.3  # probability that any patch moved
_CORNERS = np.array([(56.0, 56.0), (168.0, 56.0), (56.0, 190.0), (168.0, 190.0)]) / 224  # of the face, in crop widths


@dataclasses.dataclass(frozen=True, slots=True)
class FaceStretch:
    """A run of frames in which a face is followed without a break."""

    rows: list[FrameRow]
    measured: Stretch


class FaceMeter:
    """Measures one face after the other."""

    def __init__(self, movement: MovementMeter, crops: CropMeter, size: int, on_frame: Callable[[], None]) -> None:
        self._movement, self._crops, self._size, self._on_frame = movement, crops, size, on_frame

    def stretches(self, clips: Sequence[ClipFrames]) -> Iterator[FaceStretch]:
        """The stretches of a face, from its clips in time order; long ones are split where nothing moves."""
        self._crops.forget()
        rows: list[FrameRow] = []
        measures: list[CropMeasures] = []
        for row, crop, measure in self._ahead(clips):
            if rows and self._ends(rows, row):
                yield self._finish(rows, measures)
                rows, measures = [], []
            rows.append(row)
            measures.append(measure)
            self._movement.push(row.pts_seconds, crop, measure.centres)
            self._on_frame()
        if rows:
            yield self._finish(rows, measures)

    def _ends(self, rows: list[FrameRow], row: FrameRow) -> bool:
        lasted = row.pts_seconds - rows[0].pts_seconds
        if row.pts_seconds - rows[-1].pts_seconds > _GAP_SECONDS or lasted >= _STRETCH_MAX_SECONDS:
            return True
        return lasted >= _STRETCH_SECONDS and self._movement.moved_lately() < _QUIET

    def _finish(self, rows: list[FrameRow], measures: list[CropMeasures]) -> FaceStretch:
        paths: RegionPaths = self._movement.finish()
        measured = Stretch(
            paths,
            np.array([measure.eye_open.mean() for measure in measures]),
            np.array([measure.mouth_open for measure in measures]),
            head_points(rows, self._size),
            np.array([row.brightness for row in rows]),
        )
        return FaceStretch(rows, measured)

    def _ahead(self, clips: Sequence[ClipFrames]) -> Iterator[tuple[FrameRow, Image, CropMeasures]]:
        """Each crop with its measures, read and measured ahead in a separate thread."""
        places = [(clip, start) for clip in clips for start in range(0, len(clip), _CHUNK)]
        last: CropMeasures | None = None
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            waiting = [thread.submit(self._measure, *place) for place in places[:1]]
            for number, (clip, start) in enumerate(places):
                crops, measures = waiting.pop().result()
                if number + 1 < len(places):
                    waiting.append(thread.submit(self._measure, *places[number + 1]))
                for row, crop, measure in zip(clip.rows[start : start + _CHUNK], crops, measures, strict=True):
                    last = measure or last or guessed_measures(row)
                    yield row, crop, last

    def _measure(self, clip: ClipFrames, start: int) -> tuple[npt.NDArray[np.uint8], list[CropMeasures | None]]:
        crops = clip.images(start, start + _CHUNK)
        return crops, [self._crops.measure(crop) for crop in crops]


def head_points(rows: list[FrameRow], size: int) -> npt.NDArray[np.float64]:
    """(N, 8): positions of four points of the head in the video, in px of a 224 px crop."""
    matrices = np.array([row.transform for row in rows]).reshape(-1, 2, 3)
    scale = float(np.median(np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2])))))
    inverse = np.linalg.inv(matrices[:, :, :2])
    points = np.einsum("nij,nkj->nki", inverse, _CORNERS * size - matrices[:, None, :, 2])
    scaled: npt.NDArray[np.float64] = (points * scale * CROP_PX / size).reshape(len(rows), -1)
    return scaled
