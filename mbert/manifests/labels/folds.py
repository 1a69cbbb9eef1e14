"""Protocols: who is for training and who for testing, and the guards against a leak between the two.

Folds hold positions in the sequence of samples that was split. People are distinguished by `people.person`, so that one
person under two spellings or in two releases is never on both sides.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.action_units import CD6ME_UNITS
from mbert.manifests.labels.classes import Labelled
from mbert.manifests.labels.people import number_of, people_of, person
from mbert.manifests.subject import Subject

_Name = TypeVar("_Name", bound=str)


@dataclasses.dataclass(frozen=True, slots=True)
class Fold:
    """What is held out together; `train` and `test` are positions in the sequence that was split."""

    name: str  # the subject, the dataset, or the number of the fold
    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvalProtocol:
    """The requirements of a protocol, how it splits, what it reports."""

    name: str
    summary: str
    split: Literal["subject", "dataset", "kfold", "holdout"]  # held out by one fold
    class_map: str | None  # the default; None: the protocol is for action units
    units: tuple[int, ...] = ()  # action units of the targets
    datasets: tuple[str, ...] = ()  # allowed ones; empty: any
    needs_all_datasets: bool = False
    scores_per_dataset: bool = False  # of the same predictions


PROTOCOLS: dict[str, EvalProtocol] = {
    protocol.name: protocol
    for protocol in (
        EvalProtocol(
            name="loso",
            summary="leave one subject out: each subject is tested by a model trained on the others",
            split="subject",
            class_map="annotated",
        ),
        EvalProtocol(
            name="cde",
            summary="composite database evaluation of MEGC 2019: leave one subject out over SMIC, CASME II and SAMM "
            "together; each database is scored from the same predictions",
            split="subject",
            class_map="megc2019-3",
            datasets=("smic", "casme2", "samm"),
            needs_all_datasets=True,
            scores_per_dataset=True,
        ),
        EvalProtocol(
            name="hde",
            summary="holdout database evaluation (MEGC 2018): each database is tested by a model trained on the others",
            split="dataset",
            class_map="megc2018-5",
            datasets=("smic", "casme2", "samm"),
            scores_per_dataset=True,
        ),
        EvalProtocol(
            name="lodo",
            summary="leave one dataset out: each dataset is tested by a model trained on the others",
            split="dataset",
            class_map="annotated",
            scores_per_dataset=True,
        ),
        EvalProtocol(
            name="kfold",
            summary="k folds of subjects with nearly equally many samples",
            split="kfold",
            class_map="annotated",
        ),
        EvalProtocol(
            name="holdout",
            summary="one fold: a seeded share of the subjects, or the named ones, is tested",
            split="holdout",
            class_map="annotated",
        ),
        EvalProtocol(
            name="cd6me",
            summary="leave one dataset out over six datasets, twelve action units at once (Varanka et al. 2023)",
            split="dataset",
            class_map=None,
            units=CD6ME_UNITS,
            datasets=("casme", "casme2", "samm", "4dme", "mmew", "casme3"),
            needs_all_datasets=True,
            scores_per_dataset=True,
        ),
    )
}


def make_folds(
    samples: Sequence[Labelled],
    protocol: str,
    *,
    seed: int = 0,
    k: int = 5,
    test_share: float = 0.2,
    test_subjects: Sequence[Subject] = (),
) -> list[Fold]:
    """The folds of a protocol, checked: no person is on both sides of one.

    `seed` affects kfold and holdout, `k` is the number of folds of kfold, `test_share` the share of subjects that
    holdout tests unless `test_subjects` names them. Raises ConfigError if the samples do not allow the protocol,
    ManifestError for a sample without a subject.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    rules = PROTOCOLS[protocol]
    if test_subjects and rules.split != "holdout":
        raise ConfigError(f"protocol {protocol} chooses its test subjects itself; only holdout takes named ones")
    subjects = [_subject(sample) for sample in samples]
    datasets = [sample.dataset for sample in samples]
    _check_datasets(rules, datasets)
    if rules.split == "subject":
        folds = leave_one_subject_out(subjects)
    elif rules.split == "dataset":
        folds = _leave_out(datasets, {name: name for name in sorted(set(datasets))})
    elif rules.split == "kfold":
        folds = _k_folds(subjects, k, seed)
    else:
        tested = _named_people(subjects, test_subjects) or _share(map(person, subjects), test_share, seed)
        folds = [_one_fold("holdout", [person(subject) for subject in subjects], tested)]
    check_folds(folds, subjects)
    return folds


