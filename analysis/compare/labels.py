"""What people read in place of keys and values of an identity: labels are made here, and no code reads them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from analysis.table.identity import Value

MAIN = ("model.", "training.", "")
"""Sections whose keys are known by their last part: `learning rate`, but `text width`."""


def words(key: str) -> str:
    """`training.learning_rate` -> 'learning rate'."""
    section, dot, name = key.rpartition(".")
    return (name if section + dot in MAIN else key.replace(".", " ")).replace("_", " ")


def number(value: Value | None) -> str:
    """A value of an identity as a person writes it."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def said(key: str, value: Value | None) -> str:
    """'d = 4', 'learning rate 0.002', and a formulation by its own name."""
    name = words(key)
    if name == "depth":
        return f"d = {number(value)}"
    return number(value) if name == "formulation" else f"{name} {number(value)}"


def between(items: Sequence[str]) -> str:
    """What separates these names in a list: labels such as 'rf, shift 3' have commas of their own."""
    return "; " if any(", " in item for item in items) else ", "


def legend(keys: Sequence[str]) -> str:
    """What the letters in the labels of these keys stand for."""
    return "d: blocks of the model." if any(words(key) == "depth" for key in keys) else ""


def ordered(values: Sequence[Value | None]) -> list[Value | None]:
    """Distinct values: numbers by size, then texts, then what is missing."""
    return sorted(
        set(values), key=lambda v: (v is None, isinstance(v, str), 0 if v is None or isinstance(v, str) else v, str(v))
    )


def tell_apart(rows: Sequence[Mapping[str, Value | None]], first: Sequence[str]) -> list[str]:
    """A label for each row that differs where the rows do, from as few of their keys as that takes.

    The depth is always named. `first`: the keys to try first; the others follow in their own order.
    """
    keys = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    told = [key for key in keys if words(key) == "depth"][:1]
    for key in keys:
        groups: dict[Hashable, set[Value | None]] = defaultdict(set)
        for row in rows:
            groups[tuple(row.get(k) for k in told)].add(row.get(key))
        if key not in told and any(len(values) > 1 for values in groups.values()):
            told.append(key)
    return [", ".join(said(key, row.get(key)) for key in told) or "all" for row in rows]


def size(depth: float, parameters: float) -> str:
    """'d = 4', or 'N = 1.2e+06' of a network that has no depth."""
    return said("depth", int(depth)) if math.isfinite(depth) else f"N = {parameters:.3g}"
