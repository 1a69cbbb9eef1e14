"""`mbert eval`: what a μ-BERT knows about micro-expressions, under a protocol, next to baselines on the same folds.

Whatever is fitted in a fold sees only the fold's training side, and nothing is chosen by a score unless that is
requested and reported. An interrupted evaluation resumes where it stopped.
"""

import dataclasses
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mbert import ConfigError, ManifestError, __version__
from mbert.manifests.files import read_json, replacing, write_json
from mbert.manifests.labels.action_units import CD6ME_UNITS, unit_targets
from mbert.manifests.labels.folds import Fold, check_folds, check_samples, make_folds
from mbert.manifests.labels.people import person
from mbert.manifests.labels.published import expected
from mbert.manifests.subject import Subject
from mbert.model.data.labelled import Expression, labelled_expressions
from mbert.model.network.classifier import FOLDER as CLASSIFIER_FOLDER
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.weights import hash_weights
from mbert.model.scoring.config import ACTION_UNITS, BASELINES, OURS, EvalConfig
from mbert.model.scoring.confusion import defined
from mbert.model.scoring.difference import ScoreDifference, UnitDifference, score_difference, unit_difference
from mbert.model.scoring.methods import Confidence, Methods, OnProgress, Predictions, hash_of
from mbert.model.scoring.metrics import Scores, SeedScores, over_seeds, score, score_by_dataset
from mbert.model.scoring.recordings import recording_warnings
from mbert.model.scoring.unit_metrics import ActionUnitScores, score_action_units
from mbert.model.training.places import place_of
from mbert.shards.pair import FramePair
from mbert.shards.source import open_source
from mbert.weights import BUILT_IN

_RESULTS = "results.json"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MethodResult:
    """Scores of one method, pooled over all folds."""

    scores: Scores | ActionUnitScores  # of the first seed
    per_dataset: dict[str, Scores] | dict[str, ActionUnitScores]  # of the same predictions, if there are several
    over_seeds: SeedScores | None  # None for a single seed, or without randomness
    select: str  # how its folds chose; "fixed" if there is nothing to choose
    difference: ScoreDifference | UnitDifference | None  # the model's scores minus this method's; None for the model
    seconds: float  # of this run, without results of earlier ones


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """The results of an evaluation. `methods` has the model as `mbert`, then the baselines by name."""

    protocol: str
    classes: str  # name of the class map, or "action-units"
    class_version: int | None
    mode: str
    select: str
    inputs: tuple[str, ...]
    frames: int
    seeds: list[int]
    num_samples: int  # tested
    num_subjects: int
    num_folds: int
    samples: dict[str, dict[str, int]]  # per dataset: per class, or with each action unit
    left_out: dict[str, int]  # why -> labelled expressions
    apex_sources: dict[str, int]
    methods: dict[str, MethodResult]
    warnings: list[str]  # what readers of the scores must know
    encoder_saw_test_subjects: list[str]  # their frames, without labels, were in the pretraining shards
    encoder_learned_labels_of: list[str]  # test subjects it was finetuned on, which makes the score a leak
    evaluations_before: int  # with other models or settings on the same samples and folds, among these runs
    checkpoint: str
    seconds: float
    folder: str
    page: str | None = None  # of the evaluation, once there is one

    def table(self) -> list[dict[str, Any]]:
        """One row for each method: its scores over all samples with 95 % intervals, and those of each dataset."""
        rows = []
        for name, method in self.methods.items():
            for dataset, scores in {"all": method.scores, **method.per_dataset}.items():
                rows.append({"method": name, "dataset": dataset, "select": method.select, **_cells(scores)})
        return rows


def _cells(scores: Scores | ActionUnitScores) -> dict[str, Any]:
    """The numbers of `scores` by name; an interval as `_low` and `_high`."""
    cells: dict[str, Any] = {}
    for name, value in dataclasses.asdict(scores).items():
        if name.endswith("_interval"):
            low, high = value or (None, None)
            cells |= {f"{name.removesuffix('_interval')}_low": low, f"{name.removesuffix('_interval')}_high": high}
        elif value is None or isinstance(value, int | float):
            cells[name] = value
    return cells


