"""Arms of equal cost: for each size, the width whose FLOPs or parameters come nearest to those of the first arm.

Widths are multiples of the `width_step` of the network, so the match is as near as that grid allows; `rfscale plan`
shows how near. A matched arm is the ladder that has these `widths` written out: its trials have the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rfscale.backbones.base import Cost
from rfscale.backbones.spec import Quantity, TransformerLadder, TransformerSpec
from rfscale.numbers import bounds_of
from rfscale.spec.axes import AxisError, Layout, Point
from rfscale.spec.sweep import Grid, Size, SweepError
from rfscale.spec.trial import Trial

COST: dict[Quantity, Callable[[Cost], int]] = {
    "flops": lambda shape: shape.flops().train,
    "parameters": lambda shape: shape.parameter_count(),
}
"""Quantity -> its value: training FLOPs per sample, and trainable parameters."""
WIDTH = ("width_per_depth", "widths")
"""The keys under `model:` that say the widths themselves."""
WORDS: dict[Quantity, str] = {"flops": "training FLOPs per sample", "parameters": "parameters"}


def matching(grid: Grid) -> Quantity | None:
    """What the sizes of a grid are matched in."""
    return grid.model.match if isinstance(grid.model, TransformerLadder) else None


def check_width(own: Any, whole: Any, where: str, first: bool) -> None:
    """Of one arm: `own`, what it writes under `model:`, sets the width in one way. `first`: it is what others are
    matched to. Raises AxisError."""
    if not isinstance(own, Mapping) or not isinstance(whole, Mapping) or "match" not in whole:
        return
    if first and "match" in own:
        raise SweepError(
            f"{where}: model.match: this is the first arm, to which the others are matched; remove it here"
        )
    given = [key for key in WIDTH if key in own]
    if given and not first:
        raise SweepError(
            f"{where}: model.{given[0]} and model.match both set the width of this arm; remove one of them"
        )


def unmatched(grid: Grid) -> Grid:
    """The grid with the widths that its file gives."""
    if matching(grid) is None:
        return grid
    return grid.model_copy(update={"model": grid.model.model_copy(update={"match": None})})


def matched(grid: Grid, reference: Grid) -> Grid:
    """The grid with the width of each size worked out; one that has the networks of the reference is not matched.

    Raises AxisError where the reference has no such size, and ValueError where a network does not fit its data.
    """
    by, model, plain = matching(grid), grid.model, unmatched(grid)
    if by is None or not isinstance(model, TransformerLadder):
        return grid
    if (plain.model, grid.data, grid.text) == (reference.model, reference.data, reference.text):
        return plain
    missing = [depth for depth in model.depths if depth not in reference.model.depths]
    if missing:
        raise AxisError(
            f"model.match: the first arm, to which the others are matched, has no size of depth {missing[0]}; arms "
            f"meet at equal depths, so give this one depths of the first"
        )
    widths = []
    for depth in model.depths:
        target = COST[by](reference.model.at(depth).shape(reference.data, reference.text))
        widths.append(_nearest_width(model.at(depth), grid, by, target))
    return grid.model_copy(update={"model": model.model_copy(update={"widths": tuple(widths)})})


def _nearest_width(spec: object, grid: Grid, by: Quantity, target: int) -> int:
    """Costs rise with the width: bisection on the multiples of the step, from a bracket that doubles."""
    assert isinstance(spec, TransformerSpec)
    step = spec.width_step
    most = int(bounds_of(TransformerSpec, "width").high) // step

    def cost(steps: int) -> int:
        return COST[by](spec.model_copy(update={"width": steps * step}).shape(grid.data, grid.text))

    low, high = 0, 1
    while cost(high) < target and high < most:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) < target else (low, middle)
    return step * min((steps for steps in (low, high) if steps), key=lambda steps: abs(cost(steps) - target))


def sizes(points: Sequence[Point], layout: Layout) -> Iterator[Size]:
    """How near each matched size is to the reference, and the reference itself; nothing where no arm is matched."""
    seen = set()
    for number in dict.fromkeys(point.grid for point in points):
        entry = [point for point in points if point.grid == number]
        if all(_by(point) is None for point in entry):
            continue
        first = [point.trial for point in entry if point.written is entry[0].written]
        by_depth = {trial.model.depth: trial for trial in reversed(first)}
        for point in (p for p in entry if p.written is entry[0].written or _by(p) is not None):
            arm = layout.placings[point.trial.trial_id].arm
            found = _size(arm, _by(point), point.trial, by_depth[point.trial.model.depth])
            if found not in seen:
                seen.add(found)
                yield found


def _by(point: Point) -> Quantity | None:
    return matching(point.written) if isinstance(point.written, Grid) else None


def _size(arm: str, by: Quantity | None, trial: Trial, reference: Trial) -> Size:
    shape, beside = trial.shape, reference.shape
    model = trial.model
    return Size(
        arm=arm,
        by=by,
        depth=model.depth,
        width=model.width,
        heads=model.heads,
        parameters=shape.parameter_count(),
        flops=shape.flops().train,
        times_parameters=shape.parameter_count() / beside.parameter_count(),
        times_flops=shape.flops().train / beside.flops().train,
    )
