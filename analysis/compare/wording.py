"""Numbers into sentences: what the terminal prints and what the report says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.compare import labels, wording_trend
from analysis.compare.arms import Comparison, Standing
from analysis.compare.numbers import NOT_KNOWN as NOT_KNOWN
from analysis.compare.numbers import fixed as fixed
from analysis.compare.numbers import interval as interval
from analysis.compare.numbers import number as number
from analysis.compare.numbers import plain as plain
from analysis.compare.numbers import probability as probability
from analysis.compare.numbers import sentence as sentence
from analysis.compare.numbers import with_interval as with_interval
from analysis.compare.tuned import Choice
from analysis.style import LEADING


def tied_or_seen(comparison: Comparison, standing: Standing) -> str:
    """The arms that the data do not tell apart from this one, 'a, b'; untested, what was seen of it."""
    if comparison.spread == "none":
        return "" if standing.arm == comparison.reference else wording_trend.seen_words(standing.seen)
    return labels.between(standing.tied_with).join(standing.tied_with)


def rest_words(comparison: Comparison, standing: Standing) -> str:
    """What else is to be said of an arm beside its numbers; what is the same for all stands once, below them."""
    many = len(comparison.standings) > LEADING
    parts = [_tied_ranks(comparison, standing) if many else tied_or_seen(comparison, standing)]
    parts += [part for part in standing.status.split("; ") if part not in EVERYWHERE]
    multiplier = standing.compute_multiplier
    if standing.arm != comparison.reference and not no_multiplier(comparison):
        parts.append(multiplier.reason if not math.isfinite(multiplier.estimate) or multiplier.known else "")
    return "; ".join(filter(None, parts))


def no_multiplier(comparison: Comparison) -> str:
    """Why no arm has a compute multiplier, where that is the same for several; "" otherwise."""
    found = [s.compute_multiplier for s in comparison.standings if s.arm != comparison.reference]
    reasons = {multiplier.reason for multiplier in found}
    if len(found) < 2 or len(reasons) > 1 or any(math.isfinite(multiplier.estimate) for multiplier in found):
        return ""
    reason = reasons.pop()
    return f"No compute multiplier is given: {reason}." if reason else ""


EVERYWHERE = ("complete", "one seed cannot give an interval", "no interval")


def ranking_text(comparison: Comparison) -> str:
    """The ranking as a table for a terminal, and what it rests on."""
    if comparison.apart:
        rows = [(s.arm, number(s.mean)) for s in comparison.standings]
        losses = _columns([("", "val/loss, in its own space"), *rows])
        head = f"No ranking of {comparison.sweep} by val/loss, {comparison.n_trials} trials"
        return "\n".join([head, f"{comparison.apart}.", *losses])
    header = ("", comparison.noun, "val/loss", f"times {comparison.reference}", "p", "compute", "")
    ranked = [header, *(_ranking_row(comparison, s) for s in comparison.standings)]
    lines = _columns([row[:4] + row[6:] for row in ranked] if comparison.race else ranked)
    notes = [sentence(comparison.basis)]
    if len(comparison.standings) > 1:
        compute = no_multiplier(comparison) or "Compute is the factor in FLOPs to equal loss."
        told = families(comparison), "" if comparison.race else compute
        notes[0] = " ".join(filter(None, (notes[0], *told)))
    notes += map(sentence, comparison.race)
    notes += filter(None, (pairing_sentence(comparison), wording_trend.yardstick_sentence(comparison)))
    notes += filter(None, (left_out_sentence(comparison), *wording_trend.trend_text(comparison)))
    if comparison.choices:
        notes += ["", *_columns(tuned_rows(comparison)), *tuned_sentences(comparison)]
    return "\n".join([f"Ranking of {comparison.sweep} by val/loss, {comparison.n_trials} trials", *lines, *notes])


def families(comparison: Comparison) -> str:
    """Over how many comparisons Holm's correction goes in the column p, and in the ties; "" where nothing is tested."""
    n = len(comparison.standings)
    if comparison.spread == "none" or n < 2 or comparison.race:
        return ""
    if n == 2:
        return "p is of equal losses."
    return (
        f"p is Holm-corrected over the {n - 1} comparisons with {comparison.reference}, ties over all "
        f"{n * (n - 1) // 2} pairs: two that are tied may have a p below 0.05."
    )


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table for a terminal; the last column is as wide as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows]


def _ranking_row(comparison: Comparison, s: Standing) -> tuple[str, ...]:
    is_reference = s.arm == comparison.reference
    tied = _tied_ranks(comparison, s)
    tied = f"tied with {tied}" if tied and comparison.spread != "none" else tied
    return (
        f"{s.rank}.",
        s.arm,
        with_interval(s.mean, s.interval),
        "1" if is_reference else fixed(s.ratio.estimate, s.ratio.interval, 3),
        "" if is_reference else probability(s.p),
        "1" if is_reference else fixed(s.compute_multiplier.estimate, s.compute_multiplier.interval, 2),
        "; ".join(filter(None, (tied, "" if s.status == "complete" else s.status))),
    )


def _tied_ranks(comparison: Comparison, standing: Standing) -> str:
    """'2-6, 9': as `tied_or_seen`, by rank, since the names of sixteen arms fit no terminal."""
    if comparison.spread == "none" or not standing.tied_with:
        return tied_or_seen(comparison, standing)
    runs: list[list[int]] = []
    for rank in sorted(s.rank for s in comparison.standings if s.arm in standing.tied_with):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


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
            f"{'; '.join(at_edge[:EDGES_SHOWN])}{'; ...' if len(at_edge) > EDGES_SHOWN else ''}. "
            f"`rfscale plan SWEEP --next` writes the sweep with these lists extended."
        )
    else:
        told.append("No value chosen is at the end of its list.")
    return told


EDGES_SHOWN = 6
