"""What a data set will do that a sweep does not say: held-out images, captions and epochs, in a sentence each."""

from __future__ import annotations

from collections.abc import Iterator

from rfscale.data.base import Extent
from rfscale.data.spec import DataSource
from rfscale.data.text import EncoderSpec, load_text_encoder


def data_notes(spec: DataSource, text: EncoderSpec, images: int, steps: int, batch: int) -> Iterator[str]:
    """Sentences on validation with `images` and the longest training, of `steps` of `batch`. Raises DataError."""
    extent = spec.extent()
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
    if not text.stored:  # else the data say what was cut when they were encoded
        yield from _caption_notes(spec, text, extent)


def _caption_notes(spec: DataSource, text: EncoderSpec, extent: Extent) -> Iterator[str]:
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
