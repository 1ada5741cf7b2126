"""Batches, conditions and spaces: shapes, the unconditional input, and pixels as bytes."""

from __future__ import annotations

import numpy as np
import torch

from rfscale.data import TextSpec, load_text_encoder
from rfscale.data.batch import Batch, Condition, encode
from rfscale.data.space import pixel_space, to_uint8
from rfscale.data.spec import DigitsData, ShapesData

CAPTIONS = ("a red circle", "", "two blue squares")


def condition() -> Condition:
    return encode(load_text_encoder(TextSpec(length=4, width=8)), CAPTIONS)


def test_a_caption_becomes_its_tokens_and_pooled_vector_and_no_caption_the_unconditional_input() -> None:
    found = condition()
    assert len(found) == 3
    assert (found.tokens.shape, found.pooled.shape) == ((3, 4, 8), (3, 8))
    assert not found.tokens[1].any()
    assert not found.pooled[1].any()
    assert found.tokens[0].any()


def test_where_drops_the_whole_condition_of_a_sample_and_touches_no_other() -> None:
    found = condition().where(torch.tensor([True, True, False]))
    assert not found.tokens[2].any()
    assert not found.pooled[2].any()
    assert torch.equal(found.tokens[0], condition().tokens[0])


def test_and_without_doubles_the_batch_by_the_unconditional_input() -> None:
    both = condition().and_without()
    assert len(both) == 6
    assert torch.equal(both[:3].tokens, condition().tokens)
    assert not both[3:].tokens.any()
    assert not both[3:].pooled.any()


def test_a_slice_of_a_batch_keeps_samples_and_conditions_together() -> None:
    batch = Batch(torch.arange(3.0).reshape(3, 1), condition())
    part = batch[1:3]
    assert len(part) == 2
    assert part.x0.flatten().tolist() == [1.0, 2.0]
    assert torch.equal(part.condition.pooled, condition().pooled[1:3])


def test_decoding_pixels_cuts_them_to_their_range() -> None:
    space = pixel_space(1, 2)
    assert space.range == (-1.0, 1.0)
    drawn = torch.tensor([-3.0, -1.0, 0.25, 1.5]).reshape(1, 1, 2, 2)
    assert space.decode(drawn).flatten().tolist() == [-1.0, -1.0, 0.25, 1.0]
    assert ShapesData(name="shapes", resolution=16).space.shape == (3, 16, 16)
    assert DigitsData(name="digits").space.shape == (1, 8, 8)


def test_bytes_are_the_nearest_and_the_images_that_were_read_come_back() -> None:
    values = np.arange(256, dtype=np.uint8)
    pixels = (values.astype(np.float32) / np.float32(127.5) - np.float32(1.0)).reshape(1, 1, 16, 16)
    assert np.array_equal(to_uint8(pixels).reshape(-1), values)
    odd = np.array([-9.0, 9.0, np.nan], dtype=np.float32).reshape(1, 3, 1, 1)
    assert to_uint8(odd).tolist() == [[[[0, 255, 0]]]]
