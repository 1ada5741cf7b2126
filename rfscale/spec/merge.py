"""One mapping over another, as a sweep file means it: an entry of `grids:` or `arms:`, or a field given apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfscale.spec.listed import keys_of
from rfscale.spec.match import WIDTH
from rfscale.spec.sentences import kind_of


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over`; of a section that both have, the keys that still mean something stay."""
    found = dict(base)
    for key, value in over.items():
        old = found.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            kept = _kept(key, old, value)
            if key == "model" and any(name in value for name in WIDTH):  # the width is said in one way
                kept = {name: given for name, given in kept.items() if name not in WIDTH}
            value = {**kept, **value}
        found[key] = value
    return found


def _kept(section: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys of a section that still mean something beside the new ones: all of the same choice, and of another one
    those that it shares where the kind is a family."""
    kind = kind_of(section)
    if kind is None:
        return old
    was = old.get(kind.tag, kind.default)
    now = new.get(kind.tag, was)
    if now == was:
        return old
    chosen = (now if isinstance(now, list) else [now]) if kind.family else []
    return {key: value for key, value in old.items() if any(key in keys_of(kind, name) for name in chosen)}
