"""Whether the shapes world can be read at a resolution: half a second, without torch, so that `plan` can ask it too.

It is what `judge.load_shapes` asks before it trains anything, written again: the code of that file is part of the
identity of the judge, and scores of another identity would have to be computed again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from rfscale.data.shapes import render, scenes
from rfscale.judges.shapes import reader
from rfscale.spec.judging import JudgeError

BAR: Final = 0.995
SCENES: Final = 512


@lru_cache(maxsize=16)
def share_read(resolution: int, max_objects: int) -> float:
    """The share of true images that the reader reads exactly."""
    world = scenes(np.arange(SCENES, dtype=np.uint64), max_objects)
    found = reader.read(render(world, resolution))
    return float(np.mean([reader.read_exactly(a.objects, b) for a, b in zip(world, found, strict=True)]))


def check_readable(resolution: int, max_objects: int) -> None:
    """Raises JudgeError where the reader is below its bar."""
    share = share_read(resolution, max_objects)
    if not share >= BAR:
        raise JudgeError(
            f"the judge `shapes` reads only {share:.2%} of true images exactly at {resolution} pixels, and its bar is "
            f"{BAR:.1%}; set another `resolution`, such as 16 or 32, or choose another judge"
        )
