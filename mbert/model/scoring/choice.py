"""How a fold chooses one setting of a method: not at all, on its training side, or on its test side.

The rule is the same for every method of an evaluation. What is chosen depends on the method: for a linear head, the
regularisation and how far neighbouring places are joined; for a network, the steps.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from mbert.manifests.labels.classes import Labelled
from mbert.manifests.labels.folds import Fold, inner_split
from mbert.model.scoring.metrics import score

Select = Literal["fixed", "inner", "oracle"]
SELECT: tuple[Select, ...] = ("fixed", "inner", "oracle")
_INNER_SPLITS = 3

Setting = TypeVar("Setting", bound=Hashable)
# Training samples and test samples -> the classes of the latter, by setting.
Try = Callable[[Sequence[int], Sequence[int]], Mapping[Setting, Sequence[str]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """The splits on which a fold chooses: pairs of training and validation samples; empty if nothing is chosen."""

    splits: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    by_accuracy: bool = False

    @classmethod
    def of(cls, select: Select, fold: Fold, samples: Sequence[Labelled], seed: int) -> "Choice":
        """`inner`: splits of the training side by subject, with their own seeds. `oracle`: the fold itself, which gives
        no honest score.
        """
        if select == "fixed":
            return cls()
        if select == "oracle":
            return cls(((fold.train, fold.test),), by_accuracy=True)
        return cls(tuple(inner_split(samples, fold.train, seed=seed + number) for number in range(_INNER_SPLITS)))

    def among(
        self, settings: Sequence[Setting], otherwise: Setting, truth: Sequence[str], attempt: Try[Setting]
    ) -> Setting:
        """The setting whose predictions, pooled over the splits, score best; the first of equals.

        `truth` has the class of every sample; returns `otherwise` if nothing is chosen.
        """
        if not self.splits:
            return otherwise
        guesses: dict[Setting, list[str]] = {setting: [] for setting in settings}
        labels: list[str] = []
        for train, other in self.splits:
            labels += [truth[index] for index in other]
            for setting, found in attempt(train, other).items():
                guesses[setting] += found

        def quality(setting: Setting) -> float:
            return selection_score(labels, guesses[setting], by_accuracy=self.by_accuracy)

        return max(settings, key=quality)


def selection_score(labels: Sequence[str], guesses: Sequence[str], *, by_accuracy: bool = False) -> float:
    """The criterion for choices inside a fold: the mean F1 of the classes present, or accuracy as for the literature's
    oracle. Not a score to report.
    """
    scores = score(labels, guesses, ["all"] * len(labels), classes=sorted({*labels, *guesses}))
    if by_accuracy:
        return scores.accuracy
    present = [each.f1 for each in scores.per_class.values() if each.f1 is not None]
    return float(np.mean(present))
