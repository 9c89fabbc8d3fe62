"""Small static charts as SVG: no script, colours by class, so that light and dark are the style sheet's matter.

Every chart is 340 units wide and is shown at about that width, so that its text stays as large as the page's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 10, 34


class Layer(NamedTuple):
    """One colour of a stacked histogram."""

    name: str
    css: str
    counts: Sequence[int]


class Line(NamedTuple):
    """One curve."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]


def histogram(low: float, high: float, layers: Sequence[Layer], *, label: str, axis: str) -> Markup:
    """Stacked bars in equal steps from `low` to `high`.

    Args:
        low: left end of the first bar.
        high: right end of the last bar.
        layers: from the bottom up; all of one length.
        label: what a screen reader says.
        axis: name of the horizontal axis.
    """
    totals = [sum(column) for column in zip(*(layer.counts for layer in layers), strict=True)]
    frame = _Frame(low, high, 0.0, float(max([*totals, 1])))
    width = (high - low) / max(1, len(totals))
    shapes = []
    base = [0] * len(totals)
    for layer in layers:
        for bar, count in enumerate(layer.counts):
            if count:
                left, right = frame.x(low + bar * width), frame.x(low + (bar + 1) * width)
                top, bottom = frame.y(base[bar] + count), frame.y(base[bar])
                low_end, high_end = number(low + bar * width), number(low + (bar + 1) * width)
                shapes.append(
                    f'<rect class="{layer.css}" x="{left:.1f}" y="{top:.1f}" '
                    f'width="{max(0.6, right - left - 0.8):.1f}" height="{bottom - top:.1f}">'
                    f"<title>{escape(layer.name)}: {count:,} from {low_end} to {high_end}</title></rect>"
                )
                base[bar] += count
    return _figure(frame, shapes, label, axis)


def bars(
    values: Sequence[float], *, css: str, label: str, axis: str, names: Sequence[str], titles: Sequence[str]
) -> Markup:
    """One bar for each value in [0, 1]."""
    middles = {place + 0.5: tick for place, tick in enumerate(names)}
    frame = _Frame(0.0, float(len(values)), 0.0, 1.0, x_labels=middles, percent=True)
    shapes = [
        f'<rect class="{css}" x="{frame.x(i + 0.1):.1f}" y="{frame.y(value):.1f}" '
        f'width="{frame.x(i + 0.9) - frame.x(i + 0.1):.1f}" height="{frame.y(0) - frame.y(value):.1f}">'
        f"<title>{escape(title)}</title></rect>"
        for i, (value, title) in enumerate(zip(values, titles, strict=True))
    ]
    return _figure(frame, shapes, label, axis)


def lines(series: Sequence[Line], *, label: str, axis: str) -> Markup:
    """Curves over a common horizontal axis of whole numbers, with marks where a curve has few points."""
    points = [point for line in series for point in line.points]
    if not points:
        return Markup()
    lowest, highest = min(y for _, y in points), max(y for _, y in points)
    margin = max((highest - lowest) * 0.06, max(abs(lowest), abs(highest)) * 0.02, 1e-9)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    whole = {tick: number(tick) for tick in ticks(first, last, 4) if tick == round(tick)}
    frame = _Frame(
        first,
        last,
        lowest - margin,
        highest + margin,
        x_labels=whole,
    )
    shapes = []
    for line in series:
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points)
        shapes.append(f'<polyline class="{line.css}" points="{path}"/>')
        if len(line.points) <= 30:
            shapes += [
                f'<circle class="{line.css}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.6">'
                f"<title>{escape(line.name)}: {number(y)} at {number(x)}</title></circle>"
                for x, y in line.points
            ]
    return _figure(frame, shapes, label, axis)


def number(value: float) -> str:
    """A short form that a person can read."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 1 or value == 0:
        return f"{value:,.4g}"
    if size >= 1e-3:
        return f"{value:.3g}"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


class _Frame:
    """Maps values to places and knows its ticks."""

    def __init__(
        self,
        left: float,
        right: float,
        bottom: float,
        top: float,
        *,
        x_labels: Mapping[float, str] | None = None,
        percent: bool = False,
    ) -> None:
        self._left, self._bottom = left, bottom
        self._x_scale = (WIDTH - _LEFT - _RIGHT) / ((right - left) or 1.0)
        self._y_scale = (HEIGHT - _TOP - _BOTTOM) / ((top - bottom) or 1.0)
        self.x_ticks = x_labels or {tick: number(tick) for tick in ticks(left, right, 4)}
        self.y_ticks = {tick: f"{tick:.0%}" if percent else number(tick) for tick in ticks(bottom, top, 4)}

    def x(self, value: float) -> float:
        return _LEFT + (value - self._left) * self._x_scale

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self._bottom) * self._y_scale


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About `wanted` round numbers inside [low, high]."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]


def _figure(frame: _Frame, shapes: Sequence[str], label: str, axis: str) -> Markup:
    floor = HEIGHT - _BOTTOM
    grid = [
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{frame.y(tick):.1f}" y2="{frame.y(tick):.1f}"/>'
        f'<text class="tick end" x="{_LEFT - 5}" y="{frame.y(tick) + 3.5:.1f}">{text}</text>'
        for tick, text in frame.y_ticks.items()
    ]
    feet = [
        f'<text class="tick middle" x="{frame.x(tick):.1f}" y="{floor + 14}">{escape(text)}</text>'
        for tick, text in frame.x_ticks.items()
    ]
    name = f'<text class="axis middle" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 5}">{escape(axis)}</text>'
    ground = f'<line class="ground" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{floor}" y2="{floor}"/>'
    body = "".join([*grid, *shapes, ground, *feet, name])
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>')  # noqa: S704  # every text in it was escaped above
