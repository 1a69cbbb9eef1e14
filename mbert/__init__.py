"""Micron-BERT (μ-BERT) made real: face video -> aligned frame pairs -> pretraining -> honest scores.

This exposes the Python API (docs/python.md); each name is loaded on first use:

    predict                                                                       what moves in any face video
    ingest, shard, pretrain, finetune, evaluate, score_predictions, synthesize    the commands as functions
    load_model, compare, build_weights, MicronBert                                models, and what moved in a pair
    open_frames, open_pairs, to_pandas                                            crops, pairs and tables
    info, preview                                                                 what is in a workspace
    report                                                                        pages about runs
    forget, lift                                                                  withdrawn consent

Exceptions, all for problems that the user can fix:

    MbertError
    ├── ConfigError     an option, or a combination of options, is not allowed: nothing was done
    ├── InputError      one input cannot be used: it becomes a manifest row with a status and a reason
    ├── ManifestError   a manifest or a label file is missing, or does not match its schema
    ├── ShardError      a tar is missing or does not match its manifest
    └── ModelError      a checkpoint cannot be loaded, or a run cannot be resumed
"""

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "InputError",
    "ManifestError",
    "MbertError",
    "MicronBert",
    "ModelError",
    "ShardError",
    "__version__",
    "build_weights",
    "compare",
    "evaluate",
    "finetune",
    "forget",
    "info",
    "ingest",
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


class MbertError(Exception):
    """Base of all errors that the user sees as one line, without a traceback."""

    is_reported = False  # reported by another process of this run


class ConfigError(MbertError):
    """An option or a combination of options is not allowed."""


class InputError(MbertError):
    """One input cannot be used; `status` is one of `mbert.manifests.schema.STATUSES`."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str]]:
        # Errors travel between processes; the default pickling of exceptions loses the second argument.
        return (InputError, (self.status, self.reason))


class ManifestError(MbertError):
    """A manifest or a label file is missing or wrong."""


class ShardError(MbertError):
    """A tar is missing or does not match its manifest."""


class ModelError(MbertError):
    """A checkpoint cannot be loaded, or a run cannot be resumed."""


def _let_idle_threads_sleep() -> None:
    """Keep a run on the CPU usable on a machine that others use too; affects speed, never results.

    An OpenMP thread that waits for the others spins for milliseconds before it sleeps. If another program occupies the
    core, the thread it waits for makes no progress meanwhile: a single other busy process slowed training on two cores
    to a fifteenth of its speed (docs/benchmarks.md). OpenMP reads its settings once, when torch loads it, so they are
    set here: this module runs before anything else of mbert is imported. Processes started later inherit them.
    """
    if any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
        return  # the user knows better
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1") and any(Path("/dev").glob("nvidia[0-9]*")):
        return  # a run on a GPU, which does the work; querying torch would load it
    os.environ["OMP_WAIT_POLICY"] = "passive"


_let_idle_threads_sleep()

if TYPE_CHECKING:
    from mbert.api import (
        build_weights,
        compare,
        evaluate,
        finetune,
        forget,
        info,
        ingest,
        lift,
        load_model,
        open_frames,
        open_pairs,
        predict,
        pretrain,
        preview,
        report,
        score_predictions,
        shard,
        synthesize,
        to_pandas,
    )
    from mbert.model.network.micron_bert import MicronBert
else:

    def __getattr__(name: str) -> Any:
        """Load a name of the API on first use, which keeps `import mbert` light."""
        if name not in __all__:
            raise AttributeError(f"module 'mbert' has no attribute {name!r}")
        home = "mbert.model.network.micron_bert" if name == "MicronBert" else "mbert.api"
        found = getattr(importlib.import_module(home), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
