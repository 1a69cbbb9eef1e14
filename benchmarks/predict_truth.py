"""What `mbert predict` finds of expressions whose truth is known: synthetic test people that no model has seen.

    python benchmarks/predict_truth.py [--photos FOLDER] [--preset standard] [--fps 100] [--model RUN] [--clips 2]

Makes clips of the test people of `mbert synthesize` (without --photos: other variations of the bundled photo, whose
faces the built-in model knows), predicts them and compares:

- found: an event whose onset-to-apex shares a frame with the true one, in the part of the face that moves most;
- region_hit: of these, the region that truly goes furthest is among those the event names;
- apex_error_ms: of these, median distance of the apexes;
- au_top3: of these, one of the true action units is among the three the event is most like; au_top3_by_chance: the
  same for three units drawn at random;
- false_per_minute: events of neutral clips without a flag that says they may be something else (docs/predict.md).

The last line of the output is one JSON object.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
from math import comb
from pathlib import Path

import numpy as np

import mbert
from mbert.manifests.predictions import EventRow
from mbert.manifests.regions import PARTS, REGIONS
from mbert.manifests.schema import TruthRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.faces.measure import CropMeter
from mbert.pipeline.synthetic.facial_motion import ACTION_UNITS
from mbert.pipeline.synthetic.synthesize import PRESETS, TRUTH_NAME, synthesize
from mbert.pipeline.synthetic.truth import true_pairs
from mbert.shards.engine import Engine

SHARE = 0.4  # of the furthest region's way


def true_regions(pair, meter):
    """Regions by how far they truly go, furthest first, with the way of the first in px; None: no face in the crop."""
    meter.forget()
    measured = meter.measure(pair.t0)
    if measured is None:
        return None
    size = pair.t0.shape[0]
    places = np.clip(measured.centres.round().astype(int), 0, size - 1)
    ways = np.linalg.norm(pair.expression[places[:, 1], places[:, 0]], axis=-1) * 224 / size
    order = np.argsort(-ways)
    return [REGIONS[region] for region in order if ways[region] >= SHARE * ways[order[0]]], float(ways[order[0]])


def part_of(region):
    return next(part for part, regions in PARTS.items() if region in regions)


def by_chance(count):
    """How often three of all units, drawn at random, hold one of so many."""
    units = len(ACTION_UNITS)
    return 1 - comb(units - count, 3) / comb(units, 3)


def score(row, pair, events, meter, tally):
    found = true_regions(pair, meter)
    if found is None:
        return
    regions, _ = found
    part = part_of(regions[0])
    rise = (row.onset, row.apex)
    same = [
        event
        for event in events
        if event.type in ("micro", "macro")
        and event.part == part
        and event.onset_frame <= rise[1]
        and rise[0] <= event.apex_frame
    ]
    tally["found"].append(bool(same))
    if not same:
        return
    best = max(same, key=lambda event: event.size_px)
    tally["region_hit"].append(regions[0] in best.regions.split())
    tally["apex_error_ms"].append(abs(best.apex_frame - row.apex) * 1000 / row.fps)
    tally["onset_error_ms"].append(abs(best.onset_frame - row.onset) * 1000 / row.fps)
    units = {int(unit) for unit in row.action_units.split("+")}
    like = {int(each.split(":")[0]) for each in (best.like or "").split()}
    tally["au_top3"].append(bool(units & like))
    tally["au_top3_by_chance"].append(by_chance(len(units)))
    tally["as_micro"].append(best.type == "micro")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, help="portraits; their test people are used")
    parser.add_argument("--preset", default="standard", choices=tuple(PRESETS))
    parser.add_argument("--fps", type=int, default=100)
    parser.add_argument("--clips", type=int, default=2, help="of each emotion and each person")
    parser.add_argument("--subjects", type=int, default=1, help="of each photo")
    parser.add_argument("--model", type=Path, help="default: the built-in one")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for clips and predictions; default: a temporary one")
    arguments = parser.parse_args()
    options = dataclasses.replace(
        PRESETS[arguments.preset],
        emotions="five",
        fps=arguments.fps,
        part="test" if arguments.photos else "all",
        subjects_per_photo=arguments.subjects,
        clips_per_emotion=arguments.clips,
        neutral_clips=2,
        min_seconds=1.6,
        max_seconds=2.0,
        seed=11,
    )
    names = ("found", "region_hit", "apex_error_ms", "onset_error_ms", "au_top3", "au_top3_by_chance", "as_micro")
    tally = {name: [] for name in names}
    false, seconds = 0, 0.0
    with tempfile.TemporaryDirectory() as name:
        work = arguments.keep or Path(name)
        synthesize(work / "videos", options, photos=arguments.photos, engine=Engine(workers=arguments.workers))
        out = work / "predictions"
        run = mbert.predict(work / "videos", out=out, model=arguments.model, overlay=False, workers=arguments.workers)
        [crops] = (out / ".crops").iterdir()
        rows = {row.path: row for row in read_rows(work / "videos" / TRUTH_NAME, TruthRow)}
        meter = CropMeter()
        for pair in true_pairs(work / "videos", Workspace(crops), list(rows.values())):
            row = pair.row
            if row.path not in run.folders:
                continue
            events = read_rows(Path(run.folders[row.path]) / "events.parquet", EventRow)
            if row.onset is None:
                moved = [event for event in events if event.type in ("micro", "macro")]
                false += sum(not set((event.flags or "").split()) - {"held"} for event in moved)
                seconds += row.num_frames / row.fps
            else:
                score(row, pair, events, meter, tally)
    mean = lambda values: round(float(np.mean(values)), 3) if values else None  # noqa: E731
    print(
        json.dumps(
            {
                "clips": len(tally["found"]),
                "people": len({row.subject for row in rows.values()}),
                "found": mean(tally["found"]),
                "region_hit": mean(tally["region_hit"]),
                "apex_error_ms": round(statistics.median(tally["apex_error_ms"]), 1),
                "onset_error_ms": round(statistics.median(tally["onset_error_ms"]), 1),
                "au_top3": mean(tally["au_top3"]),
                "au_top3_by_chance": mean(tally["au_top3_by_chance"]),
                "as_micro": mean(tally["as_micro"]),
                "false_per_minute": round(60 * false / seconds, 2) if seconds else None,
                "preset": arguments.preset,
                "fps": arguments.fps,
            }
        )
    )


if __name__ == "__main__":
    main()
