"""Pairs of an image and its captions, whatever holds them: what a source lists, and which pairs are held out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from rfscale.data.base import DataError
from rfscale.data.words import reading
from rfscale.numbers import Real
from rfscale.quoting import quoted

if TYPE_CHECKING:
    from rfscale.data.decoding import Picture

MIN_IMAGES = 8
MAX_COLUMNS = 20
CAPTION = "text"
"""The caption column where a sweep names none."""

Weights = tuple[tuple[str, Annotated[float, Real(0, 1, low_open=True)]], ...]
"""Caption columns and the probability of each, in the order of their names."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_WEIGHT = Real(0, 1e6, low_open=True)
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A pair. `texts`: one caption of each column. `image`: its number among the pictures of the listing.

    `file_name` decides on which side of the split it stands: the name of the image, one for all its entries. `place`
    orders several images of one name, whatever their captions, so that each caption column sees them in one order.
    """

    file_name: str
    texts: tuple[str, ...]
    image: int = 0
    place: str = ""

    @property
    def text(self) -> str:
        """The caption of the first column."""
        return self.texts[0]


@dataclass(frozen=True)
class Listing:
    """All pairs of a source. `where` names it in messages, and `content` is the SHA-256 of what it holds.

    `held_out`: the pairs that the source holds out itself; None where `split` does. `notes`: what is odd about it.
    """

    where: str
    entries: Sequence[Entry]
    pictures: Sequence[Picture]
    content: str
    held_out: Sequence[Entry] | None = None
    notes: tuple[str, ...] = ()

    def sides(self, fraction: float) -> tuple[list[Entry], list[Entry]]:
        """(held out, training), each in the order of a hash of the names. Raises DataError."""
        if self.held_out is None:
            return split(self.where, self.entries, fraction)
        _check_count(self.where, self.entries)
        return in_order(self.held_out), in_order(self.entries)


def split(where: object, entries: Sequence[Entry], fraction: float) -> tuple[list[Entry], list[Entry]]:
    """(held out, training), chosen by a hash of each file name, so that adding images leaves the others where they are.

    The held-out entries come in the order of that hash: their first k are a random choice of k. At least one image is
    held out: the first in that order. Raises DataError when there are too few images.
    """
    names = _check_count(where, entries)
    places = {name: _place(name) for name in names}
    cut = max(fraction, min(places.values()))
    ordered = in_order(entries)
    held_out = [entry for entry in ordered if places[entry.file_name] <= cut]
    training = [entry for entry in ordered if places[entry.file_name] > cut]
    if not training:
        raise DataError(
            f"{where} has {len(names)} images, and validation_fraction {fraction:g} holds out all of them: "
            "add images or lower validation_fraction."
        )
    return held_out, training


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """By the hash of the name, then by place and captions: where the entries lie in their files decides nothing."""
    return sorted(entries, key=lambda entry: (_place(entry.file_name), entry.place, entry.texts))


def _check_count(where: object, entries: Sequence[Entry]) -> set[str]:
    names = {entry.file_name for entry in entries}
    if len(names) < MIN_IMAGES:
        raise DataError(f"{where} lists {len(names)} images, but at least {MIN_IMAGES} are needed: add images.")
    return names


def name_hash(name: str) -> int:
    """64 bits of a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _place(name: str) -> float:
    return name_hash(name) / 2**64


def content_of(parts: Iterable[bytes], entries: Sequence[Entry]) -> str:
    """SHA-256 of these parts, and of how the captions are read where they are not read as they first were."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    version = reading(text for entry in entries for text in entry.texts)
    if version > 1:
        digest.update(f"\nreading {version}".encode())
    return digest.hexdigest()


def lines_of(sides: Mapping[str, Sequence[Entry]]) -> Iterator[bytes]:
    """The names and captions of every side, for `content_of`."""
    for side, entries in sides.items():
        yield f"{side}\n".encode()
        for entry in entries:
            yield "\0".join((entry.file_name, *entry.texts, "")).encode()


def checked_caption(found: object, column: str, where: str) -> str:
    """A caption as some file has it. Raises DataError that says `where` it is none."""
    if not isinstance(found, str):
        raise DataError(f"{where}: `{column}` is {quoted(found)}, but it must be a string.")
    if _SURROGATE.search(found):
        raise DataError(f"{where}: `{column}` holds half a character (a lone surrogate): write the file as UTF-8.")
    if not found.strip():
        raise DataError(f"{where}: the caption `{column}` is empty: write one or remove the image.")
    return found


def side_of(name: str) -> str | None:
    """train, validation or test, where a folder or a file is called so: `val`, `train-00000-of-00002`, `dev_3`."""
    word = re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]
    return next((side for side, words in _NAMES.items() if word in words), None)


def chosen_sides(found: Iterable[str | None], where: object) -> tuple[set[str | None], str | None]:
    """Of the sides that a source names, those that train, and the one held out: validation, or else test.

    Raises DataError where nothing is left to train on.
    """
    there = set(found)
    held_out = next((side for side in ("validation", "test") if side in there), None)
    training: set[str | None] = there & {"train", None}
    if not training:
        raise DataError(f"{where} has a {held_out} part and none to train on: add a part named train.")
    return training, held_out


# --- caption columns --------------------------------------------------------------------------------------------------


class CaptionsField:
    """Metadata of a field of caption columns: `text`, [original, synthetic] or {original: 0.5, synthetic: 0.5}."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(read_weights)


def read_weights(value: Any) -> Weights:
    """Caption columns with weights that sum to 1; () for the one column `text`. Raises ValueError."""
    shown = "write the columns with their weights, such as {original: 0.5, synthetic: 0.5}"
    if isinstance(value, str):
        value = {value: 1}
    if isinstance(value, list | tuple):
        pairs = [
            (pair[0], pair[1]) if isinstance(pair, list | tuple) and len(pair) == 2 else (pair, 1) for pair in value
        ]
        if len({str(name) for name, _ in pairs}) < len(pairs):
            raise ValueError(f"{quoted(value)} names a caption column twice; remove one")
        value = dict(pairs) if all(isinstance(name, str) for name, _ in pairs) else None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name.strip() for name in value):
        raise ValueError(f"{quoted(value)} is no choice of caption columns; {shown}")
    if len(value) > MAX_COLUMNS:
        raise ValueError(f"a list of {len(value):,} caption columns; give at most {MAX_COLUMNS}")
    for name, weight in value.items():
        if not _WEIGHT.allows(weight):
            raise ValueError(f"{quoted(weight)} is no weight of {quoted(name)}; give {_WEIGHT.allowed}")
    if list(value) in ([], [CAPTION]):
        return ()
    total = sum(value.values())
    return tuple(sorted((str(name), float(weight / total)) for name, weight in value.items()))
