import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.report.charts import HEIGHT, WIDTH, Layer, Line, bars, histogram, lines, number, ticks

HOSTILE = '"><script>x</script>'


def _parsed(chart):
    return ET.fromstring(chart)


def test_histogram_draws_a_bar_for_each_filled_cell():
    layers = [Layer("dropped", "dropped", [2, 0, 1]), Layer("kept", "kept", [1, 3, 0])]
    rects = _parsed(histogram(-1, 2, layers, label="l", axis="a")).findall("rect")
    assert [r.get("class") for r in rects] == ["dropped", "dropped", "kept", "kept"]
    assert rects[0].find("title").text == "dropped: 2 from -1 to 0"


def test_histogram_stacks_layers_without_overlap():
    layers = [Layer("dropped", "dropped", [2]), Layer("kept", "kept", [3])]
    low, high = _parsed(histogram(0, 1, layers, label="l", axis="a")).findall("rect")
    assert float(high.get("y")) + float(high.get("height")) == pytest.approx(float(low.get("y")), abs=0.2)
    assert float(high.get("height")) / float(low.get("height")) == pytest.approx(1.5, rel=0.01)


def test_histogram_of_one_single_value_stays_inside():
    rects = _parsed(histogram(0.5, 0.5, [Layer("kept", "kept", [7, 0])], label="l", axis="a")).findall("rect")
    assert all(0 <= float(r.get("x")) <= WIDTH for r in rects)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=50))
def test_lines_of_any_points_stay_inside_the_frame(points):
    chart = _parsed(lines([Line("a", "first", points)], label="l", axis="step"))
    for point in chart.find("polyline").get("points").split():
        x, y = map(float, point.split(","))
        assert -0.1 <= x <= WIDTH + 0.1
        assert -0.1 <= y <= HEIGHT + 0.1


def test_lines_of_nothing_are_nothing():
    assert lines([Line("a", "first", [])], label="l", axis="step") == ""


def test_lines_have_whole_numbers_on_the_axis():
    chart = _parsed(lines([Line("a", "first", [(1, 0.1), (3, 0.2)])], label="l", axis="epoch"))
    feet = [t.text for t in chart.findall("text") if t.get("class") == "tick middle"]
    assert feet == ["1", "2", "3"]


def test_bars_are_as_high_as_their_shares():
    one, half = _parsed(bars([1.0, 0.5], css="kept", label="l", axis="a", names=["1", "2"], titles=["x", "y"])).findall(
        "rect"
    )
    assert float(one.get("height")) == pytest.approx(2 * float(half.get("height")), rel=0.01)


def test_chart_texts_are_escaped_and_named_for_screen_readers():
    chart = histogram(0, 1, [Layer(HOSTILE, "kept", [1])], label=HOSTILE, axis=HOSTILE)
    assert "<script>" not in chart
    parsed = _parsed(chart)
    assert parsed.get("role") == "img"
    assert parsed.get("aria-label") == HOSTILE


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_lie_inside_and_are_few(low, span):
    found = ticks(low, low + span, 4)
    assert len(found) <= 6
    assert all(low - span * 1e-3 <= tick <= low + span * 1.001 for tick in found)


def test_ticks_of_a_point_are_that_point():
    assert ticks(2.0, 2.0, 4) == [2.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234, "1,234"),
        (12_345, "12.3k"),
        (2.5e6, "2.5M"),
        (0.25, "0.25"),
        (4e-4, "4e-4"),
        (-1.5e-5, "-1.5e-5"),
    ],
)
def test_number_is_short(value, text):
    assert number(value) == text
