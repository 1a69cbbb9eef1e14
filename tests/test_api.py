"""The Python API: the options of the commands, arrays in and out. The code of its page: test_documents.py."""

import dataclasses
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mbert
from mbert import ConfigError, ManifestError, ModelError, ShardError, api
from mbert.commands.eval import evaluate
from mbert.commands.finetune import finetune
from mbert.commands.ingest import ingest
from mbert.commands.pretrain import pretrain
from mbert.commands.shard import shard
from mbert.commands.synthesize import synthesize
from mbert.manifests.schema import ClipRow, LabelRow, PairRow
from mbert.manifests.workspace import twin_paths
from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import MicronBert
from mbert.model.training.runs import RunRow

FOR_PRINTING = {"as_json", "predictions"}  # a file of predictions has a function of its own


@pytest.mark.parametrize("command", [ingest, shard, pretrain, finetune, evaluate, synthesize])
def test_a_function_has_the_options_of_its_command_with_their_defaults(command):
    function = getattr(mbert, command.__name__)
    of_command = {
        name: parameter.default
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in FOR_PRINTING
    }
    of_function = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if not name.startswith("on_")
    }
    assert of_function == of_command
    assert all(
        parameter.annotation is not parameter.empty for parameter in inspect.signature(function).parameters.values()
    )


def test_what_is_not_among_the_words_of_an_option_is_refused():
    with pytest.raises(ConfigError, match="align is 'fast'; allowed are auto, clip, smooth, frame"):
        mbert.ingest("videos", align="fast")
    with pytest.raises(ConfigError, match="preset is 'huge'; allowed are tiny, small, base"):
        mbert.pretrain(preset="huge")
    with pytest.raises(AttributeError, match="module 'mbert' has no attribute 'predit'"):
        mbert.predit  # noqa: B018


def test_the_commands_run_as_functions_from_videos_to_scores(synthetic_videos, tmp_path):
    videos, workspace = tmp_path / "videos", tmp_path / "workspace"
    shutil.copytree(synthetic_videos, videos)
    estimate = mbert.ingest(videos, workspace=workspace, size=64, workers=1, dry_run=True)
    assert (estimate.num_to_do, workspace.exists()) == (18, False)
    ingested = mbert.ingest(videos, workspace=workspace, size=64, workers=2)
    assert (ingested.statuses, ingested.num_labels_in_clips) == ({"ok": 18}, 18)
    assert mbert.shard(workspace=workspace).kinds["onset_apex"] == 18
    early = mbert.evaluate(workspace=workspace, inputs=["measured"], baselines=["majority"], out=workspace / "early")
    assert any("of the built-in model" in warning for warning in early.warnings)
    settings = {"model.depth": 1, "objective.crop_scale": 0.5}
    trained = mbert.pretrain(workspace=workspace, steps=2, batch_size=4, set=settings)
    assert trained.steps_done == 2
    assert json.loads((Path(trained.run) / "config.json").read_text())["model"]["depth"] == 1
    tuned = mbert.finetune(workspace=workspace, steps=2, batch_size=4, inputs=("change",), set=["dropout=0.1"])
    assert tuned.num_subjects == 3
    result = mbert.evaluate(workspace=workspace, inputs=["motion", "measured"], baselines=["majority"])
    assert (result.num_samples, set(result.methods)) == (18, {"mbert", "majority"})
    assert not any("built-in" in warning for warning in result.warnings)
    scores = mbert.score_predictions(Path(result.folder) / "predictions.parquet")
    assert scores.uf1 == result.methods["mbert"].scores.uf1
    assert mbert.load_model(workspace=workspace).state.step == 2


@pytest.fixture(scope="module")
def model():
    return MicronBert(mbert_config(attention="motion"))


def test_compare_takes_crops_and_gives_arrays(model, corpus):
    crops = mbert.open_frames(corpus.root)[0].images()
    assert crops.shape[1:] == (224, 224, 3)
    one = mbert.compare(crops[0], crops[8], model)
    assert (one.moved.shape, one.displacement.shape) == ((1, 14, 14), (1, 14, 14, 2))
    many = mbert.compare(crops[:40], crops[1:41], model)  # more than fit into one pass
    assert many.moved.shape == (40, 14, 14)
    assert 0 <= many.moved.min() <= many.moved.max() <= 1
    again = mbert.compare(crops[8:9], crops[8:9], model)
    assert np.abs(again.displacement).max() < 0.5  # nothing moved, as far as random weights can say
    np.testing.assert_allclose(mbert.compare(list(crops[:2]), list(crops[1:3]), model).moved, many.moved[:2], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda crop: crop.astype(np.float32) / 255, r"t1 has dtype float32 from 0 to 1; uint8 RGB"),
        (lambda crop: crop.transpose(2, 0, 1), r"t1 has shape \(3, 224, 224\); uint8 RGB of square face crops"),
        (lambda crop: crop[..., 0], r"t1 has shape \(224, 224\)"),
        (lambda crop: crop[:100], r"t1 has shape \(100, 224, 3\)"),
        (lambda crop: crop[::2, ::2], r"t0 has shape \(224, 224, 3\) and t1 \(112, 112, 3\); both must be the same"),
    ],
)
def test_compare_says_what_it_expects(model, face, change, told):
    crop = np.ascontiguousarray(face[:224, :224])
    with pytest.raises(ConfigError, match=told):
        mbert.compare(crop, change(crop), model)


