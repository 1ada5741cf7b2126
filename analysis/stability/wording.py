"""How the attention fared, in words: what the report says beside its figure."""

from __future__ import annotations

import math

from analysis.compare.numbers import NOT_KNOWN, number
from analysis.stability.growth import LARGE, ArmGrowth, Extreme, Growth, beyond

HEADER = ("", "largest logit", "met at", "lowest entropy", "met at", "diverged")
NOTE = (
    "Logit: q.k / sqrt(head width), the largest over heads, queries, keys, images and three noise levels. Entropy in "
    "nats: 0 where every query looks at one key, ln(keys) where it looks at all alike; the mean over heads, queries "
    "and images of one block. Weights as trained, without EMA, in the precision of the training, at the validation "
    "points alone: what happened between them was not seen."
)


def answer(growth: Growth) -> str:
    """One or two sentences: what diverged, and whose logits grew."""
    lost = [arm for arm in growth.arms if arm.diverged]
    count = sum(arm.trainings for arm in growth.arms)
    told = f"None of {count} trainings diverged."
    if lost:
        each = ", ".join(f"{arm.diverged} of {arm.trainings} of {arm.arm}" for arm in lost)
        told = f"{sum(arm.diverged for arm in lost)} of {count} trainings diverged: {each}."
    grown = [arm for arm in growth.arms if beyond(arm)]
    if grown:
        worst = max(grown, key=lambda arm: arm.max_logit.value if math.isfinite(arm.max_logit.value) else math.inf)
        grew = f"Logits passed {LARGE:g} in {len(grown)} of {len(growth.arms)} arms, furthest in {worst.arm} "
        return f"{told} {grew}({_value(worst.max_logit)})."
    return f"{told} No logit passed {LARGE:g}."


def rows(growth: Growth) -> list[list[str]]:
    """One line per arm under `HEADER`."""
    return [_row(arm) for arm in growth.arms]


def _row(arm: ArmGrowth) -> list[str]:
    return [
        arm.arm,
        _value(arm.max_logit),
        _where(arm.max_logit),
        _value(arm.entropy),
        _where(arm.entropy),
        f"{arm.diverged} of {arm.trainings}",
    ]


def _value(extreme: Extreme) -> str:
    if not extreme.block:
        return NOT_KNOWN
    return number(extreme.value, 3) if math.isfinite(extreme.value) else "not finite"


def _where(extreme: Extreme) -> str:
    """`block_03_cross` at a step -> block 3 cross, step 40."""
    _, _, block = extreme.block.partition("_")
    number_, _, kind = block.partition("_")
    return f"block {int(number_)}{' ' + kind.replace('_', ' ') if kind else ''}, step {extreme.step}" if block else ""
