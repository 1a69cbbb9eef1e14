"""How a fold chooses one setting of a method: not at all, on its training side, or on its test side.

The rule is the same for every method of an evaluation. What is chosen is the method's own: the regularisation of a
linear head and how far it joins neighbouring places, the steps of a network.
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
# Samples to learn from and samples to name -> the classes of the latter, by setting.
Try = Callable[[Sequence[int], Sequence[int]], Mapping[Setting, Sequence[str]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What a fold chooses on: pairs of samples to learn from and samples to judge by; none where nothing is chosen."""

    splits: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    by_accuracy: bool = False

    @classmethod
    def of(cls, select: Select, fold: Fold, samples: Sequence[Labelled], seed: int) -> "Choice":
        """`inner`: splits of the training side by subject, from seeds of their own. `oracle`: the fold as it is, which
        gives no honest score.
        """
        if select == "fixed":
            return cls()
        if select == "oracle":
            return cls(((fold.train, fold.test),), by_accuracy=True)
        return cls(tuple(inner_split(samples, fold.train, seed=seed + number) for number in range(_INNER_SPLITS)))

    def among(
        self, settings: Sequence[Setting], otherwise: Setting, truth: Sequence[str], attempt: Try[Setting]
    ) -> Setting:
        """The setting whose predictions, pooled over the splits, score best; of equals the first.

        `truth` has the class of every sample; `otherwise` is taken where nothing is chosen.
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
    """What a choice inside a fold goes by: the mean F1 of the classes that are there, or accuracy as the literature's
    oracle does. No score to report.
    """
    scores = score(labels, guesses, ["all"] * len(labels), classes=sorted({*labels, *guesses}))
    if by_accuracy:
        return scores.accuracy
    present = [each.f1 for each in scores.per_class.values() if each.f1 is not None]
    return float(np.mean(present))
