import dataclasses
import json
import shutil
from collections import Counter

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mbert import ConfigError, ManifestError, ModelError
from mbert.manifests.files import read_json
from mbert.manifests.labels.action_units import CD6ME_UNITS
from mbert.manifests.labels.prediction_files import read_predictions
from mbert.manifests.schema import ClipRow, LabelRow
from mbert.manifests.store import read_rows, write_rows
from mbert.manifests.subject import Subject
from mbert.manifests.workspace import Workspace
from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import read_state
from mbert.model.scoring.config import BASELINES, EvalConfig
from mbert.model.scoring.evaluate import run_eval
from mbert.model.scoring.metrics import score
from mbert.model.training.finetune import FinetuneConfig
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard

QUICK = FinetuneConfig(epochs=2, batch_size=8)
METHODS = ("mbert", *BASELINES)


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    run_pretrain(corpus.pairs, run, PretrainConfig(preset="tiny", steps=10, batch_size=8))
    return run


@pytest.fixture(scope="module")
def evaluated(corpus, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "loso"
    return out, run_eval(corpus.expressions, corpus.labels, checkpoint, out, EvalConfig())


@pytest.fixture
def relabelled(corpus, tmp_path):
    """The corpus with other labels: `relabelled(change)`, which gives the labels for a label; its shards and labels."""

    def change_labels(change):
        workspace = Workspace(tmp_path / "relabelled")
        shutil.copytree(corpus.corpus, workspace.corpus)
        labels = [new for label in read_rows(corpus.labels, LabelRow) for new in change(label)]
        named = {label.clip_id: label for label in labels}
        clips = [
            dataclasses.replace(clip, dataset=named[clip.clip_id].dataset, subject=named[clip.clip_id].subject)
            for clip in read_rows(corpus.clips, ClipRow)
        ]
        write_rows(workspace.labels, LabelRow, labels)
        write_rows(workspace.clips, ClipRow, clips)
        run_shard(workspace, PairOptions())
        return workspace.expressions, workspace.labels

    return change_labels


def as_megc(label):
    """Subjects of the synthetic corpus as people of the three databases; emotions that the class map knows."""
    number = int(label.path.split("s0")[1][0]) - 1
    dataset = ("casme2", "samm", "smic")[number]
    emotion = {"disgust": "negative", "happiness": "positive"}.get(label.emotion, label.emotion)
    emotion = emotion if dataset == "smic" else label.emotion
    person = "1" if label.clip_id.split("_f00")[0][-1] in "1a" else "2"
    return [dataclasses.replace(label, dataset=dataset, subject=Subject(dataset, person), emotion=emotion)]


def randomly_labelled(rows, seed=0):
    rng = np.random.default_rng(seed)
    return [dataclasses.replace(row, emotion=str(rng.choice(["a", "b", "c"]))) for row in rows]


def test_results_and_predictions_agree(evaluated, corpus):
    out, result = evaluated
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert {(row["clip_id"], row["label"], row["subject"], row["sample"]) for row in rows} == {
        (label.clip_id, label.emotion, label.subject, label.sample) for label in read_rows(corpus.labels, LabelRow)
    }
    assert len(rows) == 18
    saved = read_json(out / "results.json")
    assert set(result.methods) == set(METHODS)
    for name in METHODS:
        column = "prediction" if name == "mbert" else name
        again = score(*([row[key] for row in rows] for key in ("label", column, "subject")))
        assert again == result.methods[name].scores
        assert saved["methods"][name]["scores"]["confusion"] == again.confusion
    assert (result.num_samples, result.num_subjects, result.num_folds) == (18, 3, 3)
    assert result.samples == {"videos": {"disgust": 6, "happiness": 6, "surprise": 6}}
    assert result.methods["majority"].scores.uar == pytest.approx(1 / 3)
    assert {row["fold"] for row in rows} == {"videos/s01", "videos/s02", "videos/s03"}
    json.dumps(dataclasses.asdict(result), allow_nan=False)


def test_our_own_predictions_can_be_scored_again(evaluated):
    out, result = evaluated
    rows = read_predictions(out / "predictions.parquet")
    again = score(*([getattr(row, name) for row in rows] for name in ("label", "prediction", "subject")))
    assert again.uf1 == result.methods["mbert"].scores.uf1


def test_it_is_said_whose_frames_the_encoder_has_seen(evaluated):
    out, result = evaluated
    assert result.encoder_saw_test_subjects == ["videos/s01", "videos/s02", "videos/s03"]
    assert any("pretrained, without labels, on frames of 3 of the 3 subjects" in text for text in result.warnings)
    assert read_json(out / "results.json")["encoder_saw_test_subjects"] == result.encoder_saw_test_subjects


def test_weights_that_do_not_say_whom_they_have_seen_are_no_clean_encoder(corpus, tmp_path):
    MicronBert(PRESETS["tiny"]).save_pretrained(tmp_path / "model")
    result = run_eval(corpus.expressions, corpus.labels, tmp_path / "model", tmp_path / "out", EvalConfig(baselines=()))
    assert result.encoder_saw_test_subjects == []
    assert any("does not say whose faces it was trained on" in text for text in result.warnings)


def test_an_encoder_without_these_people_is_clean(corpus, tmp_path):
    config = PretrainConfig(preset="tiny", steps=2, batch_size=8, exclude_subjects=("videos/s01", "videos/s02"))
    run_pretrain(corpus.pairs, tmp_path / "run", config)
    assert read_state(tmp_path / "run").subjects == ("videos/s03",)
    only_two = EvalConfig(protocol="holdout", test_subjects=("videos/s01", "videos/s02"), baselines=())
    result = run_eval(corpus.expressions, corpus.labels, tmp_path / "run", tmp_path / "out", only_two)
    assert (result.encoder_saw_test_subjects, result.num_folds, result.num_samples) == ([], 1, 12)
    assert not any("trained" in text for text in result.warnings)


def test_expressions_are_told_apart_better_than_by_chance(evaluated):
    _, result = evaluated
    for name in ("mbert", "frame_difference", "optical_flow", "flow_cnn"):
        scores = result.methods[name].scores
        assert scores.uf1 > 0.5 > scores.chance_uf1, name


def test_an_evaluation_goes_on_with_what_is_there_and_ends_with_the_same(corpus, checkpoint, evaluated, tmp_path):
    config = EvalConfig(baselines=("flow_cnn",), seeds=2)
    out = tmp_path / "runs" / "loso"
    done = []

    class Stop(Exception):
        pass

    def stop_in_the_second_fold(what, number, total):
        done.append((what, number))
        if what == "folds of flow_cnn" and number == 2:
            raise Stop

    with pytest.raises(Stop):
        run_eval(corpus.expressions, corpus.labels, checkpoint, out, config, on_progress=stop_in_the_second_fold)
    left = []
    result = run_eval(
        corpus.expressions, corpus.labels, checkpoint, out, config, on_progress=lambda *told: left.append(told[:2])
    )
    assert "features" not in {what for what, _ in left}  # they were kept
    assert left.count(("folds of flow_cnn", 3)) == 2  # the last fold of the first seed, and all of the second
    assert ("folds of flow_cnn", 1) in left  # of the second seed
    assert len([one for one in left if one[0] == "folds of flow_cnn"]) == 4
    _, whole = evaluated
    assert result.methods["flow_cnn"].scores == whole.methods["flow_cnn"].scores
    assert len(result.methods["flow_cnn"].over_seeds.uf1.values) == 2
    assert result.methods["mbert"].over_seeds is None  # there is nothing random in it


def test_several_settings_on_the_same_samples_are_counted(corpus, checkpoint, tmp_path):
    counts = []
    for place, inputs in (("a", ("change",)), ("a", ("map",)), ("b", ("distance",)), ("b", ("distance",))):
        config = EvalConfig(inputs=inputs, baselines=())
        counts.append(
            run_eval(corpus.expressions, corpus.labels, checkpoint, tmp_path / place, config).evaluations_before
        )
    assert counts == [0, 1, 2, 2]
    other = EvalConfig(protocol="kfold", k=2, baselines=())
    assert run_eval(corpus.expressions, corpus.labels, checkpoint, tmp_path / "c", other).evaluations_before == 0


@pytest.fixture(scope="module")
def frames_between(corpus, tmp_path_factory):
    """The corpus with four pairs of each expression."""
    workspace = Workspace(tmp_path_factory.mktemp("between"))
    shutil.copytree(corpus.corpus, workspace.corpus)
    run_shard(workspace, PairOptions(frames_between=3))
    return workspace


def test_more_frames_and_inputs_reach_the_heads(frames_between, checkpoint, tmp_path):
    shards, labels = frames_between.expressions, frames_between.labels
    config = EvalConfig(frames=3, inputs=("distance", "map"), baselines=("majority",))
    run_eval(shards, labels, checkpoint, tmp_path / "out", config)
    kept = [np.load(file) for file in (tmp_path / "out" / "features").iterdir()]
    assert [features.shape for features in kept] == [(18, 2 * 14**2)] * 3
    assert not np.array_equal(kept[0], kept[1])
    with pytest.raises(ConfigError, match=r"5 frames .* the shards hold 4: .*--frames-between 4 --overwrite"):
        run_eval(shards, labels, checkpoint, tmp_path / "out", EvalConfig(frames=5))


def test_baselines_see_as_many_frames_as_the_model(frames_between, checkpoint, tmp_path):
    """With random labels, whatever is added to the features shows in the predictions."""
    write_rows(tmp_path / "labels.parquet", LabelRow, randomly_labelled(read_rows(frames_between.labels, LabelRow)))
    seen, predicted, kept = ("frame_difference", "optical_flow", "flow_cnn"), [], []
    for frames in (1, 3):
        config = EvalConfig(baselines=seen, inputs=("map",), frames=frames)
        run_eval(frames_between.expressions, tmp_path / "labels.parquet", checkpoint, tmp_path / "out", config)
        predicted.append(pq.read_table(tmp_path / "out" / "predictions.parquet"))
        kept.append([np.load(file).shape for file in (tmp_path / "out" / "features").iterdir()])
    assert Counter(kept[0]) == {(18, 14**2): 2, (18, 3 * 14**2): 1, (18, 3, 28, 28): 1}
    assert Counter(kept[1]) == {shape: 3 * count for shape, count in Counter(kept[0]).items()}
    for name in ("optical_flow", "flow_cnn"):  # differences of these frames say what those at the apex do
        assert predicted[0][name] != predicted[1][name], name


def test_features_of_other_frames_are_not_taken_for_these(corpus, frames_between, checkpoint, tmp_path):
    """The frame before the apex is another one in shards with two frames between than in shards with three."""
    other = Workspace(tmp_path / "other")
    shutil.copytree(corpus.corpus, other.corpus)
    run_shard(other, PairOptions(frames_between=2))
    config = EvalConfig(baselines=("optical_flow", "flow_cnn"), inputs=("measured",), frames=2)
    for workspace, out in ((frames_between, "kept"), (other, "kept"), (other, "new")):
        run_eval(workspace.expressions, workspace.labels, checkpoint, tmp_path / out, config)
    for file in (tmp_path / "new" / "features").iterdir():
        assert np.array_equal(np.load(tmp_path / "kept" / "features" / file.name), np.load(file))
    assert pq.read_table(tmp_path / "kept" / "predictions.parquet") == pq.read_table(
        tmp_path / "new" / "predictions.parquet"
    )


@pytest.mark.parametrize("select", ["fixed", "inner", "oracle"])
def test_folds_are_finetuned_and_an_oracle_is_named(corpus, checkpoint, tmp_path, select):
    baselines = ("frame_difference", "majority")
    config = EvalConfig(mode="finetune", select=select, finetune=QUICK, baselines=baselines, workers=1)
    out = tmp_path / "runs" / "tuned"
    result = run_eval(corpus.expressions, corpus.labels, checkpoint, out, config)
    scores = result.methods["mbert"].scores
    assert scores.num_samples == 18
    assert any("oracle" in text and "no score" in text for text in result.warnings) == (select == "oracle")
    assert [each.select for each in result.methods.values()] == [select, select, "fixed"]
    assert not [path for path in out.glob("folds/*/*") if path.is_dir()]  # models of folds that are done are gone
    again = run_eval(
        corpus.expressions,
        corpus.labels,
        checkpoint,
        out,
        config,
        on_progress=lambda what, *told: None if what.startswith("heads") else pytest.fail(f"{what} {told} done again"),
    )
    assert again.methods["mbert"].scores == scores
    confidence = pq.read_table(out / "predictions.parquet")["confidence"]
    if select == "oracle":  # its epochs noted names alone
        assert confidence.null_count == 18
    else:
        assert all(1 / 3 <= share <= 1 for share in confidence.to_pylist())


def test_baselines_choose_as_the_model_does_and_never_by_whom_they_are_tested_on(corpus, checkpoint, tmp_path):
    """Random labels, and those of one person changed: what follows them was chosen by them."""
    heads = ("frame_difference", "optical_flow", "random_weights")
    rows = randomly_labelled(read_rows(corpus.labels, LabelRow), seed=3)
    turn = {"a": "b", "b": "c", "c": "a"}
    turned = [
        dataclasses.replace(row, emotion=turn[row.emotion]) if row.subject == "videos/s02" else row for row in rows
    ]
    found = {}
    for select in ("fixed", "inner", "oracle"):
        for name, each in (("before", rows), ("after", turned)):
            labels = tmp_path / f"{name}.parquet"
            write_rows(labels, LabelRow, each)
            config = EvalConfig(select=select, baselines=heads)
            result = run_eval(corpus.expressions, labels, checkpoint, tmp_path / "out", config)
            table = pq.read_table(tmp_path / "out" / "predictions.parquet")
            found[select, name] = table.filter(pc.equal(table["subject"], "videos/s02"))
            assert {method.select for method in result.methods.values()} == {select}
    for method in heads:
        assert found["inner", "before"][method] == found["inner", "after"][method], method
    # Not of each method: with few samples, the best value may be the same for both labels by chance.
    peeked = [method for method in heads if found["oracle", "before"][method] != found["oracle", "after"][method]]
    chosen = [method for method in heads if found["fixed", "before"][method] != found["oracle", "before"][method]]
    assert len(peeked) >= 2
    assert len(chosen) >= 2


def test_the_flow_network_of_a_table_chooses_its_steps(corpus, checkpoint, tmp_path):
    write_rows(tmp_path / "labels.parquet", LabelRow, randomly_labelled(read_rows(corpus.labels, LabelRow), seed=1))
    hits = {}
    for select in ("fixed", "oracle"):
        config = EvalConfig(protocol="holdout", select=select, baselines=("flow_cnn", "majority"))
        result = run_eval(corpus.expressions, tmp_path / "labels.parquet", checkpoint, tmp_path / "out", config)
        hits[select] = result.methods["flow_cnn"].scores.accuracy
        assert [row["select"] for row in result.table()] == [select, select, "fixed"]
    # On the few samples of one split both may be right as often; who looks at them is never worse off.
    assert hits["oracle"] >= hits["fixed"]


def test_a_choice_on_inner_splits_is_repeated_over_the_seeds(corpus, checkpoint, tmp_path):
    repeated = {}
    for select in ("fixed", "inner"):
        config = EvalConfig(select=select, seeds=2, baselines=("frame_difference", "optical_flow", "majority"))
        result = run_eval(corpus.expressions, corpus.labels, checkpoint, tmp_path / "out", config)
        repeated[select] = {name for name, method in result.methods.items() if method.over_seeds is not None}
    assert repeated == {"fixed": set(), "inner": {"mbert", "frame_difference", "optical_flow"}}


def test_finetuned_folds_in_two_processes_predict_what_one_does(corpus, checkpoint, tmp_path):
    found = []
    for workers in (1, 2):
        config = EvalConfig(mode="finetune", finetune=QUICK, baselines=(), workers=workers)
        run_eval(corpus.expressions, corpus.labels, checkpoint, tmp_path / str(workers) / "out", config)
        found.append(pq.read_table(tmp_path / str(workers) / "out" / "predictions.parquet")["prediction"].to_pylist())
    assert found[0] == found[1]


def test_the_composite_is_scored_per_database_from_the_same_predictions(relabelled, checkpoint, tmp_path):
    shards, labels = relabelled(as_megc)
    result = run_eval(shards, labels, checkpoint, tmp_path / "out", EvalConfig(protocol="cde", baselines=("majority",)))
    assert result.classes == "megc2019-3"
    assert set(result.methods["mbert"].per_dataset) == {"casme2", "samm", "smic"}
    pooled = np.array(result.methods["mbert"].scores.confusion)
    parts = [np.array(each.confusion) for each in result.methods["mbert"].per_dataset.values()]
    assert (sum(parts) == pooled).all()
    assert result.num_subjects == result.num_folds == len(set(result.methods["mbert"].scores.per_subject))
    assert any("casme2 has not the samples of megc2019-3 (measured)" in text for text in result.warnings)


def test_leaving_a_dataset_out_has_a_fold_for_each(relabelled, checkpoint, tmp_path):
    shards, labels = relabelled(as_megc)
    config = EvalConfig(protocol="lodo", classes="megc2019-3", datasets=("casme2", "samm"), baselines=())
    result = run_eval(shards, labels, checkpoint, tmp_path / "out", config)
    assert (result.num_folds, set(result.samples)) == (2, {"casme2", "samm"})
    assert result.left_out == {"of smic": 6}


def test_action_units_are_learned_across_datasets(relabelled, corpus, checkpoint, tmp_path):
    shards, labels = relabelled(as_megc)
    config = EvalConfig(protocol="lodo", classes="action-units", baselines=BASELINES)
    result = run_eval(shards, labels, checkpoint, tmp_path / "out", config)
    scores = result.methods["frame_difference"].scores
    units = [label.action_units.split("+") for label in read_rows(corpus.labels, LabelRow)]
    assert scores.per_unit["AU4"].positives == sum("4" in each for each in units) > 0
    assert "AU15" in scores.absent_units
    assert scores.binary is None
    assert scores.binary_of_defined > result.methods["majority"].scores.binary_of_defined
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    scored = {str(number) for number in CD6ME_UNITS}
    shown = {"+".join(f"AU{unit}" for unit in each if unit in scored) for each in units}
    assert {row["label"] for row in rows} == shown


@pytest.mark.parametrize(
    ("leak", "told"),
    [
        # One person under two subjects' names, with the same frames: what happens when a release is ingested twice.
        ("frames", "share a frame"),
        ("spelling", "one person under two spellings"),
        ("twice", "is there twice"),
        ("prefix", "lacks the prefix of its dataset"),
    ],
)
def test_a_planted_leak_stops_the_run(relabelled, corpus, checkpoint, tmp_path, leak, told):
    first = read_rows(corpus.labels, LabelRow)[0]
    assert first.subject == "videos/s01"

    def plant(label):
        if leak == "frames" and label == first:
            return [label, dataclasses.replace(label, subject=Subject("videos", "s09"), sample="copy")]
        if leak == "spelling" and label == first:
            return [dataclasses.replace(label, subject=Subject("videos", "s1"))]
        if leak == "twice" and label.subject == "videos/s01":
            return [dataclasses.replace(label, sample="one name")]
        if leak == "prefix":
            return [dataclasses.replace(label, subject=Subject("", label.subject.id))]
        return [label]

    shards, labels = relabelled(plant)
    with pytest.raises((ConfigError, ManifestError), match=told):
        run_eval(shards, labels, checkpoint, tmp_path / "out", EvalConfig(baselines=()))
    assert not (tmp_path / "out").exists()


def test_random_labels_score_at_chance(corpus, checkpoint, tmp_path):
    """A class is read from labels.parquet when a model is scored: the shards do not change."""
    write_rows(tmp_path / "labels.parquet", LabelRow, randomly_labelled(read_rows(corpus.labels, LabelRow)))
    result = run_eval(corpus.expressions, tmp_path / "labels.parquet", checkpoint, tmp_path / "out", EvalConfig())
    for name in METHODS:
        scores = result.methods[name].scores
        assert scores.uf1 < 0.62, name  # 18 samples: chance is 0.33 with a standard error of 0.11
        assert abs(scores.chance_uar - 1 / 3) < 0.05


def test_labels_that_changed_since_the_pairs_were_made_are_refused(corpus, checkpoint, tmp_path):
    labels = read_rows(corpus.labels, LabelRow)
    moved = [dataclasses.replace(labels[0], apex=labels[0].apex + 1), *labels[1:]]
    for changed in (moved, labels[1:], [*labels, dataclasses.replace(labels[0], sample="new")]):
        write_rows(tmp_path / "labels.parquet", LabelRow, changed)
        with pytest.raises(ManifestError, match=r"came, went or moved .* `mbert shard --pairs` again"):
            run_eval(corpus.expressions, tmp_path / "labels.parquet", checkpoint, tmp_path / "out", EvalConfig())
    pattern = f"{corpus.expressions}/{{000000..000000}}.tar"  # without an index
    with pytest.raises(ManifestError, match="has no label of the pair"):
        write_rows(tmp_path / "labels.parquet", LabelRow, labels[1:])
        run_eval(pattern, tmp_path / "labels.parquet", checkpoint, tmp_path / "out", EvalConfig())


def test_without_labels_the_file_to_write_is_named(corpus, checkpoint, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(corpus.corpus, workspace.corpus)
    write_rows(workspace.labels, LabelRow, [])
    run_shard(workspace, PairOptions(pairs_per_shard=100), overwrite=True)
    with pytest.raises(
        ManifestError, match=r"labels.csv has no row with .*path, subject, onset, apex, offset, emotion"
    ):
        run_eval(workspace.expressions, workspace.labels, checkpoint, tmp_path / "out", EvalConfig())


def test_what_cannot_be_evaluated_is_said_at_once(corpus, checkpoint, tmp_path):
    with pytest.raises(ModelError, match="run `mbert train pretrain`"):
        run_eval(corpus.expressions, corpus.labels, tmp_path, tmp_path / "out", EvalConfig())
    with pytest.raises(ManifestError, match=r"no labelled expression is left: 18 of videos"):
        run_eval(corpus.expressions, corpus.labels, checkpoint, tmp_path / "out", EvalConfig(protocol="cde"))
    with pytest.raises(ManifestError, match=r"18 without a class in casme2-5"):
        run_eval(corpus.expressions, corpus.labels, checkpoint, tmp_path / "out", EvalConfig(classes="casme2-5"))
    for settings, told in (
        ({"protocol": "losso"}, "allowed are loso, cde"),
        ({"mode": "tune"}, "allowed are probe, finetune"),
        ({"baselines": ("flow",)}, "allowed are random_weights"),
        ({"inputs": ("dmma",)}, "allowed are change"),
        ({"classes": "casme2-6"}, "there is no class map 'casme2-6'"),
        ({"protocol": "cd6me", "classes": "casme2-5"}, "--classes does not apply"),
        ({"mode": "finetune", "frames": 2}, "use mode probe"),
        ({"mode": "finetune", "protocol": "cd6me"}, "use mode probe"),
        ({"protocol": "cd6me", "select": "inner"}, "for action units it is fixed"),
        ({"seeds": 0}, "at least 1"),
        ({"finetune": FinetuneConfig(inputs=("map",))}, "finetune.inputs is the evaluation's own: set inputs instead"),
    ):
        with pytest.raises(ConfigError, match=told):
            EvalConfig(**settings)
