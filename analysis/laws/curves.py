"""What the joint law is fitted to and how its parameters stand: the curves of all arms, and the layout of theta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.forms import Array, LogSumExp
from analysis.laws.status import FitError

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Curves:
    """The points of all arms, arrays (n,): `arm`, `trial` and `cell` are indices, a cell being one size and seed."""

    arms: tuple[str, ...]
    arm: Index
    n: Array
    d: Array
    loss: Array
    trial: Index
    cell: Index

    @staticmethod
    def of(
        arm: Sequence[str], n: ArrayLike, d: ArrayLike, loss: ArrayLike, trial: ArrayLike, seed: ArrayLike
    ) -> Curves:
        """From one label, size, number of samples, loss, trial and seed per point. Raises FitError on bad values."""
        arms, index = np.unique(np.asarray(arm, dtype=str), return_inverse=True)
        size, samples, value = (np.asarray(column, dtype=np.float64) for column in (n, d, loss))
        for name, column in (("N", size), ("D", samples), ("the loss", value)):
            if not np.all(np.isfinite(column) & (column > 0.0)):
                raise FitError(f"{name} must be positive and finite at every point of a curve.")
        cells = np.char.add(np.char.add(size.astype(str), " "), np.asarray(seed).astype(str))
        trials, which = (np.unique(labels, return_inverse=True)[1] for labels in (np.asarray(trial).astype(str), cells))
        return Curves(tuple(map(str, arms)), index, size, samples, value, trials, which)

    def where(self, keep: NDArray[np.bool_]) -> Curves:
        """Some of the points; arms without any are dropped."""
        arms, index = np.unique(self.arm[keep], return_inverse=True)
        trial, cell = (np.unique(labels[keep], return_inverse=True)[1] for labels in (self.trial, self.cell))
        names = tuple(self.arms[i] for i in arms)
        return Curves(names, index, self.n[keep], self.d[keep], self.loss[keep], trial, cell)


@dataclass(frozen=True)
class Layout:
    """Where the parameters stand in theta = (E, log A.., log B.., alpha.., beta..), coefficients at the centre."""

    arms: int
    own_alpha: bool
    own_beta: bool

    @property
    def size(self) -> int:
        return 1 + 2 * self.arms + self._n_alpha + (self.arms if self.own_beta else 1)

    @property
    def _n_alpha(self) -> int:
        return self.arms if self.own_alpha else 1

    def a(self, arm: Index) -> Index:
        return 1 + arm

    def b(self, arm: Index) -> Index:
        return 1 + self.arms + arm

    def alpha(self, arm: Index) -> Index:
        return np.asarray(1 + 2 * self.arms + (arm if self.own_alpha else 0 * arm))

    def beta(self, arm: Index) -> Index:
        return np.asarray(1 + 2 * self.arms + self._n_alpha + (arm if self.own_beta else 0 * arm))

    def bind(self, arm: Index, u: Array, v: Array) -> LogSumExp:
        """The law at points of centred log N and log D."""
        n = len(u)
        design, at = np.zeros((3, self.size, n)), np.arange(n)
        design[1, self.a(arm), at] = 1.0
        design[1, self.alpha(arm), at] = -u
        design[2, self.b(arm), at] = 1.0
        design[2, self.beta(arm), at] = -v
        return LogSumExp(("",) * self.size, design, np.zeros((3, n)), (0, 0))
