"""What is judged of a trial: a unit is one judge's view of one set of weights under one setting. Pure, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from rfscale import names
from rfscale.spec.judging import JudgeSpec
from rfscale.spec.sweep import Quality, Setting, Weights
from rfscale.spec.trial import Trial


@dataclass(frozen=True, slots=True)
class Unit:
    """One judge's view of the weights of one step under one setting."""

    step: int
    judge: JudgeSpec
    setting: Setting
    weights: Weights

    @property
    def label(self) -> str:
        return names.setting_label(self.setting.steps, self.setting.guidance, self.weights)


def units(trial: Trial, quality: Quality) -> list[Unit]:
    """All that the sweep asks of a trial: the last step with every kind of weights, earlier ones with EMA weights."""
    earlier = trial.evaluation.steps(trial.training.steps)[:-1] if quality.checkpoints == "all" else ()
    kinds: list[tuple[int, Weights]] = [(trial.training.steps, kind) for kind in quality.weights]
    kinds += [(step, "ema") for step in reversed(earlier)]
    return [
        Unit(step, judge, setting, kind)
        for step, kind in kinds
        for judge in quality.judges_of(trial.data)
        for setting in quality.settings
    ]
