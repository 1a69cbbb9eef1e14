"""Make `mbert/weights/facial_motion.safetensors` again: the shapes of motion that motion heads learn on.

    python benchmarks/facial_motion.py MEDIA --out facial_motion.safetensors

MEDIA holds `videos/`; people of part A are used (`real_pairs.py`), so that part B stays unseen. Of each person and
family up to FIELDS fields are taken, mirrored ones too, no person weighing more than another; written are the principal
components, each as long as its standard deviation: (COMPONENTS, 2, 28, 28) for `mesh` and `flow`. The file in the
package was made from the same clips with fewer fields of some, where the time for a person was over; its components
differ slightly. About 20 minutes on one core.

The last line of the output is one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch
from real_pairs import FLOW_APART, LEFT_OUT, MESH_APART, flow_field, mesh_fields, part_of, people_of

from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions
from mbert.pipeline.video.source import VIDEO_SUFFIXES
from mbert.shards.engine import Engine

FIELDS = {"flow": 100, "mesh": 150}
TRIES = 900  # pairs of frames looked at of each person
COMPONENTS, SIDE = 48, 28
EQUAL = 60  # fields that a person counts for
MIRRORED = np.array([-1, 1], np.float32)


def fields_of(person, rng):
    """{family: (n, SIDE, SIDE, 2)}."""
    found = {family: [] for family in FIELDS}
    lengths = np.array(person.lengths())
    for _ in range(TRIES):
        clip = rng.choice(len(lengths), p=lengths / lengths.sum())
        for family, apart in (("flow", FLOW_APART), ("mesh", MESH_APART)):
            distance = int(rng.integers(apart[0], apart[1] + 1))
            if len(found[family]) >= FIELDS[family] or lengths[clip] <= distance:
                continue
            place = int(rng.integers(lengths[clip] - distance))
            ends = [person.crops(at, at + 1, clip)[0] for at in (place, place + distance)]
            if family == "flow":
                field = flow_field(*ends)
            else:
                meshes = [person.mesh(end) for end in ends]
                field = None if any(mesh is None for mesh in meshes) else mesh_fields(*meshes)["mesh"]
            if field is not None:
                found[family].append(cv2.resize(field, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
    return {family: np.array(fields).reshape(-1, SIDE, SIDE, 2) for family, fields in found.items()}


def components_of(by_person):
    """(COMPONENTS, 2, SIDE, SIDE), and the share of the variance that they hold."""
    weighted = [(EQUAL / max(len(fields), 16)) ** 0.5 * fields for fields in by_person if len(fields)]
    both = np.concatenate([*weighted, *(fields[:, :, ::-1] * MIRRORED for fields in weighted)])
    _, spread, basis = np.linalg.svd(both.reshape(len(both), -1), full_matrices=False)
    kept = (spread[:COMPONENTS, None] * basis[:COMPONENTS] / len(both) ** 0.5).reshape(-1, SIDE, SIDE, 2)
    return kept.transpose(0, 3, 1, 2), float((spread[:COMPONENTS] ** 2).sum() / (spread**2).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    files = [
        file
        for file in sorted((arguments.media / "videos").iterdir())
        if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(LEFT_OUT) and part_of(file) == "A"
    ]
    with tempfile.TemporaryDirectory() as name:
        folder, workspace = Path(name) / "videos", Workspace(Path(name) / "workspace")
        folder.mkdir()
        for file in files:
            (folder / file.name).symlink_to(file.resolve())
        run_ingest(folder, workspace, IngestOptions(), engine=Engine(workers=arguments.workers))
        people = people_of(workspace, [file.name for file in files])
        found = {name: fields_of(person, np.random.default_rng(1)) for name, person in people.items()}
    tensors, result = {}, {"people": {}, "variance": {}}
    for family in FIELDS:
        components, share = components_of([fields[family] for fields in found.values()])
        tensors[family] = torch.from_numpy(np.ascontiguousarray(components)).half()
        result["variance"][family] = round(share, 4)
    for name, fields in found.items():
        result["people"][name] = {family: len(each) for family, each in fields.items()}
        print(f"{name}: {result['people'][name]}")
    safetensors.torch.save_file(tensors, arguments.out, metadata={"format": "pt"})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
