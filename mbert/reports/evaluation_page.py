"""The page of an evaluation."""

from pathlib import Path
from typing import Any

from mbert.manifests.labels.folds import PROTOCOLS
from mbert.manifests.runs import METHODS, EvaluationFacts, MethodScores, Score, WrongPair
from mbert.reports.charts import interval_path
from mbert.reports.maps import map_paths
from mbert.reports.page import data_url, file_url, flat_settings, render, write_page
from mbert.reports.words import percent

_TILES = ("UF1", "UAR", "Accuracy", "F1", "Macro F1")
_HEAT_LEVELS = 8
_FILES = ("results.json", "predictions.parquet", "classifier")
_SELECT = {
    "fixed": "Nothing was chosen: every fold has the same settings.",
    "inner": "Each fold chose on inner splits of its training side.",
    "oracle": "Each fold chose by its own test side: to compare with papers that did so, no score.",
}


def write_evaluation_page(path: Path, run: EvaluationFacts, *, folder: str = "") -> None:
    """Write the page of an evaluation, atomically. `folder` is the run's, relative to the page, ending with a slash."""
    ours = run.methods[0]
    protocol = PROTOCOLS.get(run.protocol)
    summary = protocol.summary if protocol else run.protocol
    datasets = list(dict.fromkeys(row.dataset for row in run.per_dataset))
    html = render(
        "evaluation.html.j2",
        scripts=("sort.js", "evaluation.js"),
        run=run,
        protocol=summary[0].upper() + summary[1:],
        how=_how(run),
        warnings=[f"{text[0].upper()}{text[1:]}." for text in run.warnings],
        tiles=[
            (name, ours.scores[name], ours.chance.get(name), _whisker(ours.scores[name]))
            for name in _TILES
            if name in ours.scores
        ],
        chance=ours.chance.get(run.measures[0]),
        compared=[name for name in run.measures if any(name in row.differences for row in run.methods)],
        methods=[_method_values(run, row) for row in run.methods],
        datasets=[
            (name, [_method_values(run, row) for row in run.per_dataset if row.dataset == name])
            for name in datasets
            if len(datasets) > 1  # a single one would repeat the total
        ],
        confusion=_confusion(run),
        units=not run.confusion,
        class_measures=list(run.per_class[0].scores) if run.per_class else [],
        folds_are_people={each.name for each in run.per_fold} == {each.name for each in run.per_subject},
        with_maps=any(pair.moved is not None for pair in run.wrong),
        map_note=", before its encoder was trained in each fold" if run.mode == "finetune" else "",
        order=_order(run),
        wrong=[_wrong_values(pair) for pair in run.wrong],
        checks=_checks(run),
        files=[(name, file_url(f"{folder}{name}")) for name in _FILES if name in run.files],
        settings=flat_settings(run.settings),
    )
    write_page(path, html)


def _how(run: EvaluationFacts) -> str:
    how = "linear heads on a frozen model" if run.mode == "probe" else "finetuned in each fold"
    frames = f", {run.frames} frames of each" if run.frames > 1 else ""
    return f"{how}; inputs: {', '.join(run.inputs)}{frames}"


def _whisker(score: Score) -> str:
    return "" if score.low is None or score.high is None else interval_path(score.low, score.high)


def _method_values(run: EvaluationFacts, row: MethodScores) -> dict[str, Any]:
    difference = row.differences.get(run.measures[0])
    return {
        "title": METHODS.get(row.method, row.method),
        "is_ours": row.method == run.methods[0].method,
        "oracle": row.select == "oracle",
        "scores": row.scores,
        "over_seeds": row.over_seeds,
        "whisker": _whisker(row.scores[run.measures[0]]),
        "differences": row.differences,
        "verdict": "" if difference is None else _verdict(difference),
    }


def _verdict(difference: Score) -> str:
    """How the model compares with a method, by the interval of its difference."""
    if difference.low is None or difference.high is None:
        return "not known"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "no difference shown"


def _confusion(run: EvaluationFacts) -> list[tuple[str, list[tuple[int, str, int, bool]]]]:
    """Rows of (count, share of the row, level of its colour, whether it is right)."""
    found = []
    for place, (name, counts) in enumerate(zip(run.class_names, run.confusion, strict=True)):
        whole = sum(counts)
        shares = [count / whole if whole else 0.0 for count in counts]
        cells = [
            (count, percent(share), round(_HEAT_LEVELS * share), column == place)
            for column, (count, share) in enumerate(zip(counts, shares, strict=True))
        ]
        found.append((name, cells))
    return found


def _order(run: EvaluationFacts) -> str:
    if any(pair.confidence is not None for pair in run.wrong):
        return (
            "in which its heads were most confident"
            if run.mode == "probe"
            else "in which its folds were most confident"
        )
    if not run.confusion:
        return "with most action units wrong"
    return "first by name, as this evaluation has recorded no confidence"


def _wrong_values(pair: WrongPair) -> dict[str, Any]:
    return {
        "row": pair,
        "onset": None if pair.onset is None else data_url("image/jpeg", pair.onset),
        "apex": None if pair.apex is None else data_url("image/jpeg", pair.apex),
        "map": None if pair.moved is None else map_paths(pair.moved),
        "side": 1 if pair.moved is None else pair.moved.shape[0],
    }


def _checks(run: EvaluationFacts) -> list[tuple[bool, str, str, tuple[str, ...]]]:
    """(whether it is fine, what was checked, what was found, the people concerned)."""
    of_all = f"of the {run.num_subjects} tested people"
    filled = {name: count for name, count in run.apex_sources.items() if name != "annotated"}
    num_apexes = sum(run.apex_sources.values())
    return [
        (True, "Folds.", "No person and no frame is on both sides of a fold: an evaluation stops where one is.", ()),
        (
            not run.learned_labels_of,
            "Labels.",
            f"The encoder has learned the labels of {len(run.learned_labels_of)} {of_all}"
            + (": the score leaks and is none." if run.learned_labels_of else "."),
            run.learned_labels_of,
        ),
        (
            not run.saw_frames_of,
            "Frames.",
            f"The encoder has seen frames, without labels, of {len(run.saw_frames_of)} {of_all}.",
            run.saw_frames_of,
        ),
        (run.select != "oracle", "Choice.", _SELECT.get(run.select, run.select), ()),
        (
            not run.evaluations_before,
            "Tries.",
            f"{run.evaluations_before or 'No'} other models or settings were scored on the same samples before"
            + (": the best of several is better than it will be on new people." if run.evaluations_before else "."),
            (),
        ),
        (
            not filled,
            "Apex.",
            f"{num_apexes - sum(filled.values())} of {num_apexes} apex frames are annotated"
            + "".join(f", {count} {name}" for name, count in filled.items())
            + ".",
            (),
        ),
    ]
