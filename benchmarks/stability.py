"""How much motion does alignment add? Against known truth: a photo that is encoded as noisy H.264, still or moving.

The motion of the face in the source is known, and each crop's transform is in its manifest row. Their product takes a
point of the face to the crop; where it does not stay in place, the alignment moved. Reported is the RMS over four
points of the face and all frames, in pixels of the 224 px crop, after taking away each point's mean.

    python benchmarks/stability.py [PHOTO ...]

The last line of the output is one JSON object.
"""

import argparse
import json
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data

from mbert.manifests.schema import ClipRow, FrameRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions

FPS = 30
SECONDS = 4.0
NOISE = 3.0  # standard deviation, 0-255


def motions(kind, num_frames, center):
    """Source motion per frame, (N, 2, 3): photo pixels to frame pixels."""
    seconds = np.arange(num_frames) / FPS
    shift = np.zeros((num_frames, 2))
    angle = np.zeros(num_frames)
    if kind == "drift":  # 20 px and 3 degrees in 2 s, and back
        path = np.abs((seconds / 2 + 1) % 2 - 1)
        shift[:, 0], angle = 20 * path, np.radians(3) * path
    if kind == "sway":  # a living head: 3 px at 0.5 Hz, 1 px at 1.5 Hz
        shift[:, 0] = 3 * np.sin(2 * np.pi * 0.5 * seconds) + np.sin(2 * np.pi * 1.5 * seconds)
        shift[:, 1] = 2 * np.sin(2 * np.pi * 0.4 * seconds + 1)
        angle = np.radians(0.5) * np.sin(2 * np.pi * 0.3 * seconds)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    offset = center + shift - np.einsum("nij,j->ni", linear, center)
    return np.concatenate([linear, offset[:, :, None]], axis=2)


def encode(photo, matrices, path, seed):
    rng = np.random.default_rng(seed)
    height, width = photo.shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=FPS, options={"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for matrix in matrices:
            frame = cv2.warpAffine(photo, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
            noisy = np.clip(frame + rng.normal(0, NOISE, frame.shape), 0, 255).round().astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
        container.mux(stream.encode(None))


def residual_px(workspace, matrices):
    """RMS motion of the face in the crops of the longest clip, and that clip's own jitter_px."""
    clip = max(read_rows(workspace.clips, ClipRow), key=lambda clip: clip.num_frames)
    rows = read_table(twin_paths(workspace.frames, clip.shard)[1], FrameRow).to_pylist()
    rows = [row for row in rows if row["clip_id"] == clip.clip_id]
    assert len(rows) == len(matrices), "the face was lost"
    crop_from_photo = []
    for row, motion in zip(rows, matrices, strict=True):
        whole = np.vstack([np.array(row["transform"]).reshape(2, 3), [0, 0, 1]])
        crop_from_photo.append((whole @ np.vstack([motion, [0, 0, 1]]))[:2])
    crop_from_photo = np.array(crop_from_photo)
    corners = np.array([[56, 70], [168, 70], [56, 190], [168, 190]], float)
    inverse = np.linalg.inv(np.vstack([np.median(crop_from_photo, axis=0), [0, 0, 1]]))[:2]
    points = corners @ inverse[:, :2].T + inverse[:, 2]
    seen = np.einsum("nij,kj->nki", crop_from_photo[:, :, :2], points) + crop_from_photo[:, None, :, 2]
    moved = seen - seen.mean(axis=0)
    step = seen[6:] - seen[:-6]  # between the frames of a pair 0.2 s apart
    return np.sqrt((moved**2).sum(-1).mean()), np.sqrt((step**2).sum(-1).mean()), clip.jitter_px


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", nargs="*", type=Path, help="portraits; default: the astronaut photo of scikit-image")
    photos = parser.parse_args().photos
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in photos]
    images = images or [cv2.resize(skimage.data.astronaut()[:256, 96:352], (640, 640), interpolation=cv2.INTER_CUBIC)]
    result = {}
    for kind in ("still", "drift", "sway"):
        squares = {"auto": [], "frame": []}
        for number, photo in enumerate(images):
            photo = np.ascontiguousarray(photo[: photo.shape[0] // 2 * 2, : photo.shape[1] // 2 * 2])
            height, width = photo.shape[:2]
            matrices = motions(kind, int(SECONDS * FPS), np.array([width / 2, height / 2]))
            with tempfile.TemporaryDirectory() as folder:
                encode(photo, matrices, Path(folder) / "video.mp4", number)
                for mode, found in squares.items():
                    workspace = Workspace(Path(folder) / mode)
                    run_ingest(Path(folder) / "video.mp4", workspace, IngestOptions(align=mode))
                    rms, step, jitter = residual_px(workspace, matrices)
                    name = photos[number].name if photos else "astronaut"
                    print(f"{kind:6} {mode:6} {rms:.3f} px, over 0.2 s {step:.3f} px, jitter_px {jitter:.3f}  {name}")
                    found.append(rms**2)
        result[f"{kind}_rms_px"] = {mode: round(float(np.sqrt(np.mean(found))), 4) for mode, found in squares.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
