"""`mbert eval`: models and predictions to scores."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mbert import ConfigError, api
from mbert.commands.console import Progress, human_time
from mbert.commands.options import (
    AnnotationsOption,
    CacheOption,
    CheckpointOption,
    ExpressionsOption,
    JsonOption,
    WorkspaceOption,
    listed,
    options_of,
    print_json,
    print_page,
)
from mbert.manifests.runs import METHODS

if TYPE_CHECKING:
    from mbert.model.scoring.evaluate import EvalResult
    from mbert.model.scoring.metrics import Scores
    from mbert.model.scoring.predictions import PredictionScores
    from mbert.model.scoring.unit_metrics import ActionUnitScores

_WIDTH = 18  # of the names' column


@options_of(
    api.evaluate,
    protocol=typer.Option(help="Cross-validation protocol (docs/evaluation.md).", show_default="loso"),
    workspace=WorkspaceOption,
    shards=ExpressionsOption,
    labels=AnnotationsOption,
    cache=CacheOption,
    checkpoint=CheckpointOption,
    classes=typer.Option(
        help="Class map, e.g. megc2019-3, or action-units; with --predictions, the names of all classes, "
        "separated by commas.",
        show_default="from the protocol",
    ),
    datasets=typer.Option(help="Datasets to use, separated by commas, e.g. casme2,samm.", show_default="all"),
    mode=typer.Option(
        help="Fit linear heads on a frozen model, or train its encoder in each fold.", show_default="probe"
    ),
    select=typer.Option(
        help="How each fold of the model and its baselines chooses epochs, steps or regularisation: not at all, "
        "on inner splits by subject, or on its own test side, which gives no score. A linear head also chooses how far "
        "to join neighbouring places.",
        show_default="fixed",
    ),
    inputs=typer.Option(
        help="What the head sees, separated by commas. From the motion estimator: motion, measured, map. From the "
        "encoder: distance, change, dma, dma_both (docs/model.md).",
        show_default="motion,measured where the model has motion, else distance; change with --mode finetune",
    ),
    frames=typer.Option(min=1, help="Number of frames from onset to apex that every method sees.", show_default="1"),
    baselines=typer.Option(
        help="Baselines, separated by commas: majority, frame_difference, optical_flow, flow_cnn, flow_without_head, "
        "evidence, random_weights.",
        show_default="all",
    ),
    seeds=typer.Option(min=1, help="How many random seeds to evaluate with.", show_default="1"),
    seed=typer.Option(min=0, help="First random seed.", show_default="0"),
    k=typer.Option("--k", min=2, help="Number of folds, for kfold.", show_default="5"),
    test_share=typer.Option(help="Share of the subjects to test, for holdout.", show_default="0.2"),
    test_subject=Annotated[
        list[str] | None, typer.Option(help="Subject to test, for holdout; may be given several times.")
    ],
    config=typer.Option("--config", exists=True, dir_okay=False, help="YAML file of settings."),
    set=Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. finetune.epochs=20 (docs/evaluation.md).")
    ],
    workers=typer.Option(
        min=1, help="Number of processes for folds that train.", show_default="one per GPU, or per two cores"
    ),
    out=typer.Option(help="Folder to write the result to.", show_default="WORKSPACE/runs/PROTOCOL"),
)
def evaluate(
    options: dict[str, Any],
    predictions: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Score this file of predictions, instead of a model."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate on held-out subjects, or score a predictions file."""
    if predictions is not None:
        classes, seed = options.pop("classes"), options.pop("seed")
        del options["workspace"]
        if unused := [name for name, value in options.items() if value is not None]:
            raise ConfigError(
                f"--predictions scores what is in {predictions}; it takes no --{unused[0].replace('_', '-')}"
            )
        scores = api.score_predictions(predictions, classes=listed(classes), seed=seed or 0)
        return print_json(scores) if as_json else _print_scores(scores)
    with Progress("eval") as progress:
        at: dict[str, Any] = {"what": "", "done": 0}

        def tell(what: str, done: int, total: int) -> None:
            if what != at["what"]:
                at.update(what=what, done=0)
                progress.begin(total)
            progress.advance(done - at["done"], f"{what} {done}/{total}")
            at["done"] = done

        result = api.evaluate(**options, on_progress=tell)
    return print_json(result) if as_json else _print_result(result)


def _print_scores(scores: "PredictionScores") -> None:
    typer.echo(
        f"{scores.num_samples} predictions of {scores.num_subjects} subjects in {scores.file}, pooled, 95 % intervals:"
    )
    _print_header()
    _print_row("all", scores)
    for name, each in scores.per_dataset.items():
        _print_row(f"  {name}", each)
    typer.echo(f"{'chance':{_WIDTH}}{_number(scores.chance_uf1)}{'':16}{_number(scores.chance_uar)}")
    _print_classes(scores)
    for warning in scores.warnings:
        typer.secho(f"note: {warning}", fg="yellow")


