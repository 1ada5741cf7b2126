"""What the sizes of the arms cost beside the reference: how near matched arms are, and how far others are apart."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.compare.arms import Comparison
from analysis.compare.cells import SAME_COST, rung_labels
from analysis.compare.numbers import NOT_KNOWN
from analysis.table.read import SweepTable

Cost = tuple[float, float]
"""Training FLOPs of one sample, and parameters."""


def relative(table: SweepTable, comparison: Comparison) -> dict[tuple[str, str], Cost]:
    """(arm, rung) -> FLOPs per sample and parameters over those of the reference there; empty where all cost alike."""
    trials = table.trials.assign(rung=rung_labels(table), flops=table.trials["train_flops_per_step"])
    trials["flops"] /= trials["batch"]
    at: dict[tuple[str, str], Cost] = {
        (str(arm), str(rung)): (float(rows["flops"].iloc[0]), float(rows["parameters"].iloc[0]))
        for (arm, rung), rows in trials.groupby(["arm", "rung"], sort=False)
    }
    found = {
        (arm, rung): (flops / at[comparison.reference, rung][0], size / at[comparison.reference, rung][1])
        for (arm, rung), (flops, size) in at.items()
        if (comparison.reference, rung) in at
    }
    differ = any(abs(value - 1) > SAME_COST for cost in found.values() for value in cost)
    return found if differ else {}


def rows(table: SweepTable, comparison: Comparison) -> list[tuple[str, ...]]:
    """A table, arms by rank down and rungs across; nothing where all arms cost the same."""
    found = relative(table, comparison)
    if not found:
        return []
    order = [rung.label for rung in comparison.sizes if (comparison.reference, rung.label) in found]
    arms = [s.arm for s in comparison.standings if s.arm != comparison.reference]
    return [
        (comparison.noun, *order),
        *((arm, *(_cell(found, arm, rung) for rung in order)) for arm in arms),
    ]


def _cell(found: Mapping[tuple[str, str], Cost], arm: str, rung: str) -> str:
    return " / ".join(f"{value:.3g}" for value in found[arm, rung]) if (arm, rung) in found else NOT_KNOWN


def note(comparison: Comparison) -> str:
    """What the cells of the table are."""
    return (
        f"Training FLOPs of one sample / trainable parameters, in multiples of {comparison.reference}'s at the same "
        f"rung."
    )
