"""What is wrong with a sweep file, as one sentence: the key, what was given, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from rfscale.data.spec import DigitsData, FolderData, GlyphsData, ShapesData
from rfscale.data.text import TextSpec
from rfscale.judges.spec import ClipJudge, GenEvalJudge, GlyphsJudge, InceptionJudge, ShapesJudge
from rfscale.quoting import cut, quoted
from rfscale.spec.sweep import Grid, Ladder, Quality, Resources, Samples, Setting, Training
from rfscale.spec.trial import Evaluation

LONGEST = 500
"""Characters of a sentence, without the file's name before it."""

_SECTIONS: dict[str, type[BaseModel]] = {
    "model": Ladder,
    "training": Training,
    "evaluation": Evaluation,
    "samples": Samples,
    "quality": Quality,
    "resources": Resources,
    "text": TextSpec,
}
_DATA: dict[str, type[BaseModel]] = {
    "shapes": ShapesData,
    "glyphs": GlyphsData,
    "digits": DigitsData,
    "folder": FolderData,
}
_JUDGES: dict[str, type[BaseModel]] = {
    judge.model_fields["name"].default: judge
    for judge in (ShapesJudge, GlyphsJudge, ClipJudge, InceptionJudge, GenEvalJudge)
}


def section_of(name: str, given: Mapping[str, Any]) -> type[BaseModel] | None:
    """What a section of a grid, such as `training`, is read as; None where it does not say what it is."""
    return _DATA.get(str(given.get("name"))) if name == "data" else _SECTIONS.get(name)


def sentence(error: ValidationError) -> str:
    """The first problem of a pydantic error as one sentence, with how many more there are."""
    # A misspelt key first: that the right one is missing too is the same mistake.
    problem, *more = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    location = [str(part) for part in problem["loc"]]
    kind, known = _place(location)
    text = _told(problem["type"], problem["input"], problem.get("ctx", {}), problem["msg"], location, kind, known)
    return cut(text, LONGEST) + (f" (and {len(more)} more problem{'s' if len(more) > 1 else ''})" if more else "")


def _place(location: list[str]) -> tuple[type[BaseModel], dict[str, type[BaseModel]]]:
    """The model that a location is in and the names that its union knows; the name of a choice leaves the location.

    Pydantic names the chosen data set or judge between the section and the key.
    """
    if location[:2] == ["quality", "judges"]:
        return (_JUDGES.get(location.pop(3), Quality) if len(location) > 3 else Quality), _JUDGES
    if location[:2] == ["quality", "settings"]:
        return Setting, _DATA
    if location[:1] == ["data"] and len(location) > 1 and location[1] in _DATA:
        return _DATA[location.pop(1)], _DATA
    return (_SECTIONS.get(location[0], Grid) if location else Grid), _DATA


def _told(
    problem: str,
    given: Any,
    context: dict[str, Any],
    message: str,
    location: list[str],
    kind: type[BaseModel],
    known: Iterable[str],
) -> str:
    name = cut(".".join(location))
    if problem == "extra_forbidden":
        return unknown_key(location[-1], ".".join(location[:-1]), kind.model_fields)
    if problem == "value_error":
        return f"{name + ': ' if name else ''}{context['error']}"
    if problem == "missing":
        return f"the key {name!r} is missing; add it"
    if problem.startswith("union_tag"):
        tag = f" = {cut(context['tag'])}" if "tag" in context else ""
        return f"{name}.name{tag} is {'not known' if tag else 'missing'}; it must be one of {', '.join(known)}"
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


def unknown_key(key: str, section: str, allowed: Iterable[str]) -> str:
    """That a key is not known, with the one that was meant."""
    where = f" in {cut(section)}" if section else ""
    return f"unknown key {quoted(key)}{where}; {nearest(key, allowed)}"


def nearest(given: str, allowed: Iterable[str]) -> str:
    """The allowed name that was meant, if one is near, and all of them."""
    allowed = list(allowed)
    near = difflib.get_close_matches(given[:100], allowed, n=1, cutoff=0.5)
    return f"{f'did you mean {near[0]!r}? Allowed' if near else 'allowed'} are {', '.join(allowed)}"
