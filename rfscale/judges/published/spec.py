"""Published networks as judges, as a sweep file names them. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rfscale.data.spec import DataSource
from rfscale.judges.labels import check_file, check_model, plain, short
from rfscale.numbers import Count
from rfscale.registry import PathField
from rfscale.spec.judging import JudgeSpec, Progress

if TYPE_CHECKING:
    from rfscale.judges.base import Judge


class ClipJudge(JudgeSpec):
    """CLIP score, and FID / KID on CLIP image features (the paper: ViT-L/14), through `transformers`."""

    name: Literal["clip"] = "clip"
    images: Count = Field(default=1000, description="images generated; the paper takes 1000")
    model: Annotated[str, PathField(or_name=True)] = Field(
        default="openai/clip-vit-large-patch14", min_length=1, description="a local folder, or a name on the hub"
    )
    prompts: Annotated[str | None, PathField()] = Field(
        default=None, description="a text file with one prompt per line, such as T2I-CompBench's, instead of captions"
    )

    @property
    def label(self) -> str:
        of = f"-{plain(Path(self.prompts).stem)}" if self.prompts else ""
        return f"{short(self.model)}{of}-{self.images}"

    def check(self, data: DataSource) -> None:
        """Raises JudgeError where a file that is named is missing."""
        check_file("clip", "prompts", self.prompts)
        check_model("clip", "model", self.model)

    def load(self, data: DataSource, cache: Path, device: str, progress: Progress) -> Judge:
        from rfscale.judges.published.clip import load_clip

        return load_clip(self, data, cache, device)


class InceptionJudge(JudgeSpec):
    """FID and KID on the Inception-v3 features of the original FID, read from torch-fidelity's weight file."""

    name: Literal["inception"] = "inception"
    images: Count = Field(default=1000, description="images generated")
    weights: Annotated[str | None, PathField()] = Field(
        default=None,
        description="torch-fidelity's weights-inception-2015-12-05-6726825d.pth; without it, it is loaded from there",
    )

    @property
    def label(self) -> str:
        return f"inception-{self.images}"

    def check(self, data: DataSource) -> None:
        """Raises JudgeError where the weights are missing."""
        check_file("inception", "weights", self.weights)

    def load(self, data: DataSource, cache: Path, device: str, progress: Progress) -> Judge:
        from rfscale.judges.published.inception import load_inception

        return load_inception(self, data, cache, device)
