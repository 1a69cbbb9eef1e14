"""An evaluation as its page shows it: read from the folder that `mbert eval` wrote."""

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mbert import ManifestError
from mbert.manifests.files import read_json
from mbert.manifests.runs import (
    METHODS,
    ClassScores,
    EvaluationFacts,
    GroupScores,
    MethodScores,
    RunEntry,
    RunLink,
    Score,
)
from mbert.model.scoring.config import ACTION_UNITS, OURS
from mbert.model.scoring.worst_pairs import PREDICTIONS, worst_pairs
from mbert.model.training.places import linked_run

RESULTS = "results.json"
# The displayed name of a measure -> its name in results.json, also with `_interval` and `chance_`.
_MEASURES = {"UF1": "uf1", "UAR": "uar", "Accuracy": "accuracy", "Weighted F1": "weighted_f1"}
_UNIT_MEASURES = {"F1": "binary_of_defined", "Macro F1": "macro_of_defined"}


def read_evaluation(run: Path) -> EvaluationFacts:
    """An evaluation's results, with pictures of the pairs it got most wrong if shards and model are available.

    Raises ManifestError naming the file that cannot be read.
    """
    path = run / RESULTS
    results = read_json(path)
    rows = _read_predictions(run / PREDICTIONS)
    try:
        return _facts(run, results, rows)
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ManifestError(
            f"{path} is not a result of this version of mbert ({exc!r}): run `mbert eval` again"
        ) from exc


def read_entry(run: Path) -> RunEntry:
    """The evaluation as a row of a table; raises as `read_evaluation`."""
    path = run / RESULTS
    results = read_json(path)
    try:
        settings = {name: value for name, value in results["settings"].items() if name not in ("baselines", "workers")}
        settings |= {
            "checkpoint": results["checkpoint"],
            "classes": results["classes"],
            "inputs": results["inputs"],
            "corpus": str(results["corpus"])[:12],
        }
        return RunEntry(
            name=run.name,
            kind="eval",
            state="finished",
            at=_time_of(path),
            scores=_scores(results["methods"][OURS]["scores"], _measures(results)),
            what=f"{results['num_samples']} expressions of {results['num_subjects']} people",
            settings=settings,
        )
    except (KeyError, TypeError, AttributeError) as exc:
        raise ManifestError(
            f"{path} is not a result of this version of mbert ({exc!r}): run `mbert eval` again"
        ) from exc


def scored_model(run: Path) -> RunLink:
    """The checkpoint that an evaluation scored, and its run; raises as `read_evaluation`."""
    path = run / RESULTS
    results = read_json(path)
    try:
        return linked_run(results["checkpoint"], results.get("places", {}).get("checkpoint"), run)
    except (KeyError, TypeError, AttributeError) as exc:
        raise _other_version(path, exc) from exc


def evaluations_of(run: Path) -> list[RunLink]:
    """The evaluations next to a training run that scored one of its checkpoints, by name."""
    found = []
    for path in sorted(run.resolve().parent.glob(f"*/{RESULTS}")):
        try:
            if scored_model(path.parent).run != str(run.resolve()):
                continue
            results = read_json(path)
            found.append(
                RunLink(
                    name=path.parent.name,
                    run=str(path.parent),
                    what=f"{results['protocol']}, {results['classes']}, {results['mode']}",
                    scores=_scores(results["methods"][OURS]["scores"], _measures(results)),
                )
            )
        except (ManifestError, KeyError, TypeError, AttributeError):
            continue  # from another version: irrelevant to this run
    return found


