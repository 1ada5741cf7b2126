"""The third question of the report as a card: what does the next scale give, and if that cannot be told, what would?"""

from __future__ import annotations

from analysis.card import Card
from analysis.compare.numbers import listed, with_interval
from analysis.laws.ahead import GOAL, HELD_OUT, AtScale, Needed, NextScale
from analysis.laws.joint import MIN_SIZES
from analysis.style import si

QUESTION = "What does the next scale give?"
RUN = "rfscale run "
GROWING = "Compute grows by parameters and samples alike."


def next_card(found: NextScale | None, arm: str, spent: float, run: str = "") -> Card:
    """`spent`: training FLOPs of all trials, beside which the cost of more is said. `run`: the command of the sweep."""
    if found is None:
        return Card(QUESTION, "These runs cannot tell", False, (f"{arm} has no trial on the ladder of sizes.",))
    told = [at for at in found.at if at.told]
    lines = [_line(at) for at in told[:-1]]
    note = f"{GROWING} Interval: 95 %, for one more training."
    if found.needed is not None:
        lines += _why(found, found.needed, bool(told))
        lines.append(_what_would(found.needed, spent))
    command = ""
    if found.needed is not None and found.needed.how == "design":
        sweep = run.removeprefix(RUN) if run.startswith(RUN) else "SWEEP"
        command = f"rfscale plan {sweep} --budget {flops(found.needed.flops)}"
    if not told:
        return Card(QUESTION, "These runs cannot tell", False, tuple(lines), GROWING, command=command)
    last = told[-1]
    first = f"is the loss of {arm} at {last.times:g} times the largest compute ({_where(last)})."
    return Card(QUESTION, with_interval(last.loss, last.interval), True, (first, *lines), note, command=command)


def _line(at: AtScale) -> str:
    return f"At {at.times:g} times: {with_interval(at.loss, at.interval)} ({_where(at)})."


def _where(at: AtScale) -> str:
    return f"{si(at.n)} parameters, {si(at.d)} samples"


def _why(found: NextScale, needed: Needed, partly: bool) -> list[str]:
    if needed.how == "sizes":
        there = MIN_SIZES + HELD_OUT - len(needed.n)
        return [
            f"A law needs {MIN_SIZES} sizes, and its test one more; there {'is one' if there == 1 else f'are {there}'}."
        ]
    where = f"At {needed.times:g} times it cannot be told: " if partly else ""
    return [f"{where}{found.reason[:1].lower() if partly else found.reason[:1].upper()}{found.reason[1:]}."]


def _what_would(needed: Needed, spent: float) -> str:
    cost = f"{flops(needed.flops)} FLOPs, {_share(needed.flops / spent)} what the compared trials took"
    if needed.how == "sizes":
        n = len(needed.n)
        sizes = listed([si(size) for size in needed.n])
        more = "One more size" if n == 1 else f"{n} more sizes"
        return f"{more} would: {sizes} parameters (about {cost}, one seed)."
    if needed.how == "design":
        return f"Runs that narrow it to a factor of {GOAL:g}: about {cost}."
    return f"To know it, train it: about {cost}."


def flops(value: float) -> str:
    """'3e13'"""
    return f"{value:.2g}".replace("e+", "e")


def _share(ratio: float) -> str:
    return (
        f"{ratio:.0%} of".replace("%", " %")
        if ratio < 1
        else f"{ratio:.2g} times"
        if ratio < 100
        else f"{ratio:.0f} times"
    )
