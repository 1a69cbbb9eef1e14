"""The Python API: each command as a function with the same options, plus tools to inspect data and models.

`import mbert` exposes every name here and loads it on first use. Each function returns the summary that its command
prints and raises the errors that the command reports. Functions passed as `on_...` are called as the work progresses.
"""

from mbert.api.arrays import compare, load_model, open_frames, open_pairs, to_pandas
from mbert.api.corpus import forget, info, ingest, lift, preview, shard, synthesize
from mbert.api.options import engine_of, is_first_process
from mbert.api.prediction import build_weights, predict
from mbert.api.training import evaluate, finetune, pretrain, report, score_predictions

__all__ = [
    "build_weights",
    "compare",
    "engine_of",
    "evaluate",
    "finetune",
    "forget",
    "info",
    "ingest",
    "is_first_process",
    "lift",
    "load_model",
    "open_frames",
    "open_pairs",
    "predict",
    "pretrain",
    "preview",
    "report",
    "score_predictions",
    "shard",
    "synthesize",
    "to_pandas",
]
