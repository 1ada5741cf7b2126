"""Arms whose x0 lives in different spaces, as the latents of two autoencoders do: their losses are not ranked.

`val/loss` is an error in the units of its own space, so a lower one in another space says nothing of the pictures. What
an arm is worth is then what the judges make of its decoded pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from analysis.card import Card
from analysis.compare.estimate import UNKNOWN, Estimate
from analysis.table.identity import Value

if TYPE_CHECKING:
    from analysis.compare.arms import Comparison, Standing

WHY = "the losses of different latent spaces are not comparable"
ANSWER = "val/loss cannot tell"


def sentence(noun: str, spaces: Sequence[Value | None]) -> str:
    """That the losses of arms in these spaces are not ranked; "" where there is one space."""
    several = len(set(spaces))
    if several < 2:
        return ""
    pixels = " (pixels are one of them)" if None in spaces else ""
    return (
        f"The {noun}s live in {several} different spaces{pixels}, each with a scale of its own, so their losses are "
        "not comparable and are not ranked: the judges rank them, by the decoded images"
    )


def unranked(comparison: Comparison, told: str) -> Comparison:
    """The comparison without whatever sets a loss of one space against one of another; arms in the order of names."""
    standings = tuple(sorted((_bare(standing) for standing in comparison.standings), key=lambda one: one.arm))
    return replace(
        comparison, apart=told, standings=standings, spread="none", trends=(), tau={}, other=None, pairing=None
    )


def _bare(standing: Standing) -> Standing:
    """Rank 0 is none."""
    factor = replace(standing.compute_multiplier, estimate=math.nan, interval=UNKNOWN, reason=WHY)
    return replace(
        standing, rank=0, interval=UNKNOWN, ratio=Estimate(math.nan, UNKNOWN, 0, WHY), p=math.nan, p_best=math.nan,
        tied_with=(), compute_multiplier=factor,
    )  # fmt: skip


def apart_card(comparison: Comparison, judged: str) -> Card:
    """In the place of the winner. `judged`: what the judges say, if any were asked."""
    lines = (f"{comparison.apart}.", judged or "No judge was asked: name one under `quality:`.")
    return Card(f"Which {comparison.noun} wins?", ANSWER, False, lines)
