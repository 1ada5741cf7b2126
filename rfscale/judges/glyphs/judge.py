"""The judge of the glyphs world: reads the word in an image and compares it with the caption's, letter by letter.

Reading is analysis by synthesis. Painting a cell of the grid with an ink t instead of the ground g lowers the squared
error of the picture x by |x - g|^2 - |x - t|^2; a letter's gain is the sum over its cells, in whichever ink of the
palette suits it best; the word read is the one, over all lengths, places and letters, whose letters gain most. Since
letters share no cell, the best letter of every place is found once and words are sums of those.

Colours are not judged: a word in a wrong colour is spelled right.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import JsonValue

from rfscale.data.base import FloatArray, IndexArray
from rfscale.data.endless import BACKGROUND, PALETTE, signed_unit, validation_indices
from rfscale.data.font import ALPHABET, BITMAPS, LETTER_HEIGHT, LETTER_WIDTH
from rfscale.data.glyphs import GRID, MAX_LETTERS, PITCH, Scene, draw, render, scenes
from rfscale.data.spec import DataSpec, GlyphsData
from rfscale.judges.base import Generate, Judge, JudgeError, Score, share
from rfscale.judges.glyphs.spec import GlyphsJudge

BAR: Final = 0.995  # of true renders that must be read exactly
EXAM: Final = 2000  # true renders

# A picture of which more than this share of the cells contradicts the word read (ink where it has ground, or ground
# where it has ink) holds no word.
_MAX_WRONG = 1 / 8
_CHUNK = 64  # images read at once, so that the gains of all letters at all places stay in the cache

_FONT: Final = BITMAPS.reshape(len(ALPHABET), -1).astype(np.float32)
_GROUND: Final = signed_unit(BACKGROUND)
_TINTS: Final = np.stack([signed_unit(rgb) for rgb in PALETTE.values()]) - _GROUND


def read(images: FloatArray, max_letters: int = MAX_LETTERS) -> list[str]:
    """The word of each image, float32 "b 3 r r" in [-1, 1] with r a multiple of 16; "" where there is none."""
    return [
        word
        for first in range(0, len(images), _CHUNK)
        for word in _read_chunk(images[first : first + _CHUNK], max_letters)
    ]


def _read_chunk(images: FloatArray, max_letters: int) -> list[str]:
    gains = _cell_gains(images)
    letter_gain, letter = _best_letters(gains)
    best = np.zeros(len(images), dtype=np.float32)  # a picture without ink gains nothing
    words, columns, rows = [""] * len(images), [0] * len(images), [0] * len(images)
    for length in range(1, max_letters + 1):
        places = GRID + 2 - PITCH * length
        total = sum(letter_gain[:, :, PITCH * slot : PITCH * slot + places] for slot in range(length))
        flat = np.asarray(total).reshape(len(images), -1)
        where = flat.argmax(axis=1)
        for i in np.flatnonzero(flat.max(axis=1) > best).tolist():
            best[i] = flat[i, where[i]]
            rows[i], columns[i] = divmod(int(where[i]), places)
            codes = letter[i, rows[i], columns[i] : columns[i] + PITCH * length : PITCH]
            words[i] = "".join(ALPHABET[code] for code in codes)
    wrong = ((gains.max(axis=1) > 0) != draw(words, columns, rows)).mean(axis=(1, 2))
    return [word if share <= _MAX_WRONG else "" for word, share in zip(words, wrong.tolist(), strict=True)]


def _cell_gains(images: FloatArray) -> FloatArray:
    """What painting a cell with each ink gains: |x - g|^2 - |x - t|^2 = 2 (x - g).(t - g) - |t - g|^2, "b ink 16 16".

    A cell of a larger picture is the mean of its pixels. A number that is not finite counts as ground.
    """
    factor = images.shape[-1] // GRID
    cells = images.reshape(len(images), 3, GRID, factor, GRID, factor).mean(axis=(3, 5)) - _GROUND[:, None, None]
    cells = np.nan_to_num(cells.clip(-2.0, 2.0), nan=0.0)
    gains = 2.0 * np.tensordot(_TINTS, cells, axes=(1, 1)) - np.square(_TINTS).sum(axis=1)[:, None, None, None]
    return np.ascontiguousarray(gains.transpose(1, 0, 2, 3), dtype=np.float32)


def _best_letters(gains: FloatArray) -> tuple[FloatArray, IndexArray]:
    """The largest gain of a letter, and which letter it is, for each upper left corner: "b 12 14"."""
    boxes = sliding_window_view(gains, (LETTER_HEIGHT, LETTER_WIDTH), axis=(2, 3))
    scored = (boxes.reshape(*boxes.shape[:4], -1) @ _FONT.T).max(axis=1)  # over inks: "b 12 14 letter"
    return scored.max(axis=-1), scored.argmax(axis=-1)


def letters_in_place(read_word: str, word: str) -> int:
    """How many letters of `word` stand in `read_word` at the same place, counted from the left."""
    return sum(a == b for a, b in zip(read_word, word, strict=False))


def grade(read_words: Sequence[str], words: Sequence[str]) -> tuple[Score, Score]:
    """`spelling`, the share of words read exactly, and `letters`, the share of their letters read in their place.

    Letters of one word are right or wrong together, so the error of their share is that of a ratio of sums over
    images, and not below the binomial one.
    """
    n = len(words)
    exact = sum(a == b for a, b in zip(read_words, words, strict=True))
    right = np.array([letters_in_place(a, b) for a, b in zip(read_words, words, strict=True)])
    length = np.array([len(word) for word in words])
    letters = share("letters", int(right.sum()), int(length.sum()))
    clustered = math.sqrt(np.square(right - letters.value * length).sum() * n / (n - 1)) / int(length.sum())
    return share("spelling", exact, n), replace(letters, se=max(clustered, letters.se))


@dataclass(frozen=True)
class _Glyphs:
    """Reads the images of `prompts`, the first held-out scenes. `ceilings`: the scores of their true renders."""

    label: str
    identity: dict[str, JsonValue]
    data: GlyphsData
    prompts: tuple[Scene, ...]
    ceilings: tuple[float, float]

    def score(self, generate: Generate) -> Iterator[Score]:
        """`spelling` and `letters`. Raises JudgeError where the images have another shape than the world's."""
        images = np.asarray(generate([scene.caption for scene in self.prompts]), dtype=np.float32)
        side = self.data.resolution
        expected = (len(self.prompts), 3, side, side)
        if images.shape != expected:
            raise JudgeError(f"the judge `glyphs` was given images of shape {images.shape}; it needs {expected}")
        graded = grade(read(images, self.data.max_letters), [scene.word for scene in self.prompts])
        for score, ceiling in zip(graded, self.ceilings, strict=True):
            yield replace(score, ceiling=ceiling)


