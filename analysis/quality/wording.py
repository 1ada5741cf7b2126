"""Sample quality into sentences: what the terminal prints and what the report says in words."""

from __future__ import annotations

import math

import numpy as np

from analysis.compare.numbers import listed
from analysis.compare.wording import NOT_KNOWN, fixed, sentence
from analysis.quality.correlate import MIN_CLUSTERS, MIN_DISTINCT, Correlation, Estimate
from analysis.quality.means import Mean
from analysis.quality.summary import LABELS, Quality, Relation
from analysis.quality.tables import AtSteps, AtStepsRow, FewSteps, Ranks
from analysis.style import si
from rfscale import names

RANKS_SHOWN = 8  # lines of ranks in the terminal; the report has all of them

REASON_TITLES = {"ranks": "Ranks", "at_steps": "Scores at 25 steps", "few_steps": "Few steps"}


def label(metric: str) -> str:
    """A metric as a reader writes it."""
    return LABELS.get(metric, metric)


def estimate(found: Estimate, decimals: int = 2) -> str:
    """value [low, high]"""
    return fixed(found.value, (found.low, found.high), decimals)


def decision(found: Correlation) -> Estimate:
    """Decision accuracy with the wider of its two intervals on either side; none where too few arms are there for it.

    The interval over arms knows that pairs share trials and arms, Wilson's how little few pairs say.
    """
    wilson, clustered = found.decision, found.decision_clustered
    if not math.isfinite(clustered.low):
        return Estimate(wilson.value, math.nan, math.nan, wilson.n)
    return Estimate(wilson.value, min(wilson.low, clustered.low), max(wilson.high, clustered.high), wilson.n)


def decision_words(found: Correlation) -> str:
    """'83 % [60, 95] of 24 pairs'"""
    share = decision(found)
    if share.n == 0:
        return "no pairs"
    known = math.isfinite(share.low)
    return f"{100 * share.value:.0f} %" + (f" [{100 * share.low:.0f}, {100 * share.high:.0f}]" if known else "")


def mean(m: Mean, decimals: int) -> str:
    """value [low, high]"""
    return fixed(m.value, m.interval, decimals)


def decimals(metric: str) -> int:
    """Decimals at which a metric is printed."""
    return 1 if metric.startswith("fid") else (4 if metric == "kid" else 3)


def coverage(quality: Quality) -> str:
    """How many trials were scored, and which of them not at a setting that is used."""
    told = f"Scores of {quality.n_trials} of {quality.n_all} trials."
    scored = set(quality.scores["trial_id"])
    lacking: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for relation in quality.relations:
        missing = tuple(trial for trial in relation.missing if trial in scored)
        if missing:
            lacking.setdefault((relation.judge, relation.setting.label, missing), []).append(label(relation.metric))
    for (judge, setting, missing), metrics in lacking.items():
        told += (
            f" {listed(metrics, 9)} ({judge}) at {setting} {'are' if len(metrics) > 1 else 'is'} missing for "
            f"{len(missing)} scored trial{'s' if len(missing) > 1 else ''}: {listed(missing)}."
        )
    return told


def relation_sentence(relation: Relation) -> str:
    """'FID (shapes-512-240, s50-g2.5-ema): Spearman with val/loss 0.93 [0.80, 0.97] ...'"""
    head = f"{label(relation.metric)} ({relation.judge}, {relation.setting.label})"
    found = relation.ends
    if found is None:
        return f"{head}: no correlation with val/loss: {relation.ends_reason}."
    told = f"{head}: Spearman with val/loss {estimate(found.spearman)} over {found.n} trials"
    if math.isfinite(found.partial.value):
        told += f", {estimate(found.partial)} given compute"
    if found.decision.n:
        told += (
            f"; at equal size, step and seed the lower loss has the better one in {decision_words(found)} of "
            f"{found.decision.n} pairs"
        )
    return told + "."


HEADLINE = ("fid", "clip_score", "geneval", "spelling")
"""The metrics that the answer speaks of; where none of them was scored, of the first there is."""


