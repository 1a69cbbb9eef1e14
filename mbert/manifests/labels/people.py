"""Identities: one person under the spellings and in the releases in which the field's datasets name people."""

import re

from mbert.manifests.subject import Subject

# Releases that show the people of another dataset: other cameras or longer cuts of the same recordings. A person in one
# of them must not be tested by a model that learned from the other.
_SMIC = ("smic_e", "smic_e_nir", "smic_e_vis", "smic_nir", "smic_vis")
_SAME_PEOPLE = {**dict.fromkeys(_SMIC, "smic"), "casme3b": "casme3", "samm_lv": "samm"}


def people_of(dataset: str) -> str:
    """The dataset that a dataset's people were first released with."""
    return _SAME_PEOPLE.get(dataset, dataset)


def plain_id(name: str) -> str:
    """An id in lower case, its numbers without leading zeros: `s01` and `S1` are `s1`."""
    return re.sub(r"0*(\d+)", r"\1", name.strip().casefold())


def number_of(id: str) -> str:
    """The id of a subject without the letters before its number: `4` of `sub04`."""
    return re.sub(r"^\D+", "", plain_id(id))


def person(subject: Subject) -> Subject:
    """The identity of a person: equal for subjects that differ only in spelling or release.

    `smic/s1` for `smic/s1`, `smic/s01` and `smic_e/s01`. Equal ids of unrelated datasets stay two people.
    """
    return Subject(people_of(subject.dataset), plain_id(subject.id))
