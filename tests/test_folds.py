import dataclasses
import random

import pytest

from mbert import ConfigError, ManifestError
from mbert.manifests.labels.folds import PROTOCOLS, Fold, check_folds, check_samples, inner_split, make_folds
from mbert.manifests.labels.people import person
from mbert.manifests.subject import Subject


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    dataset: str
    subject: str | None
    sample: str | None = "a"
    emotion: str | None = None
    action_units: str | None = None
    objective_class: str | None = None


def expressions(dataset, *subjects, each=2):
    """So many samples of each subject, the subjects taking turns."""
    return [
        Expression(dataset=dataset, subject=Subject(dataset, subject), sample=f"{subject}_{number}")
        for number in range(each)
        for subject in subjects
    ]


def composite():
    """68 people as in the composite of 2019: ids that collide once the prefix or the zeros are gone."""
    smic = [1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 15, 18, 19, 20]
    casme2 = [number for number in range(1, 27) if number not in (10, 18)]
    samm = [6, 7, *range(9, 27), *range(28, 31), *range(32, 37)]
    return (
        expressions("smic", *(f"s{number:02d}" for number in smic))
        + expressions("casme2", *(f"sub{number:02d}" for number in casme2))
        + expressions("samm", *(f"{number:03d}" for number in samm))
    )


def six_datasets():
    return [sample for name in PROTOCOLS["cd6me"].datasets for sample in expressions(name, "s1", "s2", "s3")]


SAMPLES = {
    "loso": composite(),
    "cde": composite(),
    "hde": composite(),
    "lodo": composite() + expressions("videos", "s01", "x"),
    "kfold": composite(),
    "holdout": composite(),
    "cd6me": six_datasets(),
}


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_nobody_is_on_both_sides_of_a_fold(protocol):
    samples = SAMPLES[protocol]
    folds = make_folds(samples, protocol)
    for fold in folds:
        assert fold.train
        assert fold.test
        trained, tested = ({samples[index].subject for index in side} for side in (fold.train, fold.test))
        assert not trained & tested
        assert sorted(fold.train + fold.test) == list(range(len(samples)))
    tested = [index for fold in folds for index in fold.test]
    assert len(tested) == len(set(tested))
    if protocol != "holdout":
        assert sorted(tested) == list(range(len(samples)))


def test_the_composite_has_68_folds_although_bare_numbers_collide():
    samples = composite()
    numbers = {int("".join(filter(str.isdigit, sample.subject.partition("/")[2]))) for sample in samples}
    assert len(numbers) < 40
    check_samples(samples)
    folds = make_folds(samples, "cde")
    assert len(folds) == 68
    assert len({fold.name for fold in folds}) == 68
    assert PROTOCOLS["cde"].class_map == "megc2019-3"
    assert PROTOCOLS["cde"].scores_per_dataset


def test_one_person_in_two_releases_is_one_fold():
    samples = expressions("smic", "s1", "s2") + expressions("smic_e", "s01", "s02") + expressions("smic_vis", "s2")
    check_samples(samples)
    folds = make_folds(samples, "loso")
    assert [fold.name for fold in folds] == ["smic/s1", "smic/s2"]
    assert [{person(samples[index].subject) for index in fold.test} for fold in folds] == [{"smic/s1"}, {"smic/s2"}]


def test_equal_ids_of_unrelated_datasets_are_two_people():
    samples = expressions("casme2", "sub01") + expressions("casme", "sub01")
    check_samples(samples)
    assert [fold.name for fold in make_folds(samples, "loso")] == ["casme/sub01", "casme2/sub01"]


@pytest.mark.parametrize("protocol", ["hde", "lodo"])
def test_leaving_a_dataset_out_tests_all_of_it(protocol):
    samples = composite()
    folds = make_folds(samples, protocol)
    assert [fold.name for fold in folds] == ["casme2", "samm", "smic"]
    assert [{samples[index].dataset for index in fold.test} for fold in folds] == [{"casme2"}, {"samm"}, {"smic"}]
    assert [len(fold.test) for fold in folds] == [48, 56, 32]


def test_the_six_datasets_make_six_folds_of_twelve_units():
    assert [fold.name for fold in make_folds(six_datasets(), "cd6me")] == sorted(PROTOCOLS["cd6me"].datasets)
    assert PROTOCOLS["cd6me"].class_map is None
    assert len(PROTOCOLS["cd6me"].units) == 12


def test_a_dataset_that_shows_the_people_of_another_is_not_tested_by_it():
    samples = expressions("samm", "006", "007") + expressions("samm_lv", "006") + expressions("casme2", "sub01")
    with pytest.raises(ConfigError, match=r"fold samm leaks: .* of samm/006 and trains on .* of samm_lv/006"):
        make_folds(samples, "lodo")


