"""How often a still face gives an event as fast as this one: the threshold of events, measured on faces without any."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mbert import ConfigError, ManifestError, ModelError
from mbert.manifests.files import read_json, write_json
from mbert.manifests.regions import PARTS, Part

FILE_NAME = "calibration.json"
_LEAST = 3  # alarms that a tail is fitted to
_NONE_SEEN = 3  # the rule of three


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """For each part, the speeds of the events of still faces, fastest first, in so many minutes of them.

    `floor` is the slowest threshold that is used: slower than this, what still faces give says nothing about faces
    that hold an expression, or breathe.
    """

    minutes: float
    speeds: Mapping[str, Sequence[float]]  # by part, px per 100 ms
    floor: Mapping[str, float]  # by part
    source: str  # which faces, in words

    def threshold(self, part: Part, per_minute: float) -> float:
        """The speed that still faces reach `per_minute` times a minute, in px per 100 ms.

        Raises ConfigError unless `per_minute` is above 0.
        """
        if not per_minute > 0:
            raise ConfigError(f"per_minute is {per_minute:g}; it must be above 0")
        top, scale = self._tail(part)
        expected = per_minute * self.minutes
        speeds = self.speeds[part]
        if expected >= 1 and len(speeds) > expected:
            speed = speeds[int(expected)]
        else:
            speed = top + scale * math.log(max(len(speeds[:1]), 1) / expected)
        return max(speed, self.floor[part])

    def per_minute(self, part: Part, speed: float) -> float:
        """How many events at least as fast a still face gives in a minute.

        Counted; where there was none, what can still be excluded at 95 %: 3 in the time that was looked at.
        """
        count = sum(each >= speed for each in self.speeds[part])
        return max(count, _NONE_SEEN) / self.minutes

    def _tail(self, part: Part) -> tuple[float, float]:
        """The fastest alarm, and the scale of an exponential through the fastest ones."""
        speeds = list(self.speeds[part][:20])
        if len(speeds) < _LEAST:
            return self.floor[part], self.floor[part] / 3
        return speeds[0], max(sum(speeds[:-1]) / (len(speeds) - 1) - speeds[-1], 0.02 * speeds[0])

    def write(self, folder: Path) -> None:
        """Beside the weights of a model."""
        write_json(folder / FILE_NAME, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Calibration":
        """Raises ModelError when the file cannot be used."""
        try:
            value = read_json(folder / FILE_NAME)
            found = cls(**value)
            if set(found.speeds) != set(PARTS) or not found.minutes > 0:
                raise ValueError("it lacks a part of the face")
        except (ManifestError, TypeError, ValueError) as exc:
            raise ModelError(f"{folder / FILE_NAME} cannot be read: {exc}") from exc
        return found
