"""The first two questions of the report as cards: which arm wins, and does that hold as models grow?

A card claims no more than the comparison does: a winner is one that no other arm is tied with, and no number stands
without its interval. What was merely seen is said to be so.
"""

from __future__ import annotations

from analysis.card import Card
from analysis.compare.arms import Comparison
from analysis.compare.numbers import fixed, listed, p_of, percent, sentence
from analysis.compare.seen import Seen
from analysis.compare.trend import ONE_SEED, Ahead, Trend
from analysis.compare.wording_trend import WORDS, per_tenfold, seen_words, why_no_change
from analysis.style import si

NO_INTERVAL = "gives no interval, so this may be chance."
SURE = {"grows": "It grows", "shrinks": "It shrinks", "holds": "It holds"}


def winner_card(comparison: Comparison) -> Card:
    """Which arm is best, by how much, and at what factor in compute."""
    best, question = comparison.best, f"Which {comparison.noun} wins?"
    note = sentence(comparison.basis)
    if len(comparison.standings) == 1:
        return Card(question, "Nothing to compare", False, (f"{best.arm} is the only {comparison.noun}.",))
    if comparison.spread == "none":
        against, seen = _best_seen(comparison)
        why = "One seed" if comparison.n_seeds == 1 else "What the trials share"
        lines = (sentence(seen_words(seen, against)), f"{why} {NO_INTERVAL}", *_by_another(comparison))
        return Card(question, f"{best.arm} is lowest, untested", False, lines, note, best.arm)
    lines = (*_by_how_much(comparison), *_by_another(comparison))
    if best.tied_with:
        tied = f"{best.arm} has the lowest mean loss, but is not told apart from {listed(best.tied_with, 3)}."
        return Card(question, "No clear winner", False, (tied, *lines), note)
    return Card(question, best.arm, True, lines, note, best.arm)


def _best_seen(comparison: Comparison) -> tuple[str, Seen]:
    """The best arm against the reference, or against the second where it is the reference."""
    if comparison.best.arm == comparison.reference:
        return comparison.standings[1].arm, comparison.next_seen
    return comparison.reference, comparison.best.seen


def _by_how_much(comparison: Comparison) -> tuple[str, ...]:
    """The best against the reference, or the second against it where the best is the reference: what has intervals."""
    leads = comparison.best.arm == comparison.reference
    one = comparison.standings[1] if leads else comparison.best
    who = f"The next, {one.arm}, has" if leads else "It has"
    factor, lines = one.compute_multiplier, []
    if one.ratio.known:
        amount, _, side = percent(one.ratio).rpartition(" ")
        lines.append(f"{who} a {amount} {side} loss than {comparison.reference}.")
    if factor.known:
        told = fixed(factor.estimate, factor.interval, 2)
        lines.append(f"Compute to the same loss: {told} times {comparison.reference}'s.")
    return tuple(lines)


def _by_another(comparison: Comparison) -> tuple[str, ...]:
    other = comparison.other
    if other is None or other.order[0] == comparison.best.arm:
        return ()
    return (f"By {other.key} another one is first: {other.order[0]}.",)


def holds_card(comparison: Comparison) -> Card:
    """Whether the lead of the best arm over the reference, or of the reference over the second, holds with size."""
    question, best = "Does it hold as models grow?", comparison.best
    if len(comparison.standings) == 1:
        return Card(question, "Nothing to compare", False, (f"{best.arm} is the only {comparison.noun}.",))
    if comparison.race:
        told = "A race asks who is best at its largest size, and gives no trend: its arms left at different sizes."
        return Card(question, "Not asked", False, (told,))
    if not comparison.trends:
        return Card(question, "Cannot be told", False, ("There is one size; it takes three, or two with seeds.",))
    subject = comparison.standings[1].arm if best.arm == comparison.reference else best.arm
    trend = comparison.trend(subject)
    if trend is None or not trend.points:
        return Card(question, "Cannot be told", False, (f"{subject} shares no trial with {comparison.reference}.",))
    pair = f"{subject} against {comparison.reference}"
    tested = comparison.spread != "none"
    lines = (*_change(trend, pair), *(_carried_on(ahead, trend, comparison.reference) for ahead in trend.ahead[-1:]))
    if tested and comparison.reference in comparison.standing(subject).tied_with:
        told = f"On average {subject} and {comparison.reference} are not told apart."
        return Card(question, "No lead to hold", False, (told, *lines))
    answer = SURE.get(trend.verdict, "Cannot be told")
    if trend.verdict == "shrinks" and tested and _turns(trend):
        answer = "It turns around"
    return Card(question, answer, trend.verdict != "unknown", lines, _of_how_many(comparison))


def _turns(trend: Trend) -> bool:
    """Whether the ratio is surely on the other side of 1 at the furthest extrapolation."""
    last = trend.ahead[-1]
    return last.surely and not trend.stays(last)


def _change(trend: Trend, pair: str) -> tuple[str, ...]:
    if not trend.change.known:
        return (f"{pair}: {why_no_change(trend)}.",)
    told = f"{pair}: the ratio of the losses changes by {per_tenfold(trend.change)} per tenfold of"
    return (f"{told} {WORDS[trend.variable]} (p {p_of(trend.p)}).",)


def _carried_on(ahead: Ahead, trend: Trend, reference: str) -> str:
    where = f"at {ahead.times:g} times the largest size ({si(ahead.at)} {WORDS[trend.variable]})"
    if ahead.ratio.reason == ONE_SEED:
        return f"A second seed would tell how it stands {where}."
    if not ahead.ratio.known:
        return f"How it stands {where} cannot be told: {ahead.ratio.reason or 'too few trials'}."
    told = f"Carried on {where}: {fixed(ahead.ratio.estimate, ahead.ratio.interval, 3)} times {reference}'s loss"
    return told + ("." if ahead.surely else ", so which is better there cannot be told.")


def _of_how_many(comparison: Comparison) -> str:
    """Over how many arms the test was corrected."""
    tested = sum(trend.p == trend.p for trend in comparison.trends)
    return f"p is Holm-corrected over {tested} {comparison.noun}s." if tested > 1 else ""
