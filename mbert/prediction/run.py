"""`mbert predict`: the videos of a folder, each into a folder of its own, and the page of all."""

import collections
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from mbert.manifests.files import exclusive
from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.model.movement.displacement import MovementMeter
from mbert.pipeline.ingest import CorpusChoice, run_ingest
from mbert.pipeline.ingest_input import IngestOptions, Outcome
from mbert.pipeline.video.source import Listing
from mbert.prediction.task import Predicted, PredictOptions, PredictTask, load, load_classifier
from mbert.prediction.video import REPORT, finished, predict_video
from mbert.reports.predict_page import IndexEntry, write_index_page
from mbert.shards.engine import Engine, run_tasks
from mbert.weights import BUILT_IN


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PredictRun:
    """What a run has done; `page` is what to open."""

    num_videos: int
    num_new: int  # made by this run; the others were there
    num_frames: int  # of the videos that have pages
    counts: dict[str, int]  # events by type, of all videos
    failures: dict[str, str]  # path -> reason
    folders: dict[str, str]  # path -> where its predictions lie
    page: str | None
    seconds: float
    out: str


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
    folder_fps: float = 30.0,
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
    ingest = IngestOptions(max_faces=max_faces, folder_fps=folder_fps, decoder=decoder)
    choice = CorpusChoice(dataset="videos")  # whatever they are, all videos are wanted, and no label
    listing = choice.list(path)
    workspace = _workspace_of(listing.root, out, ingest)
    # One video has all cores to itself, in this process; several have a process each.
    alone = dataclasses.replace(engine, workers=0)
    cutter = engine if len(listing.sources) > 1 else alone
    with exclusive(workspace.root):
        summary = run_ingest(path, workspace, ingest, engine=cutter, choice=choice, on_outcome=on_ingested)
        if summary.changed:  # another video under the same name: what was cut of the old one is of no use
            summary = run_ingest(
                path, workspace, ingest, engine=cutter, choice=choice, overwrite=True, on_outcome=on_ingested
            )
        rows = {row.video_id: row for row in read_rows(workspace.videos, VideoRow)}
        folders = folders_for([source.path for source in listing.sources], out)
        used = [source for source in listing.sources if rows[source.video_id].status == "ok"]
        threads = max(1, engine.workers // max(1, len(used)))
        tasks = [
            PredictTask(source, workspace, folders[source.path], options, ingest, command, threads) for source in used
        ]
        done = {} if overwrite else {task.source.path: found for task in tasks if (found := finished(task))}
        left = [task for task in tasks if task.source.path not in done]
        on_plan(len(left), sum(rows[task.source.video_id].num_frames or 0 for task in left))
        failures = {row.path: row.reason or row.status for row in rows.values() if row.status != "ok"}
        failures = {source.path: failures[source.path] for source in listing.sources if source.path in failures}
        runner = engine if len(left) > 1 else alone
        for predicted in run_tasks(
            predict_video, left, runner, on_note=lambda note: on_progress(note.video, note.num_frames)
        ):
            done[predicted.video] = predicted
            on_progress(predicted.video, predicted.summary.num_frames)
            _write_index(path, out, listing, rows, folders, done, command)
        page = _write_index(path, out, listing, rows, folders, done, command)
    counts = collections.Counter[str]()
    for each in done.values():
        counts.update(each.summary.counts)
    return PredictRun(
        num_videos=len(listing.sources),
        num_new=len(left),
        num_frames=sum(each.summary.num_frames for each in done.values()),
        counts=dict(counts),
        failures=failures,
        folders={name: str(folders[name]) for name in done},
        page=None if page is None else str(page),
        seconds=time.monotonic() - began,
        out=str(out),
    )


def _check_models(options: PredictOptions) -> None:
    """Fail before any work when a model cannot be used."""
    network = load(options.model).network
    MovementMeter(network, threads=1)
    if options.classifier:
        load_classifier(options.classifier)


def _workspace_of(root: Path, out: Path, ingest: IngestOptions) -> Workspace:
    """Where the crops of the videos of one folder, cut with the same options, are kept."""
    text = json.dumps([str(root.resolve()), dataclasses.asdict(ingest)])
    return Workspace(out / ".crops" / hashlib.sha256(text.encode()).hexdigest()[:16])


def _write_index(
    path: Path,
    out: Path,
    listing: Listing,
    rows: Mapping[str, VideoRow],
    folders: Mapping[str, Path],
    done: Mapping[str, Predicted],
    command: str,
) -> Path | None:
    """The page of all inputs; of one video its own page is enough."""
    if len(listing.sources) == 1:
        only = listing.sources[0].path
        return folders[only] / REPORT if only in done else None
    entries = []
    for source in listing.sources:
        row, found = rows[source.video_id], done.get(source.path)
        if row.status == "ok" and found is None:
            entries.append(
                IndexEntry(name=source.path, page=None, status="pending", reason=None, summary=None, curve=())
            )
            continue
        page = (folders[source.path] / REPORT).relative_to(out).as_posix() if found else None
        entries.append(
            IndexEntry(
                name=source.path,
                page=page,
                status=row.status,
                reason=row.reason,
                summary=found.summary if found else None,
                curve=found.curve if found else (),
            )
        )
    write_index_page(out / "index.html", entries, title=path.name or str(path), command=command)
    return out / "index.html"


def folders_for(paths: Sequence[str], out: Path) -> dict[str, Path]:
    """Where the predictions of each input go: its path without the suffix, unless two would share it."""
    short = {path: str(Path(path).with_suffix("")) if Path(path).suffix else path for path in paths}
    twice = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {path: out / (path.replace(".", "_") if name in twice else name) for path, name in short.items()}
