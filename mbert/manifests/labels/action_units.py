"""Facial action units parsed from the cells of annotation files, and as training targets.

Coders write FACS freely: `4`, `4+L10`, `R4,5`, `12A`, `10A/B`, `L12 or L14`, `(R6 or R12)+R15`, `7D+ref(43)`,
`AU4(k)+L7`, `4+?`. Rules for reading it:

- `+`, `,`, `;` and blanks, also in their full-width forms, separate units.
- A letter before the number is the side: L left, R right, T top, B bottom. A (asymmetric) and L/R say that both sides
  move, so they name no side; `A/L12` is stronger on the left and counts as L.
- A letter after it is the intensity, A trace to E maximum. `10A/B` keeps the lower one, which is certain.
- `or`, and a slash between units, join alternatives. All of them are uncertain; with brackets, everything inside.
- A unit with `?` is uncertain; a `?` alone is an unknown unit and gives none.
- `ref(43)` is a reflex in addition to the expression: uncertain.
- `(k)` marks a unit that was present throughout and did not move: dropped.
- AD (descriptors, `AD38`) and M (head movements, `M58`) have separate numbers and are never an AU of that number.
"""

import dataclasses
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from mbert import ManifestError
from mbert.manifests.labels.classes import Labelled

CD6ME_UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17)  # Varanka et al. 2023: annotated often enough in six datasets

Kind = Literal["AU", "AD", "M"]
Side = Literal["L", "R", "T", "B"]
Intensity = Literal["A", "B", "C", "D", "E"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ActionUnit:
    """One unit noted by a coder."""

    number: int
    kind: Kind = "AU"
    side: Side | None = None
    intensity: Intensity | None = None
    is_uncertain: bool = False


_UNIT = (
    r"(?P<doubt>\?)?(?:(?P<kind>AU|AD|M)\s*)?(?:(?P<side>[LRTBA](?:/?[LRTBA])?)\s*)?(?P<number>\d{1,2})"
    r"(?P<intensity>[A-E](?:/[A-E])?)?(?P<static>\s*\(K\))?(?P<doubt_after>\s*(?:\?|\(\?\)))?(?=OR|[^A-Z0-9]|$)"
)
_TOKEN = re.compile(
    rf"(?P<unit>{_UNIT})|REF\s*\(\s*(?P<reflex>\d{{1,2}})\s*\)|(?P<either>OR|/)|(?P<open>\()|(?P<close>\))|[+,;、\s?]"
)
_NOTHING = {"", "-", "0", "NAN", "NONE", "N/A"}


def parse_action_units(text: str | int | float | None) -> tuple[ActionUnit, ...]:
    """The units of a cell, in its order; empty for an empty cell. Raises ManifestError for unreadable text."""
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return ()
    # NFKC converts full-width characters; a spreadsheet turns 4 into 4.0.
    cell = unicodedata.normalize("NFKC", str(text)).strip().upper().removesuffix(".0")
    if cell in _NOTHING:
        return ()
    units: list[tuple[int, ActionUnit]] = []  # each with the number of its term
    uncertain: set[int] = set()  # terms
    term, in_bracket, is_alternative = 0, False, False
    for token in _tokens(cell):
        if token["either"]:
            uncertain.add(term)
            is_alternative = not in_bracket
            continue
        if token["close"]:
            in_bracket = False
        if token["open"] or (not in_bracket and (token["unit"] or token["reflex"])):  # a bracket is one term
            term += 1
            in_bracket = bool(token["open"])
            if is_alternative:
                uncertain.add(term)
            is_alternative = False
        if token["reflex"]:
            units.append((term, ActionUnit(number=int(token["reflex"]), is_uncertain=True)))
        elif token["unit"] and not token["static"]:
            units.append((term, _unit(token)))
    return tuple(
        dataclasses.replace(unit, is_uncertain=unit.is_uncertain or place in uncertain) for place, unit in units
    )


def _tokens(cell: str) -> Iterator[re.Match[str]]:
    position = 0
    while position < len(cell):
        token = _TOKEN.match(cell, position)
        if token is None:
            raise ManifestError(
                f"action units {cell!r} cannot be read from {cell[position:]!r} on; write them as 4+L10+12B, "
                "alternatives as 12 or 14, an uncertain one as 12?"
            )
        yield token
        position = token.end()


def _unit(token: re.Match[str]) -> ActionUnit:
    sides = set(token["side"] or "") & set("LRTB")
    return ActionUnit(
        number=int(token["number"]),
        kind=cast(Kind, token["kind"] or "AU"),
        side=cast(Side, sides.pop()) if len(sides) == 1 else None,
        intensity=cast(Intensity, min(token["intensity"].split("/"))) if token["intensity"] else None,
        is_uncertain=bool(token["doubt"] or token["doubt_after"]),
    )


def unit_targets(samples: Sequence[Labelled], units: Sequence[int] = CD6ME_UNITS) -> npt.NDArray[np.bool_]:
    """(n, U): whether a unit is present, on any side and at any intensity.

    Uncertain units count as absent: of alternatives at least one did not move, and a false positive target is worse
    than one missing among many absent ones. Raises ManifestError for a sample without annotated units, because a
    missing annotation does not mean absence.
    """
    targets = np.zeros((len(samples), len(units)), dtype=bool)
    for row, sample in enumerate(samples):
        if sample.action_units is None:
            raise ManifestError(
                f"sample {sample.sample} of {sample.subject} has no action units; leave it out, or fill the column "
                "action_units of its label"
            )
        present = {
            unit.number
            for unit in parse_action_units(sample.action_units)
            if unit.kind == "AU" and not unit.is_uncertain
        }
        targets[row] = [number in present for number in units]
    return targets
