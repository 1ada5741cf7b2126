"""The trials of a sweep as an array (arm, rung, seed): what may be compared with what, decided by identity alone.

A rung is every key of the identity that is no arm, no tuned value and no seed: nothing is merged by forgetting it. Two
trials of different identity never share a cell; where they would, the keys that tell them apart join the rung.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.compare import labels, tuned
from analysis.compare.tuned import Choice, Values
from analysis.table.ends import end_curves
from analysis.table.identity import Identity, Value, column
from analysis.table.read import SweepTable
from rfscale import names

Array = NDArray[np.float64]
Place = tuple[str, Values]
"""Arm and rung: the values of the rung's keys."""

YARDSTICK = ("data.", "evaluation.")
"""Sections of the identity that say what val/loss is measured on."""
SAME_COST = 1e-6
"""FLOPs that differ by less than this share are the same cost."""


class CompareError(names.RfscaleError, ValueError):
    """A comparison cannot be made as asked; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Rung:
    """Where arms are compared. `parameters` N, the geometric mean over the arms where they differ; `flops` C of one
    training, at which the losses are taken; `alone`: the only arm that has trials here, of several, else empty.
    """

    label: str
    parameters: float
    flops: float
    alone: str = ""


@dataclass(frozen=True)
class Cells:
    """Log losses (arm, rung, seed), NaN where a trial is missing, rungs by size and then by length.

    `noun`: what an arm is, such as 'formulation'. `formulations`: of each arm, empty where it has several. `trial_ids`
    by (arm, rung, seed): with tuned axes those of the values chosen, which `choices` names. `spaces`: what the arms'
    x0 live in, None for pixels; one where that is no key of the arms. `equal_flops`: the arms differ in cost, so that
    losses are taken along the curves at the FLOPs of the rung, not at the end of training.
    `unreached`: arms left out since the curves of all their trials begin beyond these FLOPs. `own_yardstick`: the keys
    of the arms that change what val/loss is measured on. `legend`: what the letters in labels stand for.
    """

    noun: str
    arms: tuple[str, ...]
    unreached: tuple[str, ...]
    formulations: tuple[str, ...]
    rungs: tuple[Rung, ...]
    seeds: tuple[Value, ...]
    log_loss: Array
    trial_ids: dict[tuple[int, int, int], str]
    choices: tuple[Choice, ...]
    equal_flops: bool
    own_yardstick: tuple[str, ...]
    spaces: tuple[Value | None, ...]
    legend: str

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(rung.label for rung in self.rungs)

    @property
    def parameters(self) -> Array:
        """N of each rung."""
        return np.array([rung.parameters for rung in self.rungs])

    @property
    def flops(self) -> Array:
        """C of each rung."""
        return np.array([rung.flops for rung in self.rungs])

    @staticmethod
    def of(table: SweepTable, by: Sequence[str] = ()) -> Cells:
        """Of a sweep, by its own arms or, with `by`, by the values of these keys of the identity.

        Raises CompareError for an unknown key, for arms that share no rung because they differ in something that is no
        arm, and for two trainings that what is on record does not tell apart.
        """
        sorted_out = _sort_out(table, by)
        _check_not_confounded(sorted_out)
        return _fill(table, sorted_out)


def rung_labels(table: SweepTable) -> pd.Series:
    """The label of each trial's rung, as a column beside `table.trials`."""
    sorted_out = _sort_out(table, ())
    told = dict(zip(sorted_out.rungs, _labels(sorted_out), strict=True))
    return pd.Series([told[trial.rung] for trial in sorted_out.trials], index=table.trials.index, dtype=object)


def tried(table: SweepTable) -> tuple[tuple[str, ...], pd.DataFrame]:
    """The tuned keys, and every trial with all values of them: `trial_id, arm, rung, parameters, seed, log_loss` (at
    the FLOPs of its rung) and a column for each key."""
    known = _sort_out(table, ())
    losses, told = _losses(table, known, _budgets(known)[0]), dict(zip(known.rungs, _labels(known), strict=True))
    rows = [(t.trial_id, t.arm, told[t.rung], t.parameters, t.seed, losses[t.trial_id], *t.tuned) for t in known.trials]
    columns = ["trial_id", "arm", "rung", "parameters", "seed", "log_loss", *known.tuned_keys]
    return known.tuned_keys, pd.DataFrame(rows, columns=columns)


# --- who is where -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    trial_id: str
    arm: str
    rung: Values
    tuned: Values
    seed: Value
    flops: float
    parameters: float
    formulation: str