def load_glyphs(spec: GlyphsJudge, data: DataSpec, cache: Path) -> Judge:
    """The judge of words, after an exam on true renders; it trains nothing and leaves `cache` alone.

    Raises JudgeError for other data, and when the exam is failed.
    """
    spec.check(data)
    assert isinstance(data, GlyphsData)
    world = scenes(validation_indices(max(spec.images, EXAM)), data.max_letters)
    found = _read_true(world, data)
    passed = sum(scene.word == word for scene, word in zip(world, found, strict=True)) / len(world)
    if passed < BAR:
        raise JudgeError(
            f"the judge `glyphs` reads {passed:.1%} of {len(world)} true renders of {data.resolution} pixels "
            f"exactly and must read {BAR:.1%}; restore rfscale/data/font.py and rfscale/judges/glyphs/judge.py"
        )
    prompts = tuple(world[: spec.images])
    spelling, letters = grade(found[: spec.images], [scene.word for scene in prompts])
    identity: dict[str, JsonValue] = {
        **spec.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
        "font": hashlib.sha256(np.packbits(BITMAPS).tobytes()).hexdigest(),
        "exam": passed,
    }
    return _Glyphs(spec.label, identity, data, prompts, (spelling.value, letters.value))


def _read_true(world: Sequence[Scene], data: GlyphsData) -> list[str]:
    """The words of true renders, in parts: 2,000 pictures of 256 pixels would take 1.6 GB."""
    part = max(1, _CHUNK * GRID**2 // data.resolution**2)
    return [
        word
        for first in range(0, len(world), part)
        for word in read(render(world[first : first + part], data.resolution), data.max_letters)
    ]
