import cv2
import numpy as np
import pytest

from mbert import ShardError
from mbert.shards.optical_flow import flow_beside_head, optical_flow, strain, without_head, without_light

SIZE, MARGIN = 224, 16


@pytest.fixture(scope="module")
def portrait(face):
    """The face of the photo, larger than a crop, so that what moves in is real."""
    return cv2.resize(face[20:200, 130:310], (320, 320), interpolation=cv2.INTER_CUBIC)


def moved(portrait, dx, dy, *, seed, noise=2.0):
    """A frame, and one whose contents lie (dx, dy) further; both with noise of their own."""
    rng = np.random.default_rng(seed)
    matrix = np.array([[1.0, 0, dx], [0, 1.0, dy]])
    after = cv2.warpAffine(portrait, matrix, (320, 320), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101)
    inner = slice(48, 48 + SIZE)
    frames = (image[inner, inner] + rng.normal(0, noise, (SIZE, SIZE, 3)) for image in (portrait, after))
    return [frame.clip(0, 255).round().astype(np.uint8) for frame in frames]


@pytest.mark.parametrize(("dx", "dy"), [(0.3, 0.0), (0.0, -0.5), (0.7, 0.7), (-1.0, 0.5), (1.5, -1.0), (2.0, 0.0)])
def test_shifts_of_less_than_a_pixel_are_found_under_noise(portrait, dx, dy):
    flow = optical_flow(*moved(portrait, dx, dy, seed=1))
    assert (flow.shape, flow.dtype) == ((SIZE, SIZE, 2), np.float32)
    error = (flow - [dx, dy])[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.1
    assert np.sqrt((error**2).mean()) < 0.1


def test_flow_is_the_same_for_any_number_of_threads(portrait):
    frames = moved(portrait, 0.6, -0.4, seed=2)
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            found.append(optical_flow(*frames))
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_more_light_is_no_motion(portrait):
    t0, t1 = moved(portrait, 0.0, 0.0, seed=3)
    flow = optical_flow(t0, (t1 * 1.03).clip(0, 255).astype(np.uint8))
    assert np.sqrt((flow[MARGIN:-MARGIN, MARGIN:-MARGIN] ** 2).mean()) < 0.1


@pytest.fixture(scope="module")
def drifted(portrait):
    """Two frames between which head and light drift and one eye moves for itself; the motion of head and of eye."""
    ys, xs = np.mgrid[:320, :320].astype(np.float32) - 160
    head = np.stack([1.0 + 0.004 * xs - 0.006 * ys, -0.8 + 0.006 * xs + 0.003 * ys], axis=-1)
    hill = np.exp(-((xs - 40) ** 2 + (ys + 20) ** 2) / (2 * 24**2))[..., None] * np.array([1.0, 0.5], np.float32)
    x, y = xs + 160 - (head + hill)[..., 0], ys + 160 - (head + hill)[..., 1]
    after = cv2.remap(portrait, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    light = (1.1 + 0.0006 * xs - 0.0004 * ys)[..., None]
    rng, inner = np.random.default_rng(5), slice(48, 48 + SIZE)
    frames = [
        (image[inner, inner] + rng.normal(0, 1, (SIZE, SIZE, 3))).clip(0, 255).round().astype(np.uint8)
        for image in (portrait, after * light)
    ]
    return frames, head[inner, inner], hill[inner, inner]


def rms(vectors):
    return np.sqrt((vectors[MARGIN:-MARGIN, MARGIN:-MARGIN] ** 2).sum(axis=-1).mean())


@pytest.mark.parametrize("method", ["dis", "dis_fine", "farneback"])
def test_flow_beside_the_head_is_what_moved_for_itself(drifted, method):
    (t0, t1), head, hill = drifted
    found = flow_beside_head(t0, t1, method)
    assert (found.shape, found.dtype) == ((SIZE, SIZE, 2), np.float32)
    top = np.unravel_index(np.linalg.norm(hill, axis=-1).argmax(), hill.shape[:2])
    around = tuple(slice(place - 8, place + 8) for place in top)
    assert np.linalg.norm((found - hill)[around].mean(axis=(0, 1))) < 0.25  # of 1.1 px
    still = np.linalg.norm(hill, axis=-1) < 0.02
    still[:MARGIN] = still[-MARGIN:] = still[:, :MARGIN] = still[:, -MARGIN:] = False
    assert rms(head) > 1
    assert np.linalg.norm(found[still], axis=-1).mean() < 0.25
    lumas = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (t0, t1)]
    assert np.array_equal(flow_beside_head(*lumas, method), found)


def test_the_head_is_what_most_of_the_frame_shares(drifted):
    _, head, hill = drifted
    flow = (head + hill).astype(np.float32)
    before = flow.copy()
    assert rms(without_head(flow) - hill) < 0.03
    assert np.array_equal(flow, before)  # what is given is not changed
    assert np.abs(without_head(head.astype(np.float32))).max() < 1e-4
    assert without_head(np.zeros((20, 9, 2), np.float32)).max() == 0


def test_slow_light_is_removed_and_what_moved_is_kept(drifted, portrait):
    (t0, t1), _, _ = drifted
    relit = without_light(t0, t1)
    assert (relit.shape, relit.dtype) == ((SIZE, SIZE), np.uint8)
    first, second = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(float) for frame in (t0, t1))
    slow_before, slow_after = (
        np.abs(cv2.GaussianBlur(luma - first, (0, 0), 16)).mean() for luma in (second, relit.astype(float))
    )
    assert slow_before > 5 * slow_after
    # Same light: the frame comes back as it was, but for rounding and for noise that is slow.
    t0, t1 = moved(portrait, 0.5, 0.3, seed=6)
    assert np.abs(without_light(t0, t1).astype(float) - cv2.cvtColor(t1, cv2.COLOR_RGB2GRAY)).mean() < 1.5
    assert without_light(np.zeros_like(t0), np.zeros_like(t1)).max() == 0
    with pytest.raises(ShardError, match="frames differ in size"):
        without_light(t0, t1[:100])


