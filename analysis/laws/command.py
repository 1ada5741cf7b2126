"""`rfscale fit TABLE.csv`: read, filter, fit, say it as text or JSON. The command line itself is `rfscale.cli.laws`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np

from analysis.laws.catalogue import FORMS
from analysis.laws.diagnostics import diagnose
from analysis.laws.fit import fit
from analysis.laws.forms import Array
from analysis.laws.formula import EXAMPLE, looks_like_formula
from analysis.laws.isoflop import WINDOW, IsoflopResult, isoflop
from analysis.laws.optimal import ComputeRule, compute_optimal, compute_rule
from analysis.laws.powerfit import PowerFit, Weights, fit_power
from analysis.laws.problem import find_form
from analysis.laws.reach import COMPUTE, beyond
from analysis.laws.result import FitResult, Prediction
from analysis.laws.select import Averaged, FormScore, average, select
from analysis.laws.status import FitError
from analysis.laws.table import Table, positive, read_table
from analysis.laws.text import (
    clean,
    compute_line,
    optima_text,
    power_summary,
    power_to_dict,
    predictions_text,
    selection_text,
)
from analysis.laws.where import Column

ISOFLOP = "isoflop"
POWER = "power"
OPTIONAL_COLUMNS = ("C",)
"""Taken along when the table has them: held-out tests by compute, and N_opt at a compute, need C."""
_VARIABLES = {ISOFLOP: (("C", "N", "loss"), ("D",)), POWER: (("x", "y"), ("sd",))}
"""Needed and optional variables of the forms that are no `FORMS`."""
_OF_LAWS = ("objective", "delta", "bootstrap", "seed", "group", "weight", "fixed")
_OF_ISOFLOP = ("degree", "window")
_DOES_NOT_APPLY = {ISOFLOP: _OF_LAWS, POWER: (*_OF_LAWS, *_OF_ISOFLOP, "predict")}
"""Options that would change nothing; to all other forms those of isoFLOP profiles do not apply."""
POINT = "N=1e10,D=2e11"


@dataclass(frozen=True)
class TableFit:
    """A fit of a table: the result, its predictions (of the loss, or of the best N and D at a C), and what was read.

    `columns`: the column of each variable. `rule`: how C follows from N and D, for laws in both."""

    result: FitResult | IsoflopResult | PowerFit
    predictions: tuple[Prediction, ...]
    optima: tuple[dict[str, float], ...]
    path: str
    condition: str
    n_read: int
    n_kept: int
    columns: Mapping[str, str] = field(default_factory=dict)
    rule: ComputeRule | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        out = power_to_dict(self.result) if isinstance(self.result, PowerFit) else self.result.to_dict()
        if isinstance(self.result, FitResult):
            out["diagnostics"] = clean(diagnose(self.result).to_dict())
        if self.rule is not None:
            out["compute"] = clean({"flops_per_nd": self.rule.flops_per_nd, "measured": self.rule.spread})
        rows = [row for prediction in self.predictions for row in prediction.rows()]
        out["predictions"] = clean([*rows, *self.optima])
        table = {"path": self.path, "where": self.condition, "rows": self.n_read, "kept": self.n_kept}
        out["table"] = {**table, "columns": dict(self.columns), "notes": list(self.notes)}
        return out

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_text(self) -> str:
        kept = f"{self.n_kept} of {self.n_read} rows"
        head = f"{self.path}: {kept}" + (f" where {self.condition}" if self.condition else "")
        body = power_summary(self.result) if isinstance(self.result, PowerFit) else self.result.summary()
        parts = [head, body]
        if self.rule is not None:
            parts.append(compute_line(self.rule, self.columns.get("C", "C")))
        if self.predictions:
            parts.append(predictions_text(self.predictions))
        if self.optima:
            parts.append(optima_text(self.optima))
        return "\n".join([*parts, *(f"note: {note}" for note in self.notes)])


def fit_table(
    path: str | Path,
    form: str = "chinchilla",
    columns: Mapping[str, str] | None = None,
    *,
    where_: str = "",
    objective: str | None = None,
    delta: float | str | None = None,
    bootstrap: int | None = None,
    seed: int | None = None,
    group: str | None = None,
    weight: str | None = None,
    fixed: Mapping[str, float] | None = None,
    fallback: bool = False,
    checks: bool = True,
    predict: Sequence[Mapping[str, float]] = (),
    degree: int | None = None,
    window: float | None = None,
    weights: Weights | None = None,
    flops_per_nd: float | None = None,
) -> TableFit:
    """Fit `form` to a CSV file with a header row.

    columns: {variable: column}, for example {"D": "tokens", "loss": "final_loss"}; a variable left out is the column
    of its own name. where_: a row filter (analysis.laws.where). form "isoflop" needs C, N, loss (D if known); form
    "power" is log-log regression of y on x with optional standard deviations sd of log y. `group` and `weight` name
    columns. objective, bootstrap, seed: None for the defaults of `fit`; degree, window, weights for those of `isoflop`
    and `fit_power`. predict: points of the form's variables, or {"C": ...} for the best N and D at that compute.
    flops_per_nd: k of C = k N D, None for that of the column C, or 6 without one. Raises FitError for all that cannot
    be done, a missing file and an option without effect included.
    """
    given: dict[str, object] = {"objective": objective, "delta": delta, "bootstrap": bootstrap, "seed": seed}
    given |= {"group": group, "weight": weight, "fixed": fixed, "predict": predict or None}
    given |= {"degree": degree, "window": window, "weights": weights}
    _check_options(form, [name for name, value in given.items() if value is not None], predict)
    whole = read_table(path)
    table = whole.where(where_) if where_ else whole
    data = _pick(table, form, columns or {})
    predictions: tuple[Prediction, ...] = ()
    optima: tuple[dict[str, float], ...] = ()
    rule = None
    result: FitResult | IsoflopResult | PowerFit
    if form == ISOFLOP:
        result = isoflop(
            data,
            degree=2 if degree is None else degree,
            window=WINDOW if window is None else window,
            weights=weights or "random",
            flops_per_nd=flops_per_nd,
        )
        optima = tuple(_isoflop_optimum(result, point["C"]) for point in predict)
    elif form == POWER:
        if weights in ("random", "fixed") and "sd" not in data:
            raise FitError(f"--weights {weights} needs the standard deviations of log y: name their column with --sd.")
        result = fit_power(data["x"], data["y"], data.get("sd"), weights=weights or "fixed")
    else:
        result = fit(
            form,
            data,
            groups=None if group is None else table.labels(group, "--group"),
            weights=None if weight is None else table.numbers(weight, "--weight"),
            fixed=fixed,
            objective=objective or "huber",
            delta=delta,
            bootstrap=1000 if bootstrap is None else bootstrap,
            seed=42 if seed is None else seed,
            fallback=fallback,
            checks=checks,
        )
        rule = compute_rule(result.problem.x, flops_per_nd) if _is_surface(form) else None
        predictions = tuple(result.predict(point) for point in predict if not _asks_for_optimum(form, point))
        at = [point["C"] for point in predict if _asks_for_optimum(form, point)]
        optima = tuple(_law_optimum(result, compute, rule) for compute in at if rule is not None)
    names = {variable: (columns or {}).get(variable, variable) for variable in data}
    notes = tuple(table.unused_labels((*names.values(), group, weight)))
    return TableFit(result, predictions, optima, str(path), where_, len(whole), len(table), names, rule, notes)


@dataclass(frozen=True)
class Selection:
    """Several forms on one table: their scores, best first, and predictions averaged over them."""

    scores: tuple[FormScore, ...]
    averages: tuple[Averaged, ...]
    path: str
    n_kept: int

    def to_dict(self) -> dict[str, object]:
        rows = [
            {name: float(values[0]) for name, values in found.at.items()}
            | {"loss": float(found.value[0]), "low": float(found.low[0]), "high": float(found.high[0])}
            | {"between_forms": float(found.between[0])}
            for found in self.averages
        ]
        table = {"path": self.path, "kept": self.n_kept}
        return {"forms": clean([score.to_dict() for score in self.scores]), "predictions": clean(rows), "table": table}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_text(self) -> str:
        return selection_text(self.path, self.n_kept, self.scores, self.averages)


def select_table(
    path: str | Path,
    forms: Sequence[str],
    columns: Mapping[str, str] | None = None,
    *,
    where_: str = "",
    group: str | None = None,
    predict: Sequence[Mapping[str, float]] = (),
) -> Selection:
    """Score `forms` on a CSV file by held-out error (`select`) and average their predictions. Raises FitError."""
    if len(forms) < 2 or len(set(forms)) < len(forms):
        raise FitError(f"--select has {', '.join(forms) or 'no form'}: give two or more different forms.")
    for form in forms:
        if form in _VARIABLES:
            raise FitError(f"--select compares laws of the loss, and {form!r} is not one: leave it out.")
        _check_options(form, [], predict)
    whole = read_table(path)
    table = whole.where(where_) if where_ else whole
    data: dict[str, Array] = {}
    for form in forms:
        known = sum(variables_of(form), ())
        data |= _pick(table, form, {name: column for name, column in (columns or {}).items() if name in known})
    groups = None if group is None else table.labels(group, "--group")
    scores = select(data, forms, groups=groups)
    used = [score for score in scores if score.weight > 0.0]
    results = [fit(score.form, data, groups=groups, checks=False) for score in used] if predict else []
    averages = tuple(average(results, [score.weight for score in used], point) for point in predict)
    return Selection(scores, averages, str(path), len(table))


def variables_of(form: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The variables that a form needs, and those that it takes along."""
    if form in _VARIABLES:
        return _VARIABLES[form]
    needed = (*find_form(form).variables, "loss")
    return needed, tuple(name for name in OPTIONAL_COLUMNS if name not in needed)


