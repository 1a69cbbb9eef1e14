import cv2
import numpy as np
import pytest

from mbert.pipeline.faces.align import (
    crop_box,
    crop_motion,
    fit_pose,
    is_still,
    pose_matrices,
    stable_poses,
    template,
    warp,
)
from mbert.pipeline.faces.landmarks import MESH
from mbert.pipeline.faces.quality import jitter_px, luma, region_shift, rigid_region, sharpness

SIZE = 224
TEMPLATE = template()


def mesh_with(points):
    mesh = np.zeros((468, 2))
    mesh[list(MESH.rigid)] = points
    return mesh


def turned(points, scale, degrees, shift):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turn.T * scale + shift


@pytest.mark.parametrize(("scale", "degrees", "shift"), [(400, 0, (10, 20)), (90, 30, (500, 300)), (700, -100, (0, 0))])
def test_a_known_similarity_is_undone_exactly(scale, degrees, shift):
    source = turned(TEMPLATE, scale, degrees, np.array(shift))
    pose = fit_pose(mesh_with(source))
    matrix = pose_matrices(pose[None], SIZE)[0]
    assert np.allclose(source @ matrix[:, :2].T + matrix[:, 2], TEMPLATE * SIZE, atol=1e-9)
    assert np.exp(pose[2]) * scale == pytest.approx(1)
    assert np.degrees(pose[3]) == pytest.approx(degrees)


def test_the_fit_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    source = turned(TEMPLATE, 200, 10, np.array([300, 200])) + rng.normal(0, 2, TEMPLATE.shape)
    matrix = pose_matrices(fit_pose(mesh_with(source))[None], 1)[0]
    x, y = source.T
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    design = np.concatenate([np.stack([x, -y, ones, zeros], 1), np.stack([y, x, zeros, ones], 1)])
    a, b, tx, ty = np.linalg.lstsq(design, np.concatenate([TEMPLATE[:, 0], TEMPLATE[:, 1]]), rcond=None)[0]
    assert np.allclose(matrix, [[a, -b, tx], [b, a, ty]], atol=1e-9)


def poses(num, *, noise, drift_px=0.0, seed=0):
    """Landmark measurements at 5 Hz of a head that drifts; the face is 280 px wide in the source."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(num) / 5
    track = np.tile([320.0, 240.0, np.log(1 / 380), 0.0], (num, 1))
    track[:, 0] += drift_px * seconds / seconds[-1]
    return seconds, track, track + rng.normal(0, 1, track.shape) * [noise, noise, noise / 300, noise / 300]


def test_one_transform_per_clip_has_no_motion_and_little_error():
    seconds, truth, measured = poses(25, noise=0.8)
    result = stable_poses(seconds, measured, np.linspace(0, 4.8, 150), "clip")
    assert np.ptp(result, axis=0).max() == 0
    assert np.abs(result[0] - truth[0])[:2].max() < 0.8


def test_a_head_is_still_up_to_a_third_of_a_pixel():
    pose = np.array([320.0, 240.0, np.log(1 / 224), 0.0])
    path = np.linspace(-0.5, 0.5, 31)[:, None] * [1.0, 0.0, 0.0, 0.0]
    assert is_still(pose + 0.5 * path)
    assert not is_still(pose + 0.8 * path)


def test_a_drifting_head_gets_a_smooth_track_without_lag():
    seconds, truth, measured = poses(25, noise=0.5, drift_px=40)
    frames = np.linspace(0, 4.8, 150)
    result = stable_poses(seconds, measured, frames, "smooth")
    expected = np.stack([np.interp(frames, seconds, column) for column in truth.T], axis=-1)
    error = (result - expected)[:, 0]
    assert np.sqrt((error**2).mean()) < 0.4  # below the noise of one measurement
    assert np.abs(np.diff(error)).max() < 0.05  # and hardly any of it from frame to frame
    exact = stable_poses(seconds, truth, frames, "smooth")
    assert np.abs(exact - expected).max() < 1e-6  # steady motion is followed without bias, also at the ends


def test_one_wrong_measurement_is_rejected():
    seconds, _, measured = poses(25, noise=0.3)
    clean = stable_poses(seconds, measured, seconds, "smooth")
    measured[12, :2] += 60
    result = stable_poses(seconds, measured, seconds, "smooth")
    assert np.abs(result - clean)[:, 0].max() < 0.5


def test_frame_mode_keeps_the_measurements():
    seconds, _, measured = poses(10, noise=1.0)
    result = stable_poses(seconds, measured, seconds, "frame")
    assert np.allclose(result, measured)


def test_two_ticks_are_enough():
    for mode in ("frame", "clip", "smooth"):
        result = stable_poses(np.array([0.0, 0.1]), np.ones((2, 4)), np.linspace(0, 0.1, 4), mode)
        assert np.allclose(result, 1)


def test_crop_motion_is_measured_in_crop_widths():
    reference = np.array([320.0, 240.0, np.log(1 / 400), 0.3])
    moved = reference + np.array([4.0, 0.0, 0.0, 0.0])
    assert crop_motion(np.stack([reference, moved]), reference) == pytest.approx([0, 4 / 400])


def test_the_crop_box_holds_the_crop():
    pose = np.array([320.0, 240.0, np.log(1 / 300), 0.4])
    matrix = pose_matrices(pose[None], SIZE)[0]
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    corners = np.array([[0, 0, 1], [SIZE, 0, 1], [0, SIZE, 1], [SIZE, SIZE, 1]]) @ inverse.T
    x0, y0, x1, y1 = crop_box(pose[None], margin=0.0)
    assert (x0, y0) == pytest.approx(tuple(corners[:, :2].min(axis=0)))
    assert (x1, y1) == pytest.approx(tuple(corners[:, :2].max(axis=0)))


def test_warp_undoes_a_known_motion_to_a_fraction_of_a_pixel(face):
    matrix = np.array([[0.9, 0.1, 12.3], [-0.1, 0.9, 40.7]])
    smooth = cv2.GaussianBlur(face, (0, 0), 2)
    moved = cv2.warpAffine(smooth, matrix, (512, 512), flags=cv2.INTER_CUBIC)
    back = cv2.invertAffineTransform(matrix)
    crop = warp(moved, back, 512)
    inner = np.abs(crop[150:350, 150:350].astype(int) - smooth[150:350, 150:350]).mean()
    assert inner < 1.0


@pytest.mark.parametrize("pixels", [0.1, 0.5, 1.3, 4.2])
def test_jitter_finds_a_known_shift_under_noise(face, pixels):
    rng = np.random.default_rng(0)
    crop = cv2.resize(face[60:220, 140:300], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    shift = np.array([[1, 0, pixels], [0, 1, -pixels]])
    other = cv2.warpAffine(crop, shift, (SIZE, SIZE), flags=cv2.INTER_CUBIC)
    noisy = [np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8) for image in (crop, other) * 2]
    regions = [rigid_region(luma(image)) for image in noisy]
    assert np.allclose(region_shift(*regions[:2]), [pixels, -pixels], atol=0.06 + 0.03 * pixels)
    assert jitter_px(regions) == pytest.approx(pixels * np.sqrt(2), rel=0.05, abs=0.05)


def test_no_motion_is_no_jitter(face):
    region = rigid_region(luma(face))
    assert jitter_px([region] * 5) == pytest.approx(0, abs=1e-6)
    assert jitter_px([region]) is None


def test_blur_lowers_sharpness(face):
    assert sharpness(luma(cv2.GaussianBlur(face, (0, 0), 2))) < 0.5 * sharpness(luma(face))