def run_eval(
    shards: Path | str,
    labels: Path | str,
    checkpoint: Path | str,
    out: Path,
    config: EvalConfig,
    *,
    cache: Path | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> EvalResult:
    """Evaluate a checkpoint; writes results.json and predictions.parquet.

    `shards` has the pairs of expressions: a folder, a URL or a brace pattern (`open_source`). `labels` is the
    `labels.parquet` of their corpus, or its URL. Raises ManifestError without labelled expressions, if labels have
    changed since the shards were made, and for samples that no split can keep apart, ConfigError for a leak and if
    the samples do not allow the protocol, ModelError without a checkpoint, ShardError for damaged pairs.
    """
    began = time.monotonic()
    classes, rules = config.class_map, config.rules
    source = open_source(shards, cache=cache)
    expressions = labelled_expressions(
        source, labels, classes=classes, datasets=config.datasets or rules.datasets, frames=config.frames
    )
    rows = [expression.annotation for expression in expressions.found]
    check_samples(rows)
    folds = make_folds(
        rows,
        config.protocol,
        seed=config.seed,
        k=config.k,
        test_share=config.test_share,
        test_subjects=[Subject.parse(name) for name in config.test_subjects],
    )
    digests = [_digests(pair) for pair in expressions.pairs()]
    subjects = [expression.subject for expression in expressions.found]
    check_folds(folds, subjects, digests, names=[row.sample for row in rows])
    model = MicronBert.from_pretrained(checkpoint)
    identity = [
        [expression.row.key, expression.subject, expression.label, expression.annotation.action_units, digest]
        for expression, digest in zip(expressions.found, digests, strict=True)
    ]
    methods = Methods(
        config=config,
        expressions=expressions,
        classes=_class_names(config, expressions.found),
        units=unit_targets(rows) if classes is None else None,
        folds=folds,
        model=model,
        checkpoint=checkpoint,
        samples=hash_of(identity),
        out=out,
        on_progress=on_progress,
    )
    results: dict[str, MethodResult] = {}
    predicted: dict[str, list[Predictions]] = {}
    confidence: dict[str, Confidence] = {}
    for name in (OURS, *config.baselines):
        started = time.monotonic()
        found = [methods.predict(name, seed) for seed in methods.seeds_of(name)]
        predicted[name], confidence[name] = [each for each, _ in found], found[0][1]
        seconds = time.monotonic() - started
        results[name] = _result(methods, name, predicted[name], predicted[OURS][0], seconds)
    about = _about(methods)
    history = _history(out, about)
    seen = model.state.subjects if model.state else ()
    learned = model.state.labelled_subjects if model.state else ()
    tested = _tested(folds)
    result = EvalResult(
        protocol=config.protocol,
        classes=classes.name if classes else ACTION_UNITS,
        class_version=classes.version if classes else None,
        mode=config.mode,
        select=config.select,
        inputs=config.inputs_for(methods.model.config),
        frames=config.frames,
        seeds=list(range(config.seed, config.seed + config.seeds)),
        num_samples=len(tested),
        num_subjects=len({person(subjects[index]) for index in tested}),
        num_folds=len(folds),
        samples=_counts(methods),
        left_out=dict(expressions.left_out),
        apex_sources=dict(Counter(str(expression.row.apex_source) for expression in expressions.found)),
        methods=results,
        warnings=[],
        encoder_saw_test_subjects=_known([subjects[index] for index in tested], seen),
        encoder_learned_labels_of=_known([subjects[index] for index in tested], learned),
        evaluations_before=len(history),
        checkpoint=str(checkpoint),
        seconds=time.monotonic() - began,
        folder=str(out),
    )
    warnings = _warnings(result, expressions.found, knows_people=bool(seen))
    warnings += recording_warnings(labels, {rows[index].video_id for index in tested})
    if model.state and model.state.forgotten:
        warnings.append(f"the encoder has seen {len(model.state.forgotten)} inputs that were forgotten since")
    result = dataclasses.replace(result, warnings=warnings)
    _write_predictions(methods, predicted, confidence[OURS])
    if (classifier := methods.classifier()) is not None:  # for `mbert predict --classifier`
        classifier.save(out / CLASSIFIER_FOLDER, model.state)
    write_json(
        out / _RESULTS,
        {
            **dataclasses.asdict(result),
            "mbert_version": __version__,
            "settings": dataclasses.asdict(config),
            "corpus": source.corpus,
            "places": {name: place_of(where, out) for name, where in (("shards", shards), ("checkpoint", checkpoint))},
            "weights": hash_weights(model),
            "pretrained_on_corpus": model.state.corpus if model.state else None,
            "pretraining_steps": model.state.step if model.state else None,
            "about": about,
            "history": history,
        },
    )
    return result


def _class_names(config: EvalConfig, expressions: Sequence[Expression]) -> list[str]:
    """All classes of the map: one that nobody shows must leave UF1 undefined, not raise it."""
    classes = config.class_map
    if classes is None:
        return []
    found = sorted({expression.label for expression in expressions})
    if len(found) < 2:
        raise ConfigError(
            f"all {len(expressions)} samples are {', '.join(found)} in {classes.name}: there is nothing to tell apart"
        )
    return list(classes.classes) or found


def _digests(pair: FramePair) -> tuple[str, ...]:
    return tuple(hashlib.sha256(frame).hexdigest() for frame in (pair.t0_jpeg, pair.t1_jpeg))


def _tested(folds: Iterable[Fold]) -> list[int]:
    return sorted(index for fold in folds for index in fold.test)


def _result(
    methods: Methods, name: str, predicted: Sequence[Predictions], ours: Predictions, seconds: float
) -> MethodResult:
    """`predicted` has a method's predictions for each seed; `ours` the model's for the first."""
    select = methods.select_of(name)
    tested = _tested(methods.folds)
    subjects = [methods.expressions.found[index].subject for index in tested]
    datasets = [methods.expressions.found[index].row.dataset for index in tested]
    if methods.units is not None:
        flags = np.asarray(predicted[0])[tested]
        of_ours = np.asarray(ours)[tested]
        found = score_action_units(methods.units[tested], flags, CD6ME_UNITS, subjects, datasets)
        return MethodResult(
            scores=found.pooled,
            per_dataset=found.per_dataset,
            over_seeds=None,
            select=select,
            difference=None if name == OURS else unit_difference(methods.units[tested], of_ours, flags, subjects),
            seconds=seconds,
        )
    truth = [methods.expressions.found[index].label for index in tested]
    guesses = [[str(each[index]) for index in tested] for each in predicted]
    scores = [score(truth, each, subjects, classes=methods.classes) for each in guesses]
    per_dataset = score_by_dataset(truth, guesses[0], subjects, datasets, classes=methods.classes)
    return MethodResult(
        scores=scores[0],
        per_dataset=per_dataset if len(per_dataset) > 1 else {},
        over_seeds=over_seeds(scores) if len(scores) > 1 else None,
        select=select,
        difference=None
        if name == OURS
        else score_difference(
            truth, [str(ours[index]) for index in tested], guesses[0], subjects, classes=methods.classes
        ),
        seconds=seconds,
    )


def _counts(methods: Methods) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for index, expression in enumerate(methods.expressions.found):
        names = [expression.label] if methods.units is None else _unit_names(methods.units[index])
        found[expression.row.dataset].update(names)
    return {dataset: dict(sorted(counts.items())) for dataset, counts in sorted(found.items())}


def _unit_names(flags: npt.NDArray[np.bool_]) -> list[str]:
    return [f"AU{unit}" for unit, flag in zip(CD6ME_UNITS, flags, strict=True) if flag]


def _known(tested: Iterable[Subject], seen: Iterable[str]) -> list[str]:
    """Tested subjects who are the same people as some in `seen`."""
    people = {person(Subject.parse(name)) for name in seen}
    return sorted({subject for subject in tested if person(subject) in people})


def _about(methods: Methods) -> dict[str, str]:
    """Hashes of what two evaluations must share to be compared, and of what distinguishes them."""
    settings = {**dataclasses.asdict(methods.config), "inputs": methods.config.inputs_for(methods.model.config)}
    settings.pop("workers")
    settings.pop("baselines")
    sides = [[fold.train, fold.test] for fold in methods.folds]
    return {
        "task": hash_of([methods.samples, sides]),
        "candidate": hash_of([hash_weights(methods.model), settings]),
    }


def _history(out: Path, about: dict[str, str]) -> list[str]:
    """Other models or settings evaluated on the same samples and folds, in this folder and next to it."""
    found: set[str] = set()
    for path in [*out.parent.glob(f"*/{_RESULTS}"), out / _RESULTS]:
        try:
            before: dict[str, Any] = read_json(path)
            if before["about"]["task"] == about["task"]:
                found |= {before["about"]["candidate"], *before["history"]}
        except (ManifestError, KeyError, TypeError):
            continue  # from another version, or missing: irrelevant to this one
    return sorted(found - {about["candidate"]})


def _warnings(result: EvalResult, expressions: Sequence[Expression], *, knows_people: bool) -> list[str]:
    found = []
    if result.select == "oracle":
        found.append(
            "select is oracle: the folds of all methods but majority were chosen by their own test side; to compare "
            "with papers that did so, no score"
        )
    if result.encoder_learned_labels_of:
        found.append(
            f"the encoder was finetuned on the labels of {len(result.encoder_learned_labels_of)} of the "
            f"{result.num_subjects} subjects: its figures leak and are no score; evaluate the pretrained model, or "
            "hold these people out with `mbert train finetune --exclude-subject`"
        )
    elif result.encoder_saw_test_subjects:
        found.append(
            f"the encoder was pretrained, without labels, on frames of {len(result.encoder_saw_test_subjects)} of the "
            f"{result.num_subjects} subjects; for a clean score, evaluate a model that was pretrained on other people "
            "(with several datasets: `mbert train pretrain --exclude-subjects-of DATASET`)"
        )
    if result.checkpoint == str(BUILT_IN):
        found.append("this score is of the built-in model: the workspace has no pretraining, or --checkpoint named it")
    if not knows_people:  # weights from elsewhere, or shards whose people are unknown
        found.append(
            "the checkpoint does not say whose faces it was trained on: if some of these people were among them, its "
            "figures leak"
        )
    if missing := [name for name in BASELINES if name not in result.methods]:
        found.append(f"not compared with {', '.join(missing)}: a score means little without its baselines")
    if result.evaluations_before:
        found.append(
            f"{result.evaluations_before} other models or settings were scored on the same samples before: the best of "
            "several is better than it will be on new people"
        )
    if filled := {name: count for name, count in result.apex_sources.items() if name != "annotated"}:
        told = ", ".join(f"{count} {name}" for name, count in filled.items())
        found.append(f"apex frames that are not annotated: {told}, of {len(expressions)}")
    people: dict[str, set[str]] = defaultdict(set)
    for expression in expressions:
        people[expression.label].add(person(expression.subject))
    if alone := sorted(name for name, group in people.items() if name and len(group) == 1):
        found.append(f"shown by one subject only, so that nothing teaches it when it is tested: {', '.join(alone)}")
    return found + _differences(result)


def _differences(result: EvalResult) -> list[str]:
    """Differences between these samples and those behind the protocol's published scores."""
    found = []
    for dataset, counts in result.samples.items():
        published = expected(result.classes, dataset)
        if published is not None and (
            different := {name: count for name, count in published.samples.items() if counts.get(name, 0) != count}
        ):
            told = ", ".join(f"{name} {counts.get(name, 0)} of {count}" for name, count in different.items())
            found.append(f"{dataset} has not the samples of {result.classes} ({published.standing}): {told}")
    return found


def _write_predictions(methods: Methods, predicted: dict[str, list[Predictions]], confidence: Confidence) -> None:
    """One row per tested sample; `prediction` is the model's, `confidence` its head's own, for the first seed; the
    other columns are the baselines'.
    """
    fold_of = {index: fold.name for fold in methods.folds for index in fold.test}
    tested = sorted(fold_of)
    rows = [methods.expressions.found[index].row for index in tested]
    names = ("key", "clip_id", "dataset", "subject", "sample", "apex_source")
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in names}
    columns["fold"] = [fold_of[index] for index in tested]
    columns["label"] = _texts(methods.truth if methods.units is None else methods.units, tested)
    for name, sets in predicted.items():
        for seed, found in zip(methods.seeds_of(name), sets, strict=True):
            column = "prediction" if name == OURS else name
            columns[column if seed == methods.config.seed else f"{column}_seed{seed}"] = _texts(found, tested)
    columns["confidence"] = [defined(confidence[index]) for index in tested]
    with replacing(methods.out / "predictions.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)


def _texts(values: Predictions, indices: Sequence[int]) -> list[str]:
    """Classes, or action units as in `AU1+AU4`."""
    if isinstance(values, list):
        return [values[index] for index in indices]
    return ["+".join(_unit_names(values[index])) for index in indices]
