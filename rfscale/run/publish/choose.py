"""Whose weights are published: none, the best, all, those of an arm, or those of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rfscale import names
from rfscale.quoting import quoted
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial
from rfscale.store import Store, StoreError

if TYPE_CHECKING:
    from analysis.table.read import SweepTable

NONE, BEST, ALL = "none", "best", "all"


def chosen(which: Sequence[str], sweep: Sweep, store: Store, table: SweepTable) -> list[Trial]:
    """The trials that are meant, in the order of the sweep. `best` has the lowest `val/loss`.

    Raises SweepError for what is none of these, and StoreError for a trial whose weights are not there.
    """
    if NONE in which and len(set(which)) > 1:
        raise SweepError("--weights none and other weights are both given; leave out one of them")
    used = set(table.trials["trial_id"])
    found: set[str] = set()
    for one in which:
        found |= _meant(one, sweep, table, used)
    trials = [trial for trial in sweep.trials if trial.trial_id in found]
    for trial in trials:
        weights = store.trial(trial.trial_id).bring("ema.safetensors")
        if not weights.exists():
            raise StoreError(
                f"the weights {weights} are not there, as of a trial that was imported; publish without them, with "
                "--weights none or the ids of others"
            )
    return trials


def _meant(one: str, sweep: Sweep, table: SweepTable, used: set[str]) -> set[str]:
    if one == NONE:
        return set()
    if one == ALL:
        return used
    if one == BEST:
        return {str(table.trials.sort_values([names.VAL_LOSS, "trial_id"])["trial_id"].iloc[0])}
    if one in sweep.arms:
        return set(table.trials.loc[table.trials["arm"] == one, "trial_id"])
    ids = [trial.trial_id for trial in sweep.trials if len(one) >= 4 and trial.trial_id.startswith(one)]
    if len(ids) == 1 and ids[0] in used:
        return set(ids)
    if ids:
        why = "is not finished" if len(ids) == 1 else f"begins the ids of {len(ids)} trials"
        raise SweepError(
            f"--weights {quoted(one)}: that {why}; give the id of a finished trial, which `rfscale status` lists"
        )
    raise SweepError(
        f"--weights {quoted(one)} is neither none, best or all, nor an arm ({', '.join(sweep.arms)}), nor the id of a "
        "trial; give one of these"
    )
