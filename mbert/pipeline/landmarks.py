"""A frame -> the faces in it, each with 468 mesh landmarks."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mbert import ConfigError
from mbert.shards.image import Image

Points = npt.NDArray[np.float64]

# Indices into MediaPipe's face mesh. "Left" is the left side of the image.
LEFT_EYE_CORNERS = (33, 133)
RIGHT_EYE_CORNERS = (362, 263)
NOSE_TIP = 1
MOUTH_CORNERS = (61, 291)
LEFT_CHEEK, RIGHT_CHEEK, FOREHEAD, CHIN = 234, 454, 10, 152


@dataclasses.dataclass(frozen=True, slots=True)
class Face:
    """One face in a frame."""

    mesh: Points  # (468, 3): x, y in upright source pixels, z in the same scale, smaller is nearer
    score: float = 1.0  # the detector's confidence, 0-1

    def enlarged(self, factor: int) -> "Face":
        """The same face in a picture that has `factor` x `factor` pixels for each."""
        middle = (factor - 1) / 2  # a pixel's centre lies amid those it stands for
        return dataclasses.replace(self, mesh=self.mesh * factor + [middle, middle, 0.0])

    @property
    def center(self) -> Points:
        """Middle of the landmarks' box, (2,)."""
        middle: Points = (self.mesh[:, :2].min(axis=0) + self.mesh[:, :2].max(axis=0)) / 2
        return middle

    @property
    def size_px(self) -> float:
        """Longer side of the landmarks' box."""
        return float((self.mesh[:, :2].max(axis=0) - self.mesh[:, :2].min(axis=0)).max())

    @property
    def five_points(self) -> Points:
        """Eye centres, nose tip, mouth corners: (5, 2), image left before image right."""
        xy = self.mesh[:, :2]
        eyes = [xy[list(LEFT_EYE_CORNERS)].mean(axis=0), xy[list(RIGHT_EYE_CORNERS)].mean(axis=0)]
        return np.stack([*eyes, xy[NOSE_TIP], *xy[list(MOUTH_CORNERS)]])

    @property
    def pose_degrees(self) -> tuple[float, float, float]:
        """Yaw, pitch, roll from the mesh's depth: good to a few degrees, for filtering, not for measuring."""
        across = self.mesh[RIGHT_CHEEK] - self.mesh[LEFT_CHEEK]
        down = self.mesh[CHIN] - self.mesh[FOREHEAD]
        yaw = np.degrees(np.arctan2(across[2], across[0]))
        pitch = np.degrees(np.arctan2(-down[2], down[1]))
        roll = np.degrees(np.arctan2(across[1], across[0]))
        return float(yaw), float(pitch), float(roll)


class Landmarker(Protocol):
    """Finds faces in one frame, without memory of earlier frames."""

    name: str

    def detect(self, rgb: Image) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB frame, largest first."""
        ...

    def close(self) -> None:
        """Free the native resources."""
        ...


class MediaPipeMesh:
    """MediaPipe's face mesh with the weights that its wheel carries.

    Each frame is detected by itself: the tracking mode would smooth towards the past, and its lag is motion that is
    not there.
    """

    def __init__(self, *, max_faces: int = 4, min_confidence: float = 0.5) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")
        self._seen_a_face = False
        with _quiet_native_log():
            import mediapipe

            if not hasattr(mediapipe, "solutions"):
                raise ConfigError(
                    f"mediapipe {mediapipe.__version__} no longer carries face weights; "
                    "install the last release that does: pip install 'mediapipe==0.10.21'"
                )
            self.name = f"mediapipe {mediapipe.__version__} face mesh"
            self._graph = _open_graph(max_faces, min_confidence)
            # The graph opens in threads of its own; a first frame waits until they have had their say.
            self._graph.process(input_data={"image": np.zeros((64, 64, 3), np.uint8)})

    def detect(self, rgb: Image) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB frame, largest first."""
        height, width = rgb.shape[:2]
        if self._seen_a_face:
            found = self._graph.process(input_data={"image": rgb})
        else:  # some stages speak up with the first face only
            with _quiet_native_log():
                found = self._graph.process(input_data={"image": rgb})
            self._seen_a_face = bool(found.multi_face_landmarks)
        meshes = found.multi_face_landmarks or []
        scores = [detection.score[0] for detection in found.face_detections or []]
        scale = np.array([width, height, width], dtype=np.float64)
        faces = [
            Face(np.array([(p.x, p.y, p.z) for p in mesh.landmark], dtype=np.float64) * scale, float(score))
            for mesh, score in zip(meshes, scores, strict=False)
        ]
        return sorted(faces, key=lambda face: -face.size_px)

    def close(self) -> None:
        """Free the native graph."""
        self._graph.close()


def _open_graph(max_faces: int, min_confidence: float) -> Any:
    """The graph behind `FaceMesh`, opened directly because that class hides the detector's confidence."""
    from mediapipe.python.solution_base import SolutionBase
    from mediapipe.python.solutions import face_mesh

    detector = "facedetectionshortrangecpu__facedetectionshortrange__facedetection__TensorsToDetectionsCalculator"
    return SolutionBase(
        binary_graph_path=face_mesh._BINARYPB_FILE_PATH,
        side_inputs={"num_faces": max_faces, "with_attention": False, "use_prev_landmarks": False},
        calculator_params={
            f"{detector}.min_score_thresh": min_confidence,
            "facelandmarkcpu__ThresholdingCalculator.threshold": min_confidence,
        },
        outputs=["multi_face_landmarks", "face_detections"],
    )


@contextlib.contextmanager
def _quiet_native_log() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: the native library writes start-up chatter past Python's stderr."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