@dataclass(frozen=True)
class _SortedOut:
    """Every trial in its place. `rungs`: in order. `keys`: of the rung; `declared` those that the sweep moves."""

    trials: list[_Trial]
    arms: list[str]
    rungs: list[Values]
    keys: tuple[str, ...]
    declared: tuple[str, ...]
    tuned_keys: tuple[str, ...]
    arm_keys: tuple[str, ...]
    spaces: tuple[Value | None, ...]
    noun: str
    not_finished: list[tuple[Place, Values, str]]  # where, with which tuned values, status


def _sort_out(table: SweepTable, by: Sequence[str]) -> _SortedOut:
    roles, by = table.roles, _known_keys(table, by)
    arm_keys = by or roles.arm
    tuned_keys = tuple(key for key in roles.tuned if key not in arm_keys)
    seed_keys = tuple(key for key in roles.seed if key not in arm_keys)
    identities = _identities(table.trials, table.keys)
    arms = [_arm(identity, by) for identity in identities] if by else [str(arm) for arm in table.trials["arm"]]
    taken = {*arm_keys, *tuned_keys, *seed_keys}
    cells = [(a, _of(i, tuned_keys), _of(i, seed_keys)) for a, i in zip(arms, identities, strict=True)]
    keys = _rung_keys(
        [key for key in table.keys if key not in taken], cells, identities, list(table.trials["trial_id"])
    )
    rows = zip(
        table.trials["trial_id"], arms, identities, table.trials["train_flops"], table.trials["parameters"],
        table.trials["formulation"], strict=True,
    )  # fmt: skip
    trials = [
        _Trial(str(t), arm, _of(i, keys), _of(i, tuned_keys), _seed(_of(i, seed_keys)), float(c), float(n), str(f))
        for t, arm, i, c, n, f in rows
    ]
    size = {trial.rung: (trial.parameters, trial.flops) for trial in reversed(trials)}
    unfinished = _identities(table.rejected, table.keys)
    unfinished_arms = [_arm(i, by) for i in unfinished] if by else [str(arm) for arm in table.rejected["arm"]]
    return _SortedOut(
        trials=trials,
        arms=list(dict.fromkeys(_arm(i, by) for i in _by_value(identities, by))) if by else sorted(set(arms)),
        rungs=sorted(size, key=lambda rung: (*size[rung], str(rung))),
        keys=keys,
        declared=() if set(by) & set(roles.rung) else roles.rung,
        tuned_keys=tuned_keys,
        arm_keys=arm_keys,
        spaces=tuple(dict.fromkeys(i.get(names.SPACE) for i in identities)) if names.SPACE in arm_keys else (None,),
        noun=labels.words(arm_keys[0]) if len(arm_keys) == 1 else "arm",
        not_finished=[
            ((arm, _of(i, keys)), _of(i, tuned_keys), str(status))
            for arm, i, status in zip(unfinished_arms, unfinished, table.rejected["status"], strict=True)
            if i
        ],
    )


def _known_keys(table: SweepTable, by: Sequence[str]) -> tuple[str, ...]:
    """Keys of the identity as asked for, with or without the prefix. Raises CompareError."""
    found = tuple(key.removeprefix(names.IDENTITY) for key in by)
    for key in found:
        if key not in table.keys:
            raise CompareError(
                f"no trial has {key!r} on record, so nothing can be compared by it; choose one of "
                f"{', '.join(key for key in table.keys if table.trials[column(key)].nunique(dropna=False) > 1)}"
            )
    return found


def _identities(frame: pd.DataFrame, keys: Sequence[str]) -> list[Identity]:
    columns = [column(key) for key in keys if column(key) in frame]
    return [
        {name.removeprefix(names.IDENTITY): v for name, v in zip(columns, row, strict=True) if v is not None}
        for row in frame[columns].itertuples(index=False)
    ]


def _of(identity: Identity, keys: Sequence[str]) -> Values:
    return tuple(identity.get(key) for key in keys)


def _seed(values: Values) -> Value:
    """A seed is a number; where several keys repeat a trial, their values together."""
    first = values[0] if len(values) == 1 else None
    return first if first is not None else " ".join(map(labels.number, values))


def _arm(identity: Identity, by: Sequence[str]) -> str:
    return ", ".join(labels.said(key, identity.get(key)) for key in by)


def _by_value(identities: Sequence[Identity], keys: Sequence[str]) -> list[Identity]:
    order = {key: labels.ordered([identity.get(key) for identity in identities]) for key in keys}
    return sorted(identities, key=lambda identity: [order[key].index(identity.get(key)) for key in keys])


