"""What the user writes under `data:` in a sweep file."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, JsonValue, PrivateAttr, model_validator

from rfscale.data.base import DataError, Dataset, Extent
from rfscale.data.buckets import Side, Sides, SidesField, check_areas, named
from rfscale.data.endless import STREAM_BITS, EndlessDataset
from rfscale.data.pairs import CAPTION, CaptionsField, Listing, Weights
from rfscale.data.space import Space, pixel_space
from rfscale.numbers import Real, Whole
from rfscale.registry import Kind, Spec

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
    def known(self) -> bool:
        """Whether the content is known, so that ids are final; not of data that are `unread`."""
        return True

    def unread(self) -> Self | None:
        """The same of data that are not on this machine, for a plan: what depends on the content is open. None where
        there is no such thing."""
        return None

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

    @property
    def downsampling(self) -> int:
        """How many pixels of an image are one of x0, along each side: an autoencoder's factor, else 1."""
        return 1

    @property
    def pictures(self) -> DataSource:
        """The data in pixels, as judges and people look at them: itself, unless x0 is something else."""
        return self

    def check_decodes(self) -> None:
        """Raises DataError where what a network draws cannot be made pixels on this machine."""

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """What is odd about the data, a sentence each; `decode` looks at everything that is read.

        Raises DataError for anything that would stop a trial later.
        """
        return ()

    def check_stream(self, seed: int, samples: int) -> None:
        """Raises DataError for a seed or a number of samples that the data has not."""

    def text_encoders(self) -> list[dict[str, JsonValue]]:
        """The text encoders of which the data hold what they give for its captions, in their order."""
        return []

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


class StoredData(DataSource):
    """Data in files, which may not be on this machine: then a plan can still be made of them, `unread`."""

    _unread: bool = PrivateAttr(default=False)

    @property
    def known(self) -> bool:
        return not self._unread

    def unread(self) -> Self:
        found = self.model_copy()
        found._unread = True
        return found


class PairsData(StoredData):
    """Images with captions, whatever holds them. A subclass gives a field `path`, and `listing`; the rest is here.

    Batches are a function of the pairs, the seed and the sample number alone: one data set in two containers gives the
    same ones.
    """

    path: str
    resolution: Annotated[int, Whole(8, 1024)] = Field(default=32, description="side of the square image in pixels")
    validation_fraction: Annotated[float, Real(0, 0.5, low_open=True)] = Field(
        default=0.1, description="share of the images held out, chosen by a hash of file_name"
    )

    buckets: Annotated[tuple[tuple[Side, Side], ...], SidesField()] = Field(
        default=(), description="[[height, width], ...], each of about resolution^2 pixels, instead of the square"
    )
    captions: Annotated[Weights, CaptionsField()] = Field(
        default=(),
        description="caption columns with their weights, {original: 0.5, synthetic: 0.5}; () is `text` alone",
    )
    flips: bool = Field(default=False, description="whether half of the training samples are mirrored")

    @model_validator(mode="after")
    def _areas_are_one(self) -> Self:
        check_areas(self.buckets, self.resolution)
        return self

    @property
    def sides(self) -> tuple[Sides, ...]:
        return self.buckets or (self.square,)

    @property
    def columns(self) -> tuple[str, ...]:
        """The caption columns that are read."""
        return tuple(name for name, _ in self.captions) or (CAPTION,)

    def listing(self) -> Listing:
        """All pairs. Raises DataError that names the file and the row or member at fault. Decodes no image."""
        raise NotImplementedError

    def content(self) -> str:
        """SHA-256 of what the data are, wherever they lie. Raises DataError."""
        return self.listing().content

    def identity(self) -> dict[str, JsonValue]:
        """The path is replaced by a fingerprint of the content, so that moved data keep their trials.

        Raises DataError when the data cannot be used.
        """
        content = self.content() if self.known else f"open: {self.path}"
        return {**super().identity(), "content": content}

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """What is odd about the images, a sentence each; `decode` opens every one of them.

        Raises DataError for anything that would stop a trial later.
        """
        if not self.known:
            shares = "; each bucket is taken to have an equal share of the images" if len(self.buckets) > 1 else ""
            return (
                f"data `{self.name}` are not on this machine ({self.path}): ids depend on their content and are open"
                f"{shares}",
            )
        from rfscale.data.sorting import parts_of

        parts = parts_of(self)
        notes = [
            *self.listing().notes,
            *(
                f"the bucket {named(part.sides)} of data `{self.name}` has no held-out image: val/loss does not see it"
                for part in parts
                if not part.held_out
            ),
        ]
        if not decode:
            return tuple(notes)
        from rfscale.data.decoding import check_images

        images = [([part.pictures[image] for image in part.images], part.sides) for part in parts]
        flat = [picture for pictures, sides in images for picture in check_images(pictures, sides)]
        count = sum(len(pictures) for pictures, _ in images)
        if flat:
            notes.append(
                f"{len(flat):,} of {count:,} images of data `{self.name}` are nearly of one colour, such as {flat[0]}"
            )
        return tuple(notes)

    def extent(self) -> Extent:
        if not self.known:
            return Extent()
        held_out, training = self.listing().sides(self.validation_fraction)
        return Extent(len(training), len(held_out), [text for entry in (*training, *held_out) for text in entry.texts])

    def load(self) -> Dataset:
        """The data set of square images. Raises DataError also where it has buckets: those are several data sets."""
        if self.buckets:
            raise DataError(
                f"this data `{self.name}` has buckets, each a data set of its own; load them with load_buckets()"
            )
        return self.load_buckets()[0]

    def bucket_images(self) -> tuple[int, ...]:
        if not self.known:
            return (1,) * len(self.sides)
        from rfscale.data.sorting import parts_of

        return tuple(len(part.training) for part in parts_of(self)) if self.buckets else (1,)

    def load_buckets(self) -> tuple[Dataset, ...]:
        from rfscale.data.pairset import CACHE_BYTES, PairsDataset
        from rfscale.data.sorting import parts_of

        parts = parts_of(self)
        return tuple(PairsDataset(part, self.captions, self.flips, CACHE_BYTES // len(parts)) for part in parts)


DATA = Kind(
    "data",
    "data",
    "name",
    "",
    {
        "shapes": "rfscale.data.spec:ShapesData",
        "glyphs": "rfscale.data.spec:GlyphsData",
        "digits": "rfscale.data.spec:DigitsData",
        "folder": "rfscale.data.folder:FolderData",
        "webdataset": "rfscale.data.webdataset:WebDatasetData",
        "parquet": "rfscale.data.parquet:ParquetData",
        "hf": "rfscale.data.hf:HfData",
        "emoji": "rfscale.data.emoji:EmojiData",
        "encoded": "rfscale.data.encoded.spec:EncodedData",
    },
)
DataSpec = Annotated[DataSource, DATA]
