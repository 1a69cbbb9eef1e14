"""Models, crops, pairs and tables to look at in Python."""

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
    """A trained μ-BERT, ready to use: a run, a checkpoint folder, a file, or a name on the hub.

    None: the workspace's run `pretrain` where there is one, else the model that comes with mbert. Raises ModelError
    when there is no such model.
    """
    from mbert.model.network.micron_bert import MicronBert

    return MicronBert.from_pretrained(checkpoint_of(model, Workspace(Path(workspace)))).eval()


def compare(t0: Any, t1: Any, model: "MicronBert | Where | None" = None) -> "Comparison":
    """What moved from one aligned face crop to another.

    `t0` is the earlier crop, `t1` the later one: uint8 RGB arrays (H, W, 3), or batches (B, H, W, 3), as `mbert ingest`
    writes them. `model` is whatever `load_model` takes, or a model, which saves loading it each time. Raises
    ConfigError that says what is expected of an array, ModelError without a model.
    """
    from mbert.model.network.compare import compare_crops
    from mbert.model.network.micron_bert import MicronBert

    return compare_crops(t0, t1, model if isinstance(model, MicronBert) else load_model(model))


def open_frames(workspace: Where = DEFAULT_WORKSPACE) -> "CorpusFrames":
    """The clips of an ingested corpus and their crops as arrays, with times, rows and labels.

    Raises ManifestError where there is no corpus.
    """
    from mbert.shards.frames import CorpusFrames

    return CorpusFrames(Workspace(Path(workspace)))


def open_pairs(
    shards: Where | None = None, *, workspace: Where = DEFAULT_WORKSPACE, cache: Where | None = None
) -> "PairFrames":
    """The frame pairs of shards as arrays, with their rows: a folder, a URL or a brace pattern.

    None: the sampled pairs of the workspace; those of expressions are in `WORKSPACE/shards/expressions`. Raises
    ShardError where there are none.
    """
    from mbert.shards.frames import PairFrames
    from mbert.shards.source import open_source

    return PairFrames(open_source(shards or Workspace(Path(workspace)).pairs, cache=path_of(cache)))


def to_pandas(rows: Any) -> "pandas.DataFrame":
    """Rows (of clips, labels, pairs, runs, differences, ...) or a summary with a table as a pandas DataFrame.

    Raises ConfigError where pandas is not installed, and for what has no table.
    """
    from mbert.manifests.tables import to_pandas as convert

    return convert(rows)
