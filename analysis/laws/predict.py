"""What the joint law says of one training of every arm: losses with intervals, and an order with probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from analysis.compare.numbers import interval, with_interval
from analysis.laws.ahead import doubt, flops_per_sample
from analysis.laws.ladder import ArmLaw, Ladder
from analysis.laws.reach import EXTRAPOLATED
from analysis.laws.result import Interval
from analysis.style import si

NOT_A_NUMBER = (math.nan, math.nan)


@dataclass(frozen=True)
class ArmAt:
    """One arm at one training. `law`: 95 % interval of the law; `one_more`: of one more training's loss.

    `p_best`: in which share of the law's draws its loss is the lowest of all arms; NaN with one arm. `beyond`: compute
    over the largest that was run, `n_beyond` and `d_beyond` size and samples so. `reason`: why the loss cannot be told,
    empty where it can.
    """

    arm: str
    n: float
    d: float
    flops: float
    beyond: float
    loss: float
    law: Interval
    one_more: Interval
    p_best: float
    n_beyond: float = math.nan
    d_beyond: float = math.nan
    reason: str = ""

    @property
    def told(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Foreseen:
    """All arms at one training, in words `target`: those that can be told by their loss, then the others."""

    target: str
    arms: tuple[ArmAt, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready but for values that are not finite."""
        return asdict(self)

    def text(self) -> str:
        """For a terminal of 80 columns."""
        lines = [f"Loss {self.target}:"]
        told = [at for at in self.arms if at.told]
        for place, at in enumerate(told, 1):
            lines += [
                f"{place}. {at.arm}: {with_interval(at.loss, at.one_more)} for one more training",
                f"   law alone: {interval(at.law)}{_chance(at)}",
                f"   {si(at.n)} parameters, {si(at.d)} samples, {at.flops:.2g} FLOPs: {at.beyond:.2g} x the largest",
                *_reach(at),
            ]
        reasons: dict[str, list[str]] = {}
        for at in self.arms:
            if not at.told:
                reasons.setdefault(at.reason, []).append(at.arm)
        lines += [f"Cannot be told for {'; '.join(arms)}: {reason}" for reason, arms in reasons.items()]
        if len(told) > 1:
            first = told[0]
            sure = f"{first.arm} is lowest with probability {_probability(first.p_best)}"
            lines.append(sure if first.p_best >= 0.95 else f"No order at 95 %: {sure}")
        return "\n".join(f"{line}." if not line.endswith((":", ".")) else line for line in lines)


def foresee(ladder: Ladder, at: Mapping[str, tuple[float, float]], target: str) -> Foreseen:
    """Every arm of `at`, which has (parameters, samples) by arm. Raises FitError for values that are not positive."""
    laws = [ladder.law(arm) for arm in at]
    draws = {
        law.arm: law.law.log_draws(law.arm, *at[law.arm])[:, 0] for law in laws if law.law is not None and len(law.n)
    }
    chance = dict.fromkeys(draws, math.nan)
    if len(draws) > 1:
        fewest = min(map(len, draws.values()))  # arms of other floors have a law of their own
        lowest = np.argmin(np.stack([values[:fewest] for values in draws.values()]), axis=0)
        chance = {arm: float(np.mean(lowest == i)) for i, arm in enumerate(draws)}
    found = [_at(law, *at[law.arm], chance.get(law.arm, math.nan)) for law in laws]
    return Foreseen(target, tuple(sorted(found, key=lambda one: (not one.told, one.loss))))


def best_spent(law: ArmLaw, flops: float) -> tuple[float, float] | None:
    """(N, D) that the law spends so many FLOPs on with the lowest loss; None without a law.

    With C = c N^s D as the sizes that were run cost, A / N^alpha + B (c N^s / C)^beta is least at
    N = (alpha A / (s beta B) (C / c)^beta)^(1 / (alpha + s beta)).
    """
    if law.law is None or not len(law.n):
        return None
    p, per_sample = law.law.estimate(law.arm), flops_per_sample(law)
    c, s = per_sample(1.0, 1.0), math.log(per_sample(math.e, 1.0) / per_sample(1.0, 1.0))
    log_n = math.log(p["alpha"] * p["A"] / (s * p["beta"] * p["B"])) + p["beta"] * math.log(flops / c)
    n = math.exp(log_n / (p["alpha"] + s * p["beta"]))
    return n, flops / per_sample(n, 1.0)


def _at(law: ArmLaw, n: float, d: float, p_best: float) -> ArmAt:
    if law.law is None or not len(law.n):
        reason = law.reason or "it has no trial on the ladder of sizes"
        return ArmAt(law.arm, n, d, math.nan, math.nan, math.nan, NOT_A_NUMBER, NOT_A_NUMBER, math.nan, reason=reason)
    flops = flops_per_sample(law)(n, d)
    found = law.law.predict(law.arm, n, d)
    one_more = float(found.prediction_low[0]), float(found.prediction_high[0])
    return ArmAt(
        law.arm, n, d, flops, flops / float(law.flops.max()), float(found.value[0]),
        (float(found.low[0]), float(found.high[0])), one_more, p_best, n / float(law.n.max()), d / law.d_end,
        doubt(law, one_more),
    )  # fmt: skip


def _reach(at: ArmAt) -> list[str]:
    """How far the size and the length are beyond those that were trained, where they are."""
    pairs = ((at.n_beyond, "the largest size"), (at.d_beyond, "the longest training"))
    far = [f"{factor:.2g} x {what}" for factor, what in pairs if factor > EXTRAPOLATED]
    return [f"   {' and '.join(far)}"] if far else []


def _chance(at: ArmAt) -> str:
    return "" if math.isnan(at.p_best) else f"; lowest of all with probability {_probability(at.p_best)}"


def _probability(p: float) -> str:
    return "over 0.999" if p > 0.999 else "under 0.001" if p < 0.001 else f"{p:.3f}"
