"""What a sweep file may write under `formulations:`: names, grids and presets -> canonical names. Imports no torch."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rfscale.flow.formulations import FAMILIES, LONGEST_NAME, FormulationError, canonical, signature
from rfscale.quoting import quoted

_TABLE_1 = (
    "rf/lognorm(0.00,1.00)",
    "rf/lognorm(1.00,0.60)",
    "rf/lognorm(0.50,0.60)",
    "rf/mode(1.29)",
    "rf/lognorm(0.50,1.00)",
    "eps/linear",
    "rf/mode(1.75)",
    "rf/cosmap",
    "edm(0.00,0.60)",
    "rf",
    "v/linear",
    "edm(0.60,1.20)",
    "v/cos",
    "edm/cos",
    "edm/rf",
    "edm(-1.20,1.20)",
)

PRESETS: dict[str, tuple[str, ...]] = {
    # The 16 rows that Table 1 of the paper prints.
    "paper-table1": _TABLE_1,
    # All 61 (section 5.1 and appendix B.3). The seven values of s are uniform in [-1, 1.75], and s = 1 is added; the
    # sixth, 1.2917, is printed as 1.29 and taken as printed.
    "paper-61": (
        *("eps/linear", "v/linear", "eps/cos", "v/cos", "rf", "rf/cosmap", "edm/rf", "edm/cos"),
        *(f"rf/mode({s})" for s in (-1, -0.5417, -0.0833, 0.375, 0.8333, 1, 1.29, 1.75)),
        *(f"rf/lognorm({m},{s})" for m in (-1, -0.5, 0, 0.5, 1) for s in (0.2, 0.6, 1.0, 1.4, 1.8, 2.2)),
        *(f"edm({m},{s})" for m in (-1.2, -0.6, 0, 0.6, 1.2) for s in (0.6, 1.2, 1.8)),
    ),
}


MAX_FORMULATIONS = 10_000
"""Names of one list, grids written out: the paper has 61."""


def expand(entries: Iterable[Any]) -> list[str]:
    """The canonical names of all entries, in order. Raises FormulationError."""
    names: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            names += _expand_name(entry)
        elif isinstance(entry, Mapping) and entry:
            for family, axes in entry.items():
                names += _expand_grid(str(family), axes)
        else:
            raise FormulationError(
                f"formulation {quoted(entry)} is not a name such as rf/lognorm(0,1), a grid such as "
                f"rf/mode: {{s: [1, 1.29]}}, or a preset ({', '.join(PRESETS)}); write one of these"
            )
        _check_number(len(names), "the formulations")
    return names


def _expand_name(entry: str) -> list[str]:
    if entry.count("(") > entry.count(")"):
        raise FormulationError(f"formulation {quoted(entry)} was cut at its comma; inside [ ] put it in quotes")
    near = difflib.get_close_matches(entry.strip()[:LONGEST_NAME], PRESETS, n=1, cutoff=0.7)
    if near and entry.strip() not in PRESETS:
        raise FormulationError(f"preset {quoted(entry)} is not known; did you mean {near[0]!r}?")
    return [canonical(name) for name in PRESETS.get(entry.strip(), (entry,))]


def _expand_grid(family: str, axes: Any) -> Iterator[str]:
    if family not in FAMILIES:
        canonical(family)  # raises, naming the nearest; a name in another spelling is no key of a grid
        raise FormulationError(
            f"formulation {quoted(family)} is not the key of a grid; write it as a name, without a colon"
        )
    names = [p.name for p in FAMILIES[family].parameters]
    if not isinstance(axes, Mapping) or set(axes) != set(names) or not names:
        raise FormulationError(
            f"the grid of {signature(family)} was given as {quoted(axes)}; it needs "
            + (f"exactly the keys {', '.join(names)}" if names else "no keys: write the name alone")
        )
    values = {name: axes[name] if isinstance(axes[name], list) else [axes[name]] for name in names}
    for name, entries in values.items():
        if not entries:
            raise FormulationError(f"the grid of {signature(family)} has no value of {name}; give it one or more")
        for entry in entries:
            if isinstance(entry, bool) or not isinstance(entry, int | float):
                raise FormulationError(f"the grid of {signature(family)}: {name} = {quoted(entry)} is not a number")
    _check_number(math.prod(map(len, values.values())), f"the grid of {signature(family)}")
    for point in itertools.product(*values.values()):
        yield canonical(f"{family}({','.join(map(repr, point))})")


def _check_number(count: int, what: str) -> None:
    if count > MAX_FORMULATIONS:
        raise FormulationError(
            f"{what} make {count:,} names; a sweep has at most {MAX_FORMULATIONS:,}, so shorten a list, or write "
            "several sweep files"
        )
