"""Scaling laws: forms, fits, intervals, held-out checks and the design of the next experiment.

    from analysis.laws import fit
    result = fit("chinchilla", {"N": n, "D": d, "loss": loss})
    print(result.summary())

Needs numpy only (scipy.special for a t quantile); reads no files unless asked (`analysis.laws.command`).
"""

from analysis.laws.catalogue import FORMS
from analysis.laws.fit import fit
from analysis.laws.forms import Curve, Form, PowerLaws, Term
from analysis.laws.records import Rollout, RolloutRow, SensitivityRow
from analysis.laws.result import FitResult, Prediction
from analysis.laws.status import Code, FitError, Reason, Status

__all__ = [
    "FORMS",
    "Code",
    "Curve",
    "FitError",
    "FitResult",
    "Form",
    "PowerLaws",
    "Prediction",
    "Reason",
    "Rollout",
    "RolloutRow",
    "SensitivityRow",
    "Status",
    "Term",
    "fit",
]
