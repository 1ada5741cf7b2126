"""Rows of the checks that come with a fit, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.laws.forms import Array

CHANCE = 1.6
"""A squared mean error of up to this many times the variance that was claimed for it is left to chance."""
GROWTH = 3.0
"""A wrong law errs by more where it is carried on than where it was seen to fail. Both constants were chosen such that
intervals cover under wrong laws and stay as they are under the right one (benchmarks/coverage.py)."""


@dataclass(frozen=True)
class RolloutRow:
    """One cut: points with `axis` above `cut` were hidden. Arrays are over the hidden points."""

    axis: str
    cut: float
    form: str
    n_train: int
    n_test: int
    units: int  # hidden groups, or points without groups: each has noise of its own
    x: Array
    measured: Array
    predicted: Array
    low: Array
    high: Array
    prediction_low: Array
    prediction_high: Array
    in_sample: float  # standard deviation of the log residuals of the fit

    @property
    def errors(self) -> Array:
        """log measured - log predicted."""
        return np.asarray(np.log(self.measured / self.predicted))

    @property
    def mean_error(self) -> float:
        """Mean absolute relative error."""
        return float(np.mean(np.abs(np.expm1(-self.errors))))

    @property
    def coverage(self) -> float:
        """Share of the hidden losses inside the interval for one more measurement (nominal 95 %)."""
        return float(np.mean((self.prediction_low <= self.measured) & (self.measured <= self.prediction_high)))

    @property
    def law_coverage(self) -> float:
        """Share of the hidden losses inside the interval of the law itself (no noise of the measurement)."""
        return float(np.mean((self.low <= self.measured) & (self.measured <= self.high)))

    @property
    def inflation(self) -> float:
        """Held-out root-mean-square error over the in-sample one: 1 if the law extrapolates as well as it fits."""
        return self.rms / self.in_sample if self.in_sample > 0.0 else float("inf")

    @property
    def rms(self) -> float:
        """Root mean squared error of the log loss."""
        return float(np.sqrt(np.mean(self.errors**2)))

    @property
    def span(self) -> float:
        """How far was predicted: log of the largest hidden size over the largest kept one."""
        return float(np.log(self.x.max() / self.cut))

    @property
    def claimed(self) -> float:
        """The standard deviation of the mean log error that the intervals claim, a quarter of a 95 % interval.

        Of the law, which errs alike at all hidden points, and of the noise, of which each unit has its own.
        """
        with np.errstate(all="ignore"):
            of_law = np.log(self.high / self.low) / 4.0
            of_run = np.log(self.prediction_high / self.prediction_low) / 4.0
            noise = np.mean(np.maximum(of_run**2 - of_law**2, 0.0)) / self.units
            return float(np.sqrt(np.mean(of_law) ** 2 + noise))

    @property
    def excess_ratio(self) -> float:
        """Squared mean held-out error over the variance claimed for it: about 1 where the law is right, 0 unknown."""
        return float(np.mean(self.errors)) ** 2 / self.claimed**2 if 0.0 < self.claimed < np.inf else 0.0

    @property
    def excess(self) -> float:
        """What was missed beyond chance, a root mean square in log loss: rms sqrt(1 - CHANCE / excess_ratio), or 0."""
        return self.rms * float(np.sqrt(max(0.0, 1.0 - CHANCE / max(self.excess_ratio, CHANCE))))

    def to_dict(self) -> dict[str, object]:
        return {
            "axis": self.axis,
            "cut": self.cut,
            "excess": self.excess,
            "form": self.form,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "mean_error": self.mean_error,
            "coverage": self.coverage,
            "law_coverage": self.law_coverage,
            "inflation": self.inflation,
            "x": self.x.tolist(),
            "measured": self.measured.tolist(),
            "predicted": self.predicted.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "prediction_low": self.prediction_low.tolist(),
            "prediction_high": self.prediction_high.tolist(),
        }


@dataclass(frozen=True)
class Rollout:
    """All cuts. Empty `rows` with a `reason` where too few points remain to hide any."""

    rows: tuple[RolloutRow, ...]
    reason: str = ""
    per_nd: float = 1.0  # C of one N D, the geometric mean over the runs
    form: str = ""  # the form that was asked for; rows of a simpler one say nothing about it

    @property
    def largest(self) -> RolloutRow | None:
        """The first cut: the largest size (or tenth) along the first axis hidden."""
        return self.rows[0] if self.rows else None

    @property
    def by_axis(self) -> dict[str, RolloutRow]:
        """The nearest cut along each axis: the median over all cuts would hide the axis that fails."""
        return {row.axis: row for row in reversed(self.rows) if row.form == self.form}

    def widening(self, at: Mapping[str, Array]) -> Array:
        """Standard deviation (m,) that log predictions have beyond their intervals, from what held-out checks missed.

            w(x)^2 = sum over axes j of (GROWTH e_j max(0, log(x_j / x_j,max)) / s_j)^2

        with e_j the `excess` where the largest sizes along axis j were hidden, s_j the log distance over which they
        were predicted (`span`), and x_j,max the largest size that was fitted: nothing inside, and in proportion to the
        log distance beyond. The axes are the variables of the form and compute.
        """
        total = np.zeros(len(next(iter(at.values()))))
        for axis, row in self.by_axis.items():
            value = at["N"] * at["D"] * self.per_nd if axis in ("C", "ND") and axis not in at else at.get(axis)
            if value is not None and row.excess > 0.0:
                distance = np.maximum(np.log(value / row.x.max()), 0.0) / row.span
                total += (GROWTH * row.excess * distance) ** 2
        return np.asarray(np.sqrt(total))

    @property
    def coverage(self) -> float:
        """Over all cuts and hidden points; NaN without any."""
        if not self.rows:
            return float("nan")
        return float(np.average([row.coverage for row in self.rows], weights=[row.n_test for row in self.rows]))

    @property
    def inflation(self) -> float:
        """Median over the cuts, at least 1: multiply the width of an interval by it when extrapolating as far."""
        if not self.rows:
            return float("nan")
        return max(1.0, float(np.median([row.inflation for row in self.rows])))

    def to_dict(self) -> dict[str, object]:
        return {
            "coverage": self.coverage,
            "inflation": self.inflation,
            "reason": self.reason,
            "rows": [row.to_dict() for row in self.rows],
        }


@dataclass(frozen=True)
class SensitivityRow:
    """The estimate under one change of the analysis: points dropped, another delta or objective."""

    what: str
    n: int
    estimate: dict[str, float]
    derived: dict[str, float]

    def to_dict(self) -> dict[str, object]:
        return {"what": self.what, "n": self.n, "estimate": self.estimate, "derived": self.derived}
