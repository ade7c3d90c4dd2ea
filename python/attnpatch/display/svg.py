# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Small drawings: a curve over progress, bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attnpatch.display.markup import Markup, tag
from attnpatch.display.strength import Strength

__all__ = ["bars", "curve"]

_WIDTH, _HEIGHT = 190, 62
_LEFT, _RIGHT, _TOP, _BOTTOM = 26, 184, 8, 46
_SAMPLES = 64
_POINTS = 256
_BARS = 72
_LARGEST = 1e300  # what is larger is drawn as this


def curve(strength: Strength, colour: str) -> Markup:
    """Draw a patch's strength over progress; outside of its window there is nothing."""
    start, end = strength.start, min(max(strength.end, strength.start), 1.0)
    inner = [p for p in strength.points if start < p < end]
    if strength.smooth:
        inner = [start + (end - start) * i / _SAMPLES for i in range(1, _SAMPLES)]
    inner = inner[:: 1 + len(inner) // _POINTS]
    places = [start, *inner, end]
    values = [_drawable(strength.at(place)) for place in places]
    low, high = _range(values)

    def x(progress: float) -> float:
        return round(_LEFT + progress * (_RIGHT - _LEFT), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - (value - low) / (high - low) * (_BOTTOM - _TOP), 1)

    line = " ".join(f"{x(p)},{y(v)}" for p, v in zip(places, values, strict=True))
    area = f"{x(start)},{y(0)} {line} {x(end)},{y(0)}"
    text = f"{strength.name} {values[0]:.3g} at {start:.0%} to {values[-1]:.3g} at {end:.0%}"
    axis = {"stroke": "var(--ap-line)", "stroke_width": 1}
    labels = [(value, y(value)) for value in dict.fromkeys((high, 0.0, low))]
    return tag(
        "svg",
        tag("line", x1=_LEFT, x2=_RIGHT, y1=y(0), y2=y(0), **axis),
        tag("line", x1=_LEFT, x2=_LEFT, y1=_TOP, y2=_BOTTOM, **axis),
        tag("polygon", points=area, fill=colour, opacity="0.22") if end > start else None,
        tag("polyline", points=line, fill="none", stroke=colour, stroke_width=2)
        if end > start
        else None,
        *(
            tag("text", _label(value), x=_LEFT - 4, y=at + 3, text_anchor="end")
            for value, at in labels
        ),
        tag("text", "0 %", x=_LEFT, y=_HEIGHT - 3),
        tag("text", "progress", x=(_LEFT + _RIGHT) / 2, y=_HEIGHT - 3, text_anchor="middle"),
        tag("text", "100 %", x=_RIGHT, y=_HEIGHT - 3, text_anchor="end"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        width=_WIDTH,
        height=_HEIGHT,
        role="img",
        aria_label=text,
    )


def _drawable(value: float) -> float:
    return 0.0 if math.isnan(value) else min(max(value, -_LARGEST), _LARGEST)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Give the least and the largest value, with 0 between them."""
    low, high = min([0.0, *values]), max([0.0, *values])
    return (low, high) if low < high else (0.0, 1.0)


def _few(values: Sequence[float | None]) -> list[float | None]:
    """Join neighbours to their mean where there are many; what is no finite number is a gap."""
    each = -(-len(values) // _BARS) or 1
    found: list[float | None] = []
    for at in range(0, len(values), each):
        group = [v for v in values[at : at + each] if v is not None and math.isfinite(v)]
        group = [_drawable(value) for value in group]
        found.append(sum(value / len(group) for value in group) if group else None)
    return found


def _told(values: Sequence[float | None], text: str) -> str:
    """Add to a text what the bars do not show."""
    each = -(-len(values) // _BARS)
    odd = sum(value is not None and not math.isfinite(value) for value in values)
    text += f", a bar the mean of {each}" if each > 1 else ""
    return text + (f", {odd} not finite" if odd else "")


def _label(value: float) -> str:
    return f"{round(value, 2):.4g}"


def bars(values: Sequence[float | None], colour: str, text: str) -> Markup:
    """Draw a bar for each value, from a line at 0; a gap where there is none."""
    values, text = _few(values), _told(values, text)
    low, high = _range([value for value in values if value is not None])
    step = max(2.5, min(9.0, 180 / max(1, len(values))))
    width, height, top, bottom = _LEFT + round(step * len(values)) + 2, 46, 6, 40

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    drawn = [
        tag(
            "rect",
            tag("title", f"{place}: {value:.3g}"),
            x=round(_LEFT + place * step, 1),
            y=round(min(y(value), y(0)), 1),
            width=round(step - 0.8, 1),
            height=round(max(0.8, abs(y(value) - y(0))), 1),
            fill=colour,
        )
        for place, value in enumerate(values)
        if value is not None
    ]
    return tag(
        "svg",
        tag("line", x1=_LEFT, x2=width, y1=y(0), y2=y(0), stroke="var(--ap-line)"),
        *drawn,
        *(
            tag("text", _label(value), x=_LEFT - 4, y=round(y(value) + 3, 1), text_anchor="end")
            for value in dict.fromkeys((high, 0.0, low))
        ),
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=text,
    )