def test_a_model_without_motion_has_no_displacement(face):
    crop = np.ascontiguousarray(face[:224, :224])
    found = mbert.compare(crop, crop, MicronBert(mbert_config(attention="diagonal")))
    assert found.moved.shape == (1, 14, 14)
    with pytest.raises(ModelError, match="attention='diagonal'; displacement needs attention='motion'"):
        found.displacement  # noqa: B018


def mbert_config(**changes):
    return dataclasses.replace(PRESETS["tiny"], **changes)


def test_where_a_named_folder_holds_no_model_the_next_step_is_told(tmp_path):
    with pytest.raises(ModelError, match="run `mbert train pretrain`"):
        mbert.load_model(tmp_path)


def test_clips_come_with_times_rows_labels_and_crops(corpus):
    frames = mbert.open_frames(corpus.root)
    assert len(frames) == len(list(frames)) == 18
    clip = frames[3]
    assert frames[clip.clip.clip_id] == clip
    assert isinstance(clip.clip, ClipRow)
    assert len(clip) == clip.clip.num_frames == len(clip.seconds) == len(clip.frame_indices)
    assert (np.diff(clip.seconds) > 0).all()
    (label,) = clip.labels
    onset = int(np.flatnonzero(clip.frame_indices == label.onset)[0])
    with twin_paths(corpus.frames, clip.clip.shard)[0].open("rb") as file:
        file.seek(clip.rows[onset].offset)
        assert file.read(3) == b"\xff\xd8\xff"
    crop = clip.images(onset, onset + 1)
    assert (crop.shape, crop.dtype) == ((1, 224, 224, 3), np.uint8)
    np.testing.assert_array_equal(clip.image_at(clip.seconds[onset] + 0.001), crop[0])
    assert clip.images(5, 5).shape[0] == 0
    with pytest.raises(ConfigError, match="there is no clip 'nobody'; clip_ids are like videos-"):
        frames["nobody"]
    with pytest.raises(ManifestError, match="run `mbert ingest FOLDER` first"):
        mbert.open_frames(corpus.root / "nowhere")


def test_pairs_come_as_arrays_with_their_rows(corpus):
    pairs = mbert.open_pairs(workspace=corpus.root)
    found = list(pairs)
    assert len(found) == len(pairs) > 200
    assert isinstance(found[0].row, PairRow)
    assert found[0].t0.shape == found[0].t1.shape == (224, 224, 3)
    clip = mbert.open_frames(corpus.root)[found[70].row.clip_id]
    place = int(np.flatnonzero(clip.frame_indices == found[70].row.t1)[0])
    np.testing.assert_array_equal(clip.images(place, place + 1)[0], found[70].t1)
    assert {pair.row.kind for pair in mbert.open_pairs(corpus.expressions)} == {"onset_apex"}
    with pytest.raises(ShardError, match="run `mbert shard --pairs` first"):
        mbert.open_pairs(workspace=corpus.root / "nowhere")


def test_rows_and_summaries_become_tables(corpus):
    table = mbert.to_pandas(mbert.open_frames(corpus.root).labels)
    assert list(table["emotion"].unique()) == ["disgust", "happiness", "surprise"]
    assert set(table.columns) == set(LabelRow.__dataclass_fields__)
    assert mbert.to_pandas([{"a": 1}, {"a": 2}])["a"].sum() == 3
    row = RunRow(
        name="x", kind="pretrain", state="finished", step=1, steps=1, loss=0.5, at="", reason="", checkpoint=None
    )
    assert mbert.to_pandas([row])["loss"][0] == 0.5
    with pytest.raises(ConfigError, match="int has no table"):
        mbert.to_pandas(3)


def test_pandas_is_no_dependency(tmp_path):
    code = "import sys; sys.modules['pandas'] = None\nimport mbert\nmbert.to_pandas([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError: tables need pandas: pip install pandas" in done.stderr


def test_import_mbert_is_light_and_says_what_it_offers():
    code = (
        "import sys, mbert\n"
        "print(sorted({'torch', 'mediapipe', 'cv2', 'pyarrow', 'numpy', 'typer'} & set(sys.modules)))\n"
        "print(mbert.ingest.__name__, 'torch' in sys.modules)\n"
        "print(sorted(set(mbert.__all__) - set(dir(mbert))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "ingest False", "[]"]
    assert (Path(mbert.__file__).parent / "py.typed").exists()
    assert mbert.ingest is api.ingest