def _rung_keys(
    keys: Sequence[str], cells: Sequence[object], identities: Sequence[Identity], trial_ids: Sequence[str]
) -> tuple[str, ...]:
    """`keys`, and those that tell apart trials which would share a cell. `cells`: arm, tuned values and seed of each.

    Raises CompareError where two trainings have the same on record.
    """
    everything = {key for identity in identities for key in identity}
    groups: dict[object, list[int]] = defaultdict(list)
    for i, (cell, identity) in enumerate(zip(cells, identities, strict=True)):
        groups[cell, _of(identity, keys)].append(i)
    shared = [group for group in groups.values() if len(group) > 1]
    more = {key for group in shared for key in everything if len({identities[i].get(key) for i in group}) > 1}
    found = (*keys, *sorted(more))
    for group in shared:
        for i, j in combinations(group, 2):
            if _of(identities[i], sorted(more)) == _of(identities[j], sorted(more)):
                raise CompareError(
                    f"the trials {trial_ids[i]} and {trial_ids[j]} are different trainings, but the parameters on "
                    f"record are the same: they were written by an earlier version; run `rfscale compare` where the "
                    f"store can be written, which adds what is missing"
                )
    return found


# --- what cannot be compared ------------------------------------------------------------------------------------------


def _check_not_confounded(known: _SortedOut) -> None:
    """Raise CompareError where arms have no rung in common because of something that is no arm.

    A rung that is missing because its trials are not there yet is nothing to complain of: it differs in what the sweep
    moves from rung to rung alone.
    """
    rungs: dict[str, set[Values]] = defaultdict(set)
    for trial in known.trials:
        rungs[trial.arm].add(trial.rung)
    groups: list[set[str]] = []
    for arm in known.arms:
        joined = [group for group in groups if any(rungs[arm] & rungs[other] for other in group)]
        groups = [group for group in groups if group not in joined] + [{arm}.union(*joined)]
    main = max(groups, key=len)
    for group in (g for g in groups if g is not main):
        pairs = product(sorted(main), sorted(group))
        found = [(a, b, x, y) for a, b in pairs for x in rungs[a] for y in rungs[b]]
        a, b, x, y = min(found, key=lambda pair: (len(_foreign(known, *pair[2:])), *pair[:2], str(pair[2:])))
        fields = _foreign(known, x, y)
        if fields:
            values = {key: (x[known.keys.index(key)], y[known.keys.index(key)]) for key in fields}
            told = [f"{key} ({' and '.join(map(labels.number, pair))})" for key, pair in list(values.items())[:3]]
            more = f" and {len(fields) - 3} more" if len(fields) > 3 else ""
            raise CompareError(
                f"{a} and {b} cannot be compared: they have no trials that differ in the {known.noun} alone, but "
                f"everywhere also in {', '.join(told)}{more}; train both with the same, or make it part of what is "
                f"compared"
            )


def _foreign(known: _SortedOut, x: Values, y: Values) -> list[str]:
    """The keys in which two rungs differ and which the sweep does not move from rung to rung."""
    rows = zip(known.keys, x, y, strict=True)
    return [key for key, v, w in rows if v != w and key not in known.declared]


# --- the array --------------------------------------------------------------------------------------------------------


def _fill(table: SweepTable, known: _SortedOut) -> Cells:
    budgets, equal = _budgets(known)
    losses = _losses(table, known, budgets)
    told = _labels(known)
    chosen, choices = _choose(known, losses, told)
    used = [trial for trial in known.trials if chosen[trial.arm, trial.rung] == trial.tuned]
    seeds = tuple(v for v in labels.ordered([trial.seed for trial in used]) if v is not None)
    reached = {trial.arm for trial in used if math.isfinite(losses[trial.trial_id])}
    arms = tuple(arm for arm in known.arms if arm in reached)
    log_loss = np.full((len(arms), len(known.rungs), len(seeds)), np.nan)
    trial_ids = {}
    for trial in (t for t in used if t.arm in reached):
        at = arms.index(trial.arm), known.rungs.index(trial.rung), seeds.index(trial.seed)
        log_loss[at] = losses[trial.trial_id]
        trial_ids[at] = trial.trial_id
    formulations: dict[str, set[str]] = defaultdict(set)
    for trial in known.trials:
        formulations[trial.arm].add(trial.formulation)
    return Cells(
        noun=known.noun,
        arms=arms,
        unreached=tuple(arm for arm in known.arms if arm not in reached),
        formulations=tuple(next(iter(f)) if len(f := formulations[arm]) == 1 else "" for arm in arms),
        rungs=tuple(_rung(known, used, r, label, budgets[r]) for r, label in zip(known.rungs, told, strict=True)),
        seeds=seeds,
        log_loss=log_loss,
        trial_ids=trial_ids,
        choices=tuple(choices),
        equal_flops=equal,
        own_yardstick=tuple(key for key in known.arm_keys if key.startswith(YARDSTICK)),
        spaces=known.spaces,
        legend=labels.legend(known.keys),
    )  # fmt: skip


