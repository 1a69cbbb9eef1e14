"""Models, crops, pairs and tables for use in Python."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbert.api.options import DEFAULT_WORKSPACE, Where, checkpoint_of, path_of
from mbert.manifests.workspace import Workspace

if TYPE_CHECKING:
    import pandas

    from mbert.model.network.compare import Comparison
    from mbert.model.network.micron_bert import MicronBert
    from mbert.shards.frames import CorpusFrames, PairFrames


def load_model(model: Where | None = None, *, workspace: Where = DEFAULT_WORKSPACE) -> "MicronBert":
    """Load a trained μ-BERT, ready to use, from a run, a checkpoint folder, a file, or a name on the hub.

    None: the workspace's run `pretrain` if there is one, else the model that ships with mbert. Raises ModelError if
    there is no such model.
    """
    from mbert.model.network.micron_bert import MicronBert

    return MicronBert.from_pretrained(checkpoint_of(model, Workspace(Path(workspace)))).eval()


def compare(t0: Any, t1: Any, model: "MicronBert | Where | None" = None) -> "Comparison":
    """Find what moved from one aligned face crop to another.

    `t0` is the earlier crop, `t1` the later one: uint8 RGB arrays (H, W, 3), or batches (B, H, W, 3), as `mbert ingest`
    writes them. `model` is anything `load_model` takes, or a loaded model, which avoids loading it on each call. Raises
    ConfigError for an unsuitable array (the message says what is expected), ModelError if there is no model.
    """
    from mbert.model.network.compare import compare_crops
    from mbert.model.network.micron_bert import MicronBert

    return compare_crops(t0, t1, model if isinstance(model, MicronBert) else load_model(model))


def open_frames(workspace: Where = DEFAULT_WORKSPACE) -> "CorpusFrames":
    """Open the clips of an ingested corpus and their crops as arrays, with times, rows and labels.

    Raises ManifestError if there is no corpus.
    """
    from mbert.shards.frames import CorpusFrames

    return CorpusFrames(Workspace(Path(workspace)))


def open_pairs(
    shards: Where | None = None, *, workspace: Where = DEFAULT_WORKSPACE, cache: Where | None = None
) -> "PairFrames":
    """Open the frame pairs of shards as arrays, with their rows, from a folder, a URL or a brace pattern.

    None: the workspace's sampled pairs; pairs of expressions are in `WORKSPACE/shards/expressions`. Raises ShardError
    if there are none.
    """
    from mbert.shards.frames import PairFrames
    from mbert.shards.source import open_source

    return PairFrames(open_source(shards or Workspace(Path(workspace)).pairs, cache=path_of(cache)))


def to_pandas(rows: Any) -> "pandas.DataFrame":
    """Convert rows (of clips, labels, pairs, runs, differences, ...) or a summary with a table to a pandas DataFrame.

    Raises ConfigError if pandas is not installed, or if `rows` has no table.
    """
    from mbert.manifests.tables import to_pandas as convert

    return convert(rows)
