"""How a label file differs from when it was last read."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterable

from mbert.manifests.schema import LabelRow


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelChanges:
    """How many labels were added, removed and changed."""

    added: int = 0
    removed: int = 0
    corrected: int = 0

    def __bool__(self) -> bool:
        return self != LabelChanges()

    def __str__(self) -> str:
        """For example `+3, -1, 2 corrected`."""
        parts = ((self.added, f"+{self.added}"), (self.removed, f"-{self.removed}"))
        told = [text for count, text in (*parts, (self.corrected, f"{self.corrected} corrected")) if count]
        return ", ".join(told) or "none"


def label_changes(before: Iterable[LabelRow], now: Iterable[LabelRow]) -> LabelChanges:
    """Compare annotations. A label is identified by input and sample, else by its input, else by its cells."""
    old, new = Counter(map(_annotated, before)), Counter(map(_annotated, now))
    old, new = old - new, new - old
    corrected = 0
    for identity in (_sample, _input, _cells):
        same = Counter(_keys(old, identity)) & Counter(_keys(new, identity))
        corrected += same.total()
        old, new = _without(old, identity, same), _without(new, identity, same)
    return LabelChanges(added=new.total(), removed=old.total(), corrected=corrected)


_Annotated = tuple[Hashable, ...]


def _annotated(row: LabelRow) -> _Annotated:
    name = (row.dataset, row.video_id, row.sample)
    return (*name, row.subject, row.onset, row.apex, row.offset, row.emotion, row.action_units, row.objective_class)


def _sample(label: _Annotated) -> Hashable:
    return label[:3]


def _input(label: _Annotated) -> Hashable:
    return label[:2]


def _cells(label: _Annotated) -> Hashable:
    return label[0], *label[3:]


def _keys(labels: Counter[_Annotated], identity: Callable[[_Annotated], Hashable]) -> Iterable[Hashable]:
    return (identity(label) for label in labels.elements())


def _without(
    labels: Counter[_Annotated], identity: Callable[[_Annotated], Hashable], taken: Counter[Hashable]
) -> Counter[_Annotated]:
    left, kept = Counter(taken), Counter[_Annotated]()
    for label in labels.elements():
        if left[identity(label)]:
            left[identity(label)] -= 1
        else:
            kept[label] += 1
    return kept
