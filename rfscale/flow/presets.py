"""What a sweep file may write under `formulations:`: names, grids and presets -> canonical names. Imports no torch."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rfscale.flow.formulations import FAMILIES, FormulationError, canonical, signature

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


def expand(entries: Iterable[Any]) -> Iterator[str]:
    """The canonical names of all entries, in order. Raises FormulationError."""
    for entry in entries:
        if isinstance(entry, str):
            if entry.count("(") > entry.count(")"):
                raise FormulationError(f"formulation {entry!r} was cut at its comma; inside [ ] put it in quotes")
            near = difflib.get_close_matches(entry.strip(), PRESETS, n=1, cutoff=0.7)
            if near and entry.strip() not in PRESETS:
                raise FormulationError(f"preset {entry!r} is not known; did you mean {near[0]!r}?")
            yield from (canonical(name) for name in PRESETS.get(entry.strip(), (entry,)))
        elif isinstance(entry, Mapping):
            for family, axes in entry.items():
                yield from _expand_grid(str(family), axes)
        else:
            raise FormulationError(
                f"formulation {entry!r} is not a name such as rf/lognorm(0,1), a grid such as "
                f"rf/mode: {{s: [1, 1.29]}}, or a preset ({', '.join(PRESETS)}); write one of these"
            )


def _expand_grid(family: str, axes: Any) -> Iterator[str]:
    if family not in FAMILIES:
        canonical(family)  # raises, naming the nearest
    names = [p.name for p in FAMILIES[family].parameters]
    if not isinstance(axes, Mapping) or set(axes) != set(names):
        raise FormulationError(
            f"the grid of {signature(family)} was given as {axes!r}; it needs "
            + (f"exactly the keys {', '.join(names)}" if names else "no keys: write the name alone")
        )
    for values in itertools.product(*(_listed(axes[name]) for name in names)):
        yield canonical(f"{family}({','.join(map(str, values))})")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
