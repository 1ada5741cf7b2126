"""Which fields of a grid are listed, and the product of their values as grids with one value each.

Depths, formulations, lengths of training and seeds are lists in a `Grid` already; here is every other field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from rfscale.quoting import quoted
from rfscale.registry import Kind
from rfscale.spec.axes import AxisError
from rfscale.spec.sentences import kind_of, section_of

_SECTIONS = ("data", "text", "model", "training", "evaluation")
_CHOICES = ("data", "text")
"""Sections of which whole ones may be listed: a list of data sets, each with its own keys."""


def listed_fields(grid: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """(field, values) of every field of which several values are listed, such as `training.weight_decay`."""
    for section in _SECTIONS:
        given = grid.get(section)
        if isinstance(given, list) and section in _CHOICES:
            yield section, given
        elif isinstance(given, Mapping):
            kind = kind_of(section)
            if kind is not None and isinstance(given.get(kind.tag), list):  # which keys there are follows from it
                yield f"{section}.{kind.tag}", given[kind.tag]
                continue
            fields = set(listable({section: given}))
            for key, value in given.items():
                if isinstance(value, list) and f"{section}.{key}" in fields:
                    yield f"{section}.{key}", value


def one_by_one(grid: Mapping[str, Any], seen: tuple[str, ...] = ()) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Every combination of one value per listed field, in reading order, with the names of those fields.

    Raises AxisError where a value of a field is a list itself.
    """
    first = next(listed_fields(grid), None)
    if first is None:
        yield dict(grid), seen
        return
    field, values = first
    section, _, key = field.partition(".")
    _check_shared(section, key, grid[section])
    for value in values:
        if isinstance(value, list):
            raise AxisError(f"{field} = {quoted(values)} has a list inside a list; write one list of values")
        one = {**grid[section], key: value} if key else value
        yield from one_by_one({**grid, section: one}, (*seen, field))


def keys_of(kind: Kind, name: object) -> frozenset[str]:
    """The keys that a choice of that name has in a sweep file; none where there is no such choice."""
    return (
        frozenset(kind.written(kind.get(name)).model_fields) if isinstance(name, str) and name in kind else frozenset()
    )


def _check_shared(section: str, tag: str, given: Any) -> None:
    """Beside a list of names, such as `backbone: [mmdit, dit]`, stand keys that all of them have. Raises AxisError."""
    kind = kind_of(section)
    if kind is None or tag != kind.tag or not isinstance(given, Mapping):
        return
    known = {name: keys for name in given[tag] if (keys := keys_of(kind, name))}
    for key in given:
        without = [name for name, keys in known.items() if key not in keys]
        if without and len(without) < len(known):
            having = [name for name in known if name not in without]
            raise AxisError(
                f"{section}.{key} is a key of {_and(having)}, and not of {_and(without)}; write it under arms, for the "
                f"arms of {_and(having)} alone"
            )


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def listable(grid: Mapping[str, Any]) -> Iterator[str]:
    """The fields that are one value by nature, so that a list of them is an axis."""
    for section in _SECTIONS:
        given = grid.get(section)
        if isinstance(given, Mapping) and (model := section_of(section, given)) is not None:
            for key, field in model.model_fields.items():
                if not _holds_a_list(field.annotation):
                    yield f"{section}.{key}"


def _holds_a_list(annotation: Any) -> bool:
    if get_origin(annotation) in (list, tuple, set, frozenset, dict):
        return True
    return any(_holds_a_list(inner) for inner in get_args(annotation))
