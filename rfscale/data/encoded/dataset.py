"""Batches of an encoded data set: the same stream of samples and captions as of the images that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rfscale.data.base import Captioned, DataError, FloatArray, IndexArray, check_stream, to_signed_unit
from rfscale.data.counter import shuffled_stream
from rfscale.data.encoded.files import LOGVAR, MEAN, PIXELS, Shards, pooled_of, read_order, tokens_of, widened
from rfscale.data.encoded.layout import layout_of
from rfscale.data.pairs import Weights
from rfscale.data.pairset import caption_of, held_out_caption_of

if TYPE_CHECKING:
    from rfscale.data.batch import Condition


class EncodedDataset:
    """Latents with the captions of their images, read from shards. Raises DataError that names a damaged one."""

    def __init__(self, folder: Path, record: Mapping[str, Any], weights: Weights) -> None:
        self._shards, self._record = Shards(folder, record), record
        self._order, self._names = read_order(folder, ("training", "names"))
        self._held_out, self._sides = int(record["held_out"]), (record["resolution"],) * 2
        self._columns = [name for name, _ in record["captions"]]
        self._chosen = np.array([self._columns.index(name) for name, _ in weights])
        self._weights = weights
        shape = (1, -1, 1, 1)
        self._mean, self._std = (
            np.array(record["latent"][key], dtype=np.float32).reshape(shape) for key in ("mean", "std")
        )

    def train(self, seed: int, first: int, count: int) -> Captioned:
        check_stream(seed, first, count)
        places = shuffled_stream(seed, first, count, len(self._order))
        numbers = self._order[places] + self._held_out
        column = caption_of(self._weights, seed, self._sides, np.arange(first, first + count))
        return self._batch(numbers, self._chosen[column])

    def validation(self, count: int) -> Captioned:
        numbers = np.arange(min(count, self._held_out))
        return self._batch(numbers, self._chosen[held_out_caption_of(self._weights, self._names[: len(numbers)])])

    def _batch(self, numbers: IndexArray, columns: IndexArray) -> Captioned:
        captions = self._shards.texts(numbers, len(self._columns), columns)
        mean = (widened(*self._shards.rows(MEAN, numbers)) - self._mean) / self._std
        told = partial(self._told, numbers, columns) if self._record["text"] else None
        return Captioned(mean, captions, None, self._spread(numbers), told)

    def _spread(self, numbers: IndexArray) -> FloatArray | None:
        """exp(log variance / 2), in the units of the normalised latents."""
        if not self._record["autoencoder"]["sample"]:
            return None
        spread: FloatArray = np.exp(widened(*self._shards.rows(LOGVAR, numbers)) * np.float32(0.5)) / self._std
        return spread

    def _told(self, numbers: IndexArray, columns: IndexArray) -> Condition:
        import torch

        from rfscale.data.batch import Condition

        layout = layout_of(self._record["text"])
        dtype = torch.bfloat16 if self._record["dtype"] == "bf16" else torch.float16
        tokens = torch.zeros(len(numbers), layout.length, layout.width, dtype=dtype)
        pooled = torch.zeros(len(numbers), layout.pooled, dtype=dtype)

        def read(name: str) -> torch.Tensor:
            found, kind = self._shards.rows(name, numbers, len(self._columns), columns)
            return torch.from_numpy(found.view(np.int16)).view(torch.bfloat16 if kind == "BF16" else torch.float16)

        for j, span in enumerate(layout.spans):
            tokens[:, slice(*span.tokens), slice(*span.channels)] = read(tokens_of(j))
            if span.pooled[1] > span.pooled[0]:
                pooled[:, slice(*span.pooled)] = read(pooled_of(j))
        return Condition(tokens, pooled)


class EncodedPictures:
    """The held-out images that latents were made from, as they were before: what judges compare with."""

    def __init__(self, folder: Path, record: Mapping[str, Any], weights: Weights) -> None:
        self._latents = EncodedDataset(folder, record, weights)
        self._shards, self._held_out = Shards(folder, record), int(record["held_out"])

    def train(self, seed: int, first: int, count: int) -> Captioned:
        raise DataError("encoded data keep the pixels of held-out images alone: nothing can be trained on them.")

    def validation(self, count: int) -> Captioned:
        numbers = np.arange(min(count, self._held_out))
        pixels: npt.NDArray[np.uint8] = self._shards.rows(PIXELS, numbers)[0]
        return Captioned(to_signed_unit(pixels), self.captions(numbers))

    def captions(self, numbers: Sequence[int] | IndexArray) -> tuple[str, ...]:
        return self._latents.validation(len(numbers)).captions
