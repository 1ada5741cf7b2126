"""The letters A to Z on 3 x 5 cells, drawn for the glyphs world.

A letter touches all four sides of its box, so the place and the number of letters of a word can be read off its ink;
and two letters differ in two cells at least.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTER_WIDTH: Final = 3
LETTER_HEIGHT: Final = 5

_ART = """
 .#.  ##.  .##  ##.  ###  ###  .##  #.#  ###  ..#  #.#  #..  ###
 #.#  #.#  #..  #.#  #..  #..  #..  #.#  .#.  ..#  ##.  #..  ###
 ###  ##.  #..  #.#  ##.  ##.  #.#  ###  .#.  ..#  #..  #..  #.#
 #.#  #.#  #..  #.#  #..  #..  #.#  #.#  .#.  #.#  ##.  #..  #.#
 #.#  ##.  .##  ##.  ###  #..  ###  #.#  ###  .#.  #.#  ###  #.#

 ##.  .#.  ##.  .#.  ##.  .##  ###  #.#  #.#  #.#  #.#  #.#  ###
 #.#  #.#  #.#  #.#  #.#  #..  .#.  #.#  #.#  #.#  #.#  #.#  ..#
 #.#  #.#  ##.  #.#  ##.  .#.  .#.  #.#  #.#  #.#  .#.  .#.  .#.
 #.#  #.#  #..  ###  #.#  ..#  .#.  #.#  .#.  ###  #.#  .#.  #..
 #.#  .#.  #..  .##  #.#  ##.  .#.  .#.  .#.  ###  #.#  .#.  ###
"""


def _bitmaps() -> npt.NDArray[np.bool_]:
    blocks = [[line.split() for line in block.strip().splitlines()] for block in _ART.strip().split("\n\n")]
    letters = [letter for block in blocks for letter in zip(*block, strict=True)]
    return np.array([[[cell == "#" for cell in row] for row in letter] for letter in letters])


# Ink of the letters in the order of ALPHABET: bool "26 5 3".
BITMAPS: Final = _bitmaps()
BITMAPS.flags.writeable = False
