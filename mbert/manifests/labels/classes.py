"""Class maps: the class of an annotated expression under a named protocol, and the expressions it leaves out.

A score means nothing without its class map: "CASME II, 3 classes" is 145 or 147 expressions, and 254 if `others` became
negative. So a map has a name and a version, and lists every annotation it includes; everything else is left out.
Annotations are compared in lower case, and `other`, `happy`, `sad` are read as `others`, `happiness`, `sadness`,
because copies of the same annotation file differ in these.
"""

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Literal

from mbert import ConfigError
from mbert.manifests.labels.people import number_of, plain_id
from mbert.manifests.subject import Subject


class Labelled(typing.Protocol):
    """The attributes of a labelled expression that class maps and protocols need."""

    @property
    def dataset(self) -> str:
        """Name of the dataset in lower case: `casme2`; a user's own may have any name."""

    @property
    def subject(self) -> Subject | None:
        """Prefixed by the dataset: `casme2/sub01`."""

    @property
    def sample(self) -> str | None:
        """The dataset's own name of the expression: `EP02_01f`."""

    @property
    def emotion(self) -> str | None:
        """As annotated."""

    @property
    def action_units(self) -> str | None:
        """As annotated."""

    @property
    def objective_class(self) -> str | None:
        """As annotated: 1 to 7, or I to VII."""


