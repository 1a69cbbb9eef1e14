"""The quality of a video, and warnings for readers of the results."""

from collections.abc import Iterator, Sequence

import numpy as np

from mbert.manifests.predictions import FaceSummary, Warning
from mbert.manifests.schema import VideoRow
from mbert.model.movement.findings import DARK, HEAD_SPEED, Findings, Stretch

_FEW_BITS = 0.04  # per pixel; a webcam's H.264 has about 0.1
_FPS, _FACE_PX = 60, 100
_MOST_TIMES = 5000


class Quality:
    """Collects facts from the stretches of a video; memory does not grow with their length."""

    def __init__(self) -> None:
        self._num_frames = 0
        self._sums = {"head": 0, "dark": 0, "repeated": 0}
        self._times: list[float] = []

    def add(self, stretch: Stretch, findings: Findings) -> None:
        """Add a stretch."""
        self._num_frames += len(stretch.brightness)
        self._sums["head"] += int((findings.head >= HEAD_SPEED).sum())
        self._sums["dark"] += int((stretch.brightness < DARK).sum())
        self._sums["repeated"] += int(stretch.paths.repeated.sum())
        self._times += [float(step) for step in np.diff(stretch.paths.seconds)][: _MOST_TIMES - len(self._times)]

    @property
    def fps_nominal(self) -> float | None:
        """The rate of the most frequent interval between two frames."""
        common = float(np.median(self._times)) if self._times else 0.0
        return 1 / common if common > 0 else None

    @property
    def is_vfr(self) -> bool:
        """Whether more than one in fifty frames is off its regular time."""
        if len(self._times) < 2 or not self.fps_nominal:
            return False
        return bool(np.quantile(np.abs(np.array(self._times) * self.fps_nominal - 1), 0.98) > 0.1)

    def warnings(self, row: VideoRow, faces: Sequence[FaceSummary], *, is_calibrated: bool) -> Iterator[Warning]:
        """Why the results should be read with care."""
        if row.fps and round(row.fps) < _FPS:
            yield Warning(
                kind="fps",
                text=f"{row.fps:.3g} frames per second: an expression of 200 ms has {max(1, round(row.fps / 5))} "
                "frames; short ones can be missed, and times are no finer than a frame",
            )
        if faces and (smallest := min(face.face_px for face in faces)) < _FACE_PX:
            yield Warning(
                kind="face_size", text=f"a face of {smallest:.0f} px: below {_FACE_PX} px, small movements are lost"
            )
        pixels = (row.width or 0) * (row.height or 0) * (row.num_frames or 0)
        if row.kind == "video" and pixels and (bits := 8 * row.num_bytes / pixels) < _FEW_BITS:
            yield Warning(
                kind="compression",
                text=f"strongly compressed, {bits:.3f} bits per pixel: compression wipes out small movements, and its "
                "blocks can look like some",
            )
        share = {name: total / max(1, self._num_frames) for name, total in self._sums.items()}
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
        if not is_calibrated:
            yield Warning(
                kind="input",
                text="the model has no calibration of its own: false-alarm rates are those of the built-in model",
            )
