"""`rfscale fit TABLE.csv`: read, filter, fit, say it as text or JSON. The command line itself is `rfscale.cli.laws`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.laws.diagnostics import diagnose
from analysis.laws.fit import fit
from analysis.laws.isoflop import IsoflopResult, isoflop
from analysis.laws.optimal import FLOPS_PER_PARAMETER_AND_SAMPLE, compute_optimal
from analysis.laws.powerfit import PowerFit, fit_power
from analysis.laws.problem import find_form
from analysis.laws.result import FitResult, Prediction
from analysis.laws.status import FitError
from analysis.laws.text import clean, optima_text, power_summary, power_to_dict, predictions_text
from analysis.laws.where import Column, where

ISOFLOP = "isoflop"
POWER = "power"
OPTIONAL_COLUMNS = ("C",)
"""Taken along when the table has them: held-out tests by compute need C."""


@dataclass(frozen=True)
class TableFit:
    """A fit of a table: the result, its predictions (of the loss, or of the best N and D at a C), and what was read."""

    result: FitResult | IsoflopResult | PowerFit
    predictions: tuple[Prediction, ...]
    optima: tuple[dict[str, float], ...]
    path: str
    condition: str
    n_read: int
    n_kept: int

    def to_dict(self) -> dict[str, object]:
        out = power_to_dict(self.result) if isinstance(self.result, PowerFit) else self.result.to_dict()
        if isinstance(self.result, FitResult):
            out["diagnostics"] = clean(diagnose(self.result).to_dict())
        rows = [row for prediction in self.predictions for row in prediction.rows()]
        out["predictions"] = clean([*rows, *self.optima])
        out["table"] = {"path": self.path, "where": self.condition, "rows": self.n_read, "kept": self.n_kept}
        return out

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_text(self) -> str:
        kept = f"{self.n_kept} of {self.n_read} rows"
        head = f"{self.path}: {kept}" + (f" where {self.condition}" if self.condition else "")
        body = power_summary(self.result) if isinstance(self.result, PowerFit) else self.result.summary()
        parts = [head, body]
        if self.predictions:
            parts.append(predictions_text(self.predictions))
        if self.optima:
            parts.append(optima_text(self.optima))
        return "\n".join(parts)


def fit_table(
    path: str | Path,
    form: str = "chinchilla",
    columns: Mapping[str, str] | None = None,
    *,
    where_: str = "",
    objective: str = "huber",
    delta: float | str | None = None,
    bootstrap: int = 1000,
    seed: int = 42,
    group: str | None = None,
    weight: str | None = None,
    fixed: Mapping[str, float] | None = None,
    fallback: bool = False,
    checks: bool = True,
    predict: Sequence[Mapping[str, float]] = (),
    degree: int = 2,
    flops_per_nd: float = FLOPS_PER_PARAMETER_AND_SAMPLE,
) -> TableFit:
    """Fit `form` to a CSV file with a header row.

    columns: {variable: column}, for example {"D": "tokens", "loss": "final_loss"}; a variable left out is the column
    of its own name. where_: a row filter (analysis.laws.where). form "isoflop" needs C, N, loss (D if known); form
    "power" is log-log regression of y on x with optional standard deviations sd of log y. `group` and `weight` name
    columns. predict: points of the form's variables, or {"C": ...} for the best N and D at that compute. Raises
    FitError for all that cannot be done, a missing file included.
    """
    table = read_csv(path)
    n_read = len(next(iter(table.values())))
    if where_:
        keep = where(where_, table)
        table = {name: values[keep] for name, values in table.items()}
        if not keep.any():
            raise FitError(f"no row of {path} passes the filter {where_!r}: check its values.")
    n_kept = len(next(iter(table.values())))
    chosen = dict(columns or {})
    predictions: tuple[Prediction, ...] = ()
    optima: tuple[dict[str, float], ...] = ()
    result: FitResult | IsoflopResult | PowerFit
    if form == ISOFLOP:
        data = _pick(table, chosen, ("C", "N", "loss"), ("D",))
        result = isoflop(data, degree=degree, flops_per_nd=flops_per_nd)
        optima = tuple(_isoflop_optimum(result, point) for point in predict)
    elif form == POWER:
        data = _pick(table, chosen, ("x", "y"), ("sd",))
        result = fit_power(data["x"], data["y"], data.get("sd"))
    else:
        found = find_form(form)
        result = fit(
            found,
            _pick(table, chosen, (*found.variables, "loss"), OPTIONAL_COLUMNS),
            groups=None if group is None else _column(table, group),
            weights=None if weight is None else _number_column(table, weight),
            fixed=fixed,
            objective=objective,
            delta=delta,
            bootstrap=bootstrap,
            seed=seed,
            fallback=fallback,
            checks=checks,
        )
        only_compute = [point for point in predict if set(point) == {"C"} and "C" not in found.variables]
        predictions = tuple(result.predict(point) for point in predict if point not in only_compute)
        optima = tuple(_law_optimum(result, point["C"], flops_per_nd) for point in only_compute)
    return TableFit(result, predictions, optima, str(path), where_, n_read, n_kept)


def _isoflop_optimum(result: IsoflopResult, point: Mapping[str, float]) -> dict[str, float]:
    if set(point) != {"C"}:
        raise FitError("an isoFLOP fit predicts the best size for a compute: write the point as C=1e21.")
    row = {"C": point["C"]}
    for name, power in (("N_opt", result.size), ("D_opt", result.data)):
        value, low, high = (float(side[0]) for side in power.predict(point["C"]))
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def _law_optimum(result: FitResult, compute: float, flops_per_nd: float) -> dict[str, float]:
    best = compute_optimal(result, compute, flops_per_nd)
    row = {"C": compute}
    for name, value, interval in (
        ("N_opt", best.size, best.size_interval),
        ("D_opt", best.data, best.data_interval),
        ("loss", best.loss, best.loss_interval),
    ):
        row |= {name: float(value[0]), f"{name}_low": float(interval[0, 0]), f"{name}_high": float(interval[0, 1])}
    return row


def read_csv(path: str | Path) -> dict[str, Column]:
    """Columns of a CSV with a header row: float64 where every cell is a number or empty (NaN), else text."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except OSError as error:
        raise FitError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FitError(f"cannot read {path}: it is no UTF-8 text; give a CSV file.") from error
    if len(rows) < 2:
        raise FitError(f"{path} has no rows: a CSV with a header row and one row per run is needed.")
    header, body = [name.strip() for name in rows[0]], rows[1:]
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise FitError(f"row {number} of {path} has {len(row)} cells, the header has {len(header)}: mend the file.")
    return {name: _typed([row[j].strip() for row in body]) for j, name in enumerate(header)}


