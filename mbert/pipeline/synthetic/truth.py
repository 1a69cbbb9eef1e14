"""Ingested synthetic clips with their ground truth in crop coordinates, to compare maps of change with."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from mbert import ConfigError
from mbert.manifests.schema import FrameRow, TruthRow, VideoRow
from mbert.manifests.store import read_rows
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.faces.landmarks import Points
from mbert.pipeline.synthetic.facial_motion import Field, pixel_grid, sampled
from mbert.pipeline.synthetic.render import onset_and_apex
from mbert.pipeline.synthetic.synthesize import TRUTH_NAME, truth_path
from mbert.shards.image import Image, decode_jpeg


@dataclasses.dataclass(frozen=True, slots=True)
class TruePair:
    """Onset and apex of a clip as ingest cropped them, and how the skin really moved between them.

    For a neutral clip, the first and the middle frame.
    """

    row: TruthRow
    t0: Image
    t1: Image
    expression: Field  # (S, S, 2): x, y in pixels of the crop, displacement of skin at each pixel of t0, head removed
    distractor: Field  # the same for blinks, gaze, mouth, hair and background


def true_pairs(videos: Path, workspace: Workspace, rows: Sequence[TruthRow] | None = None) -> Iterator[TruePair]:
    """The pairs of clips that `mbert synthesize` wrote to a folder and that were ingested into a workspace.

    Those of the given rows of `truth.parquet`, in their order; None: of all. Leaves out clips whose onset and apex are
    not in one clip of the corpus: no face was found there. Raises ConfigError if the workspace holds none of these
    clips.
    """
    inputs = {row.path: row for row in read_rows(workspace.videos, VideoRow)}
    rows = read_rows(videos / TRUTH_NAME, TruthRow) if rows is None else rows
    if not any(row.path in inputs for row in rows):
        raise ConfigError(f"{workspace.corpus} holds no clip of {videos}: run mbert ingest {videos} first")
    for row in rows:
        found = inputs.get(row.path)
        if found is None or found.shard is None:
            continue
        tar, twin = twin_paths(workspace.frames, found.shard)
        crops = {crop.frame_index: crop for crop in read_rows(twin, FrameRow)}
        ends = [crops.get(index) for index in onset_and_apex(row)]
        if ends[0] is None or ends[1] is None or ends[0].clip_id != ends[1].clip_id:
            continue
        t0, t1 = (_read_crop(tar, crop) for crop in ends if crop is not None)
        matrix = np.array(ends[0].transform).reshape(2, 3)
        with np.load(truth_path(videos, row.path)) as truth:
            fields = [
                _in_crop(truth[name].astype(np.float32), matrix, t0.shape) for name in ("expression", "distractor")
            ]
        yield TruePair(row, t0, t1, *fields)


def _read_crop(tar: Path, crop: FrameRow) -> Image:
    with tar.open("rb") as file:
        file.seek(crop.offset)
        return decode_jpeg(file.read(crop.size))


def _in_crop(field: Field, matrix: Points, shape: tuple[int, ...]) -> Field:
    """Convert a field over the video's pixels to crop pixels, by the matrix (2, 3) from video to crop."""
    places = cv2.transform(pixel_grid(shape), cv2.invertAffineTransform(matrix))
    moved: Field = cv2.transform(sampled(field, places), matrix[:, :2]).astype(np.float32)
    return moved