def _check_options(form: str, given: Sequence[str], predict: Sequence[Mapping[str, float]]) -> None:
    """What would be without effect is refused, before anything is computed."""
    if form not in (*FORMS, *_VARIABLES) and not looks_like_formula(form):
        known = ", ".join((*FORMS, *_VARIABLES))
        raise FitError(f"form {form!r} is unknown: use one of {known}, or a formula such as {EXAMPLE}.")
    for name in given:
        if name in _DOES_NOT_APPLY.get(form, (*_OF_ISOFLOP, "weights")):
            raise FitError(f"--{name} does not apply to form {form!r}: leave it out.")
    for point in predict:
        wrong = [f"{name}={value:g}" for name, value in point.items() if not 0.0 < value < math.inf]
        if wrong:
            raise FitError(f"--predict has {', '.join(wrong)}: give positive finite numbers.")
        if form == ISOFLOP and set(point) != {"C"}:
            raise FitError("an isoFLOP fit predicts the best size for a compute: write the point as C=1e21.")
        if form == ISOFLOP or _asks_for_optimum(form, point):
            continue
        needed = find_form(form).variables
        if set(point) != set(needed):
            example = ",".join(f"{name}={value}" for name, value in zip(needed, cycle(("1e10", "2e11")), strict=False))
            raise FitError(
                f"--predict gives {', '.join(point)}, and form {form!r} is a law of {' and '.join(needed)}: write the "
                f"point as {example}{', or as C=1e21 for the best N and D' if len(needed) > 1 else ''}."
            )


