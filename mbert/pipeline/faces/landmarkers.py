"""The programs that find landmarks: MediaPipe's face mesh, with its bundled or newer weights, and FAN.

For alignment, each frame is measured independently: a tracking mode would smooth towards the past, and its lag looks
like motion. Within aligned crops, following a face merely saves searching for it.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import importlib.util
import io
import os
import sys
import urllib.error
import urllib.request
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mbert import ConfigError
from mbert.manifests.files import replacing
from mbert.pipeline.faces.landmarks import FAN68, MESH, Face, Landmarker
from mbert.shards.image import Image

LandmarkerName = Literal["mediapipe", "fan"]
_MAX_FACES = 16
_MIN_CONFIDENCE = 0.5
_DETECTOR = "face_detector.tflite"  # inside a face_landmarker.task

_TASK_ADDRESS = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
)
_TASK_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"


def open_landmarker(
    name: LandmarkerName, *, model: Path | None = None, max_faces: int = _MAX_FACES, follows: bool = False
) -> Landmarker:
    """Open a landmarker; `model` is a `face_landmarker.task` for MediaPipe.

    Raises ConfigError if weights are missing. One that `follows` searches for one face where it was in the previous
    picture, which suits aligned crops: its eyelids are steadier there and it takes half the time. FAN cannot, and finds
    all faces. MediaPipe's bundled weights come first, so that the same installation gives the same landmarks; releases
    without them use the file from the cache, or download it once.
    """
    if name == "fan":
        if model is not None:
            raise ConfigError("a landmarker model belongs to --landmarker mediapipe; fan has its own files")
        return Fan()
    if model is not None:
        return MediaPipeTask(model, max_faces=max_faces, follows=follows)
    if hasattr(_mediapipe(), "solutions"):
        return MediaPipeMesh(max_faces=max_faces, follows=follows)
    return MediaPipeTask(_cached_task(), max_faces=max_faces, follows=follows)


def weights_sha256(name: LandmarkerName, *, model: Path | None = None) -> str:
    """A hash of the weights that `open_landmarker` uses for the same arguments, wherever the files are.

    Call it once the landmarker has been, or can be, opened: raises ConfigError without weights.
    """
    digest = hashlib.sha256()
    for file in _weight_files(name, model):
        try:
            digest.update(file.read_bytes())
        except OSError as exc:
            raise ConfigError(f"the landmarker's weights {file} cannot be read: {exc.strerror}") from exc
    return digest.hexdigest()


def _weight_files(name: LandmarkerName, model: Path | None) -> list[Path]:
    if name == "fan":
        import torch.hub
        from face_alignment.api import models_urls
        from face_alignment.detection.sfd import sfd_detector

        folder = Path(torch.hub.get_dir()) / "checkpoints"
        return [fetched(address, folder) for address in (models_urls["2DFAN-4"], sfd_detector.models_urls["s3fd"])]
    if model is not None:
        return [model]
    found = importlib.util.find_spec("mediapipe")  # not imported: that takes seconds
    modules = Path(found.origin or "").parent / "modules" if found else Path()
    bundled = [modules / "face_detection" / "face_detection_short_range.tflite"]
    bundled += [modules / "face_landmark" / "face_landmark.tflite"]
    if all(file.exists() for file in bundled):
        return bundled
    return [_cached_task()]


def _cached_task() -> Path:
    """The face landmarker's file for releases of MediaPipe without a model, downloaded once.

    It may have been put there by hand, so its hash is checked: another model would silently give other landmarks.
    """
    path = cache_folder() / "face_landmarker.task"
    try:
        fetched(_TASK_ADDRESS, path, sha256=_TASK_SHA256)
    except ConfigError as exc:
        raise ConfigError(
            f"the installed MediaPipe carries no face model: {exc}. The file is the one of MediaPipe's page \"Face "
            f'landmark detection", float16, version 1; its SHA-256 is {_TASK_SHA256}'
        ) from exc
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _TASK_SHA256:
        raise ConfigError(
            f"{path} has SHA-256 {digest}, expected {_TASK_SHA256}: delete it, and mbert fetches the right one; to use "
            f"this one, move it elsewhere and give it with --landmarker-model"
        )
    return path


class MediaPipeMesh:
    """MediaPipe's face mesh with the weights bundled in its wheel (up to release 0.10.21)."""

    def __init__(self, *, max_faces: int = _MAX_FACES, follows: bool = False) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")
        self._seen_a_face = False
        self._follows = follows
        self.name = f"mediapipe {_mediapipe().__version__} face mesh"
        with _quiet_native_log():
            self._graph = _open_graph(1 if follows else max_faces, follows)
            # The graph opens in its own threads; a first frame waits until they have finished logging.
            self._graph.process(input_data={"image": np.zeros((64, 64, 3), np.uint8)})

    def detect(self, rgb: Image) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB frame, largest first; the score is the detector's."""
        if self._seen_a_face:
            found = self._graph.process(input_data={"image": rgb})
        else:  # some stages log only with the first face
            with _quiet_native_log():
                found = self._graph.process(input_data={"image": rgb})
            self._seen_a_face = bool(found.multi_face_landmarks)
        meshes = found.multi_face_landmarks or []
        scores: list[float | None] = [float(detection.score[0]) for detection in found.face_detections or []]
        if self._follows:  # the detector runs only if there was no face before
            scores = [None] * len(meshes)
        faces = [_mesh_face(mesh.landmark, rgb, score) for mesh, score in zip(meshes, scores, strict=False)]
        return sorted(faces, key=lambda face: -face.size_px)

    def forget(self) -> None:
        """Search for the next face in the whole picture."""
        if self._follows:
            with _quiet_native_log():
                self._graph.reset()
                self._graph.process(input_data={"image": np.zeros((64, 64, 3), np.uint8)})
            self._seen_a_face = False

    def close(self) -> None:
        """Free the native graph."""
        self._graph.close()


