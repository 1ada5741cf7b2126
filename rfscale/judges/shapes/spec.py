"""The judge of the shapes world, as a sweep file names it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rfscale.data.spec import DataSource, ShapesData
from rfscale.numbers import Count
from rfscale.spec.judging import JudgeError, JudgeSpec, Progress

if TYPE_CHECKING:
    from rfscale.judges.base import Judge


class ShapesJudge(JudgeSpec):
    """The judge of the shapes world: reader, GenEval tasks, and a small contrastive encoder. No download."""

    name: Literal["shapes"] = "shapes"
    images: Count = Field(default=512, description="held-out captions whose images give FID, KID and CLIP score")
    prompts: Count = Field(default=240, description="GenEval prompts, spread evenly over its six tasks")

    @property
    def label(self) -> str:
        return f"shapes-{self.images}-{self.prompts}"

    def check(self, data: DataSource) -> None:
        """Raises JudgeError where this judge cannot judge that data."""
        if data.name != "shapes":
            raise JudgeError(f"the judge `shapes` cannot score data `{data.name}`; choose clip, inception or geneval")

    def check_fit(self, data: DataSource) -> None:
        from rfscale.judges.shapes.fitness import check_readable

        if isinstance(data, ShapesData):
            check_readable(data.resolution, data.max_objects)

    def load(self, data: DataSource, cache: Path, device: str, progress: Progress) -> Judge:
        from rfscale.judges.shapes.judge import load_shapes

        return load_shapes(self, data, cache, device, progress)
