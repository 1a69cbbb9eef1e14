"""Labels come, change and go while a pretraining that reads no label is under way."""

import dataclasses
import json
import shutil

import pytest
import safetensors.torch
import torch

from mbert import ManifestError
from mbert.manifests.schema import ClipRow, LabelRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.model.scoring.config import EvalConfig
from mbert.model.scoring.evaluate import run_eval
from mbert.model.training.pretrain import PretrainConfig, run_pretrain
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard

CONFIG = PretrainConfig(preset="tiny", steps=8, batch_size=4, save_every=1, picture_every=0)
ONE_STEP = dataclasses.replace(CONFIG, max_minutes=1e-9)


def tensors(run, name):
    return safetensors.torch.load_file(run / "checkpoints" / "last" / f"{name}.safetensors")


def test_labels_are_added_corrected_and_removed_while_a_pretraining_goes_on(synthetic_videos, tmp_path):
    videos, workspace = tmp_path / "videos", Workspace(tmp_path / "workspace")
    shutil.copytree(synthetic_videos, videos)
    header, *lines = (videos / "labels.csv").read_text().splitlines()
    (videos / "labels.csv").unlink()
    run = workspace.runs / "pretrain"

    def use(*lines):
        """Ingest and shard with these labels, then train on for a step."""
        if lines:
            (videos / "labels.csv").write_text("\n".join([header, *lines]) + "\n")
        ingested = run_ingest(videos, workspace, IngestOptions(size=112))
        sharded = run_shard(workspace, PairOptions())
        trained = run_pretrain(workspace.pairs, run, ONE_STEP)
        assert trained.steps_done_now == 1
        return ingested.num_new, sharded.num_new_shards, sharded.kinds.get("onset_apex", 0)

    def score():
        result = run_eval(
            workspace.expressions, workspace.labels, run, tmp_path / "eval", EvalConfig(baselines=("majority",))
        )
        return result.samples["videos"]

    assert use() == (18, 1, 0)
    unbroken = run_pretrain(workspace.pairs, tmp_path / "unbroken", CONFIG)
    assert use(*lines[:12]) == (0, 1, 12)  # added
    assert sum(score().values()) == 12
    assert use(*lines) == (0, 1, 18)
    path, subject, onset, *rest = lines[0].split(",")
    corrected = [",".join([path, subject, str(int(onset) + 1), *rest]), *lines[1:]]
    assert use(*corrected) == (0, 1, 18)
    assert read_rows(workspace.labels, LabelRow)[0].onset == int(onset) + 1
    renamed = [line.replace("disgust,", "contempt,") for line in corrected]
    assert use(*renamed) == (0, 0, 18)  # a class is in no shard
    assert "contempt" in score()
    other_person = [line.replace(",s01,", ",s07,") for line in renamed]
    assert use(*other_person)[:2] == (0, 1)
    assert "videos/s07" in {clip.subject for clip in read_rows(workspace.clips, ClipRow)}
    assert use(*lines[3:]) == (0, 1, 15)  # removed
    assert len(read_rows(workspace.labels, LabelRow)) == 15
    (videos / "labels.csv").write_text("\n".join([header, *lines[4:]]) + "\n")
    run_ingest(videos, workspace, IngestOptions(size=112))
    with pytest.raises(ManifestError, match="came, went or moved"):  # ingested, but the pairs are not made yet
        score()
    finished = run_pretrain(workspace.pairs, run, CONFIG)
    assert (finished.steps_done, finished.steps_done_now) == (8, 1)
    assert finished.last.loss == unbroken.last.loss
    for name in ("model", "optimizer"):
        ours, theirs = tensors(run, name), tensors(tmp_path / "unbroken", name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    state = json.loads((run / "checkpoints" / "last" / "state.json").read_text())
    assert state["subjects"] == ["videos/s01", "videos/s02", "videos/s03", "videos/s07"]  # all that were ever named
