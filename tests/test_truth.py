"""The truth in the crops: what the field says is what the pixels of the ingested crops do."""

import dataclasses

import numpy as np
import pytest

from mbert import ConfigError
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.synthetic.nuisance import Nuisance
from mbert.pipeline.synthetic.synthesize import SynthesisOptions, synthesize
from mbert.pipeline.synthetic.truth import true_pairs
from mbert.shards.optical_flow import optical_flow

QUIET = Nuisance(**{field.name: 0 for field in dataclasses.fields(Nuisance)})


def test_field_agrees_with_the_motion_between_the_crops(tmp_path):
    options = SynthesisOptions(
        subjects_per_photo=2, clips_per_emotion=1, neutral_clips=1, fps=30, min_amplitude_px=1.5, nuisance=QUIET
    )
    synthesize(tmp_path / "videos", options)
    workspace = Workspace(tmp_path / "workspace")
    run_ingest(tmp_path / "videos", workspace, IngestOptions())
    pairs = list(true_pairs(tmp_path / "videos", workspace))
    assert len(pairs) == 8
    for pair in pairs:
        length = np.linalg.norm(pair.expression, axis=-1)
        assert pair.expression.shape == (*pair.t0.shape[:2], 2)
        assert length.max() == pytest.approx(pair.row.amplitude_px, rel=0.15, abs=0.01)  # at a face of its own size
        assert not pair.distractor.any()
        moving = length > 0.5
        if pair.row.emotion != "neutral":
            error = optical_flow(pair.t0, pair.t1) - pair.expression
            still = np.linalg.norm(pair.expression[moving], axis=-1).mean()
            assert np.linalg.norm(error[moving], axis=-1).mean() < 0.5 * still  # far from it with x and y exchanged


def test_videos_that_were_not_ingested_are_told(synthetic_videos, corpus, tmp_path):
    synthesize(
        tmp_path / "other",
        SynthesisOptions(subjects_per_photo=1, clips_per_emotion=1, fps=30, seed=5, frame_folders=True),
    )
    with pytest.raises(ConfigError, match="run mbert ingest"):
        list(true_pairs(tmp_path / "other", corpus))
    pairs = list(true_pairs(synthetic_videos, corpus))
    assert len(pairs) == 18
    asked = [pairs[place].row for place in (7, 2)]
    assert [pair.row for pair in true_pairs(synthetic_videos, corpus, asked)] == asked
