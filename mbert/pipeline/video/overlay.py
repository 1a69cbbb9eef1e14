"""Draws results over the video: boxes, where the skin moved, a curve of its speed, the time code.

The picture keeps its place and times; the curve is in a strip below it, so that it hides nothing.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mbert import InputError
from mbert.manifests.files import replacing
from mbert.pipeline.video.decode import Decoder
from mbert.pipeline.video.film import writing_film
from mbert.pipeline.video.frame import Frame
from mbert.shards.image import Image

_COLOURS = [(86, 180, 233), (230, 159, 0), (40, 200, 140), (240, 228, 66), (224, 140, 190), (235, 110, 40)]
_BACKGROUND, _GRID, _SCALE_LINE, _TEXT = (22, 22, 26), (62, 62, 70), (130, 130, 140), (235, 235, 235)
_CURVE_SECONDS = 5.0
_HEAT_SIDE = 224  # pixels of the smooth heat map: enough to use the nearest one when warping it
_MOST_HEAT = 0.75  # share of the colour where a patch certainly moved
_FONT = cv2.FONT_HERSHEY_SIMPLEX

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OverlayFace:
    """Results for one face in one frame. A movement that is NaN leaves a gap in the curve."""

    face_id: int
    box: tuple[float, float, float, float]  # x, y, width, height in pixels of the upright video
    transform: npt.NDArray[Any]  # (2, 3), upright source pixels -> crop pixels
    crop_size: int  # width and height of the crop in pixels
    heat: npt.NDArray[np.uint8]  # (14, 14), probability that a patch of the crop moved, as 0-255
    movement: float  # pixels of the crop per 100 ms
    label: str = ""  # while an event lasts: `micro: brows`


def write_overlay(
    decoder: Decoder,
    out: Path,
    faces_at: Callable[[int], Sequence[OverlayFace]],
    *,
    sound: Path | None,
    scale_px_per_100ms: float = 2.0,
    max_side: int = 1280,
    num_threads: int = 0,
    on_frame: Callable[[], None],
) -> int:
    """Write the frames of a video with the results drawn over them as MP4 (H.264); returns the number of frames.

    `faces_at` is called once for each frame, in order, with the frame's index. A picture larger than `max_side` pixels
    is scaled down; `scale_px_per_100ms` is the value of the curve's scale line. `on_frame` is called after each frame.
    `sound` is the file whose sound is added; for sound and times see `writing_film`.

    The file only appears under its name on success. Raises InputError if no frame can be decoded, MbertError if it
    cannot be written or PyAV has no H.264 encoder.
    """
    num_frames = 0
    with replacing(out) as temporary, writing_film(temporary, sound=sound, num_threads=num_threads) as film:
        for frame in decoder:
            if not num_frames:
                painter = _Painter(frame.size, scale=scale_px_per_100ms, max_side=max_side)
            painter.paint(frame, faces_at(frame.index))
            film.add(painter.canvas, frame.pts_seconds)
            num_frames += 1
            on_frame()
        if not num_frames:
            raise InputError("unreadable", "opens, but no frame decodes")
    return num_frames


class _Painter:
    """Draws one frame after the other into `canvas`, (H, W, 3) RGB with even sides: the picture, below it the strip."""

    def __init__(self, size: tuple[int, int], *, scale: float, max_side: int) -> None:
        shrink = min(1.0, max_side / max(size))
        self._width, self._height = (max(1, round(side * shrink)) for side in size)
        mean_side = (self._width * self._height) ** 0.5
        # Averaging is slow unless the factor is a whole number, and not needed above one half.
        self._resampling = cv2.INTER_LINEAR if shrink > 0.5 else cv2.INTER_AREA
        strip = max(56, round(0.14 * mean_side))
        sides = (self._height + strip + (self._height + strip) % 2, self._width + self._width % 2)
        self.canvas: Image = np.zeros((*sides, 3), np.uint8)
        self._font = max(0.38, 0.55 * mean_side / 960)  # for 720p: 0.55, a capital letter has 12 pixels
        self._line = max(1, round(mean_side / 900))
        self._strip = _Strip(
            self.canvas[self._height :], scale=scale, font=self._font, line=self._line + (mean_side > 600)
        )

    def paint(self, frame: Frame, faces: Sequence[OverlayFace]) -> None:
        """Draw one frame."""
        image = frame.rgb()
        zoom = (self._width / image.shape[1], self._height / image.shape[0])
        picture = self.canvas[: self._height, : self._width]
        if image.shape == picture.shape:
            picture[:] = image
        else:
            picture[:] = cv2.resize(image, (self._width, self._height), interpolation=self._resampling)
        for face in faces:
            _paint_heat(picture, face, zoom)
        for face in faces:
            self._paint_box(picture, face, zoom)
        self.canvas[: self._height, self._width :] = picture[:, -1:]
        self._strip.paint(frame, faces)

    def _paint_box(self, picture: Image, face: OverlayFace, zoom: tuple[float, float]) -> None:
        colour = colour_of(face.face_id)
        left, top, right, bottom = (
            round(edge * zoom[number % 2])
            for number, edge in enumerate([*face.box[:2], face.box[0] + face.box[2], face.box[1] + face.box[3]])
        )
        cv2.rectangle(picture, (left, top), (right, bottom), colour, self._line, cv2.LINE_AA)
        text = f"{face.face_id}  {face.label}" if face.label else str(face.face_id)
        (width, height), below = cv2.getTextSize(text, _FONT, self._font, 1)
        height += below + 4
        left = max(0, min(left, self._width - width - 6))
        top = max(0, top - height)  # above the box, or inside it if there is no room
        cv2.rectangle(picture, (left, top), (left + width + 6, top + height), colour, cv2.FILLED)
        where = (left + 3, top + height - below - 1)
        cv2.putText(picture, text, where, _FONT, self._font, (0, 0, 0), 1, cv2.LINE_AA)


def colour_of(face_id: int) -> tuple[int, int, int]:
    """RGB of a face's box and curve."""
    return _COLOURS[face_id % len(_COLOURS)]


