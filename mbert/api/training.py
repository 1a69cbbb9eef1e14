"""Commands as functions: train, evaluate, score, and report on the results."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mbert.api.options import DEFAULT_WORKSPACE, Where, checkpoint_of, choices_checked, is_first_process, path_of
from mbert.manifests.workspace import Workspace

if TYPE_CHECKING:
    from mbert.model.scoring.evaluate import EvalResult
    from mbert.model.scoring.predictions import PredictionScores
    from mbert.model.training.finetune import FinetunePlan, FinetuneSummary
    from mbert.model.training.pretrain import PretrainEstimate, PretrainPlan, PretrainSummary
    from mbert.model.training.run_log import StepReport
    from mbert.run_report import ReportSummary


@choices_checked
def pretrain(
    *,
    workspace: Where = DEFAULT_WORKSPACE,
    shards: Where | None = None,
    cache: Where | None = None,
    preset: Literal["tiny", "small", "base"] | None = None,
    variant: Literal["motion", "paper", "released"] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    lr: float | None = None,
    exclude_subjects_of: Sequence[str] | None = None,
    swap_ratio: float | None = None,
    swap_block: int | None = None,
    config: Where | None = None,
    set: Sequence[str] | Mapping[str, Any] | None = None,
    seed: int | None = None,
    precision: Literal["auto", "bf16", "fp16", "fp32"] | None = None,
    compile: bool | None = None,
    workers: int | None = None,
    max_bad: float | None = None,
    max_minutes: float | None = None,
    keep: int | None = None,
    report_to: Literal["none", "wandb"] | None = None,
    out: Where | None = None,
    resume: bool = False,
    force: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    on_plan: "Callable[[PretrainPlan], None]" = lambda plan: None,
    on_step: "Callable[[StepReport], None]" = lambda report: None,
) -> "PretrainSummary | PretrainEstimate":
    """Pretrain without labels, or resume a run: `mbert train pretrain`. None: the default.

    `config` is a YAML file of settings; `set` overrides single ones, as `["objective.crop_scale=0.4"]` or
    `{"objective.crop_scale": 0.4}`. With `dry_run`, writes nothing and returns the estimate instead of the summary.
    Raises ShardError without shards, ConfigError for settings that cannot be used or that differ from those of the run
    to resume, ModelError if the loss is not finite.
    """
    from mbert.model.training.pretrain import PretrainConfig, estimate_pretrain, run_pretrain
    from mbert.model.training.settings import configured

    space = Workspace(Path(workspace))
    settings = configured(
        PretrainConfig(),
        config,
        set,
        {
            "preset": preset,
            "variant": variant,
            "steps": steps,
            "epochs": epochs,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "lr": lr,
            "exclude_subjects": exclude_subjects_of or None,
            "seed": seed,
            "precision": precision,
            "compile": compile,
            "workers": workers,
            "max_bad": max_bad,
            "max_minutes": max_minutes,
            "keep": keep,
            "report_to": report_to,
            "objective": {"swap_ratio": swap_ratio, "swap_block": swap_block},
        },
    )
    where, copies = shards or space.pairs, path_of(cache)
    if dry_run:
        return estimate_pretrain(where, settings, cache=copies)
    summary = run_pretrain(
        where,
        path_of(out) or space.runs / "pretrain",
        settings,
        cache=copies,
        overwrite=overwrite,
        force=force,
        resume=resume,
        on_plan=on_plan,
        on_step=on_step,
    )
    return dataclasses.replace(summary, page=_page_of(summary.run))


@choices_checked
def finetune(
    *,
    workspace: Where = DEFAULT_WORKSPACE,
    shards: Where | None = None,
    labels: Where | None = None,
    cache: Where | None = None,
    checkpoint: Where | None = None,
    classes: str | None = None,
    inputs: Sequence[str] | None = None,
    head: Literal["linear", "mlp"] | None = None,
    frozen: bool | None = None,
    layer_decay: float | None = None,
    class_weights: Literal["balanced", "none"] | None = None,
    label_smoothing: float | None = None,
    mixup: float | None = None,
    exclude_subject: Sequence[str] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    config: Where | None = None,
    set: Sequence[str] | Mapping[str, Any] | None = None,
    seed: int | None = None,
    precision: Literal["auto", "bf16", "fp16", "fp32"] | None = None,
    max_minutes: float | None = None,
    out: Where | None = None,
    resume: bool = False,
    force: bool = False,
    overwrite: bool = False,
    on_plan: "Callable[[FinetunePlan], None]" = lambda plan: None,
    on_step: "Callable[[StepReport], None]" = lambda report: None,
) -> "FinetuneSummary":
    """Learn the labels of onset-apex pairs, or resume a run: `mbert train finetune`. None: the default.

    `config` and `set`: as in `pretrain`. Raises ManifestError without labelled pairs, ConfigError for settings that
    cannot be used, ModelError without a checkpoint.
    """
    from mbert.model.training.finetune import FinetuneConfig, run_finetune
    from mbert.model.training.settings import configured

    space = Workspace(Path(workspace))
    settings = configured(
        FinetuneConfig(),
        config,
        set,
        {
            "classes": classes,
            "inputs": inputs,
            "head": head,
            "frozen": frozen,
            "layer_decay": layer_decay,
            "class_weights": class_weights,
            "label_smoothing": label_smoothing,
            "mixup": mixup,
            "exclude_subjects": exclude_subject or None,
            "steps": steps,
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "seed": seed,
            "precision": precision,
            "max_minutes": max_minutes,
        },
    )
    summary = run_finetune(
        shards or space.expressions,
        labels or space.labels,
        checkpoint_of(checkpoint, space),
        path_of(out) or space.runs / "finetune",
        settings,
        cache=path_of(cache),
        overwrite=overwrite,
        force=force,
        resume=resume,
        on_plan=on_plan,
        on_step=on_step,
    )
    return dataclasses.replace(summary, page=_page_of(summary.run))


@choices_checked
def evaluate(
    *,
    protocol: Literal["loso", "cde", "hde", "lodo", "kfold", "holdout", "cd6me"] | None = None,
    workspace: Where = DEFAULT_WORKSPACE,
    shards: Where | None = None,
    labels: Where | None = None,
    cache: Where | None = None,
    checkpoint: Where | None = None,
    classes: str | None = None,
    datasets: Sequence[str] | None = None,
    mode: Literal["probe", "finetune"] | None = None,
    select: Literal["fixed", "inner", "oracle"] | None = None,
    inputs: Sequence[str] | None = None,
    frames: int | None = None,
    baselines: Sequence[str] | None = None,
    seeds: int | None = None,
    seed: int | None = None,
    k: int | None = None,
    test_share: float | None = None,
    test_subject: Sequence[str] | None = None,
    config: Where | None = None,
    set: Sequence[str] | Mapping[str, Any] | None = None,
    workers: int | None = None,
    out: Where | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> "EvalResult":
    """Evaluate a model on held-out subjects: `mbert eval`. None: the default.

    To score a file of predictions, use `score_predictions`. `config` and `set`: as in `pretrain`. Raises ManifestError
    without labelled expressions, ConfigError for a leak or samples that do not allow the protocol, ModelError without
    a checkpoint.
    """
    from mbert.model.scoring.config import EvalConfig
    from mbert.model.scoring.evaluate import run_eval
    from mbert.model.training.settings import configured

    space = Workspace(Path(workspace))
    settings = configured(
        EvalConfig(),
        config,
        set,
        {
            "protocol": protocol,
            "classes": classes,
            "datasets": datasets,
            "mode": mode,
            "select": select,
            "inputs": inputs,
            "frames": frames,
            "baselines": baselines,
            "seeds": seeds,
            "seed": seed,
            "k": k,
            "test_share": test_share,
            "test_subjects": test_subject or None,
            "workers": workers,
        },
    )
    result = run_eval(
        shards or space.expressions,
        labels or space.labels,
        checkpoint_of(checkpoint, space),
        path_of(out) or space.runs / settings.protocol,
        settings,
        cache=path_of(cache),
        on_progress=on_progress,
    )
    return dataclasses.replace(result, page=_page_of(result.folder))


def score_predictions(predictions: Where, *, classes: Sequence[str] | None = None, seed: int = 0) -> "PredictionScores":
    """Score a file of predictions from any source: `mbert eval --predictions FILE`.

    `classes` are those of the protocol, needed only if some have no samples; `seed` draws the confidence intervals.
    Raises ManifestError for a file that cannot be read as predictions.
    """
    from mbert.model.scoring.predictions import score_predictions as score

    return score(Path(predictions), classes=classes, seed=seed)


def report(
    runs: Sequence[Where] | Where | None = None,
    *,
    workspace: Where = DEFAULT_WORKSPACE,
    out: Where | None = None,
    on_run: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> "ReportSummary":
    """Write the page of a run, or the pages of several and a table of them: `mbert report`.

    `runs` are folders of runs, folders that contain such folders, or names of runs in the workspace; None: all of
    those. The page goes to `out`, a file or folder; None: `report.html` in the run, or next to the runs. Raises
    ConfigError if it is not a run, MbertError if a single run cannot be read; one of several is a row with a reason.
    """
    from mbert.run_report import run_report

    wanted = [runs] if isinstance(runs, str | Path) else list(runs or ())
    return run_report([Path(run) for run in wanted], Workspace(Path(workspace)).runs, out=path_of(out), on_run=on_run)


def _page_of(run: str) -> str | None:
    """Write the page of a finished run, from the first process only."""
    from mbert.run_report import page_at_end

    return page_at_end(Path(run)) if is_first_process() else None