def answer(quality: Quality) -> list[str]:
    """What the section says, a line for each headline metric and one for the ranks, from the numbers alone."""
    headline = [r for metric in HEADLINE for r in quality.relations if r.metric == metric] or quality.relations[:1]
    lines = [relation_answer(r, several=sum(x.metric == r.metric for x in headline) > 1) for r in headline]
    if not lines:
        lines = ["No metric of the images has a direction to correlate."]
    if quality.ranks is not None:
        lines.append(ranks_sentence(quality.ranks))
    return lines


def relation_answer(relation: Relation, several: bool) -> str:
    """Whether the loss predicts one metric, across trials and between arms; `several`: judges gave it."""
    what, found = label(relation.metric), relation.ends
    name = f"{what[:1].upper()}{what[1:]}" + (f" by {relation.judge}" if several else "")
    if found is None:
        return f"{name}: whether the loss predicts it is not known, {relation.ends_reason}."
    r = found.spearman
    if not found.tells:
        return f"{name}: whether the loss predicts it cannot be told{_why_not(found)}."
    if not (r.low > 0 or r.high < 0):
        follows = "is not shown to follow the loss"
    else:
        follows = f"{'improves' if (r.value < 0) == relation.higher_is_better else 'gets worse'} as the loss falls"
    told = f"{name} {follows} (Spearman's rank correlation {estimate(r)} over {found.n} trials)"
    share = decision(found)
    if share.n:
        told += (
            f"; between arms at equal size, step and seed the lower loss has the better {what} in "
            f"{decision_words(found)} of {share.n} pairs"
        )
        if not (share.low > 0.5 or share.high < 0.5):
            told += ", which may be chance"
    return f"{told}."


def _why_not(found: Correlation) -> str:
    """What is missing for a sentence about a correlation."""
    if found.distinct < MIN_DISTINCT:
        return f": over {found.n} trials the loss or the metric takes {found.distinct} different values only"
    r, over = found.spearman, f"over {found.n} trials"
    if found.n_groups < MIN_CLUSTERS:
        told = f" for other arms from {found.n_groups} of them"
    else:
        told = ", as the correlation hangs on one arm"
    return f"{told} (Spearman's rank correlation {estimate(r)} {over})"


def labels_note(quality: Quality) -> str:
    """What the labels of judges and settings mean, by one of each."""
    if not quality.relations:
        return ""
    first = quality.relations[0]
    return (
        f"{first.judge}: the judge, with what its scores depend on, such as its number of images. "
        f"{first.setting.label}: {first.setting.words}; EMA is the running average of the weights in training."
    )


CURVES = {
    "linear": "M = a + b L",
    "exponential": "M = a exp(b L)",
    "power": "M = a L^b",
    "decay": "M = a + b exp(-c L)",
    "sigmoid": "M = a + b / (1 + exp((L - c) / s))",
}
"""The shapes of `analysis.quality.correlate.LINKS` as a reader writes them."""


def curves_note(quality: Quality) -> str:
    """What the curves through the points are."""
    used = {c.link for r in quality.relations for c in (r.ends, r.along) if c is not None}
    if not used:
        return ""
    shapes = "; ".join(f"{name}, {CURVES[name]}" for name in CURVES if name in used)
    return (
        f"Curve: the metric M as a function of the loss L ({shapes}). Of {len(CURVES)} shapes it is the one that, "
        f"fitted without the quarter of the trials with the most compute, predicts these best. Pearson's correlation "
        f"is between M and the curve, with the sign of M and L."
    )


def ranks_sentence(ranks: Ranks) -> str:
    """Who ranks first, and with whom it is tied."""
    result = ranks.result
    best, tied = result.order[0], result.tied_with_best
    told = f"By (CLIP score, FID) {best} has the lowest average rank, {min(result.rank):.2f} over "
    told += f"{len(result.settings)} settings"
    if not np.isfinite(result.p_best).all():
        return told + "; without a second seed or standard errors nothing says how surely."
    told += f", but is not surely ahead of {', '.join(tied[:4])}" if tied else ""
    return told + (" (one seed: another training may differ)." if ranks.seeds == 1 and not tied else ".")


def quality_text(quality: Quality) -> str:
    """The section for a terminal: correlations with intervals, the rank table."""
    head = f"Sample quality. {coverage(quality)}"
    lines = [head, *filter(None, [labels_note(quality)]), *map(relation_sentence, quality.relations)]
    if quality.ranks is not None:
        lines += ["Average rank by (CLIP score, FID), 1 is best", *_rank_lines(quality.ranks)]
    lines += [f"{REASON_TITLES[name]}: {sentence(reason)}" for name, reason in quality.reasons.items()]
    return "\n".join(lines)


