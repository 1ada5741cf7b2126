"""What a race has on record, in the store's ledger: which arms were dropped, and how it ended. No Ray.

A line for each trial that is not trained because of it, who, when, by which rule and why: DROPPED with the numbers of a
`Drop`, LEFT with those of an `End`. A line that takes it back, INCLUDED, is of a race with other limits, or of a run
without --race.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rfscale import names
from rfscale.run.race_blocks import ALONE, ENOUGH, blocks
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.store.ledger import DROPPED, INCLUDED, LEFT

if TYPE_CHECKING:
    from analysis.compare.raced import Raced

RULE = "P(best at the largest size) <= 0.05 / arms, at any time"


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
        worse = ""
        if self.at_least >= 1.0005:  # less would be said as 0.0 %
            worse = f"at least {100 * (self.at_least - 1):.1f} % worse than the best at the largest size, "
        chance = f"{100 * self.chance:.2g} %" if self.chance >= 1e-4 else "less than 0.01 %"
        return (
            f"After block {self.blocks} ({self.after}) {self.arm} was dropped: {worse}"
            f"a chance of {chance} to be the best; {self.best} led"
        )


@dataclass(frozen=True, slots=True)
class End:
    """How a race ended before its grid was trained. `rule`: ALONE, ENOUGH or BUDGET, and `limit` what was given for it;
    `blocks`, `after`: how many had ended, and the last of them; `leader` (the arm that is left, of ALONE), and how far
    it was expected to be behind the best, a share of loss, where that was known; FLOPs `spent`, and those there would
    have been `then`, with `next`, the first block that was not begun."""

    rule: str
    blocks: int
    after: str
    leader: str
    spent: float
    then: float
    next: str
    shortfall: float | None = None
    limit: float | None = None
    who: str = ""
    when: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """As the ledger has it, which says itself who and when."""
        return {key: value for key, value in asdict(self).items() if key not in ("who", "when")}

    @property
    def sentence(self) -> str:
        """When it ended and why."""
        return f"The {self._ended}: {self._why}"

    @property
    def reason(self) -> str:
        """Of one trial that it left, in short."""
        return f"the {self._ended}"

    @property
    def _ended(self) -> str:
        return f"race ended after {f'block {self.blocks} ({self.after})' if self.blocks else 'no block'}"

    @property
    def _why(self) -> str:
        if self.rule == ALONE:
            return f"{self.leader} alone is left"
        if self.rule == ENOUGH and self.shortfall is not None:
            behind = f"expected to be {100 * self.shortfall:.2g} % behind the best"
            return f"{self.leader} leads and is {behind}, which is enough (--enough {self.limit:g})"
        spent = f"{self.spent:.3g} FLOPs are spent"
        return f"{spent}, and {self.next} would make it {self.then:.3g} of {self.limit:.3g} (--budget)"


def drops(sweep: Sweep, store: Store, ever: bool = False) -> dict[str, Drop]:
    """Arm -> how it was dropped, by the store's ledger, the first first; `ever`: also where that was taken back since.

    Raises StoreError for a damaged ledger.
    """
    found: dict[str, Drop] = {}
    for said in _last(sweep, store, ever).values():
        if isinstance(said, Drop):
            found.setdefault(said.arm, said)
    return dict(sorted(found.items(), key=lambda item: item[1].blocks))


def ended(sweep: Sweep, store: Store) -> End | None:
    """How the race ended, where trials that it left then are still not trained. Raises as `drops`."""
    left = _left(sweep, store)
    return max(left.values(), key=lambda end: end.when) if left else None


def _left(sweep: Sweep, store: Store, ever: bool = False) -> dict[str, End]:
    """Trial id -> the end of the race that left it, of those that nobody has trained since."""
    left = {trial_id: said for trial_id, said in _last(sweep, store, ever).items() if isinstance(said, End)}
    return {trial_id: left[trial_id] for trial_id in _untrained(store, left)}


def _last(sweep: Sweep, store: Store, ever: bool) -> dict[str, Drop | End]:
    """Trial id -> what a race said of it last; `ever`: also what was taken back since."""
    last: dict[str, Drop | End] = {}
    entries = list(store.ledger)
    if all(entry.race is None for entry in entries):
        return last  # most sweeps, and some have ten thousand trials
    arms = {trial.trial_id: sweep.placing(trial).arm for trial in sweep.trials}
    for entry in entries:
        if entry.trial_id not in arms:
            continue
        if entry.action == DROPPED and entry.race is not None:
            said = {**entry.race, "arm": arms[entry.trial_id], "who": entry.who, "when": entry.when}
            last[entry.trial_id] = Drop(**said)
        elif entry.action == LEFT and entry.race is not None:
            last[entry.trial_id] = End(**{**entry.race, "who": entry.who, "when": entry.when})
        elif entry.action == INCLUDED and not ever:
            last.pop(entry.trial_id, None)
    return last


def drop_now(store: Store, drop: Drop, rest: Iterable[Trial]) -> None:
    """The arm is dropped, in the ledger: a line for each of its trials that is not trained because of it."""
    record = {key: value for key, value in asdict(drop).items() if key not in ("arm", "who", "when")}
    for trial in rest:
        store.ledger.add(trial.trial_id, DROPPED, f"{drop.sentence}; rule: {RULE}", race=record)


def end_now(store: Store, end: End, left: Iterable[Trial]) -> None:
    """The race is over, in the ledger: a line for each trial that it leaves."""
    for trial in left:
        store.ledger.add(trial.trial_id, LEFT, f"{end.sentence}; rule: {end.rule}", race=end.record)


def go_on(sweep: Sweep, store: Store, words: str) -> int:
    """A race goes on that had ended: lines of the ledger; returns how many. `words`: its limits now."""
    left = _left(sweep, store)
    for trial_id in left:
        store.ledger.add(trial_id, INCLUDED, f"the race goes on, {f'with {words}' if words else 'without a limit'}")
    return len(left)


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
    arms = ((trial.trial_id, sweep.placing(trial).arm) for trial in sweep.trials if gone)
    dropped = {trial_id: said[arm] for trial_id, arm in arms if arm in gone}
    left = {trial_id: end.reason for trial_id, end in _left(sweep, store).items()}
    return {trial_id: dropped[trial_id] for trial_id in _untrained(store, dropped)} | left


def _untrained(store: Store, trial_ids: Iterable[str]) -> list[str]:
    """Those of them that have not ended."""
    return [trial_id for trial_id in trial_ids if store.trial(trial_id).state().status not in names.OVER]


def raced(sweep: Sweep, store: Store) -> Raced | None:
    """How the sweep was raced, for its comparison; None where it was not, or where all that was left out is trained."""
    gone = drops(sweep, store, ever=True)
    of_arms = (trial.trial_id for trial in sweep.trials if gone and sweep.placing(trial).arm in gone)
    if not _untrained(store, of_arms) and not _left(sweep, store, ever=True):
        return None
    from analysis.compare.raced import Raced

    end = ended(sweep, store)
    return Raced(
        len(sweep.arms),
        max(blocks(sweep), key=lambda block: block.rung).flops,
        {arm: drop.sentence for arm, drop in gone.items()},
        end.sentence if end is not None else "",
    )
