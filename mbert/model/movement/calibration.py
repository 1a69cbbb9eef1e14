"""How often a still face gives an event as fast as this one: the threshold of events, measured on faces without any."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mbert import ConfigError, ManifestError, ModelError
from mbert.manifests.files import read_json, write_json
from mbert.manifests.regions import PARTS, Part

FILE_NAME = "calibration.json"
SLOWEST = 0.05  # px per 100 ms: slower movement is not looked for
_TAIL = 20  # alarms that the tail is fitted to
_NONE_SEEN = 3  # the rule of three


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """For each part, the speeds of the events of still faces, fastest first, in so many minutes of them."""

    minutes: float
    speeds: Mapping[str, Sequence[float]]  # by part, px per 100 ms
    source: str  # which faces, in words

    def threshold(self, part: Part, per_minute: float) -> float:
        """The speed that still faces reach `per_minute` times a minute, in px per 100 ms; at least SLOWEST.

        Counted, and beyond what was seen, an exponential tail. Raises ConfigError unless `per_minute` is above 0.
        """
        if not per_minute > 0:
            raise ConfigError(f"per_minute is {per_minute:g}; it must be above 0")
        speeds, expected = self.speeds[part], per_minute * self.minutes
        if len(speeds) > expected >= 1:
            return max(speeds[int(expected)], SLOWEST)
        top, scale = self._tail(part)
        return max(top + scale * max(-math.log(expected), 0.0) if expected < 1 else SLOWEST, SLOWEST)

    def per_minute(self, part: Part, speed: float) -> float:
        """How many events at least as fast a still face gives in a minute.

        Counted; where there was none, what can still be excluded at 95 %: 3 in the time that was looked at.
        """
        count = sum(each >= speed for each in self.speeds[part])
        return max(count, _NONE_SEEN) / self.minutes

    def _tail(self, part: Part) -> tuple[float, float]:
        """The fastest alarm, and the scale of an exponential through the fastest ones."""
        speeds = self.speeds[part][:_TAIL]
        if len(speeds) < 2:
            return max([*speeds, SLOWEST]), SLOWEST / 3
        return speeds[0], max(sum(speeds) / len(speeds) - speeds[-1], SLOWEST / 10)

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
