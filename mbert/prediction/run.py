"""`mbert predict`: processes the videos of a folder, each into its own folder, and the page of all."""

import collections
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from mbert.manifests.files import exclusive
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.model.movement.displacement import MovementMeter
from mbert.pipeline.corpora.videos import list_videos
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.ingest_summary import Outcome
from mbert.pipeline.video.source import Listing
from mbert.prediction.owners import Owners
from mbert.prediction.results import INDEX, REPORT, remove_results
from mbert.prediction.task import Predicted, PredictOptions, PredictTask, Unpredicted, load, load_classifier
from mbert.prediction.video import finished, predict_video
from mbert.reports.predict_page import IndexEntry, write_index_page
from mbert.shards.engine import Engine, Loss, run_tasks
from mbert.weights import BUILT_IN

_INDEX_SECONDS = 10.0  # between two updates of it during a run


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PredictRun:
    """The result of a run; `page` is the page to open."""

    num_videos: int
    num_new: int  # made by this run; the others existed
    num_frames: int  # of the videos that have pages
    counts: dict[str, int]  # events by type, of all videos
    failures: dict[str, str]  # path -> reason
    folders: dict[str, str]  # path -> folder of its predictions
    page: str | None
    seconds: float
    out: str


class _AllVideos(CorpusChoice):
    """Use all videos, of any kind, and no labels."""

    def list(self, path: Path) -> Listing:
        return list_videos(path, with_labels=False)


