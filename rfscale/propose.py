"""The next experiment: from a pilot's curves to a sweep file that spends a budget of FLOPs well.

The pilot's validation curves give L(N, D) = E + A / N^alpha + B / D^beta (`analysis.surface`). Of all sizes and lengths
that the budget can buy, those are proposed that most reduce the variance of the loss predicted at a target
(`analysis.laws.design`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from analysis.laws import Design, FitResult, propose
from analysis.surface import curve_points, fit_surface
from analysis.table import SweepTable
from rfscale.sweep import Sweep, SweepError, Trial


@dataclass(frozen=True)
class Target:
    """The training whose loss is to be predicted."""

    depth: int
    steps: int


@dataclass(frozen=True)
class Proposal:
    """What to train next and why. `sweep` is the definition, ready to be written."""

    formulation: str
    target: Target
    design: Design
    optimum: str
    sweep: dict[str, Any]

    def to_yaml(self) -> str:
        """The sweep file."""
        # Lists on one line, and no anchors for those that stand twice.
        plain = json.loads(json.dumps(self.sweep))
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"formulation": self.formulation, **self.design.to_dict(), "optimum": self.optimum, "sweep": self.sweep}

    def text(self) -> str:
        """For a terminal."""
        head = f"{self.formulation}, target depth {self.target.depth}, {self.target.steps} steps"
        return f"{head}\n{self.design.summary()}\n{self.optimum}"


def propose_sweep(
    sweep: Sweep,
    raw: Mapping[str, Any],
    table: SweepTable,
    budget: float,
    formulation: str,
    target: Target | None = None,
) -> Proposal:
    """Runs for `budget` training FLOPs that sharpen the prediction of `formulation` at the target.

    `raw` is the pilot's sweep file as read. The default target is twice the depth and four times the steps of the
    pilot's largest trial. Raises SweepError where the pilot does not train the formulation, FitError where its curves
    hold no law or the budget buys nothing.
    """
    template = _template(sweep, formulation)
    deepest, longest = max(t.depth for t in sweep.trials), max(t.steps for t in sweep.trials)
    target = target or Target(2 * deepest, 4 * longest)
    law = fit_surface(curve_points(table, formulation))
    ladder = [trial for depth in range(1, 2 * deepest + 1) if (trial := _at_depth(template, depth)) is not None]
    by_size = {trial.shape.parameter_count(): trial for trial in ladder}
    goal = _at_depth(template, target.depth)
    if goal is None:
        raise SweepError(f"a model of depth {target.depth} does not fit the sweep's heads; choose another target depth")

    def train_flops(size: float, samples: float) -> float:
        return by_size[int(size)].shape.flops().train * samples

    steps = np.unique(np.geomspace(longest / 4, longest * 16, 13).round())
    point = {"N": float(goal.shape.parameter_count()), "D": float(target.steps * template.batch)}
    design = propose(law, budget, sorted(by_size), [float(s * template.batch) for s in steps], train_flops, point)
    grids = [
        {
            "model": {"depths": [by_size[int(run.size)].depth]},
            "training": {"steps": max(1, round(run.data / template.batch))},
            "seeds": list(range(run.repeats)),
        }
        for run in design.runs
    ]
    definition = _definition(raw, sweep, formulation, grids)
    return Proposal(formulation, target, design, _optimum(law, ladder, sweep, budget), definition)


def _at_depth(trial: Trial, depth: int) -> Trial | None:
    """The trial at that depth of its ladder, or None where its heads do not divide the width."""
    heads = depth if trial.heads == trial.depth else trial.heads
    width = trial.width // trial.depth * depth
    fields = {name: getattr(trial, name) for name in Trial.model_fields}
    return None if width % heads else Trial(**{**fields, "depth": depth, "width": width, "heads": heads})


def _template(sweep: Sweep, formulation: str) -> Trial:
    for trial in sweep.trials:
        if trial.formulation == formulation:
            return trial
    known = ", ".join(dict.fromkeys(t.formulation for t in sweep.trials))
    raise SweepError(f"sweep {sweep.name} does not train {formulation!r}; choose one of {known}")


def _optimum(law: FitResult, ladder: list[Trial], sweep: Sweep, budget: float) -> str:
    """Where the whole budget in one run would be spent best, and whether the pilot's sizes enclose that size."""
    sizes = np.array([float(t.shape.parameter_count()) for t in ladder])
    samples = np.array([budget / t.shape.flops().train for t in ladder])
    best = int(np.argmin(law.predict({"N": sizes, "D": samples}).value))
    trial, steps = ladder[best], max(1, round(samples[best] / ladder[best].batch))
    where = f"In one run, {budget:.3g} FLOPs are predicted to be spent best at depth {trial.depth} for {steps} steps"
    seen = sorted({t.depth for t in sweep.trials})
    if seen[0] < trial.depth < seen[-1]:
        return f"{where}, inside the pilot's sizes."
    add = f"depth {trial.depth} and {trial.depth + 1}" if trial.depth >= seen[-1] else f"depth {trial.depth}"
    return (
        f"{where}: the isoFLOP curve has no minimum inside the pilot's sizes (depth {seen[0]} to {seen[-1]}), so do "
        f"not rely on it before you have added trials of {add}."
    )


def _definition(raw: Mapping[str, Any], sweep: Sweep, formulation: str, grids: list[dict[str, Any]]) -> dict[str, Any]:
    """The pilot's file with the proposed grids in place of its own. A list of grids has its first one as the base."""
    first = (raw.get("grids") or [{}])[0]
    body = {key: value for key, value in {**raw, **first}.items() if key not in ("grids", "seeds")}
    training = {k: v for k, v in {**raw.get("training", {}), **first.get("training", {})}.items() if k != "samples"}
    return {
        **body,
        "name": f"{sweep.name}-next",
        "question": f"What does {formulation} reach beyond the sizes of {sweep.name}?",
        "formulations": [formulation],
        "training": {**training, "steps": grids[0]["training"]["steps"]},
        "model": {**raw.get("model", {}), **first.get("model", {}), "depths": grids[0]["model"]["depths"]},
        "grids": grids,
    }
