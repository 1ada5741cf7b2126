"""What is wrong with a sweep file, as one sentence: the key, what was given, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from rfscale.quoting import cut, quoted
from rfscale.registry import CHOICE, KEY, KINDS, PATH, Kind
from rfscale.spec.sweep import AtDepths, Grid, Quality, Resources, Samples, Setting, Training
from rfscale.spec.trial import Evaluation, Strict

LONGEST = 500
"""Characters of a sentence, without the file's name before it."""

_SECTIONS: dict[str, type[Strict]] = {
    "training": Training,
    "evaluation": Evaluation,
    "samples": Samples,
    "quality": Quality,
    "resources": Resources,
}

_INNER: dict[str, type[Strict]] = {"quality.settings": Setting, "resources.by_depth": AtDepths}


def section_of(name: str, given: Mapping[str, Any]) -> type[BaseModel] | None:
    """What a section of a grid, such as `training`, is read as; None where it does not say what it is."""
    kind = kind_of(name)
    if kind is None:
        return _SECTIONS.get(name)
    chosen = kind.chosen(given)
    return kind.written(kind.get(chosen)) if chosen is not None and chosen in kind else None


def kind_of(section: str) -> Kind | None:
    """The kind of choice that a section of a sweep file holds."""
    return next((kind for kind in KINDS.values() if kind.section == section), None)


def sentence(error: ValidationError) -> str:
    """The first problem of a pydantic error as one sentence, with how many more there are."""
    # A misspelt key first: that the right one is missing too is the same mistake.
    problem, *more = sorted(
        error.errors(include_url=False), key=lambda found: found["type"] not in ("extra_forbidden", KEY)
    )
    location = [str(part) for part in problem["loc"]]
    text = _told(problem["type"], problem["input"], problem.get("ctx", {}), problem["msg"], location)
    return cut(text, LONGEST) + (f" (and {len(more)} more problem{'s' if len(more) > 1 else ''})" if more else "")


def _told(problem: str, given: Any, context: dict[str, Any], message: str, location: list[str]) -> str:
    name = cut(".".join(location))
    if problem == KEY:
        return unknown_key(context["key"], name, context["fields"], context.get("having", ()))
    if problem == CHOICE:
        return _no_choice(f"{name}.{context['tag']}", context["given"], context["known"])
    if problem == PATH:
        return str(context["error"])
    if problem == "extra_forbidden":
        inside = ".".join(location[:2]) if len(location) > 2 else ""
        kind: type[Strict] = _INNER.get(inside) or _SECTIONS.get(location[0], Grid)
        return unknown_key(location[-1], ".".join(location[:-1]), kind.keys())
    if problem == "value_error":
        return f"{name + ': ' if name else ''}{context['error']}"
    if problem == "missing":
        return f"the key {name!r} is missing; add it"
    if problem in ("model_type", "model_attributes_type"):
        return f"{name} = {quoted(given)} is not a mapping; write {name}: {{key: value, ...}}"
    if problem == "string_pattern_mismatch":
        return (
            f"{name} = {quoted(given)} is not a file name; begin with a letter or digit, and use letters, digits, "
            "'.', '_' and '-'"
        )
    if problem == "string_too_long":
        return f"{name} has {len(given)} characters; give it at most {context['max_length']}"
    if problem in ("too_short", "string_too_short"):
        return f"{name} is empty; give it a value"
    return f"{name} = {quoted(given)}: {message.replace('Input should', 'it should')}"


def unknown_key(key: str, section: str, allowed: Iterable[str], having: Sequence[str] = ()) -> str:
    """That a key is not known, with the one that was meant, or the other choices `having` it."""
    where = f" in {cut(section)}" if section else ""
    if having:
        return f"{quoted(key)}{where} is a key of {', '.join(having)} only; allowed here are {', '.join(allowed)}"
    return f"unknown key {quoted(key)}{where}; {nearest(key, allowed)}"


def _no_choice(name: str, given: Any, known: list[str]) -> str:
    if given is ...:
        return f"{name} is missing; it must be one of {', '.join(known)}"
    near = difflib.get_close_matches(str(given)[:100], known, n=1, cutoff=0.5)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{name} = {cut(str(given))} is not known{meant}; it must be one of {', '.join(known)}"


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The allowed name that was meant, if one is near, and all of them."""
    allowed = list(allowed)
    near = difflib.get_close_matches(given[:100], allowed, n=1, cutoff=0.5)
    return f"{f'did you mean {near[0]!r}? Allowed' if near else 'allowed'} are {', '.join(allowed)}"
