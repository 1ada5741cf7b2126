"""The judge of the glyphs world, as a sweep file names it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rfscale.data.spec import DataSource
from rfscale.numbers import Count
from rfscale.spec.judging import JudgeError, JudgeSpec, Progress

if TYPE_CHECKING:
    from rfscale.judges.base import Judge


class GlyphsJudge(JudgeSpec):
    """The judge of the glyphs world: reads the rendered word and compares it with the prompt's. No download."""

    name: Literal["glyphs"] = "glyphs"
    images: Count = Field(default=512, description="held-out captions")

    @property
    def label(self) -> str:
        return f"glyphs-{self.images}"

    def check(self, data: DataSource) -> None:
        """Raises JudgeError where this judge cannot judge that data."""
        if data.name != "glyphs":
            raise JudgeError(f"the judge `glyphs` cannot score data `{data.name}`; choose shapes, clip or geneval")

    def load(self, data: DataSource, cache: Path, device: str, progress: Progress) -> Judge:
        from rfscale.judges.glyphs.judge import load_glyphs

        return load_glyphs(self, data, cache)
