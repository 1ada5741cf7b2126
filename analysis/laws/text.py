"""The report a person reads (lmfit's is the model) and the JSON a program reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from analysis.laws.isoflop import IsoflopResult
from analysis.laws.optimal import ComputeRule
from analysis.laws.powerfit import PowerFit
from analysis.laws.reach import COMPUTE, far_words
from analysis.laws.result import FitResult, Prediction
from analysis.laws.select import Averaged, FormScore


def to_dict(result: FitResult) -> dict[str, object]:
    """The keys of `rfscale fit --json`; values that do not exist are null, not numbers."""
    plain: dict[str, object] = {
        "form": result.form,
        "equation": result.equation,
        "n": result.n,
        "objective": result.objective,
        "delta": result.delta,
        "estimate": result.estimate,
        "standard_error": result.standard_error,
        "interval": result.interval,
        "interval_method": result.uncertainty.method,
        "level": result.level,
        "t_interval": result.t_interval,
        "status": result.status.to_dict(),
        "objective_value": result.objective_value,
        "residual_sd": result.optimum.sigma,
        "derived": result.derived,
        "derived_interval": result.derived_interval,
        "centred": result.centred,
        "dependence": result.dependence.to_dict() if result.dependence else None,
        "rollout": result.rollout.to_dict() if result.rollout else None,
        "sensitivity": [row.to_dict() for row in result.sensitivity],
    }
    return clean(plain)  # type: ignore[return-value]


def clean(value: object) -> object:
    """Tuples to lists, non-finite numbers to None: JSON has neither."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def number(value: float) -> str:
    if not math.isfinite(value):
        return "unknown"
    return f"{value:.5g}" if 1e-3 <= abs(value) < 1e5 or value == 0.0 else f"{value:.4e}"


def summary(result: FitResult) -> str:
    """Status first, then fit statistics, parameters, derived exponents, held-out test, sensitivity."""
    blocks = [
        _heading(result),
        _statistics(result),
        _parameters(result),
        _derived(result),
        _rollout(result),
        _sensitivity(result),
    ]
    return "\n".join(line for block in blocks for line in block)


def _heading(result: FitResult) -> list[str]:
    lines = [f"[[Scaling law]] {result.form}:  {result.equation}"]
    if result.asked_form and result.asked_form != result.form:
        lines.append(f"    asked for {result.asked_form}; fell back to {result.form}")
    lines.append(f"    status: {result.status.code.value}")
    lines += [f"      - {sentence}" for sentence in result.status.sentences]
    return lines


def _statistics(result: FitResult) -> list[str]:
    problem, optimum = result.problem, result.optimum
    ranges = ", ".join(
        f"{name} {number(float(problem.x[name].min()))} .. {number(float(problem.x[name].max()))}"
        for name in problem.form.variables
    )
    inside = (abs(result.residuals) <= optimum.delta).mean()
    clusters = f" in {problem.n_groups} groups" if problem.groups is not None else ""
    delta = f", delta {number(optimum.delta)} ({inside:.0%} of points inside)" if result.objective == "huber" else ""
    objective = "least squares of L - prediction" if problem.raw else f"{result.objective} of the log residual"
    return [
        "[[Fit]]",
        f"    points: {result.n}{clusters};  {ranges}",
        f"    objective: {objective}{delta};  value {result.objective_value:.10g}",
        f"    residual sd (MAD, log loss): {number(optimum.sigma)};  starts: {optimum.n_starts};"
        f"  other minima: {len(optimum.others)}",
    ]


def _parameters(result: FitResult) -> list[str]:
    by = f"{result.level:.0%} interval by {result.uncertainty.method}"
    lines = [f"[[Parameters]]  {'no intervals' if result.uncertainty.no_law else by}"]
    for name, value in result.estimate.items():
        if name in result.problem.fixed:
            lines.append(f"    {name + ':':<8}{number(value):>12}  (fixed)")
            continue
        se = result.standard_error[name]
        low, high = result.interval[name]
        lines.append(
            f"    {name + ':':<8}{number(value):>12} +- {_error(value, se):<19}  [{number(low)}, {number(high)}]"
        )
    if result.centred:
        sizes = ", ".join(f"{name} = {number(value)}" for name, value in result.centred.items())
        lines.append(f"    terms at the mean size: {sizes}")
    return lines


def _error(value: float, se: float) -> str:
    """Standard error and per cent; beyond ten times the value it is the tail of a few resamples and tells nothing."""
    if se > 10.0 * abs(value) > 0.0:
        return "undetermined"
    percent = f" ({se / abs(value):.1%})" if value and math.isfinite(se) else ""
    return f"{number(se)}{percent}"


def _derived(result: FitResult) -> list[str]:
    if not result.derived:
        return []
    lines = ["[[Compute-optimal]]  N_opt ~ C^a, D_opt ~ C^b"]
    for name, value in result.derived.items():
        low, high = result.derived_interval[name]
        lines.append(f"    {name + ':':<8}{number(value):>12}  [{number(low)}, {number(high)}]")
    return lines


