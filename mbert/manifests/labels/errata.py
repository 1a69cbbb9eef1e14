"""Corrections of published annotations, with reasons and sources. On unless `--errata none`."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mbert.manifests.labels.table import Label

ERRATA_VERSION = 1
Errata = Literal["default", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Erratum:
    """One correction. It only applies to labels whose fields equal `where` (subject without its prefix): an edition in
    which the mistake is fixed stays unchanged.
    """

    id: str
    dataset: str
    where: Mapping[str, str | int | None]
    change: Mapping[str, Any]
    why: str
    source: str

    def fits(self, label: Label) -> bool:
        """Whether it applies to this label."""
        if label.dataset != self.dataset:
            return False
        return all(_same(_field(label, name), value) for name, value in self.where.items())


# Frame numbers are those of the annotation. MEB: the loaders of the meb package (tvaranka/meb), which compare the
# annotation with the images.
# Left out: the apexes of SAMM 028_4_1, 032_3_1 and 032_3_2, about which sources disagree (those outside the expression
# become missing); corrections of CASME and MMEW, which are published by row number without the values they replace, so
# that one cannot know whether an edition has the mistake.
ERRATA: Sequence[Erratum] = (
    Erratum(
        id="samm-013-1-9-offset",
        dataset="samm",
        where={"subject": "013", "sample": "013_1_9"},
        change={"offset": 5739},
        why="the annotated offset does not belong to the clip",
        source="MEB",
    ),
    Erratum(
        id="casme3-sp149-d-112-apex",
        dataset="casme3",
        where={"subject": "spno.149", "sample": "d_112", "apex": 83},
        change={"apex": 123},
        why="the annotated apex lies before the onset",
        source="MEB",
    ),
    Erratum(
        id="casme3-sp214-c-5-offset",
        dataset="casme3",
        where={"subject": "spno.214", "sample": "c_5", "offset": 3460},
        change={"offset": 34},
        why="a digit too many: the expression would last two minutes",
        source="MEB",
    ),
    Erratum(
        id="casme3-sp216-d-3647-onset",
        dataset="casme3",
        where={"subject": "spno.216", "sample": "d_3647", "onset": 3647},
        change={"onset": 2647},
        why="the annotated onset lies after the offset",
        source="MEB",
    ),
    Erratum(
        id="casme3-sp216-e-0-onset",
        dataset="casme3",
        where={"subject": "spno.216", "sample": "e_0", "onset": 0, "apex": 0},
        change={"onset": 1, "apex": 1},
        why="the images begin with 1",
        source="MEB",
    ),
    # The assignment of these two offsets to these two onsets follows only from their order: each is after one onset,
    # and before or far after the other.
    Erratum(
        id="casme3-sp40-e-1812-offset",
        dataset="casme3",
        where={"subject": "spno.40", "sample": "e_1812", "offset": 0},
        change={"offset": 1845},
        why="the annotated offset is 0",
        source="MEB",
    ),
    Erratum(
        id="casme3-sp40-e-2327-offset",
        dataset="casme3",
        where={"subject": "spno.40", "sample": "e_2327", "offset": 0},
        change={"offset": 2403},
        why="the annotated offset is 0",
        source="MEB",
    ),
)


def apply_errata(labels: Iterable[Label], choice: Errata) -> list[Label]:
    """The corrected labels; each lists its corrections."""
    if choice == "none":
        return list(labels)
    corrected = []
    for label in labels:
        for erratum in ERRATA:
            if erratum.fits(label):
                label = dataclasses.replace(label, errata=(*label.errata, erratum.id), **erratum.change)
        corrected.append(label)
    return corrected


def _field(label: Label, name: str) -> object:
    if name == "subject":
        return label.subject and label.subject.id
    return getattr(label, name)


def _same(found: object, wanted: object) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return found.casefold() == wanted.casefold()
    return found == wanted
