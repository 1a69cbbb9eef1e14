import cv2
import numpy as np
import pytest

from mbert.pipeline.faces.align import crop_motion, fit_pose, pose_matrices
from mbert.pipeline.faces.landmarkers import open_landmarker
from mbert.pipeline.faces.register import register_poses
from mbert.pipeline.faces.track import Region, onto_region
from mbert.pipeline.video.frame import Frame


@pytest.fixture(scope="module")
def portrait(face):
    """A sharp face of about 230 px, and its pose."""
    image = cv2.resize(face[20:260, 100:340], (480, 480), interpolation=cv2.INTER_CUBIC)
    return image, fit_pose(open_landmarker("mediapipe", max_faces=1).detect(image)[0].points)


def moved_frames(portrait, motions, *, noise=2.0, change=lambda index, frame: frame, shrink=1):
    """Frames of the portrait under given motions (dx, dy, degrees, scale), and the true poses of the face in them."""
    image, pose = portrait
    rng = np.random.default_rng(0)
    regions, truth = [], []
    for index, (dx, dy, degrees, scale) in enumerate(motions):
        turn = scale * np.exp(1j * np.radians(degrees))
        center = complex(240, 240)
        offset = center + complex(dx, dy) - turn * center
        matrix = np.array([[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]])
        frame = cv2.warpAffine(image, matrix, (480, 480), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        frame = change(index, np.clip(frame + rng.normal(0, noise, frame.shape), 0, 255).astype(np.uint8))
        part = frame[6:, 9:][: 474 // shrink * shrink, : 471 // shrink * shrink]
        size = (part.shape[1] // shrink, part.shape[0] // shrink)
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
        regions.append(Region(Frame(index, index / 30, part), (9, 6), shrink))
        place = turn * complex(*pose[:2]) + offset
        truth.append([place.real, place.imag, pose[2] - np.log(scale), pose[3] + np.radians(degrees)])
    return regions, np.array(truth)


def error_px(found, truth):
    """How far the face moves in a 224 px crop because `found` differs from `truth`, but for a constant."""
    relative = truth + np.median(found - truth, axis=0)
    return 224 * np.array([crop_motion(one[None], other)[0] for one, other in zip(found, relative, strict=True)])


def sway(num_frames=40):
    t = np.arange(num_frames) / 30
    return np.stack([4 * np.sin(5 * t), 3 * np.sin(7 * t), 1.5 * np.sin(4 * t), 1 + 0.02 * np.sin(3 * t)], axis=1)


def landmark_poses(truth, seed=1):
    """The truth with slow errors, as a low-passed landmark track has them."""
    rng = np.random.default_rng(seed)
    wander = np.cumsum(rng.normal(0, 1, truth.shape), axis=0) * [0.5, 0.5, 0.001, 0.001]
    return truth + wander - wander.mean(axis=0)


def test_motion_is_followed_to_a_few_hundredths_of_a_pixel(portrait):
    regions, truth = moved_frames(portrait, sway())
    landmarks = landmark_poses(truth)
    before, after = error_px(landmarks, truth), error_px(register_poses(regions, landmarks), truth)
    assert before.max() > 1
    assert np.sqrt((after**2).mean()) < 0.08
    assert after.max() < 0.25


def test_a_still_face_stays_still(portrait):
    regions, truth = moved_frames(portrait, [(0, 0, 0, 1)] * 20)
    found = register_poses(regions, landmark_poses(truth))
    assert error_px(found, truth).max() < 0.1


def test_shrunk_regions_are_registered_too(portrait):
    regions, truth = moved_frames(portrait, sway(20), shrink=2)
    assert error_px(register_poses(regions, landmark_poses(truth)), truth).max() < 0.3


def test_the_landmarks_decide_where_the_face_lies_on_the_whole(portrait):
    regions, truth = moved_frames(portrait, sway())
    found = register_poses(regions, truth + np.array([3.0, -2.0, 0.0, 0.0]))
    assert np.allclose(np.median(found - truth, axis=0), [3.0, -2.0, 0.0, 0.0], atol=0.2)


def test_changing_light_is_no_motion(portrait):
    def darker(index, frame):
        return (frame * (1 - 0.015 * index)).astype(np.uint8)

    regions, truth = moved_frames(portrait, sway(30), change=darker)
    assert error_px(register_poses(regions, landmark_poses(truth)), truth).max() < 0.3


def test_a_blink_moves_little(portrait):
    _, pose = portrait
    eyes = pose_matrices(pose[None], 224)[0]

    def blink(index, frame):
        if index in (10, 11, 12):
            inverse = cv2.invertAffineTransform(eyes)
            for x in (0.35, 0.65):
                spot = inverse @ [x * 224, 0.40 * 224, 1]
                cv2.ellipse(frame, (int(spot[0]), int(spot[1])), (22, 9), 0, 0, 360, (190, 150, 130), -1)
        return frame

    regions, truth = moved_frames(portrait, [(0, 0, 0, 1)] * 24, change=blink)
    error = error_px(register_poses(regions, truth), truth)
    assert error[10:13].max() < 0.5  # at the corners of the face, while both eyes are painted over
    assert np.delete(error, [10, 11, 12]).max() < 0.1


def test_a_jump_between_two_frames_is_found(portrait):
    motions = [(0, 0, 0, 1)] * 10 + [(22, -12, 0, 1)] * 10
    regions, truth = moved_frames(portrait, motions)
    landmarks = np.tile(truth.mean(axis=0), (20, 1))  # a low-pass cannot jump
    assert error_px(landmarks, truth).max() > 9
    assert error_px(register_poses(regions, landmarks), truth).max() < 0.3


def test_hidden_frames_keep_the_landmarks_and_do_not_disturb_the_others(portrait):
    def hide(index, frame):
        return np.random.default_rng(index).integers(0, 255, frame.shape, np.uint8) if 12 <= index < 15 else frame

    regions, truth = moved_frames(portrait, sway(30), change=hide)
    error = error_px(register_poses(regions, landmark_poses(truth)), truth)
    assert np.delete(error, [12, 13, 14]).max() < 0.3
    assert error[12:15].max() < 4  # about as good as the landmarks


def test_a_clip_without_any_texture_is_left_to_the_landmarks(portrait):
    regions, truth = moved_frames(portrait, sway(6), change=lambda index, frame: np.full_like(frame, 80))
    landmarks = landmark_poses(truth)
    assert np.allclose(register_poses(regions, landmarks), landmarks)


def test_a_matrix_is_carried_over_to_a_region(portrait):
    regions, truth = moved_frames(portrait, [(0, 0, 0, 1)], shrink=2)
    matrix = pose_matrices(truth[:1], 224)[0]
    onto = onto_region(matrix, regions[0])
    # Pixel (10, 20) of the region averages source pixels 2 * 10 + 9 and its neighbour, 2 * 20 + 6 and its neighbour.
    assert np.allclose(onto @ [10, 20, 1], matrix @ [29.5, 46.5, 1])