class MediaPipeTask:
    """MediaPipe's Tasks API with a `face_landmarker.task` file: works with every release.

    The task itself gives no confidence; the detector in the same file does, so it runs once more.
    """

    def __init__(self, model: Path, *, max_faces: int = _MAX_FACES, follows: bool = False) -> None:
        try:
            data = model.read_bytes()
        except OSError as exc:
            raise ConfigError(f"the landmarker model {model} cannot be read: {exc.strerror}") from exc
        self._seen_a_face = False
        mediapipe = _mediapipe()
        with _quiet_native_log():
            from mediapipe.tasks.python import BaseOptions, vision

            self.name = f"mediapipe {mediapipe.__version__} {model.name} {hashlib.sha256(data).hexdigest()[:8]}"
            options = vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=data),
                running_mode=vision.RunningMode.VIDEO if follows else vision.RunningMode.IMAGE,
                num_faces=1 if follows else max_faces,
                min_face_detection_confidence=_MIN_CONFIDENCE,
                min_face_presence_confidence=_MIN_CONFIDENCE,
            )
            self._open: Any = lambda: vision.FaceLandmarker.create_from_options(options)
            self._detector: Any = None
            try:
                self._task = self._open()
                if not follows:  # as in the mesh: following a face needs no score
                    with zipfile.ZipFile(io.BytesIO(data)) as parts:
                        detector = BaseOptions(model_asset_buffer=parts.read(_DETECTOR))
                    self._detector = vision.FaceDetector.create_from_options(
                        vision.FaceDetectorOptions(base_options=detector, min_detection_confidence=_MIN_CONFIDENCE)
                    )
            except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as exc:
                raise ConfigError(f"{model} is not a face_landmarker.task that mediapipe can open: {exc}") from exc
        _OPEN.add(self)
        self._follows, self._time_ms = follows, 0
        self._image: Any = mediapipe.Image
        self._format = mediapipe.ImageFormat.SRGB

    def detect(self, rgb: Image) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB frame, largest first; the score is the detector's."""
        picture = self._image(image_format=self._format, data=rgb)
        if self._seen_a_face:
            meshes, detections = self._look(picture)
        else:
            with _quiet_native_log():
                meshes, detections = self._look(picture)
            self._seen_a_face = bool(meshes)
        # The ten additional points are the irises.
        faces = [_mesh_face(points[: MESH.num_points], rgb, None) for points in meshes]
        faces = [dataclasses.replace(face, score=_score_of(face, detections)) for face in faces]
        return sorted(faces, key=lambda face: -face.size_px)

    def _look(self, picture: Any) -> tuple[Any, Any]:
        if self._detector is None:
            self._time_ms += 33  # only their order counts
            return self._task.detect_for_video(picture, self._time_ms).face_landmarks, []
        meshes = self._task.detect(picture).face_landmarks
        return meshes, self._detector.detect(picture).detections if meshes else []

    def forget(self) -> None:
        """Search for the next face in the whole picture."""
        if self._follows:
            self._task.close()
            with _quiet_native_log():
                self._task = self._open()
            self._seen_a_face, self._time_ms = False, 0

    def close(self) -> None:
        """Free the native graphs."""
        _OPEN.discard(self)
        self._task.close()
        if self._detector is not None:
            self._detector.close()


_OPEN: weakref.WeakSet[MediaPipeTask] = weakref.WeakSet()


