"""Frames with sparse landmarks -> spans between two measurements -> face tracks, cut into clips.

Everything streams: memory never holds more than the frames between two measurements and the open clips.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mbert.manifests.labels.table import Label
from mbert.pipeline.faces.align import crop_box, fit_pose
from mbert.pipeline.faces.landmarks import Face, Landmarker, Points
from mbert.pipeline.video.frame import Frame

_CUT_LEVEL = 30.0  # mean change of coarse luma samples, 0-255, between two frames of different scenes
_MAX_STEP = 0.35  # face sizes that a face may move between two ticks
_MAX_GROWTH = 1.35  # ratio of its sizes
_LOYALTY = 1.5  # how much larger than the followed face another must be to replace it
_MIN_TICKS = 3  # one or two detections are no face
_LOOK_SIDE_PX = 480  # landmarks are searched in a picture with at least this shorter side
_LOOK_FACE_PX = 128
_MAX_SPAN_BYTES = 128 << 20  # frames that wait for the next tick; very large ones get their ticks sooner
_SPARE_SECONDS = 0.25  # around labelled times: their frames may be half a frame away
_REGION_MARGIN = 0.15  # crop widths kept around the crop: room for the low-pass track to differ from the measured one


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """A frame on which landmarks were measured."""

    frame: Frame
    faces: list[Face]


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """The frames from one tick to the next, both included."""

    frames: list[Frame]
    start: Tick
    stop: Tick
    has_cut: bool


def spans(frames: Iterable[Frame], landmarker: Landmarker, *, tick_seconds: float) -> Iterator[Span]:
    """Measure landmarks every `tick_seconds` (0: on every frame), and on the first and the last frame of each size."""
    waiting: list[Frame] = []
    num_bytes = 0
    start: Tick | None = None
    has_cut = False
    signature: npt.NDArray[np.int16] | None = None
    for frame, is_last in _with_last_of_size(frames):
        previous, signature = signature, frame.signature()
        has_cut = has_cut or (previous is not None and float(np.abs(signature - previous).mean()) > _CUT_LEVEL)
        waiting.append(frame)
        num_bytes += frame.num_bytes
        is_due = start is None or frame.pts_seconds - start.frame.pts_seconds >= tick_seconds - 1e-6
        if is_due or is_last or num_bytes > _MAX_SPAN_BYTES:
            stop = Tick(frame, find_faces(frame, landmarker))
            if start is not None or is_last:
                yield Span(waiting, start or stop, stop, has_cut)
            waiting, num_bytes, start, has_cut = [frame], 0, stop, False
        if is_last:  # coordinates differ between sizes: nothing continues across
            waiting, start, signature = [], None, None


def find_faces(frame: Frame, landmarker: Landmarker) -> list[Face]:
    """The faces of a frame, measured on a smaller picture if that loses nothing: faster for large frames.

    Landmark networks see a face at about 128 pixels. A face that would be smaller in the smaller picture is measured in
    the full one.
    """
    width, height = frame.size
    shrink = max(1, min(width, height) // _LOOK_SIDE_PX)
    if shrink > 1:
        box = (0, 0, width // (2 * shrink) * 2 * shrink, height // (2 * shrink) * 2 * shrink)
        faces = landmarker.detect(frame.part(box, shrink).rgb())
        if all(face.size_px >= _LOOK_FACE_PX for face in faces):
            return [face.enlarged(shrink) for face in faces]
    return landmarker.detect(frame.rgb())


def _with_last_of_size(frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
    held: Frame | None = None
    for frame in frames:
        if held is not None:
            yield held, frame.size != held.size
        held = frame
    if held is not None:
        yield held, True


@dataclasses.dataclass(slots=True)
class Clip:
    """A run of frames of one face under one alignment: what was seen, not yet warped."""

    track: int
    ticks: dict[int, tuple[float, Face]] = dataclasses.field(default_factory=dict)  # frame index -> time, face
    frames: list["Region"] = dataclasses.field(default_factory=list)
    num_bytes: int = 0

    @property
    def seconds(self) -> float:
        """From the first to the last frame."""
        return self.frames[-1].frame.pts_seconds - self.frames[0].frame.pts_seconds if self.frames else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """The part of one frame around the face, maybe shrunk: pixel (x, y) shows source pixel (x, y) * shrink + origin."""

    frame: Frame
    origin: tuple[int, int]
    shrink: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CutRules:
    """When a clip ends although its face track continues."""

    max_seconds: float  # bounds the memory of an open clip in time ...
    max_bytes: int  # ... and in space
    whole: tuple[tuple[int, int], ...] = ()  # labelled frame ranges that stay in one clip
    whole_seconds: tuple[tuple[float, float], ...] = ()  # the same, of labels whose frames are not known yet

    @classmethod
    def for_labels(cls, labels: Sequence[Label], *, max_seconds: float, max_bytes: int) -> "CutRules":
        """Keep every labelled expression whole."""
        ranges = sorted(label.span for label in labels if label.span and not label.fault)
        times = [(start - _SPARE_SECONDS, stop + _SPARE_SECONDS) for start, stop in _waiting(labels)]
        return cls(max_seconds=max_seconds, max_bytes=max_bytes, whole=tuple(ranges), whole_seconds=tuple(times))

    def ends(self, clip: Clip) -> bool:
        """Whether the clip ends after its last frame."""
        last = clip.frames[-1].frame
        if any(start <= last.index < stop for start, stop in self.whole):
            return False
        if any(start <= last.pts_seconds < stop for start, stop in self.whole_seconds):
            return False
        return clip.seconds >= self.max_seconds - 1e-6 or clip.num_bytes >= self.max_bytes


def _waiting(labels: Sequence[Label]) -> list[tuple[float, float]]:
    """The times of labels in seconds that are no frames yet."""
    return sorted(label.span_seconds for label in labels if label.span_seconds and not label.fault)


@dataclasses.dataclass(slots=True)
class _Track:
    face: Face  # at the latest tick
    clip: Clip
    num_ticks: int = 1
    last_frame: int = -1
    finished: list[Clip] = dataclasses.field(default_factory=list)  # held until the track is confirmed


def follow_faces(
    spans: Iterable[Span], *, crop_size: int, rules: CutRules, max_faces: int | None = None
) -> Iterator[Clip]:
    """Follow faces from tick to tick and yield their clips as they end.

    A track ends where its face is lost, at a scene cut, where the size changes, and where two faces could be the same
    one: they are never swapped silently. A track with fewer than three ticks is not a face, unless the whole input has
    fewer. With `max_faces`, the largest are followed; a followed face is only replaced by one half as large again.
    """
    tracks: list[_Track] = []
    num_tracks, num_ticks = 0, 1
    for span in spans:
        num_ticks += 1
        links = [] if span.has_cut or len(span.frames) < 2 else _link(span.start.faces, span.stop.faces)
        known = {id(track.face): track for track in tracks}
        links.sort(key=lambda link: -link[0].size_px * (_LOYALTY if id(link[0]) in known else 1))
        going_on = []
        for start, stop in links[:max_faces]:
            track = known.pop(id(start), None)
            if track is None:
                track = _Track(start, Clip(num_tracks))
                num_tracks += 1
            _extend(track, span, stop, crop_size, rules)
            going_on.append(track)
        for track in known.values():
            yield from _ended(track, min(_MIN_TICKS, num_ticks))
        for track in going_on:
            if track.num_ticks >= _MIN_TICKS:
                yield from _long_enough(track.finished)
                track.finished = []
        tracks = going_on
    for track in tracks:
        yield from _ended(track, min(_MIN_TICKS, num_ticks))


def _ended(track: _Track, needed_ticks: int) -> Iterator[Clip]:
    if track.num_ticks >= needed_ticks:
        yield from _long_enough([*track.finished, track.clip])


def _long_enough(clips: Iterable[Clip]) -> Iterator[Clip]:
    yield from (clip for clip in clips if len(clip.frames) >= 2)


def _link(before: Sequence[Face], after: Sequence[Face]) -> list[tuple[Face, Face]]:
    """Faces of two ticks that are the same: close, of similar size, and without a second candidate."""
    candidates = [(one, other) for one in before for other in after if _is_near(one, other)]
    return [
        (one, other)
        for one, other in candidates
        if sum(one is first for first, _ in candidates) == 1 and sum(other is second for _, second in candidates) == 1
    ]


def _is_near(one: Face, other: Face) -> bool:
    size = min(one.size_px, other.size_px)
    step = float(np.linalg.norm(one.center - other.center))
    return step <= _MAX_STEP * size and max(one.size_px, other.size_px) <= _MAX_GROWTH * size


def _extend(track: _Track, span: Span, face: Face, crop_size: int, rules: CutRules) -> None:
    """Add the frames of a span to a track, whose face is `face` at its end."""
    ticks = {
        span.start.frame.index: (span.start.frame.pts_seconds, track.face),
        span.stop.frame.index: (span.stop.frame.pts_seconds, face),
    }
    poses = np.stack([fit_pose(one.points, one.layout) for one in (track.face, face)])
    box = crop_box(poses, margin=_REGION_MARGIN)
    # Where a crop pixel covers two source pixels or more, the warp alone would alias: average whole pixels first.
    shrink = max(1, int(1 / (crop_size * np.exp(poses[:, 2].max()))))
    track.clip.ticks.update(ticks)
    for frame in span.frames:
        if frame.index <= track.last_frame:
            continue  # a tick ends one span and starts the next
        region = _cut_region(frame, box, shrink)
        track.last_frame = frame.index
        track.clip.frames.append(region)
        track.clip.num_bytes += region.frame.num_bytes
        if rules.ends(track.clip):
            track.finished.append(track.clip)
            track.clip = Clip(track.clip.track, dict(ticks))
    track.face = face
    track.num_ticks += 1


def onto_region(matrix: Points, region: Region) -> Points:
    """A matrix (2, 3) from source pixels, changed to start from the pixels of a region."""
    corner = np.array(region.origin) + (region.shrink - 1) / 2  # a shrunk pixel is in the middle of those it averages
    linear = matrix[:, :2]
    return np.concatenate([linear * region.shrink, (linear @ corner + matrix[:, 2])[:, None]], axis=1)


def _cut_region(frame: Frame, box: tuple[float, float, float, float], shrink: int) -> Region:
    """The edges of the region are even: there, video can be cut without converting the whole frame."""
    width, height = frame.size
    left, top = max(0, int(box[0])) // 2 * 2, max(0, int(box[1])) // 2 * 2
    columns = max(1, (min(width, int(box[2]) + 1) - left) // shrink // 2) * 2
    rows = max(1, (min(height, int(box[3]) + 1) - top) // shrink // 2) * 2
    part = frame.part((left, top, left + columns * shrink, top + rows * shrink), shrink)
    return Region(part, (left, top), shrink)
