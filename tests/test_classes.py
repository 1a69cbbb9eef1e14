import dataclasses
from collections import Counter

import pytest

from mbert import ConfigError
from mbert.manifests.labels.classes import CLASS_MAPS, class_map
from mbert.manifests.labels.folds import PROTOCOLS
from mbert.manifests.labels.published import CLASS_COUNTS, DATASET_COUNTS, expected, expected_of_dataset
from mbert.manifests.subject import Subject


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    dataset: str = "videos"
    subject: Subject | None = dataclasses.field(default_factory=lambda: Subject("videos", "s1"))
    sample: str | None = "a"
    emotion: str | None = None
    action_units: str | None = None
    objective_class: str | None = None


def classes_of(name, dataset, *emotions):
    return [class_map(name).class_of(Expression(dataset=dataset, emotion=emotion)) for emotion in emotions]


def rows(dataset, counts, samples=None):
    """Synthetic expressions: so many of each emotion, named one after another unless names are given."""
    emotions = [emotion for emotion, count in counts.items() for _ in range(count)]
    samples = samples or [(f"sub{1 + index % 26:02d}", f"EP{index:03d}") for index in range(len(emotions))]
    return [
        Expression(dataset=dataset, subject=Subject(dataset, subject), sample=sample, emotion=emotion)
        for emotion, (subject, sample) in zip(emotions, samples, strict=True)
    ]


CASME2 = {"others": 99, "disgust": 63, "happiness": 32, "repression": 27, "surprise": 25, "sadness": 7, "fear": 2}
SAMM = {
    "Anger": 57,
    "Happiness": 26,
    "Other": 26,
    "Surprise": 15,
    "Contempt": 12,
    "Disgust": 9,
    "Fear": 8,
    "Sadness": 6,
}
SMIC = {"negative": 70, "positive": 51, "surprise": 43}
CASME3 = {"disgust": 250, "surprise": 187, "others": 158, "Others": 3, "fear": 86, "anger": 64, "sad": 57, "happy": 55}


def casme2_rows():
    """As many rows of each emotion as the dataset has; the names of two rows of disgust are those left out in 2019."""
    found = rows("casme2", CASME2)
    for place, (subject, sample) in ((100, ("sub04", "EP12_01f")), (101, ("sub05", "EP09_05f"))):
        assert found[place].emotion == "disgust"
        found[place] = dataclasses.replace(found[place], subject=Subject("casme2", subject), sample=sample)
    return found


def counted(name, expressions):
    found = Counter(class_map(name).class_of(expression) for expression in expressions)
    del found[None]
    return dict(found)


def test_the_composite_of_2019_counts_442_expressions_as_its_authors_do():
    parts = {"smic": rows("smic", SMIC), "casme2": casme2_rows(), "samm": rows("samm", SAMM)}
    found = {dataset: counted("megc2019-3", expressions) for dataset, expressions in parts.items()}
    assert found == {
        "smic": {"negative": 70, "positive": 51, "surprise": 43},
        "casme2": {"negative": 88, "positive": 32, "surprise": 25},
        "samm": {"negative": 92, "positive": 26, "surprise": 15},
    }
    assert sum(sum(counts.values()) for counts in found.values()) == 442


@pytest.mark.parametrize("subject", ["sub04", "04", "4", "Sub04"])
def test_an_excluded_sample_is_left_out_however_its_subject_is_spelled(subject):
    left_out = Expression(dataset="casme2", subject=Subject("casme2", subject), sample="EP12_01f", emotion="disgust")
    assert class_map("megc2019-3").class_of(left_out) is None
    assert class_map("casme2-3").class_of(left_out) == "negative"


def test_only_the_two_named_samples_are_excluded():
    kept = [
        Expression(dataset="casme2", subject=Subject("casme2", "sub14"), sample="EP12_01f", emotion="disgust"),
        Expression(dataset="casme2", subject=Subject("casme2", "sub04"), sample="EP12_02f", emotion="disgust"),
        Expression(dataset="casme2", subject=Subject("casme2", "sub05"), sample="EP12_03f", emotion="disgust"),
        Expression(dataset="samm", subject=Subject("samm", "04"), sample="EP12_01f", emotion="disgust"),
    ]
    assert [class_map("megc2019-3").class_of(expression) for expression in kept] == ["negative"] * 4


def test_fear_and_sadness_are_negative_in_samm_and_left_out_in_casme_ii():
    assert classes_of("megc2019-3", "casme2", "fear", "sadness") == [None, None]
    assert classes_of("megc2019-3", "samm", "Fear", "Sadness") == ["negative", "negative"]


@pytest.mark.parametrize(
    ("name", "dataset", "annotated"),
    [
        ("casme2-3", "casme2", CASME2),
        ("casme2-5", "casme2", CASME2),
        ("casme2-7", "casme2", CASME2),
        ("samm-5", "samm", SAMM),
        ("smic-3", "smic", SMIC),
        ("casme3-3", "casme3", CASME3),
        ("casme3-4", "casme3", CASME3),
        ("casme3-7", "casme3", CASME3),
    ],
)
def test_a_map_counts_what_is_published(name, dataset, annotated):
    counts = expected(name, dataset)
    assert counts is not None
    assert counted(name, rows(dataset, annotated)) == counts.samples