class Fan:
    """The 68 points of face-alignment's 2D-FAN-4, on the GPU if there is one.

    `detector` is one of face-alignment's, with files already in torch's hub folder or downloaded from face-alignment's
    address. All weights are loaded as tensors only, never unpickled.
    """

    def __init__(self, *, detector: Literal["sfd", "blazeface"] = "sfd") -> None:
        import importlib.metadata

        import face_alignment
        import torch.hub
        from face_alignment.api import models_urls
        from face_alignment.detection import blazeface, sfd

        folder = Path(torch.hub.get_dir()) / "checkpoints"
        network = fetched(models_urls["2DFAN-4"], folder)
        if detector == "sfd":
            files = {"path_to_detector": fetched(sfd.sfd_detector.models_urls["s3fd"], folder)}
        else:
            addresses = blazeface.blazeface_detector.models_urls
            files = {
                "path_to_detector": fetched(addresses["blazeface_weights"], folder),
                "path_to_anchor": fetched(addresses["blazeface_anchors"], folder),
            }
        try:
            self._program = face_alignment.FaceAlignment(
                face_alignment.LandmarksType.TWO_D,
                device="cuda" if torch.cuda.is_available() else "cpu",
                face_detector=detector,
                face_detector_kwargs={name: str(file) for name, file in files.items()},
                compile=False,
                max_batch_size=8,
            )
        except Exception as exc:  # torch raises many kinds for a file with other content
            raise ConfigError(f"{network} or {files['path_to_detector']} does not hold FAN's weights: {exc}") from exc
        self.name = f"face-alignment {importlib.metadata.version('face-alignment')} 2D-FAN-4 {detector}"

    def detect(self, rgb: Image) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB frame, largest first; the score is the mean peak of the heat maps."""
        boxes = self._program.face_detector.detect_from_image(rgb.copy())
        if not len(boxes):
            return []
        points, scores, _ = self._program.get_landmarks_from_image(rgb, boxes, return_landmark_score=True)
        num_views = 2 if self._program.flip_input else 1  # it adds the heat maps of the mirrored face
        faces = [
            Face(one.astype(np.float64), FAN68, float(np.clip(score.mean() / num_views, 0, 1)))
            for one, score in zip(points, scores, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.size_px)

    def forget(self) -> None:
        """Do nothing: each picture is processed independently."""

    def close(self) -> None:
        """Nothing to free."""


def cache_folder() -> Path:
    """The folder for downloaded weights: `$XDG_CACHE_HOME/mbert`, else `~/.cache/mbert`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mbert"


def fetched(address: str, place: Path, *, sha256: str | None = None) -> Path:
    """The file at `place` (a folder: under its own name), downloaded from `address` once if it is not there.

    Discards a download whose SHA-256 does not begin with `sha256`, by default the digits after the dash in the file's
    name, as in torch's hub. Raises ConfigError naming file, address and folder.
    """
    name = Path(urllib.parse.urlparse(address).path).name
    path = place if place.suffix else place / name
    if path.exists():
        return path
    stem = name.split(".")[0]
    sha256 = sha256 or (stem.rpartition("-")[2] if "-" in stem else "")
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            data = answer.read()
    except (OSError, urllib.error.URLError) as exc:
        raise ConfigError(
            f"{path.name} is needed and cannot be fetched ({getattr(exc, 'reason', exc)}): "
            f"download {address} and put it in {path.parent}"
        ) from exc
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(sha256):
        raise ConfigError(f"{address} gave a file with SHA-256 {digest}, expected {sha256}...: it was not kept")
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


@functools.cache
def _mediapipe() -> Any:
    """The package, imported on first use because that takes seconds."""
    atexit.register(_leave_open)
    with _quiet_native_log():
        import mediapipe
    return mediapipe


def _leave_open() -> None:
    """Leave to the system what is open when Python ends: MediaPipe's own clean-up is too late and prints tracebacks."""
    for task in _OPEN:
        for graph in (task._task, task._detector):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(graph))  # it is never deleted


def _mesh_face(landmarks: Any, rgb: Image, score: float | None) -> Face:
    height, width = rgb.shape[:2]
    return Face(np.array([(p.x * width, p.y * height) for p in landmarks], dtype=np.float64), MESH, score)


def _score_of(face: Face, detections: Sequence[Any]) -> float | None:
    """The score of the detection whose box contains the middle of a face, the nearest if there are several."""
    found = []
    for detection in detections:
        box = detection.bounding_box
        half = np.array([box.width, box.height]) / 2
        distance = np.abs(face.center - np.array([box.origin_x, box.origin_y]) - half)
        if np.all(distance <= half):
            found.append((float(distance.max()), float(detection.categories[0].score)))
    return min(found)[1] if found else None


def _open_graph(max_faces: int, follows: bool) -> Any:
    """The graph behind `FaceMesh`, opened directly because that class hides the detector's confidence."""
    from mediapipe.python.solution_base import SolutionBase
    from mediapipe.python.solutions import face_mesh

    detector = "facedetectionshortrangecpu__facedetectionshortrange__facedetection__TensorsToDetectionsCalculator"
    return SolutionBase(
        binary_graph_path=face_mesh._BINARYPB_FILE_PATH,
        side_inputs={"num_faces": max_faces, "with_attention": False, "use_prev_landmarks": follows},
        calculator_params={
            f"{detector}.min_score_thresh": _MIN_CONFIDENCE,
            "facelandmarkcpu__ThresholdingCalculator.threshold": _MIN_CONFIDENCE,
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