def _rollout(result: FitResult) -> list[str]:
    rollout = result.rollout
    if rollout is None:
        return []
    if not rollout.rows:
        return [f"[[Held-out]]  none: {rollout.reason}"]
    lines = [
        f"[[Held-out]]  the largest runs hidden; {rollout.coverage:.0%} of them inside their 95 % interval, "
        f"error {rollout.inflation:.2g} x in-sample",
        "    axis   cut        form         train  test   mean error  covered  inflation",
    ]
    for row in rollout.rows:
        lines.append(
            f"    {row.axis:<5}  {row.cut:<9.3g}  {row.form:<12} {row.n_train:>5} {row.n_test:>5}"
            f"   {row.mean_error:>9.2%}  {row.coverage:>7.0%}  {row.inflation:>9.2f}"
        )
    return lines


def _sensitivity(result: FitResult) -> list[str]:
    if not result.sensitivity:
        return []
    names = list(result.estimate)
    lines = ["[[Sensitivity]]", "    " + f"{'what':<30}" + "".join(f"{name:>11}" for name in names)]
    for row in result.sensitivity:
        values = "".join(f"{number(row.estimate[name]):>11}" for name in names)
        lines.append(f"    {row.what:<30}{values}")
    return lines


def predictions_text(predictions: Iterable[Prediction]) -> str:
    lines = ["[[Predictions]]  95 % interval of the law, and of one more measurement"]
    for prediction in predictions:
        for i in range(len(prediction.value)):
            where = ", ".join(f"{name} = {number(float(values[i]))}" for name, values in prediction.at.items())
            lines.append(
                f"    {where}: {number(prediction.value[i])}"
                f"  [{number(prediction.low[i])}, {number(prediction.high[i])}]"
                f"  [{number(prediction.prediction_low[i])}, {number(prediction.prediction_high[i])}]"
            )
            lines += [f"      {note}" for note in prediction.notes(i)]
    return "\n".join(lines)


def optima_text(rows: Iterable[Mapping[str, float]]) -> str:
    lines = ["[[Compute-optimal]]  with 95 % intervals"]
    for row in rows:
        parts = [
            f"{name} = {number(row[name])} [{_side(row[name + '_low'])}, {_side(row[name + '_high'])}]"
            for name in ("N_opt", "D_opt", "loss")
            if name in row
        ]
        lines.append(f"    C = {number(row['C'])}: " + ", ".join(parts))
        far = far_words({COMPUTE: row["beyond"]})
        lines += [f"      {far}"] if far else []
        share = row.get("undefined_share", 0.0)
        if share >= 0.005:
            lines.append(
                f"      in {share:.0%} of the resamples the loss does not fall with N, or not with D, and no size is "
                f"best: they count as beyond the ends of the intervals"
            )
    return "\n".join(lines)


def _side(value: float) -> str:
    return "unbounded" if value == math.inf else number(value)


def compute_line(rule: ComputeRule, column: str) -> str:
    """Whether compute was measured, in one line."""
    if rule.given:
        return f"compute: C = {rule.flops_per_nd:.4g} N D, as given."
    if rule.spread is None:
        return (
            f"compute: C = {rule.flops_per_nd:.4g} N D is assumed, as no column of compute is given; 6 N D overstates "
            f"an MM-DiT two to three times: name a column of measured FLOPs with --C."
        )
    low, high = rule.spread
    return (
        f"compute: C = {rule.flops_per_nd:.4g} N D, the geometric mean of column {column!r} ({low:.4g} to {high:.4g} "
        f"over the runs)"
        + (": the column does not follow N D, so best sizes lean on a mean that no run has." if high > 4 * low else ".")
    )


_WEIGHTED = {
    "random": "their own errors and the scatter between them (random effects)",
    "fixed": "their own errors alone",
    "none": "nothing: all count alike",
}


def isoflop_to_dict(result: IsoflopResult) -> dict[str, object]:
    """JSON-ready, with the keys of `to_dict` that apply."""
    plain: dict[str, object] = {
        "form": "isoflop",
        "n": result.n,
        "degree": result.degree,
        "window": result.window,
        "weights": result.weights,
        "scatter": {"a": result.size.scatter, "b": result.data.scatter},
        "between": {"a": result.size.between, "b": result.data.between},
        "estimate": result.estimate,
        "standard_error": {"a": result.size.standard_error, "b": result.data.standard_error},
        "interval": {"a": result.size.interval, "b": result.data.interval},
        "status": result.status.to_dict(),
        "derived": {
            **result.estimate,
            "N_coefficient": result.size.coefficient,
            "D_coefficient": result.data.coefficient,
            "cubic_a": result.cubic_a,
        },
        "compute": {"flops_per_nd": result.flops_per_nd},
        "budgets": [
            {
                "C": profile.compute,
                "n": len(profile.sizes),
                "N_opt": profile.size,
                "D_opt": profile.data,
                "loss": profile.loss,
                "log_N_opt_se": profile.log_size_se,
                "status": profile.status.to_dict(),
                "add": profile.add,
            }
            for profile in result.profiles
        ],
    }
    return clean(plain)  # type: ignore[return-value]


