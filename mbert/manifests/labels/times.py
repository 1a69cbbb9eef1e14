"""Labels in seconds -> frames, using the display times of the video's frames."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mbert.manifests.labels.table import Label, checked
from mbert.manifests.schema import FrameRow, VideoRow
from mbert.manifests.store import read_table
from mbert.manifests.workspace import twin_paths

_FRAMES = ("onset", "apex", "offset")


@dataclasses.dataclass(frozen=True, slots=True)
class FrameTimes:
    """The display times of one input's frames: those with a crop, with linear inter- and extrapolation."""

    frame_index: npt.NDArray[np.int64]  # (F,) ascending
    pts_seconds: npt.NDArray[np.float64]  # (F,) ascending
    first_frame: int
    last_frame: int

    @classmethod
    def of(cls, frames: Path, video: VideoRow) -> "FrameTimes | None":
        """Read them; None for an input without crops."""
        if video.status != "ok" or video.shard is None or video.first_frame is None or video.last_frame is None:
            return None
        table = read_table(twin_paths(frames, video.shard)[1], FrameRow, columns=["frame_index", "pts_seconds"])
        index, places = np.unique(table["frame_index"].to_numpy(), return_index=True)
        if len(index) < 2:
            return None
        return cls(index, table["pts_seconds"].to_numpy()[places], video.first_frame, video.last_frame)

    @property
    def seconds_per_frame(self) -> float:
        """The median distance of two frames."""
        return float(np.median(np.diff(self.pts_seconds) / np.diff(self.frame_index)))

    @property
    def first_seconds(self) -> float:
        """When the first frame of the input is shown."""
        return float(self.pts_seconds[0]) - (int(self.frame_index[0]) - self.first_frame) * self.seconds_per_frame

    @property
    def last_seconds(self) -> float:
        """When the last frame of the input is shown."""
        return float(self.pts_seconds[-1]) + (self.last_frame - int(self.frame_index[-1])) * self.seconds_per_frame

    def frame_at(self, seconds: float) -> int | None:
        """The frame nearest in time, the earlier of two; None for a time without a frame."""
        step = self.seconds_per_frame
        if not self.first_seconds - step <= seconds <= self.last_seconds + step:
            return None
        after = int(np.searchsorted(self.pts_seconds, seconds))
        if after == 0:
            place = int(self.frame_index[0]) - (float(self.pts_seconds[0]) - seconds) / step
        elif after == len(self.pts_seconds):
            place = int(self.frame_index[-1]) + (seconds - float(self.pts_seconds[-1])) / step
        else:
            (left, right), (start, stop) = (
                x[after - 1 : after + 1].tolist() for x in (self.frame_index, self.pts_seconds)
            )
            place = left + (seconds - start) / (stop - start) * (right - left)
        nearest = int(np.ceil(place - 0.5 - 1e-9))
        return min(max(nearest, self.first_frame), self.last_frame)


def located(labels: Iterable[Label], times: FrameTimes | None) -> list[Label]:
    """The labels of one input with seconds converted to frames, in order of their first frame.

    If a label has both, they must name the same frame, give or take one. Without times, labels stay unchanged.
    """
    found = [_located(label, times) if times else label for label in labels]
    first = next((place for place, label in enumerate(found) if label.is_located), None)
    if times is not None and first is not None and abs(times.first_seconds) > max(times.seconds_per_frame, 0.05):
        found[first] = found[first].remarked(
            f"its seconds count on the video's own clock, on which the first frame is at {times.first_seconds:.3f} s"
        )
    return sorted(found, key=lambda label: (label.span or (-1, -1), label.line))


def _located(label: Label, times: FrameTimes) -> Label:
    if label.span_seconds is None or label.fault is not None:
        return label
    frames: dict[str, int | None] = {}
    for name in _FRAMES:
        frame, seconds = getattr(label, name), getattr(label, f"{name}_seconds")
        nearest = None if seconds is None else times.frame_at(seconds)
        if seconds is not None and nearest is None and frame is None:
            return _faulty(
                label,
                f"{name}_seconds {seconds:g} is outside of the video, whose frames are shown from "
                f"{times.first_seconds:.3f} to {times.last_seconds:.3f} s",
            )
        if frame is not None and seconds is not None and not _agree(frame, seconds, times):
            shown = "no frame" if nearest is None else f"frame {nearest}"
            return _faulty(label, f"{name} {frame} and {name}_seconds {seconds:g}, which is {shown}, do not agree")
        frames[name] = nearest if frame is None else frame
    return checked(dataclasses.replace(label, **frames, is_located=True))  # type: ignore[arg-type]


def _agree(frame: int, seconds: float, times: FrameTimes) -> bool:
    """Whether frame and time are the same, on the video's own clock or counted from its first frame."""
    found = [times.frame_at(time) for time in (seconds, seconds + times.first_seconds)]
    return any(nearest is not None and abs(nearest - frame) <= 1 for nearest in found)


def _faulty(label: Label, what: str) -> Label:
    return dataclasses.replace(label, fault=f"label line {label.line}: {what}", is_located=True)
