"""Shared by the functions of the API: which words an option allows, and the defaults for what is not given."""

import functools
import inspect
import os
import shlex
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from mbert import ConfigError
from mbert.manifests.workspace import Workspace

if TYPE_CHECKING:
    from mbert.shards.engine import Engine


Where = str | Path
EngineName = Literal["local", "ray"]
DEFAULT_WORKSPACE = Path("workspace")
Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def choices_checked(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Reject words that an option does not allow, as the command line does."""
    signature = inspect.signature(function)
    choices = {name: _words(parameter.annotation) for name, parameter in signature.parameters.items()}

    @functools.wraps(function)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if choices[name] and value not in choices[name]:
                raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(map(str, choices[name]))}")
        return function(*args, **kwargs)

    return checked


def _words(annotation: Any) -> tuple[Any, ...]:
    """The words of a Literal, and None if it is allowed; empty for any other type."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    parts = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    if not any(typing.get_origin(part) is Literal for part in parts):
        return ()
    return tuple(word for part in parts for word in (_words(part) or (None,)))


def checkpoint_of(model: Where | None, space: Workspace) -> Where:
    """The given model, else the workspace's pretraining run, else the built-in model."""
    from mbert.weights import BUILT_IN

    pretrained = space.runs / "pretrain"
    return model or (pretrained if (pretrained / "checkpoints").exists() else BUILT_IN)


def engine_of(
    kind: EngineName, workers: int | None, address: str | None = None, timeout: float | None = None
) -> "Engine":
    """Where the tasks of a pipeline run."""
    from mbert.shards.engine import Engine, default_workers

    return Engine(kind=kind, workers=workers or default_workers(), address=address, timeout_seconds=timeout)


def max_faces_of(faces: str | int) -> int | None:
    """The number of faces that `faces` means; None: all. Raises ConfigError for any other word."""
    named = {"all": None, "largest": 1}
    text = str(faces)
    if text not in named and not text.isdecimal():
        raise ConfigError(f"--faces is {text!r}; allowed are all, largest, or a number")
    return named[text] if text in named else int(text)


def command_line(function: Callable[..., Any], argument: Where, chosen: Mapping[str, Any]) -> str:
    """The equivalent command, with the options that differ from their defaults."""
    usual = inspect.signature(function).parameters
    text = str(argument)
    words = ["mbert", function.__name__, f"./{text}" if text.startswith("-") else text]
    for name, value in chosen.items():
        flag = name.replace("_", "-")
        if value == usual[name].default or str(value) == str(usual[name].default):
            continue
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)


def path_of(where: Where | None) -> Path | None:
    """A place as a path; None stays None."""
    return None if where is None else Path(where)


def given_only(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def is_first_process() -> bool:
    """Whether this is the first of torchrun's processes; the others work silently."""
    return os.environ.get("RANK", "0") == "0"
