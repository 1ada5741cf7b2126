"""GenEval as a judge, as a sweep file names it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rfscale.data.spec import DataSource
from rfscale.judges.labels import check_file, check_model, plain, short
from rfscale.numbers import Whole
from rfscale.registry import PathField
from rfscale.spec.judging import JudgeSpec, Progress

if TYPE_CHECKING:
    from rfscale.judges.base import Judge


class GenEvalJudge(JudgeSpec):
    """GenEval (Ghosh et al. 2023) on its metadata file, with a detector and CLIP from `transformers`."""

    name: Literal["geneval"] = "geneval"
    metadata: Annotated[str, PathField()] = Field(
        min_length=1, description="GenEval's evaluation_metadata.jsonl, or a file of its schema"
    )
    detector: Annotated[str, PathField(or_name=True)] = Field(
        default="facebook/mask2former-swin-small-coco-instance",
        min_length=1,
        description="an object detector with COCO classes: a local folder, or a name on the hub",
    )
    clip: Annotated[str, PathField(or_name=True)] = Field(
        default="openai/clip-vit-large-patch14", min_length=1, description="for colours"
    )
    images_per_prompt: Annotated[int, Whole(1, 10_000)] = 4

    @property
    def label(self) -> str:
        return f"geneval-{plain(Path(self.metadata).stem)}-{short(self.detector)}-{self.images_per_prompt}"

    def check(self, data: DataSource) -> None:
        """Raises JudgeError where a file that is named is missing."""
        check_file("geneval", "metadata", self.metadata)
        check_model("geneval", "detector", self.detector)
        check_model("geneval", "clip", self.clip)

    def load(self, data: DataSource, cache: Path, device: str, progress: Progress) -> Judge:
        from rfscale.judges.geneval.detector import load_geneval

        return load_geneval(self, data, cache, device)
