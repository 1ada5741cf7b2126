"""An endless captioned world of short words: 1 to 4 capital letters in one colour on a dark grey ground.

    index -> scene (word, colour, place) -> image

Everything is a pure function of the index, as in the shapes world, with the same layout of streams. The picture is a
grid of 16 x 16 cells, each enlarged to a square of pixels. A letter fills 3 x 5 cells and a blank column parts it from
the next, so that four letters are 15 cells wide. Words stand on whole cells (half-way between pixels, strokes one pixel
wide would be a blur) and begin at every fourth: 12 places for one letter, 3 for four. A letter then meets patches of 2
or 4 cells in one way only, and a small network has less to learn before it can write.

The caption spells the word, `the word C A T in red`: a text encoder that embeds words sees every letter as a token of
its own, at the same places in every caption. Of `CAT` it would see one unknown token, and words could only be learnt by
heart. Words are random strings, not of any language, so that no letter can be guessed from its neighbours.

One string in eight of three letters and more is reserved for the held-out split, which draws its longer words from
those alone: spelling them means composing letters, since training never shows them. There are too few shorter
words to reserve any; of those, one picture in eight (word, colour and place) is reserved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rfscale.data.base import FloatArray, IndexArray
from rfscale.data.counter import UIntArray, hash64, uniform
from rfscale.data.endless import (
    BACKGROUND,
    COLOURS,
    PALETTE,
    STREAM_BITS,
    signed_unit,
)
from rfscale.data.font import ALPHABET, BITMAPS, LETTER_HEIGHT, LETTER_WIDTH

MAX_LETTERS: Final = 4
GRID: Final = 16  # cells along a side of the picture
PITCH: Final = LETTER_WIDTH + 1  # from letter to letter
STEP: Final = 4  # between the places of a word, across and down

_COMPOSED = 3  # words of so many letters are held out by their spelling, shorter ones by their picture
_RESERVED_BITS = 3  # 2^-3 of all words is reserved
_RESERVE_KEY = 262626  # any fixed number; changing it changes which words are held out

# The random numbers of a scene, by place: the length, then for each attempt at the rest eight of these.
_LETTERS, _COLOUR, _COLUMN, _ROW = 0, 4, 5, 6
_DRAWS = 8


@dataclass(frozen=True)
class Scene:
    """`column` and `row` are the cell of the word's upper left corner, in the world multiples of 4."""

    word: str
    colour: str
    column: int
    row: int

    @property
    def caption(self) -> str:
        return f"the word {' '.join(self.word)} in {self.colour}"


def scenes(indices: Sequence[int] | UIntArray, max_letters: int = MAX_LETTERS) -> list[Scene]:
    """The scenes of `indices` (0 .. 2^64 - 1), each a pure function of (index, max_letters).

    The length is uniform over 1 .. max_letters; letters, colour and place are uniform over the scenes of that length on
    the index's side of the split.
    """
    index = np.asarray(indices, dtype=np.uint64)
    length = 1 + (uniform(index, 0) * max_letters).astype(np.int64)
    held_out = index < np.uint64(1 << STREAM_BITS)
    drawn = np.zeros((len(index), _DRAWS), dtype=np.int64)
    missing, attempt = np.arange(len(index)), 0
    while len(missing):  # the first attempt on the right side of the split counts
        u = uniform(index[missing, None], 1 + _DRAWS * attempt + np.arange(_DRAWS))
        drawn[missing] = (u * _sizes(length[missing])).astype(np.int64)
        wrong = is_reserved(drawn[missing], length[missing]) != held_out[missing]
        missing, attempt = missing[wrong], attempt + 1
    return [
        Scene("".join(ALPHABET[letter] for letter in d[:n]), COLOURS[d[_COLOUR]], STEP * d[_COLUMN], STEP * d[_ROW])
        for n, d in zip(length.tolist(), drawn.tolist(), strict=True)
    ]


def render(world: Sequence[Scene], resolution: int) -> FloatArray:
    """Images of scenes: float32 "b 3 resolution resolution" in [-1, 1]; the resolution is a multiple of 16."""
    ground = signed_unit(BACKGROUND)
    paint = np.stack([signed_unit(PALETTE[scene.colour]) for scene in world]) if world else np.zeros((0, 3))
    ink = draw([scene.word for scene in world], [scene.column for scene in world], [scene.row for scene in world])
    images = np.where(ink[:, None], paint[:, :, None, None], ground[:, None, None]).astype(np.float32)
    factor = resolution // GRID
    return images.repeat(factor, axis=2).repeat(factor, axis=3)


def draw(words: Sequence[str], columns: Sequence[int], rows: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Ink of words whose upper left corners stand at those cells: bool "b 16 16"."""
    ink = np.zeros((len(words), GRID, GRID), dtype=np.bool_)
    at = [
        (number, column + PITCH * slot, row, ALPHABET.index(letter))
        for number, (word, column, row) in enumerate(zip(words, columns, rows, strict=True))
        for slot, letter in enumerate(word)
    ]
    owner, left, top, letter_of = np.array(at, dtype=np.int64).reshape(-1, 4).T
    down = top[:, None, None] + np.arange(LETTER_HEIGHT)[:, None]
    across = left[:, None, None] + np.arange(LETTER_WIDTH)
    ink[owner[:, None, None], down, across] = BITMAPS[letter_of]
    return ink


def is_reserved(drawn: IndexArray, length: IndexArray) -> npt.NDArray[np.bool_]:
    """Whether the held-out split alone may show a scene, by a hash; `drawn` "b 8": letters (0 .. 25), colour, place.

    The letters alone decide for words of three letters and more, the whole picture for shorter ones.
    """
    counts = (np.arange(_DRAWS) < MAX_LETTERS) | (length < _COMPOSED)[:, None]
    bits = hash64(_RESERVE_KEY, length, *(drawn * counts).T)
    return bits < np.uint64(1 << (64 - _RESERVED_BITS))


def _sizes(length: IndexArray) -> IndexArray:
    """How many values each draw has, "b 8": 1 where there is nothing to choose."""
    sizes = np.ones((len(length), _DRAWS), dtype=np.int64)
    sizes[:, :MAX_LETTERS] = np.where(np.arange(MAX_LETTERS) < length[:, None], len(ALPHABET), 1)
    sizes[:, _COLOUR] = len(COLOURS)
    sizes[:, _COLUMN] = 1 + (GRID + 1 - PITCH * length) // STEP
    sizes[:, _ROW] = 1 + (GRID - LETTER_HEIGHT) // STEP
    return sizes
