"""What the user writes under `data:` in a sweep file."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, JsonValue, model_validator

from rfscale.data.base import DataError, Dataset, Extent
from rfscale.data.buckets import Side, Sides, SidesField, check_areas, named
from rfscale.data.endless import STREAM_BITS, EndlessDataset
from rfscale.data.space import Space, pixel_space
from rfscale.numbers import Real, Whole
from rfscale.paths import expanded
from rfscale.registry import Kind, PathField, Spec

_SAMPLE = np.arange(512, dtype=np.uint64)  # of the captions of an endless world
SEEDS = 2 ** (63 - STREAM_BITS)
"""Of an endless world, whose index has 64 bits: `rfscale.data.endless.train_indices` refuses the others."""


class DataSource(Spec):
    """A data set, as a sweep file names it under `data:`. A subclass names itself in `name`.

    To add one: its file with a `DataSource` whose `load` gives a `Dataset`, and one line in `DATA`.
    """

    name: str
    resolution: int
    judge: ClassVar[str] = ""
    """The judge of its own world, "" where it has none."""

    @property
    def square(self) -> Sides:
        return self.resolution, self.resolution

    @property
    def sides(self) -> tuple[Sides, ...]:
        """Height and width of the images of each aspect-ratio bucket. A source that gives buckets overrides this,
        `bucket_images` and `load_buckets`; all others give squares only."""
        return (self.square,)

    @property
    def channels(self) -> int:
        return 3

    @property
    def space(self) -> Space:
        """What x0 lives in."""
        return pixel_space(self.channels, self.resolution)

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """What is odd about the data, a sentence each; `decode` looks at everything that is read.

        Raises DataError for anything that would stop a trial later.
        """
        return ()

    def check_stream(self, seed: int, samples: int) -> None:
        """Raises DataError for a seed or a number of samples that the data has not."""

    def extent(self) -> Extent:
        """How much there is of it. Raises DataError."""
        return Extent()

    def load(self) -> Dataset:
        """The data set. Raises DataError when its files cannot be used."""
        raise NotImplementedError

    def bucket_images(self) -> tuple[int, ...]:
        """The training images of each bucket, at least one; of a single bucket any number. Raises DataError."""
        return (1,)

    def load_buckets(self) -> tuple[Dataset, ...]:
        """A data set for each bucket. Raises DataError."""
        return (self.load(),)


class _EndlessWorld(DataSource):
    """A world that is a pure function of the index."""

    def load(self) -> EndlessDataset[Any]:
        raise NotImplementedError

    def check_stream(self, seed: int, samples: int) -> None:
        """Raises DataError for a seed or a number of samples that the world has not."""
        if seed >= SEEDS or samples > 2**STREAM_BITS:
            given = f"seed {seed:,}" if seed >= SEEDS else f"a training of {samples:,} samples"
            raise DataError(
                f"{given} is more than data `{self.name}` has: it has the seeds 0 to {SEEDS - 1:,} and "
                f"{2**STREAM_BITS:,} samples for each."
            )

    def extent(self) -> Extent:
        return Extent(captions=self.load().captions(_SAMPLE))


class ShapesData(_EndlessWorld):
    """The endless captioned world of coloured shapes (`rfscale.data.shapes`): no files, no download."""

    judge = "shapes"
    name: Literal["shapes"]
    resolution: Annotated[int, Whole(8, 256)] = Field(default=16, description="side of the square image in pixels")
    max_objects: Annotated[int, Whole(1, 4)] = Field(default=4, description="an image holds 1 to max_objects objects")

    def load(self) -> EndlessDataset[Any]:
        from rfscale.data.shapes import render, scenes

        return EndlessDataset(
            partial(scenes, max_objects=self.max_objects), partial(render, resolution=self.resolution)
        )


class GlyphsData(_EndlessWorld):
    """The endless captioned world of short rendered words (`rfscale.data.glyphs`): no files, no download."""

    judge = "glyphs"
    name: Literal["glyphs"]
    resolution: Annotated[int, Whole(16, 256, step=16)] = Field(
        default=16, description="side in pixels, a multiple of 16"
    )
    max_letters: Annotated[int, Whole(1, 4)] = Field(default=4, description="a word has 1 to max_letters letters")

    def load(self) -> EndlessDataset[Any]:
        from rfscale.data.glyphs import render, scenes

        return EndlessDataset(
            partial(scenes, max_letters=self.max_letters), partial(render, resolution=self.resolution)
        )


class DigitsData(DataSource):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels (`rfscale.data.digits`), enlarged by repeating pixels."""

    name: Literal["digits"]
    resolution: Annotated[int, Whole(8, 256, step=8)] = Field(default=8, description="side in pixels, a multiple of 8")

    @property
    def channels(self) -> int:
        return 1

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """Raises DataError when scikit-learn, which carries the images, is not installed."""
        if importlib.util.find_spec("sklearn") is None:
            raise DataError("data `digits` comes with scikit-learn, which is not installed: pip install scikit-learn.")
        return ()

    def extent(self) -> Extent:
        from rfscale.data.digits import NAMES, SIZE, VALIDATION_SIZE, caption

        return Extent(SIZE - VALIDATION_SIZE, VALIDATION_SIZE, [caption(name) for name in NAMES])

    def load(self) -> Dataset:
        from rfscale.data.digits import DigitsDataset

        return DigitsDataset(self)