def unequal():
    """40 people with 1 to 57 samples, as in the largest dataset."""
    rng = random.Random(0)
    sizes = [57, 40, *(rng.randint(1, 20) for _ in range(38))]
    return [
        Expression(dataset="casme3", subject=Subject("casme3", f"spNO.{number}"), sample=f"{number}_{count}")
        for number, size in enumerate(sizes)
        for count in range(size)
    ]


def test_k_folds_are_balanced_by_samples():
    folds = make_folds(unequal(), "kfold", k=5)
    sizes = [len(fold.test) for fold in folds]
    assert [fold.name for fold in folds] == ["fold1", "fold2", "fold3", "fold4", "fold5"]
    assert sum(sizes) == len(unequal())
    assert max(sizes) - min(sizes) <= 4  # of 110 each, where one person has up to 57


def test_k_folds_follow_the_seed_and_not_the_order_of_samples():
    samples = unequal()
    shuffled = random.Random(1).sample(samples, len(samples))

    def people(given, seed):
        return [{given[index].subject for index in fold.test} for fold in make_folds(given, "kfold", seed=seed)]

    assert people(samples, 0) == people(shuffled, 0)
    assert people(samples, 0) != people(samples, 1)


def test_k_must_lie_between_two_and_the_number_of_subjects():
    samples = expressions("videos", "a", "b", "c")
    assert len(make_folds(samples, "kfold", k=3)) == 3
    for k in (1, 4):
        with pytest.raises(ConfigError, match=f"k is {k}; allowed are 2 to the number of subjects, 3"):
            make_folds(samples, "kfold", k=k)


def test_holdout_tests_a_seeded_share_of_the_subjects():
    samples = expressions("videos", *(f"p{number}" for number in range(20)))
    first, again, other = (make_folds(samples, "holdout", seed=seed, test_share=0.25) for seed in (0, 0, 1))
    assert first == again != other
    assert len({samples[index].subject for index in first[0].test}) == 5


def test_holdout_tests_the_named_subjects():
    samples = expressions("casme2", "sub01", "sub02", "sub03")
    (fold,) = make_folds(samples, "holdout", test_subjects=[Subject("casme2", "sub02"), Subject("casme2", "sub3")])
    assert {samples[index].subject for index in fold.test} == {"casme2/sub02", "casme2/sub03"}
    assert {samples[index].subject for index in fold.train} == {"casme2/sub01"}


def test_named_test_subjects_must_exist_and_leave_some_to_train_on():
    samples = expressions("casme2", "sub01", "sub02")
    with pytest.raises(ConfigError, match="no sample is of casme2/sub09; the subjects are casme2/sub01, casme2/sub02"):
        make_folds(samples, "holdout", test_subjects=[Subject("casme2", "sub09")])
    with pytest.raises(ConfigError, match="all 2 subjects are to be tested"):
        make_folds(samples, "holdout", test_subjects=[Subject("casme2", "sub01"), Subject("casme2", "sub02")])
    with pytest.raises(ConfigError, match="only holdout takes named ones"):
        make_folds(samples, "loso", test_subjects=[Subject("casme2", "sub01")])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_lies_between_none_and_all(share):
    with pytest.raises(ConfigError, match=r"share of subjects is .*; allowed is more than 0 and less than 1"):
        make_folds(expressions("videos", "a", "b"), "holdout", test_share=share)


@pytest.mark.parametrize("protocol", ["loso", "kfold", "holdout"])
def test_one_subject_cannot_be_split(protocol):
    with pytest.raises(ConfigError, match="subject"):
        make_folds(expressions("videos", "only"), protocol)


@pytest.mark.parametrize("protocol", ["hde", "lodo"])
def test_one_dataset_cannot_be_left_out(protocol):
    with pytest.raises(ConfigError, match=f"protocol {protocol} needs at least 2 datasets, found 1: samm"):
        make_folds(expressions("samm", "006", "007"), protocol)


def test_a_part_of_a_composite_is_not_called_by_its_name():
    part = [sample for sample in composite() if sample.dataset != "samm"]
    with pytest.raises(ConfigError, match=r"protocol cde needs smic, casme2, samm; samm has no sample here.* use loso"):
        make_folds(part, "cde")
    with pytest.raises(ConfigError, match=r"protocol cd6me needs .*; 4dme, casme3 has no sample here.* use lodo"):
        make_folds([sample for sample in six_datasets() if sample.dataset not in ("4dme", "casme3")], "cd6me")


def test_datasets_that_a_protocol_is_not_of_are_refused():
    with pytest.raises(ConfigError, match="protocol cde is of smic, casme2, samm; leave out the samples of videos"):
        make_folds(composite() + expressions("videos", "a"), "cde")


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no protocol 'losso'; there are loso, cde, hde"):
        make_folds(composite(), "losso")


