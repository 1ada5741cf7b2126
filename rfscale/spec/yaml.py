"""Strict YAML: text -> plain values, by the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3).

PyYAML reads YAML 1.1, where `0600` is 384, `1:30` is 90, `yes` is true and `2e-3` is text. Only its parser is used
here; what a plain scalar means is decided by the tables below:

    null       nothing, ~, null
    truth      true, false (three spellings each; yes, no, on and off are text)
    integer    -12, 0600 (which is 600), 0o600 (octal, 384), 0xFF
    number     1.5, .5, 2e-3, .inf, .nan
    text       everything else: dates, 1:30, 1_000 and 0b11 too

Merge keys (`<<: *base`) are kept from 1.1, as `yaml.safe_load` has them: keys of the mapping itself win, then the later
`<<`, and within a list of mappings the earlier one. Refused: tags, a key twice, a key that is no text, more than one
document, and files that are larger, deeper or, with every alias written out, longer than any sweep file is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from rfscale.names import RfscaleError
from rfscale.paths import expanded
from rfscale.quoting import cut, quoted

MAX_BYTES = 200_000
MAX_VALUES = 100_000
"""Values of a file, counted where they are used: ten lists of ten aliases of a list of ten are a thousand."""
MAX_DEPTH = 50
MAX_DIGITS = 1000

_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULL = ("", "~", "null", "Null", "NULL")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = {
    **{f"{sign}.{inf}": float(f"{sign}inf") for sign in ("", "+", "-") for inf in ("inf", "Inf", "INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class YamlError(RfscaleError, ValueError):
    """A text cannot be read as strict YAML; the message says in which line and why, and names no file."""


def read_text(path: str | Path) -> str:
    """The text of a YAML file. Raises YamlError, OSError, and PathError."""
    with expanded(path, "the file").open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise YamlError(f"it is larger than {MAX_BYTES:,} bytes, which no sweep file need be; split it into several")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(f"it is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def parse(text: str) -> Any:
    """The one document in `text` as None, bool, int, float, str, list and dict; None for an empty one.

    An alias gives the same object again, so treat what comes back as read-only. Raises YamlError.
    """
    try:
        return _Builder(yaml.parse(text, _PARSER)).document()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YamlError(f"{where}{cut(error.problem or str(error), 200)}") from error
    except yaml.YAMLError as error:
        raise YamlError(cut(str(error), 200)) from error


# libyaml is several times faster and part of every wheel of PyYAML; both give the same events.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    size: int
    """Values in it, every alias written out."""


class _Builder:
    """Builds values from the parser's events, counting as it goes."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._anchors: dict[str, _Anchored | None] = {}  # None: not ended yet
        self._size = 0

    def document(self) -> Any:
        value, documents = None, 0
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    _refuse(event, "a second document begins here (---); write one sweep per file")
            elif isinstance(event, NodeEvent):
                value = self._value(event, depth=0)
            elif isinstance(event, DocumentEndEvent):
                continue
        return value

    def _value(self, event: Event, depth: int) -> Any:
        if isinstance(event, AliasEvent):
            return self._alias(event)
        self._count(event, 1)
        if depth > MAX_DEPTH:
            _refuse(event, f"it is nested too deeply; {MAX_DEPTH} levels are allowed")
        anchor = self._anchor(event)
        before = self._size
        value: Any
        if isinstance(event, ScalarEvent):
            value = _scalar(event)
        elif isinstance(event, SequenceStartEvent):
            value = self._sequence(event, depth)
        else:
            value = self._mapping(event, depth)
        if anchor is not None:
            self._anchors[anchor] = _Anchored(value, self._size - before + 1)
        return value

    def _sequence(self, event: Event, depth: int) -> list[Any]:
        _refuse_tag(event)
        return [self._value(item, depth + 1) for item in self._until(SequenceEndEvent)]

    def _mapping(self, event: Event, depth: int) -> dict[str, Any]:
        _refuse_tag(event)
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for start in self._until(MappingEndEvent):
            is_merge = isinstance(start, ScalarEvent) and start.value == "<<" and start.implicit[0] and not start.tag
            key = self._value(start, depth + 1)
            value_start = next(self._events)
            value = self._value(value_start, depth + 1)
            if is_merge:
                for base in reversed(_bases(value, value_start)):  # the first of a list wins
                    merged.update(base)
            elif not isinstance(key, str):
                _refuse(start, f"the key {quoted(key)} is not text")
            elif key in own:
                _refuse(start, f"the key {quoted(key)} stands twice")
            else:
                own[key] = value
        return {**merged, **own}

    def _until(self, end: type[Event]) -> Iterator[Event]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _anchor(self, event: Any) -> str | None:
        """The anchor of a value, marked as begun. Raises YamlError where it is there already, as PyYAML does."""
        anchor: str | None = event.anchor
        if anchor is not None:
            if anchor in self._anchors:
                _refuse(event, f"the anchor {quoted(anchor)} stands twice; give the second another name")
            self._anchors[anchor] = None
        return anchor

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            _refuse(event, f"the alias {quoted(event.anchor)} has no anchor before it")
        anchored = self._anchors[event.anchor]
        if anchored is None:
            _refuse(event, f"the alias {quoted(event.anchor)} stands inside what it names, which would have no end")
        self._count(event, anchored.size)
        return anchored.value

    def _count(self, event: Event, values: int) -> None:
        self._size += values
        if self._size > MAX_VALUES:
            _refuse(event, f"with every alias written out it has more than {MAX_VALUES:,} values; split it")


def _scalar(event: ScalarEvent) -> Any:
    """What a scalar means; quoted and block scalars are text."""
    _refuse_tag(event)
    text: str = event.value
    if not event.implicit[0]:
        return text
    if text in _NULL:
        return None
    if text in _TRUTH:
        return _TRUTH[text]
    if text in _NOT_FINITE:
        return _NOT_FINITE[text]
    if len(text) > MAX_DIGITS and _NUMBER.fullmatch(text):
        _refuse(event, f"a number of {len(text):,} digits; write one that is meant")
    if _INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _NUMBER.fullmatch(text):
        return _real(event, text)
    return text


def _real(event: Event, text: str) -> float:
    value = float(text)
    digits = re.split("[eE]", text)[0]
    if abs(value) == float("inf") or (value == 0 and digits.strip("+-0.")):
        _refuse(event, f"{cut(text)} is too {'small' if value == 0 else 'large'} for a number")
    return value


def _bases(value: Any, event: Event) -> Sequence[dict[str, Any]]:
    bases = value if isinstance(value, list) else [value]
    for base in bases:
        if not isinstance(base, dict):
            _refuse(event, f"<< merges mappings; {quoted(base)} is not a mapping, write << with an alias of a mapping")
    return bases


def _refuse_tag(event: Any) -> None:
    if event.tag is not None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        _refuse(event, f"the tag {quoted(tag)} is not allowed, only plain values are; remove it")


def _refuse(event: Event, problem: str) -> NoReturn:
    where = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
    raise YamlError(f"{where}{problem}")
