"""Does it hold? Trends with size, what was seen where nothing can be tested, and other yardsticks, in sentences."""

from __future__ import annotations

import math

from analysis.compare.arms import Comparison
from analysis.compare.estimate import Estimate
from analysis.compare.numbers import NOT_KNOWN, fixed, listed, p_of, probability, size_of_change
from analysis.compare.seen import Seen
from analysis.compare.trend import BENT, Trend
from analysis.style import decimal, si

WORDS = {"N": "parameters", "C": "training FLOPs"}
TURNED_SHOWN = 3


def seen_words(found: Seen, than: str = "") -> str:
    """'worse at every size, by 2.3 to 10 times', 'better than rf at 3 of 4 sizes (-7.1 to +1.2 %)'"""
    than = f" than {than}" if than else ""
    if not found.n:
        return "shares no trial"
    if found.n == 1:
        return f"{'worse' if found.worse else 'better'}{than} by {_by(found.low)} at the one {found.place}"
    if found.one_sided:
        low, high = (found.low, found.high) if found.worse else (found.high, found.low)
        told = f"{'worse' if found.worse else 'better'}{than} at every {found.place}, by {_span(low, high)}"
        return told + (", more than it varies about its trend" if found.beyond else "")
    word, n = ("worse", found.worse) if 2 * found.worse >= found.n else ("better", found.n - found.worse)
    return f"{word}{than} at {n} of {found.n} {found.place}s ({_signed(found.low)} to {_signed(found.high)} %)"


def _by(ratio: float) -> str:
    return f"{_factor(ratio)} times" if ratio >= 2 else f"{decimal(100 * abs(ratio - 1), 1)} %"


def _span(low: float, high: float) -> str:
    """From the smaller difference to the larger one, as shares or, where either is twofold, as factors."""
    if max(low, high) >= 2:
        return f"{_factor(low)} to {_factor(high)} times"
    return f"{decimal(100 * abs(low - 1), 1)} to {decimal(100 * abs(high - 1), 1)} %"


