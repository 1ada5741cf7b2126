"""A race: trials block by block, the largest size last, over the arms that can still be the best. No Ray.

A block is one rung and one seed over all arms that race. When it has ended, `analysis.compare.race` is asked which
arms can no longer be the best at the largest rung, from the blocks that have ended and nothing else; what is left of
these arms is not trained, nor what is left of all arms where a limit ends the race. Every such trial is a line of the
store's ledger (`race_record`): who, when, by which rule and why. What stands there holds, so a race that was stopped
goes on with the same drops; one that had ended goes on where its limits are others. `rfscale run` without --race
trains what a race left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from rfscale import names
from rfscale.run.queue import Outcome
from rfscale.run.race_blocks import ALONE, ENOUGH, Block, Limits, blocks, log_sizes
from rfscale.run.race_record import Drop, End, drop_now, drops, end_now, ended, go_on
from rfscale.spec.axes import Placing
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store

if TYPE_CHECKING:
    from analysis.compare.components import Array
    from analysis.compare.race import Verdict


@dataclass(slots=True)
class Race:
    """Which of the trials that wait may be trained now. `say` is told of every drop, and of the end."""

    sweep: Sweep
    store: Store
    missing: frozenset[str]  # the trials that had not ended when the race began, or went on
    say: Callable[[str], None] = lambda text: None
    limits: Limits = field(default_factory=Limits)
    blocks: tuple[Block, ...] = field(init=False)
    gone: dict[str, Drop] = field(init=False)
    _asked: int = -1  # how many blocks had ended when it was last asked who is out
    _led: tuple[str, float] = ("", math.inf)  # the leader, and how far it is expected to be behind the best
    _over: bool = False

    def __post_init__(self) -> None:
        self.blocks = blocks(self.sweep)
        self.gone = drops(self.sweep, self.store)

    def open(self, trials: list[Trial]) -> list[Trial]:
        """Those of the arms that race; none where the race is over already."""
        waiting = list(trials)
        self.allowed(waiting, Outcome())
        return waiting

    def allowed(self, waiting: list[Trial], outcome: Outcome) -> list[Trial]:
        """The trials of the first block that has not ended. Takes off the queue what is dropped, and at the end all."""
        waiting[:] = [trial for trial in waiting if self._races(trial)]
        at = self._first_open(outcome)
        if at is None:
            return []
        if at != self._asked and not self._over:
            self._asked = at
            self._ask(at)
            self._over = self._ends(at)
            return self.allowed(waiting, outcome)  # of fewer arms another block may be the first
        if self._over:
            waiting.clear()
        ids = {trial.trial_id for trial in self.blocks[at].trials}
        return [trial for trial in waiting if trial.trial_id in ids]

    def _ends(self, at: int) -> bool:
        """Whether the race is over after the first `at` blocks; the ledger says so, or that one which had ended goes
        on."""
        racing = [arm for arm in self.sweep.arms if arm not in self.gone]
        leader, behind = self._led
        spent, then = self.spent(at), self.spent(at + 1)
        rule = self.limits.rule(len(racing), behind, then)
        if not rule:
            if count := go_on(self.sweep, self.store, self.limits.words):
                self.say(f"race: it had ended, and goes on; {count} trials that it had left wait again")
            return False
        after = self.blocks[at - 1].label if at else ""
        end = End(rule, at, after, leader, spent, then, self.blocks[at].label)
        if rule == ALONE:
            end = replace(end, leader=racing[0])
        else:
            limit = self.limits.enough if rule == ENOUGH else self.limits.budget
            end = replace(end, limit=limit, shortfall=behind if math.isfinite(behind) else None)
        said = ended(self.sweep, self.store)
        if said is None or (said.record != end.record and said.rule != ALONE):
            rest = chain.from_iterable(block.trials for block in self.blocks[at:])
            end_now(self.store, end, [t for t in rest if self._races(t) and t.trial_id in self.missing])
            said = end
        self.say(f"race: {said.sentence}")
        return True

    def spent(self, ended: int) -> float:
        """FLOPs of the first `ended` blocks, of the arms that raced in each."""
        before = {arm: drop.blocks for arm, drop in self.gone.items()}
        return float(
            sum(
                trial.train_flops
                for number, block in enumerate(self.blocks[:ended])
                for trial in block.trials
                if before.get(self.sweep.placing(trial).arm, number + 1) > number
            )
        )

    def _races(self, trial: Trial) -> bool:
        return self.sweep.placing(trial).arm not in self.gone

    def _first_open(self, outcome: Outcome) -> int | None:
        for at, block in enumerate(self.blocks):
            for trial in block.trials:
                ended = trial.trial_id in outcome.finished or trial.trial_id in outcome.unfinished
                if self._races(trial) and trial.trial_id in self.missing and not ended:
                    return at
        return None

    def _ask(self, at: int) -> None:
        """After the first `at` blocks: drop who can no longer be the best, in the ledger and here."""
        arms = self.sweep.arms
        if at == 0 or len(arms) - len(self.gone) < 2:
            return
        y, x = losses(self.sweep, self.store, self.blocks, at)
        verdict = _judged(y, x)
        if verdict is None:
            return
        self._led = arms[verdict.best], math.expm1(verdict.shortfall)
        self.gone |= drops(self.sweep, self.store)  # another launcher of the same race may have said it
        for i in (i for i, arm in enumerate(arms) if verdict.out[i] and arm not in self.gone):
            drop = Drop(
                arms[i], at, self.blocks[at - 1].label, float(verdict.at_least[i]), float(verdict.chance[i]),
                arms[verdict.best],
            )  # fmt: skip
            self.gone[arms[i]] = self._written(drop, at)
            self.say(f"race: {drop.sentence}")
        so_far = f"block {at} ({self.blocks[at - 1].label})"
        self.say(f"race: {len(arms) - len(self.gone)} of {len(arms)} arms go on after {so_far}")

    def _written(self, drop: Drop, at: int) -> Drop:
        """The drop as the ledger has it."""
        rest = chain.from_iterable(block.trials for block in self.blocks[at:])
        drop_now(self.store, drop, [trial for trial in rest if self.sweep.placing(trial).arm == drop.arm])
        return drops(self.sweep, self.store).get(drop.arm, drop)


def losses(sweep: Sweep, store: Store, order: tuple[Block, ...], ended: int) -> tuple[Array, Array]:
    """Log losses (arm, rung, seed) of the first `ended` blocks, NaN where there is none, and log FLOPs of every rung.

    Of tuned values that with the lowest mean over the seeds counts. What was left out by hand is.
    """
    import numpy as np

    excluded = store.ledger.excluded()
    arms, seeds = list(sweep.arms), list(dict.fromkeys(block.seed for block in order))
    found: dict[tuple[int, int], dict[tuple[tuple[str, str], ...], dict[int, float]]] = {}
    for block in order[:ended]:
        for trial in block.trials:
            state = store.trial(trial.trial_id).state()
            if state.status == names.FINISHED and trial.trial_id not in excluded and state.loss > 0:
                place: Placing = sweep.placing(trial)
                cell = found.setdefault((arms.index(place.arm), block.rung), {})
                cell.setdefault(place.tuned, {})[seeds.index(block.seed)] = math.log(state.loss)
    x = log_sizes(order)
    y = np.full((len(arms), len(x), len(seeds)), np.nan)
    for (i, k), cell in found.items():
        for s, value in _tuned(cell).items():
            y[i, k, s] = value
    return y, x


def _tuned(cell: Mapping[tuple[tuple[str, str], ...], Mapping[int, float]]) -> Mapping[int, float]:
    if len(cell) == 1:
        return next(iter(cell.values()))
    from analysis.compare.tuned import choose

    names_of = {tuple(value for _, value in tuned): tuned for tuned in cell}
    chosen, _ = choose({values: dict(cell[tuned].items()) for values, tuned in names_of.items()})
    return cell[names_of[tuple(map(str, chosen))]]


def _judged(y: Array, x: Array) -> Verdict | None:
    """The verdict, None with fewer than two arms to compare."""
    import numpy as np

    from analysis.compare.race import judge

    return judge(y, x, intervals=False) if np.isfinite(y).any(axis=(1, 2)).sum() > 1 else None
