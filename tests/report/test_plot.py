"""Curves stand where their values are."""

import json
import math
import re
from html import unescape

import pytest

from rnope_jax.report.plot import Curve, Plot, draw, short


def plotted(points, style="line", **options):
    drawn = draw(Plot("title", "unit", "step", (Curve("one", 0, points, style),), **options))
    path = re.search(r'<path d="([^"]*)"', drawn)[1]
    numbers = [tuple(map(float, pair.split())) for pair in re.findall(r"[\d.-]+ [\d.-]+", path)]
    return drawn, path, [(x / 1000, 1 - y / 1000) for x, y in numbers]


def test_places_grow_with_values():
    _, path, places = plotted([(0, 1.0), (5, 2.0), (10, 5.0)])
    assert [x for x, _ in places] == pytest.approx([0, 0.5, 1])
    low, middle, high = (y for _, y in places)
    assert (middle - low) / (high - low) == pytest.approx(1 / 4, abs=1e-3)
    assert 0 < low < high < 1
    assert re.fullmatch(r"M\S+ \S+?L\S+ \S+?L\S+ \S+", path)
    # With zero on the axis a value is as high as it is large.
    _, _, places = plotted([(0, 1.0), (10, 4.0)], zero=True)
    assert places[1][1] / places[0][1] == pytest.approx(4, rel=1e-3)


def test_logarithmic_axes_give_equal_room_to_equal_factors():
    _, _, places = plotted([(1, 0.01), (10, 0.1), (100, 1.0)], log_x=True, log_y=True)
    assert places[1][0] == pytest.approx(0.5, abs=1e-3)
    assert places[1][1] == pytest.approx((places[0][1] + places[2][1]) / 2, abs=1e-3)
    _, _, places = plotted([(1, 0.0), (10, 0.1), (100, 1.0)], log_y=True)
    assert len(places) == 2  # zero has no place


def test_labels_stand_at_their_values():
    drawn, _, places = plotted([(0, 0.0), (100, 10.0)])
    left = {name: float(at) for at, name in re.findall(r'<span style="bottom:([\d.]+)%">([^<]*)</span>', drawn)}
    assert left["0"] == pytest.approx(100 * places[0][1], abs=0.1)
    assert left["10"] == pytest.approx(100 * places[1][1], abs=0.1)
    below = dict(re.findall(r'<span style="left:([\d.]+)%"[^>]*>([^<]*)</span>', drawn))
    assert below["20.00"] == "20"


def test_what_is_not_finite_takes_a_curve_apart():
    _, path, places = plotted([(0, 1.0), (1, 2.0), (2, math.nan), (3, 1.0)])
    assert path.count("M") == 2
    assert len(places) == 3


def test_of_many_points_no_spike_is_lost():
    points = [(step, 1.0) for step in range(100_000)]
    points[54_321] = (54_321, 9.0)
    points[60_000] = (60_000, -9.0)
    drawn, path, _ = plotted(points)
    data = json.loads(unescape(re.search(r'data-plot="([^"]*)"', drawn)[1]))
    kept = dict(map(tuple, data["curves"][0][2]))
    assert kept[54_321] == 9.0
    assert kept[60_000] == -9.0
    assert path.count("L") < 1000


def test_marks_stand_within_the_axis():
    drawn, _, _ = plotted([(0, 1.0), (10, 2.0)], marks=((5, "middle"), (20, "outside")))
    assert 'style="right:50.00%">middle<' in drawn
    assert "outside" not in drawn


def test_there_is_no_plot_without_a_value():
    assert draw(Plot("title", "unit", "step", (Curve("one", 0, []), Curve("two", 1, [(1, math.nan)])))) is None


def test_numbers_are_short():
    shown = {0: "0", 0.00003: "3.0e-5", 0.25: "0.25", 12: "12", 1500: "1.5k", 2_098_000: "2.098M", 5e12: "5T"}
    assert {value: short(value) for value in shown} == shown
