"""The compute-optimal frontier and isoFLOP profiles in sentences and tables."""

from __future__ import annotations

import math

from analysis.compare.numbers import NOT_KNOWN, fixed, with_interval
from analysis.laws.frontiers import ArmFrontier, Frontier
from analysis.laws.profiles import Isoflops
from analysis.laws.reach import EXTRAPOLATED

HEADER = ("arm", "training FLOPs", "best size N*", "best samples D*", "loss", "FLOPs to equal loss")
NOTE = (
    "N* and D*: what the law spends so many FLOPs on at the lowest loss, C = c N^s D as the sizes that were run cost. "
    "FLOPs to equal loss: of the arm, for the loss that the reference's frontier has at C, as a share of C; below 1 is "
    "cheaper. Intervals are of the law; they do not hold that the law may be another beyond the runs."
)


def rows(found: Frontier) -> list[tuple[str, ...]]:
    """Every arm at the largest compute that was run, and at 3 and 10 times that."""
    out = []
    for arm in found.arms:
        for flops in found.computes:
            at = arm.at(flops)
            value, sides = at["multiplier"]
            factor = (
                "1" if arm.arm == found.reference else fixed(value, sides, 2) if math.isfinite(value) else NOT_KNOWN
            )
            cells = (with_interval(*at[name], 3) for name in ("n", "d"))
            out.append((arm.arm, f"{flops:.3g}", *cells, with_interval(*at["loss"]), factor))
    return out


def sentences(found: Frontier) -> list[str]:
    """The exponents of the frontier, and whether an arm's multiplier changes along it."""
    said = {arm.arm: _exponents(arm) for arm in found.arms}
    if len(set(said.values())) == 1:
        out = [f"Spent best, {next(iter(said.values()))}."]
    else:
        out = [f"Spent best, {arm}: {told}." for arm, told in said.items()]
    out += _reach(found)
    doubtful = [arm.arm for arm in found.arms if arm.status != "ok"]
    if doubtful:
        which = "every arm" if len(doubtful) == len(found.arms) else "; ".join(doubtful)
        out.append(f"The law of {which} has not passed its tests, so what is said beyond the runs is a guess.")
    return out


def _reach(found: Frontier) -> list[str]:
    """How far beyond the sizes and lengths that were trained the frontier is at the largest compute that was."""
    out = []
    for which, what in enumerate(("largest size", "longest training")):
        far = max(found.arms, key=lambda arm: arm.reach[which])
        if far.reach[which] > EXTRAPOLATED:
            of = f" ({far.arm})" if len(found.arms) > 1 else ""
            out.append(
                f"At the largest compute that was run the law's best is {far.reach[which]:.2g} times the {what}{of}: "
                "there it is extrapolated."
            )
    return out


def _exponents(arm: ArmFrontier) -> str:
    (a, of_a), (b, of_b) = arm.exponents
    return f"N* grows as C^{fixed(a, of_a, 2)} and D* as C^{fixed(b, of_b, 2)}"


def isoflop_sentence(found: Isoflops) -> str:
    """What the profiles say of N_opt ~ C^a, or why they do not."""
    if found.result is None:
        what = "no exponent" if found.profiles else "none"
        return f"isoFLOP profiles of {found.arm}: {what}. {found.reason}"
    inside = sum(math.isfinite(profile.size) for profile in found.profiles)
    told = (
        f"isoFLOP profiles of {found.arm}: {inside} of {len(found.profiles)} budgets have their lowest loss inside the "
        f"sizes that were run, and N_opt grows as C^{fixed(found.result.size.exponent, found.result.size.interval, 2)}."
    )
    missing = [profile for profile in found.profiles if profile.add and not math.isfinite(profile.size)]
    return f"{told} {missing[-1].status.sentences[0]}" if missing else told
