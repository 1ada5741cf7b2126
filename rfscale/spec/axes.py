"""The axes of a sweep and their roles: which field is an arm, which a rung, which is tuned, and where a trial stands.

Formulations are arms, model size and length of training are rungs, seeds are seeds. Any other field of which a sweep
lists several values is an arm, unless it stands under `tune:`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, JsonValue

from rfscale.names import RfscaleError
from rfscale.quoting import cut
from rfscale.registry import KINDS
from rfscale.spec.trial import Trial

Role = Literal["arm", "rung", "tuned", "seed"]

FORMULATIONS, DEPTHS, WIDTHS, STEPS, SAMPLES, SEEDS = (
    "formulations",
    "model.depths",
    "model.widths",
    "training.steps",
    "training.samples",
    "seeds",
)
"""The fields that a sweep file names in the plural, or that mean the same."""

ROLES: dict[str, Role] = {FORMULATIONS: "arm", DEPTHS: "rung", STEPS: "rung", SAMPLES: "rung", SEEDS: "seed"}
"""Field of a sweep file -> its role. A field that is not here is an arm, or tuned."""

ARMS = "arms"
"""The axis of the arms that a sweep names itself."""


class AxisError(RfscaleError, ValueError):
    """The axes of a sweep make no sense together; the message is one sentence that says what to change."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A field of which the sweep has several values, as the file names it, its role, and the values in words."""

    field: str
    role: Role
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placing:
    """Where a trial stands: the label of its arm, its rung and its tuned values (field -> value in words), its seed."""

    arm: str
    rung: tuple[tuple[str, str], ...]
    tuned: tuple[tuple[str, str], ...]
    seed: int


@dataclass(frozen=True)
class Point:
    """A trial as one entry of `grids:` and one arm of `arms:` make it. `written`: the fields as the file has them, one
    value each; `listed`: the fields of which that entry lists several values."""

    trial: Trial
    grid: int
    arm: str
    written: BaseModel
    values: Mapping[str, Any]
    listed: frozenset[str]

    def value(self, field: str) -> Any:
        """The value of a field, whether it is listed or not; None where this trial has no such field."""
        if field in self.values:
            return self.values[field]
        found: Any = self.written
        for part in field.split("."):
            found = getattr(found, part, None)
        return found


@dataclass(frozen=True)
class Layout:
    """The axes of a sweep and the place of each of its trials."""

    axes: tuple[Axis, ...]
    placings: Mapping[str, Placing]
    """Trial id -> place."""
    placed: tuple[tuple[int, Trial, Placing], ...]
    """(entry of `grids:`, trial, place), a trial that stands in several entries as often as that."""

    @property
    def arms(self) -> tuple[str, ...]:
        """The labels of the arms, in the order of the file."""
        return tuple(dict.fromkeys(placing.arm for placing in self.placings.values()))

    @cached_property
    def unsaid(self) -> dict[str, JsonValue]:
        """What the identities of the trials do not say as it was added later, with its defaults."""
        trials = {trial.trial_id: trial for _, trial, _ in self.placed}
        return {key: value for trial in trials.values() for key, value in trial.unsaid_record().items()}

    @cached_property
    def roles(self) -> dict[Role, list[str]]:
        """Role -> keys of the identity whose values change where only axes of that role move.

        A key that an arm moves is no key of the rung, even where the rung moves it too: with twice the batch and the
        same samples, an arm takes half the steps.
        """
        records = {trial.trial_id: trial.identity_record() for _, trial, _ in self.placed}

        def moved(within: Callable[[Placing], Hashable]) -> list[str]:
            groups: dict[Hashable, dict[str, JsonValue]] = {}
            keys: dict[str, None] = {}
            for grid, trial, placing in self.placed:
                record = records[trial.trial_id]
                first = groups.setdefault((grid, within(placing)), record)
                if record is not first:
                    both = [*first, *(key for key in record if key not in first)]
                    keys |= {key: None for key in both if first.get(key, ...) != record.get(key, ...)}
            return list(keys)

        tuned = moved(lambda place: (place.arm, place.rung, place.seed))
        arm = [key for key in moved(lambda place: (place.rung, place.seed)) if key not in tuned]
        if "formulation" not in (*tuned, *arm):
            arm.insert(0, "formulation")
        rung = moved(lambda place: (place.arm, place.tuned, place.seed))
        return {
            "arm": arm,
            "rung": [key for key in rung if key not in (*arm, *tuned)],
            "tuned": tuned,
            "seed": ["seed"],
        }

    def of(self, role: Role) -> list[Axis]:
        return [axis for axis in self.axes if axis.role == role]

    def sentence(self) -> str:
        """What will be compared with what."""
        rungs = len(dict.fromkeys(placing.rung for placing in self.placings.values()))
        seeds = len(dict.fromkeys(placing.seed for placing in self.placings.values()))
        at = f"at {_count(rungs, 'rung')} ({_named(self.of('rung'))})" if rungs > 1 else "at one rung"
        over = f"over {_count(seeds, 'seed')}"
        if len(self.arms) == 1:
            said = f"There is one arm, {self.arms[0]}, {at}, {over}: nothing is compared with another arm"
        else:
            said = f"Compared with each other are {len(self.arms)} arms, {at}, {over}"
        tuned = self.of("tuned")
        if tuned:
            each = " and of ".join(f"{len(axis.values)} values of {axis.field}" for axis in tuned)
            said += f"; at each rung an arm takes the best of {each}"
        return f"{said}."


