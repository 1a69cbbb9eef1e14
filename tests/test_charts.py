"""Charts over steps: what is drawn is what was measured."""

import re

import numpy as np
import pytest

from mbert.reports.charts import HEIGHT, WIDTH, interval_path, line_chart, number, smooth


def points(path):
    return np.array([[float(x), float(y)] for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)])


def test_a_straight_line_is_drawn_straight_and_smoothing_does_not_lag():
    values = np.linspace(5.0, 1.0, 200)
    assert smooth(values) == pytest.approx(values)
    chart = line_chart(np.arange(1, 201), values)
    for drawn in (points(chart.raw), points(chart.smooth)):
        assert np.polyfit(drawn[:, 0], drawn[:, 1], 1)[0] > 0
        assert np.diff(drawn[:, 1]) == pytest.approx(np.diff(drawn[:, 1]).mean(), abs=0.2)
    assert points(chart.raw)[0, 0] == 0
    assert points(chart.raw)[-1, 0] == WIDTH
    assert (chart.first, chart.last, chart.lowest, chart.highest) == ("5.00", "1.00", "1.00", "5.00")


def test_a_smoothed_value_is_the_mean_around_it():
    values = np.random.default_rng(0).normal(size=100)  # a twentieth: 2 before it, 2 after it
    found = smooth(values)
    assert found[50] == pytest.approx(values[48:53].mean())
    assert found[1] == pytest.approx(values[0:3].mean())
    assert (found[0], found[-1]) == pytest.approx((values[0], values[-1]))


def test_no_spike_is_lost_in_a_long_run_and_none_flattens_it():
    values = np.full(100_000, 1.0) + 0.01 * np.sin(np.arange(100_000))
    values[54_321] = 50.0
    chart = line_chart(np.arange(100_000), values)
    drawn = points(chart.raw)
    assert len(drawn) <= 600
    assert chart.highest == "50.0"
    highest = drawn[drawn[:, 1].argmin()]
    assert highest[1] == 0  # cut off at the edge
    assert highest[0] == pytest.approx(543.21, abs=0.1)
    assert np.ptp(points(chart.smooth)[:, 1]) < HEIGHT
    assert np.median(drawn[:, 1]) == pytest.approx(HEIGHT / 2, abs=HEIGHT / 2.1)


def test_what_is_not_known_is_left_out():
    assert line_chart(np.arange(3), np.full(3, np.nan)) is None
    chart = line_chart(np.array([10, 20, 30]), np.array([np.nan, 2.0, 4.0]))
    assert chart.steps == (20, 30)
    assert chart.told == ("2.00", "4.00")


def test_one_step_and_equal_values_can_be_drawn():
    one = line_chart(np.array([7]), np.array([0.0]))
    assert one.raw.startswith("M0.0 ")
    assert one.x_ticks == ((0.0, "7"),)
    same = line_chart(np.arange(5), np.full(5, 3.0))
    assert np.ptp(points(same.raw)[:, 1]) == 0
    assert {text for _, text in same.y_ticks} >= {"3.00"}


def test_ticks_stand_where_their_values_are():
    chart = line_chart(np.arange(1, 101), np.linspace(0.0, 1.0, 100), share=True)
    assert [(round(at, 3), text) for at, text in chart.y_ticks] == [
        (1.0, "0\u00a0%"),
        (0.5, "50\u00a0%"),
        (0.0, "100\u00a0%"),
    ]
    assert chart.x_ticks[0][0] == pytest.approx((int(chart.x_ticks[0][1]) - 1) / 99)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.70312, "0.703"),
        (12.34, "12.3"),
        (-4.0, "-4.00"),
        (1234.5, "1,234"),
        (2.93e-6, "2.9e-06"),
        (0.001, "0.00100"),
    ],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert number(value) == text


def test_an_interval_stays_within_its_axis():
    assert interval_path(0.25, 0.5) == "M25.0 10H50.0M25.0 6v8M50.0 6v8"
    assert interval_path(-0.2, 1.2).startswith("M0.0 10H100.0")
