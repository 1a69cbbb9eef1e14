"""The times of pictures in a file -> times that always grow."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_LONG_JUMP = 10.0  # seconds; in a stream that may be spliced, a longer jump counts as a splice
_LONE_JUMP = 1.0  # seconds by which a single time must be ahead of its neighbours to count as damaged


@dataclasses.dataclass(kw_only=True, slots=True)
class Clock:
    """Corrects the times of one input; `remarks` says what was done, once all have come.

    If time restarts, as in two joined recordings, it continues from the last picture. A single time that does not fit
    between its neighbours is replaced. All times are divided by `slowdown`.
    """

    step: float  # nominal seconds from picture to picture
    slowdown: float = 1.0  # how many times slower than real time the file plays
    has_times: bool = True  # False: times in the file are guesses; pictures come at the nominal rate
    is_spliced: bool = False  # a transport stream and the like: a long jump forward, too, is a splice
    _offset: float = 0.0
    _last: float | None = None
    _places: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    _longest: float = 0.0

    def put_right(self, pictures: Iterable[tuple[float | None, T]]) -> Iterator[tuple[float, T]]:
        """Each picture with its time in seconds, in the order in which they come."""
        ahead: Iterator[tuple[float | None, T | None]] = itertools.chain(pictures, [(None, None)])
        for index, ((seconds, picture), (following, _)) in enumerate(itertools.pairwise(ahead)):
            assert picture is not None
            self._last = self._next(index, seconds if self.has_times else None, following)
            yield self._last / self.slowdown, picture

    def _next(self, index: int, seconds: float | None, following: float | None) -> float:
        last = self._last
        if seconds is None:
            if self.has_times:
                self._note("missing", index)
            return 0.0 if last is None else last + self.step
        if last is None:
            return seconds
        found = seconds + self._offset
        then = None if following is None else following + self._offset
        is_lone = then is not None and last < then and (found <= last or last + _LONE_JUMP < found > then)
        if is_lone and then is not None:
            self._note("damaged", index)
            return min(last + self.step, (last + then) / 2)
        is_long = found - last > _LONG_JUMP
        if found > last and not (is_long and self.is_spliced):
            if is_long:
                self._note("jumps", index)
                self._longest = max(self._longest, found - last)
            return found
        self._note("splices", index)
        self._offset = last + self.step - seconds
        return last + self.step

    def _note(self, what: str, index: int) -> None:
        self._places.setdefault(what, []).append(index)

    @property
    def remarks(self) -> list[str]:
        """A description of what was done."""
        told = {
            "missing": "frames without a time: {}, the first is frame {}; they follow at the nominal rate",
            "damaged": "times that do not fit between their neighbours: {}, the first at frame {}; replaced",
            "splices": "time starts again ({}x, first at frame {}): continued from the frame before",
            "jumps": "time jumps forward ({}x, first at frame {}, by up to {:.0f} s): kept",
        }
        return [
            text.format(len(self._places[what]), self._places[what][0], self._longest)
            for what, text in told.items()
            if what in self._places
        ]