def _heat_colours() -> tuple[Image, Image]:
    """For each heat, (256, 1, 3): the colour to add, and the share of the picture that stays, 255 for all of it."""
    heat = np.arange(256, dtype=np.uint8)[:, None]
    colours = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    share = (_MOST_HEAT * heat.astype(float) / 255)[..., None]
    kept = np.broadcast_to(255 * (1 - share), (256, 1, 3))
    return (colours * share).round().astype(np.uint8), kept.round().astype(np.uint8)


_ADDED, _KEPT = _heat_colours()


def _scaling(x: float, y: float) -> Matrix:
    """(3, 3): scaling to `x` and `y` times as many pixels; the centre of the first pixel is (0, 0)."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def _paint_heat(picture: Image, face: OverlayFace, zoom: tuple[float, float]) -> None:
    """Lay the heat over the part of the picture that the crop was cut from."""
    if not face.heat.any():
        return
    to_heat = _scaling(*[_HEAT_SIDE / face.crop_size] * 2) @ np.vstack([face.transform, [0, 0, 1]])
    to_heat = to_heat @ _scaling(1 / zoom[0], 1 / zoom[1])  # from a pixel of the picture
    from_heat = cv2.invertAffineTransform(to_heat[:2])
    corners = np.array([(x, y, 1) for x in (-0.5, _HEAT_SIDE - 0.5) for y in (-0.5, _HEAT_SIDE - 0.5)]) @ from_heat.T
    height, width = picture.shape[:2]
    left, top = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)) + 1, 0, (width, height)).astype(int)
    if right <= left or bottom <= top:
        return
    to_heat[:2, 2] += to_heat[:2, :2] @ (left, top)
    smooth = cv2.resize(face.heat, (_HEAT_SIDE, _HEAT_SIDE), interpolation=cv2.INTER_CUBIC)
    heat = cv2.warpAffine(
        smooth, to_heat[:2], (int(right - left), int(bottom - top)), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    region = picture[top:bottom, left:right]
    kept = cv2.multiply(region, cv2.applyColorMap(heat, _KEPT), scale=1 / 255)
    cv2.add(kept, cv2.applyColorMap(heat, _ADDED), dst=kept)
    region[:] = kept


class _Strip:
    """The time code, and the movement of each face in the last seconds, drawn into the lower part of the canvas."""

    def __init__(self, canvas: Image, *, scale: float, font: float, line: int) -> None:
        self._canvas, self._scale, self._font, self._line = canvas, scale, font, line
        self._row = cv2.getTextSize("0", _FONT, font, 1)[0][1] * 2
        self._blank = np.full_like(canvas, _BACKGROUND)
        height, width = canvas.shape[:2]
        for second in range(1, int(_CURVE_SECONDS)):
            x = round((width - 1) * second / _CURVE_SECONDS)
            cv2.line(self._blank, (x, self._row), (x, height), _GRID, 1)
        self._num_frames = 0
        # For each face: number of the frame, seconds, movement, whether an event lasts.
        self._points: dict[int, deque[tuple[int, float, float, bool]]] = {}

    def paint(self, frame: Frame, faces: Sequence[OverlayFace]) -> None:
        """Draw the strip of one frame."""
        now = frame.pts_seconds
        self._remember(now, faces)
        self._canvas[:] = self._blank
        points = {face_id: np.array(points) for face_id, points in self._points.items()}
        for face_id, values in points.items():
            self._paint_events(values, now, colour_of(face_id))
        y = self._y(np.array(self._scale)).item() // 16
        cv2.line(self._canvas, (0, y), (self._canvas.shape[1], y), _SCALE_LINE, 1)
        for face_id, values in points.items():
            self._paint_curve(values, now, colour_of(face_id))
        self._write(f"{self._scale:g} px / 100 ms", 4, y - 4)
        minutes, seconds = divmod(round(now * 1000), 60_000)
        end = self._write(f"{minutes:02d}:{seconds / 1000:06.3f}  frame {frame.index}", 4, self._row - 4)
        self._write_values(faces, end)

    def _remember(self, now: float, faces: Sequence[OverlayFace]) -> None:
        self._num_frames += 1
        for face in faces:
            points = self._points.setdefault(face.face_id, deque())
            points.append((self._num_frames, now, face.movement, bool(face.label)))
        for face_id, points in list(self._points.items()):
            while points and points[0][1] < now - _CURVE_SECONDS:
                points.popleft()
            if not points:
                del self._points[face_id]

    def _x(self, seconds: Matrix, now: float) -> npt.NDArray[np.int32]:
        """In sixteenths of a pixel, as OpenCV requires for smooth lines."""
        width = self._canvas.shape[1] - 1
        x: npt.NDArray[np.int32] = (16 * width * (1 - (now - seconds) / _CURVE_SECONDS)).astype(np.int32)
        return x

    def _y(self, movement: Matrix) -> npt.NDArray[np.int32]:
        """The scale line is at half the height; values above twice its value stay at the top."""
        bottom = self._canvas.shape[0] - 3
        share = np.clip(movement / (2 * self._scale), 0, 1)
        y: npt.NDArray[np.int32] = (16 * (bottom - share * (bottom - self._row - 2))).astype(np.int32)
        return y

    def _paint_events(self, values: Matrix, now: float, colour: tuple[int, int, int]) -> None:
        edges = np.flatnonzero(np.diff(values[:, 3], prepend=0, append=0))
        x = self._x(values[:, 1], now) // 16
        dim = tuple(int(0.3 * level + 0.7 * ground) for level, ground in zip(colour, _BACKGROUND, strict=True))
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            right = int(x[min(end, len(x) - 1)])
            cv2.rectangle(self._canvas, (int(x[first]), self._row), (right, self._canvas.shape[0]), dim, cv2.FILLED)

    def _paint_curve(self, values: Matrix, now: float, colour: tuple[int, int, int]) -> None:
        values = values[np.isfinite(values[:, 2])]
        line = np.stack([self._x(values[:, 1], now), self._y(values[:, 2])], axis=-1)
        runs = np.split(line, np.flatnonzero(np.diff(values[:, 0]) > 1) + 1)
        cv2.polylines(self._canvas, [run[:, None] for run in runs], False, colour, self._line, cv2.LINE_AA, 4)

    def _write_values(self, faces: Sequence[OverlayFace], end: int) -> None:
        """Write the movement of each face at the right, as many as fit."""
        x = self._canvas.shape[1]
        for face in reversed(faces):
            value = f"{face.movement:.1f}" if np.isfinite(face.movement) else "-"
            text = f"{face.face_id}: {value}"
            x -= cv2.getTextSize(text, _FONT, self._font, 1)[0][0] + 12
            if x < end + 12:
                return
            self._write(text, x, self._row - 4, colour_of(face.face_id))

    def _write(self, text: str, x: int, y: int, colour: tuple[int, int, int] = _TEXT) -> int:
        """Write text from a point at its lower left; returns where it ends."""
        cv2.putText(self._canvas, text, (x, y), _FONT, self._font, colour, 1, cv2.LINE_AA)
        return x + int(cv2.getTextSize(text, _FONT, self._font, 1)[0][0])