def rank_rows(ranks: Ranks) -> list[tuple[str, ...]]:
    """Arm, average rank over all settings and over each column, P(front 1), P(best); best first."""
    result = ranks.result
    values = [result.rank, *(result.average(settings) for settings in ranks.columns.values())]
    rows = []
    for i in np.argsort(result.rank, kind="stable"):
        chances = [f"{p[i]:.2f}" if math.isfinite(p[i]) else NOT_KNOWN for p in (result.p_rank1, result.p_best)]
        rows.append((result.names[i], *(f"{v[i]:.2f}" for v in values), *chances))
    return rows


def rank_header(ranks: Ranks) -> tuple[str, ...]:
    """The titles of `rank_rows`."""
    return ("arm", "all", *ranks.columns, "P(front 1)", "P(best)")


def ranks_note(ranks: Ranks) -> str:
    """What the ranks rest on, and what is not in them."""
    n = len(ranks.result.settings)
    parts = [f"Fronts in {n} settings of solver, weights and size, {ranks.seeds} seed{'s' if ranks.seeds > 1 else ''}"]
    parts.append(f"CLIP score by {ranks.clip_judge}, FID by {ranks.fid_judge}")
    told = "; ".join(parts) + "."
    if ranks.seeds == 1 and np.isfinite(ranks.result.p_best).all():
        told += " With one seed the probabilities know the chance of the images, not of another training."
    if ranks.left_out:
        told += f" In no rank, as fewer than half of the arms were scored there: {', '.join(ranks.left_out)}."
    for name, reason in ranks.result.excluded.items():
        told += f" Left out: {name} ({reason})."
    return told


def at_steps_sizes(found: AtSteps) -> list[tuple[str, list[AtStepsRow]]]:
    """Size -> its rows by the first metric, best first; the largest size first."""
    better = names.QUALITY[found.metrics[0]].better
    sizes = dict.fromkeys(row.size for row in found.rows)

    def order(row: AtStepsRow) -> float:
        value = row.means[0].value
        return math.inf if math.isnan(value) else (-value if better == "higher" else value)

    return [(size, sorted((r for r in found.rows if r.size == size), key=order)) for size in sizes]


def at_steps_note(found: AtSteps) -> str:
    """What the intervals are over."""
    over = {
        "seeds": "over seeds, their variance pooled over the arms of a size",
        "images": "over the images of one training: they say nothing about another seed",
    }[found.spread]
    judges = ", ".join(f"{label(m)} by {j}" for m, j in zip(found.metrics, found.judges, strict=True))
    return f"95 % intervals {over}. {judges}."


def few_steps_note(found: FewSteps) -> str:
    """How the drops were taken."""
    over = found.arms[0] if len(found.arms) == 1 else f"{len(found.arms)} arms"
    path = ""
    if not all(row.path.n for row in found.rows):
        path = f" {found.judge} gave no path length{f' where there is a {NOT_KNOWN}' if found.path_known else ''}."
    return (
        f"Guidance {found.guidance:g}, EMA weights, the same prompts and noise at every number of steps; means over "
        f"{over} and their seeds with 95 % intervals over trials (Esser et al. 2024, Table 6). The last row follows "
        f"each arm and seed across its sizes. CLIP score by {found.judge}.{path}"
    )


def parameters(n: float) -> str:
    """1.2 M"""
    return si(n)


def _rank_lines(ranks: Ranks) -> list[str]:
    rows = rank_rows(ranks)
    table = [rank_header(ranks), *rows[:RANKS_SHOWN]]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
    if len(rows) > RANKS_SHOWN:
        lines.append(f"{len(rows) - RANKS_SHOWN} more in the report")
    return lines + [f"left out: {name} ({reason})" for name, reason in ranks.result.excluded.items()]


def task(metric: str) -> str:
    """A column of a size table: 'two object', 'all tasks'."""
    if metric == "geneval":
        return "all tasks"
    return metric.removeprefix("geneval_").replace("_", " ") if metric in names.QUALITY else metric