def test_another_method_is_refused(portrait):
    with pytest.raises(ShardError, match="flow method is 'tv'; allowed are dis, dis_fine, farneback"):
        flow_beside_head(*moved(portrait, 0, 0, seed=7), "tv")


def test_a_face_that_moves_as_a_whole_is_not_strained():
    assert strain(np.full((8, 9, 2), 1.7, np.float32)).max() == 0
    ys, xs = np.mgrid[:8, :9].astype(np.float32)
    turned = 0.01 * np.stack([-ys, xs], axis=-1)  # a small rotation
    assert strain(turned).max() < 1e-6


def test_stretch_and_shear_are_measured_as_by_hand():
    ys, xs = np.mgrid[:12, :10].astype(np.float32)
    stretched = np.stack([0.03 * xs, -0.04 * ys], axis=-1)  # e_xx = 0.03, e_yy = -0.04
    assert strain(stretched) == pytest.approx(np.full((12, 10), 0.05), abs=1e-6)
    sheared = np.stack([0.02 * ys, np.zeros_like(xs)], axis=-1)  # e_xy = 0.01
    assert strain(sheared) == pytest.approx(np.full((12, 10), 0.01 * np.sqrt(2)), abs=1e-6)


def test_frames_that_cannot_be_compared_are_refused():
    frame = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ShardError, match=r"frames differ in size, \(16, 16, 3\) and \(16, 20, 3\)"):
        optical_flow(frame, np.zeros((16, 20, 3), np.uint8))
    with pytest.raises(ShardError, match="frames are 8 x 8 px; optical flow needs at least 12 a side"):
        optical_flow(frame[:8, :8], frame[:8, :8])
    assert optical_flow(frame[:12, :12], frame[:12, :12]).shape == (12, 12, 2)
