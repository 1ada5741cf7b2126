"""The tuned axes in sentences and tables, for the terminal and for the report."""

from __future__ import annotations

import math

from analysis.compare.labels import number as written
from analysis.compare.labels import words
from analysis.compare.numbers import NOT_KNOWN, fixed, interval, listed, number, sentence
from analysis.style import decimal
from analysis.tuning.law import Law
from analysis.tuning.optimum import Optimum, is_decay
from analysis.tuning.shift import EXPONENTS
from analysis.tuning.summary import Tuning

HEADER = ("axis", "arm", "rung", "optimum", "95 %", "best tried", "note")
EDGES_SHOWN = 4
NOTE = (
    "Optimum: the lowest point of a parabola of the log loss in the logarithm of the value (of a decay, of its "
    "distance from 1), fitted to the values within a factor of 4 of the best, a level for each seed; 95 % by Fieller's "
    "method. With several tuned axes it is a surface of second order in all of them. One that is beyond the values "
    "tried, or has no curvature at 95 %, is not given and is in no law."
)


def rows(tuning: Tuning) -> list[tuple[str, ...]]:
    """The optima as a table."""
    return [
        (
            words(o.key), o.arm, o.rung, number(o.value, 3) if o.ok else NOT_KNOWN, interval(o.interval, 3),
            written(o.best), o.reason,
        )
        for o in tuning.optima
    ]  # fmt: skip


def law_sentences(tuning: Tuning) -> list[str]:
    """The law of each key, and where an optimum is at the end of its list."""
    out = []
    for key in tuning.keys:
        laws = tuning.laws_of(key)
        out += [_law(law, law.arms[0] if len(laws) > 1 else "") for law in laws]
        out.append(_edges(tuning, key))
    return [told for told in out if told]


def symbol(key: str) -> str:
    """How a law writes the optimum of a key."""
    name = words(key)
    letter = {"learning rate": "eta", "batch": "B"}.get(name, name)
    return f"1 - {letter}*" if is_decay(key) else f"{letter}*"


def _law(law: Law, arm: str = "") -> str:
    """`arm`: whose own law it is, where arms have one each."""
    what = f"the {words(law.key)} that is best" + (f" for {arm}" if arm else "")
    if law.reason:
        return f"No law of {what}: {law.reason}."
    form = " ".join(f"{name}^{fixed(law.exponent[name], law.interval[name], 3)}" for name in law.variables)
    told = f"{sentence(what).rstrip('.')}: {symbol(law.key)} = k {form}, from {law.points} optima"
    if len(law.arms) > 1:
        told += ", a k for each arm and the exponents shared"
    if law.between > 0:
        told += f"; beyond their own errors they scatter by {100 * law.between:.2g} %"
    flat = [name for name in law.variables if law.interval[name][0] <= 0 <= law.interval[name][1]]
    if flat:
        told += f"; no change with {listed(flat)} is not ruled out"
    return told + (f". {sentence(law.note)}" if law.note else ".")


def _edges(tuning: Tuning, key: str) -> str:
    found = [o for o in tuning.optima if o.key == key and o.where in ("lowest", "highest")]
    if not found:
        return ""
    told = [f"{o.arm} at {o.rung} ({o.where} {_end(o)})" for o in found[:EDGES_SHOWN]]
    more = f"; and {len(found) - EDGES_SHOWN} more" if len(found) > EDGES_SHOWN else ""
    n = sum(o.key == key for o in tuning.optima)
    return (
        f"At the end of its list in {len(found)} of {n} places: {'; '.join(told)}{more}. "
        "`rfscale plan SWEEP --next` writes the sweep with these lists extended."
    )


def _end(optimum: Optimum) -> str:
    return written(optimum.tried[0] if optimum.where == "lowest" else optimum.tried[-1])


def shift_sentences(tuning: Tuning) -> list[str]:
    """How far exponents and multipliers are from those with the value of the smallest size held."""
    found = tuning.shift
    held = " and ".join(f"{words(key)} {written(v)}" for key, v in found.held.items())  # type: ignore[arg-type]
    if found.fixed is None:
        return [f"What tuning moves is not told: {found.reason}."] if found.reason else []
    told = (
        f"Tuned, {found.moved} of {found.places} places take another value than {held}, which the reference takes at "
        f"its smallest size. Held there instead, the losses would say:"
    )
    return [told, *_moves(tuning)]


def exponent(value: float, sides: tuple[float, float]) -> str:
    """An exponent with its interval; no value where the interval leaves it out: the fit has run to an end of its
    search, and what stands there is that end and no estimate."""
    if all(map(math.isfinite, sides)) and not sides[0] <= value <= sides[1]:
        return f"not told [{decimal(sides[0], 3)}, {decimal(sides[1], 3)}]"
    return fixed(value, sides, 3)


def _moves(tuning: Tuning) -> list[str]:
    tuned, held = tuning.shift.tuned, tuning.shift.fixed
    assert held is not None
    said = {
        arm: "; ".join(
            f"{name} {exponent(*held.exponents[arm][name])} held, {exponent(*tuned.exponents[arm][name])} tuned"
            for name in EXPONENTS
        )
        for arm in tuned.exponents
        if arm in held.exponents
    }
    if len(set(said.values())) == 1:  # what the arms share is said once
        out = [f"Exponents: {next(iter(said.values()))}."]
    else:
        out = [f"Exponents of {arm}: {told}." for arm, told in said.items()]
    if not said:
        out.append("Exponents: there is no law with the values held, or none with them tuned.")
    for arm, now in tuned.multipliers.items():
        then = held.multipliers.get(arm)
        if then is not None and (now.known or then.known) and arm != tuning.shift.reference:
            out.append(
                f"Compute of {arm} to equal loss: {fixed(then.estimate, then.interval, 2)} held, "
                f"{fixed(now.estimate, now.interval, 2)} tuned."
            )
    return out
