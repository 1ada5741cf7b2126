"""The user's own images and captions in a folder, as the Hugging Face imagefolder convention has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rfscale.data import listing
from rfscale.data.pairs import Listing
from rfscale.data.spec import PairsData
from rfscale.paths import expanded
from rfscale.registry import PathField


class FolderData(PairsData):
    """The user's own images: a folder with a `metadata.jsonl` of `file_name` and `text` (Hugging Face imagefolder)."""

    later = frozenset({"buckets", "captions", "flips"})
    name: Literal["folder"]
    path: Annotated[str, PathField()] = Field(
        min_length=1, description="the folder that holds metadata.jsonl, .csv or .parquet; ~ is expanded"
    )

    @property
    def folder(self) -> Path:
        return expanded(self.path, "the data folder")

    def listing(self) -> Listing:
        return listing.folder_listing(self.folder, self.columns)

    def content(self) -> str:
        return listing.fingerprint(self.folder, self.columns)
