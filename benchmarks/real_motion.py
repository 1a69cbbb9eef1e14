"""Does a map see motion of real shape on real faces, and nothing where nothing happens?

    python benchmarks/real_motion.py MEDIA --part A [--model NAME=FOLDER ...] [--folder DIR]

MEDIA holds `videos/` and, for what is asked of untouched clips, `annotations.csv` (as `events.py` takes it). People of
part A may serve for choices; part B is opened once per release. `real_pairs.py` says what is asked, and is frozen.

Of each model, and of baselines that get the same frames, AUROC at the same place and within pairs, at four largest
lengths of each family of fields, and on pairs that move by themselves. Each method's map is joined with its neighbours
as far as was best for it on part A. Error ratio: (1 - AUROC of the model) / (1 - AUROC of the best baseline), with the
interval of drawing people again, both sides alike. Several `--model` give the cross table of what they were trained on.

Untouched clips, by their annotation: mean of the map where a face is still (1 and 5 frames apart), mouth against
forehead of speakers (3 apart, the median over clips), mean where a head moves and the face does nothing (3 apart); and
on moments with a drawn turn of the head by 1 to 4 degrees (an ellipsoid, so not affine).

The last line of the output is one JSON object, of the first model.
"""

import argparse
import contextlib
import csv
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from maps import change_map, maps_of
from real_pairs import (
    DEFINITION,
    FAMILIES,
    GRID,
    SIZE,
    draw,
    fields_of,
    generator_field,
    moments_of,
    natural_pairs_of,
    part_of,
    people_of,
)
from real_pairs import LEFT_OUT as NOT_ASKED

from mbert.manifests.workspace import Workspace
from mbert.model.data.pixels import normalize, resize, stack_images
from mbert.model.network.micron_bert import MicronBert
from mbert.model.network.motion import motion_evidence
from mbert.model.scoring.confusion import group_by_name, resample_subjects
from mbert.model.scoring.localisation import auroc_same_place, auroc_within, patch_means
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.synthetic.facial_motion import pixel_grid
from mbert.pipeline.video.source import VIDEO_SUFFIXES
from mbert.shards.engine import Engine
from mbert.shards.optical_flow import flow_beside_head, optical_flow, without_head
from mbert.weights import BUILT_IN

AMPLITUDES = (0.3, 0.5, 1.0, 2.0)  # px
CHOSEN_ON = (0.5, 1.0)  # of these, joining is chosen
NATURAL = ("natural", 0.0)  # pairs that move by themselves: no length is drawn
METRICS = {"same_place": auroc_same_place, "within": auroc_within}
JOINED = (0.0, 0.5, 1.0, 1.5)  # patches, standard deviation: what each method may choose from
SEED = 0
STILL_APART, SPEECH_APART, HEAD_APART = (1, 5), 3, 3
MARGIN = 2  # frames at both ends of an annotated stretch
TURNS = (1.0, 2.0, 4.0)  # degrees
MOUTH, FOREHEAD = (slice(10, 13), slice(5, 9)), (slice(1, 3), slice(4, 10))  # patches of an aligned crop
EXPLAINED = 7 + 4  # of the evidence: what motion explains against the noise, joined with the nearest neighbours


def lengths(flow):
    return patch_means(np.linalg.norm(flow, axis=-1)[None], GRID)[0]