def _asks_for_optimum(form: str, point: Mapping[str, float]) -> bool:
    return set(point) == {"C"} and _is_surface(form)


def _is_surface(form: str) -> bool:
    """Whether the form is a law of N and D and of nothing else, so that a compute has a best size."""
    return set(find_form(form).variables) == {"N", "D"}


def _isoflop_optimum(result: IsoflopResult, compute: float) -> dict[str, float]:
    row = {"C": compute}
    for name, power in (("N_opt", result.size), ("D_opt", result.data)):
        value, low, high = (float(side[0]) for side in power.predict(compute))
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row | {"beyond": compute / max(profile.compute for profile in result.profiles)}


def _law_optimum(result: FitResult, compute: float, rule: ComputeRule) -> dict[str, float]:
    best = compute_optimal(result, compute, rule.flops_per_nd)
    row = {"C": compute}
    for name, value, interval in (
        ("N_opt", best.size, best.size_interval),
        ("D_opt", best.data, best.data_interval),
        ("loss", best.loss, best.loss_interval),
    ):
        row |= {name: float(value[0]), f"{name}_low": float(interval[0, 0]), f"{name}_high": float(interval[0, 1])}
    far = float(beyond(result.largest, {"N": best.size, "D": best.data})[COMPUTE][0])
    return row | {"undefined_share": float(best.undefined[0]), "beyond": far}


def read_csv(path: str | Path) -> Mapping[str, Column]:
    """The columns of `read_table`."""
    return read_table(path).columns


def _pick(table: Table, form: str, chosen: Mapping[str, str]) -> dict[str, Array]:
    """The arrays of a form's variables. Optional ones are taken unasked where they are usable as they stand."""
    needed, optional = variables_of(form)
    known = (*needed, *optional)
    for variable in chosen:
        if variable not in known:
            takes = ", ".join(f"--{name}" for name in known)
            forms = [name for name in (*FORMS, *_VARIABLES) if variable in sum(variables_of(name), ())]
            other = f", or choose a form that takes it: {', '.join(forms)}" if forms else ""
            raise FitError(f"--{variable} does not apply to form {form!r}, which takes {takes}: leave it out{other}.")
    data = {}
    for variable in known:
        name = chosen.get(variable, variable)
        if variable in chosen or variable in needed:
            data[variable] = table.numbers(name, f"--{variable}")
        elif name in table.columns and table.columns[name].dtype.kind != "U":
            values = np.asarray(table.columns[name], dtype=np.float64)
            data |= {variable: values} if positive(values).all() else {}
    return data


def parse_point(text: str, example: str = POINT) -> dict[str, float]:
    """\"N=1e10,D=2e11\" -> {"N": 1e10, "D": 2e11}; `example` is what the error shows (\"E=1.69\"). Raises FitError."""
    point: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError as error:
            raise FitError(f"cannot read {text!r}: write it as {example}.") from error
        if not equals or not name:
            raise FitError(f"cannot read {text!r}: write it as {example}.")
        if name in point:
            raise FitError(f"{text!r} gives {name} twice: leave one of them out.")
        point[name] = number
    return point
