"""Rises of facial expressions in real clips, labelled by MediaPipe's blendshapes at the apex, shown before it.

    python benchmarks/real_expressions.py MEDIA [--parts A] [--folder DIR]

Prints how many there are of each class and person. `label_efficiency.py` asks what tells them apart.

A *rise* is a blendshape's way from rest to its largest value within half a second. Its label is what has risen most,
in shares of what that class must rise at least. A method sees two crops: the last one at rest, and the latest one 40 to
120 ms after it that is before a third of the rise. Rises without such a crop, and those beside which another class
rises nearly as much, are left out and counted. The labels are a network's, not a coder's: it looks at single frames,
and none of the methods has it.
"""

import argparse
import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from real_pairs import LEFT_OUT, MIN_FACE_PX, group_of, part_of

from mbert.manifests.schema import VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_input import IngestOptions
from mbert.pipeline.video.source import VIDEO_SUFFIXES
from mbert.shards.engine import IN_PROCESS
from mbert.shards.frames import CorpusFrames
from mbert.shards.pair import FramePair

# Blendshapes of each class, of which the mean counts, and how much it must rise.
CLASSES = {
    "blink": (("eyeBlinkLeft", "eyeBlinkRight"), 0.2),
    "brow raise": (("browInnerUp", "browOuterUpLeft", "browOuterUpRight"), 0.12),
    "frown": (("browDownLeft", "browDownRight"), 0.12),
    "smile": (("mouthSmileLeft", "mouthSmileRight"), 0.2),
    "jaw": (("jawOpen",), 0.1),
}
REACH_SECONDS = 0.5  # from rest to apex, and around an apex without a higher one
AT_REST = 0.1  # share of the rise
BEFORE = 1 / 3  # share of the rise that the second crop is below
SEEN_SECONDS = (0.04, 0.12)  # from the first crop to the second
SLACK_SECONDS = 0.008  # frames are not on the grid of these limits
NEARLY = 0.7  # of the largest rise, in its own units


@dataclasses.dataclass(frozen=True)
class Rise:
    """One expression: who shows which, and the first frames of it."""

    person: str
    label: str
    pair: FramePair
    seen_share: float  # of the rise, at the second crop


def blendshapes(images, landmarker):
    """(N, 52) scores of crops, NaN where no face is found, and their names."""
    import mediapipe

    scores, names = np.full((len(images), 52), np.nan), ()
    for place, image in enumerate(images):
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        if found := landmarker.detect(picture).face_blendshapes:
            names = [each.category_name for each in found[0]]
            scores[place] = [each.score for each in found[0]]
    return scores, names


def curves_of(images, landmarker):
    """(N, classes): what each class's blendshapes say, in units of what they must rise; NaN without a face."""
    scores, names = blendshapes(images, landmarker)
    if not names:
        return np.full((len(images), len(CLASSES)), np.nan)
    return np.column_stack(
        [scores[:, [names.index(each) for each in shapes]].mean(axis=1) / least for shapes, least in CLASSES.values()]
    )


def rises_in(curves, seconds):
    """(label, place of the first crop, of the second, share of the rise there) of each, and why others are left out."""
    found, left_out = [], Counter()
    for number, label in enumerate(CLASSES):
        curve = curves[:, number]
        for apex in np.flatnonzero(np.isfinite(curve)):
            near = np.flatnonzero(np.abs(seconds - seconds[apex]) <= REACH_SECONDS)
            before = near[near <= apex]
            if not np.isfinite(curve[near]).all() or curve[apex] < curve[near].max():
                continue
            if curve[before].max() == curve[apex] and before[curve[before].argmax()] != apex:
                continue  # a plateau: its first frame is the apex
            rest = curve[before].min()
            rise = curve[apex] - rest
            if rise < 1:
                continue
            beside = curves[apex] - curves[before].min(axis=0)
            if np.delete(beside, number).max() > NEARLY * rise:
                left_out["another class rises too"] += int(beside.argmax() == number)  # counted once
                continue
            first = before[np.flatnonzero(curve[before] <= rest + AT_REST * rise)[-1]]
            passed = seconds - seconds[first]
            low, high = SEEN_SECONDS
            may = (passed >= low - SLACK_SECONDS) & (passed <= high + SLACK_SECONDS) & (np.arange(len(curve)) < apex)
            may &= curve < rest + BEFORE * rise
            if not may.any():
                left_out["no crop between rest and a third of the rise"] += 1
                continue
            second = np.flatnonzero(may)[-1]
            found.append((label, int(first), int(second), float((curve[second] - rest) / rise)))
    return found, left_out


