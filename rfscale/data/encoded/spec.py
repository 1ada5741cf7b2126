"""Encoded data, as a sweep file names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, JsonValue, model_validator
from pydantic_core import CoreSchema, core_schema

from rfscale.data.base import DataError, Dataset, Extent
from rfscale.data.encoded.checks import check_files
from rfscale.data.encoded.files import INDEX, read_record
from rfscale.data.pairs import CAPTION, CaptionsField, Weights, read_weights
from rfscale.data.space import Space
from rfscale.data.spec import DATA, DataSource, StoredData
from rfscale.numbers import Whole
from rfscale.paths import expanded
from rfscale.registry import PathField, paths_of

if TYPE_CHECKING:
    from torch import Tensor

SPACE_DIGITS = 12
"""Of the autoencoder's hash, as records name it."""
SHOWN = 4096
"""Captions that notes on the text are based on."""


class ChosenField(CaptionsField):
    """As its base, but that `text` alone is a choice too: the data may hold more."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: Any) -> Weights:
            return read_weights(value) or (((CAPTION, 1.0),) if value else ())

        return core_schema.no_info_plain_validator_function(read)


class EncodedData(StoredData):
    """Latents and what text encoders give for the captions, in shards that `rfscale encode` wrote."""

    name: Literal["encoded"]
    path: Annotated[str, PathField()] = Field(min_length=1, description="the folder that `rfscale encode` wrote")
    resolution: Annotated[int, Whole(0, 4096)] = Field(
        default=0, description="side of a latent; the data say it, so only for a plan without them"
    )
    latent_channels: Annotated[int, Whole(0, 4096)] = Field(
        default=0, description="channels of a latent; the data say it, so only for a plan without them"
    )
    captions: Annotated[Weights, ChosenField()] = Field(
        default=(), description="caption columns with their weights; () is as they were encoded with"
    )
    autoencoder: Annotated[str, PathField(or_name=True)] = Field(
        default="", description="where the autoencoder lies that decodes, if not where it was"
    )

    @model_validator(mode="before")
    @classmethod
    def _shape_is_said(cls, value: Any) -> Any:
        """The shape of a latent as the data have it, where it is not written."""
        if not isinstance(value, Mapping) or not isinstance(value.get("path"), str):
            return value
        if value.get("resolution") and value.get("latent_channels"):
            return value
        latent = read_record(value["path"])["latent"]
        return {"resolution": latent["side"], "latent_channels": latent["channels"], **value}

    @property
    def folder(self) -> Path:
        return expanded(self.path, "the encoded data")

    @property
    def data_record(self) -> dict[str, Any]:
        """dataset.json. Raises DataError, AbsentError where it is not there."""
        return read_record(self.path)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def channels(self) -> int:
        return self.latent_channels

    @property
    def judge(self) -> str:  # type: ignore[override]  # of the world that the images are of
        return self.pictures.judge if self.known else ""

    @property
    def weights(self) -> Weights:
        """Caption columns and their weights, as the sweep or the data have them."""
        return self.captions or tuple((name, weight) for name, weight in self.data_record["captions"])

    def text_encoders(self) -> list[dict[str, JsonValue]]:
        if not self.known:
            return []
        return [{k: v for k, v in one.items() if k != "truncated"} for one in self.data_record["text"]]

    def identity(self) -> dict[str, JsonValue]:
        """The path is replaced by the hash of what was encoded by what, so that moved data keep their trials."""
        content = self.data_record["content"] if self.known else f"open: {self.path}"
        found = {key: value for key, value in super().identity().items() if key != "autoencoder"}
        return {**found, "content": content}

    def record(self) -> dict[str, JsonValue]:
        """Also the autoencoder: losses in the spaces of two are not comparable (`rfscale.names.SPACE`)."""
        apart = paths_of(type(self)) | {"autoencoder"}
        space = self.data_record["autoencoder"]["sha256"][:SPACE_DIGITS] if self.known else f"open: {self.path}"
        return {**self.model_dump(mode="json", exclude=apart), **self.identity(), "space": space}

    # --- pixels -------------------------------------------------------------------------------------------------------

    @property
    def space(self) -> Space:
        shape = (self.latent_channels, self.resolution, self.resolution)
        return Space(shape, None, self._decode)

    @property
    def downsampling(self) -> int:
        found = self.data_record
        return int(found["resolution"]) // int(found["latent"]["side"])

    @property
    def decoder(self) -> Path:
        """The folder of the autoencoder, checked to be the one that encoded the data. Raises DataError."""
        from rfscale.data.encoded.networks import checked_autoencoder

        found = self.data_record["autoencoder"]
        return checked_autoencoder(self.autoencoder or found["path"], found["sha256"])

    def check_decodes(self) -> None:
        self.decoder  # noqa: B018 -- raises

    def _decode(self, x0: Tensor) -> Tensor:
        from rfscale.data.encoded.networks import decode_latents

        latent = self.data_record["latent"]
        mean, std = (x0.new_tensor(latent[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        return decode_latents(self.decoder, x0 * std + mean)

    @property
    def pictures(self) -> DataSource:
        """The endless world that the images are of; of other images those that are held out, as they were."""
        if not self.known:
            return self.model_copy()
        found = self.data_record
        if found["world"]:
            return DATA.get(found["world"]["name"]).model_validate(found["world"])  # type: ignore[return-value]
        return Pictures(name="encoded", path=self.path, resolution=found["resolution"], captions=self.weights,
                        content=found["pixels"])  # fmt: skip

    # --- reading ------------------------------------------------------------------------------------------------------

    def check(self, decode: bool = False) -> tuple[str, ...]:
        """What is odd about the data; `decode` holds every shard to its SHA-256, where that was not done before.

        Raises DataError, which names a damaged one.
        """
        if not self.known:
            return (f"data `encoded` are not on this machine ({self.path}): ids depend on their content and are open",)
        found = self.data_record
        latent, asked = found["latent"], (self.latent_channels, self.resolution)
        if asked != (latent["channels"], latent["side"]):
            raise DataError(
                f"data.latent_channels and data.resolution are {asked[0]} and {asked[1]}, and the latents in "
                f"{self.path} have {latent['channels']} and {latent['side']}: take them out."
            )
        columns = [name for name, _ in found["captions"]]
        for name, _ in self.captions:
            if name not in columns:
                raise DataError(f"{self.path} has no caption column `{name}`; it has {', '.join(columns)}.")
        check_files(self.folder, found, whole=decode)
        total = (found["training"] + found["held_out"]) * len(columns)
        return tuple(
            f"{one['truncated']:,} of {total:,} captions of data `encoded` have more than {one['length']} tokens of "
            f"{one['encoder']}: their end was cut"
            for one in found["text"]
            if one["truncated"]
        )

    def extent(self) -> Extent:
        if not self.known:
            return Extent()
        found = self.data_record
        return Extent(found["training"], found["held_out"], self._some_captions())

    def _some_captions(self) -> list[str]:
        from rfscale.data.tables import require_pyarrow

        file = require_pyarrow("the index of encoded data", "parquet").ParquetFile(self.folder / INDEX)
        batch = next(file.iter_batches(SHOWN, columns=[f"caption.{name}" for name, _ in self.weights]), None)
        return [] if batch is None else [text for column in batch.columns for text in column.to_pylist()]

    def load(self) -> Dataset:
        from rfscale.data.encoded.dataset import EncodedDataset

        return EncodedDataset(self.folder, self.data_record, self.weights)


class Pictures(DataSource):
    """Held-out images in pixels, as encoded data keep them for judges: in no sweep file."""

    name: Literal["encoded"]
    path: str
    resolution: int
    captions: Weights
    content: str

    def identity(self) -> dict[str, JsonValue]:
        return {"content": self.content, "resolution": self.resolution}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pictures) and (self.content, self.captions) == (other.content, other.captions)

    def __hash__(self) -> int:
        return hash((self.content, self.captions))

    def extent(self) -> Extent:
        return Extent(0, read_record(self.path)["held_out"])

    def load(self) -> Dataset:
        from rfscale.data.encoded.dataset import EncodedPictures

        return EncodedPictures(expanded(self.path, "the encoded data"), read_record(self.path), self.captions)
