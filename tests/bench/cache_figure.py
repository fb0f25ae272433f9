"""The figure of the cache's bench: accuracy against bytes on the link, and against seconds, as an SVG.

Covers drawing alone: a row of two panels for each share cached, a colour for each mode, a line for each run.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH, _HEIGHT, _MARGIN = 420, 260, 56
_COLOURS = ("#444444", "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#bcbd22")
_TICKS = 5

Run = Mapping[str, Any]
Measure = Callable[[Mapping[str, float]], float]

_PANELS: Sequence[tuple[str, Measure]] = (
    ("MB over the link", lambda point: point["link_bytes"] / 1e6),
    ("seconds", lambda point: point["seconds"]),
)


@dataclass(frozen=True, slots=True)
class _Axes:
    """A panel's place, and the values at its edges."""

    left: float
    top: float
    max_x: float
    min_y: float
    max_y: float

    def x(self, value: float) -> float:
        return self.left + _WIDTH * value / self.max_x

    def y(self, value: float) -> float:
        share = (value - self.min_y) / (self.max_y - self.min_y)
        return self.top + _HEIGHT * (1 - min(max(share, 0.0), 1.0))


def figure(runs: Sequence[Run], goal: float, reference: str) -> str:
    """The SVG. Runs of the mode `reference`, which has no cache, stand in every row."""
    modes = list(dict.fromkeys(run["mode"] for run in runs))
    colour_of = {mode: _COLOURS[i % len(_COLOURS)] for i, mode in enumerate(modes)}
    shares = sorted({run["fraction"] for run in runs if run["mode"] != reference}) or [0.0]
    min_y, max_y = goal - 0.1, max([goal + 0.02, *(point["accuracy"] for run in runs for point in run["curve"])])
    parts: list[str] = []
    for row, share in enumerate(shares):
        shown = [run for run in runs if run["mode"] == reference or run["fraction"] == share]
        for column, (title, measure) in enumerate(_PANELS):
            max_x = max([1e-9, *(measure(point) for run in shown for point in run["curve"])])
            left, top = _MARGIN + column * (_WIDTH + _MARGIN), _MARGIN + row * (_HEIGHT + 1.5 * _MARGIN)
            axes = _Axes(left, top, max_x, min_y, max_y)
            parts += _frame(axes, title, f"{share:g} cached", goal)
            parts += [_curve(axes, run, measure, colour_of[run["mode"]]) for run in shown]
    for i, mode in enumerate(modes):
        parts.append(f'<text x="{_MARGIN + 110 * i}" y="20" fill="{colour_of[mode]}">{mode}</text>')
    width = max(2 * (_WIDTH + _MARGIN) + _MARGIN, 110 * len(modes) + _MARGIN)
    height = round(len(shares) * (_HEIGHT + 1.5 * _MARGIN) + _MARGIN)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
    return "\n".join([f'{head} font-size="12">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def _frame(axes: _Axes, title: str, share: str, goal: float) -> Iterator[str]:
    right, bottom = axes.left + _WIDTH, axes.top + _HEIGHT
    yield f'<rect x="{axes.left}" y="{axes.top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>'
    yield f'<line x1="{axes.left}" x2="{right}" y1="{axes.y(goal):.1f}" y2="{axes.y(goal):.1f}" stroke="#ccc"/>'
    yield _text((axes.left + right) / 2, bottom + 34, title, "middle")
    yield _text(axes.left, axes.top - 6, f"test accuracy, {share}", "start")
    for value in _ticks(0.0, axes.max_x):
        yield _text(axes.x(value), bottom + 16, f"{value:.3g}", "middle")
    for value in _ticks(axes.min_y, axes.max_y):
        yield _text(axes.left - 6, axes.y(value) + 4, f"{value:.3f}", "end")


def _curve(axes: _Axes, run: Run, measure: Measure, colour: str) -> str:
    points = " ".join(f"{axes.x(measure(point)):.1f},{axes.y(point['accuracy']):.1f}" for point in run["curve"])
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _ticks(least: float, most: float) -> Iterable[float]:
    return (least + (most - least) * i / (_TICKS - 1) for i in range(_TICKS))


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