def test_a_sample_without_a_subject_is_in_no_fold():
    with pytest.raises(ManifestError, match="sample a of videos has no subject"):
        make_folds([*expressions("videos", "a", "b"), Expression(dataset="videos", subject=None)], "loso")


def test_the_inner_split_is_by_subject_and_inside_the_fold():
    samples = unequal()
    for fold in make_folds(samples, "kfold", seed=3):
        train, validation = inner_split(samples, fold.train, seed=3)
        assert sorted(train + validation) == list(fold.train)
        trained, validated = ({samples[index].subject for index in side} for side in (train, validation))
        assert not trained & validated
        assert len(validated) == round(0.2 * len(trained | validated))
        assert inner_split(samples, fold.train, seed=3) == (train, validation)


def test_the_inner_split_needs_two_subjects():
    samples = expressions("videos", "a", "b")
    with pytest.raises(ConfigError, match="splitting by subject needs at least 2 subjects, found 1: videos/a"):
        inner_split(samples, [0, 2], seed=0)


SUBJECTS = [Subject("casme2", f"sub0{number}") for number in (1, 2, 3, 1)]


def test_a_person_on_both_sides_stops():
    with pytest.raises(
        ConfigError,
        match=r"fold x leaks: it tests sample 3 of casme2/sub01 and trains on sample 0 of casme2/sub01, the same",
    ):
        check_folds([Fold("x", train=(0, 1), test=(2, 3))], SUBJECTS)


def test_a_person_under_two_spellings_on_both_sides_stops():
    with pytest.raises(ConfigError, match=r"tests EP02 of smic_e/s01 and trains on EP01 of smic/s1, the same person"):
        check_folds(
            [Fold("x", train=(0,), test=(1,))],
            [Subject("smic", "s1"), Subject("smic_e", "s01")],
            names=["EP01", "EP02"],
        )


def test_a_frame_on_both_sides_stops():
    digests = [("a", "b"), ("c", "d"), ("e", "b"), ("f",)]
    with pytest.raises(ConfigError, match=r"tests sample 2 of casme2/sub03 and trains on sample 0 .* share a frame"):
        check_folds([Fold("x", train=(0, 1), test=(2,))], SUBJECTS, digests)


def test_equal_frames_on_one_side_are_no_leak():
    digests = [("a", "a"), ("a", "b"), ("c", "c"), ("b",)]
    check_folds([Fold("x", train=(0, 1, 3), test=(2,))], SUBJECTS, digests)


def test_folds_that_cannot_be_pooled_stop():
    with pytest.raises(ConfigError, match="fold x has nothing to train on"):
        check_folds([Fold("x", train=(), test=(1,))], SUBJECTS)
    with pytest.raises(ConfigError, match="fold x has nothing to test"):
        check_folds([Fold("x", train=(1,), test=())], SUBJECTS)
    with pytest.raises(ConfigError, match="sample 1 of casme2/sub02 is tested in fold x and in fold y"):
        check_folds([Fold("x", train=(0,), test=(1,)), Fold("y", train=(2,), test=(1,))], SUBJECTS)


def test_two_releases_of_one_sample_stop():
    twice = Expression(dataset="casme2", subject=Subject("casme2", "sub01"), sample="EP02_01f")
    other = dataclasses.replace(twice, subject=Subject("casme2", "sub02"))
    check_samples([twice, other])
    with pytest.raises(ManifestError, match="sample EP02_01f of casme2/sub01 is there twice"):
        check_samples([twice, other, twice])


def test_samples_without_a_name_are_not_taken_for_one():
    check_samples([Expression(dataset="videos", subject=Subject("videos", "a"), sample=None)] * 2)


@pytest.mark.parametrize("subject", ["sub01", "casme/sub01", "casme2/"])
def test_a_subject_without_its_datasets_prefix_stops(subject):
    with pytest.raises(ManifestError, match="lacks the prefix of its dataset; it is written casme2/"):
        check_samples([Expression(dataset="casme2", subject=Subject.parse(subject))])


@pytest.mark.parametrize(
    ("one", "other"),
    [("sub1", "sub01"), ("s1", "s01"), ("spNO.1", "spNo.1"), ("6", "006"), ("sub01", "01"), ("1", "sub01")],
)
def test_two_spellings_of_one_id_stop(one, other):
    samples = expressions("videos", one, each=1) + expressions("videos", other, each=1)
    with pytest.raises(ManifestError, match="may be one person under two spellings"):
        check_samples(samples)


def test_ids_that_differ_in_more_than_spelling_are_two_people():
    check_samples(expressions("videos", "p01", "c01", "p10", "p1b", "clinic/01", "home/01", each=1))
    check_samples(expressions("videos", "1", "sub11", "21", each=1))
