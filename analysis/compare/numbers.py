"""How numbers, intervals and lists are written, wherever they stand."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.compare.estimate import Estimate
from analysis.style import decimal

NOT_KNOWN = "–"


def number(value: float, digits: int = 4) -> str:
    """Four significant digits with their trailing zeros; a dash for what is not known."""
    if not math.isfinite(value):
        return NOT_KNOWN
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    return f"{abs(value) if value == 0 else value:#.{digits}g}".rstrip(".")


def interval(sides: tuple[float, float], digits: int = 4) -> str:
    """[low, high], or nothing where there is no interval."""
    return f"[{number(sides[0], digits)}, {number(sides[1], digits)}]" if all(map(math.isfinite, sides)) else ""


def with_interval(value: float, sides: tuple[float, float], digits: int = 4) -> str:
    """estimate [low, high]"""
    return f"{number(value, digits)} {interval(sides, digits)}".strip()


def fixed(value: float, sides: tuple[float, float], decimals: int) -> str:
    """estimate [low, high] with the same number of decimals: ratios and factors near 1."""
    if not math.isfinite(value):
        return NOT_KNOWN
    known = all(map(math.isfinite, sides))
    told = decimal(value, decimals)
    return f"{told} [{decimal(sides[0], decimals)}, {decimal(sides[1], decimals)}]" if known else told


def plain(value: float, decimals: int) -> str:
    """A number that has no interval, with so many decimals; a dash for what is not known."""
    return decimal(value, decimals) if math.isfinite(value) else NOT_KNOWN


def probability(p: float) -> str:
    """A p value; below 0.001 the digits mean nothing."""
    if not math.isfinite(p):
        return NOT_KNOWN
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def p_of(p: float) -> str:
    """What follows the letter p in a sentence: '= 0.03', '< 0.001'."""
    return f"= {probability(p)}" if p >= 0.001 else probability(p)


def sentence(text: str) -> str:
    """As a sentence: a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def percent(ratio: Estimate) -> str:
    """'2.9 % [1.6, 4.1] lower'; the interval of a lower loss is printed as the reduction."""
    if not math.isfinite(ratio.estimate):
        return "not comparable"
    return f"{size_of_change(ratio)} {'lower' if ratio.estimate < 1 else 'higher'}"


def size_of_change(ratio: Estimate) -> str:
    """'2.9 % [1.6, 4.1]': by how much a ratio is off 1, whatever its direction."""
    sign = -1 if ratio.estimate < 1 else 1
    sides = sorted(100 * sign * (side - 1) for side in ratio.interval)
    text = f"{decimal(100 * sign * (ratio.estimate - 1), 1)} %"
    return f"{text} [{decimal(sides[0], 1)}, {decimal(sides[1], 1)}]" if all(map(math.isfinite, sides)) else text


def listed(items: Sequence[str], most: int = 4) -> str:
    shown = list(items[:most])
    if len(items) > most:
        shown.append(f"{len(items) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
