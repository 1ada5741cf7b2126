"""`rfscale coordcheck`: the size of the activations over widths, under `lr_rule: mup` and under the standard rule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rfscale.run.watch import SILENT, Watch
from rfscale.spec.schedule import Constant
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial

if TYPE_CHECKING:
    import pandas as pd

Rule = Literal["mup", "constant"]
RULES: tuple[Rule, ...] = ("mup", "constant")
WIDTHS = (32, 64, 128, 256, 512)
STEPS = 4
SEEDS = 2
IMAGES = 16
WITHIN = 1.5
"""Sizes that stay within this factor over the widths do not depend on the width."""


@dataclass(frozen=True)
class CoordinateCheck:
    """The size of what leaves every place of the network, after `steps` steps at `learning_rate`: rule -> place -> one
    number for each of `widths`, the mean over seeds. Under mup the rate holds at `base_width`."""

    sweep: str
    widths: tuple[int, ...]
    head_width: int
    depth: int
    steps: int
    seeds: int
    learning_rate: float
    base_width: int
    sizes: Mapping[Rule, Mapping[str, tuple[float, ...]]]

    def growth(self, rule: Rule) -> dict[str, float]:
        """Place -> the largest size over the smallest, of the widths; places that are zero at some width apart."""
        return {place: max(v) / min(v) for place, v in self.sizes[rule].items() if min(v) > 0}

    def worst(self, rule: Rule) -> tuple[str, float]:
        """The place that changes most with the width, and by what factor."""
        found = self.growth(rule)
        place = max(found, key=lambda name: found[name])
        return place, found[place]

    @property
    def passed(self) -> bool:
        """Under mup every place is within the factor."""
        return self.worst("mup")[1] <= WITHIN

    def frame(self) -> pd.DataFrame:
        """One row per rule, place and width."""
        import pandas as pd

        rows = [
            (rule, place, width, size)
            for rule, places in self.sizes.items()
            for place, of in places.items()
            for width, size in zip(self.widths, of, strict=True)
        ]
        return pd.DataFrame(rows, columns=["rule", "place", "width", "size"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rules = {
            rule: {
                "worst_place": self.worst(rule)[0],
                "worst_growth": self.worst(rule)[1],
                "growth": self.growth(rule),
                "sizes": {place: list(of) for place, of in self.sizes[rule].items()},
            }
            for rule in self.sizes
        }
        plain = {k: getattr(self, k) for k in ("sweep", "head_width", "depth", "steps", "seeds", "learning_rate")}
        return {
            **plain, "widths": list(self.widths), "base_width": self.base_width, "within": WITHIN,
            "passed": self.passed, "rules": rules,
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """What was found."""
        told = [
            f"After {self.steps} steps at a learning rate of {self.learning_rate:g}, depth {self.depth}, heads of "
            f"{self.head_width}, over the widths {', '.join(map(str, self.widths))}, mean over {self.seeds} seeds:"
        ]
        for rule in self.sizes:
            place, factor = self.worst(rule)
            beyond = sum(v > WITHIN for v in self.growth(rule).values())
            n = len(self.growth(rule))
            how = f"no place of {n} changes" if not beyond else f"{beyond} of {n} places change"
            told.append(
                f"{rule}: {how} by more than a factor of {WITHIN:g}; most, {factor:.2f}, does {place}"
                + (f" (learning rate as it stands at width {self.base_width})" if rule == "mup" else "")
            )
        return told


def coordinate_check(
    sweep: Sweep,
    widths: Sequence[int] | None = None,
    steps: int = STEPS,
    seeds: int = SEEDS,
    watch: Watch = SILENT,
) -> CoordinateCheck:
    """Train the sweep's first trial for a few steps at every width, under both rules; writes nothing.

    `widths`: by default whole heads near 32, 64, 128, 256 and 512. Raises SweepError for widths that its heads do not
    divide, and for a backbone without mup.
    """
    first = sweep.trials[0]
    head, depth = first.model.width // first.model.heads, first.model.depth
    unit = math.lcm(head, 4)
    widths = widths or sorted({max(1, round(width / unit)) * unit for width in WIDTHS})
    base = first.training.mup_base_width or min(widths)
    plan = [(rule, width, seed) for rule in RULES for width in widths for seed in range(seeds)]
    trials = {key: _at(sweep, first, *key, base, head, steps) for key in plan}  # all of them are checked first
    from rfscale.train.coordinates import sizes  # loads torch

    found: dict[tuple[Rule, int], list[Mapping[str, float]]] = {}
    for i, (rule, width, seed) in enumerate(plan):
        with watch.busy(f"{rule}, width {width}, seed {seed} ({i + 1} of {len(plan)})"):
            found.setdefault((rule, width), []).append(sizes(trials[rule, width, seed], steps, sweep.resources))
    places = {rule: {place: tuple(_means(found, rule, place, widths)) for place in found[rule, widths[0]][0]}
              for rule in RULES}  # fmt: skip
    return CoordinateCheck(
        sweep.name, tuple(widths), head, depth, steps, seeds, first.training.learning_rate, base, places
    )


def _means(
    found: Mapping[tuple[Rule, int], Sequence[Mapping[str, float]]], rule: Rule, place: str, widths: Sequence[int]
) -> Iterator[float]:
    for width in widths:
        values = [of[place] for of in found[rule, width]]
        yield sum(values) / len(values)


def _at(sweep: Sweep, first: Trial, rule: Rule, width: int, seed: int, base: int, head: int, steps: int) -> Trial:
    """The trial at another width, at its full rate from the first step. Raises SweepError."""
    if not type(first.model).mup:
        raise SweepError(
            f"sweep {sweep.name} has the backbone `{first.model.backbone}`, which lr_rule mup does not know; check one "
            "with backbone `mmdit`"
        )
    for what in (width, base):
        if what % math.lcm(head, 4):
            raise SweepError(
                f"a width of {what} does not hold whole heads of {head}, those of sweep {sweep.name}; give multiples "
                f"of {math.lcm(head, 4)} with --widths"
            )
    training = first.training.model_copy(
        update={
            "mup_base_width": base if rule == "mup" else None,
            "lr_rule": rule,
            "warmup_steps": 0,
            "steps": max(steps, 1),
            "schedule": Constant(),
        }
    )
    fields = {name: getattr(first, name) for name in Trial.model_fields}
    model = first.model.model_copy(update={"width": width, "heads": width // head})
    evaluation = first.evaluation.model_copy(update={"images": IMAGES})
    return Trial(**{**fields, "model": model, "training": training, "seed": seed, "evaluation": evaluation})