def _typed(cells: list[str]) -> Column:
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError:
        return np.array(cells, dtype=np.str_)


def _column(table: Mapping[str, Column], name: str) -> Column:
    if name not in table:
        raise FitError(f"there is no column {name!r}; there are {', '.join(table)}.")
    return table[name]


def _number_column(table: Mapping[str, Column], name: str) -> Column:
    column = _column(table, name)
    if column.dtype.kind == "U":
        raise FitError(f"column {name!r} holds text: numbers are needed.")
    return column


def _pick(
    table: Mapping[str, Column], chosen: Mapping[str, str], needed: Sequence[str], optional: Sequence[str]
) -> dict[str, Column]:
    known = (*needed, *optional)
    for variable in chosen:
        if variable not in known:
            raise FitError(f"this form has no variable {variable!r}: it takes {', '.join(known)}.")
    data = {}
    for variable in known:
        name = chosen.get(variable, variable)
        if variable in chosen or variable in needed:
            data[variable] = _number_column(table, name)
        elif name in table and table[name].dtype.kind != "U" and bool(np.all(np.isfinite(table[name]))):
            data[variable] = table[name]
    return data


def parse_point(text: str) -> dict[str, float]:
    """\"N=1e10,D=2e11\" -> {"N": 1e10, "D": 2e11}; also for fixed parameters (\"E=1.69\"). Raises FitError."""
    point: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            point[name.strip()] = float(value)
        except ValueError as error:
            raise FitError(f"cannot read {text!r}: write it as N=1e10,D=2e11.") from error
        if not equals or not name.strip():
            raise FitError(f"cannot read {text!r}: write it as N=1e10,D=2e11.")
    return point
