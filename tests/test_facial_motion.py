import cv2
import numpy as np
import pytest

from mbert.pipeline.faces.align import fit_pose
from mbert.pipeline.faces.landmarkers import open_landmarker
from mbert.pipeline.synthetic.facial_motion import (
    ACTION_UNITS,
    CROP_PX,
    EMOTION_SETS,
    EMOTIONS,
    ActiveUnit,
    face_axes,
    follow,
    pixel_grid,
    sampled,
    unit_velocity,
    with_amplitude,
)

SHAPE = (320, 320)
# Points on the left of the image and their mirror images; then directions, x towards the middle of the face, y down.
INNER_BROW, OUTER_BROW = (107, 336), (70, 300)
UPPER_LID, LOWER_LID = (159, 386), (145, 374)
CHEEK, NOSE_WING = (118, 347), (98, 327)
UPPER_LIP, LOWER_LIP, CORNER = (39, 269), (84, 314), (61, 291)
BESIDE_CORNER, CHIN = (212, 432), (208, 428)
EXPECTED = [
    (1, INNER_BROW, (0, -1)),
    (2, OUTER_BROW, (0, -1)),
    (4, INNER_BROW, (1, 1)),
    (5, UPPER_LID, (0, -1)),
    (6, CHEEK, (0, -1)),
    (7, LOWER_LID, (0, -1)),
    (9, NOSE_WING, (0, -1)),
    (9, INNER_BROW, (0, 1)),
    (10, UPPER_LIP, (0, -1)),
    (12, CORNER, (-1, -1)),
    (14, CORNER, (-1, 0)),
    (14, BESIDE_CORNER, (1, 0)),
    (15, CORNER, (0, 1)),
    (17, CHIN, (0, -1)),
    (20, CORNER, (-1, 0)),
    (23, CORNER, (1, 0)),
    (24, UPPER_LIP, (0, 1)),
    (24, LOWER_LIP, (0, -1)),
    (25, LOWER_LIP, (0, 1)),
    (26, CHIN, (0, 1)),
]


@pytest.fixture(scope="module")
def mesh(face):
    landmarker = open_landmarker("mediapipe", max_faces=1)
    try:
        image = cv2.resize(face[20:260, 100:340], SHAPE, interpolation=cv2.INTER_CUBIC)
        return landmarker.detect(image)[0].points
    finally:
        landmarker.close()


def displacement(mesh, *units, amplitude=2.0):
    return follow(with_amplitude(unit_velocity(units, mesh, SHAPE), amplitude))


def at(field, mesh, point):
    """The displacement of a landmark in the axes of the face."""
    _, axes = face_axes(mesh)
    places = mesh[point].astype(np.float32).reshape(1, 1, 2)
    return axes @ sampled(field, places)[0, 0]


@pytest.mark.parametrize(("number", "points", "direction"), EXPECTED)
def test_a_unit_moves_the_right_part_the_right_way_on_both_sides(mesh, number, points, direction):
    field = displacement(mesh, ActiveUnit(number=number))
    for point, mirror in zip(points, (1, -1), strict=True):
        moved = at(field, mesh, point) * (mirror, 1)
        for part, expected in zip(moved, direction, strict=True):
            if expected:
                assert part * expected > 0.3  # of 2 px


def test_every_unit_is_checked_and_every_emotion_is_made_of_known_units():
    assert {number for number, _, _ in EXPECTED} == set(ACTION_UNITS)
    assert {unit for combinations in EMOTIONS.values() for units in combinations for unit in units} <= set(ACTION_UNITS)
    assert {emotion for names in EMOTION_SETS.values() for emotion in names} == set(EMOTIONS)
    assert [len(names) for names in EMOTION_SETS.values()] == [3, 5]
    combinations = [units for units in EMOTIONS.values() for units in units]
    assert len(set(combinations)) == len(combinations)  # no combination shows two emotions


@pytest.mark.parametrize("number", sorted(ACTION_UNITS))
def test_the_motion_stays_in_the_face_and_has_the_asked_amplitude(mesh, number):
    field = displacement(mesh, ActiveUnit(number=number), amplitude=3.0)
    size = np.linalg.norm(field, axis=-1)
    assert size.max() == pytest.approx(3.0, abs=0.02)
    width, _ = face_axes(mesh)
    outline = np.zeros(SHAPE, np.uint8)
    cv2.fillConvexPoly(outline, cv2.convexHull(mesh.round().astype(np.int32)), 1)
    away = cv2.distanceTransform(1 - outline, cv2.DIST_L2, 5)
    assert size[away > 0.15 * width].max() < 0.001


def test_the_sides_have_strengths_of_their_own(mesh):
    field = displacement(mesh, ActiveUnit(number=12, left=1.0, right=0.4))
    left, right = (np.linalg.norm(at(field, mesh, point)) for point in CORNER)
    assert right / left == pytest.approx(0.4, abs=0.05)
    one_sided = displacement(mesh, ActiveUnit(number=12, left=0.0, right=1.0))
    assert np.linalg.norm(at(one_sided, mesh, CORNER[0])) == 0
    assert np.linalg.norm(at(one_sided, mesh, CORNER[1])) > 1


def test_the_motion_turns_and_grows_with_the_face(mesh):
    angle, factor = np.radians(15), 0.8
    turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    other = (mesh - 160) @ turn.T + 160
    upright, turned = (unit_velocity([ActiveUnit(number=4)], points, SHAPE) for points in (mesh, other))
    for point in INNER_BROW:
        # The same in the axes of the face, and in crop widths.
        here, there = at(upright, mesh, point), at(turned, other, point)
        assert there / factor == pytest.approx(here, abs=0.02)
    assert np.exp(fit_pose(other)[2] - fit_pose(mesh)[2]) == pytest.approx(1 / factor)


def test_a_unit_at_full_strength_moves_about_a_pixel_of_the_crop(mesh):
    velocity = unit_velocity([ActiveUnit(number=1)], mesh, SHAPE)
    assert np.linalg.norm(velocity, axis=-1).max() == pytest.approx(face_axes(mesh)[0] / CROP_PX, abs=0.02)


def test_motion_is_undone_by_the_opposite_velocity(mesh):
    velocity = with_amplitude(unit_velocity([ActiveUnit(number=7), ActiveUnit(number=15)], mesh, SHAPE), 3.0)
    back = follow(-velocity)
    there_and_back = back + sampled(follow(velocity), pixel_grid(SHAPE) + back)
    assert np.abs(there_and_back).max() < 0.06
    assert np.abs(there_and_back).mean() < 0.001
