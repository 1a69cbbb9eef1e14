"""Protocols: which subjects train and which are tested."""

import dataclasses
from collections.abc import Iterator, Sequence

from mbert import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class Fold:
    """One held-out subject; `train` and `test` are positions in the sequence that was split."""

    subject: str
    train: tuple[int, ...]
    test: tuple[int, ...]


def leave_one_subject_out(subjects: Sequence[str]) -> Iterator[Fold]:
    """One fold per subject, in sorted order. Raises ConfigError when there are fewer than two subjects."""
    names = sorted(set(subjects))
    if len(names) < 2:
        raise ConfigError(
            f"leave-one-subject-out needs at least 2 subjects, found {len(names)}: {', '.join(names) or 'none'}"
        )
    for name in names:
        test = tuple(index for index, subject in enumerate(subjects) if subject == name)
        train = tuple(index for index, subject in enumerate(subjects) if subject != name)
        yield Fold(subject=name, train=train, test=test)