def layout(points: Sequence[Point], tune: Iterable[str], fields: Callable[[BaseModel], Iterable[str]]) -> Layout:
    """The axes and the places of the trials that a sweep makes.

    `tune`: the fields whose best value an arm takes. `fields`: the fields that could be listed in what is written.
    Raises AxisError where a name under `tune` is none of them or takes one value, and where two arms have one label or
    one trial.
    """
    tune = list(tune)
    listed = dict.fromkeys(field for point in points for field in sorted(point.listed))
    axes = [_axis(points, field, tune) for field in dict.fromkeys([*ROLES, *listed])]
    several = {axis.field: axis for axis in axes if len(axis.values) > 1}
    if tune:
        written = {id(point.written): point.written for point in points}
        _check_tuned(tune, several, {name for one in written.values() for name in fields(one)})
    if any(point.arm for point in points):
        named = Axis(ARMS, "arm", tuple(dict.fromkeys(point.arm for point in points)))
        moving = (axis for axis in several.values() if axis.role != "arm" or _moves_inside(points, axis.field))
        several = {ARMS: named, **{axis.field: axis for axis in moving}}
    labels = _Labels(points, several, by_formulation=FORMULATIONS not in tune)
    arms = [labels.of(point) for point in points]
    if (widths := _widths(points, arms)) is not None:
        several = {WIDTHS: widths, **several}
    placed = []
    for point, arm in zip(points, arms, strict=True):
        rung, tuned = (
            tuple((axis.field, shown(_value(point, axis.field))) for axis in several.values() if axis.role == role)
            for role in ("rung", "tuned")
        )
        placed.append((point.grid, point.trial, Placing(arm, rung, tuned, point.trial.seed)))
    placings: dict[str, Placing] = {}
    for _, trial, placing in placed:
        first = placings.setdefault(trial.trial_id, placing)
        if first.arm != placing.arm:
            raise AxisError(
                f"the arms {first.arm!r} and {placing.arm!r} hold the same trial, {trial.trial_id}; remove one, or "
                "change what they differ in"
            )
    return Layout(tuple(several.values()), placings, tuple(placed))


def _axis(points: Sequence[Point], field: str, tune: Sequence[str]) -> Axis:
    role = "tuned" if field in tune else ROLES.get(field, "arm")
    values = (point.value(field) for point in points)
    return Axis(field, role, tuple(dict.fromkeys(shown(value) for value in values if value is not None)))


