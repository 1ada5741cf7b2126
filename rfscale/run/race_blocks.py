"""The blocks of a race, and the limits at which it ends before they do. No Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial

if TYPE_CHECKING:
    from analysis.compare.components import Array

SAME_COST = 1.05
"""Arms whose trainings cost more than this factor apart are not raced: a race compares the ends of trainings."""
BEHIND = 1.5
"""Seeds by which the largest rung is behind the others."""
ALONE, ENOUGH, BUDGET = "alone", "enough", "budget"
"""The rules by which a race ends before its grid is trained."""


@dataclass(frozen=True, slots=True)
class Block:
    """One rung and one seed. `flops`: of one arm, all its tuned values together."""

    label: str
    rung: int
    seed: int
    flops: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a race ends though several arms are left. `budget`: FLOPs; a block with which all blocks so far would come
    to more is not begun. `enough`: a share of loss; over once the leader is expected to be no further behind the
    best."""

    budget: float = math.inf
    enough: float = 0.0

    def rule(self, left: int, behind: float, then: float) -> str:
        """By which rule a race ends with so many arms left, its leader `behind`, a share of loss, and `then` FLOPs
        with the next block; "" where it goes on."""
        if left == 1:
            return ALONE
        if behind <= self.enough and self.enough > 0:
            return ENOUGH
        return BUDGET if then > self.budget else ""

    @property
    def words(self) -> str:
        """As options of `rfscale run --race`; "" where there is none."""
        near = f"--enough {self.enough:g}" if self.enough > 0 else ""
        return " ".join(filter(None, (near, f"--budget {self.budget:g}" if self.budget < math.inf else "")))


def blocks(sweep: Sweep) -> tuple[Block, ...]:
    """The blocks of a sweep: seed by seed, each from the cheapest rung up, the largest rung a seed and a half behind,
    so that what a size says of a larger one is seen early. Raises SweepError where there is nothing to race."""
    if len(sweep.arms) < 2:
        raise SweepError(f"a race needs two arms or more, and {sweep.name} has one; run it without --race")
    places = {trial.trial_id: sweep.placing(trial) for trial in sweep.trials}
    rungs: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in sweep.trials:
        rungs.setdefault(places[trial.trial_id].rung, []).append(trial)
    costs = {rung: [trial.train_flops for trial in trials] for rung, trials in rungs.items()}
    for rung, flops in costs.items():
        if max(flops) > SAME_COST * min(flops):
            raise SweepError(
                f"a race compares the losses at the ends of trainings, and at {_label(rung, sweep)} one costs "
                f"{max(flops) / min(flops):.2g} times another; match the arms by FLOPs, or run it without --race"
            )
    order = sorted(rungs, key=lambda rung: sum(costs[rung]) / len(costs[rung]))
    seeds = list(dict.fromkeys(place.seed for place in places.values()))
    found = []
    for at, rung in enumerate(order):
        for seed in seeds:
            trials = tuple(trial for trial in rungs[rung] if places[trial.trial_id].seed == seed)
            if trials:
                arms = {places[trial.trial_id].arm for trial in trials}
                each = sum(trial.train_flops for trial in trials) / len(arms)
                found.append(Block(f"{_label(rung, sweep)}, seed {seed}", at, seed, each, trials))
    last = len(order) - 1
    return tuple(sorted(found, key=lambda b: (seeds.index(b.seed) + (BEHIND if b.rung == last else 0), b.rung)))


def log_sizes(order: tuple[Block, ...]) -> Array:
    """Log FLOPs of a training of each rung."""
    import numpy as np

    sizes = {block.rung: block.flops for block in order}
    return np.log([sizes[rung] for rung in sorted(sizes)])


def _label(rung: tuple[tuple[str, str], ...], sweep: Sweep) -> str:
    """The rung in words: the fields that the sweep moves, or the depth."""
    moved = {axis.field for axis in sweep.layout.of("rung") if len(axis.values) > 1}
    told = [(key, value) for key, value in rung if key in moved] or list(rung)[:1]
    words = ((key.rpartition(".")[2], value) for key, value in told)
    return ", ".join(f"{'depth' if word == 'depths' else word} {value}" for word, value in words) or "the one size"