def _facts(run: Path, results: dict[str, Any], rows: Sequence[dict[str, Any]]) -> EvaluationFacts:
    measures = _measures(results)
    methods = {name: results["methods"][name] for name in (OURS, *_ordered(results["methods"]))}
    ours = methods[OURS]
    num_wrong, wrong, without = worst_pairs(run, results, rows)
    return EvaluationFacts(
        name=run.name,
        at=_time_of(run / RESULTS),
        **{
            name: results[name]
            for name in (
                *("protocol", "classes", "mode", "select", "frames", "num_samples", "num_subjects", "num_folds"),
                *("seconds", "evaluations_before", "samples", "left_out", "apex_sources", "settings"),
            )
        },
        inputs=tuple(results["inputs"]),
        seeds=tuple(results["seeds"]),
        measures=tuple(measures),
        methods=tuple(_method(name, None, each, each["scores"], measures) for name, each in methods.items()),
        per_dataset=tuple(
            _method(name, dataset, each, each["per_dataset"][dataset], measures)
            for dataset in ours["per_dataset"]
            for name, each in methods.items()
        ),
        class_names=tuple(ours["scores"].get("classes", ())),
        confusion=ours["scores"].get("confusion", ()),
        per_class=tuple(_per_class(ours["scores"])),
        per_subject=tuple(_groups(rows, "subject")),
        per_fold=tuple(_groups(rows, "fold")),
        num_wrong=num_wrong,
        wrong=tuple(wrong),
        without_pictures=without,
        warnings=(*results["warnings"], *_forgotten(results)),
        saw_frames_of=tuple(results["encoder_saw_test_subjects"]),
        learned_labels_of=tuple(results["encoder_learned_labels_of"]),
        checkpoint=scored_model(run),
        files=frozenset(path.name for path in run.iterdir()),
        versions={"mbert": results.get("mbert_version"), "corpus": str(results["corpus"])[:12]},
    )


def _read_predictions(path: Path) -> list[dict[str, Any]]:
    try:
        return list(pq.read_table(path).to_pylist())
    except FileNotFoundError as exc:
        raise ManifestError(f"{path} does not exist: run `mbert eval` again") from exc
    except (OSError, pa.ArrowInvalid) as exc:
        raise ManifestError(f"{path} cannot be read as Parquet: {exc}") from exc


def _measures(results: Mapping[str, Any]) -> dict[str, str]:
    return _UNIT_MEASURES if results["classes"] == ACTION_UNITS else _MEASURES


def _ordered(methods: Mapping[str, Any]) -> list[str]:
    """The baselines in reading order: JSON sorts them by name."""
    known = list(METHODS)
    return sorted(set(methods) - {OURS}, key=lambda name: (known.index(name) if name in known else len(known), name))


def _scores(scores: Mapping[str, Any], measures: Mapping[str, str]) -> dict[str, Score]:
    found = {}
    for told, name in measures.items():
        low, high = scores.get(f"{name}_interval") or (None, None)
        found[told] = Score(value=scores[name], low=low, high=high)
    return found


def _method(
    name: str, dataset: str | None, of: Mapping[str, Any], scores: Mapping[str, Any], measures: Mapping[str, str]
) -> MethodScores:
    difference, spread = of["difference"] or {}, of["over_seeds"] or {}
    compared = {told: each for told, each in measures.items() if each in difference}
    return MethodScores(
        method=name,
        dataset=dataset,
        scores=_scores(scores, measures),
        chance={told: scores.get(f"chance_{each}") for told, each in measures.items()},
        differences=_scores(difference, compared) if dataset is None else {},
        over_seeds={
            told: (spread[each]["mean"], spread[each]["standard_deviation"])
            for told, each in measures.items()
            if dataset is None and each in spread and spread[each]["mean"] is not None
        },
        select=of["select"],
    )


def _per_class(scores: Mapping[str, Any]) -> list[ClassScores]:
    if "per_unit" in scores:
        return [
            ClassScores(
                name=name,
                scores={"F1": each["binary"], "Macro F1": each["macro"]},
                support=each["positives"],
                predicted=each["predicted"],
            )
            for name, each in sorted(scores["per_unit"].items(), key=lambda item: int(item[0].removeprefix("AU")))
        ]
    return [
        ClassScores(
            name=name,
            scores={"F1": each["f1"], "Recall": each["recall"], "Precision": each["precision"]},
            support=each["support"],
            predicted=each["predicted"],
        )
        for name, each in ((name, scores["per_class"][name]) for name in scores["classes"])
    ]


def _groups(rows: Sequence[dict[str, Any]], column: str) -> list[GroupScores]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return [
        GroupScores(
            name=name,
            num_samples=len(group),
            num_right=sum(row["prediction"] == row["label"] for row in group),
            num_people=len({row["subject"] for row in group}),
        )
        for name, group in sorted(groups.items())
    ]


def _forgotten(results: Mapping[str, Any]) -> list[str]:
    if not results.get("forgotten"):
        return []
    return [f"{len(results['forgotten'])} inputs were forgotten since: the scores still count them in"]


def _other_version(path: Path, exc: Exception) -> ManifestError:
    return ManifestError(f"{path} is not a result of this version of mbert ({exc!r}): run `mbert eval` again")


def _time_of(path: Path) -> str:
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).isoformat(timespec="seconds")
