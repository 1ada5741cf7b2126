"""L(N, D) = E + A / N^alpha + B / D^beta of one arm, fitted to the whole curves of a ladder; what `propose` plans with.

With a constant learning rate every point of a curve is the end of a shorter training, and a ladder of a few sizes is a
grid over sizes and samples; with a rate that decays only the last point is (`analysis.table.ends`), and several lengths
make the grid. That tells how much of the loss is for want of parameters and how much for want of samples, which the
ends of one length alone do not. The points of one curve share their noise: intervals are clustered by trial.
"""

from __future__ import annotations

import pandas as pd

from analysis.laws import FitError, FitResult, fit
from analysis.laws.sizes import check_lengths
from analysis.table.ends import are_ends
from analysis.table.read import SweepTable
from rfscale import names

FORM = "chinchilla"
FIRST_FRACTION = 0.1
"""Of the steps: what comes before is shaped by the warm-up of the learning rate and the start of the EMA."""
MIN_SIZES = 3


def curve_points(table: SweepTable, arm: str | None = None) -> pd.DataFrame:
    """The points of val/loss that laws are fitted to, of one arm or all: ends of trainings (`analysis.table.ends`),
    after the first tenth of each curve."""
    curve = table.curve(names.VAL_LOSS)
    used = (curve["step"] >= FIRST_FRACTION * curve["steps"]) & are_ends(curve)
    return curve[used if arm is None else used & (curve["arm"] == arm)]


def fit_surface(points: pd.DataFrame) -> FitResult:
    """Fit the surface to rows of `curve_points`. Raises FitError, also for fewer than three sizes or lengths."""
    sizes = points["parameters"].nunique()
    if sizes < MIN_SIZES:
        raise FitError(f"a surface L(N, D) needs {MIN_SIZES} sizes, there are {sizes}.")
    check_lengths(points["samples"].to_numpy(float))
    columns = {"N": "parameters", "D": "samples", "C": "flops", "loss": "value"}
    data = {variable: points[column].to_numpy(float) for variable, column in columns.items()}
    return fit(FORM, data, groups=points["trial_id"].to_numpy(str), bootstrap=0, checks=False)