def run_predict(
    path: Path,
    out: Path,
    *,
    per_minute: float = 1.0,
    max_faces: int | None = None,
    model: str | Path | None = None,
    classifier: Path | None = None,
    overlay: bool = True,
    embed_video: bool = False,
    folder_fps: float | None = None,
    rate: float | None = None,
    bit_depth: int | None = None,
    decoder: Literal["pyav", "ffmpeg"] = "pyav",
    engine: Engine,
    overwrite: bool = False,
    command: str = "",
    on_plan: Callable[[int, int], None] = lambda num_videos, num_frames: None,
    on_ingested: Callable[[Outcome], None] = lambda outcome: None,
    on_progress: Callable[[str, int], None] = lambda video, num_frames: None,
) -> PredictRun:
    """Predict a video, or each video under a folder, into folders of `out`; see `mbert.api.predict`."""
    began = time.monotonic()
    options = PredictOptions(
        per_minute=per_minute,
        model=str(model or BUILT_IN),
        classifier=None if classifier is None else str(classifier),
        overlay=overlay,
        embed_video=embed_video,
    )
    _check_models(options)
    ingest = IngestOptions(max_faces=max_faces, folder_fps=folder_fps, rate=rate, bit_depth=bit_depth, decoder=decoder)
    choice = _AllVideos()
    listing = choice.list(path)
    workspace = _workspace_of(listing.root, out, ingest)
    # A single video uses all cores, in this process; several get one process each.
    alone = dataclasses.replace(engine, workers=0)
    cutter = engine if len(listing.sources) > 1 else alone
    with exclusive(out):  # folders of results must only be used by one run at a time
        summary = run_ingest(path, workspace, ingest, engine=cutter, choice=choice, on_outcome=on_ingested)
        if summary.changed:  # another video under the same name: crops of the old one are useless
            summary = run_ingest(
                path, workspace, ingest, engine=cutter, choice=choice, overwrite=True, on_outcome=on_ingested
            )
        if overwrite and summary.failures:
            run_ingest(path, workspace, ingest, engine=cutter, choice=choice, retry_failed=True, on_outcome=on_ingested)
        rows = {row.video_id: row for row in read_rows(workspace.videos, VideoRow)}
        names = {source.path: listing.root.name if source.path == "." else source.path for source in listing.sources}
        others = Owners.read(out)
        contents = {source.path: rows[source.video_id].sha256 for source in listing.sources}
        locations = {source.path: source.location for source in listing.sources}
        folders = folders_for(
            names, out, lambda path, folder: others.is_free(folder, locations[path], names[path], contents[path])
        )
        others = others.without(folders.values()).existing()
        others.joined({folders[path]: location for path, location in locations.items()}).write()
        used = [source for source in listing.sources if rows[source.video_id].status == "ok"]
        threads = max(1, engine.workers // max(1, len(used)))
        tasks = [
            PredictTask(source, names[source.path], workspace, folders[source.path], options, ingest, command, threads)
            for source in used
        ]
        done = {} if overwrite else {task.source.path: found for task in tasks if (found := finished(task))}
        left = [task for task in tasks if task.source.path not in done]
        on_plan(len(left), sum(rows[task.source.video_id].num_frames or 0 for task in left))
        failures = {row.path: row.reason or row.status for row in rows.values() if row.status != "ok"}
        failures = {source.path: failures[source.path] for source in listing.sources if source.path in failures}
        for name in failures:
            remove_results(folders[name])
        runner = engine if len(left) > 1 else alone
        written = time.monotonic()
        for predicted in run_tasks(
            predict_video,
            left,
            runner,
            on_lost=_lost,
            on_note=lambda note: on_progress(note.video, note.num_frames),
        ):
            if isinstance(predicted, Unpredicted):
                failures[predicted.video] = predicted.reason
                continue
            done[predicted.video] = predicted
            on_progress(predicted.video, predicted.summary.num_frames)
            if time.monotonic() - written >= _INDEX_SECONDS:
                _write_index(path, out, listing, rows, folders, done, failures, command, others)
                written = time.monotonic()
        page = _write_index(path, out, listing, rows, folders, done, failures, command, others)
    counts = collections.Counter[str]()
    for each in done.values():
        counts.update(each.summary.counts)
    return PredictRun(
        num_videos=len(listing.sources),
        num_new=sum(task.source.path in done for task in left),
        num_frames=sum(each.summary.num_frames for each in done.values()),
        counts=dict(counts),
        failures=failures,
        folders={name: str(folders[name]) for name in done},
        page=None if page is None else str(page),
        seconds=time.monotonic() - began,
        out=str(out),
    )


def _lost(task: PredictTask, loss: Loss) -> Unpredicted:
    return Unpredicted(
        task.source.path, "the process that worked on it died twice (out of memory, or a fault in a native library)"
    )


def _check_models(options: PredictOptions) -> None:
    """Fail before any work if a model cannot be used."""
    network = load(options.model).network
    MovementMeter(network, threads=1)
    if options.classifier:
        load_classifier(options.classifier)


def _workspace_of(root: Path, out: Path, ingest: IngestOptions) -> Workspace:
    """The workspace for crops of one folder's videos, made with the same options."""
    text = json.dumps([str(root.resolve()), dataclasses.asdict(ingest)])
    return Workspace(out / ".crops" / hashlib.sha256(text.encode()).hexdigest()[:16])


def _write_index(
    path: Path,
    out: Path,
    listing: Listing,
    rows: Mapping[str, VideoRow],
    folders: Mapping[str, Path],
    done: Mapping[str, Predicted],
    failures: Mapping[str, str],
    command: str,
    others: "Owners",
) -> Path | None:
    """Write the page of all inputs, including those of earlier runs; for a single video, its own page is enough."""
    entries = others.entries(listing.root)
    page = out / INDEX
    if len(listing.sources) == 1:
        source = listing.sources[0]
        page = folders[source.path] / REPORT if source.path in done else page
        if not entries and source.path in done:
            return page
        if not entries and (path.is_file() or source.path not in failures):
            return None
    for source in listing.sources:
        row, found = rows[source.video_id], done.get(source.path)
        if found is None and source.path not in failures:
            entries.append(
                IndexEntry(name=source.path, page=None, status="pending", reason=None, summary=None, curve=())
            )
            continue
        entries.append(
            IndexEntry(
                name=source.path,
                page=(folders[source.path] / REPORT).relative_to(out).as_posix() if found else None,
                status="error" if found is None and row.status == "ok" else row.status,
                reason=failures.get(source.path, row.reason),
                summary=found.summary if found else None,
                curve=found.curve if found else (),
            )
        )
    write_index_page(out / INDEX, entries, title=path.name or str(path), command=command)
    return page


def folders_for(
    names: Mapping[str, str], out: Path, is_free: Callable[[str, Path], bool] = lambda path, folder: True
) -> dict[str, Path]:
    """The folder for the predictions of each input: its name without the suffix, unless two would share it.

    `names` by path. No two inputs share a folder, even on case-insensitive disks. `is_free` says whether a path may
    have a folder.
    """
    short = {path: _without_suffix(name) for path, name in names.items()}
    twice = {name for name, count in collections.Counter(short.values()).items() if count > 1}
    taken = {INDEX}
    folders = {}
    for path, name in short.items():
        wanted = names[path].replace(".", "_") if name in twice else name
        numbered = (f"{wanted}_{number}" for number in itertools.count(2))
        free = next(
            each
            for each in itertools.chain([wanted], numbered)
            if each.casefold() not in taken and is_free(path, out / each)
        )
        taken.add(free.casefold())
        folders[path] = out / free
    return folders


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    if not path.stem.strip("."):  # the rest of `..mp4` would mean this folder, or the one above
        return str(path.with_name(path.name.replace(".", "_")))
    return str(path.with_suffix(""))
