"""What every judge of generated images gives, and the one error that all of them raise.

A judge asks a network for images of prompts of its own choosing and yields scores. It knows nothing of trials,
formulations or solvers: who draws the images is behind `Generate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from rfscale.data.base import FloatArray
from rfscale.spec.judging import JudgeError as JudgeError
from rfscale.spec.judging import Progress as Progress

# Captions -> images, float32 "n c h w" in [-1, 1]. The noise of an image depends on its place in the sequence alone, so
# that every network draws the same prompt from the same noise.
Generate = Callable[[Sequence[str]], FloatArray]


@dataclass(frozen=True, slots=True)
class Score:
    """One number: `name` is a key of `rfscale.names.QUALITY`, `se` its standard error over images.

    `ceiling` is what true images of the same prompts score with the same number of images. NaN where there is none.
    """

    name: str
    value: float
    se: float = math.nan
    ceiling: float = math.nan


def share(name: str, hits: int, images: int) -> Score:
    """The share x / n of right images, with the standard error of Agresti and Coull (1998): sqrt(p (1 - p) / m) with
    m = n + z^2, p = (x + z^2 / 2) / m and z = 1.96. It is not 0 where all images are right, or none."""
    z2 = 1.96**2
    p = (hits + z2 / 2) / (images + z2)
    return Score(name, hits / images, math.sqrt(p * (1 - p) / (images + z2)))


class Judge(Protocol):
    """`label` names the judge and all that its numbers depend on for comparison, such as the number of images (FID is
    biased by it): scores are compared only under one label. `identity` is recorded with the scores: versions, settings
    and the checksum of every file that they depend on, and no path."""

    @property
    def label(self) -> str: ...

    @property
    def identity(self) -> dict[str, JsonValue]: ...

    def score(self, generate: Generate) -> Iterator[Score]: ...
