import hashlib
import http.server
import shutil
import subprocess
import sys
import threading

import cv2
import mediapipe
import numpy as np
import pytest
import torch
from face_alignment.api import models_urls
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN

from mbert import ConfigError
from mbert.manifests.schema import FrameRow, VideoRow
from mbert.manifests.store import read_rows, read_table
from mbert.manifests.workspace import Workspace, twin_paths
from mbert.pipeline.faces import landmarkers
from mbert.pipeline.faces.align import fit_pose, template
from mbert.pipeline.faces.landmarkers import Fan, MediaPipeMesh, MediaPipeTask, fetched, open_landmarker
from mbert.pipeline.faces.landmarks import FAN68, MESH, Face
from mbert.pipeline.ingest import run_ingest
from mbert.pipeline.ingest_options import IngestOptions

needs_mesh = pytest.mark.skipif(not hasattr(mediapipe, "solutions"), reason="this mediapipe carries no face mesh")


@pytest.fixture(scope="module")
def measured(face):
    landmarker = open_landmarker("mediapipe")
    (found,) = landmarker.detect(face)
    landmarker.close()
    return found


def test_the_mesh_says_where_eyes_nose_and_mouth_are(measured):
    left, right, nose, *mouth = measured.five_points
    assert measured.points.shape == (MESH.num_points, 2)
    assert left[0] < nose[0] < right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth[0][1], mouth[1][1])
    assert 0.5 < measured.score <= 1


@pytest.mark.parametrize("degrees", [-25, 0, 40])
def test_roll_is_measured_and_does_not_disturb_the_rest(measured, degrees):
    turn = np.radians(degrees)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = Face(measured.points @ matrix.T, MESH)
    assert np.allclose(turned.pose_degrees, np.add(measured.pose_degrees, [0, 0, degrees]))
    assert turned.eye_open == pytest.approx(measured.eye_open)


def test_yaw_and_pitch_have_the_documented_signs(measured):
    yaw, pitch, _ = measured.pose_degrees
    moved = measured.points.copy()
    moved[MESH.nose_tip] += [8, -8]  # to the image's right, and up
    assert Face(moved, MESH).pose_degrees[0] > yaw + 3
    assert Face(moved, MESH).pose_degrees[1] > pitch + 3


@pytest.mark.parametrize("layout", [MESH, FAN68])
def test_blink_and_mouth_are_ratios_of_distances(layout):
    points = np.zeros((layout.num_points, 2))
    for (left, right), lids in ((layout.left_eye, layout.left_lids), (layout.right_eye, layout.right_lids)):
        points[left], points[right] = (100, 50), (140, 50)
        for upper, lower in lids:
            points[upper], points[lower] = (120, 44), (120, 56)
    points[layout.mouth[0]], points[layout.mouth[1]] = (90, 100), (150, 100)
    points[layout.lips[0]], points[layout.lips[1]] = (120, 97), (120, 103)
    assert Face(points, layout).eye_open == pytest.approx(0.3)
    assert Face(points, layout).mouth_open == pytest.approx(0.1)


@pytest.mark.parametrize("layout", [MESH, FAN68])
def test_the_rigid_points_of_each_layout_fit_their_template(layout):
    points = np.zeros((layout.num_points, 2))
    points[list(layout.rigid)] = template(layout) * 200 + [30, 40]
    assert np.allclose(fit_pose(points, layout), [130, 140, -np.log(200), 0])


def test_a_larger_picture_has_the_same_pixel_centres():
    assert np.allclose(Face(np.array([[0.0, 1.0]])).enlarged(4).points, [[1.5, 5.5]])


# -- MediaPipe's Tasks API ---------------------------------------------------------------------------------------------


def test_the_task_file_finds_the_face_where_the_mesh_does(media, face, measured):
    landmarker = open_landmarker("mediapipe", model=media / "models" / "face_landmarker.task")
    (found,) = landmarker.detect(face)
    landmarker.close()
    assert "face_landmarker.task 64184e22" in landmarker.name
    assert found.points.shape == (MESH.num_points, 2)
    assert np.abs(found.points - measured.points).mean() < 0.03 * measured.size_px
    assert found.score == pytest.approx(measured.score, abs=1e-4)  # it is the same detector