def _factor(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"


def _signed(ratio: float) -> str:
    told = f"{100 * (ratio - 1):+.1f}"
    return "0.0" if float(told) == 0 else told


def per_tenfold(change: Estimate) -> str:
    """'+1.2 % [0.3, 2.1]': the change of a ratio per tenfold of the size."""
    if not math.isfinite(change.estimate):
        return NOT_KNOWN
    told = f"{_signed(change.estimate)} %"
    return told + (f" [{', '.join(_signed(side) for side in change.interval)}]" if change.known else "")


def forecast(found: Estimate, decimals: int = 3) -> str:
    """An extrapolated ratio with its interval, 'cannot be told' without one."""
    return fixed(found.estimate, found.interval, decimals) if found.known else "cannot be told"


def trend_sentence(trend: Trend, reference: str) -> str:
    """Whether the difference of one arm from the reference holds with size, and what that gives ten times further."""
    behind = trend.level.estimate > 1
    what = f"{trend.arm}'s {'disadvantage' if behind else 'advantage'} against {reference}"
    over = f"per tenfold of {WORDS[trend.variable]}"
    if not trend.change.known:
        return f"Whether {what} holds with size cannot be told: {why_no_change(trend)}."
    rises = trend.change.estimate > 1
    if trend.surely:
        verb = "grows" if rises == behind else "shrinks"
        first = f"{what} {verb} with size: its loss relative to {reference}'s {'rises' if rises else 'falls'} by "
        first += f"{size_of_change(trend.change)} {over} (p {p_of(trend.p)})"
    else:
        first = f"No change of {what} with size is shown ({per_tenfold(trend.change)} {over}, p {p_of(trend.p)})"
    return f"{first}; {_ahead_words(trend, reference)}."


def why_no_change(trend: Trend) -> str:
    """Why no change with size can be told."""
    n = len(trend.points)
    return trend.change.reason if n == 2 else f"{n} size{'s' if n > 1 else ''} shared, and too few trials"


def _ahead_words(trend: Trend, reference: str) -> str:
    last = trend.ahead[-1]
    where = f"at {last.times:g} times the largest size ({si(last.at)} {WORDS[trend.variable]})"
    if not last.ratio.known:
        return f"how it stands {where} cannot be told: {last.ratio.reason or 'too few trials'}"
    told = f"carried on {where}, its loss is {fixed(last.ratio.estimate, last.ratio.interval, 3)} times {reference}'s"
    if last.ratio.interval[0] <= 1 <= last.ratio.interval[1]:
        told += ", so which of the two is better there cannot be told"
    return told


def headline(comparison: Comparison) -> str:
    """Whether the lead holds: of the best arm against the reference, or of the second where it is the reference."""
    if len(comparison.standings) < 2 or comparison.race or comparison.apart:
        return ""
    if not comparison.trends:
        return "There is one size, so whether the order holds as the model grows is not known."
    best, second = comparison.standings[:2]
    trend = comparison.trend(second.arm if best.arm == comparison.reference else best.arm)
    return trend_sentence(trend, comparison.reference) if trend else ""


def which_change(comparison: Comparison) -> str:
    """How many arms change with size beyond chance, and Kendall's tau between the orders, as a detail."""
    if not comparison.trends:
        return ""
    tested = [t for t in comparison.trends if math.isfinite(t.p)]
    sure = [t.arm for t in tested if t.surely]
    told = []
    if len(tested) > 1:
        whose = f"the loss of {listed(sure)} relative to {comparison.reference}'s changes with size" if sure else ""
        told.append(
            f"Of {len(tested)} {comparison.noun}s tested, {whose or 'none changes with size'} beyond chance (p < 0.05, "
            f"Holm-corrected)."
        )
    bent = [t.arm for t in comparison.trends if t.ahead and t.ahead[0].ratio.reason == BENT]
    if bent:
        told.append(f"{listed(bent)}: not on a straight line in the logarithm of the size, so nothing is carried on.")
    tau = sorted(value for value in comparison.tau.values() if math.isfinite(value))
    if tau and len(comparison.standings) > 2:
        span = f"{tau[0]:.2f}" if f"{tau[0]:.2f}" == f"{tau[-1]:.2f}" else f"{tau[0]:.2f} to {tau[-1]:.2f}"
        told.append(f"Kendall's tau between the orders at two sizes is {span}.")
    return " ".join(told)


HEADER = ("smallest", "largest", "per tenfold", "p", "at 3 x", "at 10 x", "compute at 3 x", "at 10 x")
"""Titles of `trend_rows` after the arm: ratios of the losses, then factors in compute."""


def trend_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row for every arm with a trend, in the order of the ranking."""
    rows = []
    for trend in filter(None, (comparison.trend(s.arm) for s in comparison.standings)):
        ends = (trend.points[0], trend.points[-1]) if trend.points else ()
        rows.append(
            (
                trend.arm,
                *(fixed(point.ratio.estimate, point.ratio.interval, 3) for point in ends),
                *[NOT_KNOWN] * (2 - len(ends)),
                per_tenfold(trend.change),
                probability(trend.p),
                *(forecast(ahead.ratio) for ahead in trend.ahead),
                *(forecast(ahead.multiplier, 2) for ahead in trend.ahead),
            )
        )
    return rows


def trend_text(comparison: Comparison) -> list[str]:
    """For a terminal: whether it holds, and a line per arm."""
    lines = [headline(comparison)]
    if not comparison.trends:
        return lines
    over = WORDS[comparison.trends[0].variable]
    shown = [(row[0], row[3], row[4], row[6], row[8]) for row in trend_rows(comparison)]
    header = (f"against {comparison.reference}", f"per tenfold of {over}", "p", "at 10 x the largest", "compute there")
    rows = [header, *shown]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, which_change(comparison)]


def yardstick_sentence(comparison: Comparison) -> str:
    """Where the likelihood bound orders the arms otherwise; nothing where it does not, or was not measured."""
    other = comparison.other
    if other is None or not other.differs:
        return ""
    first = other.order[0]
    rank = comparison.standing(first).rank
    told = f"By {other.key}, which weighs low noise most, the order differs: {first} is first"
    told += f" (by val/loss it is number {rank})" if rank > 1 else " by both, but behind it the order changes"
    told += f"; Kendall's tau between the two orders is {other.tau:.2f}"
    if other.turned:
        pairs = [f"{a} before {b}" for a, b in other.turned[:TURNED_SHOWN]]
        more = f" and {len(other.turned) - TURNED_SHOWN} more" if len(other.turned) > TURNED_SHOWN else ""
        sure = "significant" if comparison.n_seeds > 1 else "the same at every size"
        turned = f"{len(other.turned)} {'is' if len(other.turned) == 1 else 'are'} turned around"
        of = f"Of {other.n_told} pairs whose order is {sure} by both, {turned}"
        if other.n_told == 1:
            of = f"The one pair whose order is {sure} by both is turned around"
        told += f". {of}; val/loss has {'; '.join(pairs)}{more}"
    return f"{told}. So which is better depends on what it is to be better at."
