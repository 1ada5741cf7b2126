"""What the user writes under `data:` in a sweep file."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rfscale.data.base import DataError

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class ShapesData(BaseModel):
    """The endless captioned world of coloured shapes (`rfscale.data.shapes`): no files, no download."""

    model_config = _STRICT

    name: Literal["shapes"]
    resolution: int = Field(default=16, ge=8, le=256, description="side of the square image in pixels")
    max_objects: int = Field(default=4, ge=1, le=4, description="an image holds 1 to max_objects objects")

    @property
    def channels(self) -> int:
        return 3

    def identity(self) -> dict[str, JsonValue]:
        return _changed_fields(self)

    def check(self, decode: bool = False) -> None:
        """Nothing can be missing: the world is computed."""


class GlyphsData(BaseModel):
    """The endless captioned world of short rendered words (`rfscale.data.glyphs`): no files, no download."""

    model_config = _STRICT

    name: Literal["glyphs"]
    resolution: int = Field(default=16, ge=16, le=256, multiple_of=16, description="side in pixels, a multiple of 16")
    max_letters: int = Field(default=4, ge=1, le=4, description="a word has 1 to max_letters letters")

    @property
    def channels(self) -> int:
        return 3

    def identity(self) -> dict[str, JsonValue]:
        return _changed_fields(self)

    def check(self, decode: bool = False) -> None:
        """Nothing can be missing: the world is computed."""


class DigitsData(BaseModel):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels (`rfscale.data.digits`), enlarged by repeating pixels."""

    model_config = _STRICT

    name: Literal["digits"]
    resolution: int = Field(default=8, ge=8, le=256, multiple_of=8, description="side in pixels, a multiple of 8")

    @property
    def channels(self) -> int:
        return 1

    def identity(self) -> dict[str, JsonValue]:
        return _changed_fields(self)

    def check(self, decode: bool = False) -> None:
        """Raises DataError when scikit-learn, which carries the images, is not installed."""
        if importlib.util.find_spec("sklearn") is None:
            raise DataError("data `digits` comes with scikit-learn, which is not installed: pip install scikit-learn.")


class FolderData(BaseModel):
    """The user's own images: a folder with a `metadata.jsonl` of `file_name` and `text` (Hugging Face imagefolder)."""

    model_config = _STRICT

    name: Literal["folder"]
    path: str = Field(min_length=1, description="the folder that holds metadata.jsonl; ~ is expanded")
    resolution: int = Field(default=32, ge=8, le=1024, description="side of the square image in pixels")
    validation_fraction: float = Field(
        default=0.1, gt=0.0, le=0.5, description="share of the images held out, chosen by a hash of file_name"
    )

    @property
    def channels(self) -> int:
        return 3

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()

    def identity(self) -> dict[str, JsonValue]:
        """The path is replaced by a fingerprint of the content, so that a moved folder keeps its trials.

        Raises DataError when the folder or its metadata.jsonl cannot be used.
        """
        from rfscale.data.listing import fingerprint

        return _changed_fields(self, without={"path"}) | {"content": fingerprint(self.folder)}

    def check(self, decode: bool = False) -> None:
        """Raises DataError for anything that would stop a trial later; `decode` also opens every image."""
        from rfscale.data.listing import read_listing, split

        entries = read_listing(self.folder)
        split(self.folder, entries, self.validation_fraction)
        if decode:
            from rfscale.data.decoding import check_images

            check_images([self.folder / entry.file_name for entry in entries], self.resolution)


DataSpec = Annotated[ShapesData | GlyphsData | DigitsData | FolderData, Field(discriminator="name")]


def _changed_fields(spec: BaseModel, without: Collection[str] = ()) -> dict[str, JsonValue]:
    """The fields that differ from their defaults: a field added later with a default leaves old trial ids unchanged."""
    return spec.model_dump(mode="json", exclude_defaults=True, exclude=set(without))
