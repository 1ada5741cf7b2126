"""Fields given beside a sweep file, such as `training.steps=1000`: the sweep is then that of the edited file.

A key is a field as the file names it: `seeds`, `training.steps`, `grids[1].training.steps`, `arms.rf, shift 3.seeds`.
A mapping is merged into a section that is there, as an entry of `grids:` is; null takes a key out.
"""

from __future__ import annotations

import json
import numbers
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rfscale.quoting import cut, quoted
from rfscale.registry import KINDS
from rfscale.spec.merge import merged
from rfscale.spec.sentences import section_of
from rfscale.spec.sweep import Grid, SweepError
from rfscale.spec.yaml import YamlError, parse

Step = str | int
_PART = re.compile(r"([^.\[\]]+)((?:\[[0-9]+\])*)")
_SHOWN = 3  # entries that a message names


def parse_fields(given: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` as the command line has it -> key and value, read by our strict YAML. Raises SweepError."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SweepError(f"{quoted(text)} sets no field; write FIELD=VALUE, such as training.steps=1000")
        if key in found:
            raise SweepError(f"{cut(key)} is given twice; give it once")
        try:
            found[key] = parse(value)
        except YamlError as error:
            raise SweepError(
                f"{cut(text)} cannot be read as YAML: {re.sub('^line [0-9]+: ', '', str(error))}"
            ) from error
    return found


def written(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields as the command line takes them."""
    return tuple(f"{key}={_value_text(plain(key, value))}" for key, value in fields.items())


def _value_text(value: Any) -> str:
    try:
        if isinstance(value, str) and parse(value) == value:
            return value
    except YamlError:
        pass
    return json.dumps(value, ensure_ascii=False)


def plain(key: str, value: Any) -> Any:
    """A value of Python in the types that a sweep file has. Raises SweepError."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(inner): plain(key, given) for inner, given in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(key, inner) for inner in value]
    raise SweepError(f"{cut(key)} = {quoted(value)} is nothing that a sweep file can hold; give text, numbers or lists")


def edited(raw: Mapping[str, Any], fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What the file would hold with these fields in it. Raises SweepError where one has no place or no effect."""
    found: dict[str, Any] = dict(raw)
    for key, value in fields.items():
        found = _set(found, _steps(key, found, source), plain(key, value), key, source)
    for key, value in fields.items():
        _check_reaches(found, key, value, fields, source)
    return found


def known() -> list[str]:
    """The keys of a sweep file, and those of its sections under their default choice: what a shell completes."""
    found = ["name", "question"]
    for key in (*Grid.model_fields, "samples", "quality", "resources"):
        usual = Grid.model_fields[key].default if key in Grid.model_fields else None
        model = type(usual) if isinstance(usual, BaseModel) else section_of(key, {})
        inner = [f"{key}.{name}" for name in model.model_fields if name != "plugins"] if model is not None else [key]
        found += inner
    return found


# --- keys -------------------------------------------------------------------------------------------------------------


def _steps(key: str, raw: Mapping[str, Any], source: str) -> list[Step]:
    """`grids[1].training.steps` -> grids, 1, training, steps. The label of an arm may hold dots."""
    if key.startswith("arms."):
        label, rest = _arm(key.removeprefix("arms."), raw.get("arms"), source)
        return ["arms", label, *(_parts(rest, key) if rest else ())]
    return list(_parts(key, key))


def _parts(text: str, key: str) -> Iterator[Step]:
    for part in text.split("."):
        found = _PART.fullmatch(part)
        if found is None:
            raise SweepError(f"{quoted(key)} is no field; write it as training.steps or grids[0].training.steps")
        yield found[1]
        yield from (int(index) for index in re.findall("[0-9]+", found[2]))


def _arm(text: str, arms: Any, source: str) -> tuple[str, str]:
    """The arm of the file that `text` begins with, and what follows it."""
    labels = sorted(map(str, arms), key=len, reverse=True) if isinstance(arms, Mapping) else []
    for label in labels:
        if text == label or text.startswith(f"{label}."):
            return label, text[len(label) + 1 :]
    there = f"allowed are {cut('; '.join(map(str, arms)), 300)}" if labels else "the file names none under arms:"
    raise SweepError(f"{source}: {quoted(f'arms.{text}')} begins with no arm; {there}")


# --- setting one ------------------------------------------------------------------------------------------------------


def _set(node: Any, steps: Sequence[Step], value: Any, key: str, source: str) -> Any:
    """A copy of `node` in which what the steps lead to is `value`. Nothing of the old one is changed: aliases share."""
    step, *rest = steps
    if isinstance(step, int):
        if not isinstance(node, list) or step >= len(node):
            held = (
                f"the last entry there is [{len(node) - 1}]" if isinstance(node, list) and node else "no list is there"
            )
            raise SweepError(f"{source}: {cut(key)} has no place: {held}; name an entry of the file")
        if value is None and not rest:
            return node[:step] + node[step + 1 :]
        inner = _set(node[step], rest, value, key, source) if rest else value
        return [*node[:step], inner, *node[step + 1 :]]
    if not isinstance(node, Mapping):
        raise SweepError(
            f"{source}: {cut(key)} has no place: {quoted(node)} stands there and has no keys; give all of it at once"
        )
    if rest:
        return {**node, step: _set(_section(node, step, rest), rest, value, key, source)}
    if value is not None:
        return merged(node, {step: value})
    if step not in node:
        raise SweepError(f"{source}: {cut(key)}=null takes out what is not there; leave it out")
    return {name: given for name, given in node.items() if name != step}


def _section(node: Mapping[str, Any], step: str, rest: Sequence[Step]) -> Any:
    """What the next step is looked up in: nothing yet, a choice by its name alone, or what stands there."""
    inner = node.get(step, [] if isinstance(rest[0], int) else {})
    kind = next((kind for kind in KINDS.values() if kind.section.rpartition(".")[2] == step), None)
    return {kind.tag: inner} if kind is not None and isinstance(inner, str) else inner


# --- whether it has an effect -----------------------------------------------------------------------------------------


def _check_reaches(raw: Mapping[str, Any], key: str, value: Any, fields: Mapping[str, Any], source: str) -> None:
    """Where an entry of `grids:` or `arms:` sets a key too, its own value holds: refused, unless that is given as well.

    Raises SweepError.
    """
    section = key.split(".")[0].split("[")[0]
    if section not in Grid.model_fields:
        return
    keys = [f"{key}.{inner}" for inner in value] if isinstance(value, Mapping) and "." not in key else [key]
    grids, arms = raw.get("grids"), raw.get("arms")
    entries: dict[str, Any] = {}
    if isinstance(grids, list) and "grids" not in fields:
        entries |= {f"grids[{i}]": grid for i, grid in enumerate(grids)}
    if isinstance(arms, Mapping) and "arms" not in fields:
        entries |= {f"arms.{label}": arm for label, arm in arms.items()}
    hidden = [
        (place, one)
        for place, entry in entries.items()
        for one in keys
        if isinstance(entry, Mapping) and _sets(entry, raw, one) and not _given(f"{place}.{one}", fields)
    ]
    if hidden:
        places = [place for place, _ in hidden]
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        raise SweepError(
            f"{source}: {cut(key)} would not reach {', '.join(map(repr, places[:_SHOWN]))}{more}, which "
            f"{'sets' if len(places) == 1 else 'set'} it too; give '{cut('.'.join(hidden[0]))}=...' as well, or edit "
            "the file"
        )


def _sets(entry: Mapping[str, Any], raw: Mapping[str, Any], key: str) -> bool:
    """Whether an entry has its own value of a key: that key, all of its section, or another choice there."""
    section, *rest = key.split(".")
    if section not in entry or not rest:
        return section in entry
    own, whole = entry[section], raw.get(section)
    if not isinstance(own, Mapping) or not isinstance(whole, Mapping):
        return True
    inner = rest[0].split("[")[0]
    return inner in own or (inner in whole and inner not in merged({section: whole}, {section: own})[section])


def _given(key: str, fields: Mapping[str, Any]) -> bool:
    """Whether a field says what stands at `key`, or all or a part of what it stands in."""
    return any(key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in fields)
