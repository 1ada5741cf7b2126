"""What a data set will do that a sweep does not say: held-out images, captions and epochs, in a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rfscale.data.spec import DataSpec, DigitsData, FolderData, GlyphsData
from rfscale.data.text import TextSpec, load_text_encoder

_SAMPLE = 512  # captions of an endless world


@dataclass(frozen=True, slots=True)
class _Extent:
    """How much a data set holds; None is without end. `captions` are all of them, or a sample where there is no end."""

    training: int | None
    held_out: int | None
    captions: Sequence[str]


def data_notes(spec: DataSpec, text: TextSpec, images: int, steps: int, batch: int) -> Iterator[str]:
    """Sentences on validation with `images` and the longest training, of `steps` of `batch`. Raises DataError."""
    extent = _extent(spec)
    if extent.held_out is not None and extent.held_out < images:
        yield (
            f"evaluation asks for {images:,} held-out images and data `{spec.name}` has {extent.held_out:,}: "
            "val/loss is measured on those"
        )
    if extent.training is not None and steps * batch > extent.training:
        yield (
            f"{steps:,} steps of {batch:,} images go {steps * batch / extent.training:,.1f} times over the "
            f"{extent.training:,} training images of data `{spec.name}`"
        )
    yield from _caption_notes(spec, text, extent)


def _caption_notes(spec: DataSpec, text: TextSpec, extent: _Extent) -> Iterator[str]:
    encoder = load_text_encoder(text)
    count = len(extent.captions)
    of = f"{count:,} captions" if extent.training is not None else f"the first {count:,} held-out captions"
    cut, unread = encoder.truncated(extent.captions), encoder.unread(extent.captions)
    if cut:
        yield (
            f"{cut:,} of {of} of data `{spec.name}` have more than text.length = {text.length} tokens: their end is cut"
        )
    if unread:
        yield f"{unread:,} of {of} of data `{spec.name}` hold nothing that can be read: they train as empty ones"


def _extent(spec: DataSpec) -> _Extent:
    if isinstance(spec, FolderData):
        from rfscale.data.listing import read_listing, split

        held_out, training = split(spec.folder, read_listing(spec.folder), spec.validation_fraction)
        return _Extent(len(training), len(held_out), [entry.text for entry in (*training, *held_out)])
    if isinstance(spec, DigitsData):
        from rfscale.data.digits import NAMES, SIZE, VALIDATION_SIZE, caption

        return _Extent(SIZE - VALIDATION_SIZE, VALIDATION_SIZE, [caption(name) for name in NAMES])
    first = np.arange(_SAMPLE, dtype=np.uint64)
    if isinstance(spec, GlyphsData):
        from rfscale.data import glyphs

        return _Extent(None, None, [scene.caption for scene in glyphs.scenes(first, spec.max_letters)])
    from rfscale.data import shapes

    return _Extent(None, None, [scene.caption for scene in shapes.scenes(first, spec.max_objects)])