def evidence_map(pair, size=112):
    t0, t1 = (normalize(stack_images([resize(frame, size)]), 3) for frame in (pair.t0, pair.t1))
    found = motion_evidence(t0, t1, size // GRID)[0, :, EXPLAINED]
    return found.view(GRID, GRID).numpy()


BASELINES = {
    "dis_plain": lambda pair: lengths(without_head(optical_flow(pair.t0, pair.t1))),
    "dis": lambda pair: lengths(flow_beside_head(pair.t0, pair.t1, "dis")),
    "dis_fine": lambda pair: lengths(flow_beside_head(pair.t0, pair.t1, "dis_fine")),
    "farneback": lambda pair: lengths(flow_beside_head(pair.t0, pair.t1, "farneback")),
    "evidence": evidence_map,
}


def raw_maps(pairs, models):
    """{method: (P, GRID, GRID)} before joining."""
    found = {name: np.stack([make(pair) for pair in pairs]) for name, make in BASELINES.items()}
    return found | {name: maps_of(model, change_map, pairs) for name, model in models.items()}


def joined(maps, spread):
    if not spread:
        return maps
    return np.stack([cv2.GaussianBlur(each.astype(np.float32), (0, 0), spread) for each in maps])


class Asked:
    """The pairs of a set of people, by family and amplitude, and what the methods make of them."""

    def __init__(self, people, models):
        rng = np.random.default_rng(SEED)
        self.moments = {name: moments_of(person, rng) for name, person in people.items()}
        fields = {name: fields_of(person, rng) for name, person in people.items()}
        self.pairs = {(family, amplitude): [] for family in FAMILIES for amplitude in AMPLITUDES}
        for name, moments in self.moments.items():
            others = {
                family: [field for other, found in fields.items() if other != name for field in found[family]]
                for family in FAMILIES[:-1]
            }
            for moment in moments:
                for family in FAMILIES:
                    if family == "generator":
                        field = generator_field(moment, rng)
                    elif others[family]:
                        field = others[family][rng.integers(len(others[family]))]
                    else:
                        continue
                    seed = int(rng.integers(1 << 31))  # the same shifts at every amplitude
                    for amplitude in AMPLITUDES:
                        pair = draw(moment, field, amplitude, np.random.default_rng(seed))
                        self.pairs[family, amplitude].append(pair)
        rng = np.random.default_rng(SEED + 1)
        self.pairs[NATURAL] = [pair for person in people.values() for pair in natural_pairs_of(person, rng)]
        self.maps = {key: raw_maps(pairs, models) for key, pairs in self.pairs.items() if pairs}
        self.counts = {
            "people": sum(bool(each) for each in self.moments.values()),
            "moments": sum(map(len, self.moments.values())),
            "natural": len(self.pairs[NATURAL]),
            "fields": {family: sum(len(found[family]) for found in fields.values()) for family in FAMILIES[:-1]},
        }

    def shares(self, key, spreads):
        """{method: {metric: Share}}."""
        pairs = self.pairs[key]
        moved, still = (np.stack([getattr(pair, what) for pair in pairs]) for what in ("moved", "still"))
        return {
            name: {metric: score(joined(maps, spreads[name]), moved, still) for metric, score in METRICS.items()}
            for name, maps in self.maps[key].items()
        }

    def best_spreads(self):
        """{method: spread}: of the best mean AUROC at the same place over mesh and flow."""
        keys = [key for key in self.maps if key[0] in ("mesh", "flow") and key[1] in CHOSEN_ON]
        scores = {
            spread: [self.shares(key, dict.fromkeys(self.maps[key], spread)) for key in keys] for spread in JOINED
        }
        return {
            name: max(JOINED, key=lambda spread: np.mean([each[name]["same_place"].value for each in scores[spread]]))
            for name in self.maps[keys[0]]
        }


def ratio_interval(ours, theirs, people):
    """95 % of the ratio of errors, people drawn with replacement, for both sides the same."""
    names, of_pair = group_by_name(people, len(people))
    belongs = np.eye(len(names))[of_pair]
    times = resample_subjects(np.eye(len(names), dtype=np.int64), np.random.default_rng(SEED))

    def errors(share):
        if share.won.ndim == 1:
            won, asked = (times @ (belongs.T @ sums) for sums in (share.won, share.asked))
        else:
            won, asked = (
                ((times @ (belongs.T @ sums @ belongs)) * times).sum(axis=1) for sums in (share.won, share.asked)
            )
        return 1 - won / np.maximum(asked, 1e-9)

    found = errors(ours) / np.maximum(errors(theirs), 1e-9)
    return [round(float(value), 3) for value in np.percentile(found, [2.5, 97.5])]


def table(asked, spreads, model):
    """Error ratios of a model, and what it was compared with."""
    found = {"error_ratio": {}, "within": {}, "best_baseline": {}, "intervals": {}, "auroc": {}}
    for (family, amplitude), pairs in asked.pairs.items():
        if not pairs:
            continue
        people, shares, name = (
            [pair.person for pair in pairs],
            asked.shares((family, amplitude), spreads),
            f"{amplitude:g}" if amplitude else "own",
        )
        for metric, key in (("same_place", "error_ratio"), ("within", "within")):
            best = max(BASELINES, key=lambda each: shares[each][metric].value)
            ours, theirs = shares[model][metric], shares[best][metric]
            found[key].setdefault(family, {})[name] = round((1 - ours.value) / (1 - theirs.value), 3)
            found["intervals"].setdefault(key, {}).setdefault(family, {})[name] = ratio_interval(ours, theirs, people)
            if metric == "same_place":
                found["best_baseline"].setdefault(family, {})[name] = best
        found["auroc"].setdefault(family, {})[name] = {
            each: [round(shares[each][metric].value, 4) for metric in METRICS] for each in shares
        }
    return found


def read_annotations(file):
    rows = {}
    with file.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            rows.setdefault(row["clip"], []).append(
                (row["event"], int(row["onset"]), int(row["offset"]), row["certainty"])
            )
    return rows


class Ends:
    """Two frames as `maps_of` takes them."""

    def __init__(self, t0, t1):
        self.t0, self.t1 = t0, t1


def untouched(model, workspace, names, annotations, moments):
    """What the map of a model says where nothing was drawn."""
    still, ratios, heads = [], {}, []
    for name, person in people_of(workspace, names).items():
        rows = annotations.get(name, [])
        for clip in person.clips():
            places = {int(frame): place for place, frame in enumerate(clip.frame_indices)}

            def maps(onset, offset, apart, clip=clip, places=places):
                at = [places[frame] for frame in range(onset + MARGIN, offset - MARGIN - apart + 1) if frame in places]
                ends = [at_ for at_ in at if at_ + apart < len(clip)]
                if not ends:
                    return np.empty((0, GRID, GRID))
                crops = clip.images(min(ends), max(ends) + apart + 1)
                pairs = [Ends(crops[place - min(ends)], crops[place + apart - min(ends)]) for place in ends]
                return maps_of(model, change_map, pairs)

            for event, onset, offset, certainty in rows:
                if event == "still":
                    still += [found for apart in STILL_APART for found in maps(onset, offset, apart)]
                if event == "speech":
                    ratios.setdefault(name, []).extend(maps(onset, offset, SPEECH_APART))
                if event == "head" and certainty == "sure":
                    busy = [row for row in rows if row[0] not in ("head", "still", "gaze")]
                    if not any(row[1] <= offset and onset <= row[2] for row in busy):
                        heads += list(maps(onset, offset, HEAD_APART))
    over = [
        float(np.mean([found[MOUTH] for found in each]) / max(np.mean([found[FOREHEAD] for found in each]), 1e-4))
        for each in ratios.values()
        if each
    ]
    turned = [turn(moment, degrees) for each in moments.values() for moment in each for degrees in TURNS]
    drawn = maps_of(model, change_map, turned) if turned else np.empty((0, GRID, GRID))
    return {
        "still": mean(still),
        "mouth_over_forehead": round(float(np.median(over)), 2) if over else None,
        "mouth_over_forehead_clips": [round(value, 2) for value in over],
        "head_turn": mean(heads),
        "head_turn_drawn": mean(drawn),
    }


def mean(maps):
    return round(float(np.mean(maps)), 4) if len(maps) else None


def turn(moment, degrees):
    """The moment with its second frame turned about the vertical or the horizontal axis of an ellipsoid."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    x, y = (x - SIZE / 2) / (0.40 * SIZE), (y - SIZE * 0.55) / (0.52 * SIZE)
    depth = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1)) * 0.35 * SIZE
    way = depth * np.float32(np.sin(np.radians(degrees)))
    motion = np.stack([way, 0 * way] if degrees != 2 else [0 * way, way], axis=-1)
    places = pixel_grid((SIZE, SIZE)) - motion
    turned = cv2.remap(moment.frames[1], places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return Ends(moment.frames[0], turned)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("--part", choices=("A", "B"), default="A")
    parser.add_argument("--model", action="append", default=[], help="NAME=FOLDER; default: the built-in one")
    parser.add_argument("--folder", type=Path, help="keep the corpus here; default: a folder that is removed")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    named = dict(each.split("=", 1) for each in arguments.model) or {"built-in": str(BUILT_IN)}
    models = {name: MicronBert.from_pretrained(folder).eval() for name, folder in named.items()}
    files = [
        file
        for file in sorted((arguments.media / "videos").iterdir())
        if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(NOT_ASKED)
    ]
    parts = {part: [file.name for file in files if part_of(file) == part] for part in "AB"}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() if arguments.folder is None else contextlib.nullcontext(arguments.folder) as at:
        workspace = Workspace(Path(at) / "workspace")
        run_ingest(arguments.media / "videos", workspace, IngestOptions(), engine=Engine(workers=arguments.workers))
        tuning = Asked(people_of(workspace, parts["A"]), models)
        spreads = tuning.best_spreads()
        asked = tuning if arguments.part == "A" else Asked(people_of(workspace, parts["B"]), models)
        annotated = arguments.media / "annotations.csv"
        annotations = read_annotations(annotated) if annotated.exists() else {}
        results = {}
        for name, model in models.items():
            results[name] = table(asked, spreads, name)
            results[name]["untouched"] = untouched(model, workspace, parts[arguments.part], annotations, asked.moments)
    print(f"part {arguments.part}: {asked.counts}, {time.monotonic() - began:.0f} s; joined with neighbours: {spreads}")
    for name, found in results.items():
        print(f"\n{name}: error ratio at the same place / within pairs, best baseline; AUROC of all at the same place")
        for family, by_amplitude in found["error_ratio"].items():
            for amplitude, ratio in by_amplitude.items():
                told = ", ".join(f"{each} {v[0]:.3f}" for each, v in found["auroc"][family][amplitude].items())
                low, high = found["intervals"]["error_ratio"][family][amplitude]
                print(
                    f"{family:10} {amplitude:>4} px: {ratio:.2f} ({low:.2f}-{high:.2f}) / "
                    f"{found['within'][family][amplitude]:.2f}, {found['best_baseline'][family][amplitude]}; {told}"
                )
        print(f"untouched: {found['untouched']}")
    first = next(iter(results.values()))
    print(json.dumps({**first, "part": arguments.part, "definition": DEFINITION, "counts": asked.counts}))


if __name__ == "__main__":
    main()
