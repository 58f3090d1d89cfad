"""Small inline SVG charts for the report: nothing is loaded, nothing is executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 640
BAR_HEIGHT = 22
LABEL_WIDTH = 200
VALUE_WIDTH = 110
PLOT_HEIGHT = 260
MARGIN = 50


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    value: float
    text: str
    """The value as it is printed at the end of the bar."""


def bars_svg(bars: Sequence[Bar], title: str) -> str:
    """Horizontal bars on a common scale from zero."""
    longest = max((bar.value for bar in bars), default=0.0)
    room = WIDTH - LABEL_WIDTH - VALUE_WIDTH
    rows: list[str] = []
    for index, bar in enumerate(bars):
        length = room * bar.value / longest if longest > 0 else 0.0
        top, middle = index * BAR_HEIGHT, index * BAR_HEIGHT + 15
        rows.append(
            f'<text x="{LABEL_WIDTH - 8}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>'
            f'<rect x="{LABEL_WIDTH}" y="{top + 3}" width="{length:.1f}" height="{BAR_HEIGHT - 6}"/>'
            f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{middle}">{escape(bar.text)}</text>'
        )
    return _svg(rows, len(bars) * BAR_HEIGHT, title)


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    label: str
    """Shown when the pointer rests on the point."""


def points_svg(points: Sequence[Point], *, x_label: str, y_label: str, title: str) -> str:
    """A scatter plot, both axes from zero."""
    right = max((p.x for p in points), default=0.0) or 1.0
    top = max((p.y for p in points), default=0.0) or 1.0
    floor = PLOT_HEIGHT - MARGIN
    rows = [
        f'<path class="axis" d="M{MARGIN} 10V{floor}H{WIDTH - 10}"/>',
        f'<text x="{WIDTH - 10}" y="{floor + 34}" text-anchor="end">{escape(x_label)}</text>',
        f'<text x="{MARGIN + 6}" y="18">{escape(y_label)}</text>',
        f'<text x="{MARGIN}" y="{floor + 16}" text-anchor="middle">0</text>',
        f'<text x="{WIDTH - 10}" y="{floor + 16}" text-anchor="end">{right:.3g}</text>',
        f'<text x="{MARGIN - 6}" y="22" text-anchor="end">{top:.3g}</text>',
    ]
    for point in points:
        x = MARGIN + (WIDTH - 10 - MARGIN) * max(point.x, 0.0) / right
        y = floor - (floor - 18) * max(point.y, 0.0) / top
        rows.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(point.label)}</title></circle>')
    return _svg(rows, PLOT_HEIGHT, title)


def _svg(rows: Sequence[str], height: int, title: str) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f"<title>{escape(title)}</title>{''.join(rows)}</svg>"
    )