def test_annotations_are_compared_without_case_and_by_synonym():
    assert classes_of("casme3-7", "casme3", "Others", "other", " Happy ", "SAD") == [
        "others",
        "others",
        "happiness",
        "sadness",
    ]
    assert classes_of("casme2-5", "casme2", "Disgust", "Other", "happy") == ["disgust", "others", "happiness"]


def test_the_annotated_map_takes_any_dataset_as_it_is():
    assert classes_of("annotated", "videos", "Happiness", " Bored ", None, " ") == ["happiness", "bored", None, None]
    assert classes_of("annotated", "videos", "Happy", "sad", "other") == ["happiness", "sadness", "others"]


def test_maps_of_whole_datasets_keep_their_annotations():
    assert classes_of("smic-3", "smic_e", "negative", "Positive") == ["negative", "positive"]
    assert classes_of("casme3c-4", "casme3c", "negative", "others", "disgust") == ["negative", "others", None]
    assert classes_of("casme_sq-4", "casme_sq", "positive", "others") == ["positive", "others"]
    assert classes_of("dfme-7", "dfme", "contempt", "Fear", "others") == ["contempt", "fear", None]
    assert classes_of("casme-8", "casme", "tense", "contempt") == ["tense", "contempt"]
    assert classes_of("mmew-7", "mmew", "others", "repression", "anger") == ["others", "others", "anger"]


def test_an_expression_of_two_emotions_has_no_single_class():
    assert classes_of("4dme-5", "4dme", "Positive", "Surprise+Positive", "Repression") == [
        "positive",
        None,
        "repression",
    ]


def test_objective_classes_are_read_in_both_numerals():
    found = [
        class_map("megc2018-5").class_of(Expression(dataset=dataset, emotion="anger", objective_class=annotation))
        for dataset, annotation in [
            ("samm", "1"),
            ("samm", "5.0"),
            ("samm", "7"),
            ("casme2", " iv "),
            ("casme2", "VI"),
            ("casme2", None),
            ("smic", "I"),
        ]
    ]
    assert found == ["I", "V", None, "IV", None, None, None]


def test_a_map_leaves_out_the_datasets_it_is_not_of():
    assert classes_of("megc2019-3", "casme3", "disgust") == [None]
    assert classes_of("megc2019-3", "smic_e", "negative") == [None]


def test_an_unknown_map_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no class map 'megc2019'; there are annotated, megc2019-3, casme2-3"):
        class_map("megc2019")


def test_every_map_yields_its_classes_and_says_where_it_is_from():
    for name, item in CLASS_MAPS.items():
        assert item.name == name
        assert item.source
        yielded = {found for annotations in item.datasets.values() for found in annotations.values()}
        assert yielded == set(item.classes)
    assert {protocol.class_map for protocol in PROTOCOLS.values()} - {None} <= set(CLASS_MAPS)


def test_published_counts_name_the_classes_of_their_map_in_order():
    for counts in CLASS_COUNTS:
        assert tuple(counts.samples) == class_map(counts.class_map).classes
        assert counts.dataset in class_map(counts.class_map).datasets


def test_published_totals_agree_with_each_other():
    totals = {(counts.class_map, counts.dataset): counts.num_samples for counts in CLASS_COUNTS}
    assert sum(totals["megc2019-3", dataset] for dataset in ("smic", "casme2", "samm")) == 442
    assert sum(expected("megc2019-3", dataset).num_subjects for dataset in ("smic", "casme2", "samm")) == 68
    assert totals["megc2018-5", "casme2"] + totals["megc2018-5", "samm"] == 253
    assert [totals[f"casme2-{classes}", "casme2"] for classes in (3, 5, 7)] == [147, 246, 255]
    assert [totals[f"casme3-{classes}", "casme3"] for classes in (3, 4, 7)] == [699, 860, 860]
    assert totals["samm-5", "samm"] == 136
    whole = {"casme2-7", "smic-3", "casme3-4", "casme3-7", "casme3c-4", "mmew-7", "casme-8", "dfme-7"}
    of_whole = [counts for counts in CLASS_COUNTS if counts.class_map in whole]
    assert len(of_whole) == 9
    assert [
        counts for counts in of_whole if counts.num_samples not in expected_of_dataset(counts.dataset).num_samples
    ] == []
    assert [
        counts
        for counts in CLASS_COUNTS
        if (counts.num_subjects or 0) > expected_of_dataset(counts.dataset).num_subjects
    ] == []


def test_each_count_is_there_once():
    assert len({(counts.class_map, counts.dataset) for counts in CLASS_COUNTS}) == len(CLASS_COUNTS)
    assert len({counts.dataset for counts in DATASET_COUNTS}) == len(DATASET_COUNTS)


def test_nothing_is_expected_of_a_users_own_dataset():
    assert expected("annotated", "videos") is None
    assert expected_of_dataset("videos") is None
