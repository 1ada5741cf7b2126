"""What a race is expected to cost, before it runs: raced in worlds that are drawn from its priors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfscale.run.race import Block, blocks, log_sizes
from rfscale.spec.sweep import Sweep

if TYPE_CHECKING:
    import numpy as np

    from analysis.compare.components import Array

WORLDS = 8
"""Drawn from the priors."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a race is expected to cost, from worlds drawn from its priors. `flops`: mean, and the 10 % and 90 % points;
    `arms`: how many race in each block, in the mean; `left`: at the end."""

    worlds: int
    full: float
    flops: float
    low: float
    high: float
    blocks: tuple[Block, ...]
    arms: tuple[float, ...]
    left: float

    @property
    def sentence(self) -> str:
        share = [100 * value / self.full for value in (self.flops, self.low, self.high)]
        return (
            f"race: {len(self.blocks)} blocks; about {self.flops:.3g} FLOPs, {share[0]:.0f} % of the whole grid "
            f"({share[1]:.0f} to {share[2]:.0f} %: the 10 and 90 % points of {self.worlds} worlds drawn from its "
            f"priors), {self.left:.1f} arms "
            "left at the end"
        )


def expected(sweep: Sweep, worlds: int = WORLDS) -> Expected:
    """What a race of the sweep is expected to cost, were it begun now from nothing. Raises SweepError as `blocks`
    does."""
    import numpy as np

    from analysis.compare.race import drawn_world

    order = blocks(sweep)
    seeds = list(dict.fromkeys(block.seed for block in order))
    x = log_sizes(order)
    rng = np.random.default_rng(0)
    paths = [simulated(drawn_world(rng, len(sweep.arms), x, len(seeds)), x, order, seeds) for _ in range(worlds)]
    counts = np.array([[racing.sum() for racing in path] for path in paths])  # (world, block + 1)
    cost = counts[:, :-1] @ np.array([block.flops for block in order])
    low, high = np.quantile(cost, [0.1, 0.9])
    full = len(sweep.arms) * sum(block.flops for block in order)
    return Expected(
        worlds, full, float(cost.mean()), float(low), float(high), order, tuple(counts[:, :-1].mean(axis=0).tolist()),
        float(np.maximum(counts[:, -1], 1).mean()),
    )  # fmt: skip


def simulated(
    y: Array, x: Array, order: tuple[Block, ...], seeds: list[int], alpha: float | None = None
) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Who would race in each block, and at the end, were y (arm, rung, seed) what the trainings give.

    Nobody in the blocks after a race that one arm alone is left of.
    """
    import numpy as np

    from analysis.compare.race import ALPHA, judge

    seen, racing = np.full_like(y, np.nan), np.ones(len(y), dtype=bool)
    path = []
    for block in order:
        path.append(racing.copy() if racing.sum() > 1 else np.zeros_like(racing))
        if racing.sum() > 1:
            s = seeds.index(block.seed)
            seen[racing, block.rung, s] = y[racing, block.rung, s]
            racing = racing & ~judge(seen, x, alpha=alpha or ALPHA, n_scales=48, draws=400, intervals=False).out
    return [*path, racing]