def _value(point: Point, field: str) -> Any:
    return point.trial.model.width if field == WIDTHS else point.value(field)


def _widths(points: Sequence[Point], arms: Sequence[str]) -> Axis | None:
    """The widths as rungs, where an arm has several at one depth: entries of `grids:` that make a ladder of widths."""
    found: dict[tuple[str, int], set[int]] = {}
    for point, arm in zip(points, arms, strict=True):
        found.setdefault((arm, point.trial.model.depth), set()).add(point.trial.model.width)
    if all(len(widths) == 1 for widths in found.values()):
        return None
    return Axis(WIDTHS, "rung", tuple(dict.fromkeys(shown(point.trial.model.width) for point in points)))


def _moves_inside(points: Sequence[Point], field: str) -> bool:
    """Whether a field has several values inside one named arm."""
    inside: dict[str, set[str]] = {}
    for point in points:
        inside.setdefault(point.arm, set()).add(shown(point.value(field)))
    return any(len(values) > 1 for values in inside.values())


def _check_tuned(tune: Sequence[str], several: Mapping[str, Axis], known: set[str]) -> None:
    for name in tune:
        if ROLES.get(name, "arm") != "arm":
            raise AxisError(
                f"tune: {name} is a {ROLES[name]}, and cannot be tuned; tune a field such as training.learning_rate"
            )
        if name not in known and name != FORMULATIONS:
            raise UnknownFieldError(name, sorted(known))
        if name not in several:
            raise AxisError(f"tune: {name} has one value in this sweep; list several, or take it out of tune")


class UnknownFieldError(AxisError):
    """A name under `tune:` that is no field."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"tune: {cut(name)} is no field of a trial")
        self.name, self.known = name, known


class _Labels:
    """The label of each arm: its own name, or its formulation, and `key value` of every other field it differs in."""

    def __init__(self, points: Sequence[Point], several: Mapping[str, Axis], by_formulation: bool) -> None:
        self._by_formulation = by_formulation
        self._fields = [axis.field for axis in several.values() if axis.role == "arm" and axis.field != ARMS]
        last = [field.rpartition(".")[2] for field in self._fields]
        self._short = {f: name if last.count(name) == 1 else f for f, name in zip(self._fields, last, strict=True)}
        self._values: dict[tuple[str, str], set[str]] = {}  # (named arm, field) -> values there
        for point in points:
            for field in self._fields:
                self._values.setdefault((point.arm, field), set()).add(shown(point.value(field)))
        self._known: dict[str, Hashable] = {}

    def of(self, point: Point) -> str:
        """Raises AxisError where two arms would have one label."""
        own = point.arm or (point.trial.formulation if self._by_formulation else "")
        parts = [own] if own else []
        for field in self._fields:
            if field == FORMULATIONS and not point.arm:
                continue  # its own name already
            value = point.value(field)
            if value is not None and len(self._values[point.arm, field]) > 1:
                parts.append(shown(value) if field == FORMULATIONS else f"{self._short[field]} {shown(value)}")
        label = ", ".join(parts) or "all"
        definition = (point.arm, *(shown(point.value(f)) for f in self._fields if len(self._values[point.arm, f]) > 1))
        if self._known.setdefault(label, definition) != definition:
            raise AxisError(f"two arms are called {label!r}; give one of them another name")
        return label


def shown(value: Any) -> str:
    """A value in words: numbers without padding, truth values as in YAML, a spec by its name and what it changes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, BaseModel):
        kind = next(kind for kind in KINDS.values() if kind.holds(value))
        changed = value.model_dump(mode="json", exclude_defaults=True, exclude={kind.tag})
        return " ".join([kind.name_of(value), *(f"{key} {shown(inner)}" for key, inner in changed.items())])
    return str(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _named(axes: Iterable[Axis]) -> str:
    return " x ".join(axis.field for axis in axes)