class FolderData(DataSource):
    """The user's own images: a folder with a `metadata.jsonl` of `file_name` and `text` (Hugging Face imagefolder)."""

    later = frozenset({"buckets"})
    name: Literal["folder"]
    path: Annotated[str, PathField()] = Field(
        min_length=1, description="the folder that holds metadata.jsonl; ~ is expanded"
    )
    resolution: Annotated[int, Whole(8, 1024)] = Field(default=32, description="side of the square image in pixels")
    validation_fraction: Annotated[float, Real(0, 0.5, low_open=True)] = Field(
        default=0.1, description="share of the images held out, chosen by a hash of file_name"
    )

    buckets: Annotated[tuple[tuple[Side, Side], ...], SidesField()] = Field(
        default=(), description="[[height, width], ...], each of about resolution^2 pixels, instead of the square"
    )

    @model_validator(mode="after")
    def _areas_are_one(self) -> Self:
        check_areas(self.buckets, self.resolution)
        return self

    @property
    def folder(self) -> Path:
        return expanded(self.path, "the data folder")

    @property
    def sides(self) -> tuple[Sides, ...]:
        return self.buckets or (self.square,)

    def identity(self) -> dict[str, JsonValue]:
        """The path is replaced by a fingerprint of the content, so that a moved folder keeps its trials.

        Raises DataError when the folder or its metadata.jsonl cannot be used.
        """
        from rfscale.data.listing import fingerprint

        return {**super().identity(), "content": fingerprint(self.folder)}

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """What is odd about the images, a sentence each; `decode` opens every one of them.

        Raises DataError for anything that would stop a trial later.
        """
        from rfscale.data.sorting import parts_of

        parts = parts_of(self)
        notes = [
            f"the bucket {named(part.sides)} of data `folder` has no held-out image: val/loss does not see it"
            for part in parts
            if not part.held_out
        ]
        if not decode:
            return tuple(notes)
        from rfscale.data.decoding import check_images

        images = [([self.folder / name for name in part.names], part.sides) for part in parts]
        flat = [path for paths, sides in images for path in check_images(paths, sides)]
        count = sum(len(paths) for paths, _ in images)
        if flat:
            notes.append(
                f"{len(flat):,} of {count:,} images of data `folder` are nearly of one colour, such as {flat[0]}"
            )
        return tuple(notes)

    def extent(self) -> Extent:
        from rfscale.data.listing import read_listing, split

        held_out, training = split(self.folder, read_listing(self.folder), self.validation_fraction)
        return Extent(len(training), len(held_out), [entry.text for entry in (*training, *held_out)])

    def load(self) -> Dataset:
        """The data set of square images. Raises DataError also where it has buckets: those are several data sets."""
        if self.buckets:
            raise DataError("this data `folder` has buckets, each a data set of its own; load them with load_buckets()")
        return self.load_buckets()[0]

    def bucket_images(self) -> tuple[int, ...]:
        from rfscale.data.sorting import parts_of

        return tuple(len(part.training) for part in parts_of(self)) if self.buckets else (1,)

    def load_buckets(self) -> tuple[Dataset, ...]:
        from rfscale.data.folder import CACHE_BYTES, FolderDataset
        from rfscale.data.sorting import parts_of

        parts = parts_of(self)
        return tuple(FolderDataset(self.folder, part, CACHE_BYTES // len(parts)) for part in parts)


DATA = Kind(
    "data",
    "data",
    "name",
    "",
    {
        "shapes": "rfscale.data.spec:ShapesData",
        "glyphs": "rfscale.data.spec:GlyphsData",
        "digits": "rfscale.data.spec:DigitsData",
        "folder": "rfscale.data.spec:FolderData",
    },
)
DataSpec = Annotated[DataSource, DATA]
