"""Captioned images and their text, without torch: shapes, words, digits, and the user's own folder."""

from __future__ import annotations

from rfscale.data.base import Captioned, DataError, Dataset
from rfscale.data.folder import FolderData
from rfscale.data.spec import DataSource, DataSpec, DigitsData, GlyphsData, ShapesData
from rfscale.data.text import TextEncoder, TextSpec, load_text_encoder

__all__ = [
    "Captioned",
    "DataError",
    "DataSource",
    "DataSpec",
    "Dataset",
    "DigitsData",
    "FolderData",
    "GlyphsData",
    "ShapesData",
    "TextEncoder",
    "TextSpec",
    "load",
    "load_text_encoder",
]


def load(spec: DataSource) -> Dataset:
    """The data set that `spec` describes. Raises DataError when its files cannot be used."""
    return spec.load()
