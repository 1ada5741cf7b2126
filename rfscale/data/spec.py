"""What the user writes under `data:` in a sweep file."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rfscale.data.base import DataError
from rfscale.data.endless import STREAM_BITS
from rfscale.data.space import Space, pixel_space
from rfscale.numbers import Real, Whole
from rfscale.paths import expanded

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)

SEEDS = 2 ** (63 - STREAM_BITS)
"""Of an endless world, whose index has 64 bits: `rfscale.data.endless.train_indices` refuses the others."""


class ShapesData(BaseModel):
    """The endless captioned world of coloured shapes (`rfscale.data.shapes`): no files, no download."""

    model_config = _STRICT

    name: Literal["shapes"]
    resolution: Annotated[int, Whole(8, 256)] = Field(default=16, description="side of the square image in pixels")
    max_objects: Annotated[int, Whole(1, 4)] = Field(default=4, description="an image holds 1 to max_objects objects")

    @property
    def channels(self) -> int:
        return 3

    @property
    def space(self) -> Space:
        return pixel_space(self.channels, self.resolution)

    def identity(self) -> dict[str, JsonValue]:
        return _changed_fields(self)

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """Nothing can be missing: the world is computed."""
        return ()

    def check_stream(self, seed: int, samples: int) -> None:
        """Raises DataError for a seed or a number of samples that the world has not."""
        _check_endless(self.name, seed, samples)


class GlyphsData(BaseModel):
    """The endless captioned world of short rendered words (`rfscale.data.glyphs`): no files, no download."""

    model_config = _STRICT

    name: Literal["glyphs"]
    resolution: Annotated[int, Whole(16, 256, step=16)] = Field(
        default=16, description="side in pixels, a multiple of 16"
    )
    max_letters: Annotated[int, Whole(1, 4)] = Field(default=4, description="a word has 1 to max_letters letters")

    @property
    def channels(self) -> int:
        return 3

    @property
    def space(self) -> Space:
        return pixel_space(self.channels, self.resolution)

    def identity(self) -> dict[str, JsonValue]:
        return _changed_fields(self)

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """Nothing can be missing: the world is computed."""
        return ()

    def check_stream(self, seed: int, samples: int) -> None:
        """Raises DataError for a seed or a number of samples that the world has not."""
        _check_endless(self.name, seed, samples)


class DigitsData(BaseModel):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels (`rfscale.data.digits`), enlarged by repeating pixels."""

    model_config = _STRICT

    name: Literal["digits"]
    resolution: Annotated[int, Whole(8, 256, step=8)] = Field(default=8, description="side in pixels, a multiple of 8")

    @property
    def channels(self) -> int:
        return 1

    @property
    def space(self) -> Space:
        return pixel_space(self.channels, self.resolution)

    def identity(self) -> dict[str, JsonValue]:
        return _changed_fields(self)

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """Raises DataError when scikit-learn, which carries the images, is not installed."""
        if importlib.util.find_spec("sklearn") is None:
            raise DataError("data `digits` comes with scikit-learn, which is not installed: pip install scikit-learn.")
        return ()

    def check_stream(self, seed: int, samples: int) -> None:
        """Every epoch is a new permutation: there is no end."""


class FolderData(BaseModel):
    """The user's own images: a folder with a `metadata.jsonl` of `file_name` and `text` (Hugging Face imagefolder)."""

    model_config = _STRICT

    name: Literal["folder"]
    path: str = Field(min_length=1, description="the folder that holds metadata.jsonl; ~ is expanded")
    resolution: Annotated[int, Whole(8, 1024)] = Field(default=32, description="side of the square image in pixels")
    validation_fraction: Annotated[float, Real(0, 0.5, low_open=True)] = Field(
        default=0.1, description="share of the images held out, chosen by a hash of file_name"
    )

    @property
    def channels(self) -> int:
        return 3

    @property
    def space(self) -> Space:
        return pixel_space(self.channels, self.resolution)

    @property
    def folder(self) -> Path:
        return expanded(self.path, "the data folder")

    def identity(self) -> dict[str, JsonValue]:
        """The path is replaced by a fingerprint of the content, so that a moved folder keeps its trials.

        Raises DataError when the folder or its metadata.jsonl cannot be used.
        """
        from rfscale.data.listing import fingerprint

        return _changed_fields(self, without={"path"}) | {"content": fingerprint(self.folder)}

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """What is odd about the images, a sentence each; `decode` opens every one of them.

        Raises DataError for anything that would stop a trial later.
        """
        from rfscale.data.listing import read_listing, split

        entries = read_listing(self.folder)
        split(self.folder, entries, self.validation_fraction)
        if not decode:
            return ()
        from rfscale.data.decoding import check_images

        names = dict.fromkeys(entry.file_name for entry in entries)
        flat = check_images([self.folder / name for name in names], self.resolution)
        if not flat:
            return ()
        return (f"{len(flat):,} of {len(names):,} images of data `folder` are nearly of one colour, such as {flat[0]}",)

    def check_stream(self, seed: int, samples: int) -> None:
        """Every epoch is a new permutation: there is no end."""


DataSpec = Annotated[ShapesData | GlyphsData | DigitsData | FolderData, Field(discriminator="name")]


def _changed_fields(spec: BaseModel, without: Collection[str] = ()) -> dict[str, JsonValue]:
    """The fields that differ from their defaults: a field added later with a default leaves old trial ids unchanged."""
    return spec.model_dump(mode="json", exclude_defaults=True, exclude=set(without))


def _check_endless(world: str, seed: int, samples: int) -> None:
    if seed >= SEEDS or samples > 2**STREAM_BITS:
        given = f"seed {seed:,}" if seed >= SEEDS else f"a training of {samples:,} samples"
        raise DataError(
            f"{given} is more than data `{world}` has: it has the seeds 0 to {SEEDS - 1:,} and {2**STREAM_BITS:,} "
            "samples for each."
        )
