"""The real digits: the right picture under the right name, and a balanced held-out split."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from rfscale.data import DataError, DigitsData, load
from rfscale.data.digits import NAMES, VALIDATION_SIZE, DigitsDataset

GOLDEN_HELD_OUT = "84eea32a00cba31cd83a4497f0323448fd93f336d98a9a3bf610a5b4f6c4c60c"


@pytest.fixture(scope="module")
def digits() -> DigitsDataset:
    return DigitsDataset(DigitsData(name="digits"))


def test_every_digit_is_in_one_of_the_two_splits(digits: DigitsDataset) -> None:
    assert len(digits.held_out) == VALIDATION_SIZE
    assert np.array_equal(np.sort(np.concatenate([digits.held_out, digits.training])), np.arange(1797))


def test_held_out_digits_are_balanced(digits: DigitsDataset) -> None:
    for count, most in ((10, 1), (100, 10), (256, 26)):
        classes = Counter(digits.validation(count).captions)
        assert len(classes) == 10
        assert max(classes.values()) == most
    assert len(digits.validation(1000).captions) == VALIDATION_SIZE


def test_captions_name_the_picture(digits: DigitsDataset) -> None:
    bunch = load_digits()
    name_of = {image.tobytes(): NAMES[label] for image, label in zip(bunch.images, bunch.target, strict=True)}
    batch = digits.train(0, 0, 1541)
    assert batch.captions[0].startswith("a handwritten ")
    for image, caption in zip(batch.images, batch.captions, strict=True):
        grey = (image[0].astype(np.float64) + 1) * 8
        assert caption == f"a handwritten {name_of[grey.tobytes()]}"
    assert len({image.tobytes() for image in batch.images}) > 1500  # an epoch repeats nothing


def test_enlarging_repeats_pixels(digits: DigitsDataset) -> None:
    large = load(DigitsData(name="digits", resolution=24)).validation(5).images
    small = digits.validation(5).images
    assert np.array_equal(large[:, :, 1::3, 2::3], small)
    assert np.array_equal(large.reshape(5, 1, 8, 3, 8, 3).mean(axis=(3, 5)).round(5), small.round(5))


def test_golden_held_out_split(digits: DigitsDataset) -> None:
    numbers = ",".join(str(index) for index in digits.held_out)
    assert hashlib.sha256(numbers.encode()).hexdigest() == GOLDEN_HELD_OUT


def test_a_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    DigitsData(name="digits").check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        DigitsData(name="digits").check()
