"""Names of images -> frame index and time of each: which integer counts the frames, or which one is a clock.

Pure functions of names. One pattern of names is one series; names that do not fit are noted or refused, and frames
never come in an order other than that of their names without a note.
"""

import dataclasses
import datetime
import itertools
import re
from collections import defaultdict
from collections.abc import Sequence

from mbert import InputError

LARGEST_INDEX = 10**9 - 1  # of a frame: pairs of larger ones have names that are too long for a tar
_DIGITS = re.compile("([0-9]+)")
_FASTEST_FPS = 2000  # of a clock in names; anything faster is not a time in seconds
_SLOWEST_FPS = 15  # of a clock whose unit is guessed from its steps
_EPOCHS = (946_684_800, 4_102_444_800)  # seconds since 1970: the years 2000 to 2099
_UNITS = {10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}  # by their number per second
_CLOCK = re.compile(
    r"""(?<![0-9])(?:
        (?P<date>(?:19|20)[0-9]{2}([-_.:]?)[0-9]{2}\2[0-9]{2})(?:[-_.\ T]|at)*
        (?P<clock>[0-9]{2}([-_.:]?)[0-9]{2}\4[0-9]{2})(?:[-_.,]?(?P<fraction>[0-9]{1,9}))?
        | (?P<bare_clock>[0-9]{1,2}([-_.:])[0-9]{1,2}\7[0-9]{1,2})[-_.,](?P<bare_fraction>[0-9]{1,9})
        | (?P<seconds>[0-9]{1,10})\.(?P<decimals>[0-9]{2,9})
        | (?P<epoch>[0-9]{10})[-_](?P<epoch_fraction>[0-9]{3}|[0-9]{6}|[0-9]{9})
    )(?![0-9])""",
    re.VERBOSE,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """The images that are the frames of a folder, in order; lists of equal length.

    If the names hold no time, a frame's time is its index in units of the frame interval. If they do, `clock` counts
    the same units, and `seconds` is the length of one, if known; both begin with 0.
    """

    names: list[str]
    indices: list[int]
    clock: list[float] | None = None
    seconds: list[float] | None = None
    remarks: tuple[str, ...] = ()


def number_images(names: Sequence[str]) -> Series:
    """Find the frame numbers in the names of a folder's images. Raises InputError unless they form a single series."""
    groups: dict[tuple[str, ...], list[_Name]] = defaultdict(list)
    for name in names:
        numbered = _Name.of(name)
        groups[numbered.literals].append(numbered)
    counted = {literals: group for literals, group in groups.items() if len(literals) > 1}
    if not counted:
        raise InputError("empty", f"the folder holds no numbered image{_some(names)}")
    series = max(counted.values(), key=len)
    left = sorted(name.text for group in groups.values() if group is not series for name in group)
    if len(left) > max(1, len(series) // 8):
        told = ", ".join(f"{_pattern(group)} ({len(group)})" for group in sorted(groups.values(), key=len)[:-4:-1])
        raise InputError("no_video", f"the names of the images form no single numbered series, but {told}")
    found = _numbered(series)
    if not left:
        return found
    remark = f"{_counted(len(left))} not of the series {_pattern(series)} and left out, the first is {left[0]}"
    return dataclasses.replace(found, remarks=(*found.remarks, remark))


@dataclasses.dataclass(frozen=True, slots=True)
class _Name:
    text: str
    stem: str
    literals: tuple[str, ...]  # between the numbers
    numbers: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> "_Name":
        stem = text.rpartition(".")[0]
        parts = _DIGITS.split(stem)
        return cls(text, stem, tuple(part.casefold() for part in parts[::2]), tuple(map(int, parts[1::2])))


def _numbered(series: list[_Name]) -> Series:
    """The series of names of one pattern."""
    series.sort(key=lambda name: (name.numbers, name.text))  # the natural order
    columns = list(zip(*(name.numbers for name in series), strict=True))
    varying = [place for place, column in enumerate(columns) if len(set(column)) > 1]
    if len(series) > 1 and not varying:
        raise _twice("frame number", columns[-1][0], series[0], series[1])
    column = columns[varying[0] if len(varying) == 1 else -1]
    if len(varying) == 1 and _step(column) == 1:
        return _counting(series, column)
    clocked = _by_clock(series, columns, varying)
    if clocked is not None:
        return clocked
    if len(varying) > 1:
        column = columns[_counter(series, columns, varying)]
    return _by_integer_clock(series, column) or _counting(series, column)


def _counting(series: list[_Name], numbers: Sequence[int]) -> Series:
    """A series whose numbers are frame indices."""
    remarks = []
    for (number, name), (following, other) in itertools.pairwise(zip(numbers, series, strict=True)):
        if number == following:
            raise _twice("frame number", number, name, other)
    first, last = numbers[0], numbers[-1]
    indices = list(numbers)
    if last > LARGEST_INDEX:
        shared = next(10**power for power in itertools.count() if first // 10**power == last // 10**power)
        indices = [number % shared for number in numbers] if shared <= LARGEST_INDEX + 1 else list(range(len(numbers)))
        remarks.append(f"{first} is too large for a frame number: {series[0].text} is frame {indices[0]}")
    step = _step(numbers)
    if step > 2:
        remarks.append(
            f"the numbers in the names rise by {step:g} and count frames; if they are milliseconds, give --fps 1000"
        )
    return Series([name.text for name in series], indices, remarks=tuple(remarks))


def _counter(series: list[_Name], columns: Sequence[Sequence[int]], varying: Sequence[int]) -> int:
    """Which of several varying integers numbers the frames: it rises from name to name, by the smallest steps."""
    rising = [place for place in varying if _is_rising(columns[place])]
    days = [place for place in varying if all(map(_is_date, columns[place]))]
    if days:
        raise InputError("no_video", f"the images are of several days{_some([name.text for name in series])}")
    if not rising:
        heads = sorted({"".join(_DIGITS.split(name.stem)[: 2 * varying[0] + 2]) for name in series})
        raise InputError(
            "no_video",
            f"the names hold {len(heads)} numbered series ({', '.join(heads[:3])}{', ...' if len(heads) > 3 else ''}): "
            "a folder of frames holds one",
        )
    return min(rising, key=lambda place: (_step(columns[place]), -place))


def _by_clock(series: list[_Name], columns: Sequence[Sequence[int]], varying: Sequence[int]) -> Series | None:
    """The series of names that hold a time of day or decimal seconds; None if they do not."""
    readings = _readings(series)
    if readings is None:
        return None
    outside = [place for place in varying if place not in readings[0].places]
    if len(outside) == len(varying) or len(outside) > 1:
        return None
    width = _width([reading.fraction for reading in readings])
    ticks = [reading.seconds * 10**width + int(reading.fraction or 0) for reading in readings]
    order = sorted(range(len(series)), key=lambda place: (ticks[place], series[place].text))
    day = 86_400 * 10**width
    gaps = [(ticks[b] - ticks[a], place) for place, (a, b) in enumerate(itertools.pairwise(order), 1)]
    remarks = []
    if readings[0].form == "time of day" and (wrap := max(gaps))[0] > day // 2:
        order = order[wrap[1] :] + order[: wrap[1]]
        ticks = [tick + day * (tick < ticks[order[0]]) for tick in ticks]
        remarks.append("the times in the names pass midnight: the frames before it come first")
    elif order != sorted(order):
        remarks.append("the frames are in the order of the times in their names, not of the names")
    counter = [columns[outside[0]][place] for place in order] if outside else None
    if counter is not None and not _is_rising(counter):
        return None
    names, ticks = [series[place] for place in order], [ticks[place] for place in order]
    return _by_ticks(names, ticks, 10**width, readings[0].form, counter=counter, remarks=remarks)


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """The reading of a clock in a name: whole seconds, and the digits after them."""

    form: str
    places: range  # of its integers among those of the name
    seconds: int
    fraction: str

    @classmethod
    def of(cls, stem: str) -> "_Reading | None":
        match = _CLOCK.search(stem)
        if match is None:
            return None
        places = range(*(len(_DIGITS.findall(stem[:end])) for end in match.span()))
        if match["seconds"]:
            return cls("seconds", places, int(match["seconds"]), match["decimals"])
        if match["epoch"]:
            return cls("seconds since 1970", places, int(match["epoch"]), match["epoch_fraction"])
        days = 0
        if match["date"]:
            date = int(re.sub("[^0-9]", "", match["date"]))
            if not _is_date(date):
                return None
            days = _date(date).toordinal()
        hour, minute, second = _hour_minute_second(match["clock"] or match["bare_clock"])
        if hour > 23 or minute > 59 or second > 60:
            return None
        form = "date and time" if match["date"] else "time of day"
        fraction = match["fraction"] or match["bare_fraction"] or ""
        return cls(form, places, ((days * 24 + hour) * 60 + minute) * 60 + second, fraction)


def _readings(series: Sequence[_Name]) -> list[_Reading] | None:
    """The clocks in all names; None if one has none, or their digits do not behave like those of a clock."""
    readings: list[_Reading] = []
    for name in series:
        reading = _Reading.of(name.stem)
        if reading is None or (readings and (reading.form, reading.places) != (readings[0].form, readings[0].places)):
            return None
        readings.append(reading)
    fractions = [int(reading.fraction or 0) for reading in readings]
    whole = 10 ** _width([reading.fraction for reading in readings])
    spans_seconds = len({reading.seconds for reading in readings}) > 2
    if spans_seconds and any(fractions) and max(fractions) < 0.75 * whole:  # frames of a second, as in a time code
        return None
    return readings


def _hour_minute_second(text: str) -> tuple[int, int, int]:
    found = _DIGITS.findall(text)
    if len(found) == 1:
        found = [text[:2], text[2:4], text[4:]]
    hour, minute, second = map(int, found)
    return hour, minute, second


def _width(fractions: Sequence[str]) -> int:
    """Decimal places of the fractions of seconds. Written without leading zeros, they count milli- or microseconds."""
    lengths = {len(fraction) for fraction in fractions}
    if len(lengths) == 1:
        return lengths.pop()
    return next(places for places in (3, 6, 9) if places >= max(lengths))


def _by_integer_clock(series: list[_Name], numbers: Sequence[int]) -> Series | None:
    """The series of names whose only integer is a time; None if it counts frames."""
    for unit, name in _UNITS.items():
        if _EPOCHS[0] <= numbers[0] / unit and numbers[-1] / unit <= _EPOCHS[1]:
            return _by_ticks(series, numbers, unit, f"{name} since 1970")
    step = _step(numbers)
    if step < 10**6 / _FASTEST_FPS:
        return None
    for unit in (10**6, 10**9):
        if _SLOWEST_FPS <= unit / step <= _FASTEST_FPS:
            return _by_ticks(series, numbers, unit, _UNITS[unit])
    return _by_ticks(series, numbers, None, "a clock of unknown unit")


def _by_ticks(
    series: list[_Name],
    ticks: Sequence[int],
    per_second: int | None,
    form: str,
    *,
    counter: Sequence[int] | None = None,
    remarks: Sequence[str] = (),
) -> Series:
    """A series whose names hold a clock; frames count from 0, or as a counter next to the clock."""
    for (tick, name), (following, other) in itertools.pairwise(zip(ticks, series, strict=True)):
        if tick == following:
            raise _twice("time", tick, name, other)
    step = _step(ticks)
    since = [tick - ticks[0] for tick in ticks]
    told = "frames count from 0" if counter is None else "frames count as in the names"
    seconds = None
    if per_second is not None and per_second / step <= _FASTEST_FPS:
        seconds = [tick / per_second for tick in since]
        remark = f"the names hold times ({form}); {told}"
    else:
        remark = f"the names hold {form} in steps of {step:g}, which tells no frame rate: --fps names it; {told}"
    indices = list(range(len(ticks)))
    if counter is not None and counter[-1] <= LARGEST_INDEX:
        indices = list(counter)
    clock = [tick / step for tick in since]
    return Series([name.text for name in series], indices, clock, seconds, (*remarks, remark))


def _step(numbers: Sequence[int]) -> float:
    """The median step of rising numbers; 1 for a single one."""
    steps = sorted(b - a for a, b in itertools.pairwise(numbers))
    return steps[len(steps) // 2] if steps else 1


def _is_rising(numbers: Sequence[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))


def _date(number: int) -> datetime.date:
    """20240131 as a date."""
    return datetime.date(number // 10000, number // 100 % 100, number % 100)


def _is_date(number: int) -> bool:
    try:
        return 1990 <= _date(number).year < 2100
    except ValueError:
        return False


def _twice(what: str, number: int, name: _Name, other: _Name) -> InputError:
    return InputError("unreadable", f"two images have {what} {number}: {name.text} and {other.text}")


def _pattern(group: Sequence[_Name]) -> str:
    literals = _DIGITS.split(group[0].stem)[::2]
    return "*".join(literals) + group[0].text[len(group[0].stem) :]


def _counted(number: int) -> str:
    return "1 image is" if number == 1 else f"{number} images are"


def _some(names: Sequence[str]) -> str:
    listed = sorted(names)[:3]
    return f" ({', '.join(listed)}{', ...' if len(names) > 3 else ''})" if listed else ""
