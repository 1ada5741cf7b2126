"""What a race is expected to cost, before it runs: raced in worlds that are drawn from its priors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfscale.run.race_blocks import Block, Limits, blocks, log_sizes
from rfscale.spec.sweep import Sweep

if TYPE_CHECKING:
    from analysis.compare.components import Array

WORLDS = 8
"""Drawn from the priors."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a race is expected to cost, from worlds drawn from its priors. `flops`: mean, and the 10 % and 90 % points;
    `arms`: how many race in each block, in the mean; `left`: at the end; `kept`: the chance that the best is then among
    them."""

    worlds: int
    limits: Limits
    full: float
    flops: float
    low: float
    high: float
    blocks: tuple[Block, ...]
    arms: tuple[float, ...]
    left: float
    kept: float

    @property
    def sentence(self) -> str:
        share = [100 * value / self.full for value in (self.flops, self.low, self.high)]
        until = f" with {self.limits.words}" if self.limits.words else ""
        return (
            f"race{until}: {len(self.blocks)} blocks; about {self.flops:.3g} FLOPs, {share[0]:.0f} % of the whole grid "
            f"({share[1]:.0f} to {share[2]:.0f} %: the 10 and 90 % points of {self.worlds} worlds drawn from its "
            f"priors), {self.left:.1f} arms left at the end, and a chance of {100 * self.kept:.1f} % that the best is "
            "one of them"
        )


def expected(sweep: Sweep, limits: Limits = Limits(), worlds: int = WORLDS) -> Expected:
    """What a race of the sweep is expected to cost, were it begun now from nothing. Raises SweepError as `blocks`
    does."""
    import numpy as np

    from analysis.compare.race import drawn_world

    order = blocks(sweep)
    seeds = list(dict.fromkeys(block.seed for block in order))
    x = log_sizes(order)
    rng = np.random.default_rng(0)
    raced = [simulated(drawn_world(rng, len(sweep.arms), x, len(seeds)), x, order, limits) for _ in range(worlds)]
    counts = np.array([one.racing for one in raced])  # (world, block)
    cost = counts @ np.array([block.flops for block in order])
    low, high = np.quantile(cost, [0.1, 0.9])
    full = len(sweep.arms) * sum(block.flops for block in order)
    return Expected(
        worlds, limits, full, float(cost.mean()), float(low), float(high), order, tuple(counts.mean(axis=0).tolist()),
        float(np.mean([len(one.left) for one in raced])), float(np.mean([one.kept for one in raced])),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Simulated:
    """A race in a made world. `racing`: how many arms in each block, 0 in those that were not begun; `left`: which at
    the end; `kept`: the chance that the best is one of them, after all that was seen: of worlds that are drawn from the
    priors this is the share in which it is, without the chance of which worlds were drawn."""

    racing: tuple[int, ...]
    left: tuple[int, ...]
    kept: float


def simulated(y: Array, x: Array, order: tuple[Block, ...], limits: Limits) -> Simulated:
    """How a race would go, were y (arm, rung, seed) what the trainings give."""
    import numpy as np

    from analysis.compare.race import judge

    seeds = list(dict.fromkeys(block.seed for block in order))
    seen, racing = np.full_like(y, np.nan), np.ones(len(y), dtype=bool)
    path, spent, behind, kept = list[int](), 0.0, math.inf, 1.0
    for block in order:
        left = int(racing.sum())
        spent += left * block.flops
        if limits.rule(left, behind, spent):
            break
        s = seeds.index(block.seed)
        seen[racing, block.rung, s] = y[racing, block.rung, s]
        found = judge(seen, x, n_scales=48, draws=400, intervals=False)
        racing = racing & ~found.out
        path.append(left)
        behind, kept = math.expm1(found.shortfall), float(found.chance[racing].sum())
    return Simulated((*path, *[0] * (len(order) - len(path))), tuple(np.flatnonzero(racing).tolist()), kept)