def _labels(known: _SortedOut) -> list[str]:
    return labels.tell_apart([dict(zip(known.keys, rung, strict=True)) for rung in known.rungs], known.declared)


def _rung(known: _SortedOut, used: Sequence[_Trial], rung: Values, label: str, flops: float) -> Rung:
    here = [trial for trial in used if trial.rung == rung]
    arms = {trial.arm for trial in here}
    sizes = sorted({trial.parameters for trial in here})
    parameters = sizes[0] if len(sizes) == 1 else math.exp(float(np.mean(np.log([t.parameters for t in here]))))
    alone = next(iter(arms)) if len(arms) == 1 and len(known.arms) > 1 else ""
    return Rung(label, parameters, flops, alone)


def _budgets(known: _SortedOut) -> tuple[dict[Values, float], bool]:
    """The FLOPs at which the arms of each rung are compared, the least that any of them has; whether any differ."""
    ends: dict[Values, list[float]] = defaultdict(list)
    for trial in known.trials:
        ends[trial.rung].append(trial.flops)
    differ = any(max(flops) > (1 + SAME_COST) * min(flops) for flops in ends.values())
    return {rung: min(flops) for rung, flops in ends.items()}, differ


def _losses(table: SweepTable, known: _SortedOut, budgets: Mapping[Values, float]) -> dict[str, float]:
    """trial -> log loss at the FLOPs of its rung: at the end, or along the curve where another arm costs less."""
    out = dict(zip(table.trials["trial_id"], np.log(table.trials[names.VAL_LOSS].to_numpy(float)), strict=True))
    longer = [t for t in known.trials if t.flops > (1 + SAME_COST) * budgets[t.rung]]
    if longer:
        curves = end_curves(table)
        out |= {t.trial_id: log_loss_at(curves[t.trial_id], budgets[t.rung]) for t in longer}
    return {str(trial): float(loss) for trial, loss in out.items()}


def log_loss_at(curve: tuple[Array, Array], flops: float) -> float:
    """Log loss of a curve (FLOPs, loss) at these FLOPs, straight in log-log between its points; NaN outside them."""
    use = (curve[0] > 0) & (curve[1] > 0) & np.isfinite(curve[1])
    x, y = np.log(curve[0][use]), np.log(curve[1][use])
    order = np.argsort(x, kind="stable")
    return float(np.interp(math.log(flops), x[order], y[order], left=np.nan, right=np.nan)) if len(x) else math.nan


def _choose(
    known: _SortedOut, losses: Mapping[str, float], told: Sequence[str]
) -> tuple[dict[Place, Values], list[Choice]]:
    """The tuned values of each arm and rung."""
    found: dict[Place, dict[Values, dict[Value, float]]] = defaultdict(lambda: defaultdict(dict))
    tried: dict[Values, set[Values]] = defaultdict(set)
    for trial in known.trials:
        found[trial.arm, trial.rung][trial.tuned][trial.seed] = losses[trial.trial_id]
        tried[trial.rung].add(trial.tuned)
    diverged: dict[Place, set[Values]] = defaultdict(set)
    for place, values, status in known.not_finished:
        tried[place[1]].add(values)
        if status == names.DIVERGED:
            diverged[place].add(values)
    chosen, choices = {}, []
    for place in sorted(found, key=lambda p: (known.arms.index(p[0]), known.rungs.index(p[1]))):
        values, n = tuned.choose(found[place], diverged[place])
        chosen[place] = values
        if known.tuned_keys:
            arm, rung = place
            lists = zip(*tried[rung], strict=True)
            options = {k: tuple(labels.ordered(v)) for k, v in zip(known.tuned_keys, lists, strict=True)}
            value = dict(zip(known.tuned_keys, values, strict=True))
            label = told[known.rungs.index(rung)]
            choices.append(Choice(arm, label, value, options, tuned.edges(value, options), n))
    return chosen, choices
