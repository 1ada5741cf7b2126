"""What a run is, and which part of that its sweep compares: identity and roles, from what the run has on record."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rfscale import names

Value = str | int | float
Identity = dict[str, Value]
"""Key without the prefix `id.` -> value; a key that is not on record is missing."""


@dataclass(frozen=True)
class Roles:
    """Which keys of the identity the axes of a sweep move, by role. A key in none of them is meant to be the same.

    `reference`: the arm that the sizes of the others were matched to, "" where none was.
    """

    arm: tuple[str, ...]
    rung: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    seed: tuple[str, ...] = ("seed",)
    reference: str = ""


def column(key: str) -> str:
    """The column of a table that holds a key of the identity."""
    return names.IDENTITY + key


def whole(params: Mapping[str, str]) -> bool:
    """Whether a run has its whole identity on record; runs of earlier versions have the main parameters only."""
    return any(key.startswith(names.IDENTITY) for key in params)


def identity_of(params: Mapping[str, str], whole_identity: bool, roles: str = "") -> Identity:
    """The identity of a run: what is recorded under `id.`, or, of an older run, every parameter that is not derived.

    `roles`: those that the run has on record, which say what its identity need not say.
    """
    if whole_identity:
        unsaid = unsaid_in(roles)
        recorded = {k.removeprefix(names.IDENTITY): v for k, v in params.items() if k.startswith(names.IDENTITY)}
        return {key: typed(value) for key, value in recorded.items() if unsaid.get(key) != value}
    derived = {key for key, known in names.PARAMS.items() if known.derived}
    return {key: typed(v) for key, v in params.items() if key not in derived and key != names.TRIAL_ID}


def unsaid_in(roles: str) -> dict[str, str]:
    """Of the roles of a run, as text: what its identity has on record or not to the same effect, as it came later."""
    try:
        return dict(json.loads(roles).get(names.UNSAID, {}))
    except (ValueError, TypeError, AttributeError):
        return {}


def typed(text: str) -> Value:
    """A value as it was before it was logged: two texts never become one value."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text and math.isfinite(value):
            return value
    return text


BEFORE_ROLES = ("depth", "width", "heads", "steps", "samples", "warmup_steps", "ema_every")
"""What the rungs of a sweep moved when runs had no roles on record: model size and length of training."""


def roles_of(tags: Iterable[str], keys: Collection[str], lr_follows_width: bool) -> Roles:
    """The roles that most runs of a sweep have on record, or the usual ones: formulations compared along the rungs.

    `tags`: the text of `names.TAG_ROLES` of each run that has it. `keys`: of the identities.
    """
    for text, _ in Counter(tags).most_common():
        try:
            found = json.loads(text)
            arm, rung, tuned, seed = (tuple(map(str, found.get(role, ()))) for role in ("arm", "rung", "tuned", "seed"))
            return Roles(arm, rung, tuned, seed, str(found.get("reference", "")))
        except (ValueError, TypeError, AttributeError):
            continue
    moved = (*BEFORE_ROLES, *(("learning_rate",) if lr_follows_width else ()))
    places = ("", "model.", "training.")
    rung = tuple(place + name for name in moved for place in places if place + name in keys)
    return Roles(arm=("formulation",), rung=rung)
