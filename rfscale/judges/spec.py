"""What the user writes under `quality.judges:` in a sweep file. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rfscale.data.spec import DataSpec
from rfscale.judges.base import JudgeError
from rfscale.numbers import Whole
from rfscale.paths import expanded

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)

Count = Annotated[int, Whole(2, 1_000_000)]


class ShapesJudge(BaseModel):
    """The judge of the shapes world: reader, GenEval tasks, and a small contrastive encoder. No download."""

    model_config = _STRICT

    name: Literal["shapes"] = "shapes"
    images: Count = Field(default=512, description="held-out captions whose images give FID, KID and CLIP score")
    prompts: Count = Field(default=240, description="GenEval prompts, spread evenly over its six tasks")

    @property
    def label(self) -> str:
        return f"shapes-{self.images}-{self.prompts}"

    def check(self, data: DataSpec) -> None:
        """Raises JudgeError where this judge cannot judge that data."""
        if data.name != "shapes":
            raise JudgeError(f"the judge `shapes` cannot score data `{data.name}`; choose clip, inception or geneval")


class GlyphsJudge(BaseModel):
    """The judge of the glyphs world: reads the rendered word and compares it with the prompt's. No download."""

    model_config = _STRICT

    name: Literal["glyphs"] = "glyphs"
    images: Count = Field(default=512, description="held-out captions")

    @property
    def label(self) -> str:
        return f"glyphs-{self.images}"

    def check(self, data: DataSpec) -> None:
        """Raises JudgeError where this judge cannot judge that data."""
        if data.name != "glyphs":
            raise JudgeError(f"the judge `glyphs` cannot score data `{data.name}`; choose shapes, clip or geneval")


class ClipJudge(BaseModel):
    """CLIP score, and FID / KID on CLIP image features (the paper: ViT-L/14), through `transformers`."""

    model_config = _STRICT

    name: Literal["clip"] = "clip"
    images: Count = Field(default=1000, description="images generated; the paper takes 1000")
    model: str = Field(
        default="openai/clip-vit-large-patch14", min_length=1, description="a local folder, or a name on the hub"
    )
    prompts: str | None = Field(
        default=None, description="a text file with one prompt per line, such as T2I-CompBench's, instead of captions"
    )

    @property
    def label(self) -> str:
        of = f"-{_plain(Path(self.prompts).stem)}" if self.prompts else ""
        return f"{_short(self.model)}{of}-{self.images}"

    def check(self, data: DataSpec) -> None:
        """Raises JudgeError where a file that is named is missing."""
        _file("clip", "prompts", self.prompts)
        _maybe_local("clip", "model", self.model)


class InceptionJudge(BaseModel):
    """FID and KID on the Inception-v3 features of the original FID, read from torch-fidelity's weight file."""

    model_config = _STRICT

    name: Literal["inception"] = "inception"
    images: Count = Field(default=1000, description="images generated")
    weights: str | None = Field(
        default=None,
        description="torch-fidelity's weights-inception-2015-12-05-6726825d.pth; without it, it is loaded from there",
    )

    @property
    def label(self) -> str:
        return f"inception-{self.images}"

    def check(self, data: DataSpec) -> None:
        """Raises JudgeError where the weights are missing."""
        _file("inception", "weights", self.weights)


class GenEvalJudge(BaseModel):
    """GenEval (Ghosh et al. 2023) on its metadata file, with a detector and CLIP from `transformers`."""

    model_config = _STRICT

    name: Literal["geneval"] = "geneval"
    metadata: str = Field(min_length=1, description="GenEval's evaluation_metadata.jsonl, or a file of its schema")
    detector: str = Field(
        default="facebook/mask2former-swin-small-coco-instance",
        min_length=1,
        description="an object detector with COCO classes: a local folder, or a name on the hub",
    )
    clip: str = Field(default="openai/clip-vit-large-patch14", min_length=1, description="for colours")
    images_per_prompt: Annotated[int, Whole(1, 10_000)] = 4

    @property
    def label(self) -> str:
        return f"geneval-{_plain(Path(self.metadata).stem)}-{_short(self.detector)}-{self.images_per_prompt}"

    def check(self, data: DataSpec) -> None:
        """Raises JudgeError where a file that is named is missing."""
        _file("geneval", "metadata", self.metadata)
        _maybe_local("geneval", "detector", self.detector)
        _maybe_local("geneval", "clip", self.clip)


JudgeSpec = Annotated[
    ShapesJudge | GlyphsJudge | ClipJudge | InceptionJudge | GenEvalJudge, Field(discriminator="name")
]


def _short(model: str) -> str:
    """The last part of a path or a hub name."""
    return _plain(Path(model).name)


def _plain(text: str) -> str:
    """As part of a label, and so of a metric's name: MLflow refuses other characters, and "/" separates its parts."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def _file(judge: str, key: str, path: str | None) -> None:
    if path is not None and not expanded(path, f"the judge `{judge}`: {key}").is_file():
        raise JudgeError(f"the judge `{judge}`: there is no file {path} ({key}); correct the path")


def _maybe_local(judge: str, key: str, model: str) -> None:
    """A name that can only be a path must exist; `owner/name` may be on the hub."""
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1
    if looks_local and not expanded(model, f"the judge `{judge}`: {key}").is_dir():
        raise JudgeError(f"the judge `{judge}`: there is no folder {model} ({key}); correct the path")
