"""Events in words and as a drawing: action units, flags, scores, directions."""

from mbert.manifests.predictions import EventType
from mbert.manifests.regions import REGIONS

TYPES: tuple[EventType, ...] = ("micro", "macro", "blink", "speech")
FLAGS = {
    "blink": "during a blink",
    "speech": "while the mouth speaks",
    "head": "the head moves, too",
    "light": "the light changes, too",
    "low_light": "the face is dark",
    "cut": "at the beginning or end of what was seen of the face",
    "held": "held: the face does not go back",
}
WARNINGS = {
    "fps": "Frame rate",
    "face_size": "Face size",
    "compression": "Compression",
    "head": "Head",
    "light": "Light",
    "repeats": "Repeated pictures",
    "cut": "Cuts",
    "input": "Input",
}
ACTION_UNITS = {  # as in the FACS manual
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    11: "nasolabial deepener",
    12: "lip corner puller",
    13: "sharp lip puller",
    14: "dimpler",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    18: "lip pucker",
    20: "lip stretcher",
    22: "lip funneler",
    23: "lip tightener",
    24: "lip pressor",
    25: "lips part",
    26: "jaw drop",
    27: "mouth stretch",
    28: "lip suck",
    43: "eyes closed",
    45: "blink",
}
# Where the arrow begins in the drawing of a face, 120 wide and 140 high; for a pair, on the left of the image.
_CENTRES = {
    "brow_outer": (29, 45),
    "brow_inner": (47, 43),
    "lids": (38, 59),
    "nose": (60, 74),
    "cheek": (31, 85),
    "lip_corner": (42, 105),
    "upper_lip": (60, 101),
    "lower_lip": (60, 110),
    "chin": (60, 124),
}
_STEPS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
_ARROW = 22  # its length


def found_words(counts: dict[str, int], speech: float) -> str:
    """The findings in one line; `speech` is a share of the time."""
    micro, macro, blinks = (counts.get(kind, 0) for kind in TYPES[:3])
    movements = f"{micro} micro, {macro} macro movement{'s' * (macro != 1)}"
    return f"{movements}, {blinks} blink{'s' * (blinks != 1)}, speech {percent(speech)} of the time"


def percent(share: float) -> str:
    """A share, with a space that keeps the sign next to its number; a positive share is never shown as 0."""
    return "<1\u00a0%" if 0 < share < 0.005 else f"{100 * share:.0f}\u00a0%"


def like_words(like: str | None) -> list[tuple[str, str]]:
    """`12:0.81 6:0.40` as pairs of a unit with its name, and the similarity of the motion to it."""
    units = [entry.partition(":") for entry in (like or "").split()]
    return [(_unit_text(number), match) for number, _, match in units]


def _unit_text(number: str) -> str:
    name = ACTION_UNITS.get(int(number)) if number.isdecimal() else None
    return f"AU\u00a0{number} ({name})" if name else f"AU\u00a0{number}"


def alarm_words(per_minute: float | None) -> str | None:
    """How often a still face gives an event at least as fast, in an intuitive unit."""
    if per_minute is None:
        return None
    if per_minute <= 0:
        return "no still face gave one as fast"
    seconds = 60 / per_minute
    for name, length in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= 2 * length or name == "second":
            count = max(1, round(seconds / length))
            return f"a still face gives one as fast at most every {f'{count} {name}s' if count > 1 else name}"
    raise AssertionError("seconds are the last unit")


def flag_words(flags: str | None) -> list[str]:
    """The flags of an event, each in words."""
    return [FLAGS.get(flag, flag.replace("_", " ")) for flag in (flags or "").split()]


def drawn_regions(regions: str) -> list[tuple[str, bool]]:
    """The regions of an event as shapes of the drawing: name, and whether mirrored to the right."""
    names = [region for region in regions.split() if region in REGIONS]
    return [(region.removesuffix("_l").removesuffix("_r"), region.endswith("_r")) for region in names]


def arrow(regions: str, direction: str | None) -> str | None:
    """The path of an arrow from the region that moved furthest, in its direction; None without one."""
    shapes = drawn_regions(regions)
    steps = [_STEPS[word] for word in (direction or "").split() if word in _STEPS]
    dx, dy = sum(step[0] for step in steps), sum(step[1] for step in steps)
    length = (dx**2 + dy**2) ** 0.5
    if not shapes or length == 0:
        return None
    x, y = _CENTRES[shapes[0][0]]
    if shapes[0][1]:
        x = 120 - x
    dx, dy = dx / length, dy / length
    tip = (x + _ARROW * dx, y + _ARROW * dy)
    barbs = [(tip[0] - 7 * dx + side * 5 * dy, tip[1] - 7 * dy - side * 5 * dx) for side in (-1, 1)]
    head = "".join(f"M{tip[0]:.0f} {tip[1]:.0f}L{barb[0]:.0f} {barb[1]:.0f}" for barb in barbs)
    return f"M{x} {y}L{tip[0]:.0f} {tip[1]:.0f}{head}"
