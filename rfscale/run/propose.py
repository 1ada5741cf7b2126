"""The next experiment: from a pilot's curves to a sweep file that spends a budget of FLOPs well.

The pilot's validation curves give L(N, D) = E + A / N^alpha + B / D^beta (`analysis.laws.surface`). Of all sizes and
lengths that the budget can buy, those are proposed that most reduce the variance of the loss predicted at a target
(`analysis.laws.design`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from analysis.laws import Design, FitResult, PlannedRun, propose
from analysis.laws.surface import FIRST_FRACTION, curve_points, fit_surface
from analysis.table.read import SweepTable
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial

LARGER, LONGER = 2, 16
"""Considered: depths up to this many times the pilot's deepest, and steps up to this many times its longest."""


@dataclass(frozen=True)
class Target:
    """The training whose loss is to be predicted."""

    depth: int
    steps: int


@dataclass(frozen=True)
class ProposedRun:
    """One training, for `seeds` seeds; `train_flops` is for all of them."""

    depth: int
    steps: int
    seeds: int
    train_flops: float

    def to_grid(self) -> dict[str, Any]:
        """As it stands in a sweep file."""
        return {
            "model": {"depths": [self.depth]},
            "training": {"steps": self.steps},
            "seeds": list(range(self.seeds)),
        }


