"""The grammar of the shapes world's captions, as numbers: what the text side of the encoder reads.

A caption is read as its phrases: number, colour, shape, and the role that the relation gives them. "a circle left of a
ring" is {circle: left of the other, ring: right of the other}. So the order of words counts where it means something
("a ring left of a circle" is another text) and not where it means nothing ("a ring right of a circle" is the same one).
Words outside the grammar have one common code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from rfscale.data.base import IndexArray
from rfscale.data.endless import COLOURS
from rfscale.data.raster import SHAPES
from rfscale.data.shapes import RELATIONS
from rfscale.data.words import words

_PHRASES = 8  # phrases of a text that are read
_NUMBERS: Final = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
COLOUR_CODES: Final = {colour: number for number, colour in enumerate(COLOURS, start=1)}
SHAPE_CODES: Final = {
    form: number for number, shape in enumerate(SHAPES, start=1) for form in (shape, f"{shape}s", f"{shape}es")
}
_ROLES: Final = {relation.split()[0]: number for number, relation in enumerate(RELATIONS, start=1)}
_REVERSED: Final = np.array([0, 2, 1, 4, 3])  # left of <-> right of, above <-> below
# The slots of a phrase and how many values each takes; 0 is "not said".
NUMBER, COLOUR, SHAPE, ROLE, UNKNOWN = range(5)
SIZES: Final = (1 + 4, 1 + len(COLOURS), 1 + len(SHAPES), 1 + len(RELATIONS), 2)


def parse(captions: Sequence[str]) -> IndexArray:
    """Phrases of texts "b 8 5". Any text has some: what the grammar does not know sets the slot `unknown`."""
    parsed = np.zeros((len(captions), _PHRASES, len(SIZES)), dtype=np.int64)
    for row, caption in zip(parsed, captions, strict=True):
        phrases: list[list[int]] = []
        role, closed = 0, True
        for word in words(caption):
            if word in _ROLES:
                for phrase in phrases:
                    phrase[ROLE] = _ROLES[word]
                role, closed = int(_REVERSED[_ROLES[word]]), True
            elif word in ("and", "of"):
                closed = True
            else:
                slot, value = _slot(word)
                if closed or slot == NUMBER:
                    phrases.append([0, 0, 0, role, 0])
                phrases[-1][slot] = value
                closed = slot == SHAPE
        for place, phrase in zip(row, phrases, strict=False):  # what follows the eighth is not read
            place[:] = phrase
    return parsed


def _slot(word: str) -> tuple[int, int]:
    for slot, values in ((NUMBER, _NUMBERS), (COLOUR, COLOUR_CODES), (SHAPE, SHAPE_CODES)):
        if word in values:
            return slot, values[word]
    return UNKNOWN, 1


def foils(phrases: IndexArray, u: npt.NDArray[np.float64]) -> IndexArray:
    """One false text per caption, as near to it as can be, chosen by `u` "b 4" in [0, 1).

    Half of the time the colours of two phrases of different shape are exchanged, where there are such; else the number,
    the colour (where it is said) or the shape of one phrase is another one. Relations stay as they are.
    """
    changed = phrases.copy()
    rows = np.arange(len(phrases))
    count = (phrases != 0).any(axis=-1).sum(axis=-1)
    first = (u[:, 1] * count).astype(np.int64)
    second = (first + 1 + (u[:, 2] * (count - 1)).astype(np.int64)) % np.maximum(count, 1)
    one, other = phrases[rows, first], phrases[rows, second]
    apart = (one[:, COLOUR] != other[:, COLOUR]) & (one[:, SHAPE] != other[:, SHAPE])
    exchange = (u[:, 0] < 0.5) & apart
    changed[rows[exchange], first[exchange], COLOUR] = other[exchange, COLOUR]
    changed[rows[exchange], second[exchange], COLOUR] = one[exchange, COLOUR]

    slots = np.where(one[:, COLOUR] > 0, 3, 2)
    slot = np.array([NUMBER, SHAPE, COLOUR])[(u[:, 3] * slots).astype(np.int64)]
    values = np.array(SIZES)[slot] - 1  # without "not said"
    shift = 1 + (u[:, 2] * (values - 1)).astype(np.int64)
    value = 1 + (one[rows, slot] - 1 + shift) % values
    changed[rows[~exchange], first[~exchange], slot[~exchange]] = value[~exchange]
    return changed


def reversed_relation(phrases: IndexArray) -> IndexArray:
    """The same objects in the opposite relation: false of every image that the caption is true of."""
    changed = phrases.copy()
    changed[..., ROLE] = _REVERSED[phrases[..., ROLE]]
    return changed
