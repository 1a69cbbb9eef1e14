import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from mbert import ConfigError, ManifestError, ModelError
from mbert.manifests.folds import leave_one_subject_out
from mbert.manifests.schema import ClipRow
from mbert.manifests.store import read_json, read_rows, write_rows
from mbert.manifests.workspace import Workspace
from mbert.model.evaluate import _cross_predict, run_loso
from mbert.model.metrics import score
from mbert.model.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.pair_plan import PairOptions
from mbert.pipeline.shard import run_shard


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    run_pretrain(corpus.pairs, run, PretrainConfig(preset="tiny", steps=10, batch_size=8))
    return run


@pytest.fixture(scope="module")
def evaluated(corpus, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("loso")
    return out, run_loso(corpus.pairs, checkpoint, out, labels_path=None)


def test_results_and_predictions_agree(evaluated, corpus):
    out, result = evaluated
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    clips = read_rows(corpus.clips, ClipRow)
    assert {(row["clip_id"], row["label"], row["subject"]) for row in rows} == {
        (clip.clip_id, clip.emotion, clip.subject) for clip in clips
    }
    assert len(rows) == 18
    again = score(*([row[name] for row in rows] for name in ("label", "prediction", "subject")))
    saved = read_json(out / "results.json")
    assert again == result.mbert
    assert (saved["mbert"]["uf1"], saved["mbert"]["confusion"]) == (again.uf1, again.confusion)
    assert (result.num_samples, result.num_subjects) == (18, 3)
    difference = score(*([row[name] for row in rows] for name in ("label", "frame_difference", "subject")))
    assert difference == result.frame_difference
    assert result.majority.uar == pytest.approx(1 / 3)


def test_it_is_said_whose_frames_the_encoder_has_seen(evaluated):
    out, result = evaluated
    assert result.encoder_saw_test_subjects == ["videos/s01", "videos/s02", "videos/s03"]
    assert read_json(out / "results.json")["encoder_saw_test_subjects"] == result.encoder_saw_test_subjects


def test_expressions_are_told_apart_better_than_by_chance(evaluated):
    _, result = evaluated
    assert result.frame_difference.uf1 > 0.5 > result.frame_difference.chance_uf1
    assert result.mbert.uf1 > 0.5 > result.mbert.chance_uf1


def test_labels_of_the_held_out_subject_do_not_touch_its_predictions():
    rng = np.random.default_rng(0)
    subjects = [f"s{index % 4}" for index in range(60)]
    truth = [str(name) for name in rng.choice(["a", "b", "c"], 60)]
    features = (rng.normal(size=(60, 5)) + np.array([[ord(name)] for name in truth])).astype(np.float32)
    folds = list(leave_one_subject_out(subjects))
    before = _cross_predict(features, truth, folds)
    changed = ["c" if subject == "s2" else name for subject, name in zip(subjects, truth, strict=True)]
    after = _cross_predict(features, changed, folds)
    mine = [index for index, subject in enumerate(subjects) if subject == "s2"]
    others = [index for index, subject in enumerate(subjects) if subject != "s2"]
    assert [after[index] for index in mine] == [before[index] for index in mine]
    assert [after[index] for index in others] != [before[index] for index in others]


def test_features_of_the_held_out_subject_do_not_touch_the_scaling_of_its_fold():
    rng = np.random.default_rng(0)
    subjects = [f"s{index % 4}" for index in range(60)]
    truth = [str(name) for name in rng.choice(["a", "b"], 60)]
    features = rng.normal(size=(60, 3)).astype(np.float32)
    folds = list(leave_one_subject_out(subjects))
    before = _cross_predict(features, truth, folds)
    extreme = features.copy()
    extreme[2] *= 1e6  # one sample of s2
    after = _cross_predict(extreme, truth, folds)
    same = [index for index, subject in enumerate(subjects) if subject == "s2" and index != 2]
    assert [after[index] for index in same] == [before[index] for index in same]


def test_random_labels_score_at_chance():
    rng = np.random.default_rng(0)
    subjects = [f"s{index % 20}" for index in range(600)]
    truth = [str(name) for name in rng.choice(["a", "b", "c"], 600)]
    features = rng.normal(size=(600, 30)).astype(np.float32)
    predicted = _cross_predict(features, truth, list(leave_one_subject_out(subjects)))
    assert score(truth, predicted, subjects).uar == pytest.approx(1 / 3, abs=0.06)


def test_without_labels_the_file_and_its_columns_are_named(corpus, checkpoint, tmp_path):
    shutil.copytree(corpus.corpus, tmp_path / "corpus")
    workspace = Workspace(tmp_path)
    clips = read_rows(workspace.clips, ClipRow)
    bare = [ClipRow(**{**{n: getattr(c, n) for n in c.__slots__}, "emotion": None, "subject": None}) for c in clips]
    write_rows(workspace.clips, ClipRow, bare)
    run_shard(workspace, PairOptions())
    where = tmp_path / "videos" / "labels.csv"
    with pytest.raises(
        ManifestError, match=r"videos/labels\.csv is missing.*path, subject, onset, apex, offset, emotion"
    ):
        run_loso(workspace.pairs, checkpoint, tmp_path / "out", labels_path=where)
    assert not (tmp_path / "out").exists()


def test_one_subject_or_no_checkpoint_is_a_clear_error(corpus, checkpoint, tmp_path):
    with pytest.raises(ModelError, match="there is no checkpoint"):
        run_loso(corpus.pairs, tmp_path, tmp_path / "out", labels_path=None)
    shutil.copytree(corpus.corpus, tmp_path / "corpus")
    workspace = Workspace(tmp_path)
    one = [clip for clip in read_rows(workspace.clips, ClipRow) if clip.subject == "videos/s01"]
    write_rows(workspace.clips, ClipRow, one)
    run_shard(workspace, PairOptions())
    with pytest.raises(ConfigError, match="at least 2 subjects, found 1: videos/s01"):
        run_loso(workspace.pairs, checkpoint, tmp_path / "out", labels_path=None)