def leave_one_subject_out(subjects: Sequence[Subject]) -> list[Fold]:
    """One fold per person, in sorted order. Raises ConfigError if there are fewer than two."""
    names = _names(subjects)
    if len(names) < 2:
        raise ConfigError(
            f"leave-one-subject-out needs at least 2 subjects, found {len(names)}: "
            f"{', '.join(names.values()) or 'none'}"
        )
    return _leave_out([person(subject) for subject in subjects], names)


def inner_split(
    samples: Sequence[Labelled], indices: Sequence[int], *, seed: int, share: float = 0.2
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split the training side of a fold again by subject, to choose something without the test side.

    `indices` are the positions to split, as `Fold.train`. Returns those to train on and those to validate on, a share
    of the subjects. Raises ConfigError with fewer than two subjects.
    """
    people = {index: person(_subject(samples[index])) for index in indices}
    validating = _share(people.values(), share, seed)
    train = tuple(index for index in indices if people[index] not in validating)
    return train, tuple(index for index in indices if people[index] in validating)


def check_samples(samples: Sequence[Labelled]) -> None:
    """Raise ManifestError for samples that no split can keep apart.

    Those are: a subject without its dataset's prefix, one expression twice (a raw and a cropped release in one corpus),
    and ids of one dataset that may be two spellings of one person.
    """
    spellings: dict[tuple[str, Subject], Subject] = {}
    seen: set[tuple[str, Subject, str]] = set()
    for sample in samples:
        subject = _subject(sample)
        if subject.dataset not in (sample.dataset, people_of(sample.dataset)) or not subject.id:
            raise ManifestError(
                f"subject {subject!r} of sample {sample.sample} lacks the prefix of its dataset; it is written "
                f"{Subject(sample.dataset, subject.id)}, so that equal ids of two datasets stay two people"
            )
        known = spellings.setdefault((sample.dataset, person(subject)), subject)
        if known != subject:
            raise _two_spellings(known, subject)
        if sample.sample is not None:
            key = (sample.dataset, subject, sample.sample)
            if key in seen:
                raise ManifestError(
                    f"sample {sample.sample} of {subject} is there twice, as when a raw and a cropped release were "
                    "ingested together; keep one"
                )
            seen.add(key)
    _check_bare_numbers(spellings.values())


def check_folds(
    folds: Sequence[Fold],
    subjects: Sequence[Subject],
    digests: Sequence[Iterable[Hashable]] = (),
    *,
    names: Sequence[str] = (),
) -> None:
    """Raise ConfigError for a leak: one person, or one frame, on both sides of a fold.

    `digests` are the content hashes of each sample's frames, `names` what samples are called in messages. A fold with
    an empty side and a sample that is tested twice are refused too: no pooled score can come from them.
    """
    people = [person(subject) for subject in subjects]
    shared = _shared_digests(digests)
    tested: dict[int, str] = {}

    def told(index: int) -> str:
        return f"{names[index] if names else f'sample {index}'} of {subjects[index]}"

    for fold in folds:
        if not fold.train or not fold.test:
            side = "test" if fold.train else "train on"
            raise ConfigError(f"fold {fold.name} has nothing to {side}; it needs samples on both sides")
        trained = {people[index]: index for index in reversed(fold.train)}
        frames = {digest: index for index in fold.train for digest in shared.get(index, ())}
        for index in fold.test:
            if index in tested:
                raise ConfigError(f"{told(index)} is tested in fold {tested[index]} and in fold {fold.name}")
            tested[index] = fold.name
            if people[index] in trained:
                raise ConfigError(
                    f"fold {fold.name} leaks: it tests {told(index)} and trains on {told(trained[people[index]])}, "
                    "the same person; leave one of the two out, or use a protocol that splits by subject"
                )
            twin = next((frames[digest] for digest in shared.get(index, ()) if digest in frames), None)
            if twin is not None:
                raise ConfigError(
                    f"fold {fold.name} leaks: it tests {told(index)} and trains on {told(twin)}, which share a frame; "
                    "one recording is there twice, keep one"
                )


def _shared_digests(digests: Sequence[Iterable[Hashable]]) -> dict[int, list[Hashable]]:
    """For each sample, the digests that another one has too."""
    own = [list(dict.fromkeys(of_sample)) for of_sample in digests]
    holders = Counter(digest for of_sample in own for digest in of_sample)
    shared = {index: [digest for digest in of_sample if holders[digest] > 1] for index, of_sample in enumerate(own)}
    return {index: found for index, found in shared.items() if found}


def _check_bare_numbers(subjects: Iterable[Subject]) -> None:
    """Check for `01` next to `sub01`: an annotation file's id and a folder's."""
    people = {person(subject): subject for subject in subjects}
    bare = {name: subject for name, subject in people.items() if name.id.isdecimal()}
    for name, subject in people.items():
        number = Subject(name.dataset, number_of(subject.id))
        if name not in bare and number in bare:
            raise _two_spellings(subject, bare[number])


def _two_spellings(one: Subject, other: Subject) -> ManifestError:
    return ManifestError(
        f"subjects {one} and {other} may be one person under two spellings; write one of them in all labels"
    )


def _subject(sample: Labelled) -> Subject:
    if not sample.subject:
        raise ManifestError(
            f"sample {sample.sample} of {sample.dataset} has no subject; folds are made of subjects: fill the column "
            "subject of its label, or leave it out"
        )
    return sample.subject


def _check_datasets(rules: EvalProtocol, datasets: Sequence[str]) -> None:
    found = sorted(set(datasets))
    if strangers := [name for name in found if rules.datasets and name not in rules.datasets]:
        raise ConfigError(
            f"protocol {rules.name} is of {', '.join(rules.datasets)}; leave out the samples of {', '.join(strangers)}"
        )
    missing = [name for name in rules.datasets if name not in found]
    if rules.needs_all_datasets and missing:
        instead = "loso" if rules.split == "subject" else "lodo"
        raise ConfigError(
            f"protocol {rules.name} needs {', '.join(rules.datasets)}; {', '.join(missing)} has no sample here. Its "
            f"scores compare with published ones on all of them only; on a part use {instead}"
        )
    if rules.split == "dataset" and len(found) < 2:
        raise ConfigError(
            f"protocol {rules.name} needs at least 2 datasets, found {len(found)}: {', '.join(found) or 'none'}"
        )


def _names(subjects: Iterable[Subject]) -> dict[Subject, Subject]:
    """The name of each person: the first spelling of its subject."""
    names: dict[Subject, Subject] = {}
    for subject in sorted(subjects):
        names.setdefault(person(subject), subject)
    return names


def _leave_out(groups: Sequence[str], names: Mapping[Any, str]) -> list[Fold]:
    """One fold per group, named by `names` and in their order."""
    return [_one_fold(name, groups, {group}) for group, name in names.items()]


def _one_fold(name: str, groups: Sequence[str], tested: Collection[str]) -> Fold:
    return Fold(
        name=name,
        train=tuple(index for index, group in enumerate(groups) if group not in tested),
        test=tuple(index for index, group in enumerate(groups) if group in tested),
    )


def _k_folds(subjects: Sequence[Subject], k: int, seed: int) -> list[Fold]:
    people = [person(subject) for subject in subjects]
    num_samples = Counter(people)
    if not 2 <= k <= len(num_samples):
        raise ConfigError(f"k is {k}; allowed are 2 to the number of subjects, {len(num_samples)}")
    loads = [0] * k
    fold_of: dict[str, int] = {}
    # The largest first, each to the fold with the fewest samples: the small ones at the end even out the folds.
    for name in sorted(_shuffled(people, seed), key=num_samples.__getitem__, reverse=True):
        fold_of[name] = loads.index(min(loads))
        loads[fold_of[name]] += num_samples[name]
    return [
        _one_fold(f"fold{place + 1}", people, [name for name in fold_of if fold_of[name] == place])
        for place in range(k)
    ]


def _named_people(subjects: Sequence[Subject], named: Sequence[Subject]) -> set[Subject]:
    names = _names(subjects)
    if unknown := sorted(name for name in named if person(name) not in names):
        raise ConfigError(f"no sample is of {', '.join(unknown)}; the subjects are {', '.join(names.values())}")
    people = {person(name) for name in named}
    if people and len(people) == len(names):
        raise ConfigError(f"all {len(names)} subjects are to be tested; leave some to train on")
    return people


def _share(people: Iterable[_Name], share: float, seed: int) -> set[_Name]:
    """A share of the people, at least one and never all."""
    if not 0 < share < 1:
        raise ConfigError(f"the share of subjects is {share}; allowed is more than 0 and less than 1")
    shuffled = _shuffled(people, seed)
    if len(shuffled) < 2:
        raise ConfigError(
            f"splitting by subject needs at least 2 subjects, found {len(shuffled)}: {', '.join(shuffled) or 'none'}"
        )
    return set(shuffled[: min(max(round(share * len(shuffled)), 1), len(shuffled) - 1)])


def _shuffled(people: Iterable[_Name], seed: int) -> list[_Name]:
    """Each person once, in an order that depends only on the seed and the names, on any machine."""
    return sorted(set(people), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
