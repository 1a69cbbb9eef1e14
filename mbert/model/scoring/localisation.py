"""Does a map of change point at the patches that really moved? Scores against the motion that a synthetic pair has.

Shapes: P pairs, maps (P, h, w) of any scale, large where something changed; truth as boolean (P, h, w). A patch has
moved, or is still, or is left out, which is neither and is asked nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mbert import ModelError
from mbert.model.network.features import pool_regions
from mbert.model.scoring.confusion import Floats, Interval, group_by_name, interval, resample_subjects

Maps = npt.NDArray[np.floating[Any]]
Patches = npt.NDArray[np.bool_]

_MOVED_ABOVE = 0.3  # of the largest motion of a patch of the pair
_STILL_UP_TO = 0.05
_MOST_DISTRACTION_PX = 0.1  # above it, a patch moves for another reason


@dataclasses.dataclass(frozen=True, slots=True)
class PatchTruth:
    """Which patches of a pair moved by the expression; those that are neither moved nor still are left out."""

    moved: Patches  # (grid, grid)
    still: Patches


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """A score that is one sum over pairs divided by another, kept apart by pairs so that people can be resampled."""

    won: Floats  # (P,) of each pair, or (P, P) of each pair against each
    asked: Floats  # of the same shape; 0 where a pair has nothing to say

    @property
    def value(self) -> float:
        """The share. NaN where no pair has anything to say."""
        asked = self.asked.sum()
        return float(self.won.sum() / asked) if asked else float("nan")

    def interval(self, people: Sequence[str], *, seed: int = 0) -> Interval | None:
        """Of 95 %, by drawing people with replacement; `people` says whom each of the P pairs shows.

        None for a single person, and where no draw has anything to say.
        """
        values = self._resampled(people, seed)
        return interval(values[~np.isnan(values)], len(set(people)))

    def difference(self, other: "Share", people: Sequence[str], *, seed: int = 0) -> "Difference":
        """This score less that of another method on the same pairs, with intervals of 95 % that draw the same people
        for both sides.
        """
        ours, theirs = (share._resampled(people, seed) for share in (self, other))
        drawn = ~np.isnan(ours) & ~np.isnan(theirs)
        ours, theirs, num_people = ours[drawn], theirs[drawn], len(set(people))
        imperfect = theirs < 1
        return Difference(
            value=self.value - other.value,
            interval=interval(ours - theirs, num_people),
            error_ratio=(1 - self.value) / (1 - other.value) if other.value < 1 else None,
            error_ratio_interval=interval((1 - ours[imperfect]) / (1 - theirs[imperfect]), num_people),
        )

    def _resampled(self, people: Sequence[str], seed: int) -> Floats:
        """(R,) values with people drawn; NaN where a draw has nothing to say."""
        names, of_pair = group_by_name(people, len(self.won))
        belongs = np.eye(len(names))[of_pair]  # (P, S)
        times = resample_subjects(np.eye(len(names), dtype=np.int64), np.random.default_rng(seed))  # (R, S)
        won, asked = (_drawn(sums, belongs, times) for sums in (self.won, self.asked))
        return np.divide(won, asked, out=np.full_like(won, np.nan), where=asked > 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """How one score compares with another; the error is what lacks to 1."""

    value: float  # the one less the other
    interval: Interval | None
    error_ratio: float | None  # error of the one over error of the other; None where the other has none
    error_ratio_interval: Interval | None  # draws in which the other has no error are left out


def patch_truth(
    expression: npt.NDArray[np.float32],
    distractor: npt.NDArray[np.float32],
    grid: int = 14,
    *,
    distracted_is_still: bool = False,
) -> PatchTruth:
    """Two fields of motion (S, S, 2), in pixels of the crop -> what each of grid x grid patches did.

    A patch's motion is the mean length of `expression` over its pixels. It moved above 0.3 of the largest motion of a
    patch, and is still up to 0.05 of it; without an expression all are still. What lies between is the rim of a motion
    and is left out. So is a patch whose mean length of `distractor` is above 0.1 px: it does move, and no map can know
    that this was not meant. `distracted_is_still` counts it as still where the expression leaves it still, which asks
    of a map that it tell what was meant.
    """
    motion, distraction = patch_means(np.linalg.norm(np.stack([expression, distractor]), axis=-1), grid)
    meant, largest = distraction <= _MOST_DISTRACTION_PX, motion.max()
    still = motion <= _STILL_UP_TO * largest
    return PatchTruth((motion > _MOVED_ABOVE * largest) & meant, still & (meant | distracted_is_still))


def patch_means(maps: Maps, grid: int) -> npt.NDArray[np.float32]:
    """(P, H, W) -> (P, grid, grid): the mean over each patch."""
    pooled = pool_regions(torch.from_numpy(np.asarray(maps, np.float32))[:, None], grid)
    means: npt.NDArray[np.float32] = pooled.view(-1, grid, grid).numpy()
    return means


def auroc_within(maps: Maps, moved: Patches, still: Patches) -> Share:
    """How often, within a pair, a patch that moved has more than one that is still; ties count half.

    The AUROC of each pair over its own patches, averaged over the pairs that have patches of both kinds. Where action
    units lie is known in advance: a map that is the same for all pairs reaches about 0.9, so this measures a prior of
    place first, see `auroc_same_place`. Raises ModelError for shapes that differ and for values that are not finite.
    """
    _check(maps, moved, still)
    won, asked = np.zeros(len(maps)), np.zeros(len(maps))
    for pair, (values, is_moved, is_still) in enumerate(zip(maps, moved, still, strict=True)):
        if is_moved.any() and is_still.any():
            won[pair], asked[pair] = _wins(values[is_moved], values[is_still]).mean(), 1
    return Share(won, asked)


def auroc_same_place(maps: Maps, moved: Patches, still: Patches) -> Share:
    """How often a patch that moved has more than the patch at the same place of a pair where it is still.

    Ties count half; all comparisons of all places weigh alike. As only equal places are compared, knowing where faces
    usually move is worth nothing: a map that is the same for all pairs has exactly 0.5. Maps of different pairs are
    compared here, so one that is stretched to its own ends, or that is large all over when the light changes, loses.
    `won` and `asked` are (P, P): the pair of the moved patch, the pair of the still one. Raises ModelError as
    `auroc_within` does.
    """
    _check(maps, moved, still)
    won, asked = np.zeros((len(maps), len(maps))), np.zeros((len(maps), len(maps)))
    columns = (array.reshape(len(maps), -1).T for array in (maps, moved, still))
    for values, is_moved, is_still in zip(*columns, strict=True):
        pairs = np.ix_(is_moved, is_still)
        won[pairs] += _wins(values[is_moved], values[is_still])
        asked[pairs] += 1
    return Share(won, asked)


def pointing_game(maps: Maps, moved: Patches, still: Patches) -> Share:
    """How often the largest patch of a pair is one that moved; of equally large ones, the share that did.

    Patches that are left out are set aside, and so are pairs in which nothing moved. Raises ModelError as
    `auroc_within` does.
    """
    _check(maps, moved, still)
    won, asked = np.zeros(len(maps)), np.zeros(len(maps))
    for pair, (values, is_moved, is_still) in enumerate(zip(maps, moved, still, strict=True)):
        if is_moved.any():
            known = is_moved | is_still
            largest = values[known] == values[known].max()
            won[pair], asked[pair] = is_moved[known][largest].mean(), 1
    return Share(won, asked)


def _wins(moved: Maps, still: Maps) -> Floats:
    """(m,) and (s,) values -> (m, s): 1 where the moved one is larger, 0.5 where both are equal."""
    difference = moved[:, None] - still[None]
    wins: Floats = (1.0 + np.sign(difference)) / 2
    return wins


def _drawn(sums: Floats, belongs: Floats, times: Floats) -> Floats:
    """Sums of pairs (P,) or (P, P), whom they show (P, S), how often each is drawn (R, S) -> (R,)."""
    if sums.ndim == 1:
        return np.asarray(times @ (belongs.T @ sums))
    return np.asarray(((times @ (belongs.T @ sums @ belongs)) * times).sum(axis=1))


def _check(maps: Maps, moved: Patches, still: Patches) -> None:
    if not maps.shape == moved.shape == still.shape or maps.ndim != 3:
        raise ModelError(f"maps {maps.shape}, moved {moved.shape} and still {still.shape} must be the same (P, h, w)")
    if not np.isfinite(maps).all():
        raise ModelError("a map has a value that is not finite: nothing can be said about its order")
