"""The laws of a sweep in sentences, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.compare.numbers import fixed, listed, number, sentence, with_interval
from analysis.laws.joint import Efficiency
from analysis.laws.ladder import FURTHER, ArmLaw, Ladder
from analysis.laws.misfit import SAYS_LITTLE, HeldOut, Miss

LAWS_SHOWN = 8  # lines of laws in the terminal; the report has all of them
PARAMETERS = ("E", "alpha", "beta")
SURFACE = "L(N, D) = E + A / N^alpha + B / D^beta"


def parameters(law: ArmLaw, without: Sequence[str] = ()) -> str:
    """'E 0.075 [0, 0.107], alpha 0.51 [0.28, 0.87] and beta 0.94 [0.80, 1.1]' of a law that is there."""
    assert law.law is not None
    value, sides = law.law.estimate(law.arm), law.law.interval(law.arm)
    names = [name for name in PARAMETERS if name not in without]
    told = listed([f"{name} {with_interval(value[name], sides[name], 3)}" for name in names])
    return told + (" (E is not told from 0)" if sides["E"][0] <= 0.0 else "")


def _own(law: ArmLaw) -> list[str]:
    """The parameters that every arm has to itself, A and B aside."""
    assert law.law is not None
    if len(law.law.arms) == 1:
        return []
    layout = law.law.layout
    return [name for name, is_own in (("alpha", layout.own_alpha), ("beta", layout.own_beta)) if is_own]


def _shared_words(law: ArmLaw) -> str:
    """Which of them the arms share."""
    assert law.law is not None
    if len(law.law.arms) == 1:
        return ""
    own = _own(law)
    shared = [name for name in PARAMETERS if name not in own]
    return f"; {listed(shared)} {'is' if len(shared) == 1 else 'are'} shared by {len(law.law.arms)} arms"


def _floor_words(laws: Sequence[ArmLaw]) -> str:
    """The parameters that the arms of one floor share, and the range of those that they do not."""
    own = _own(laws[0])
    ranges = []
    for name in own:
        values = [law.law.estimate(law.arm)[name] for law in laws if law.law is not None]
        ranges.append(f"; {name} is each arm's own, {number(min(values), 3)} to {number(max(values), 3)}")
    return parameters(laws[0], own) + _shared_words(laws[0]) + "".join(ranges)


ONE_SEED = (
    "One seed: an interval of the law holds what chance does to single trainings, not what another seed would do to an "
    "arm at every size."
)


def shared_sentences(ladder: Ladder) -> list[str]:
    """What the arms of each floor share, and what the test of it gave."""
    told = []
    for floor in ladder.floors:
        law = next((ladder.law(arm) for arm in floor if ladder.law(arm).law), None)
        if law is None or law.law is None or len(law.law.arms) == 1:
            continue
        whose = "All arms share E" if len(ladder.floors) == 1 else f"{listed(floor)} share E"
        parts = [f"{whose}, the Bayes error of the data given the condition"]
        for name, p, own in (
            ("alpha", law.law.p_alpha, law.law.layout.own_alpha),
            ("beta", law.law.p_beta, law.law.layout.own_beta),
        ):
            whose = "each arm's own" if own else "shared too"
            parts.append(f"{name} is {whose} (test of equality: p = {p:.2g})")
        told.append("; ".join(parts) + ".")
    if len(ladder.floors) > 1:
        told.append("Arms that differ in data, text or validation images have floors of their own.")
    if ladder.seeds == 1 and any(law.law for law in ladder.laws):
        told.append(ONE_SEED)
    return told


def miss_words(miss: Miss | None) -> str:
    """'+20 % at d = 1': where a law is furthest from the losses that it was fitted to."""
    return f"{miss.share * 100:+.0f} % at {miss.label}" if miss else ""


NOISE_WORDS = {
    "seeds": "standard error from the spread between seeds",
    "images": "standard error over the validation images",
}


def misses_sentence(ladder: Ladder) -> str:
    """For which arms the law misses ends of training by much more than their noise; empty where for none."""
    missed = {law.arm: law.miss for law in ladder.laws if law.miss and law.miss.beyond_noise}
    if not missed:
        return ""
    worst = sorted(missed, key=lambda name: -abs(missed[name].share))
    told = [f"{name} by {miss_words(missed[name])}" for name in worst[:3]]
    noise = [100 * m.noise for m in missed.values()]
    about = f"{min(noise):.1f}" + (f" to {max(noise):.1f}" if f"{min(noise):.1f}" != f"{max(noise):.1f}" else "")
    return (
        f"The law misses losses at the end of training by much more than their noise: {listed([*told, *worst[3:]], 3)} "
        f"(noise {about} %, {NOISE_WORDS[missed[worst[0]].over]}). The losses do not have quite the shape of this law; "
        f"the intervals hold what it misses as if it were noise, and extrapolation beyond ten times the compute is not "
        f"to be trusted."
    )


def held_out_words(held: HeldOut) -> str:
    """'d = 4: predicted 0.212 [0.200, 0.224] from the smaller ones, measured 0.211: 0.5 % too high, ...'"""
    predicted = f"predicted {with_interval(held.predicted, held.interval)} from the smaller ones"
    return f"{held.label}: {predicted}, measured {number(held.measured)}: {verdict(held)}"


def verdict(held: HeldOut) -> str:
    """How far off, and whether the interval could have told."""
    off = 100 * held.miss
    told = "right to 0.1 %" if abs(off) < 0.05 else f"{abs(off):.1f} % too {'high' if off > 0 else 'low'}"
    if held.inside is None:
        return f"{told}, without an interval"
    where = "inside" if held.inside else "outside"
    told += f", {where} an interval of a factor of {held.width:.3g}"
    told = f"{told}, which says little" if held.says_little else told
    return f"{told} ({held.far})" if held.far else told


def efficiency_words(found: Efficiency | None) -> str:
    """The factor in compute with its interval."""
    return fixed(*found.compute, 2) if found else ""


def status_words(law: ArmLaw) -> str:
    """Why the law of an arm is to be doubted, without its numbers, so that laws of the same fate share a note."""
    if law.law is None:
        return sentence(f"no law: {law.reason}")
    parts = []
    if law.miss and law.miss.beyond_noise:
        parts.append("Doubtful: the law misses losses that it was fitted to by much more than their noise.")
    if law.held_out is None:
        parts.append(f"Not tested: {law.held_out_reason}.")
    elif law.held_out.inside is False:
        parts.append("Doubtful: the interval of the largest size does not hold what was measured.")
    if law.held_out is not None and law.held_out.says_little:
        parts.append(f"The test says little: its interval spans more than a factor of {SAYS_LITTLE:g}.")
    return " ".join(parts) or "Predicted the largest size, within a narrow interval."


def laws_text(ladder: Ladder, arms: Sequence[str]) -> str:
    """Efficiencies and held-out checks for a terminal."""
    lines = [
        f"Scaling laws, {ladder.description}:",
        f"{SURFACE} (N: parameters, D: training samples), fitted to the curves of all arms together;",
        "the largest size as predicted by the law of the smaller ones (d: blocks of the model)",
    ]
    for floor in ladder.floors:
        laws = [ladder.law(arm) for arm in floor if ladder.law(arm).law]
        if laws:
            whose = "" if len(ladder.floors) == 1 else f"{listed(floor)}: "
            lines.append(whose + _floor_words(laws))
    lines += filter(None, [misses_sentence(ladder)])
    if ladder.seeds == 1 and any(ladder.law(arm).law for arm in arms):
        lines.append(ONE_SEED)
    shown = arms if len(arms) <= LAWS_SHOWN else arms[: LAWS_SHOWN - 1]
    width = max(map(len, shown))
    for name in shown:
        lines.append(f"{name.ljust(width)}  {_line(ladder, ladder.law(name))}")
    if len(shown) < len(arms):
        lines.append(f"{len(arms) - len(shown)} more in the report")
    return "\n".join(lines)


def _line(ladder: Ladder, law: ArmLaw) -> str:
    if law.law is None:
        return f"no law: {law.reason}"
    told = held_out_words(law.held_out) if law.held_out else f"not tested: {law.held_out_reason}"
    if law.now is None or law.further is None or law.arm == ladder.reference:
        return told
    return (
        f"by the law a FLOP is worth {efficiency_words(law.now)} of {ladder.reference}'s at the end of the ladder, "
        f"{efficiency_words(law.further)} at {FURTHER:g} times its compute; {told}"
    )
