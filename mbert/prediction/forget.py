"""`mbert forget`: removes inputs from corpus, shards, runs and predictions, so that they cannot come back unnoticed."""

import contextlib
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

from mbert import ConfigError
from mbert.manifests.files import exclusive, read_json
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.tombstones import Tombstones
from mbert.manifests.workspace import Workspace
from mbert.model.scoring.forget import Seen, find_runs, forget_in_runs
from mbert.pipeline.corpora.videos import list_videos
from mbert.pipeline.forget import (
    By,
    Forgetting,
    begin,
    count_in_shards,
    finish,
    forget_in_corpus,
    forget_in_shards,
    select,
    under_way,
)
from mbert.pipeline.video.source import content_hash
from mbert.prediction.owners import Owners
from mbert.prediction.results import INDEX, SUMMARY, remove_results

NOT_COVERED = (
    "the recordings themselves, and lines about them in labels.csv and videos.csv: delete them, they name who was seen",
    "the weights of the runs above: they stay what they have learned",
    "scores in results.json and metrics.jsonl, which count them in",
    "pages that `mbert preview --out` wrote elsewhere",
    "copies elsewhere: shards on S3 or other machines, folders of --cache, backups, Weights & Biases",
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ForgetSummary:
    """What was, or with a dry run would be, forgotten."""

    inputs: tuple[str, ...]  # paths as in `videos.parquet`
    shown: tuple[str, ...]  # everybody named in them
    num_clips: int
    num_crops: int
    num_labels: int
    num_pairs: int
    runs_seen: tuple[str, ...]
    runs_unsure: tuple[str, ...]  # unknown whether they have seen the inputs
    checkpoints: tuple[str, ...]  # of both
    changed_files: tuple[str, ...]  # of runs: rewritten, or deleted
    predictions: tuple[str, ...]  # folders of results that were deleted
    without_tombstone: int  # inputs whose content is unknown: they would be ingested again
    not_covered: tuple[str, ...]
    dry_run: bool
    workspace: str


def run_forget(
    workspace: Workspace, by: By, wanted: Sequence[str], *, predictions: Path | None = None, dry_run: bool = False
) -> ForgetSummary:
    """Forget inputs, first finishing an interrupted run. See `mbert.api.forget`."""
    with contextlib.ExitStack() as stack:
        if not dry_run and workspace.corpus.is_dir():
            stack.enter_context(exclusive(workspace.corpus))
            if workspace.pairs.parent.is_dir():
                stack.enter_context(exclusive(workspace.pairs.parent))
        before = under_way(workspace)
        try:
            what = select(workspace, by, wanted)
        except ConfigError:
            if before is None:
                raise
            what = before  # its rows are already gone
        what = what if before is None else before.joined(what)
        seen = Seen(
            persons=what.persons,
            corpora=what.corpora,
            all_shown_named=what.all_shown_named,
            scrubber=what.scrubber,
        )
        runs = find_runs(workspace.runs, seen)
        num_pairs = count_in_shards(workspace, what)
        results = _find_results(predictions, what.contents)
        changed: list[str] = []
        if not dry_run:
            ids = begin(workspace, what)
            changed = forget_in_runs(workspace.runs, runs, what.scrubber, ids)
            forget_in_shards(workspace, what)
            if predictions is not None:
                _forget_in_predictions(predictions, results, what)
            forget_in_corpus(workspace, what)
            finish(workspace)
    return ForgetSummary(
        inputs=what.paths,
        shown=what.persons,
        num_clips=len(what.clips),
        num_crops=what.num_crops,
        num_labels=what.num_labels,
        num_pairs=num_pairs,
        runs_seen=tuple(run.run for run in runs if run.is_sure),
        runs_unsure=tuple(run.run for run in runs if not run.is_sure),
        checkpoints=tuple(f"{run.run}/{name}" for run in runs for name in run.checkpoints),
        changed_files=tuple(changed),
        predictions=tuple(map(str, results)),
        without_tombstone=what.num_unread,
        not_covered=NOT_COVERED,
        dry_run=dry_run,
        workspace=str(workspace.root),
    )


def lift(workspace: Workspace, paths: Sequence[Path]) -> int:
    """Allow inputs on disk to be ingested again; returns how many had been forgotten."""
    contents = [content_hash(source) for path in paths for source in list_videos(path, with_labels=False).sources]
    with exclusive(workspace.corpus):
        return Tombstones.read(workspace.forgotten).lift([sha256 for sha256 in contents if sha256])


def _find_results(predictions: Path | None, contents: Collection[str]) -> list[Path]:
    """Folders of `mbert predict` with results for these contents."""
    if predictions is None:
        return []
    if not predictions.is_dir():
        raise ConfigError(f"--predictions {predictions} is not a folder; give the --out of `mbert predict`")
    summaries = sorted(file for file in predictions.rglob(SUMMARY) if ".crops" not in file.parts)
    return [file.parent for file in summaries if read_json(file).get("sha256") in contents]


def _forget_in_predictions(predictions: Path, results: Collection[Path], what: Forgetting) -> None:
    """Delete results and crops, and the page of all videos, which `mbert predict` recreates."""
    with exclusive(predictions):
        for folder in results:
            remove_results(folder)
            while folder != predictions and not any(folder.iterdir()):  # it is named after the input
                folder.rmdir()
                folder = folder.parent
        for videos in sorted((predictions / ".crops").glob("*/corpus/videos.parquet")):
            crops = Workspace(videos.parent.parent)
            keys = [row.video_id for row in read_rows(videos, VideoRow) if row.sha256 in what.contents]
            if keys:
                forget_in_corpus(crops, select(crops, "video", keys))
        Owners.read(predictions).without(results).write()
        (predictions / INDEX).unlink(missing_ok=True)
