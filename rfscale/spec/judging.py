"""Judges as a sweep file names them under `quality: judges:`. The judges themselves are in `rfscale.judges`. No torch.

To add one: its folder with a `JudgeSpec` whose `load` gives a `Judge`, and one line in `JUDGES`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rfscale.data.spec import DataSource
from rfscale.names import RfscaleError
from rfscale.registry import Kind, Spec

if TYPE_CHECKING:
    from rfscale.judges.base import Judge

# Called as progress(what is done, steps done, of how many) by a judge that trains or computes something first.
Progress = Callable[[str, int, int], None]


class JudgeError(RfscaleError, RuntimeError):
    """A judge cannot score; the message says in one sentence what is wrong (with its path) and what to do."""


class JudgeSpec(Spec):
    """One judge. A subclass names itself in `name`."""

    name: str

    @property
    def label(self) -> str:
        """What its scores stand under: the name, and all that makes scores incomparable, such as the images."""
        raise NotImplementedError

    def check(self, data: DataSource) -> None:
        """Raises JudgeError where this judge cannot judge that data, or a file that is named is missing."""

    def check_fit(self, data: DataSource) -> None:
        """What takes a moment to know, before anything is trained: raises JudgeError where this judge is not good
        enough on that data. Loads no torch."""

    def load(self, data: DataSource, cache: Path, device: str, progress: Progress) -> Judge:
        """The judge, ready to score images of `data`; `cache` is a folder for what it must train or compute once.

        Raises JudgeError.
        """
        raise NotImplementedError


JUDGES = Kind(
    "judges",
    "quality.judges",
    "name",
    "",
    {
        "shapes": "rfscale.judges.shapes.spec:ShapesJudge",
        "glyphs": "rfscale.judges.glyphs.spec:GlyphsJudge",
        "clip": "rfscale.judges.published.spec:ClipJudge",
        "inception": "rfscale.judges.published.spec:InceptionJudge",
        "geneval": "rfscale.judges.geneval.spec:GenEvalJudge",
    },
)
AnyJudge = Annotated[JudgeSpec, JUDGES]
