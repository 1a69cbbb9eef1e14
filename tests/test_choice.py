import numpy as np
import pytest
from test_probe import drawn, samples_of

from mbert.manifests.labels.folds import leave_one_subject_out
from mbert.model.scoring.choice import Choice
from mbert.model.scoring.fold_runs import FlowTask, flow_fold


def fold_of(num_subjects=5):
    _, truth, subjects = drawn(num_subjects=num_subjects)
    return leave_one_subject_out(subjects)[2], samples_of(subjects), truth


def test_a_choice_inside_a_fold_is_made_on_other_people_of_its_training_side():
    fold, samples, _ = fold_of()
    choice = Choice.of("inner", fold, samples, seed=0)
    assert len(choice.splits) == 3
    for train, other in choice.splits:
        assert sorted(train + other) == list(fold.train)
        assert not {samples[index].subject for index in train} & {samples[index].subject for index in other}
    assert choice != Choice.of("inner", fold, samples, seed=7)


def test_the_oracle_chooses_on_the_test_side_and_fixed_on_nothing():
    fold, samples, _ = fold_of()
    assert Choice.of("oracle", fold, samples, seed=0).splits == ((fold.train, fold.test),)
    assert Choice.of("fixed", fold, samples, seed=0).splits == ()


@pytest.mark.parametrize(("select", "expected"), [("fixed", 3), ("inner", 5), ("oracle", 5)])
def test_the_best_setting_is_taken_and_of_equals_the_first(select, expected):
    fold, samples, truth = fold_of()

    def attempt(train, test):  # from 5 on, all is named right
        return {setting: [truth[index] if setting >= 5 else "a" for index in test] for setting in (1, 3, 5, 7)}

    assert Choice.of(select, fold, samples, seed=0).among((1, 3, 5, 7), 3, truth, attempt) == expected


def flow_task(labels, subjects, images, select):
    fold, samples = leave_one_subject_out(subjects)[2], samples_of(subjects)
    choice = Choice.of(select, fold, samples, seed=0)
    return FlowTask(
        number=0, fold=fold, images=images, labels=labels, num_classes=3, choice=choice, seed=0, folder=None
    )


def test_held_out_labels_touch_the_steps_of_the_flow_network_by_the_oracle_alone():
    _, _, subjects = drawn(num=24)
    rng = np.random.default_rng(5)
    images = rng.normal(size=(24, 3, 8, 8)).astype(np.float32)  # nothing to learn: other steps, other predictions
    labels = rng.integers(0, 3, 24).tolist()
    turned = [(label + 1) % 3 if subjects[index] == "videos/s2" else label for index, label in enumerate(labels)]
    fixed, inner, oracle = (
        [flow_fold(flow_task(each, subjects, images, select)) for each in (labels, turned)]
        for select in ("fixed", "inner", "oracle")
    )
    assert inner[0] == inner[1]
    assert oracle[0] != oracle[1]
    assert inner[0] != fixed[0] != oracle[0]
