"""`rfscale plan --next`: the sweep with the lists of its tuned axes extended where a best value is at their end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rfscale.spec.axes import FORMULATIONS
from rfscale.spec.merge import merged
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import parse_sweep
from rfscale.spec.trial import Trial

if TYPE_CHECKING:
    from analysis.compare.tuned import Choice
    from analysis.table.read import SweepTable

DECAYS = ("ema_decay", "beta1", "beta2")
"""Of these the distance from 1 is what goes on by the same factor."""


@dataclass(frozen=True)
class Extension:
    """One list at one place: `value` is what is tried next, beyond the `edge` at which the best one is."""

    arm: str
    rung: str
    field: str
    edge: str
    best: float
    value: float

    def sentence(self) -> str:
        return f"{self.arm} at {self.rung}: {self.field} {self.best:g} is the {self.edge} tried; next {self.value:g}"


@dataclass(frozen=True)
class Extended:
    """`definition`: the sweep file as a mapping; `new`: the trials that it adds."""

    extensions: tuple[Extension, ...]
    definition: Mapping[str, Any]
    new: tuple[Trial, ...]

    def to_yaml(self) -> str:
        import yaml

        return yaml.safe_dump(dict(self.definition), sort_keys=False, allow_unicode=True, width=120)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        places = [{k: getattr(e, k) for k in Extension.__dataclass_fields__} for e in self.extensions]
        return {
            "sweep": self.definition["name"],
            "extensions": places,
            "new_trials": len(self.new),
            "train_flops": sum(trial.train_flops for trial in self.new),
        }

    def text(self) -> str:
        flops = sum(trial.train_flops for trial in self.new)
        lines = [f"{one.sentence()}." for one in self.extensions]
        return "\n".join([*lines, f"{len(self.new)} new trials, {flops:.3g} FLOPs of training; the others stay."])


def extend(sweep: Sweep, raw: Mapping[str, Any], table: SweepTable) -> Extended:
    """The sweep with one more value beyond every end of a list at which an arm has its best one, at that rung alone (at
    all named arms, which share the grids). `raw`: the file as read. Raises SweepError where nothing is tuned or no best
    value is at an end, and CompareError."""
    from analysis.compare.arms import compare
    from analysis.compare.cells import tried

    if not sweep.layout.of("tuned"):
        raise SweepError(f"sweep {sweep.name} tunes nothing; name an axis under tune:, and list its values")
    _, rows = tried(table)
    at = {(arm, rung): trial for trial, arm, rung in zip(rows["trial_id"], rows["arm"], rows["rung"], strict=True)}
    found: list[Extension] = []
    alike: dict[tuple[object, ...], list[tuple[Trial, Extension]]] = {}
    for choice in compare(table).choices:
        trial = sweep.trial(at[choice.arm, choice.rung])
        grid = next(i for i, placed, _ in sweep.layout.placed if placed.trial_id == trial.trial_id)
        for one in _beyond(sweep, trial, choice):
            found.append(one)
            alike.setdefault((grid, sweep.placing(trial).rung, one.field, one.value), []).append((trial, one))
    if not found:
        raise SweepError(f"no best value of sweep {sweep.name} is at the end of its list; nothing is to be extended")
    grids = list(raw.get("grids") or [{}])
    entries = [_entry(sweep, raw, grids[int(str(grid))], here) for (grid, *_), here in alike.items()]
    definition = {**raw, "name": f"{sweep.name}-next", "grids": [*grids, *entries]}
    known = {trial.trial_id for trial in sweep.trials}
    longer = parse_sweep(definition, "the extended sweep", sweep.origin.folder)
    return Extended(tuple(found), definition, tuple(t for t in longer.trials if t.trial_id not in known))


def _beyond(sweep: Sweep, trial: Trial, choice: Choice) -> Iterator[Extension]:
    """What comes after each end at which a value was chosen, as the file writes it."""
    place = sweep.placing(trial)
    for field, _ in place.tuned:
        if (edge := choice.edge.get(field)) is None:
            continue
        there = (p for p in sweep.layout.placings.values() if (p.arm, p.rung) == (place.arm, place.rung))
        written = sorted({float(dict(p.tuned)[field]) for p in there})
        end, inner = (written[0], written[1]) if edge == "lowest" else (written[-1], written[-2])
        if field.rpartition(".")[2] in DECAYS:
            value = 1.0 - (1.0 - end) ** 2 / (1.0 - inner)
        elif inner == 0 or end == 0:
            continue  # 0 has no factor
        else:
            value = end * end / inner
        value = float(f"{value:.6g}")
        yield Extension(choice.arm, choice.rung, field, edge, end, round(value) if field.endswith("batch") else value)


def _entry(
    sweep: Sweep, raw: Mapping[str, Any], grid: Mapping[str, Any], here: list[tuple[Trial, Extension]]
) -> dict[str, Any]:
    """An entry of `grids:` with the next value at its rung, for the formulations that need it; named arms are in every
    entry."""
    trial, one = here[0]
    over: dict[str, dict[str, Any]] = {}
    for field, shown in sweep.placing(trial).rung:
        section, _, name = field.partition(".")
        over.setdefault(section, {})[name] = [int(float(shown))]
    if "widths" in merged(raw, grid).get("model", {}):
        over.setdefault("model", {}).update(depths=[trial.model.depth], widths=[trial.model.width])
    section, _, name = one.field.partition(".")
    over.setdefault(section, {})[name] = [one.value]
    entry = merged(grid, over)
    if not raw.get("arms") and any(axis.field == FORMULATIONS for axis in sweep.layout.of("arm")):
        entry["formulations"] = list(dict.fromkeys(trial.formulation for trial, _ in here))
    return entry
