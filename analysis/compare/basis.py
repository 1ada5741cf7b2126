"""What a ranking rests on, in a sentence: sizes, seeds, equal FLOPs, and whether the arms are measured on the same."""

from __future__ import annotations

import numpy as np

from analysis.compare.cells import Cells
from analysis.compare.paired import Spread
from analysis.compare.seen import place_of, sizes_in


def basis(grid: Cells, spread: Spread) -> str:
    """All of it, without the full stop."""
    return _spread(grid, spread) + _equal_flops(grid) + _yardstick(grid)


def _yardstick(grid: Cells) -> str:
    """What is said where arms are not measured on the same."""
    if not grid.own_yardstick:
        return ""
    return (
        f"; the {grid.noun}s differ in {', '.join(grid.own_yardstick)}, so val/loss is measured on other images "
        f"or captions for each, and a lower one may only mean that these are easier"
    )


def _equal_flops(grid: Cells) -> str:
    """What is said where arms differ in cost."""
    if not grid.equal_flops:
        return ""
    return (
        f"; the {grid.noun}s differ in cost per step, so they are compared at equal training FLOPs: at each rung those "
        f"of the one that ends with the least, the losses of the others read off their curves, straight in log-log "
        f"between measured points"
        + (f"; left out, as its curves begin beyond these: {'; '.join(grid.unreached)}" if grid.unreached else "")
    )


def _spread(grid: Cells, spread: Spread) -> str:
    x = np.log(grid.parameters)
    n, place = len(x), place_of(x)
    places = count(n, place) + ("" if place == "size" else f" of {count(sizes_in(x), 'size')}")
    seeds = count(len(grid.seeds), "seed")
    if spread == "seeds":
        beside = f", each difference averaged over {place}s first" if n > 1 else ""
        return f"{places}, {seeds}: the intervals are over seeds{beside}"
    if len(grid.seeds) == 1:
        told = (
            f"{places}, {seeds}: no interval of a difference, since what a seed does may be the same at every {place}"
        )
        return told + ("; its change with size is tested" if n > 2 else "")
    return f"{places}, {seeds}: no interval, because the trials that are shared are too few to know chance"


def count(n: int, word: str) -> str:
    return f"{'one' if n == 1 else n} {word}{'' if n == 1 else 's'}"