@pytest.mark.parametrize("kind", [pytest.param("mesh", marks=needs_mesh), "task"])
def test_two_faces_come_largest_first_and_each_has_its_score(kind, media, face):
    small = cv2.resize(face[10:266, 96:352], (160, 160), interpolation=cv2.INTER_AREA)
    both = np.zeros((256, 416, 3), np.uint8)
    both[:, :256], both[:160, 256:] = face[10:266, 96:352], small
    both[:160, 256:] //= 8  # so dark that the detector is less sure of it
    model = media / "models" / "face_landmarker.task"
    landmarker = MediaPipeMesh() if kind == "mesh" else MediaPipeTask(model)
    first, second = landmarker.detect(both)
    landmarker.close()
    assert first.center[0] < 256 < second.center[0]
    assert first.score > second.score > 0.5


def test_an_ingest_with_the_task_file(media, synthetic_videos, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    options = IngestOptions(landmarker_model=str(media / "models" / "face_landmarker.task"))
    run_ingest(synthetic_videos / "s01" / "disgust_1.mp4", workspace, options)
    (row,) = read_rows(workspace.videos, VideoRow)
    frames = read_table(twin_paths(workspace.frames, row.shard)[1], FrameRow)
    assert row.num_crops == row.num_frames
    assert 0.5 < np.min(frames["score"].to_numpy()) <= 1
    assert 0.1 < np.mean(frames["eye_open"].to_numpy()) < 0.6


def test_a_release_without_bundled_weights_uses_the_cache_or_says_what_to_do(media, face, tmp_path, monkeypatch):
    monkeypatch.delattr(mediapipe, "solutions", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(landmarkers, "_TASK_ADDRESS", "http://127.0.0.1:9/models/face_landmarker.task")
    with pytest.raises(ConfigError) as caught:
        open_landmarker("mediapipe")
    for part in ("http://127.0.0.1:9/models/face_landmarker.task", str(tmp_path / "mbert"), "SHA-256 is 64184e22"):
        assert part in str(caught.value)
    (tmp_path / "mbert").mkdir()
    (tmp_path / "mbert" / "face_landmarker.task").write_bytes(b"half of it")
    with pytest.raises(ConfigError, match=r"face_landmarker\.task has SHA-256 .*, expected 64184e22.*: delete it"):
        open_landmarker("mediapipe")
    shutil.copy(media / "models" / "face_landmarker.task", tmp_path / "mbert")
    landmarker = open_landmarker("mediapipe")
    assert len(landmarker.detect(face)) == 1
    landmarker.close()


def test_a_task_left_open_is_silent_when_python_ends(media):
    """In a process of its own, as a command is: newer releases print a traceback for each that is open then."""
    code = (
        "import sys, mediapipe; from pathlib import Path\n"
        "from mbert.pipeline.faces.landmarkers import MediaPipeTask\n"
        "left_open = [MediaPipeTask(Path(sys.argv[1])) for _ in range(2)]\n"
    )
    command = [sys.executable, "-c", code, str(media / "models" / "face_landmarker.task")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.task").write_text("no model")
    with pytest.raises(ConfigError, match=r"x\.task is not a face_landmarker\.task"):
        open_landmarker("mediapipe", model=tmp_path / "x.task")
    with pytest.raises(ConfigError, match=r"missing\.task cannot be read: No such file"):
        open_landmarker("mediapipe", model=tmp_path / "missing.task")


# -- FAN: face-alignment's own code, on weights that know nothing ------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub folder with a FAN of random weights and a face detector that is sure that nothing is a face."""
    folder = tmp_path_factory.mktemp("hub") / "hub"
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(FAN(4).state_dict(), folder / "checkpoints" / "2DFAN4-11f355bf06.pth.tar")
    detector = {name: torch.zeros_like(value) for name, value in s3fd().state_dict().items()}
    for name, value in detector.items():
        if name.endswith("mbox_conf.bias"):
            value[-1] = -20
    torch.save(detector, folder / "checkpoints" / "s3fd-619a316812.pth")
    return folder


@pytest.fixture
def in_hub(hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    monkeypatch.setattr("face_alignment.utils.get_dir", lambda: str(hub))
    return hub


@pytest.fixture
def real_detector(in_hub, media):
    for name in ("blazeface.pth", "anchors.npy"):
        shutil.copy(media / "models" / name, in_hub / "checkpoints" / name)


def test_fan_gives_68_points_around_the_face(real_detector, face, measured):
    landmarker = Fan(detector="blazeface")
    (found,) = landmarker.detect(face)
    assert found.layout is FAN68
    assert found.points.shape == (68, 2)
    assert 0 <= found.score <= 1
    # These weights put the points anywhere, but in the crop that FAN looks at: it is centred on the face.
    assert np.all(np.abs(found.points - measured.center) < 1.5 * measured.size_px)
    boxes = landmarker._program.face_detector.detect_from_image(face.copy())
    (expected,) = landmarker._program.get_landmarks_from_image(face, boxes)
    assert np.array_equal(found.points, expected)
    assert "2D-FAN-4 blazeface" in landmarker.name


def test_fan_without_a_face_finds_none(in_hub):
    assert Fan().detect(np.zeros((128, 128, 3), np.uint8)) == []


def test_an_ingest_with_fan_runs_through(in_hub, write_video, face, tmp_path):
    """The detector sees no face: the input is a row that says so."""
    write_video(tmp_path / "videos" / "a.mp4", [face[:128, :128]] * 4)
    summary = run_ingest(tmp_path / "videos", Workspace(tmp_path / "w"), IngestOptions(landmarker="fan"))
    assert summary.statuses == {"no_face": 1}


def test_missing_weights_are_one_error_before_anything_is_written(monkeypatch, synthetic_videos, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setitem(models_urls, "2DFAN-4", "http://127.0.0.1:9/fan/2DFAN4-11f355bf06.pth.tar")
    with pytest.raises(ConfigError) as caught:
        run_ingest(synthetic_videos, Workspace(tmp_path / "w"), IngestOptions(landmarker="fan"))
    for part in ("2DFAN4-11f355bf06.pth.tar", "http://127.0.0.1:9/fan/", str(tmp_path / "hub" / "checkpoints")):
        assert part in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_weights_of_something_else_are_refused_and_pickles_never_run(in_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("face_alignment.utils.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(in_hub / "checkpoints" / "s3fd-619a316812.pth", tmp_path / "checkpoints")

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"weight": Evil()}, tmp_path / "checkpoints" / "2DFAN4-11f355bf06.pth.tar")
    with pytest.raises(ConfigError, match="does not hold FAN's weights"):
        Fan()
    assert not (tmp_path / "executed").exists()


def test_a_model_file_belongs_to_mediapipe(tmp_path):
    with pytest.raises(ConfigError, match="belongs to --landmarker mediapipe"):
        open_landmarker("fan", model=tmp_path / "x.task")


# -- Files that are fetched once ---------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    """A web server on loopback: `served(name, data)` gives an address."""
    files, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if self.path in files else 404)
            self.end_headers()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def add(name, data):
        if data is not None:
            files[f"/{name}"] = data
        return f"http://127.0.0.1:{server.server_port}/{name}"

    add.asked = asked
    yield add
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_and_checked(served, tmp_path):
    data = b"weights" * 1000
    name = f"net-{hashlib.sha256(data).hexdigest()[:10]}.pth"
    address = served(name, data)
    assert fetched(address, tmp_path / "cache").read_bytes() == data
    assert fetched(address, tmp_path / "cache") == tmp_path / "cache" / name
    assert served.asked == [f"/{name}"]


def test_a_download_with_another_hash_is_thrown_away(served, tmp_path):
    with pytest.raises(ConfigError, match=r"SHA-256 .*, expected 0123456789\.\.\.: it was not kept"):
        fetched(served("net-0123456789.pth", b"other"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match=r"gone\.bin is needed and cannot be fetched \(Not Found\)"):
        fetched(served("gone.bin", None), tmp_path)
