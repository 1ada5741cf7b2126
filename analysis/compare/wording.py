"""Numbers into sentences: what the terminal prints and what the report says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.compare import labels, wording_trend
from analysis.compare.arms import Comparison, Standing
from analysis.compare.numbers import NOT_KNOWN as NOT_KNOWN
from analysis.compare.numbers import fixed as fixed
from analysis.compare.numbers import interval as interval
from analysis.compare.numbers import listed, percent
from analysis.compare.numbers import number as number
from analysis.compare.numbers import probability as probability
from analysis.compare.numbers import sentence as sentence
from analysis.compare.numbers import with_interval as with_interval
from analysis.compare.tuned import Choice
from analysis.laws import Code
from analysis.laws.ladder import EXPONENT, Ladder, LadderLaw
from analysis.laws.misfit import Miss
from analysis.laws.surface import FORM, SurfaceLaw

LAWS_SHOWN = 8  # lines of laws in the terminal; the report has all of them


def tie_words(comparison: Comparison, standing: Standing) -> str:
    """'tied with a, b': the arms that the data do not tell apart from this one; untested, what was seen of it."""
    if comparison.spread == "none":
        return "" if standing.arm == comparison.reference else wording_trend.seen_words(standing.seen)
    return f"tied with {', '.join(standing.tied_with)}" if standing.tied_with else ""


def ranking_text(comparison: Comparison) -> str:
    """The ranking as a table for a terminal, and what it rests on."""
    header = ("", comparison.noun, "val/loss", f"times {comparison.reference}", "p", "compute", "")
    rows = [header, *(_ranking_row(comparison, s) for s in comparison.standings)]
    lines = _columns(rows)
    notes = [sentence(comparison.basis)]
    if len(comparison.standings) > 1:
        notes[0] += " p is Holm-corrected; compute is the factor in FLOPs to equal loss."
    notes += filter(None, (pairing_sentence(comparison), wording_trend.yardstick_sentence(comparison)))
    notes += filter(None, (left_out_sentence(comparison), *wording_trend.trend_text(comparison)))
    if comparison.choices:
        notes += ["", *_columns(tuned_rows(comparison)), *tuned_sentences(comparison)]
    return "\n".join([f"Ranking of {comparison.sweep} by val/loss, {comparison.n_trials} trials", *lines, *notes])


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table for a terminal; the last column is as wide as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows]


def _ranking_row(comparison: Comparison, s: Standing) -> tuple[str, ...]:
    is_reference = s.arm == comparison.reference
    return (
        f"{s.rank}.",
        s.arm,
        with_interval(s.mean, s.interval),
        "1" if is_reference else fixed(s.ratio.estimate, s.ratio.interval, 3),
        "" if is_reference else probability(s.p),
        "1" if is_reference else fixed(s.compute_multiplier.estimate, s.compute_multiplier.interval, 2),
        "; ".join(filter(None, (_tied_ranks(comparison, s), "" if s.status == "complete" else s.status))),
    )


def _tied_ranks(comparison: Comparison, standing: Standing) -> str:
    """'tied with 2-6, 9': as `tie_words`, by rank, since the names of sixteen arms fit no terminal."""
    if comparison.spread == "none" or not standing.tied_with:
        return tie_words(comparison, standing)
    runs: list[list[int]] = []
    for rank in sorted(s.rank for s in comparison.standings if s.arm in standing.tied_with):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return "tied with " + ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def pairing_sentence(comparison: Comparison) -> str:
    """What the shared data and noise were worth."""
    if comparison.pairing is None:
        return ""
    ratio = comparison.pairing.variance_ratio
    what = f"Pairing by seed divided the variance of a difference by {ratio:.2g}"
    return f"{what} ({comparison.pairing.n} comparisons of two {comparison.noun}s at one size)."


def left_out_sentence(comparison: Comparison) -> str:
    """The rungs that are in no difference, or nothing."""
    if not comparison.left_out:
        return ""
    return f"In no difference, since only one {comparison.noun} has them: {'; '.join(comparison.left_out)}."


EDGE = "*"
"""Marks a tuned value at the end of its list."""


def tuned_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A table of the tuned values, arms by rank down and rungs across; a star where one is at the end of its list."""
    at = {(choice.arm, choice.rung): choice for choice in comparison.choices}
    rungs = list(dict.fromkeys(choice.rung for choice in comparison.choices))
    order = [rung.label for rung in comparison.sizes if rung.label in rungs]
    header = ("tuned: " + ", ".join(map(labels.words, comparison.choices[0].value)), *order)
    return [header, *((s.arm, *(_tuned_value(at.get((s.arm, rung))) for rung in order)) for s in comparison.standings)]


