"""Forests in the rows of a table: estimate and interval of each arm on one axis, as small SVGs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from analysis.compare.estimate import Estimate
from analysis.compare.plot import forest_span, forest_title
from analysis.style import Look, log_ticks, tick_label

WIDTH, HEIGHT, MARK = 110.0, 22.0, 4.6
"""Of a cell, and half the size of a mark: pixels."""
SHAPES = {
    "o": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "s": "M-.9-.9h1.8v1.8h-1.8z",
    "^": "M0-1.1 1.1.9H-1.1z",
    "D": "M0-1.2 1.2 0 0 1.2-1.2 0z",
    "v": "M0 1.1 1.1-.9H-1.1z",
    "P": "M-.35-1h.7v.65h.65v.7h-.65v.65h-.7v-.65h-.65v-.7h.65z",
    "X": "M-1-.5-.5-1 0-.5.5-1 1-.5.5 0 1 .5.5 1 0 .5-.5 1-1 .5-.5 0z",
    "p": "M0-1.1 1.05-.34.65.89H-.65L-1.05-.34z",
}
"""matplotlib's markers as paths about 0, from -1 to 1."""


X = Callable[[float], float]


@dataclass(frozen=True)
class Forest:
    """`axis`: the cell of the heading, with the ticks; `rows`: of each arm."""

    axis: str
    rows: Mapping[str, str]


def forest(rows: Sequence[tuple[str, Estimate]], reference: str, what: str, look: Mapping[str, Look]) -> Forest:
    """Cells for arms in any order; `what` is estimated: 'loss', 'compute'. A filled mark: the interval leaves out 1."""
    low, high = (math.log(side) for side in forest_span([ratio for _, ratio in rows]))

    def x(value: float) -> float:
        return max(0.0, min(WIDTH, (math.log(value) - low) / (high - low) * WIDTH))

    shown: dict[float, str] = {}
    ticks = log_ticks(math.exp(low), math.exp(high), 4)
    for tick in sorted(ticks, key=lambda tick: tick != 1):  # where two have no room, 1 stays
        at = min(max(x(tick), 10), WIDTH - 10)
        if all(abs(at - other) > 28 for other in shown):
            shown[at] = tick_label(tick)
    axis = "".join(
        f'<text x="{at:.1f}" y="14" text-anchor="middle">{escape(label)}</text>' for at, label in sorted(shown.items())
    )
    middle = f'<path class="one" d="M{x(1.0):.1f} 0V{HEIGHT:g}"/>'
    return Forest(_svg(axis, ""), {arm: _row(arm, ratio, reference, what, look[arm], x, middle) for arm, ratio in rows})


def swatch(look: Look) -> str:
    """The mark of an arm, for legends and tables."""
    return (
        f'<svg class="swatch" viewBox="-1.4 -1.4 2.8 2.8" aria-hidden="true">'
        f'<path d="{SHAPES[look.marker]}" fill="{look.colour}"/></svg>'
    )


def _row(arm: str, ratio: Estimate, reference: str, what: str, look: Look, x: X, middle: str) -> str:
    if not math.isfinite(ratio.estimate):
        return _svg(middle, f"{arm}: not known")
    at, parts = x(ratio.estimate), [middle]
    if ratio.known and arm != reference:
        low, high = map(x, ratio.interval)
        parts.append(f'<path d="M{low:.1f} {HEIGHT / 2:g}H{high:.1f}" stroke="{look.colour}" class="interval"/>')
    fill = look.colour if arm == reference or ratio.leaves_out(1.0) else "#fff"
    parts.append(
        f'<path transform="translate({at:.1f} {HEIGHT / 2:g}) scale({MARK})" d="{SHAPES[look.marker]}" '
        f'fill="{fill}" stroke="{look.colour}" stroke-width=".3"/>'
    )
    title = f"{arm}: the reference" if arm == reference else forest_title(arm, ratio, reference, what)
    return _svg("".join(parts), title)


def _svg(content: str, title: str) -> str:
    said = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<svg class="forest" viewBox="-6 0 {WIDTH + 12:g} {HEIGHT:g}" width="{WIDTH + 12:g}" height="{HEIGHT:g}" '
        f'role="img" aria-label="{escape(title, quote=True)}">{said}{content}</svg>'
    )
