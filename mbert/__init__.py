"""Micron-BERT (μ-BERT) made real: face video -> aligned frame pairs -> pretraining -> honest scores.

Exceptions, all of them something the user can mend:

    MbertError
    ├── ConfigError     an option, or a mixture of options, is not allowed: nothing was done
    ├── InputError      one input cannot be used: it becomes a manifest row with a status and a reason
    ├── ManifestError   a manifest or a label file is missing, or is not what its schema says
    ├── ShardError      a tar is missing or does not hold what its manifest says
    └── ModelError      a checkpoint or a training run cannot go on
"""

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "InputError",
    "ManifestError",
    "MbertError",
    "ModelError",
    "ShardError",
    "__version__",
]


class MbertError(Exception):
    """Base of every error that is told to the user as one line, without a traceback."""

    is_told = False  # by another process of this run


class ConfigError(MbertError):
    """An option or a mixture of options is not allowed."""


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
    """A tar is missing or does not hold what its manifest says."""


class ModelError(MbertError):
    """A checkpoint cannot be loaded, or a training run cannot go on."""
