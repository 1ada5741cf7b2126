"""Captioned images and their text, without torch: shapes, words, digits, and the user's own folder."""

from __future__ import annotations

from rfscale.data.base import Captioned, DataError, Dataset
from rfscale.data.spec import DataSpec, DigitsData, FolderData, GlyphsData, ShapesData
from rfscale.data.text import TextEncoder, TextSpec, load_text_encoder

__all__ = [
    "Captioned",
    "DataError",
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


def load(spec: ShapesData | GlyphsData | DigitsData | FolderData) -> Dataset:
    """The data set that `spec` describes. Raises DataError when its files cannot be used."""
    # Imported here so that planning a sweep loads neither Pillow nor scikit-learn.
    if isinstance(spec, ShapesData):
        from rfscale.data.shapes import ShapesDataset

        return ShapesDataset(spec)
    if isinstance(spec, GlyphsData):
        from rfscale.data.glyphs import GlyphsDataset

        return GlyphsDataset(spec)
    if isinstance(spec, DigitsData):
        from rfscale.data.digits import DigitsDataset

        return DigitsDataset(spec)
    from rfscale.data.folder import FolderDataset

    return FolderDataset(spec)
