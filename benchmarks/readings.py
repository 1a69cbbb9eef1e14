"""How a map is read off what a method says of each patch: the same choices for all methods, made on training people.

What is chosen of each method: one of its variants, over what distance neighbouring patches are joined, and whether
pairs are put on one scale. The best has the least mean logarithm of the error (1 - AUROC), over both kinds of AUROC
and all sets of pairs that are given.
"""

import dataclasses
import itertools

import cv2
import numpy as np

from mbert.model.scoring.localisation import auroc_same_place, auroc_within

SPREADS = (0.0, 0.5, 0.75, 1.0, 1.5)  # patches: standard deviation of the Gaussian that joins neighbours
LEVELS = ("none", "difference", "ratio")  # what is done with the pair's median: nothing, it is taken off, divided by
SMALL = 1e-3  # of an AUROC: smaller errors are not told apart on so few people


@dataclasses.dataclass(frozen=True)
class Reading:
    """One way to make maps (P, GRID, GRID) of a method's fields."""

    variant: str
    spread: float = 0.0
    level: str = "none"

    def __str__(self):
        return f"{self.variant}, joined over {self.spread:g} patches, pair's median: {self.level}"

    def of(self, variants):
        fields = variants[self.variant]
        if self.spread:
            fields = np.stack([joined(field, self.spread) for field in fields])
        maps = np.linalg.norm(fields, axis=-1) if fields.shape[-1] > 1 else fields[..., 0]
        if self.level == "none":
            return maps
        middle = np.median(maps, axis=(1, 2), keepdims=True)
        return maps - middle if self.level == "difference" else maps / np.maximum(middle, 1e-6)


def joined(field, spread):
    """(h, w, D) under a Gaussian; what lies beyond the border is the patch there."""
    blurred = cv2.GaussianBlur(np.ascontiguousarray(field), (0, 0), spread, borderType=cv2.BORDER_REPLICATE)
    return blurred.reshape(field.shape)


def possible_readings(variants):
    return [Reading(*settings) for settings in itertools.product(variants, SPREADS, LEVELS)]


def best_reading(by_seed, truths):
    """The reading of a method that does best.

    `by_seed[s][k]` has the variants of the pairs k as seed s makes them, `truths[k]` which of their patches moved and
    which are still.
    """

    def quality(reading):
        errors = [
            1 - metric(reading.of(variants), moved, still).value
            for sets in by_seed
            for variants, (moved, still) in zip(sets, truths, strict=True)
            for metric in (auroc_within, auroc_same_place)
        ]
        return -np.mean(np.log(np.maximum(errors, SMALL)))

    return max(possible_readings(by_seed[0][0]), key=quality)