def _tuned_value(choice: Choice | None) -> str:
    if choice is None:
        return NOT_KNOWN
    return ", ".join(labels.number(v) + EDGE * (key in choice.edge) for key, v in choice.value.items())


def tuned_sentences(comparison: Comparison) -> list[str]:
    """How the tuned values were chosen, and where a better one may lie beyond the list; nothing where none are."""
    if not comparison.choices:
        return []
    told = [
        f"Each {comparison.noun} takes at each rung the value with the lowest mean val/loss over its seeds, the same "
        f"for all seeds. It was chosen on the runs that are compared here, so every loss is a little lower than that "
        f"of a fresh run with this value would be, the more so the longer the list."
    ]
    at_edge = [
        f"{choice.arm} at {choice.rung} ({labels.said(key, choice.value[key])}, the {edge} of "
        f"{', '.join(map(labels.number, choice.tried[key]))})"
        for choice in comparison.choices
        for key, edge in choice.edge.items()
    ]
    if at_edge:
        n = len(comparison.choices)
        told.append(
            f"{EDGE} At the end of its list in {len(at_edge)} of {n} places, so that a better value may lie beyond: "
            f"{'; '.join(at_edge[:EDGES_SHOWN])}{'; ...' if len(at_edge) > EDGES_SHOWN else ''}. Extend the list there."
        )
    else:
        told.append("No value chosen is at the end of its list.")
    return told


EDGES_SHOWN = 6


def answer(comparison: Comparison, ladder: Ladder) -> str:
    """The question answered in a few sentences, from the numbers alone."""
    best = comparison.best
    if len(comparison.standings) == 1:
        first = f"{best.arm} is the only {comparison.noun}: its mean validation loss is {number(best.mean)}."
    elif comparison.spread == "none":
        first = f"{best.arm} has the lowest validation loss, {number(best.mean)}{_as_seen(comparison)}."
    elif best.tied_with:
        first = (
            f"{best.arm} has the lowest mean validation loss, {number(best.mean)}, but is tied with "
            f"{listed(best.tied_with)}{_by_how_much(comparison)}."
        )
    else:
        first = f"{best.arm} reaches the lowest validation loss, {number(best.mean)}{_by_how_much(comparison)}."
    law = ladder.law(best.arm, "N")
    beside = (wording_trend.headline(comparison), wording_trend.yardstick_sentence(comparison))
    return " ".join(filter(None, (first, *beside, law_sentence(law), held_out_sentence(ladder, best.arm))))


def _as_seen(comparison: Comparison) -> str:
    """What one seed shows of the best arm, against the reference, or against the second where it is the reference."""
    best, second = comparison.best, comparison.standings[1]
    if best.arm == comparison.reference:
        against, shown = second.arm, comparison.next_seen
    else:
        against, shown = comparison.reference, best.seen
    if not shown.n:
        return f", but shares no trial with {against}"
    seeds = "one seed" if comparison.n_seeds == 1 else "the trials that are shared"
    return f": {wording_trend.seen_words(shown)} than {against}; {seeds} cannot give an interval"


def _by_how_much(comparison: Comparison) -> str:
    best = comparison.best
    if best.arm == comparison.reference:
        return ""
    change = f"; {percent(best.ratio)} than {comparison.reference}"
    m = best.compute_multiplier
    if math.isfinite(m.estimate):
        change += f", whose loss it reaches with {fixed(m.estimate, m.interval, 2)} times the compute"
    return change


WORDS = {"N": "parameters", "C": "training FLOPs"}


def equation(law: LadderLaw) -> str:
    """The fitted law with its numbers: L = 0.12 + 3.1 / N^0.28."""
    if law.fit is None:
        return NOT_KNOWN
    value = law.fit.estimate
    floor = f"{number(value['E'], 3)} + " if "E" in value else ""
    return f"L = {floor}{number(value['A'], 3)} / {law.variable}^{number(value[EXPONENT[law.variable]], 3)}"


def miss_words(miss: Miss | None) -> str:
    """'+20 % at d = 1': where a law is furthest from the losses that it was fitted to."""
    return f"{miss.share * 100:+.0f} % at {miss.label}" if miss else ""


NOISE_WORDS = {
    "seeds": "standard error from the spread between seeds",
    "images": "standard error over the validation images",
}


def misses_sentence(laws: Sequence[LadderLaw] | Sequence[SurfaceLaw], law: str) -> str:
    """Which laws miss losses that they were fitted to by much more than their noise; empty where none does."""
    missed = {x.arm: x.miss for x in laws if x.miss and x.miss.beyond_noise}
    if not missed:
        return ""
    worst = sorted(missed, key=lambda name: -abs(missed[name].share))
    told = [f"{name} by {miss_words(missed[name])}" for name in worst[:3]]
    noise = [100 * m.noise for m in missed.values()]
    about = f"{min(noise):.1f}" + (f" to {max(noise):.1f}" if f"{min(noise):.1f}" != f"{max(noise):.1f}" else "")
    return (
        f"{law} misses losses that it was fitted to by much more than their noise: {listed([*told, *worst[3:]], 3)} "
        f"(noise {about} %, {NOISE_WORDS[missed[worst[0]].over]}). The losses do not have the shape of this law, so "
        f"its parameters and its predictions mean less than their intervals say."
    )


