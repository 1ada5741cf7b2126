"""Rows of the checks that come with a fit, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.forms import Array


@dataclass(frozen=True)
class RolloutRow:
    """One cut: points with `axis` above `cut` were hidden. Arrays are over the hidden points."""

    axis: str
    cut: float
    form: str
    n_train: int
    n_test: int
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
        rmse = float(np.sqrt(np.mean(self.errors**2)))
        return rmse / self.in_sample if self.in_sample > 0.0 else float("inf")

    def to_dict(self) -> dict[str, object]:
        return {
            "axis": self.axis,
            "cut": self.cut,
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

    @property
    def largest(self) -> RolloutRow | None:
        """The first cut: the largest size (or tenth) along the first axis hidden."""
        return self.rows[0] if self.rows else None

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
