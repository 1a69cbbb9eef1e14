"""Movement of a face: from crops to paths of its regions, to events, blinks, speech, and what they are like."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

import mbert
from mbert import ConfigError, ModelError
from mbert.manifests.predictions import MICRO_SECONDS
from mbert.manifests.regions import PARTS, REGIONS
from mbert.model.movement import displacement
from mbert.model.movement.action_units import FILE_NAME as UNITS_NAME
from mbert.model.movement.action_units import ActionUnitBases
from mbert.model.movement.calibration import FILE_NAME as CALIBRATION_NAME
from mbert.model.movement.calibration import SLOWEST, Calibration
from mbert.model.movement.curves import find_blinks, velocity
from mbert.model.movement.displacement import MovementMeter, RegionPaths
from mbert.model.movement.events import find_movements, spans_of
from mbert.model.movement.findings import Stretch, direction, find_events
from mbert.model.network.config import PRESETS, VARIANTS
from mbert.model.network.micron_bert import MicronBert
from mbert.pipeline.faces.align import fit_pose, pose_matrices
from mbert.pipeline.faces.landmarkers import open_landmarker
from mbert.pipeline.synthetic.facial_motion import (
    ACTION_UNITS,
    ActiveUnit,
    follow,
    pixel_grid,
    sampled,
    unit_velocity,
    with_amplitude,
)
from mbert.prediction.build import drawn_pair
from mbert.weights import BUILT_IN

SIZE, MARGIN = 224, 32  # of a crop, and of the picture around it, so that what a drifting head brings in is real
RATES = (25, 30, 60, 120, 200)


@pytest.fixture(scope="module")
def model():
    return mbert.load_model(BUILT_IN)


@pytest.fixture(scope="module")
def calibration():
    return Calibration.read(BUILT_IN)


@pytest.fixture(scope="module")
def portrait(face):
    return aligned(face)


def aligned(photo):
    """A face as `mbert ingest` aligns it, with a margin around the crop; and its landmarks."""
    landmarker = open_landmarker("mediapipe", max_faces=1)
    try:
        pose = fit_pose(landmarker.detect(np.ascontiguousarray(photo))[0].points)
        pose[2] -= np.log((SIZE + 2 * MARGIN) / SIZE)
        matrix = pose_matrices(pose[None], SIZE + 2 * MARGIN)[0]
        size = (SIZE + 2 * MARGIN, SIZE + 2 * MARGIN)
        wide = cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        return wide, landmarker.detect(wide)[0]
    finally:
        landmarker.close()


def course(seconds, onset, rise=0.2, hold=0.2, back=0.2):
    """0 up to the onset, smoothly to 1, held, and smoothly to 0 again."""
    up, down = ((seconds - start) / length for start, length in ((onset, rise), (onset + rise + hold, back)))
    return np.sin(0.5 * np.pi * np.clip(up, 0, 1)) ** 2 - np.sin(0.5 * np.pi * np.clip(down, 0, 1)) ** 2


def calm(seconds):
    return np.zeros((len(seconds), 2))


def sway(seconds):
    """A head that drifts by up to 8 px in a crop."""
    return np.stack([4 * np.sin(2.2 * seconds), -3 * np.sin(1.7 * seconds + 0.3)], axis=1)


def filmed(portrait, seconds, *, units=(), px=0.0, strength=None, head=calm, light=lambda seconds: 1.0, noise=2.0):
    """Time, crop and centres of the regions of each frame; the units move the skin by `px` at strength 1."""
    wide, face = portrait
    field = np.zeros((*wide.shape[:2], 2), np.float32)
    if units:
        active = [ActiveUnit(number=number) for number in units]
        field = with_amplitude(unit_velocity(active, face.points, wide.shape[:2]), px)
    inner = pixel_grid(wide.shape)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    rng = np.random.default_rng(len(seconds))
    strength = np.zeros(len(seconds)) if strength is None else strength
    for moment, share, shift in zip(seconds, strength, head(seconds), strict=True):
        places = inner - shift.astype(np.float32)
        places = places + sampled(follow(-field * np.float32(share)), places)
        seen = cv2.remap(wide, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        taken = seen * light(moment) + rng.normal(0, noise, seen.shape)
        yield float(moment), taken.clip(0, 255).round().astype(np.uint8), face.region_centres - MARGIN + shift


def measured(model, frames):
    meter = MovementMeter(model)
    for frame in frames:
        meter.push(*frame)
    return meter.finish()


def stretch_of(paths, head=None, **curves):
    """A stretch in which eyes, mouth, head and light rest, but for `curves`."""
    count = len(paths.seconds)
    still = {"eye_open": 0.3, "mouth_open": 0.0, "brightness": 120.0}
    curves = {name: curves.get(name, np.full(count, value)) for name, value in still.items()}
    return Stretch(paths, head=np.zeros((count, 8)) if head is None else np.tile(head, (1, 4)), **curves)


def paths_of(seconds, **regions):
    """Paths of regions that are where they are said to be, (N, 2) each; the others rest."""
    positions = np.zeros((len(seconds), len(REGIONS), 2))
    for name, place in regions.items():
        positions[:, REGIONS.index(name)] = place
    count = len(seconds)
    return RegionPaths(seconds, positions, np.zeros((count, 14, 14), np.uint8), np.zeros(count, bool))


# -- from crops to paths and events ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "px", "head", "light", "part", "regions", "way"),
    [
        ((12,), 5.0, calm, 0.0, "mouth", {"lip_corner_l", "lip_corner_r", "cheek_l"}, {"up left", "up right"}),
        ((12,), 5.0, sway, 0.12, "mouth", {"lip_corner_l", "lip_corner_r", "cheek_l"}, {"up left", "up right"}),
        ((1, 2), 3.5, sway, 0.12, "brows", set(PARTS["brows"]), {"up"}),
        ((26,), 5.0, sway, 0.12, "mouth", {"chin", "lower_lip"}, {"down"}),
    ],
)
def test_a_drawn_expression_is_found_where_and_when_it_is(
    portrait, model, calibration, units, px, head, light, part, regions, way
):
    seconds = np.arange(36) / 30
    strength = course(seconds, 0.25)
    frames = filmed(
        portrait, seconds, units=units, px=px, strength=strength, head=head,
        light=lambda moment: 1 - light * np.sin(2.5 * moment),
    )  # fmt: skip
    paths = measured(model, frames)
    found = find_events(stretch_of(paths, head=head(seconds)), calibration, per_minute=1.0).events
    (event,) = [event for event in found if event.part == part]
    assert event.type == "micro" if seconds[event.offset] - seconds[event.onset] <= MICRO_SECONDS else "macro"
    assert set(event.regions) <= regions
    assert len(event.regions) >= 2
    assert event.direction in way
    # A tenth of the way is visible, and 95 % are its end.
    moves, top = np.flatnonzero(strength >= 0.1), np.flatnonzero(strength >= 0.95)
    assert abs(event.onset - moves[0]) <= 1
    assert abs(event.apex - top[0]) <= 1
    assert abs(event.offset - moves[-1]) <= 1
    assert event.flags == ()


def test_the_same_motion_has_the_same_curves_at_any_frame_rate(portrait, model):
    """At 30, 25, 60 and 120 fps, and at irregular times, as at 200: within a tenth of the peak."""
    rng = np.random.default_rng(0)
    times = {rate: np.arange(round(0.64 * rate) + 1) / rate for rate in RATES}
    times["irregular"] = np.cumsum(rng.uniform(0.018, 0.045, 20))
    speeds = {}
    for rate, seconds in times.items():
        strength = course(seconds, 0.12, rise=0.15, hold=0.06, back=0.2)
        paths = measured(model, filmed(portrait, seconds, units=(1, 2), px=3.5, strength=strength))
        speeds[rate] = np.linalg.norm(velocity(seconds, paths.positions), axis=-1)
    peak = speeds[200].max()
    assert peak > 0.5
    errors, peaks = {}, {}
    for rate, seconds in times.items():
        fine = np.stack([np.interp(seconds, times[200], curve) for curve in speeds[200].T], axis=1)
        errors[rate] = np.abs(speeds[rate] - fine).max() / peak
        peaks[rate] = speeds[rate].max() / peak
    assert max(errors.values()) < 0.1, errors
    assert max(abs(share - 1) for share in peaks.values()) < 0.1, peaks


def test_a_still_face_under_noise_gives_no_event(portrait, model, calibration):
    seconds = np.arange(60) / 30
    flicker = 1 + 0.01 * np.random.default_rng(0).standard_normal(60)
    frames = filmed(portrait, seconds, light=lambda moment: flicker[round(moment * 30)], noise=6.0)
    paths = measured(model, frames)
    assert not paths.repeated.any()
    found = find_events(stretch_of(paths), calibration, per_minute=1.0)
    assert found.events == []
    assert found.regions.max() < 0.2  # px per 100 ms


def test_a_model_without_attention_motion_is_refused():
    model = MicronBert(dataclasses.replace(PRESETS["tiny"], **VARIANTS["paper"]))
    with pytest.raises(ConfigError, match=r"the model has attention='diagonal'; movement needs .* attention='motion'"):
        MovementMeter(model)


@pytest.fixture(scope="module")
def raised_brows(portrait):
    """Frames of brows that go up and come back, at 30 fps."""
    seconds = np.arange(39) / 30
    return list(filmed(portrait, seconds, units=(1, 2), px=3.0, strength=course(seconds, 0.3), head=sway))


def test_paths_are_the_same_whenever_they_are_measured_and_with_any_number_of_threads(model, raised_brows, monkeypatch):
    meter = MovementMeter(model, threads=1)
    for frame in raised_brows:
        meter.push(*frame)
    first = meter.finish()
    assert first.positions.shape == (39, len(REGIONS), 2)
    assert np.ptp(first.positions[:, 0], axis=0).max() > 0.3
    again = measured(model, raised_brows)
    assert np.array_equal(again.positions, first.positions)
    assert np.array_equal(again.maps, first.maps)
    monkeypatch.setattr(displacement, "_BATCH", 9)  # other frames are looked at together
    for frame in raised_brows:
        meter.push(*frame)  # onto a meter that has measured before: nothing of the earlier path is left
    parted = meter.finish()
    assert np.abs(parted.positions - first.positions).max() < 0.01
    assert np.abs(parted.maps.astype(int) - first.maps).max() <= 1


def test_a_meter_keeps_a_bounded_number_of_frames(portrait, model):
    (frame,) = filmed(portrait, np.zeros(1))
    meter = MovementMeter(model)
    kept = []
    for number in range(100):
        meter.push(number / 10, *frame[1:])
        kept.append(len(meter._frames))
    # One batch is being compared, another is filled.
    assert max(kept) <= 2 * displacement._BATCH + displacement._HELD_SECONDS * 10 + 1
    assert max(kept[70:]) <= max(kept[:70])
    assert len(meter) == 100


def test_a_picture_that_is_shown_twice_is_marked(portrait, model):
    frames = list(filmed(portrait, np.arange(4) / 30))
    twice = [(number / 60, *frames[number // 2][1:]) for number in range(8)]
    assert measured(model, twice).repeated.tolist() == [False, True] * 4


@pytest.mark.parametrize("count", [1, 2])
def test_a_face_that_is_seen_for_a_frame_or_two_has_rows_and_no_event(portrait, model, calibration, count):
    paths = measured(model, filmed(portrait, np.arange(count) / 30))
    assert paths.positions.shape == (count, len(REGIONS), 2)
    found = find_events(stretch_of(paths), calibration, per_minute=1.0)
    assert found.regions.shape == (count, len(REGIONS))
    assert found.events == []


# -- paths from pairs --------------------------------------------------------------------------------------------------


def linked(count, distances, noise, seed=0):
    """True positions (N, 3, 2) of a walk, and what pairs so many frames apart say about it."""
    rng = np.random.default_rng(seed)
    truth = np.cumsum(rng.normal(0, 0.3, (count, 3, 2)), axis=0)
    truth -= truth[0]
    links = [
        (later - distance, later, truth[later] - truth[later - distance] + rng.normal(0, noise, (3, 2)))
        for later in range(count)
        for distance in distances
        if distance <= later
    ]
    return truth, links


def dense(count, links):
    """The least-squares solution with the first frame at 0, by a general solver."""
    rows = np.zeros((len(links) + 1, count))
    right = np.zeros((len(links) + 1, links[0][2].size))
    for row, (earlier, later, moved) in enumerate(links):
        rows[row, earlier], rows[row, later] = -1, 1
        right[row] = moved.ravel()
    rows[-1, 0] = 1
    return np.linalg.lstsq(rows, right, rcond=None)[0].reshape(count, *links[0][2].shape)


@pytest.mark.parametrize(
    ("count", "distances"),
    [(2, (1,)), (3, (1, 2)), (40, (1, 2, 5)), (120, (1, 8, 16, 32)), (120, (1, 4, 8, 16)), (60, (1,))],
)
def test_joined_paths_are_the_least_squares_of_all_pairs(count, distances):
    truth, links = linked(count, distances, noise=0.2)
    found = displacement._joined(count, links)
    np.testing.assert_allclose(found, dense(count, links), atol=1e-4)
    exact = displacement._joined(count, linked(count, distances, noise=0)[1])
    np.testing.assert_allclose(exact, truth, atol=1e-4)


def test_pairs_may_be_of_any_frames_in_any_order():
    rng = np.random.default_rng(3)
    links = linked(50, (1,), noise=0.1)[1]
    ends = np.sort(rng.integers(0, 50, (60, 2)), axis=1)
    links += [(int(a), int(b), rng.normal(0, 1, (3, 2))) for a, b in ends if a < b]
    shuffled = [links[place] for place in rng.permutation(len(links))]
    np.testing.assert_allclose(displacement._joined(50, shuffled), dense(50, links), atol=1e-4)


def test_a_long_path_does_not_fall_back_to_its_start():
    truth = np.linspace(0, 90, 18000)  # 90 s at 200 fps
    links = [
        (later - distance, later, np.full((1, 2), truth[later] - truth[later - distance]))
        for later in range(1, 18000)
        for distance in (1, 32)
        if distance <= later
    ]
    found = displacement._joined(18000, links)
    np.testing.assert_allclose(found[:, 0, 0], truth, atol=0.03)


# -- speed -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [5, *RATES, "irregular"])
def test_the_velocity_of_a_straight_line_is_exact_at_any_sampling(rate):
    rng = np.random.default_rng(1)
    seconds = np.cumsum(rng.uniform(0.003, 0.3, 60)) if rate == "irregular" else 7.0 + np.arange(60) / rate
    slope = np.array([[3.0, -1.5], [0.0, 20.0]])  # px per second
    positions = 4 + seconds[:, None, None] * slope
    found = velocity(seconds, positions)
    np.testing.assert_allclose(found, np.broadcast_to(slope / 10, found.shape), atol=1e-9)


def test_the_velocity_of_two_frames_is_their_difference_and_of_one_is_zero():
    positions = np.array([[[1.0, 2.0]], [[1.5, 1.0]]])
    np.testing.assert_allclose(velocity(np.array([0.0, 0.05]), positions), [[[1.0, -2.0]]] * 2)
    assert velocity(np.array([0.3]), positions[:1]).tolist() == [[[0.0, 0.0]]]
    assert velocity(np.empty(0), positions[:0]).shape == (0, 1, 2)


@pytest.mark.parametrize("rate", RATES)
def test_the_speed_of_a_smooth_movement_is_that_of_its_course(rate):
    seconds = np.arange(round(1.2 * rate)) / rate
    positions = course(seconds, 0.4)[:, None] * np.array([0.0, -1.0])
    found = velocity(seconds, positions)
    fastest = 0.5 * np.pi / 0.2 / 10
    assert -found[:, 1].min() == pytest.approx(fastest, rel=0.12)
    assert found[:, 1].max() == pytest.approx(fastest, rel=0.12)
    assert np.abs(found[seconds < 0.3]).max() < 1e-9
    assert not found[:, 0].any()


# -- events ------------------------------------------------------------------------------------------------------------

UP, ASIDE = np.array([[0.0, -1.0], [0.1, -0.6]]), np.array([[0.0, 0.0], [1.0, 0.1]])  # ways of two regions
THRESHOLD = 0.3


def movements(seconds, positions, threshold=THRESHOLD):
    return find_movements(seconds, positions, velocity(seconds, positions), threshold)


def along(way, strength):
    return strength[:, None, None] * way


@pytest.mark.parametrize("rate", RATES)
def test_rise_and_return_are_one_event_with_its_offset(rate):
    seconds = np.arange(2 * rate) / rate
    (found,) = movements(seconds, along(UP, course(seconds, 0.5)))
    frame = 1 / rate
    # It has visibly begun at 10 % of its way, and is at its end at 95 %.
    assert seconds[found.onset] == pytest.approx(0.541, abs=frame)
    assert seconds[found.apex] == pytest.approx(0.671, abs=frame + 0.02)
    assert seconds[found.offset] == pytest.approx(1.08, abs=frame + 0.02)
    assert found.is_back
    assert found.regions == (0, 1)
    assert found.speed == pytest.approx(0.5 * np.pi / 0.2 / 10, rel=0.12)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("rise", [0.06, 0.1, 0.2])
def test_size_and_direction_of_an_event_are_the_same_at_any_frame_rate(rate, rise):
    for part_of_frame in (0, 0.25, 0.5, 0.75):
        seconds = (np.arange(2 * rate) + part_of_frame) / rate
        found = movements(seconds, along(UP, course(seconds, 0.5, rise=rise)))
        assert [direction(each.way) for each in found] == ["up"]
        assert found[0].regions == (0, 1)
        assert 0.7 < found[0].size_px <= 1.01  # of 1 px


def test_a_rise_without_return_ends_with_its_movement():
    seconds = np.arange(120) / 30
    (found,) = movements(seconds, along(UP, course(seconds, 0.5, hold=60)))
    assert not found.is_back
    assert found.apex <= found.offset <= found.apex + 2
    # Back after more than 4 s: that is another event.
    seconds = np.arange(300) / 30
    first, second = movements(seconds, along(UP, course(seconds, 0.5, hold=5)))
    assert not first.is_back
    assert not second.is_back
    assert seconds[second.onset] == pytest.approx(5.74, abs=0.05)


@pytest.mark.parametrize("size", [0.5, 1.0, 2.0])
def test_a_second_movement_in_between_is_its_own_event(size):
    seconds = np.arange(90) / 30
    other = along(ASIDE, size * course(seconds, 1.3, hold=0.1))
    found = movements(seconds, along(UP, course(seconds, 0.5, hold=1.4)) + other)
    (second,) = [each for each in found if abs(seconds[each.onset] - 1.34) < 0.05]
    assert second.is_back
    assert second.regions[0] == 1
    assert seconds[second.offset] == pytest.approx(1.78, abs=0.07)
    first = found[0]
    assert seconds[first.onset] == pytest.approx(0.54, abs=0.05)
    assert first.regions[0] == 0
    assert first.is_back == (size < 0.6)  # what goes further than the first is taken for the end of it


def test_two_steps_one_way_are_one_movement_and_two_that_rest_between_are_two():
    seconds = np.arange(90) / 30
    near = course(seconds, 0.5, hold=60) + course(seconds, 0.62, hold=60)
    assert len(movements(seconds, along(UP, near))) == 1
    apart = course(seconds, 0.5, hold=60) + course(seconds, 1.3, hold=60)
    assert len(movements(seconds, along(UP, apart))) == 2


def test_what_is_slower_than_the_threshold_is_no_event():
    seconds = np.arange(90) / 30
    positions = along(UP, course(seconds, 0.5))
    fastest = np.linalg.norm(velocity(seconds, positions), axis=-1).max()
    assert movements(seconds, positions, 1.001 * fastest) == []
    assert len(movements(seconds, positions, 0.999 * fastest)) > 0
    assert movements(seconds, np.zeros((90, 2, 2))) == []
    assert movements(seconds[:2], positions[:2]) == []


def wandering(seed):
    """Times at some rate, a few of them left out, and smooth random paths (N, 3, 2)."""
    rng = np.random.default_rng(seed)
    rate, count = int(rng.choice(RATES)), int(rng.integers(3, 300))
    width = rng.uniform(0.03, 0.15) * rate
    kernel = np.exp(-((np.arange(-60, 61) / width) ** 2) / 2)
    noise = rng.normal(0, 1, (count + 120, 6))
    smooth = np.stack([np.convolve(column, kernel, "valid") for column in noise.T], axis=1)
    kept = np.sort(rng.permutation(count)[: max(3, int(rng.uniform(0.7, 1) * count))])
    size = rng.uniform(0.3, 2) / np.sqrt((kernel**2).sum())
    return kept / rate, (smooth[kept] * size).reshape(-1, 3, 2), float(rng.uniform(0.1, 1.5))


def test_events_of_random_paths_are_in_order_inside_and_as_fast_as_asked():
    num_found = 0
    for seed in range(300):
        seconds, positions, threshold = wandering(seed)
        velocities = velocity(seconds, positions)
        found = find_movements(seconds, positions, velocities, threshold)
        num_found += len(found)
        onsets = [each.onset for each in found]
        assert onsets == sorted(onsets), seed
        fastest = np.linalg.norm(velocities, axis=-1).max()
        for each in found:
            assert 0 <= each.onset <= each.apex <= each.offset < len(seconds), seed
            assert threshold <= each.speed <= fastest, seed
            assert each.size_px > 0, seed
            assert each.regions, seed
            assert set(each.regions) <= {0, 1, 2}, seed
        backs = [each.offset for each in found if each.is_back]
        assert len(set(backs)) == len(backs), seed  # no two end with the same return
    assert num_found > 1000


def test_a_slow_and_a_fast_return_both_end_an_event(calibration):
    kinds = []
    for back in (0.15, 0.25):
        seconds = np.arange(60) / 30
        way = 1.2 * course(seconds, 0.5, rise=0.15, hold=0.05, back=back)[:, None] * (0.0, -1.0)
        (event,) = find_events(stretch_of(paths_of(seconds, brow_inner_l=way)), calibration, per_minute=1.0).events
        kinds.append((event.type, event.part, event.direction, event.regions, event.flags))
    assert kinds == [("micro", "brows", "up", ("brow_inner_l",), ())] * 2


def test_what_else_goes_on_during_a_rise_is_a_flag(calibration):
    seconds = np.arange(60) / 30
    way = 2 * course(seconds, 0.5, hold=9)[:, None] * (0.0, -1.0)
    paths = paths_of(seconds, brow_inner_l=way)
    jump = np.where(seconds < 0.6, 0.0, 8.0)
    cases = {
        "blink": {"eye_open": np.where(np.abs(seconds - 0.6) < 0.06, 0.1, 0.3)},
        "head": {"head": np.stack([jump, jump], axis=1)},
        "light": {"brightness": 120 + 5 * jump},
    }
    for flag, curves in cases.items():
        found = find_events(stretch_of(paths, **curves), calibration, per_minute=1.0).events
        assert [event.flags for event in found if event.part == "brows"] == [(flag, "held")]
    early = paths_of(seconds, brow_inner_l=2 * course(seconds, 0.0, hold=9)[:, None] * (0.0, -1.0))
    (event,) = find_events(stretch_of(early), calibration, per_minute=1.0).events
    assert event.flags == ("cut", "held")


@pytest.mark.parametrize("total", [0.9, 1.3, 2.0, 6.0])
@pytest.mark.parametrize("px", [0.3, 0.8])
def test_an_expression_in_a_short_clip_is_found_as_in_a_long_one(calibration, total, px):
    seconds = np.arange(round(total * 30)) / 30
    way = px * course(seconds, (total - 0.5) / 2, rise=0.15, hold=0.1, back=0.2)[:, None] * (-0.7, -0.7)
    (event,) = find_events(stretch_of(paths_of(seconds, lip_corner_l=way)), calibration, per_minute=1.0).events
    assert (event.type, event.part, event.direction) == ("micro", "mouth", "up left")
    assert event.score == pytest.approx(event.speed / calibration.threshold("mouth", 1.0))


def test_what_never_rests_hides_what_is_slow_and_not_what_is_fast(calibration):
    seconds = np.arange(240) / 30
    wags = 0.08 * np.sin(2 * np.pi * 1.5 * seconds)[:, None] * (1.0, 0.0)
    for px, is_found in ((0.2, False), (1.5, True)):
        rise = px * course(seconds, 4.0)[:, None] * (0.0, -1.0)
        at_rest, restless = (
            find_events(stretch_of(paths_of(seconds, brow_inner_l=way)), calibration, per_minute=1.0).events
            for way in (rise, rise + wags)
        )
        assert [event.direction for event in at_rest] == ["up"]
        assert [event.direction for event in restless] == ["up"] * is_found
        assert all(event.score >= 1 for event in at_rest + restless)


@pytest.mark.parametrize("turn", range(8))
def test_directions_are_those_of_the_image(turn):
    words = ["right", "down right", "down", "down left", "left", "up left", "up", "up right"]
    angle = np.radians(45 * turn)
    for off in (-20, 20):
        way = 3 * np.array([np.cos(angle + np.radians(off)), np.sin(angle + np.radians(off))])
        assert direction(way) == words[turn]


def test_spans_are_the_runs_of_a_mask():
    assert spans_of(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 1), (4, 4), (6, 6)]
    assert spans_of(np.zeros(3, bool)) == spans_of(np.zeros(0, bool)) == []
    assert spans_of(np.ones(3, bool)) == [(0, 2)]


# -- blinks ------------------------------------------------------------------------------------------------------------


def eyes(seconds, *, blinks=(), width=0.1, open_by=0.3, noise=0.0015, seed=0):
    """An eye opening that is at half of its dip for `width` seconds around each of `blinks`."""
    opening = np.full(len(seconds), open_by)
    for blink in blinks:
        away = np.abs(seconds - blink) / width
        opening -= 0.75 * open_by * np.where(away < 1, np.cos(0.5 * np.pi * away) ** 2, 0)
    return opening + np.random.default_rng(seed).normal(0, noise, len(seconds))


@pytest.mark.parametrize("rate", [25, 30, 60, 200])
@pytest.mark.parametrize("milliseconds", [60, 100, 150, 200])
@pytest.mark.parametrize("open_by", [0.15, 0.35])
def test_a_short_dip_of_the_eye_opening_is_a_blink_at_any_frame_rate(rate, milliseconds, open_by):
    for part_of_frame in (0, 0.3, 0.6):
        seconds = (np.arange(3 * rate) + part_of_frame) / rate
        opening = eyes(seconds, blinks=(0.8, 2.1), width=milliseconds / 1000, open_by=open_by)
        found = find_blinks(seconds, opening)
        assert [seconds[apex] for _, apex, _ in found] == pytest.approx([0.8, 2.1], abs=0.01 + 1 / rate)
        for onset, apex, offset in found:
            assert onset <= apex <= offset
            assert abs(seconds[offset] - seconds[onset] - milliseconds / 1000) <= 0.01 + 2 / rate


@pytest.mark.parametrize("rate", [25, 60, 200])
def test_two_blinks_300_ms_apart_are_two_and_a_dip_with_a_bump_is_one(rate):
    seconds = np.arange(2 * rate) / rate
    assert len(find_blinks(seconds, eyes(seconds, blinks=(0.8, 1.1)))) == 2
    bumpy = np.where((seconds > 0.79) & (seconds < 0.81), 0.22, eyes(seconds, blinks=(0.8,), width=0.2, noise=0))
    assert len(find_blinks(seconds, bumpy)) == 1


@pytest.mark.parametrize("rate", [60, 200])
@pytest.mark.parametrize("milliseconds", [290, 350, 450])
def test_neither_a_long_dip_nor_its_shoulders_are_blinks(rate, milliseconds):
    for seed in range(8):
        seconds = (np.arange(3 * rate) + seed / 8) / rate
        assert find_blinks(seconds, eyes(seconds, blinks=(1.5,), width=milliseconds / 1000, seed=seed)) == []


@pytest.mark.parametrize("rate", [25, 60, 200])
@pytest.mark.parametrize(("lasting", "ramp"), [(0.4, 0.1), (0.8, 0.1), (1.5, 0.1), (0.8, 0.4), (1.0, 0.8)])
@pytest.mark.parametrize("level", [0.3, 0.6])
def test_a_squint_and_a_slow_look_down_are_no_blinks(rate, lasting, ramp, level):
    seconds = np.arange(4 * rate) / rate
    down = course(seconds, 1.0, rise=ramp, hold=lasting - ramp, back=ramp)
    noise = np.random.default_rng(rate).normal(0, 0.0015, len(seconds))
    assert find_blinks(seconds, 0.3 * (1 - (1 - level) * down) + noise) == []
    wink = eyes(seconds, blinks=(3.4,)) - 0.3 * (1 - level) * down  # and they hide no blink
    assert len(find_blinks(seconds, wink)) == 1


def test_noise_of_eyes_that_stay_closed_is_no_blink():
    seconds = np.arange(600) / 200
    for seed in range(10):
        opening = 0.3 - 0.24 * course(seconds, 0.5, rise=0.1, hold=9)
        noise = np.random.default_rng(seed).normal(0, 0.003, 600)  # of landmarks in a noisy picture
        assert find_blinks(seconds, opening + noise) == []


@pytest.mark.parametrize("rate", [25, 200])
def test_a_dip_at_the_very_start_or_end_does_no_harm(rate):
    seconds = np.arange(2 * rate) / rate
    for edge in (0.0, 0.05, seconds[-1] - 0.05, seconds[-1]):
        found = find_blinks(seconds, eyes(seconds, blinks=(1.0, edge), width=0.1))
        assert 1.0 in [pytest.approx(seconds[apex], abs=0.04) for _, apex, _ in found]
        assert len(found) <= 2
        assert all(0 <= onset <= apex <= offset < len(seconds) for onset, apex, offset in found)
    for count in range(4):
        assert find_blinks(seconds[:count], np.full(count, 0.3)) == []


def test_a_movement_of_the_lids_in_a_blink_is_the_blink(calibration):
    seconds = np.arange(60) / 30
    way = 3 * course(seconds, 0.9, rise=0.1, hold=0.0, back=0.1)[:, None] * (0.0, 1.0)
    paths = paths_of(seconds, lids_l=way, lids_r=way)
    with_blink = find_events(stretch_of(paths, eye_open=eyes(seconds, blinks=(1.0,))), calibration, per_minute=1.0)
    assert [event.type for event in with_blink.events] == ["blink"]
    assert with_blink.blink.sum() in (3, 4)
    without = find_events(stretch_of(paths), calibration, per_minute=1.0)
    assert [(event.type, event.part) for event in without.events] == [("micro", "eyes")]


# -- speech ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [25, 60, 200])
@pytest.mark.parametrize("hertz", [3, 4, 5])
def test_a_mouth_that_turns_again_and_again_speaks(calibration, rate, hertz):
    seconds = np.arange(3 * rate) / rate
    speaks = (seconds > 0.5) & (seconds < 2.5)
    way = np.where(speaks, np.sin(2 * np.pi * hertz * (seconds - 0.5)), 0)[:, None] * (0.0, 1.0)
    found = find_events(stretch_of(paths_of(seconds, lower_lip=way, chin=way)), calibration, per_minute=1.0)
    (event,) = [event for event in found.events if event.type == "speech"]
    assert seconds[event.onset] == pytest.approx(0.5, abs=0.15)
    assert seconds[event.offset] == pytest.approx(2.5, abs=0.15)
    assert found.speech[speaks].mean() > 0.9
    assert not found.speech[(seconds < 0.3) | (seconds > 2.7)].any()
    mouth = [event for event in found.events if event.part == "mouth" and event.type in ("micro", "macro")]
    assert all("speech" in event.flags for event in mouth)


@pytest.mark.parametrize("rate", [25, 60, 200])
@pytest.mark.parametrize("hold", [0.1, 1.0])
def test_a_smile_or_two_is_no_speech(calibration, rate, hold):
    seconds = np.arange(8 * rate) / rate
    way = 4 * (course(seconds, 0.5, hold=hold) + course(seconds, 4.5, hold=hold))[:, None] * (-0.7, -0.7)
    found = find_events(stretch_of(paths_of(seconds, lip_corner_l=way)), calibration, per_minute=1.0)
    assert [(event.part, event.direction) for event in found.events] == [("mouth", "up left")] * 2
    assert not found.speech.any()


# -- the threshold -----------------------------------------------------------------------------------------------------


def measured_on(speeds, minutes=10.0):
    return Calibration(minutes=minutes, speeds=dict.fromkeys(PARTS, sorted(speeds, reverse=True)), source="made up")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 40, 200])
@pytest.mark.parametrize("seed", range(3))
def test_who_accepts_more_false_alarms_gets_a_lower_threshold_down_to_the_slowest(count, seed):
    calibration = measured_on(SLOWEST + np.random.default_rng(seed).exponential(0.5, count))
    accepted = np.geomspace(1e-3, 1e3, 400)
    thresholds = np.array([calibration.threshold("mouth", float(each)) for each in accepted])
    assert (np.diff(thresholds) <= 0).all()
    assert thresholds[0] > SLOWEST
    assert thresholds[-1] >= SLOWEST


def test_a_threshold_is_passed_as_often_as_accepted():
    calibration = measured_on(np.random.default_rng(0).exponential(1.0, 150), minutes=10)
    for per_minute in (0.2, 1.0, 3.0, 10.0):
        threshold = calibration.threshold("brows", per_minute)
        passed = sum(speed > threshold for speed in calibration.speeds["brows"])
        assert passed == pytest.approx(10 * per_minute, abs=1)


def test_false_alarms_are_counted_and_none_seen_is_no_promise():
    calibration = measured_on([0.9, 0.8, 0.8, 0.5, 0.4], minutes=4.0)
    assert calibration.per_minute("eyes", 0.4) == 5 / 4
    assert calibration.per_minute("eyes", 0.8) == 3 / 4
    assert calibration.per_minute("eyes", 2.0) == 3 / 4  # what cannot be excluded: 3 in the time looked at
    assert calibration.per_minute("eyes", 0.45) == 1.0


@pytest.mark.parametrize("per_minute", [0, -1.0, float("nan")])
def test_no_false_alarm_at_all_cannot_be_asked_for(calibration, per_minute):
    with pytest.raises(ConfigError, match=r"per_minute is .*; it must be above 0"):
        calibration.threshold("mouth", per_minute)


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    written = measured_on([0.51, 0.3, 0.25])
    written.write(tmp_path)
    assert Calibration.read(tmp_path) == written


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: None,
        lambda value: [1, 2],
        lambda value: {**value, "speeds": {"mouth": [0.1]}},
        lambda value: {**value, "minutes": 0},
        lambda value: {**value, "minutes": "ten"},
        lambda value: {**value, "more": 1},
        lambda value: {name: value[name] for name in ("minutes", "speeds")},
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path, damage):
    measured_on([0.5]).write(tmp_path)
    file = tmp_path / CALIBRATION_NAME
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    with pytest.raises(ModelError, match=r"calibration.json cannot be read"):
        Calibration.read(tmp_path)


def test_a_missing_or_cut_calibration_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"calibration.json cannot be read: .* does not exist"):
        Calibration.read(tmp_path)
    measured_on([0.5]).write(tmp_path)
    file = tmp_path / CALIBRATION_NAME
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ModelError, match=r"calibration.json cannot be read"):
        Calibration.read(tmp_path)


# -- action units ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bases():
    return ActionUnitBases.read(BUILT_IN)


def named(photo, model, bases, px=2.0):
    """The units that are among the three a drawn one is most like, each drawn alone onto a photo."""
    wide, face = aligned(photo)
    crop, rng = np.ascontiguousarray(wide[MARGIN:-MARGIN, MARGIN:-MARGIN]), np.random.default_rng(3)
    pairs = [
        drawn_pair(crop, [ActiveUnit(number=number)], face.points - MARGIN, px, rng) for number in sorted(ACTION_UNITS)
    ]
    seen = mbert.compare(*(np.stack(crops) for crops in zip(*pairs, strict=True)), model).displacement
    likes = [[unit for unit, _ in bases.likeness(displacement)] for displacement in seen]
    assert max(map(len, likes)) <= 3
    return {number for number, like in zip(sorted(ACTION_UNITS), likes, strict=True) if number in like}


def test_most_units_drawn_onto_the_photo_that_was_learned_from_are_named(face, model, bases):
    turn = cv2.getRotationMatrix2D((220, 110), 12, 0.9)
    turned = cv2.warpAffine(face[:, ::-1], turn, (512, 512), borderMode=cv2.BORDER_REFLECT_101)
    darker = (255 * (turned / 255.0) ** 1.3).astype(np.uint8)
    assert len(ACTION_UNITS) == 17
    assert len(named(darker, model, bases)) >= 15


@pytest.mark.parametrize("photo", ["still_evm_face.jpg", "pulid_hinton.jpg"])
def test_most_units_drawn_onto_other_people_are_named(media, model, bases, photo):
    image = cv2.cvtColor(cv2.imread(str(media / "photos" / photo)), cv2.COLOR_BGR2RGB)
    assert len(named(image, model, bases)) >= 13


def test_learning_finds_the_fields_that_were_planted():
    rng = np.random.default_rng(0)
    planted = rng.normal(0, 1, (4, 14, 14, 2))
    planted /= np.linalg.norm(planted.reshape(4, -1), axis=1)[:, None, None, None]
    strengths = rng.uniform(0, 2, (60, 4)) * (rng.random((60, 4)) < 0.5)
    seen = np.einsum("mk,kyxd->myxd", strengths, planted) + rng.normal(0, 0.01, (60, 14, 14, 2))
    learned = ActionUnitBases.learn((1, 4, 12, 15), strengths, seen)
    assert learned.numbers == (1, 4, 12, 15)
    likeness = np.einsum("kyxd,kyxd->k", learned.fields, planted)
    assert likeness.min() > 0.99
    # What is made of two of them is like these two, by their shares of its energy.
    found = learned.likeness(2 * planted[1] + planted[3])
    assert [unit for unit, _ in found] == [4, 15]
    assert [share for _, share in found] == pytest.approx([0.8, 0.2], abs=0.06)


def test_a_movement_the_other_way_and_none_are_like_no_unit(bases):
    assert bases.likeness(np.zeros((14, 14, 2))) == []
    one = ActionUnitBases((12,), bases.fields[:1])
    assert one.likeness(-bases.fields[0]) == []
    assert one.likeness(5 * bases.fields[0]) == [(12, pytest.approx(1.0))]


def test_shares_of_a_displacement_are_shares(bases):
    rng = np.random.default_rng(1)
    sums = []
    for _ in range(200):
        weights = rng.uniform(0, 2, 17) * (rng.permutation(17) < 3)
        seen = np.einsum("k,kyxd->yxd", weights, bases.fields) + rng.normal(0, 0.01, (14, 14, 2))
        shares = [share for _, share in bases.likeness(seen)]
        assert shares == sorted(shares, reverse=True)
        assert min(shares) >= 0.05
        sums.append(sum(shares))
    assert max(sums) <= 1 + 1e-9


def test_bases_are_read_as_they_were_written(tmp_path, bases):
    bases.write(tmp_path)
    again = ActionUnitBases.read(tmp_path)
    assert again.numbers == bases.numbers
    assert np.array_equal(again.fields, bases.fields)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-100],
        lambda data: b"not tensors" * 100,
        lambda data: data.replace(b'"numbers"', b'"nummers"'),
    ],
)
def test_damaged_bases_are_refused(tmp_path, bases, damage):
    with pytest.raises(ModelError, match=r"action_units.safetensors cannot be read"):
        ActionUnitBases.read(tmp_path)
    bases.write(tmp_path)
    file = tmp_path / UNITS_NAME
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match=r"action_units.safetensors cannot be read"):
        ActionUnitBases.read(tmp_path)


def test_bases_of_other_units_than_named_are_refused(tmp_path, bases):
    ActionUnitBases(bases.numbers[:5], bases.fields).write(tmp_path)
    with pytest.raises(ModelError, match=r"action_units.safetensors cannot be read"):
        ActionUnitBases.read(tmp_path)