def law_sentence(law: LadderLaw) -> str:
    """The exponent with its interval, or why there is none."""
    if law.fit is None:
        return f"No law over {WORDS[law.variable]} is fitted: {law.reason}."
    estimate, sides = law.exponent
    told = (
        f"Its law over {WORDS[law.variable]} is {equation(law)}, exponent {with_interval(estimate, sides, 3)}, "
        f"fitted to {law.points}."
    )
    if law.miss and law.miss.beyond_noise:
        told += f" It misses them by up to {100 * abs(law.miss.share):.0f} %, much more than their noise."
    return told


def held_out_sentence(ladder: Ladder, arm: str) -> str:
    """The largest size: predicted from the smaller ones beside measured."""
    held, reason = ladder.held_out(arm)
    if held is None:
        known = ladder.law(arm, "N").fit is not None
        return f"The largest size is not predicted: {reason}." if known else ""
    return f"For the largest size, {held_out_words(ladder, arm)}."


def held_out_words(ladder: Ladder, arm: str) -> str:
    """'d = 4: predicted 0.212 [0.200, 0.224] by L(N) of the smaller ones, measured 0.211 (inside)'"""
    held, reason = ladder.held_out(arm)
    if held is None:
        return reason
    law = "L(N, D)" if held.form == FORM else "L(N)"
    predicted = f"predicted {with_interval(held.predicted, held.interval)} by {law} of the smaller ones"
    verdict = {True: "inside", False: "outside", None: reason}[held.inside]
    return f"{held.label}: {predicted}, measured {number(held.measured)} ({verdict})"


STATUS_WORDS: dict[Code, str] = {
    Code.WEAK: "Few points for its parameters: the interval is wide and leans on the form of the law.",
    Code.NOT_IDENTIFIED: "The points hardly determine a parameter by itself: read none of them alone.",
    Code.BOUND: "A parameter is at its bound.",
    Code.TWO_MINIMA: "The law fits in more than one way.",
    Code.NOT_CONVERGED: "The fit did not converge: do not use it.",
}


def fit_status(law: LadderLaw) -> str:
    """How a fit ended, in words without numbers, so that laws with the same fate share a note."""
    if law.fit is None:
        return sentence(f"no law: {law.reason}")
    parts = ["The points do not determine an irreducible loss E: fitted with E = 0."] if law.without_floor else []
    parts += dict.fromkeys(STATUS_WORDS[r.code] for r in law.fit.status.reasons if r.code in STATUS_WORDS)
    if law.held_out_reason:
        parts.append(sentence(law.held_out_reason))
    return " ".join(parts) or "Converged, and every parameter is determined."


def laws_text(ladder: Ladder, arms: Sequence[str]) -> str:
    """Exponents and held-out checks for a terminal."""
    lines = [
        f"Scaling laws, {ladder.description}: the exponent of L(N), the loss over the parameters N,",
        "and the largest size as predicted from the smaller ones (d: blocks of the model)",
    ]
    shown = arms if len(arms) <= LAWS_SHOWN else arms[: LAWS_SHOWN - 1]
    width = max(map(len, shown))
    for name in shown:
        law = ladder.law(name, "N")
        if law.fit is None:
            lines.append(f"{name.ljust(width)}  no law: {law.reason}")
            continue
        told = held_out_words(ladder, name)
        lines.append(f"{name.ljust(width)}  exponent {with_interval(*law.exponent, 3)}; {told}")
    if len(shown) < len(arms):
        lines.append(f"{len(arms) - len(shown)} more in the report")
    if any(held is not None and held.form == FORM for held, _ in map(ladder.held_out, shown)):
        lines.append(f"{SURFACE} (D: training samples), fitted to the whole curves; L(N) to their ends alone.")
    return "\n".join(lines)


SURFACE = "L(N, D) = E + A / N^alpha + B / D^beta"


def surface_status(law: SurfaceLaw) -> str:
    """How a surface ended, in words without numbers."""
    if law.fit is None:
        return sentence(f"no surface: {law.reason}")
    parts = list(dict.fromkeys(STATUS_WORDS[r.code] for r in law.fit.status.reasons if r.code in STATUS_WORDS))
    if law.held_out_reason:
        parts.append(sentence(law.held_out_reason))
    return " ".join(parts) or "Converged, and every parameter is determined."
