"""What a study says of a training that was not run: the point (N, D) that is meant for each arm, and the law there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rfscale.numbers import Depth, Real, Sampled, Steps, Whole
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial

if TYPE_CHECKING:
    from analysis.laws.ladder import Ladder
    from analysis.laws.predict import Foreseen

PARAMETERS, COMPUTE = Real(1, 1e15), Real(1, 1e30)


@dataclass(frozen=True, slots=True)
class Target:
    """A training: a size (`depth` of the ladder, or `parameters`) and a length (`steps`, or `samples`)."""

    depth: int | None = None
    parameters: float | None = None
    steps: int | None = None
    samples: float | None = None

    def check(self) -> None:
        """Raises SweepError."""
        if (self.depth is None) == (self.parameters is None) or (self.steps is None) == (self.samples is None):
            raise SweepError("say the size as depth or parameters, and the length as steps or samples, one of each")
        kinds: dict[str, Any] = {"depth": Depth, "steps": Steps, "samples": Sampled}
        bounds: dict[str, Whole | Real] = {"parameters": PARAMETERS}
        bounds |= {key: kind.__metadata__[0] for key, kind in kinds.items()}
        for key, allowed in bounds.items():
            value = getattr(self, key)
            if value is not None and not allowed.allows(value):
                raise SweepError(f"{key} {value:g} is not possible; give {allowed.allowed}")

    @property
    def words(self) -> str:
        size = f"depth {self.depth}" if self.depth is not None else f"{self.parameters:.4g} parameters"
        return f"at {size} after {f'{self.steps:,} steps' if self.steps is not None else f'{self.samples:.4g} samples'}"

    def of(self, trial: Trial, arm: str) -> tuple[float, float]:
        """(parameters, samples) of an arm, one trial of which is given. Raises SweepError."""
        self.check()
        parameters = self.parameters
        if self.depth is not None:
            from rfscale.run.propose import at_depth  # it loads pandas

            other = at_depth(trial, self.depth)
            if other is None:
                raise SweepError(
                    f"a model of depth {self.depth} does not fit the heads of arm {arm}; choose another depth"
                )
            parameters = other.shape.parameter_count()
        samples = self.samples if self.samples is not None else (self.steps or 0) * trial.training.batch
        return float(parameters or 0.0), float(samples)


def first_of(sweep: Sweep, arm: str) -> Trial:
    """The first trial of an arm."""
    return next(trial for trial in sweep.trials if sweep.placing(trial).arm == arm)


def at_target(sweep: Sweep, ladder: Ladder, target: Target, arms: tuple[str, ...]) -> Foreseen:
    """The arms at one training. Raises SweepError."""
    from analysis.laws.predict import foresee

    return foresee(ladder, {arm: target.of(first_of(sweep, arm), arm) for arm in arms}, target.words)


def at_compute(ladder: Ladder, flops: float, arms: tuple[str, ...]) -> Foreseen:
    """The arms at so many FLOPs, each with the size and the length that its law spends them on best."""
    from analysis.laws.predict import best_spent, foresee

    if not COMPUTE.allows(flops):
        raise SweepError(f"--compute {flops:g} is not possible; give {COMPUTE.allowed}")
    at = {arm: best_spent(ladder.law(arm), flops) or (math.nan, math.nan) for arm in arms}
    return foresee(ladder, at, f"at {flops:.4g} FLOPs, spent as the law has it best")


def ahead(ladder: Ladder, arms: tuple[str, ...]) -> list[Foreseen]:
    """The arms at 3 and 10 times the largest compute, parameters and samples growing alike."""
    from analysis.laws.ahead import TIMES
    from analysis.laws.predict import foresee

    ends = {arm: (max(ladder.law(arm).n, default=math.nan), ladder.law(arm).d_end) for arm in arms}
    return [
        foresee(
            ladder,
            {arm: (n * math.sqrt(times), d * math.sqrt(times)) for arm, (n, d) in ends.items()},
            f"at {times:g} times the largest compute",
        )
        for times in TIMES
    ]
