"""How long is an evaluation? The composite of MEGC 2019: 442 expressions of 68 people, leave one subject out.

Expressions are made up: one public-domain face, moved and with a little noise; classes and people as many as the three
databases have. So scores mean nothing here (they are chance), seconds do. Features are computed in the first run and
read in the second, as when another protocol or head is tried.

    python benchmarks/evaluate.py [--preset small] [--quick]

The last line of the output is one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from mbert.manifests.files import write_json
from mbert.manifests.labels.published import expected
from mbert.manifests.schema import SCHEMA_VERSION, LabelRow, PairRow, pair_key
from mbert.manifests.store import write_rows
from mbert.manifests.workspace import PAIRS_INDEX, twin_paths
from mbert.model.network.config import PRESETS
from mbert.model.network.micron_bert import MicronBert
from mbert.model.scoring.config import BASELINES, EvalConfig
from mbert.model.scoring.evaluate import run_eval
from mbert.shards.image import encode_jpeg
from mbert.shards.pair import FramePair
from mbert.shards.writer import TAR_HASH_ENTRY, writing_tar

SIZE = 224
EMOTIONS = {"casme2": {"negative": "disgust", "positive": "happiness"}, "samm": {"positive": "happiness"}}
EMOTIONS["samm"]["negative"] = "anger"


def expressions(quick):
    """(dataset, subject, emotion) of each, as many as are published."""
    for dataset in ("casme2", "samm", "smic"):
        published = expected("megc2019-3", dataset)
        for name, count in published.samples.items():
            for number in range(8 if quick else count):
                subject = number % (4 if quick else published.num_subjects)
                yield dataset, f"{dataset}/s{subject:02d}", EMOTIONS.get(dataset, {}).get(name, name)


def generate(folder, quick):
    rng = np.random.default_rng(0)
    photo, rows = skimage.data.astronaut(), []

    def face():
        left, top = rng.integers(80, 140), rng.integers(0, 40)
        image = cv2.resize(photo[top : top + 200, left : left + 200], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return encode_jpeg(np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8))

    shards, labels = folder / "expressions", []
    tar, twin = twin_paths(shards, "000000")
    with writing_tar(tar) as writer:
        for number, (dataset, subject, emotion) in enumerate(expressions(quick)):
            clip = f"{dataset}-take{number:05d}_f00_c00000"
            key = pair_key(clip, 0, 6)
            (at0, size0), (at1, size1), _ = writer.add_all(FramePair.of(key, face(), face(), {"key": key}).members())
            rows.append(
                PairRow(
                    key=key, shard="000000", clip_id=clip, subject=subject, t0=0, t1=6, delta_seconds=0.2,
                    kind="onset_apex", dataset=dataset, sample=f"take{number}", apex_source="annotated",
                    t0_offset=at0, t0_size=size0, t1_offset=at1, t1_size=size1,
                )
            )  # fmt: skip
            labels.append(
                LabelRow(
                    dataset=dataset, subject=subject, sample=f"take{number}", path=f"take{number}", video_id=clip,
                    clip_id=clip, line=number, expression="micro", onset=0, apex=6, offset=12, emotion=emotion,
                    action_units=None, objective_class=None, errata=None, remark=None,
                )
            )  # fmt: skip
    write_rows(twin, PairRow, rows, extra={TAR_HASH_ENTRY: writer.sha256})
    write_rows(folder / "labels.parquet", LabelRow, labels)
    index = {
        "schema": SCHEMA_VERSION, "num_pairs": len(rows), "corpus": "benchmark", "plan": "benchmark",
        "options": {"pairs_per_shard": len(rows)}, "subjects": [], "shards": ["000000"],
    }  # fmt: skip
    write_json(shards / PAIRS_INDEX, index)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="tiny", choices=list(PRESETS))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, arguments.quick)
        MicronBert(PRESETS[arguments.preset]).save_pretrained(folder / "model")
        for label, baselines in (("with features", ()), ("features kept", ()), ("all baselines", BASELINES)):
            began = time.monotonic()
            config = EvalConfig(protocol="cde", inputs=("change",), baselines=baselines)  # the widest of one input
            result = run_eval(
                folder / "expressions", folder / "labels.parquet", folder / "model", folder / "runs" / "cde", config
            )
            found[label] = time.monotonic() - began
            print(f"{label}: {found[label]:.1f} s", flush=True)
            for method, each in result.methods.items():
                print(f"  {method}: {each.seconds:.1f} s, UAR {each.scores.uar:.3f}", flush=True)
    print(
        json.dumps(
            {
                "preset": arguments.preset,
                "expressions": result.num_samples,
                "folds": result.num_folds,
                "seconds": {label: round(seconds, 1) for label, seconds in found.items()},
                "seconds_of": {method: round(each.seconds, 1) for method, each in result.methods.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
