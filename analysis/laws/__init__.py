"""Scaling laws: forms, fits, intervals, held-out checks and the design of the next experiment.

    from analysis.laws import fit
    result = fit("chinchilla", {"N": n, "D": d, "loss": loss})
    print(result.summary())

Needs numpy only (scipy.special for a t quantile); reads no files unless asked (`analysis.laws.command`).
"""

from analysis.laws.catalogue import FORMS
from analysis.laws.design import Design, PlannedRun, propose
from analysis.laws.diagnostics import Diagnostics, diagnose
from analysis.laws.fit import fit
from analysis.laws.forms import Curve, Form, PowerLaws, Term
from analysis.laws.isoflop import IsoflopProfile, IsoflopResult, isoflop
from analysis.laws.optimal import ComputeOptimal, compute_optimal, frontier
from analysis.laws.powerfit import PowerFit, fit_power
from analysis.laws.profile import Profile, profile
from analysis.laws.records import Rollout, RolloutRow, SensitivityRow
from analysis.laws.result import FitResult, Prediction
from analysis.laws.select import FormScore, select
from analysis.laws.status import Code, FitError, Reason, Status

__all__ = [
    "FORMS",
    "Code",
    "ComputeOptimal",
    "Curve",
    "Design",
    "Diagnostics",
    "FitError",
    "FitResult",
    "Form",
    "FormScore",
    "IsoflopProfile",
    "IsoflopResult",
    "PlannedRun",
    "PowerFit",
    "PowerLaws",
    "Prediction",
    "Profile",
    "Reason",
    "Rollout",
    "RolloutRow",
    "SensitivityRow",
    "Status",
    "Term",
    "compute_optimal",
    "diagnose",
    "fit",
    "fit_power",
    "frontier",
    "isoflop",
    "profile",
    "propose",
    "select",
]
