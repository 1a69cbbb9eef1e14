import dataclasses

import cv2
import numpy as np
import pytest
from test_facial_motion import SHAPE

from mbert import ConfigError
from mbert.pipeline.faces.landmarkers import open_landmarker
from mbert.pipeline.synthetic.nuisance import Camera, Nuisance, head_path, local_motions

NAMES = [field.name for field in dataclasses.fields(Nuisance)]
OFF = Nuisance(**dict.fromkeys(NAMES, 0))
ON = Nuisance(
    noise=3, crf=20, light=0.03, flicker=0.02, tone=0.03, head_px=3, head_degrees=1, blinks=2, gaze_px=2, mouth_px=2,
    scene_px=3,
)  # fmt: skip
SECONDS = np.arange(60) / 30
SEED = 4
LOCAL = ("blinks", "gaze_px", "mouth_px", "scene_px")
CAMERA = ("noise", "light", "flicker", "tone")
GRAY = np.full((*SHAPE, 3), 120, np.uint8)


@pytest.fixture(scope="module")
def portrait(face):
    landmarker = open_landmarker("mediapipe", max_faces=1)
    image = cv2.resize(face[20:260, 100:340], SHAPE, interpolation=cv2.INTER_CUBIC)
    yield image, landmarker.detect(image)[0].points, landmarker
    landmarker.close()


def motions(nuisance, mesh):
    return local_motions(nuisance, mesh, SHAPE, SECONDS, SEED)


def taken(nuisance):
    camera = Camera(nuisance, SHAPE, SECONDS, SEED)
    return np.stack([camera.take(GRAY, frame) for frame in range(6)]).astype(int)


def with_only(*names):
    return dataclasses.replace(OFF, **{name: getattr(ON, name) for name in names})


def test_without_strength_nothing_is_disturbed(portrait):
    _, mesh, _ = portrait
    still = np.tile(np.eye(2, 3), (len(SECONDS), 1, 1))
    assert np.allclose(head_path(OFF, mesh, SECONDS, SEED), still, atol=1e-12)
    assert motions(OFF, mesh) == []
    assert np.all(taken(OFF) == 120)


def test_the_head_drifts_and_turns_as_far_as_asked_and_each_by_itself(portrait):
    _, mesh, _ = portrait
    center = mesh.mean(axis=0)
    paths = [head_path(with_only(name), mesh, SECONDS, SEED) for name in ("head_px", "head_degrees")]
    shift = paths[0][:, :, :2] @ center + paths[0][:, :, 2] - center
    assert 1 < np.abs(shift).max() < 10
    assert np.allclose(paths[0][:, :, :2], np.eye(2))
    assert np.allclose(paths[1][:, :, :2] @ center + paths[1][:, :, 2], center)
    assert 0.3 < np.degrees(np.abs(np.arcsin(paths[1][:, 1, 0]))).max() < 4
    both = head_path(ON, mesh, SECONDS, SEED)
    assert np.allclose(both[:, :, :2], paths[1][:, :, :2])
    assert np.allclose(both[:, :, :2] @ center + both[:, :, 2] - center, shift)
    twice = head_path(dataclasses.replace(ON, head_px=6), mesh, SECONDS, SEED)
    assert np.allclose(twice[:, :, :2] @ center + twice[:, :, 2] - center, 2 * shift)


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_motion_is_the_same_with_and_without_the_others(portrait, name):
    _, mesh, _ = portrait
    alone = motions(with_only(name), mesh)
    assert alone
    everything = motions(ON, mesh)
    without = motions(dataclasses.replace(ON, **{name: 0}), mesh)
    assert len(without) == len(everything) - len(alone)

    def key(motion):
        return motion.course.tobytes() + motion.velocity.tobytes()

    assert {key(motion) for motion in alone} | {key(motion) for motion in without} == {
        key(motion) for motion in everything
    }


@pytest.mark.parametrize(
    ("name", "inside"), [("blinks", True), ("gaze_px", True), ("mouth_px", True), ("scene_px", False)]
)
def test_a_local_motion_is_where_it_belongs(portrait, name, inside):
    _, mesh, _ = portrait
    hull = np.zeros(SHAPE, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(mesh.round().astype(np.int32)), 1)
    size = sum(np.linalg.norm(motion.velocity, axis=-1) for motion in motions(with_only(name), mesh))
    y, x = np.unravel_index(size.argmax(), SHAPE)
    assert bool(hull[y, x]) == inside
    if not inside:
        assert size[hull > 0].max() == 0
    eyes, mouth = mesh[[33, 263], 1].mean(), mesh[[61, 291], 1].mean()
    if name in ("blinks", "gaze_px"):
        assert abs(y - eyes) < 0.2 * (mouth - eyes)
        assert size[int(mouth)].max() == 0
    if name == "mouth_px":
        assert size[int(eyes)].max() == 0


def test_a_blink_closes_the_eyes_and_they_open_again(portrait):
    image, mesh, landmarker = portrait
    (blink,) = motions(with_only("blinks"), mesh)
    assert blink.course.min() == 0
    assert blink.course.max() > 0.9
    from mbert.pipeline.synthetic.facial_motion import follow, pixel_grid

    places = pixel_grid(SHAPE) + follow(-blink.velocity)
    (shut,), (open_,) = landmarker.detect(cv2.remap(image, places, None, cv2.INTER_CUBIC)), landmarker.detect(image)
    assert shut.eye_open < 0.8 * open_.eye_open  # a landmarker hardly sees lids that are painted


@pytest.mark.parametrize("name", CAMERA)
def test_what_the_camera_does_is_the_same_with_and_without_the_rest(name):
    alone = taken(with_only(name)) - 120
    assert np.abs(alone).max() > 1
    rest = dataclasses.replace(ON, **{name: 0})
    # The rest scales it by a few per cent and rounds.
    assert np.abs(taken(ON) - taken(rest) - alone).max() <= 3


def test_noise_has_the_asked_size_and_differs_in_every_frame_and_channel():
    noise = taken(with_only("noise")) - 120.0
    assert noise.std() == pytest.approx(3.0, rel=0.02)
    assert abs(noise.mean()) < 0.02
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[0, ..., 0].ravel(), noise[0, ..., 1].ravel())[0, 1]) < 0.02


def test_strengths_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match=r"noise is -1; it must be 0 \(off\) or more"):
        Nuisance(noise=-1)
    with pytest.raises(ConfigError, match="crf is 60"):
        Nuisance(crf=60)
