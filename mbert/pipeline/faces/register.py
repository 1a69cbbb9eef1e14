"""The pose of a face in each frame of a clip, to hundredths of a pixel: registration of its rigid part to a reference.

Landmarks locate the face to about half a pixel; they cannot say how it moved since the last frame. Pixels can. The face
in each frame is aligned to a reference frame of its clip by Gauss-Newton steps over the four numbers of a pose (inverse
compositional Lucas-Kanade, Baker & Matthews 2004). An expression must not be taken for head motion: each pixel has a
robust weight, and the whole face takes part, so that local motion is a minority.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mbert.pipeline.faces.landmarks import Points
from mbert.pipeline.faces.track import Region

_PATCH_PER_CROP = 64  # resolution of the patch, in pixels per crop width
_PATCH = (0.19, 0.05, 0.81, 0.89)  # left, top, right, bottom in crop widths: the oval of the face inside it counts
_BLUR_PX = 0.6
_OUTLIER = 1.5  # robust standard deviations at which a pixel's weight has fallen to a quarter
_MAX_STEPS = 25
_OVER_RELAXATION = 1.4  # the weights change with the pose, so that plain steps fall short
_DONE_PX = 0.03  # a step smaller than this, at the patch's sides, ends the iteration
_REACH_PX = 20.0  # from the patch's centre to its sides
_FADING_CORRELATION = 0.95  # with the reference; below it, a nearer frame becomes the reference
_LOST_CORRELATION = 0.8  # with the nearer one; below it, the frame cannot be registered
_SEARCH_PX = 12  # how far a face may have jumped from one frame to the next, in pixels of the patch
_LOST_FRAMES = 5

Patch = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class _Reference:
    patch: Patch  # (H, W), zero mean, unit variance
    steepest: npt.NDArray[np.float32]  # (4, H * W): change of the patch for each number of a pose


def register_poses(regions: Sequence[Region], poses: Points) -> Points:
    """Refine the poses (N, 4) that landmarks gave for the frames of one clip; returns (N, 4).

    Pixels decide between frames, landmarks over the whole clip: registration leaves one constant undetermined, the
    position of the face in the reference frame, which is the median over all frames. If a frame cannot be registered
    (hidden, or turned too far), the landmarks' pose is kept, shifted like its neighbours.
    """
    moved, found = _register(regions, poses)
    if found.sum() < 2:
        return poses
    index = np.arange(len(poses))
    between = np.stack([np.interp(index, index[found], column) for column in moved[found].T], axis=-1)
    refined: Points = poses + between - np.median(moved[found], axis=0)
    return refined


def _register(regions: Sequence[Region], poses: Points) -> tuple[Points, npt.NDArray[np.bool_]]:
    """How far each pose has to move to agree with the reference, (N, 4), and for which frames that is known, (N,)."""
    middle = len(regions) // 2
    moved = np.zeros_like(poses)
    found = np.ones(len(regions), dtype=bool)
    for order in (range(middle + 1, len(regions)), range(middle - 1, -1, -1)):
        reference = _reference(regions[middle], poses[middle])
        last, drift = middle, np.zeros(4)
        for index in order:
            guess = poses[index] + moved[last] + drift  # moved as far as the neighbour nearer to the reference
            pose, correlation = _align(reference, regions[index], guess)
            if correlation < _FADING_CORRELATION:  # the head turns away from the reference: hand over to the neighbour
                reference = _reference(regions[last], poses[last] + moved[last])
                pose, correlation = _align(reference, regions[index], guess)
            if correlation < _FADING_CORRELATION:  # or it moved further than the steps reach
                again, better = _align(reference, regions[index], _search(reference, regions[index], guess))
                pose, correlation = (again, better) if better > correlation else (pose, correlation)
            found[index] = correlation >= _LOST_CORRELATION
            if found[index]:
                moved[index] = pose - poses[index]
                drift = (moved[index] - moved[last]) / abs(index - last)
                last = index
            elif abs(index - last) >= _LOST_FRAMES:  # hidden for a while: use what is visible now
                moved[index], last, drift = moved[last], index, np.zeros(4)
                reference = _reference(regions[index], poses[index] + moved[index])
    return moved, found


def _grid() -> npt.NDArray[np.complex128]:
    """The positions of the patch's pixels, as complex numbers in crop widths from the crop's centre, (H, W)."""
    left, top, right, bottom = _PATCH
    columns = np.arange(round((right - left) * _PATCH_PER_CROP)) / _PATCH_PER_CROP + left - 0.5
    rows = np.arange(round((bottom - top) * _PATCH_PER_CROP)) / _PATCH_PER_CROP + top - 0.5
    return columns[None, :] + 1j * rows[:, None]


def _oval() -> Patch:
    """1 where the patch shows the face, 0 in its corners, (H, W)."""
    left, top, right, bottom = _PATCH
    center = complex((left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5)
    across, down = (_GRID - center).real / (right - left), (_GRID - center).imag / (bottom - top)
    return (across**2 + down**2 <= 0.25).astype(np.float32)


_GRID = _grid()
_OVAL = _oval()


def _sample(luma: npt.NDArray[np.uint8], region: Region, pose: Points, *, margin: int = 0) -> Patch:
    """The patch of a frame under a pose, `margin` pixels wider on each side: blurred luma, (H, W)."""
    height, width = (side + 2 * margin for side in _GRID.shape)
    back = np.exp(complex(-pose[2], pose[3])) / (
        _PATCH_PER_CROP * region.shrink
    )  # pixels of the patch -> of the region
    corner = complex(pose[0], pose[1]) - complex(*region.origin) - (region.shrink - 1) * (0.5 + 0.5j)
    corner = corner / region.shrink + back * (_PATCH_PER_CROP * _GRID[0, 0] - margin * (1 + 1j))
    matrix = np.array([[back.real, -back.imag, corner.real], [back.imag, back.real, corner.imag]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(luma, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    blurred: Patch = cv2.GaussianBlur(patch.astype(np.float32), (5, 5), _BLUR_PX)
    return blurred


def _reference(region: Region, pose: Points) -> _Reference:
    standard = _standard(_sample(region.frame.luma(), region, pose))
    gradient_y, gradient_x = np.gradient(standard)
    x, y = _GRID.real * _PATCH_PER_CROP, _GRID.imag * _PATCH_PER_CROP
    steepest = np.stack([gradient_x * x + gradient_y * y, gradient_y * x - gradient_x * y, gradient_x, gradient_y])
    return _Reference(standard, steepest.reshape(4, -1).astype(np.float32))


def _align(reference: _Reference, region: Region, pose: Points) -> tuple[Points, float]:
    """Gauss-Newton from a first guess. Returns the pose and the correlation with the reference, -1 to 1."""
    luma = region.frame.luma()
    for _ in range(_MAX_STEPS):
        patch = _sample(luma, region, pose)
        standard = _standard(patch)
        error = standard - reference.patch
        sample = np.abs(error[::2, ::2]).ravel()
        scale = 1.4826 * float(np.partition(sample, len(sample) // 2)[len(sample) // 2]) + 1e-6
        # Geman-McClure: local motion has nearly no weight, or it would drag the head along.
        weight = (_OVAL / (1 + (error / (_OUTLIER * scale)) ** 2) ** 2).ravel()
        weighted = reference.steepest * weight
        step = np.linalg.solve(weighted @ reference.steepest.T + 1e-6 * np.eye(4), weighted @ error.ravel())
        pose = _undo(pose, _OVER_RELAXATION * step)
        if np.abs(step[2:]).max() + _REACH_PX * np.abs(step[:2]).max() < _DONE_PX:
            break
    return pose, float((standard * reference.patch).mean())


def _search(reference: _Reference, region: Region, pose: Points) -> Points:
    """The pose shifted to where the reference correlates best with the frame, in whole pixels of the patch."""
    around = _sample(region.frame.luma(), region, pose, margin=_SEARCH_PX)
    scores = cv2.matchTemplate(around, reference.patch, cv2.TM_CCOEFF_NORMED)
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    shift = np.array([0.0, 0.0, _SEARCH_PX - column, _SEARCH_PX - row])
    return _undo(pose, shift)


def _undo(pose: Points, step: Points) -> Points:
    """The pose that comes before a small similarity of the patch: growth (real, imaginary), shift (x, y) in pixels."""
    growth, shift = complex(1 + step[0], step[1]), complex(step[2], step[3]) / _PATCH_PER_CROP
    turn = np.exp(complex(-pose[2], pose[3]))  # crop widths -> source pixels
    center = complex(pose[0], pose[1]) - turn * shift / growth
    turn = turn / growth
    return np.array([center.real, center.imag, -np.log(abs(turn)), np.angle(turn)])


def _standard(patch: Patch) -> Patch:
    """Zero mean, unit variance: removes changes of light."""
    mean, deviation = cv2.meanStdDev(patch)
    standard: Patch = (patch - np.float32(mean[0, 0])) / np.float32(max(deviation[0, 0], 1e-3))
    return standard