def jpeg_of(clip, place):
    row = clip.rows[place]
    with clip.tar.open("rb") as file:
        file.seek(row.offset)
        return file.read(row.size)


def files_of(media, parts):
    """The clips of some parts, one recording of each kind: those of one recording under other names stay away."""
    files = sorted((media / "videos").iterdir())
    files = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(LEFT_OUT)]
    files = [file for file in files if not file.name.startswith("media3_") or group_of(file.name) == file.name]
    return [file for file in files if part_of(file) in parts]


def rises_of(media, parts, folder):
    """All rises in the clips of some parts, and why others are left out. Crops are those of `mbert ingest`.

    Clips, crops and curves in `folder` are taken as they are: another choice of clips needs another folder.
    """
    from mediapipe.tasks.python import BaseOptions, vision

    asked, workspace = folder / "videos", Workspace(folder / "workspace")
    asked.mkdir(parents=True, exist_ok=True)
    for file in files_of(media, parts):  # the others are not so much as looked at
        if not (asked / file.name).exists():
            shutil.copyfile(file, asked / file.name)
    run_ingest(asked, workspace, IngestOptions(), engine=IN_PROCESS)
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(media / "models" / "face_landmarker.task")),
        output_face_blendshapes=True,
    )
    rows = {row.video_id: row for row in read_rows(workspace.videos, VideoRow)}
    found, left_out = [], Counter()
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for clip in CorpusFrames(workspace):
            if clip.clip.face_px < MIN_FACE_PX:
                left_out["faces below 100 px (clips)"] += 1
                continue
            # Faces of one recording count as one person: two tracks may be one face, and who is held out is unseen.
            person = group_of(Path(rows[clip.clip.video_id].path).name)
            file = folder / "curves" / f"{clip.clip.clip_id}.npy"
            if not file.exists():
                file.parent.mkdir(exist_ok=True)
                np.save(file, curves_of(clip.images(), landmarker), allow_pickle=False)
            rises, why_not = rises_in(np.load(file, allow_pickle=False), clip.seconds)
            left_out += why_not
            for label, first, second, share in rises:
                key = f"{clip.clip.clip_id}_{label.replace(' ', '-')}_{first:06d}"
                pair = FramePair(key, jpeg_of(clip, first), jpeg_of(clip, second))
                found.append(Rise(person, label, pair, share))
    return found, left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("--parts", default="A", choices=("A", "AB"), help="of the clips; B is opened once per release")
    parser.add_argument("--folder", type=Path, help="where clips and crops are kept; default: nowhere")
    arguments = parser.parse_args()
    kept = contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory()
    with kept as folder:
        rises, left_out = rises_of(arguments.media, arguments.parts, Path(folder))
    people = sorted({rise.person for rise in rises})
    counts = {label: Counter(rise.person for rise in rises if rise.label == label) for label in CLASSES}
    print(f"{'person':36}" + "".join(f"{label:>12}" for label in CLASSES))
    for person in people:
        print(f"{person:36}" + "".join(f"{counts[label][person]:12}" for label in CLASSES))
    totals = {label: sum(each.values()) for label, each in counts.items()}
    shown = float(np.median([rise.seen_share for rise in rises])) if rises else None
    about = {"people_of_class": {label: len(each) for label, each in counts.items()}, "left_out": left_out}
    print(json.dumps({"rises": totals, "people": len(people), "median_seen_share": shown, **about}))


if __name__ == "__main__":
    main()
