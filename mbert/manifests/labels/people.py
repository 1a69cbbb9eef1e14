"""Who is who: one person under the spellings and in the releases in which the field's datasets name people."""

import re

# Releases that show the people of another dataset: other cameras or longer cuts of the same recordings. A person of
# one of them must not be tested by what was learned from the other.
_SMIC = ("smic_e", "smic_e_nir", "smic_e_vis", "smic_nir", "smic_vis")
_SAME_PEOPLE = {**dict.fromkeys(_SMIC, "smic"), "casme3b": "casme3", "samm_lv": "samm"}


def people_of(dataset: str) -> str:
    """The prefix of a dataset's subjects: the dataset that its people were first released with."""
    return _SAME_PEOPLE.get(dataset, dataset)


def bare_subject(subject: str) -> str:
    """The id without its dataset: `sub01` of `casme2/sub01`."""
    return subject.partition("/")[2] if "/" in subject else subject


def plain_id(name: str) -> str:
    """An id in small letters, its numbers without leading zeros: `s01` and `S1` are `s1`."""
    return re.sub(r"0*(\d+)", r"\1", name.strip().casefold())


def subject_number(subject: str) -> str:
    """The id without the letters before its number: `4` of `casme2/sub04`."""
    return re.sub(r"^\D+", "", plain_id(bare_subject(subject)))


def person(subject: str) -> str:
    """Whose face it is: equal for subjects that differ in spelling or in the release only.

    `smic/s1` for `smic/s1`, `smic/s01` and `smic_e/s01`. Equal ids of unrelated datasets stay two people.
    """
    dataset, slash, _ = subject.partition("/")
    bare = plain_id(bare_subject(subject))
    return f"{people_of(dataset)}/{bare}" if slash else bare
