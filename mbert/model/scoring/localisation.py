"""Does a map of change point at the patches that really moved? Scores against the known motion of a synthetic pair.

Shapes: P pairs, maps (P, h, w) of any scale, large where something changed; truth as boolean (P, h, w). A patch has
moved, is still, or is left out: then it is neither and is not scored.
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
    """Which patches of a pair the expression moved; those neither moved nor still are left out."""

    moved: Patches  # (grid, grid)
    still: Patches


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """A score that is a ratio of two sums over pairs, stored per pair so that people can be resampled."""

    won: Floats  # (P,) per pair, or (P, P) for all pairs of pairs
    asked: Floats  # same shape; 0 for a pair that cannot contribute

    @property
    def value(self) -> float:
        """The share. NaN if no pair contributes."""
        asked = self.asked.sum()
        return float(self.won.sum() / asked) if asked else float("nan")

    def interval(self, people: Sequence[str], *, seed: int = 0) -> Interval | None:
        """95 % interval from drawing people with replacement; `people` names the person in each of the P pairs.

        None for a single person, or if no draw contributes.
        """
        values = self._resampled(people, seed)
        return interval(values[~np.isnan(values)], len(set(people)))

    def difference(self, other: "Share", people: Sequence[str], *, seed: int = 0) -> "Difference":
        """This score minus that of another method on the same pairs, with 95 % intervals that draw the same people
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
        """(R,) values for resampled people; NaN for a draw that does not contribute."""
        names, of_pair = group_by_name(people, len(self.won))
        belongs = np.eye(len(names))[of_pair]  # (P, S)
        times = resample_subjects(np.eye(len(names), dtype=np.int64), np.random.default_rng(seed))  # (R, S)
        won, asked = (_drawn(sums, belongs, times) for sums in (self.won, self.asked))
        return np.divide(won, asked, out=np.full_like(won, np.nan), where=asked > 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """How one score compares with another; the error is 1 minus the score."""

    value: float  # the first minus the second
    interval: Interval | None
    error_ratio: float | None  # error of the first over that of the second; None if the second has none
    error_ratio_interval: Interval | None  # without draws in which the second has no error


def patch_truth(
    expression: npt.NDArray[np.float32],
    distractor: npt.NDArray[np.float32],
    grid: int = 14,
    *,
    distracted_is_still: bool = False,
) -> PatchTruth:
    """Classify each of grid x grid patches from two fields of motion (S, S, 2), in pixels of the crop.

    A patch's motion is the mean length of `expression` over its pixels. It moved if above 0.3 of the largest motion of
    a patch, and is still up to 0.05 of it; without an expression all are still. Values in between are the rim of a
    motion and are left out. So is a patch whose mean length of `distractor` is above 0.1 px: it does move, and no map
    can know that this was not meant. `distracted_is_still` counts it as still if the expression leaves it still, which
    requires a map to distinguish what was meant.
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
    """How often, within a pair, a moved patch has a higher value than a still one; ties count half.

    The AUROC of each pair over its own patches, averaged over the pairs that have patches of both kinds. As the
    location of action units is known in advance, a map that is the same for all pairs reaches about 0.9, so this mainly
    measures a prior of place, see `auroc_same_place`. Raises ModelError for differing shapes and values that are not
    finite.
    """
    _check(maps, moved, still)
    won, asked = np.zeros(len(maps)), np.zeros(len(maps))
    for pair, (values, is_moved, is_still) in enumerate(zip(maps, moved, still, strict=True)):
        if is_moved.any() and is_still.any():
            won[pair], asked[pair] = _wins(values[is_moved], values[is_still]).mean(), 1
    return Share(won, asked)


def auroc_same_place(maps: Maps, moved: Patches, still: Patches) -> Share:
    """How often a moved patch has a higher value than the same patch in a pair where it is still.

    Ties count half; all comparisons of all places have equal weight. As only equal places are compared, knowing where
    faces usually move does not help: a map that is the same for all pairs has exactly 0.5. Maps of different pairs are
    compared here, so a map that is scaled per pair, or that is large everywhere when the light changes, loses. `won`
    and `asked` are (P, P): the pair of the moved patch, the pair of the still one. Raises ModelError as
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
    """How often the largest value of a pair is at a moved patch; of equally large ones, the share that moved.

    Skips patches that are left out, and pairs in which nothing moved. Raises ModelError as
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
    """Sums over pairs (P,) or (P, P), people shown (P, S), how often each is drawn (R, S) -> (R,)."""
    if sums.ndim == 1:
        return np.asarray(times @ (belongs.T @ sums))
    return np.asarray(((times @ (belongs.T @ sums @ belongs)) * times).sum(axis=1))


def _check(maps: Maps, moved: Patches, still: Patches) -> None:
    if not maps.shape == moved.shape == still.shape or maps.ndim != 3:
        raise ModelError(f"maps {maps.shape}, moved {moved.shape} and still {still.shape} must be the same (P, h, w)")
    if not np.isfinite(maps).all():
        raise ModelError("a map has a value that is not finite: nothing can be said about its order")