Field = Literal["emotion", "objective_class"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClassMap:
    """From annotation to class, dataset by dataset."""

    name: str
    version: int = 1
    classes: tuple[str, ...]  # in the order of reports; empty: whatever is annotated
    field: Field = "emotion"  # the annotation to read
    datasets: Mapping[str, Mapping[str, str]]  # dataset -> normalised annotation -> class; empty: any dataset
    excluded: frozenset[tuple[str, str, str]] = frozenset()  # (dataset, subject without prefix, sample)
    source: str

    def class_of(self, sample: Labelled) -> str | None:
        """The class of an expression, or None if the protocol leaves it out or nothing is annotated."""
        annotation = sample.emotion if self.field == "emotion" else sample.objective_class
        if annotation is None or not annotation.strip():
            return None
        normalise = normalise_emotion if self.field == "emotion" else normalise_objective_class
        if not self.datasets:
            return normalise(annotation)
        if self._excludes(sample):
            return None
        return self.datasets.get(sample.dataset, {}).get(normalise(annotation))

    def _excludes(self, sample: Labelled) -> bool:
        if sample.subject is None or sample.sample is None:
            return False
        # Subjects by number, names without padding: a copy that has 4 for sub04 must not let an excluded sample in.
        return any(
            sample.dataset == dataset
            and number_of(sample.subject.id) == number_of(subject)
            and plain_id(sample.sample) == plain_id(name)
            for dataset, subject, name in self.excluded
        )


_SYNONYMS = {"other": "others", "happy": "happiness", "sad": "sadness"}
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII")


def normalise_emotion(annotation: str) -> str:
    """Lower case, one word for each emotion: `Other` is `others`."""
    name = annotation.strip().casefold()
    return _SYNONYMS.get(name, name)


def normalise_objective_class(annotation: str) -> str:
    """I to VII, also for 1 to 7 (SAMM) and for a spreadsheet's 1.0."""
    name = annotation.strip().upper().removesuffix(".0")
    return _ROMAN[int(name) - 1] if re.fullmatch("[1-7]", name) else name


def _as_annotated(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _grouped(**groups: tuple[str, ...]) -> dict[str, str]:
    return {annotation: name for name, annotations in groups.items() for annotation in annotations}


_THREE = ("negative", "positive", "surprise")
_FOUR = (*_THREE, "others")
_CASME2_NEGATIVE = ("disgust", "repression")  # fear (2) and sadness (7) are not in any list of the challenge
_CASME2_THREE = _grouped(negative=_CASME2_NEGATIVE, positive=("happiness",), surprise=("surprise",))
_CASME2_FIVE = ("disgust", "happiness", "others", "repression", "surprise")
_CASME2_SEVEN = (*_CASME2_FIVE, "sadness", "fear")
_SAMM_NEGATIVE = ("anger", "contempt", "disgust", "fear", "sadness")
_SAMM_THREE = _grouped(negative=_SAMM_NEGATIVE, positive=("happiness",), surprise=("surprise",))
_SAMM_FIVE = ("anger", "contempt", "happiness", "surprise", "others")
_CASME3_THREE = _grouped(
    negative=("anger", "disgust", "fear", "sadness"), positive=("happiness",), surprise=("surprise",)
)
_CASME3_SEVEN = ("anger", "disgust", "fear", "happiness", "others", "sadness", "surprise")
_MMEW_SEVEN = ("anger", "disgust", "fear", "happiness", "others", "sadness", "surprise")
_4DME_FIVE = ("negative", "positive", "surprise", "repression", "others")
_CASME_EIGHT = ("tense", "disgust", "repression", "surprise", "happiness", "sadness", "fear", "contempt")
_DFME_SEVEN = ("anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
_OBJECTIVE_FIVE = _ROMAN[:5]

_MAPS = (
    ClassMap(
        name="annotated",
        version=2,  # version 1 treated `happy` and `happiness` as two classes
        classes=(),
        datasets={},
        source="The annotated emotion in small letters, one word for each, of any dataset; nothing is left out.",
    ),
    ClassMap(
        name="megc2019-3",
        classes=_THREE,
        datasets={"smic": _as_annotated(*_THREE), "casme2": _CASME2_THREE, "samm": _SAMM_THREE},
        excluded=frozenset({("casme2", "sub04", "EP12_01f"), ("casme2", "sub05", "EP09_05f")}),
        source="MEGC 2019 guideline and its list of 442 samples. By the list, not the guideline's wording, negative of "
        "CASME II is disgust and repression only, without two samples of disgust.",
    ),
    ClassMap(
        name="casme2-3",
        classes=_THREE,
        datasets={"casme2": _CASME2_THREE},
        source="As megc2019-3, with the two samples of disgust that the challenge leaves out.",
    ),
    ClassMap(
        name="casme2-5",
        classes=_CASME2_FIVE,
        datasets={"casme2": _as_annotated(*_CASME2_FIVE)},
        source="Yan et al. 2014 (CASME II): the five classes large enough to be learned, as annotated.",
    ),
    ClassMap(
        name="casme2-7",
        classes=_CASME2_SEVEN,
        datasets={"casme2": _as_annotated(*_CASME2_SEVEN)},
        source="All annotated emotions of CASME II; fear has two samples.",
    ),
    ClassMap(
        name="samm-5",
        classes=_SAMM_FIVE,
        datasets={"samm": _as_annotated(*_SAMM_FIVE)},
        source="SAMM: the five emotions with more than ten samples, as annotated; disgust, fear, sadness are left out.",
    ),
    ClassMap(
        name="smic-3",
        classes=_THREE,
        datasets={
            name: _as_annotated(*_THREE)
            for name in ("smic", "smic_e", "smic_e_nir", "smic_e_vis", "smic_nir", "smic_vis")
        },
        source="SMIC, as annotated, of every camera and of the long version.",
    ),
    ClassMap(
        name="casme3-3",
        classes=_THREE,
        datasets={"casme3": _CASME3_THREE},
        source="CAS(ME)^3 part A: casme3-4 without others. The file's own Valence column groups otherwise.",
    ),
    ClassMap(
        name="casme3-4",
        classes=_FOUR,
        datasets={"casme3": {**_CASME3_THREE, "others": "others"}},
        source="CAS(ME)^3 part A: anger, disgust, fear, sadness are negative. That the published four-class scores "
        "mean this grouping is said by others than their authors.",
    ),
    ClassMap(
        name="casme3-7",
        classes=_CASME3_SEVEN,
        datasets={"casme3": _as_annotated(*_CASME3_SEVEN)},
        source="CAS(ME)^3 part A, as annotated.",
    ),
    ClassMap(
        name="casme3c-4",
        classes=_FOUR,
        datasets={"casme3c": _as_annotated(*_FOUR)},
        source="CAS(ME)^3 part C (mock crime), as annotated.",
    ),
    ClassMap(
        name="megc2018-5",
        classes=_OBJECTIVE_FIVE,
        field="objective_class",
        datasets={name: _as_annotated(*_OBJECTIVE_FIVE) for name in ("casme2", "samm")},
        source="MEGC 2018: objective classes I to V of CASME II and SAMM (Davison et al. 2018). The annotation file of "
        "CASME II has no objective class: it comes with the labels or the sample is left out.",
    ),
    ClassMap(
        name="mmew-7",
        classes=_MMEW_SEVEN,
        datasets={"mmew": {**_as_annotated(*_MMEW_SEVEN), "repression": "others"}},
        source="MMEW, as annotated; a folder named repression holds what the annotation file calls others. Not "
        "checked against the annotation file.",
    ),
    ClassMap(
        name="4dme-5",
        classes=_4DME_FIVE,
        datasets={"4dme": _as_annotated(*_4DME_FIVE)},
        source="4DME: rows with one emotion. A row with several, as Surprise+Positive, has no single class and is left "
        "out. Not checked against the annotation file.",
    ),
    ClassMap(
        name="casme_sq-4",
        classes=_FOUR,
        datasets={"casme_sq": _as_annotated(*_FOUR)},
        source="CAS(ME)^2, as annotated.",
    ),
    ClassMap(
        name="casme-8",
        classes=_CASME_EIGHT,
        datasets={"casme": _as_annotated(*_CASME_EIGHT)},
        source="CASME, as annotated; contempt has one sample, fear two. Not checked against the annotation file.",
    ),
    ClassMap(
        name="dfme-7",
        classes=_DFME_SEVEN,
        datasets={"dfme": _as_annotated(*_DFME_SEVEN)},
        source="DFME, as annotated in the release of its challenge.",
    ),
)

CLASS_MAPS: dict[str, ClassMap] = {item.name: item for item in _MAPS}


def class_map(name: str) -> ClassMap:
    """The class map of that name. Raises ConfigError naming all of them."""
    if name not in CLASS_MAPS:
        raise ConfigError(f"there is no class map {name!r}; there are {', '.join(CLASS_MAPS)}")
    return CLASS_MAPS[name]
