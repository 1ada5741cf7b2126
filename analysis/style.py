"""The house style of the figures: fonts and lines, one colour and marker per arm, readable logarithmic axes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"),
    *("#C1121F", "#332288", "#7F7F1F", "#8C564B", "#5B6770", "#66A61E"),
)
"""Okabe and Ito's colours without their yellow, too pale for lines, and black, which is the ink; then six more."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
GREY = "#A8A8A8"
OTHERS, REFERENCE = "others, faint", " (reference)"
"""What a legend calls the arms that it does not name, and adds to the one compared with."""
INK = "#222222"

RC: dict[str, object] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "mathtext.default": "regular",
    "svg.fonttype": "none",
    "svg.hashsalt": "rfscale",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save inside `with house_style():`; outside, matplotlib's settings are as they were."""
    with mpl.rc_context(RC):  # type: ignore[arg-type]
        yield


def new_axes(width: float = 5.6, height: float = 3.6) -> Axes:
    """One axes on a figure of its own, without pyplot: nothing is kept alive or shown by itself."""
    return Figure(figsize=(width, height), layout="constrained").subplots()


@dataclass(frozen=True)
class Look:
    """How one arm is drawn in every figure."""

    colour: str
    marker: str
    shown: bool = True  # named in legends; the others are faint and in the background
    zorder: float = 2.0  # the best on top

    @property
    def alpha(self) -> float:
        return 1.0 if self.shown else FAINT


LEADING = 7
"""Of more arms than this, the best ones and the reference stand out, as many as this together."""
FAINT = 0.3


def looks(
    arms: Sequence[str], reference: str | None = None, places: Mapping[str, int] | None = None
) -> dict[str, Look]:
    """A look for each arm, given best first: its colour and marker are by its place, whatever its rank.

    `places`: of arms, as of `places_of`, by default of these arms alone.
    """
    places = places_of(arms, places or {})
    named = list(arms)
    if len(named) > LEADING:
        named = named[: LEADING - 1]
        named.append(reference if reference and reference not in named else arms[LEADING - 1])
    out = {}
    for i, name in enumerate(arms):
        turn, colour = divmod(places[name], len(PALETTE))
        marker = MARKERS[(colour + 3 * turn) % len(MARKERS)]
        shown = name in named
        out[name] = Look(PALETTE[colour], marker, shown, 5 - 0.2 * min(i, LEADING) if shown else 2.0)
    return out


def places_of(arms: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """`known`, and a place for each arm that is not in it: colours by a hash of the name, the next free one if taken.

    A place is turn * colours + colour. No colour is in its second turn before all are in their first, and an arm keeps
    its place for good: arms that come later never move it.
    """
    out = dict(known)
    taken = set(out.values())
    for name in sorted(set(arms) - set(out)):
        first = zlib.crc32(name.encode()) % len(PALETTE)
        out[name] = next(
            place
            for turn in count()
            for step in range(len(PALETTE))
            if (place := turn * len(PALETTE) + (first + step) % len(PALETTE)) not in taken
        )
        taken.add(out[name])
    return out


def legend_name(name: str, style: Look) -> str:
    """An arm's entry in a legend."""
    return name if style.shown else OTHERS


BESIDE = "legend beside"
"""The name of a legend at the right: a page, which has its own, leaves it away."""


def legend_beside(ax: Axes, look: Mapping[str, Look] | None = None) -> None:
    """A legend to the right of the axes, where it covers no data."""
    handles, labels = ax.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    if look:
        order = {name: i for i, name in enumerate((*look, OTHERS))}
        by_label = dict(
            sorted(by_label.items(), key=lambda item: order.get(item[0].removesuffix(REFERENCE), len(order)))
        )
    if by_label:
        legend = ax.legend(
            by_label.values(), by_label.keys(), loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2
        )
        legend.set_gid(BESIDE)


def log_axis(ax: Axes, which: Literal["x", "y"], unit: Literal["", "count", "power"] = "", most: int = 7) -> None:
    """Make an axis logarithmic with labelled ticks at round numbers, also where it spans much less than a decade.

    Call last: ticks are for the limits as they are. `unit`: "count" writes 0.3 M, "power" 3 x 10^13, "" plain numbers.
    """
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = sorted(ax.get_xlim() if which == "x" else ax.get_ylim())
    ticks = log_ticks(low, high, most)
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([tick_label(tick, unit) for tick in ticks]))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers in [low, high], at least two where there is room: powers of ten, 1-3, 1-2-5, then evenly spaced."""
    decades = math.log10(high / low)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    best: list[float] = []
    if decades > 0.8:
        for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            ticks = [m * 10.0**e for e in exponents for m in mantissas if low <= m * 10.0**e <= high]
            if len(ticks) > most:
                step = math.ceil(len(ticks) / most)
                return best if len(best) >= 3 else ticks[::step]
            best = ticks
        if len(best) >= 3:
            return best
    least = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(least))
    spacing = next(m * magnitude for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * magnitude >= least * 0.999)
    ticks = _multiples(spacing, low, high)
    # Even spacing leaves the low end of a logarithmic axis bare.
    span, finer = math.log(high / low), magnitude if spacing > 1.5 * magnitude else magnitude / 2
    for tick in reversed(_multiples(finer, low, ticks[0]) if ticks else []):
        bare = math.log(ticks[0] / low) > BARE_END * span
        if bare and math.log(ticks[0] / tick) >= span / most:
            ticks.insert(0, tick)
    return ticks


BARE_END = 0.25
"""A longer share of a logarithmic axis than this is not left without a tick at its low end."""


def _multiples(spacing: float, low: float, high: float) -> list[float]:
    decimals = 12 - round(math.log10(spacing))
    return [
        float(round(k * spacing, decimals)) for k in range(math.ceil(low / spacing), math.floor(high / spacing) + 1)
    ]


def tick_label(value: float, unit: Literal["", "count", "power"] = "") -> str:
    """A tick as a reader writes it."""
    if unit == "count":
        return si(value)
    if unit == "power" and (value >= 1e5 or value < 1e-3):
        exponent = math.floor(math.log10(value) + 1e-9)
        mantissa = value / 10.0**exponent
        power = f"10^{{{exponent}}}"
        return f"${power}$" if abs(mantissa - 1) < 1e-6 else f"${mantissa:.3g}{{\\times}}{power}$"
    return f"{value:.6g}"


def decimal(value: float, places: int) -> str:
    """A number with fixed decimals; what rounds to zero has no sign."""
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def si(value: float, digits: int = 3) -> str:
    """1234567 -> '1.23 M'."""
    for factor, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"


def pad(
    values: Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]], share: float = 0.06
) -> tuple[float, float]:
    """Limits around positive values on a logarithmic axis, with a margin of a share of their span."""
    use = np.asarray(values, dtype=float)
    use = use[np.isfinite(use) & (use > 0)]
    low, high = math.log(use.min()), math.log(use.max())
    margin = max((high - low) * share, 0.02)
    return math.exp(low - margin), math.exp(high + margin)
