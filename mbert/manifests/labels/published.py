"""How many samples and subjects there should be, to compare a corpus with before its scores.

Copies of these datasets differ: a release lacks clips, a list drops subjects. Scores on samples other than the
published ones are not comparable with published scores, so differences must show. Each figure says how certain it is.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

Standing = Literal[
    "measured",  # counted in the annotation file or in the challenge's list of samples
    "published",  # stated by the authors, not counted
    "unverified",  # quoted from memory or second hand: a difference may be an error in this table
]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PublishedCounts:
    """Samples and subjects of one dataset under one class map."""

    class_map: str
    dataset: str
    samples: Mapping[str, int]  # per class, in the map's order
    num_subjects: int | None  # that have a sample under this map; None: unknown
    standing: Standing
    remark: str = ""

    @property
    def num_samples(self) -> int:
        """The number of samples of all classes."""
        return sum(self.samples.values())


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DatasetCounts:
    """All micro-expressions of a dataset, regardless of class."""

    dataset: str
    num_samples: tuple[int, ...]  # one figure for each release in use
    num_subjects: int
    standing: Standing
    remark: str = ""


def _three(negative: int, positive: int, surprise: int) -> dict[str, int]:
    return {"negative": negative, "positive": positive, "surprise": surprise}


def _objective(*samples: int) -> dict[str, int]:
    return dict(zip(("I", "II", "III", "IV", "V"), samples, strict=True))


CLASS_COUNTS = (
    PublishedCounts(
        class_map="megc2019-3",
        dataset="smic",
        samples=_three(70, 51, 43),
        num_subjects=16,
        standing="measured",
    ),
    PublishedCounts(
        class_map="megc2019-3",
        dataset="casme2",
        samples=_three(88, 32, 25),
        num_subjects=24,
        standing="measured",
        remark="subjects 10 and 18 have no sample",
    ),
    PublishedCounts(
        class_map="megc2019-3",
        dataset="samm",
        samples=_three(92, 26, 15),
        num_subjects=28,
        standing="measured",
    ),
    PublishedCounts(
        class_map="casme2-3",
        dataset="casme2",
        samples=_three(90, 32, 25),
        num_subjects=24,
        standing="measured",
    ),
    PublishedCounts(
        class_map="casme2-5",
        dataset="casme2",
        samples={"disgust": 63, "happiness": 32, "others": 99, "repression": 27, "surprise": 25},
        num_subjects=26,
        standing="measured",
    ),
    PublishedCounts(
        class_map="casme2-7",
        dataset="casme2",
        samples={
            "disgust": 63,
            "happiness": 32,
            "others": 99,
            "repression": 27,
            "surprise": 25,
            "sadness": 7,
            "fear": 2,
        },
        num_subjects=26,
        standing="measured",
        remark="annotation file of 2014; that of 2019 has one row more, sub24 EP02_07",
    ),
    PublishedCounts(
        class_map="samm-5",
        dataset="samm",
        samples={"anger": 57, "contempt": 12, "happiness": 26, "surprise": 15, "others": 26},
        num_subjects=27,
        standing="measured",
    ),
    PublishedCounts(
        class_map="smic-3",
        dataset="smic",
        samples=_three(70, 51, 43),
        num_subjects=16,
        standing="measured",
    ),
    PublishedCounts(
        class_map="smic-3",
        dataset="smic_e",
        samples=_three(65, 51, 41),
        num_subjects=16,
        standing="measured",
        remark="the high-speed camera; seven clips of the short version are not in it",
    ),
    PublishedCounts(
        class_map="casme3-3",
        dataset="casme3",
        samples=_three(457, 55, 187),
        num_subjects=88,
        standing="measured",
        remark="annotation file v2; papers also report 687 and 943 samples",
    ),
    PublishedCounts(
        class_map="casme3-4",
        dataset="casme3",
        samples={**_three(457, 55, 187), "others": 161},
        num_subjects=94,
        standing="measured",
        remark="annotation file v2",
    ),
    PublishedCounts(
        class_map="casme3-7",
        dataset="casme3",
        samples={
            "anger": 64,
            "disgust": 250,
            "fear": 86,
            "happiness": 55,
            "others": 161,
            "sadness": 57,
            "surprise": 187,
        },
        num_subjects=94,
        standing="measured",
        remark="annotation file v2",
    ),
    PublishedCounts(
        class_map="casme3c-4",
        dataset="casme3c",
        samples={**_three(99, 16, 30), "others": 20},
        num_subjects=30,
        standing="measured",
    ),
    PublishedCounts(
        class_map="megc2018-5",
        dataset="casme2",
        samples=_objective(25, 15, 99, 26, 20),
        num_subjects=None,
        standing="unverified",
        remark="quoted from memory; the total agrees with the challenge's 253 samples of both datasets, 47 subjects",
    ),
    PublishedCounts(
        class_map="megc2018-5",
        dataset="samm",
        samples=_objective(24, 13, 20, 8, 3),
        num_subjects=None,
        standing="measured",
        remark="of the challenge's 253 samples and 47 subjects of both datasets",
    ),
    PublishedCounts(
        class_map="mmew-7",
        dataset="mmew",
        samples={"anger": 8, "disgust": 72, "fear": 16, "happiness": 36, "others": 66, "sadness": 13, "surprise": 89},
        num_subjects=36,
        standing="unverified",
        remark="the total of 300 is published",
    ),
    PublishedCounts(
        class_map="casme-8",
        dataset="casme",
        samples={
            "tense": 69,
            "disgust": 44,
            "repression": 38,
            "surprise": 20,
            "happiness": 9,
            "sadness": 6,
            "fear": 2,
            "contempt": 1,
        },
        num_subjects=19,
        standing="unverified",
    ),
    PublishedCounts(
        class_map="dfme-7",
        dataset="dfme",
        samples={
            "anger": 241,
            "contempt": 171,
            "disgust": 735,
            "fear": 365,
            "happiness": 311,
            "sadness": 359,
            "surprise": 447,
        },
        num_subjects=259,
        standing="measured",
        remark="training set and both test sets of the challenge",
    ),
)

DATASET_COUNTS = (
    DatasetCounts(
        dataset="casme",
        num_samples=(189, 195),
        num_subjects=19,
        standing="unverified",
        remark="195 are published, 189 are in use; the subjects are unverified",
    ),
    DatasetCounts(
        dataset="casme2",
        num_samples=(255, 256),
        num_subjects=26,
        standing="measured",
        remark="annotation files of 2014 and of 2019",
    ),
    DatasetCounts(dataset="samm", num_samples=(159,), num_subjects=29, standing="measured"),
    DatasetCounts(dataset="smic", num_samples=(164,), num_subjects=16, standing="measured"),
    DatasetCounts(dataset="smic_e", num_samples=(157,), num_subjects=16, standing="measured"),
    DatasetCounts(dataset="smic_vis", num_samples=(71,), num_subjects=8, standing="unverified"),
    DatasetCounts(dataset="smic_nir", num_samples=(71,), num_subjects=8, standing="unverified"),
    DatasetCounts(
        dataset="casme3",
        num_samples=(860,),
        num_subjects=94,
        standing="measured",
        remark="part A, annotation file v2, of 100 people; v1 has 921, partly wrong ones",
    ),
    DatasetCounts(
        dataset="casme3c", num_samples=(165,), num_subjects=30, standing="measured", remark="of 31 people in part C"
    ),
    DatasetCounts(
        dataset="mmew", num_samples=(300,), num_subjects=36, standing="published", remark="the subjects are unverified"
    ),
    DatasetCounts(
        dataset="4dme", num_samples=(267,), num_subjects=56, standing="unverified", remark="267 rows are in use"
    ),
    DatasetCounts(
        dataset="casme_sq",
        num_samples=(57,),
        num_subjects=22,
        standing="published",
        remark="micro-expressions; macro-expressions are further rows of the same file",
    ),
    DatasetCounts(
        dataset="samm_lv",
        num_samples=(159,),
        num_subjects=30,
        standing="unverified",
        remark="micro-expressions; the subjects are unverified",
    ),
    DatasetCounts(
        dataset="dfme",
        num_samples=(2629,),
        num_subjects=259,
        standing="measured",
        remark="release of the challenge; the whole dataset has 7526",
    ),
)


def expected(class_map: str, dataset: str) -> PublishedCounts | None:
    """The published counts for a dataset under a class map, or None."""
    for counts in CLASS_COUNTS:
        if (counts.class_map, counts.dataset) == (class_map, dataset):
            return counts
    return None


def expected_of_dataset(dataset: str) -> DatasetCounts | None:
    """The published counts for a whole dataset, or None."""
    return next((counts for counts in DATASET_COUNTS if counts.dataset == dataset), None)
