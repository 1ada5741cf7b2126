"""What people prefer, into sentences: what `rfscale rate --results` prints."""

from __future__ import annotations

import math

from analysis.preference.strengths import MIN_PROMPTS, MIN_RATERS, Preference, Strengths


def text(found: Preference) -> str:
    """The report a person reads."""
    raters = "1 rater" if len(found.raters) == 1 else f"{len(found.raters)} raters"
    head = f"{_votes(found.overall.n_votes)} by {raters}"
    return "\n\n".join([head, *(_text(fit) for fit in found.fits()), _method(found)])


def _text(fit: Strengths) -> str:
    low, high = fit.elo_interval
    width = max(map(len, fit.models))
    lines = [
        f"{fit.question}: {_votes(fit.n_votes)}, {fit.n_ties} without preference",
        f"  {'':{width}}   Elo  95 % interval   best   wins over, %: "
        + "  ".join(f"{r + 1:>3}" for r in range(len(fit.models))),
    ]
    for rank, i in enumerate(fit.order):
        rates = "  ".join(
            "  –" if math.isnan(fit.win_rate[i, j]) else f"{100 * fit.win_rate[i, j]:>3.0f}" for j in fit.order
        )
        lines.append(
            f"  {fit.models[i]:{width}}  {fit.elo[i]:>4.0f}  [{low[i]:>5.0f}, {high[i]:>5.0f}]  {fit.p_best[i]:>5.2f}"
            f"   {rank + 1:>3}         {rates}"
        )
    return "\n".join([*lines, *(f"  ! {doubt}" for doubt in fit.doubts)])


def _method(found: Preference) -> str:
    over = found.overall.clusters
    whom = (
        "They hold for people like the raters."
        if "people" in over
        else f"They hold for these raters alone; from {MIN_RATERS} raters on, for people like them."
    )
    where = (
        "They hold for prompts like these."
        if "prompts" in over
        else f"They hold for these prompts alone; from {MIN_PROMPTS} prompts on, for prompts like them."
    )
    return (
        f"Bradley-Terry with ties (Davidson 1970). Elo: mean 1000; 400 points are odds of 10 to 1 among votes that "
        f"prefer one.\nIntervals: 95 %, by the Bayesian bootstrap, which weighs {over} at random. {whom} {where}\n"
        f"best: probability of being the strongest. wins over: wins and half the ties, of the votes on that pair.\n"
        f"Every pair of models has {1 / len(found.overall.models):.2g} of a vote added to either side, so that no "
        f"strength is infinite."
    )


def _votes(number: int) -> str:
    return "1 vote" if number == 1 else f"{number} votes"
