"""What points can tell apart, whatever their losses: sizes, distinct points, variables that move together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analysis.laws.forms import Array, Form, PowerLaws
from analysis.laws.status import FitError

MIN_LENGTHS = 3
LEVEL_TOLERANCE = 0.02
"""Two sizes closer than 2 % are one level: the same model counted twice, or read off a figure."""
CHAIN_SPAN = 2.0 * LEVEL_TOLERANCE
"""Sizes that follow each other closely over more than this are no level read inexactly but a range."""
LINE_TOLERANCE = 0.02
"""Variables that keep a relation to 2 % at every point are one variable: their effects are not told apart."""


def levels(values: Array) -> Array:
    """Distinct sizes, ascending, each by its smallest value.

    Neighbours within 2 % are one level, unless a chain of them spans more than 4 %: that is cut every 2 %.
    """
    ordered = np.unique(values)
    logs = np.log(ordered)
    first = np.concatenate([[True], np.diff(logs) > LEVEL_TOLERANCE])
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(ordered)) - 1
    for start, end in zip(starts, ends, strict=True):
        if logs[end] - logs[start] > CHAIN_SPAN:
            step = np.floor((logs[start : end + 1] - logs[start]) / LEVEL_TOLERANCE)
            first[start + 1 : end + 1] = np.diff(step) > 0
    return np.asarray(ordered[first])


def level_index(values: Array) -> NDArray[np.intp]:
    """Which level each value belongs to, (n,), from 0."""
    return np.searchsorted(levels(values), values, side="right") - 1


def cell_index(columns: Sequence[Array]) -> NDArray[np.intp]:
    """Which distinct point, up to levels, each row is, (n,), from 0."""
    index = np.zeros(len(columns[0]), dtype=np.intp)
    for values in columns:
        level = level_index(values)
        _, index = np.unique(index * (int(level.max()) + 1) + level, return_inverse=True)
    return index


def check_lengths(d: Array) -> None:
    """Raises FitError for fewer than three amounts of data: E, B and beta of B / D^beta are three numbers."""
    lengths = len(levels(d))
    if lengths < MIN_LENGTHS:
        raise FitError(
            f"a surface L(N, D) needs losses at the end of {MIN_LENGTHS} lengths of training, there "
            f"{'is' if lengths == 1 else 'are'} {lengths}; with a learning rate that decays only the last point of a "
            "curve is one, so train several lengths."
        )


def count_distinct(columns: Sequence[Array]) -> int:
    return int(cell_index(columns).max()) + 1 if len(columns[0]) else 0


@dataclass(frozen=True)
class Relation:
    """log `variable` = offset + sum of powers x log(others), to `deviation` (largest, in log) at every point."""

    variable: str
    powers: Mapping[str, float]
    offset: float
    deviation: float

    @property
    def variables(self) -> tuple[str, ...]:
        return (*self.powers, self.variable)

    def off(self, x: Mapping[str, Array]) -> Array:
        """Distance of points from the relation in log `variable`, (m,)."""
        along = sum((power * np.log(x[name]) for name, power in self.powers.items()), start=np.zeros(1))
        return np.asarray(np.log(x[self.variable]) - self.offset - along)

    def leaves(self, x: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Which points lie clearly off it."""
        return np.abs(self.off(x)) > LINE_TOLERANCE + 2.0 * self.deviation

    @property
    def equation(self) -> str:
        """Such as D = 20 N, or D = 0.3 N^1.4; powers near 1 count as 1 only where the relation holds with these."""
        factors = [name if abs(p - 1.0) < 5e-3 else f"{name}^{p:.2f}" for name, p in self.powers.items()]
        return f"{self.variable} = {np.exp(self.offset):.3g} {' '.join(factors)}"


def relate(x: Mapping[str, Array], variable: str, others: Sequence[str]) -> Relation:
    """The closest relation of `variable` to `others`, by least squares in logs; with powers of 1 where these do."""
    y = np.log(x[variable])
    logs = np.column_stack([np.log(x[name]) for name in others])
    centred = logs - logs.mean(axis=0)
    powers = np.linalg.lstsq(centred, y - y.mean(), rcond=None)[0]
    plain = np.ones(len(others))
    rest = y - logs @ plain
    if np.max(np.abs(rest - rest.mean())) <= LINE_TOLERANCE:
        powers = plain
    rest = y - logs @ powers
    offset = float(rest.mean())
    named = {name: float(power) for name, power in zip(others, powers, strict=True)}
    return Relation(variable, named, offset, float(np.max(np.abs(rest - offset))))


def told_by_form(form: Form, fixed: Mapping[str, float]) -> tuple[str, ...]:
    """The variables whose exponents are free: those whose effects the data have to tell apart."""
    if not isinstance(form, PowerLaws):
        return form.variables
    free = [name for term in form.terms for name, exponent in term.powers if exponent not in fixed]
    return tuple(dict.fromkeys(free))


def moving_together(form: Form, x: Mapping[str, Array], fixed: Mapping[str, float]) -> Relation | None:
    """The first relation between variables of the form that holds at every point; None where all vary on their own."""
    names = told_by_form(form, fixed)
    for size in range(2, len(names) + 1):
        for group in combinations(names, size):
            relation = relate(x, group[-1], group[:-1])
            if relation.deviation <= LINE_TOLERANCE:
                return relation
    return None