def _print_result(result: "EvalResult") -> None:
    how = "linear heads on a frozen model" if result.mode == "probe" else "finetuned in each fold"
    typer.echo(
        f"{result.protocol}, {result.classes}: {result.num_samples} expressions, {result.num_subjects} subjects, "
        f"{result.num_folds} folds, {how}; pooled over all folds, 95 % intervals:"
    )
    if result.classes == "action-units":
        _print_units(result)
    else:
        _print_methods(result)
    if result.left_out:
        told = ", ".join(f"{count} {why}" for why, count in result.left_out.items())
        typer.echo(f"left out: {told}")
    for warning in result.warnings:
        typer.secho(f"note: {warning}", fg="yellow")
    typer.echo(
        f"{human_time(result.seconds)}; results: {result.folder}/results.json, {result.folder}/predictions.parquet"
    )
    print_page(result.page, result.folder)


def _print_methods(result: "EvalResult") -> None:
    names = {
        name: f"{METHODS[name]} (oracle)" if method.select == "oracle" else METHODS[name]
        for name, method in result.methods.items()
    }
    width = max(_WIDTH, *(len(f"  {name}") for name in names.values()))
    _print_header(width)
    for name, method in result.methods.items():
        _print_row(names[name], method.scores, width)
        if method.over_seeds is not None:
            uf1, uar = method.over_seeds.uf1, method.over_seeds.uar
            typer.echo(
                f"{f'  {len(result.seeds)} seeds':{width}}{_number(uf1.mean)}  +- {uf1.standard_deviation:.3f}       "
                f"{_number(uar.mean)}  +- {uar.standard_deviation:.3f}"
            )
    _print_differences(result, ("uf1", "uar"))
    ours: Any = result.methods["mbert"].scores
    typer.echo(f"{'chance':{width}}{_number(ours.chance_uf1)}{'':16}{_number(ours.chance_uar)}")
    for dataset in result.methods["mbert"].per_dataset:
        typer.echo(f"{dataset}, from the same predictions:")
        for name, method in result.methods.items():
            _print_row(f"  {names[name]}", method.per_dataset[dataset], width)
    _print_classes(ours)


def _print_differences(result: "EvalResult", names: tuple[str, str]) -> None:
    """What the model has more, or less, than each baseline."""
    if len(result.methods) < 2:
        return
    typer.echo("μ-BERT less each baseline, 95 % by drawing the same subjects for both:")
    for name, method in result.methods.items():
        if method.difference is not None:
            cells = ((getattr(method.difference, f"{field}{end}") for end in ("", "_interval")) for field in names)
            told = "".join(f"{_signed(value)}  {_signed_interval(found):16}" for value, found in cells)
            typer.echo(f"{f'  {METHODS[name]}':{_WIDTH + 2}}{told}")


def _signed(value: float | None) -> str:
    return f"{'undef.' if value is None else f'{value:+.3f}':>7}"


def _signed_interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:+.3f} {interval[1]:+.3f}"


def _print_header(width: int = _WIDTH) -> None:
    typer.echo(f"{'':{width}}{'UF1':>7}{'':16}{'UAR':>7}{'':16}{'accuracy':>9}{'weighted F1':>13}")


def _print_row(name: str, scores: "Scores | Any", width: int = _WIDTH) -> None:
    uf1, uar = (
        f"{_number(value)}  {_interval(interval):14}"
        for value, interval in ((scores.uf1, scores.uf1_interval), (scores.uar, scores.uar_interval))
    )
    typer.echo(f"{name:{width}}{uf1}{uar}{scores.accuracy:9.3f}{scores.weighted_f1:13.3f}")


def _print_classes(scores: "Scores") -> None:
    width = max(len(name) for name in scores.classes)
    typer.echo("confusion (rows true, columns predicted), F1, recall:")
    for name, row in zip(scores.classes, scores.confusion, strict=True):
        each = scores.per_class[name]
        counts = " ".join(f"{count:5d}" for count in row)
        typer.echo(f"  {name:{width}} {counts} {_number(each.f1)} {_number(each.recall)}")


def _print_units(result: "EvalResult") -> None:
    typer.echo(f"{'':{_WIDTH}}{'F1':>7}{'':16}{'macro F1':>9}")
    for name, method in result.methods.items():
        _print_unit_row(METHODS[name], method.scores)
    _print_differences(result, ("binary_of_defined", "macro_of_defined"))
    for dataset in result.methods["mbert"].per_dataset:
        typer.echo(f"{dataset}, from the same predictions:")
        for name, method in result.methods.items():
            _print_unit_row(f"  {METHODS[name]}", method.per_dataset[dataset])
    ours: Any = result.methods["mbert"].scores
    if ours.absent_units:
        typer.echo(f"means are over the units that some sample has; no sample has {', '.join(ours.absent_units)}")
    for name, unit in ours.per_unit.items():
        typer.echo(f"  {name:5} {_number(unit.binary)} {_number(unit.macro)}   {unit.positives} samples")


def _print_unit_row(name: str, scores: "ActionUnitScores | Any") -> None:
    binary = f"{_number(scores.binary_of_defined)}  {_interval(scores.binary_of_defined_interval):14}"
    macro = f"{_number(scores.macro_of_defined):>9}  {_interval(scores.macro_of_defined_interval)}"
    typer.echo(f"{name:{_WIDTH}}{binary}{macro}")


def _number(value: float | None) -> str:
    return f"{'undef.' if value is None else f'{value:.3f}':>7}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f}-{interval[1]:.3f}"
