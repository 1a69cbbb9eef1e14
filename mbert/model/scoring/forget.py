"""Runs and forgotten inputs: which runs have seen them, and which of their files show or name them."""

import dataclasses
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mbert import ManifestError
from mbert.manifests.files import is_locked, read_json, write_json
from mbert.manifests.labels.people import person
from mbert.manifests.runs import REPORT
from mbert.manifests.scrub import Scrubber
from mbert.manifests.subject import Subject
from mbert.model.network.weights import STATE

_RESULTS, _CONFIG = "results.json", "config.json"
# Files that show pairs or combine samples: their parts cannot be attributed to a person.
_SHOWING = ("pictures", "tensorboard", "features", "folds", REPORT)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The content of the inputs, to check whether a run has seen them."""

    persons: Collection[str]  # shown in them
    corpora: Collection[str]  # fingerprints of the corpus and its shards
    all_shown_named: bool  # each names somebody
    scrubber: Scrubber


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunFound:
    """A run that has seen, or may have seen, what is forgotten."""

    run: str
    is_sure: bool
    checkpoints: tuple[str, ...]


def find_runs(folder: Path, seen: Seen) -> list[RunFound]:
    """The runs below a folder that have, or may have, seen the inputs.

    Raises ManifestError if one is in progress: it would write again what is removed.
    """
    found = []
    for run in sorted(path for path in folder.glob("*") if path.is_dir()):
        if any(is_locked(lock.parent) for lock in run.rglob(".lock")):
            raise ManifestError(f"a command is at work in {run}: wait for it, or stop it, then run the same again")
        states = sorted(run.rglob(STATE))
        answers = [
            _has_seen(_object(state), _object(run / _CONFIG), seen) for state in states if not _is_link(state, run)
        ]
        answers.append(_has_rows(run, seen.scrubber))
        if any(answer is not False for answer in answers):
            checkpoints = tuple(str(state.parent.relative_to(run)) for state in states if not _is_link(state, run))
            found.append(RunFound(run=str(run), is_sure=any(answers), checkpoints=checkpoints))
    return found


def _is_link(file: Path, run: Path) -> bool:
    """Whether a file is reached through `last` or `best`."""
    return any(parent.is_symlink() for parent in file.parents if run in parent.parents)


def _has_seen(state: Mapping[str, Any], config: Mapping[str, Any], seen: Seen) -> bool | None:
    """Whether a run has seen the inputs; None if that cannot be known."""
    persons = {person(Subject.parse(name)) for name in seen.persons}
    if persons & {person(Subject.parse(name)) for name in state.get("subjects", ())}:
        return True
    excluded = set((config.get("settings") or {}).get("exclude_subjects") or ())
    if seen.all_shown_named and all({name, Subject.parse(name).dataset} & excluded for name in seen.persons):
        return False
    if config.get("kind") == "finetune" and seen.all_shown_named:  # it learns only from people who are named
        return False
    return True if state.get("corpus") in seen.corpora else None


def _has_rows(run: Path, scrubber: Scrubber) -> bool:
    for file in run.rglob("*.parquet"):
        names = {"clip_id", "key", "subject"} & set(pq.read_schema(file).names)
        table = pq.read_table(file, columns=sorted(names))
        if any(scrubber.is_named(str(text)) for name in names for text in table[name].unique().to_pylist()):
            return True
    return False


def forget_in_runs(folder: Path, found: Collection[RunFound], scrubber: Scrubber, ids: Collection[str]) -> list[str]:
    """Remove names and rows from all runs, delete files that show faces, and record it in the runs that saw the inputs.

    Returns the files and folders that were deleted or rewritten. The weights stay as they are.
    """
    done = []
    for run in map(Path, sorted(each.run for each in found)):
        for path in sorted(run.rglob("*")):
            if path.name in _SHOWING and not path.is_symlink():
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                done.append(f"{path} (deleted)")
        for file in [*run.rglob(STATE), run / _RESULTS]:
            if file.exists() and not _is_link(file, run):
                value = read_json(file)
                value["forgotten"] = sorted({*value.get("forgotten", ()), *ids})
                write_json(file, value)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    done += [str(file) for file in files if not _is_link(file, folder) and scrubber.file(file)]
    return done


def _object(file: Path) -> dict[str, Any]:
    try:
        value = read_json(file)
    except ManifestError:
        return {}
    return value if isinstance(value, dict) else {}
