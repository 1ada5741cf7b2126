"""A race: trials block by block, the largest size last, over the arms that can still be the best. No Ray.

A block is one rung and one seed over all arms that race. When it has ended, `analysis.compare.race` is asked which
arms can no longer be the best at the largest rung, from the blocks that have ended and nothing else; what is left of
these arms is not trained. Every such trial is a line of the store's ledger: who, when, by which rule and why. What
stands there holds, so a race that was stopped goes on with the same drops. `rfscale run` without --race trains what a
race left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from rfscale import names
from rfscale.run.queue import Outcome
from rfscale.spec.axes import Placing
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.store.ledger import DROPPED, INCLUDED

if TYPE_CHECKING:
    from analysis.compare.components import Array
    from analysis.compare.race import Verdict
    from analysis.compare.raced import Raced

RULE = "P(best at the largest size) <= 0.05 / arms, at any time"
SAME_COST = 1.05
"""Arms whose trainings cost more than this factor apart are not raced: a race compares the ends of trainings."""
BEHIND = 1.5
"""Seeds by which the largest rung is behind the others."""


@dataclass(frozen=True, slots=True)
class Block:
    """One rung and one seed. `flops`: of one arm, all its tuned values together."""

    label: str
    rung: int
    seed: int
    flops: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """An arm that was dropped. `after`: the blocks that had ended, and the last of them. `at_least`: a bound of the
    ratio of its loss to that of the best at the largest rung, then; `chance`: of being the best, then."""

    arm: str
    blocks: int
    after: str
    at_least: float
    chance: float
    best: str
    who: str = ""
    when: str = ""

    @property
    def sentence(self) -> str:
        """Why it was dropped."""
        worse = f"at least {100 * (self.at_least - 1):.1f} % worse than the best at the largest size, "
        chance = f"{100 * self.chance:.2g} %" if self.chance >= 1e-4 else "less than 0.01 %"
        return (
            f"After block {self.blocks} ({self.after}) {self.arm} was dropped: {worse if self.at_least > 1 else ''}"
            f"a chance of {chance} to be the best; {self.best} led"
        )


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


def drops(sweep: Sweep, store: Store, ever: bool = False) -> dict[str, Drop]:
    """Arm -> how it was dropped, by the store's ledger, the first first; `ever`: also where that was taken back since.

    Raises StoreError for a damaged ledger.
    """
    arms = {trial.trial_id: sweep.placing(trial).arm for trial in sweep.trials}
    last: dict[str, Drop | None] = {}
    for entry in store.ledger:
        arm = arms.get(entry.trial_id)
        if arm is not None and entry.action == DROPPED and entry.race is not None:
            last[entry.trial_id] = Drop(**{**entry.race, "arm": arm, "who": entry.who, "when": entry.when})
        elif entry.trial_id in last and entry.action == INCLUDED and not ever:
            last[entry.trial_id] = None
    found: dict[str, Drop] = {}
    for drop in last.values():
        if drop is not None:
            found.setdefault(drop.arm, drop)
    return dict(sorted(found.items(), key=lambda item: item[1].blocks))


def take_back(sweep: Sweep, store: Store) -> int:
    """A run without a race trains what a race left out: lines of the ledger; returns how many."""
    gone = left_out(sweep, store)
    for trial_id in gone:
        store.ledger.add(trial_id, INCLUDED, "trained by a run without --race")
    return len(gone)


def left_out(sweep: Sweep, store: Store) -> dict[str, str]:
    """Trial id -> why a race left it out, of those that nobody has trained since."""
    gone = drops(sweep, store)
    said = {arm: f"a race dropped its arm after block {drop.blocks} ({drop.after})" for arm, drop in gone.items()}
    return {trial.trial_id: said[sweep.placing(trial).arm] for trial in _untrained(sweep, store, gone)}


def _untrained(sweep: Sweep, store: Store, gone: Mapping[str, Drop]) -> list[Trial]:
    """The trials of these arms that have not ended."""
    ended = names.OVER
    trials = (trial for trial in sweep.trials if sweep.placing(trial).arm in gone) if gone else ()
    return [trial for trial in trials if store.trial(trial.trial_id).state().status not in ended]


def raced(sweep: Sweep, store: Store) -> Raced | None:
    """How the sweep was raced, for its comparison; None where it was not, or where all that was left out is trained."""
    gone = drops(sweep, store, ever=True)
    if not _untrained(sweep, store, gone):
        return None
    from analysis.compare.raced import Raced

    return Raced(
        len(sweep.arms),
        max(blocks(sweep), key=lambda block: block.rung).flops,
        {arm: drop.sentence for arm, drop in gone.items()},
    )


# --- while it runs ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Race:
    """Which of the trials that wait may be trained now. `say` is told of every drop."""

    sweep: Sweep
    store: Store
    missing: frozenset[str]  # the trials that had not ended when the race began, or went on
    say: Callable[[str], None] = lambda text: None
    budget: float = math.inf  # FLOPs: a block with which all blocks so far would come to more is not begun
    enough: float = 0.0  # a share of loss: over once the leader is expected to be no further behind the best
    blocks: tuple[Block, ...] = field(init=False)
    gone: dict[str, Drop] = field(init=False)
    _asked: int = -1  # how many blocks had ended when it was last asked who is out
    _led: tuple[str, float] = ("", math.inf)  # the leader, and how far it is expected to be behind the best
    _over: bool = False

    def __post_init__(self) -> None:
        self.blocks = blocks(self.sweep)
        self.gone = drops(self.sweep, self.store)

    def open(self, trials: list[Trial]) -> list[Trial]:
        """Those of the arms that race; none where one arm alone is left."""
        return [t for t in trials if self._races(t)] if len(self.sweep.arms) - len(self.gone) > 1 else []

    def allowed(self, waiting: list[Trial], outcome: Outcome) -> list[Trial]:
        """The trials of the first block that has not ended. Takes off the queue what is dropped."""
        waiting[:] = [trial for trial in waiting if self._races(trial)]
        at = self._first_open(outcome)
        if self._over or at is None:
            return []
        if at != self._asked:
            self._asked = at
            self._ask(at)
            if why := self._why_over(at):
                self._over = True
                self.say(f"race: {why} after {self._so_far(at)}, so it is over")
                waiting.clear()
                return []
            return self.allowed(waiting, outcome)
        ids = {trial.trial_id for trial in self.blocks[at].trials}
        return [trial for trial in waiting if trial.trial_id in ids]

    def _why_over(self, at: int) -> str:
        """Why no other block is begun; "" where one is."""
        left = [arm for arm in self.sweep.arms if arm not in self.gone]
        if len(left) == 1:
            return f"{left[0]} alone is left"
        leader, behind = self._led
        if behind <= self.enough:
            return f"{leader} leads and is expected to be {100 * behind:.2g} % behind the best, which is enough,"
        spent, then = self.spent(at), self.spent(at + 1)
        if then > self.budget:
            what = self.blocks[at].label
            return f"{spent:.3g} FLOPs are spent, and {what} would make it {then:.3g} of {self.budget:.3g}"
        return ""

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

    def _so_far(self, at: int) -> str:
        return f"block {at} ({self.blocks[at - 1].label})" if at else "no block"

    def _ask(self, at: int) -> None:
        """After the first `at` blocks: drop who can no longer be the best, in the ledger and here."""
        if at == 0:
            return
        y, x = losses(self.sweep, self.store, self.blocks, at)
        verdict = _judged(y, x)
        if verdict is None:
            return
        arms = self.sweep.arms
        self._led = arms[verdict.best], math.expm1(verdict.shortfall)
        self.gone |= drops(self.sweep, self.store)  # another launcher of the same race may have said it
        for i in (i for i, arm in enumerate(arms) if verdict.out[i] and arm not in self.gone):
            drop = Drop(
                arms[i], at, self.blocks[at - 1].label, float(verdict.at_least[i]), float(verdict.chance[i]),
                arms[verdict.best],
            )  # fmt: skip
            self.gone[arms[i]] = self._written(drop, self.blocks[at:])
            self.say(f"race: {drop.sentence}")
        self.say(f"race: {len(arms) - len(self.gone)} of {len(arms)} arms go on after {self._so_far(at)}")

    def _written(self, drop: Drop, rest: Iterable[Block]) -> Drop:
        """The drop as lines of the ledger, one for each trial that is not trained because of it."""
        record = {key: value for key, value in asdict(drop).items() if key not in ("arm", "who", "when")}
        for trial in (trial for block in rest for trial in block.trials):
            if self.sweep.placing(trial).arm == drop.arm:
                self.store.ledger.add(trial.trial_id, DROPPED, f"{drop.sentence}; rule: {RULE}", race=record)
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
