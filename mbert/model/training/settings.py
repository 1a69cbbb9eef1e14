"""Options of a run from a YAML file and from `key=value` words, checked against the fields of a configuration."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mbert import ConfigError

Config = TypeVar("Config")
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # YAML 1.1 reads 1e-4, without a point, as a string


def read_settings(file: Path | None, words: Sequence[str]) -> dict[str, Any]:
    """The settings of a YAML file, then those of `words` such as `objective.swap_ratio=0.3`, which win.

    Raises ConfigError for a file that is not a YAML mapping and for a word without `=`.
    """
    settings: dict[str, Any] = {}
    if file is not None:
        try:
            settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
            raise ConfigError(f"{file} cannot be read as YAML: {exc}") from exc
        if not isinstance(settings, dict):
            raise ConfigError(f"{file} holds a {type(settings).__name__}; a mapping of names to values is expected")
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set takes name=value, such as model.poi=false; got {word!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise ConfigError(f"--set {word}: the value is not understood") from exc
        _put(settings, name, value)
    return settings


def configured(
    config: Config,
    file: Path | str | None,
    assignments: Sequence[str] | Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Config:
    """A configuration with the settings of a YAML file, then those of `assignments`, then the given options.

    `assignments` are words such as `objective.swap_ratio=0.3`, or names with values. An option that is None, or a group
    of such options, counts as not given. Raises ConfigError as `read_settings` and `with_settings` do.
    """
    words = [] if assignments is None or isinstance(assignments, Mapping) else assignments
    settings = read_settings(None if file is None else Path(file), words)
    for name, value in assignments.items() if isinstance(assignments, Mapping) else ():
        _put(settings, name, value)
    return with_settings(with_settings(config, settings), _given(options))


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    nested = {name: _given(value) if isinstance(value, Mapping) else value for name, value in options.items()}
    return {name: value for name, value in nested.items() if value is not None and value != {}}


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    *groups, last = name.split(".")
    for group in groups:
        settings = settings.setdefault(group, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"{name}: {group} is a value, not a group of settings")
    settings[last] = value


def with_settings(config: Config, settings: Mapping[str, Any], *, group: str = "") -> Config:
    """A copy of a configuration (a dataclass, which may hold others) with some fields changed.

    Raises ConfigError for an unknown name, with the nearest known one, and for a value of another type.
    """
    hints = typing.get_type_hints(type(config))
    changed = {}
    for name, value in settings.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1)
            hint = f"did you mean {group}{near[0]}?" if near else f"known are {', '.join(hints)}"
            raise ConfigError(f"there is no setting {group}{name}; {hint}")
        before = getattr(config, name)
        if dataclasses.is_dataclass(before) and not isinstance(before, type):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{group}{name} is a group of settings; give {group}{name}.NAME=VALUE")
            changed[name] = with_settings(before, value, group=f"{group}{name}.")
        else:
            changed[name] = _checked(value, hints[name], f"{group}{name}")
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]


def _checked(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type of its field; an integer is accepted for a float."""
    options = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else None
    if options is not None:
        if value not in options:
            raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(map(str, options))}")
        return value
    if lists := [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is tuple]:
        if value is None and type(None) in typing.get_args(hint):
            return None
        kind = typing.get_args(lists[0])[0]  # of any length, as tuple[str, ...]
        if not isinstance(value, list | tuple) or any(not isinstance(item, kind) for item in value):
            raise ConfigError(f"{name} is {value!r}; a list of {kind.__name__} is expected")
        return tuple(value)
    kinds = [typing.get_origin(part) or part for part in typing.get_args(hint) or [hint]]
    if typing.get_origin(hint) is dict:
        kinds = [dict]
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if float in kinds and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    if type(value) not in kinds:
        wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigError(f"{name} is {value!r}; {wanted} is expected")
    return value