@dataclass(frozen=True)
class Proposal:
    """What to train next and why. `sweep` is the definition, ready to be written. `tries`: how many trainings a run is,
    one for every tuned value. `optimum`: where one run of the whole budget would be spent best. `unspent`: why a part
    of the budget is left, empty where none is."""

    formulation: str
    target: Target
    design: Design
    runs: tuple[ProposedRun, ...]
    tries: int
    optimum: str
    unspent: str
    sweep: dict[str, Any]

    def to_yaml(self) -> str:
        """The sweep file."""
        # Lists on one line, and no anchors for those that stand twice.
        plain = json.loads(json.dumps(self.sweep))
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        runs = [
            {"depth": run.depth, "steps": run.steps, **vars(planned)}
            for run, planned in zip(self.runs, self.design.runs, strict=True)
        ]
        target = {**self.design.target, **vars(self.target)}
        words = {"tries": self.tries, "unspent": self.unspent, "optimum": self.optimum}
        design = {**self.design.to_dict(), "target": target, "runs": runs}
        return {"formulation": self.formulation, **design, **words, "sweep": self.sweep}

    def text(self) -> str:
        """For a terminal."""
        design, p = self.design, self.design.prediction
        lines = [
            f"Next for {self.formulation}: runs for {design.flops:.3g} of {design.budget:.3g} training FLOPs",
            *([self.unspent] if self.unspent else []),
            "",
            f"  target: depth {self.target.depth}, {self.target.steps} steps; predicted loss {p.value[0]:.5g}, 95 % "
            f"interval {p.low[0]:.5g} to {p.high[0]:.5g}",
            *(f"  {note}" for note in p.notes(0)),
            f"  its standard error: {design.log_sd_before:.2%} now, {design.log_sd_after:.2%} expected after these "
            f"runs",
            "",
            "  depth  steps       seeds  training FLOPs  share",
        ]
        lines += [
            f"  {run.depth:<5}  {run.steps:<10}  {run.seeds:<5}  {run.train_flops:<14.3g}"
            f"  {run.train_flops / design.flops:.0%}"
            for run in self.runs
        ]
        if self.tries > 1:
            lines.append(
                f"  each of them is {self.tries} trainings, one for every tuned value, and its FLOPs are of all"
            )
        return "\n".join([*lines, "", self.optimum])


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
    pilot's largest trial. Raises SweepError where the pilot does not train the formulation or says no width per
    depth, FitError where its curves
    hold no law or the budget buys nothing.
    """
    template = _template(sweep, formulation)
    if any("widths" in part.get("model", {}) for part in (raw, *raw.get("grids", ()))):
        raise SweepError(
            f"sweep {sweep.name} gives the widths of its sizes one by one, and the next sizes would have none; propose "
            f"from a pilot with width_per_depth"
        )
    deepest, longest = max(t.model.depth for t in sweep.trials), max(t.training.steps for t in sweep.trials)
    target = target or Target(2 * deepest, 4 * longest)
    law = fit_surface(curve_points(table, formulation))
    ladder = [trial for depth in range(1, LARGER * deepest + 1) if (trial := at_depth(template, depth)) is not None]
    by_size = {trial.shape.parameter_count(): trial for trial in ladder}
    goal = at_depth(template, target.depth)
    if goal is None:
        raise SweepError(f"a model of depth {target.depth} does not fit the sweep's heads; choose another target depth")

    tries = len({sweep.placing(trial).tuned for trial in sweep.trials if trial.formulation == formulation})

    def train_flops(size: float, samples: float) -> float:
        return tries * _sample_flops(by_size[int(size)]) * samples

    steps = np.unique(np.geomspace(longest / 4, longest * LONGER, 13).round())
    point = {"N": float(goal.shape.parameter_count()), "D": float(target.steps * template.training.batch)}
    lengths = [float(s * template.training.batch) for s in steps]
    # As the surface is fitted: to the points that are ends of trainings, after the first tenth.
    points = template.evaluation.steps(longest) if template.training.schedule.anytime else (longest,)
    shares = [step / longest for step in points if step >= FIRST_FRACTION * longest]
    design = propose(law, budget, sorted(by_size), lengths, train_flops, point, measured_at=shares)

    def proposed(run: PlannedRun) -> ProposedRun:
        length = max(1, round(run.data / template.training.batch))
        return ProposedRun(by_size[int(run.size)].model.depth, length, run.repeats, run.flops)

    runs = tuple(map(proposed, design.runs))
    unspent = design.unspent and (
        f"{design.unspent} Offered were depths {ladder[0].model.depth} to {ladder[-1].model.depth} (up to "
        f"{LARGER} times the pilot's deepest) and up to {longest * LONGER} steps ({LONGER} times its "
        f"longest): a larger budget needs a larger pilot."
    )
    optimum = _optimum(law, ladder, sweep, budget, tries, [run.depth for run in runs])
    definition = _definition(raw, sweep, formulation, target, runs)
    return Proposal(formulation, target, design, runs, tries, optimum, unspent, definition)


def at_depth(trial: Trial, depth: int) -> Trial | None:
    """The trial at that depth of its ladder, or None where its heads do not divide the width."""
    heads = depth if trial.model.heads == trial.model.depth else trial.model.heads
    width = trial.model.width // trial.model.depth * depth
    model = trial.model.model_copy(update={"depth": depth, "width": width, "heads": heads})
    return (
        None
        if width % heads
        else Trial(**{**{name: getattr(trial, name) for name in Trial.model_fields}, "model": model})
    )


def _sample_flops(trial: Trial) -> float:
    """Of training, the mean over its samples."""
    return trial.mean_of(lambda cost: cost.flops().train)


def _template(sweep: Sweep, formulation: str) -> Trial:
    for trial in sweep.trials:
        if trial.formulation == formulation:
            return trial
    known = ", ".join(dict.fromkeys(t.formulation for t in sweep.trials))
    raise SweepError(f"sweep {sweep.name} does not train {formulation!r}; choose one of {known}")


def _optimum(
    law: FitResult, ladder: list[Trial], sweep: Sweep, budget: float, tries: int, proposed: Collection[int]
) -> str:
    """Where the whole budget in one run would be spent best, whether the pilot's sizes enclose that size, and if not,
    which trials would and whether they are among those proposed."""
    sizes = np.array([float(t.shape.parameter_count()) for t in ladder])
    samples = np.array([budget / (tries * _sample_flops(t)) for t in ladder])
    best = int(np.argmin(law.predict({"N": sizes, "D": samples}).value))
    depth, steps = ladder[best].model.depth, max(1, round(samples[best] / ladder[best].training.batch))
    seen = sorted({t.model.depth for t in sweep.trials})
    pilot = f"the pilot's sizes (depth {seen[0]} to {seen[-1]})"
    if best in (0, len(ladder) - 1):
        end, beyond = ("largest", "larger") if best else ("smallest", "smaller")
        return (
            f"Which size spends {budget:.3g} FLOPs best in one run is not known: of the depths offered, "
            f"{ladder[0].model.depth} to {ladder[-1].model.depth}, the {end} is predicted to be best, so the isoFLOP "
            f"curve has no minimum inside {pilot}, and the optimum may be far {beyond}."
        )
    run = "In one run, tuned," if tries > 1 else "In one run,"
    where = f"{run} {budget:.3g} FLOPs are predicted to be spent best at depth {depth} for {steps} steps"
    if seen[0] < depth < seen[-1]:
        longest = max(t.training.steps for t in sweep.trials)
        longer = f", but {steps / longest:.2g} times as long as its longest training" if steps > longest else ""
        return f"{where}, inside {pilot}{longer}."
    beside = ladder[best + 1] if depth >= seen[-1] else ladder[best - 1]
    add = sorted({depth, beside.model.depth} - set(seen))
    if set(add) <= set(proposed):
        held = "which are among the runs proposed"
    else:
        held = "which the runs proposed are not: they sharpen the prediction at the target"
    return (
        f"{where}: the isoFLOP curve has no minimum inside {pilot}, so do not rely on it before you have added trials "
        f"of depth {' and '.join(map(str, add))}, {held}."
    )


def _definition(
    raw: Mapping[str, Any], sweep: Sweep, formulation: str, target: Target, runs: tuple[ProposedRun, ...]
) -> dict[str, Any]:
    """The pilot's file with the proposed runs in place of its grids. A list of grids has its first one as the base."""
    grids = [run.to_grid() for run in runs]
    first = (raw.get("grids") or [{}])[0]
    body = {key: value for key, value in {**raw, **first}.items() if key not in ("grids", "seeds")}
    training = {k: v for k, v in {**raw.get("training", {}), **first.get("training", {})}.items() if k != "samples"}
    return {
        **body,
        "name": f"{sweep.name}-next",
        "question": f"What loss does {formulation} reach at depth {target.depth} after {target.steps} steps, as "
        f"predicted from {sweep.name} and these runs?",
        "formulations": [formulation],
        "training": {**training, "steps": grids[0]["training"]["steps"]},
        "model": {**raw.get("model", {}), **first.get("model", {}), "depths": grids[0]["model"]["depths"]},
        "grids": grids,
    }
