"""Landmarks at a few Hz -> one stable similarity transform per frame -> crops.

A crop is placed by four numbers, its *pose*: the centre of the crop in source pixels (x, y), the logarithm of the scale
(crop widths per source pixel) and the angle. They are nearly independent, so they can be filtered separately; the six
entries of an affine matrix cannot.
"""

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from mbert.pipeline.faces.landmarks import MESH, Layout, Points
from mbert.shards.image import Image

# The face in the crop: brows, cheeks and chin inside, little else. In crop widths.
_EYE_DISTANCE = 0.30
_EYE_MIDDLE = (0.50, 0.40)

_SMOOTHING_SECONDS = 0.4  # standard deviation of the low-pass; expressions are faster, heads slower
_STILL_RATIO = 0.3 / 224  # crop widths: a head that moves less counts as still
_FACE_CORNERS = np.array([(-0.25, -0.25), (0.25, -0.25), (-0.25, 0.35), (0.25, 0.35)])  # from the crop's centre


def template(layout: Layout = MESH) -> Points:
    """The positions of the rigid points in the crop, (R, 2) in crop widths."""
    return layout.frontal * _EYE_DISTANCE + _EYE_MIDDLE


def fit_pose(points: Points, layout: Layout = MESH) -> Points:
    """The pose, (4,), that maps the rigid landmarks of `points` (P, 2) onto the template (least squares)."""
    source, target = points[list(layout.rigid)], template(layout)
    source_mean, template_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - source_mean, target - template_mean
    # Closed form in complex numbers: the template is the source times one number.
    turn = ((a[:, 0] - 1j * a[:, 1]) * (b[:, 0] + 1j * b[:, 1])).sum() / (a**2).sum()
    shift = (0.5 - template_mean[0]) + 1j * (0.5 - template_mean[1])
    center = (source_mean[0] + 1j * source_mean[1]) + shift / turn
    return np.array([center.real, center.imag, np.log(abs(turn)), -np.angle(turn)])


def pose_matrices(poses: Points, size: int) -> Points:
    """Poses (N, 4) -> matrices (N, 2, 3) from source pixels to pixels of a crop `size` wide."""
    center_x, center_y, log_scale, angle = poses.T
    scale = np.exp(log_scale) * size
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.stack(
        [
            np.stack([cos, sin, size / 2 - cos * center_x - sin * center_y], axis=-1),
            np.stack([-sin, cos, size / 2 + sin * center_x - cos * center_y], axis=-1),
        ],
        axis=-2,
    )


def stable_poses(
    tick_seconds: Points, tick_poses: Points, frame_seconds: Points, mode: Literal["clip", "smooth", "frame"]
) -> Points:
    """Poses measured at ticks -> one pose per frame, (N, 4).

    `clip`: one pose for all frames, the median. `smooth`: a zero-phase low-pass track. `frame`: the measured poses as
    they are (for comparison: landmark noise becomes motion).
    """
    tick_poses = tick_poses.copy()
    tick_poses[:, 3] = np.unwrap(tick_poses[:, 3])
    if mode == "frame":
        columns = [np.interp(frame_seconds, tick_seconds, column) for column in tick_poses.T]
        return np.stack(columns, axis=-1)
    keep = _inliers(tick_seconds, tick_poses)
    tick_seconds, tick_poses = tick_seconds[keep], tick_poses[keep]
    if mode == "smooth":
        return _smooth(tick_seconds, tick_poses, frame_seconds)
    return np.tile(np.median(tick_poses, axis=0), (len(frame_seconds), 1))


def is_still(poses: Points) -> bool:
    """Whether one transform suffices for all frames: the face hardly moves between these poses (N, 4)."""
    return bool(crop_motion(poses, np.median(poses, axis=0)).max() <= _STILL_RATIO)


def crop_motion(poses: Points, reference: Points) -> Points:
    """How far the face's corners move in the crop when `poses` (N, 4) replace `reference` (4,): (N,) crop widths."""
    matrices = pose_matrices(poses, 1)
    cos, sin = np.cos(reference[3]), np.sin(reference[3])
    corners = reference[:2] + _FACE_CORNERS @ np.array([[cos, sin], [-sin, cos]]) / np.exp(reference[2])
    moved = np.einsum("nij,kj->nki", matrices[:, :, :2], corners) + matrices[:, None, :, 2] - 0.5
    motion: Points = np.linalg.norm(moved - _FACE_CORNERS, axis=-1).max(axis=-1)
    return motion


def _inliers(seconds: Points, poses: Points) -> npt.NDArray[np.bool_]:
    """Hampel filter: ticks whose pose agrees with the median of the ticks within a second."""
    keep = np.ones(len(seconds), dtype=bool)
    if len(seconds) < 5:
        return keep
    floor = np.array([0.5, 0.5, 0.005, 0.005])  # a still face must not reject its own noise
    for index, moment in enumerate(seconds):
        near = poses[np.abs(seconds - moment) <= 1.0]
        median = np.median(near, axis=0)
        spread = 1.4826 * np.median(np.abs(near - median), axis=0)
        # A steadily moving head spreads its poses too: the bound follows the spread.
        keep[index] = bool(np.all(np.abs(poses[index] - median) <= 3 * np.maximum(spread, floor)))
    return keep if keep.sum() >= 3 else np.ones(len(seconds), dtype=bool)


def _smooth(seconds: Points, poses: Points, at: Points) -> Points:
    """Local linear regression with Gaussian weights: no delay, no bias for steady motion, no distortion at the ends."""
    distance = seconds[None, :] - at[:, None]  # (N, T)
    weight = np.exp(-0.5 * (distance / _SMOOTHING_SECONDS) ** 2) + 1e-12
    s0, s1, s2 = weight.sum(1), (weight * distance).sum(1), (weight * distance**2).sum(1)
    determinant = s0 * s2 - s1**2
    linear = determinant > 1e-6 * s0**2 * _SMOOTHING_SECONDS**2
    safe = np.where(linear, determinant, 1.0)
    effective = np.where(
        linear[:, None],
        weight * (s2[:, None] - s1[:, None] * distance) / safe[:, None],
        weight / s0[:, None],
    )
    smoothed: Points = effective @ poses
    return smoothed


def crop_box(poses: Points, *, margin: float) -> tuple[float, float, float, float]:
    """The box x0, y0, x1, y1 in source pixels around the crops of some poses (N, 4), `margin` crop widths wider."""
    half = (0.5 + margin) / np.exp(poses[:, 2])
    half = half * (np.abs(np.cos(poses[:, 3])) + np.abs(np.sin(poses[:, 3])))
    low = (poses[:, :2] - half[:, None]).min(axis=0)
    high = (poses[:, :2] + half[:, None]).max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def warp(image: Image, matrix: Points, size: int) -> Image:
    """Cut an aligned crop, (size, size, 3); what lies outside of the image is black."""
    crop: Image = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0)
    )
    return crop
