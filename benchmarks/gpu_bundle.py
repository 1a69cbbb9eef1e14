"""What has to be carried to a machine with a GPU and no network, so that gpu.py runs there.

    python benchmarks/gpu_bundle.py DIR [--photos FOLDER] [--quick] [--no-wheels]

DIR/pairs: some 800 pairs of the pretraining people of `hard` as shards; DIR/test.npz: some 60 pairs of the test people
of `standard` and `hard`, 1 px, with the patches that moved; DIR/wheels: packages for Python 3.12 on Linux x86-64 that
an image with PyTorch usually lacks; DIR/run.sh: installs these in a folder of its own and starts gpu.py.
Without --photos, portraits of one person each, the bundled photo is varied. --quick: a few pairs, to see that it runs.
The last line of the output is one JSON object.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mbert.manifests.workspace import Workspace
from mbert.model.network.features import MAP_REGIONS
from mbert.model.scoring.localisation import patch_truth
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.pairs.plan import PairOptions
from mbert.pipeline.shard import run_shard
from mbert.pipeline.synthetic.synthesize import PRESETS, synthesize
from mbert.pipeline.synthetic.truth import true_pairs
from mbert.shards.engine import Engine

ROOT = Path(__file__).parents[1]
LACKING = ("webdataset", "braceexpand", "simplejpeg")
PYTHON = "3.12"
GLIBC = (28, 27, 17)  # of the wheels; pip takes each as it stands
TRAINED = 800
TESTED = 60
TESTED_PX = 1.0
MOST_MB = 55
RUN = """#!/bin/sh
# From the root of the repository: sh BUNDLE/run.sh OUT [options of benchmarks/gpu.py]
here=$(cd "$(dirname "$0")" && pwd) && out=$1 && shift && site=$(mktemp -d) && \\
python3 -m pip install --quiet --no-index --no-deps --target "$site" "$here"/wheels/*.whl && \\
PYTHONPATH="$PWD:$site:$PYTHONPATH" exec python3 benchmarks/gpu.py --bundle "$here" --out "$out" "$@"
"""


def make_data(folder, *, photos=None, quick=False, workers=2):
    """Training pairs and test pairs, without wheels; returns how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(workers=workers)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        options = sizes("hard", photos, quick, part="pretrain")
        _, workspace = ingested(work / "train", options, photos, engine)
        shards = run_shard(workspace, PairOptions(), engine=engine)
        if shards.kinds["sampled"] > TRAINED:
            thinner = PairOptions(pairs_per_second=PairOptions().pairs_per_second * TRAINED / shards.kinds["sampled"])
            shards = run_shard(workspace, thinner, engine=engine, overwrite=True)
        workspace.pairs.rename(folder / "pairs")
        levels = ("hard",) if quick else ("standard", "hard")
        tested = [tested_pairs(work / level, level, photos, quick, engine) for level in levels]
        pairs = [pair for each in tested for pair in thinned(each, TESTED // len(levels))]
    save_test(folder / "test.npz", pairs)
    return {"pairs": shards.kinds["sampled"], "test_pairs": len(pairs)}


def save_test(file, pairs):
    """Frames of pairs, which patches moved and which are still, whom they show."""
    truths = [patch_truth(pair.expression, pair.distractor, MAP_REGIONS) for pair in pairs]
    np.savez_compressed(
        file,
        t0=np.stack([pair.t0 for pair in pairs]),
        t1=np.stack([pair.t1 for pair in pairs]),
        moved=np.stack([truth.moved for truth in truths]),
        still=np.stack([truth.still for truth in truths]),
        people=np.array([pair.row.subject for pair in pairs]),
    )


def sizes(level, photos, quick, part, **changes):
    few = quick or photos is not None
    return dataclasses.replace(
        PRESETS[level],
        emotions="three" if quick else "five",
        fps=30,
        part=part if photos is not None else "all",
        subjects_per_photo=2 if quick else 1 if few else 14,
        clips_per_emotion=1,
        neutral_clips=1,
        **changes,
    )


def ingested(folder, options, photos, engine):
    videos, workspace = folder / "videos", Workspace(folder / "workspace")
    synthesize(videos, options, photos=photos, engine=engine)
    run_ingest(videos, workspace, IngestOptions(), engine=engine)
    return videos, workspace


def tested_pairs(folder, level, photos, quick, engine):
    seed = 0 if photos is not None else 1  # of the bundled photo, other variations
    amplitude = {"min_amplitude_px": TESTED_PX, "max_amplitude_px": TESTED_PX}
    options = sizes(level, photos, quick, "test", seed=seed, **amplitude)
    return list(true_pairs(*ingested(folder, options, photos, engine)))


def thinned(pairs, count):
    """Evenly over all, at most so many."""
    return [pairs[index] for index in np.unique(np.linspace(0, len(pairs) - 1, count).round().astype(int))]


def fetch_wheels(folder):
    """The versions of constraints.txt, for the machine that is meant, not this one."""
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    command += ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    command += [word for glibc in GLIBC for word in ("--platform", f"manylinux_2_{glibc}_x86_64")]
    command += ["--platform", "manylinux2014_x86_64"]
    subprocess.run([*command, *(f"{name}=={pinned[name]}" for name in LACKING)], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=Path, help="portraits, one of each person; default: the bundled one, varied")
    parser.add_argument("--quick", action="store_true", help="a few pairs, to see that it runs")
    parser.add_argument("--no-wheels", action="store_true", help="for a machine that has all packages")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    folder = arguments.folder
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty: give another folder")
    found = make_data(folder, photos=arguments.photos, quick=arguments.quick, workers=arguments.workers)
    if not arguments.no_wheels:
        fetch_wheels(folder / "wheels")
    (folder / "run.sh").write_text(RUN, encoding="utf-8")
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if megabytes > MOST_MB:
        parser.error(f"{folder} holds {megabytes:.0f} MB, more than {MOST_MB}: give fewer photos")
    print(json.dumps({**found, "mb": round(megabytes, 1), "folder": str(folder)}))


if __name__ == "__main__":
    main()