def isoflop_summary(result: IsoflopResult) -> str:
    lines = [
        f"[[isoFLOP]]  {result.n} runs in {len(result.profiles)} budgets; degree {result.degree} in log N, "
        f"sizes within {result.window:g} x of the lowest point",
        f"    status: {result.status.code.value}",
        *(f"      - {sentence}" for sentence in result.status.sentences),
    ]
    if result.flops_per_nd is not None:
        lines.append(
            f"    D = C / ({result.flops_per_nd:.4g} N) is assumed, as no column of data is given; 6 N D overstates "
            f"the C of an MM-DiT two to three times, and D_opt is as far off (N_opt is not): name a column with --D."
        )
    lines.append("    budget       sizes   N_opt        +- (log)   D_opt        loss")
    for profile in result.profiles:
        values = (
            f"{profile.size:<11.4g}  {profile.log_size_se:<9.3f}  {profile.data:<11.4g}  {profile.loss:.5g}"
            if math.isfinite(profile.size)
            else "no minimum"
        )
        lines.append(f"    {profile.compute:<11.4g}  {len(profile.sizes):<6}  {values}")
    lines.append(f"[[Compute-optimal]]  N_opt ~ C^a, D_opt = k C^b; budgets weighted by {_WEIGHTED[result.weights]}")
    for name, fit in (("a", result.size), ("b", result.data)):
        low, high = fit.interval
        lines.append(
            f"    {name + ':':<4}{number(fit.exponent):>10} +- {number(fit.standard_error)}"
            f"  [{number(low)}, {number(high)}]   k {number(fit.coefficient)}   "
            + (f"scatter {fit.scatter:.2g} x the budgets' own errors" if fit.weighted else f"sd {fit.scatter:.2g}")
        )
    if math.isfinite(result.cubic_a):
        lines.append(f"    a by cubics in a window twice as wide: {number(result.cubic_a)}")
    return "\n".join(lines)


def power_to_dict(fit: PowerFit) -> dict[str, object]:
    plain: dict[str, object] = {
        "form": "power",
        "n": fit.n,
        "estimate": {"a": fit.exponent, "k": fit.coefficient},
        "standard_error": {"a": fit.standard_error},
        "interval": {"a": fit.interval},
        "scatter": fit.scatter,
        "weighted": fit.weighted,
    }
    return clean(plain)  # type: ignore[return-value]


def power_summary(fit: PowerFit) -> str:
    low, high = fit.interval
    weighted = ", weighted by the standard deviations given" if fit.weighted else ""
    scatter = f"{fit.scatter:.2g}" if math.isfinite(fit.scatter) else "unknown"
    unit = "x the standard deviations given" if fit.weighted else "(standard deviation of log y around the line)"
    return "\n".join(
        [
            f"[[Power law]]  y = k x^a, log-log regression of {fit.n} points{weighted}",
            f"    a:  {number(fit.exponent)} +- {number(fit.standard_error)}  [{number(low)}, {number(high)}]",
            f"    k:  {number(fit.coefficient)};  scatter {scatter} {unit}",
        ]
    )


def selection_text(path: str, kept: int, scores: Sequence[FormScore], averages: Sequence[Averaged]) -> str:
    """The forms, best first, and what they predict together."""
    width = max(4, *(len(score.form) for score in scores))
    lines = [
        f"{path}: {kept} rows",
        "[[Forms]]  best first by the error on held-out runs; weights of their average (stacking)",
        f"    {'form':<{width}}  parameters  cross-validation  largest quarter  AICc      weight",
    ]
    for score in scores:
        if score.problem:
            lines.append(f"    {score.form:<{width}}  cannot be fitted: {score.problem}")
            continue
        lines.append(
            f"    {score.form:<{width}}  {score.parameters:<10}  {_percent(score.cv):<16}  "
            f"{_percent(score.extrapolation):<15}  {score.aicc:<8.1f}  {score.weight:.2f}"
        )
    if averages:
        lines.append("[[Predictions]]  averaged over the forms, with 95 % intervals that hold their disagreement")
    for found in averages:
        place = ", ".join(f"{name} = {values[0]:.4g}" for name, values in found.at.items())
        lines.append(
            f"    {place}: {found.value[0]:.5g} [{found.low[0]:.5g}, {found.high[0]:.5g}]   "
            f"between the forms {found.between[0]:.2%}"
        )
        lines += [f"      {note}" for note in found.notes]
    return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "not known"
