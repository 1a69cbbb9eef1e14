"""The look-alikes of all datasets, from their folders to scores: ingest -> shard -> eval, in one workspace."""

import pytest
from test_casme import casme  # noqa: F401
from test_casme3 import casme3  # noqa: F401
from test_casme_sq import casme_sq  # noqa: F401
from test_dfme import dfme  # noqa: F401
from test_fourdme import fourdme  # noqa: F401
from test_mmew import mmew  # noqa: F401
from test_samm import samm  # noqa: F401
from test_samm_lv import samm_lv  # noqa: F401
from test_smic import smic  # noqa: F401
from test_smic_e import smic_e  # noqa: F401

from mbert.manifests.files import read_json
from mbert.manifests.labels.report import report_labels
from mbert.manifests.schema import ClipRow, LabelRow, PairRow, VideoRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import MicronBert
from mbert.model.scoring.config import EvalConfig
from mbert.model.scoring.evaluate import run_eval
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.shards.engine import Engine
from mbert.shards.reader import list_shards

FOLDERS = ("casme", "casme2", "casme3", "casme_sq", "samm", "samm_lv", "smic", "smic_e", "mmew", "fourdme", "dfme")
# Of these the look-alikes have expressions with a class.
DATASETS = {
    *("casme", "casme2", "casme3", "casme3c", "casme_sq", "samm", "samm_lv", "smic", "smic_vis", "smic_nir"),
    *("smic_e", "smic_e_vis", "smic_e_nir", "mmew", "4dme", "dfme"),
}


@pytest.fixture(scope="module")
def everything(request, tmp_path_factory):
    """A workspace with all of them, in pair shards, and an encoder that has learned nothing."""
    workspace = Workspace(tmp_path_factory.mktemp("everything"))
    for name in FOLDERS:
        run_ingest(request.getfixturevalue(name), workspace, IngestOptions(size=96), engine=Engine(workers=2))
    run_shard(workspace, PairOptions(), engine=Engine(workers=2))
    MicronBert(PRESETS["tiny"]).save_pretrained(workspace.runs / "untrained")
    return workspace


def test_every_dataset_is_recognised_and_gives_pairs(everything):
    config = read_json(everything.corpus_config)
    assert set(config["datasets"]) == DATASETS | {"casme3b"}
    labelled, rows = (
        [row for name in list_shards(folder) for row in _rows(folder, name)]
        for folder in (everything.expressions, everything.pairs)
    )
    assert {row["dataset"] for row in labelled} == DATASETS
    assert {row["dataset"] for row in rows} >= DATASETS - {"casme2", "samm", "smic"}  # their look-alikes are too short
    assert {row["apex_source"] for row in labelled if row["dataset"].startswith("smic")} == {"middle"}
    assert all(row["subject"].partition("/")[2] for row in labelled)


def _rows(pairs, name):
    return read_table(twin_paths(pairs, name)[1], PairRow).to_pylist()


def test_nothing_is_lost(everything):
    """Each label is in a clip, or says why it is not; each input has crops, or says why it has none."""
    labels = read_rows(everything.labels, LabelRow)
    clips = {clip.clip_id for clip in read_rows(everything.clips, ClipRow)}
    assert {label.dataset for label in labels} >= DATASETS
    assert all(label.remark for label in labels if label.clip_id is None)
    assert all(label.clip_id in clips for label in labels if label.clip_id is not None)
    videos = read_rows(everything.videos, VideoRow)
    assert {row.status for row in videos} >= {"ok", "missing"}
    assert all(row.reason for row in videos if row.status != "ok")


def test_the_report_names_every_dataset_and_what_differs(everything):
    report = report_labels(everything)
    assert {dataset.dataset for dataset in report.datasets} == DATASETS
    assert any(difference.kind == "missing" for difference in report.differences)
    assert any("casme2-5" in line for line in report.count_differences)


@pytest.mark.parametrize("dataset", sorted(DATASETS))
def test_every_dataset_is_scored(everything, tmp_path, dataset):
    """Alone where its look-alike shows two people, else beside CASME II."""
    beside = ("casme2",) if dataset in ("smic_vis", "smic_nir", "smic_e_vis", "smic_e_nir") else ()
    config = EvalConfig(datasets=(dataset, *beside), baselines=("majority", "frame_difference"))
    result = run_eval(
        everything.expressions, everything.labels, everything.runs / "untrained", tmp_path / "out", config
    )
    assert set(result.samples) == {dataset, *beside}
    assert result.methods["mbert"].scores.num_samples == sum(sum(counts.values()) for counts in result.samples.values())


def test_the_composite_of_three_databases(everything, tmp_path):
    config = EvalConfig(protocol="cde", baselines=("majority",))
    result = run_eval(
        everything.expressions, everything.labels, everything.runs / "untrained", tmp_path / "out", config
    )
    assert set(result.samples) == {"casme2", "samm", "smic"}
    assert result.num_folds == result.num_subjects


def test_action_units_across_six_datasets(everything, tmp_path):
    config = EvalConfig(protocol="cd6me", baselines=("majority",))
    result = run_eval(
        everything.expressions, everything.labels, everything.runs / "untrained", tmp_path / "out", config
    )
    assert result.num_folds == 6
    assert set(result.methods["mbert"].per_dataset) == {"casme", "casme2", "samm", "4dme", "mmew", "casme3"}


def test_leaving_out_one_release_of_the_same_people_is_a_leak(everything, tmp_path):
    config = EvalConfig(protocol="lodo", datasets=("smic", "smic_e"), baselines=())
    with pytest.raises(Exception, match="the same person"):
        run_eval(everything.expressions, everything.labels, everything.runs / "untrained", tmp_path / "out", config)


def test_a_dataset_can_be_named_instead_of_recognised(everything, request, tmp_path):
    folder = request.getfixturevalue("casme2")
    choice = CorpusChoice(dataset="casme2", distribution="cropped", errata="none")
    summary = run_ingest(folder, Workspace(tmp_path), IngestOptions(size=96), choice=choice)
    assert summary.statuses["ok"] == 5
    assert read_json(Workspace(tmp_path).corpus_config)["datasets"]["casme2"]["errata"]["choice"] == "none"
