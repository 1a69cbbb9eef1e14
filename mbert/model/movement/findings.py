"""One stretch of one face, measured -> curves of every frame and what was found in it."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mbert.manifests.predictions import MICRO_SECONDS, EventType
from mbert.manifests.regions import PARTS, REGIONS, Part
from mbert.model.movement.calibration import Calibration
from mbert.model.movement.curves import Numbers, find_blinks, find_speech, rate_of_change, velocity
from mbert.model.movement.displacement import RegionPaths
from mbert.model.movement.events import Movement, find_movements, find_phases

_SPEECH_SPEED = 0.8  # px per 100 ms: slower turns of the mouth are no speech
HEAD_SPEED = 2.0  # px per 100 ms: from here on what is left of the head's motion may look like an expression
_LIGHT_SPEED = 4.0  # levels per 100 ms
DARK = 60  # mean luma of a crop, 0-255
_EDGE_SECONDS = 0.1  # what begins so soon after the face was found may have begun before
_BLINK_SECONDS = 0.05  # around a blink: what moves so near to it is moved by it
# A part that is never at rest hides slow events: an event is so many times as fast as the part is for three quarters of
# the time around it, or as fast as this, px per 100 ms, which is plain whatever else goes on. Chosen on 13 clips of
# real people, so that nothing is found where they are annotated as still (benchmarks/events.py).
_RESTLESS = 3.0
_RESTLESS_SECONDS = 3.0  # on either side
_PLAIN: dict[Part, float] = {"brows": 0.3, "eyes": 0.3, "mouth": 0.5}
_DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """What was measured of a face while it was followed without a break, frame by frame."""

    paths: RegionPaths
    eye_open: Numbers  # (N,): mean aspect ratio of both eyes
    mouth_open: Numbers  # (N,)
    head: Numbers  # (N, 8): four points of the head in px of a 224 px crop, as the video shows them
    brightness: Numbers  # (N,): mean luma, 0-255


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One event; positions in the arrays of the stretch."""

    type: EventType
    part: Part
    onset: int
    apex: int
    offset: int
    speed: float = 0.0
    size_px: float = 0.0
    direction: str | None = None
    regions: tuple[str, ...] = ()
    score: float | None = None  # speed over the threshold
    false_alarms_per_minute: float | None = None
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """Curves, (N,) each unless said otherwise, and events in order of onset."""

    regions: Numbers  # (N, R): speed of each region, px per 100 ms
    head: Numbers  # px per 100 ms
    light: Numbers  # levels per 100 ms
    blink: npt.NDArray[np.bool_]
    speech: npt.NDArray[np.bool_]
    events: list[Found]


def find_events(stretch: Stretch, calibration: Calibration, *, per_minute: float) -> Findings:
    """What happens in a stretch, with as many false alarms per minute of a still face as `per_minute` accepts."""
    seconds, positions = stretch.paths.seconds, stretch.paths.positions
    velocities = velocity(seconds, positions)
    head = np.linalg.norm(velocity(seconds, stretch.head).reshape(len(seconds), -1, 2), axis=-1).mean(axis=1)
    light = rate_of_change(seconds, stretch.brightness)
    blinks = find_blinks(seconds, stretch.eye_open)
    mouth = _places(PARTS["mouth"])
    turns = [(phase.start, phase.stop) for phase in find_phases(velocities[:, mouth], _SPEECH_SPEED)]
    speech = find_speech(seconds, turns)
    events = [Found(type="blink", part="eyes", onset=start, apex=apex, offset=stop) for start, apex, stop in blinks]
    events += [Found(type="speech", part="mouth", onset=a, apex=(a + b) // 2, offset=b) for a, b in speech]
    marks = {
        "blink": _near(seconds, [(start, stop) for start, _, stop in blinks], _BLINK_SECONDS),
        "head": head >= HEAD_SPEED,
        "light": light >= _LIGHT_SPEED,
        "low_light": stretch.brightness < DARK,
    }
    in_speech = _marked(len(seconds), speech)
    for part, names in PARTS.items():
        places = _places(names)
        moved = velocities[:, places]
        quiet = calibration.threshold(part, per_minute)
        speed = np.linalg.norm(moved, axis=-1).max(axis=1)
        for movement in find_movements(seconds, positions[:, places], moved, quiet):
            usual = _usual_speed(seconds, speed, movement)
            threshold = float(np.clip(_RESTLESS * usual, quiet, max(quiet, _PLAIN[part])))
            if movement.speed < threshold:
                continue
            flags = _flags(movement, seconds, {**marks, "speech": in_speech} if part == "mouth" else marks)
            if part == "eyes" and "blink" in flags:
                continue  # that is the blink
            found = _found(movement, part, names, seconds, flags)
            score, alarms = movement.speed / threshold, calibration.per_minute(part, movement.speed)
            events.append(dataclasses.replace(found, score=score, false_alarms_per_minute=alarms))
    events.sort(key=lambda event: (event.onset, event.apex))
    in_blink = _marked(len(seconds), [(start, stop) for start, _, stop in blinks])
    return Findings(np.linalg.norm(velocities, axis=-1), head, light, in_blink, in_speech, events)


def _found(movement: Movement, part: Part, names: tuple[str, ...], seconds: Numbers, flags: tuple[str, ...]) -> Found:
    is_micro = movement.is_back and seconds[movement.offset] - seconds[movement.onset] <= MICRO_SECONDS
    return Found(
        type="micro" if is_micro else "macro",
        part=part,
        onset=movement.onset,
        apex=movement.apex,
        offset=movement.offset,
        speed=movement.speed,
        size_px=movement.size_px,
        direction=direction(movement.way),
        regions=tuple(names[region] for region in movement.regions),
        flags=flags,
    )


def _flags(movement: Movement, seconds: Numbers, marks: Mapping[str, npt.NDArray[np.bool_]]) -> tuple[str, ...]:
    rise = slice(movement.onset, movement.apex + 1)
    flags = [name for name, mask in marks.items() if mask[rise].any()]
    if seconds[movement.onset] - seconds[0] < _EDGE_SECONDS or seconds[-1] - seconds[movement.apex] < _EDGE_SECONDS:
        flags.append("cut")
    if not movement.is_back:
        flags.append("held")
    return tuple(flags)


def direction(way: Numbers) -> str:
    """(2,), x and y in the image -> one of eight words."""
    return _DIRECTIONS[round(float(np.degrees(np.arctan2(way[1], way[0]))) / 45) % 8]


def _places(names: tuple[str, ...]) -> list[int]:
    return [REGIONS.index(name) for name in names]


def _marked(count: int, spans: list[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    marks = np.zeros(count, bool)
    for start, stop in spans:
        marks[start : stop + 1] = True
    return marks


def _near(seconds: Numbers, spans: list[tuple[int, int]], margin: float) -> npt.NDArray[np.bool_]:
    """The frames of some spans, and those within a margin in seconds around them."""
    marks = np.zeros(len(seconds), bool)
    for start, stop in spans:
        marks |= (seconds >= seconds[start] - margin) & (seconds <= seconds[stop] + margin)
    return marks


def _usual_speed(seconds: Numbers, speed: Numbers, movement: Movement) -> float:
    """How fast the part (its speed, (N,)) is for three quarters of the time around a movement, without the movement."""
    start, stop = np.searchsorted(seconds, seconds[movement.apex] + _RESTLESS_SECONDS * np.array([-1, 1]))
    around = np.concatenate([speed[start : movement.onset], speed[movement.offset + 1 : stop]])
    return float(np.quantile(around, 0.75)) if len(around) else 0.0
