"""What every data set promises, and the specifications."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from rfscale.data import Dataset, DataSource, DataSpec, DigitsData, FolderData, ShapesData, load
from rfscale.data.counter import hash64, shuffled_stream, uniform


class Holder(BaseModel):
    """Stands in for a sweep definition."""

    model_config = ConfigDict(extra="forbid")
    data: DataSpec


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """20 small images, each of one grey level, with captions."""
    lines = []
    for number in range(20):
        Image.new("RGB", (12, 10), (number * 10,) * 3).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "text": f"grey number {number}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture(params=["shapes", "digits", "folder"])
def source(request: pytest.FixtureRequest, image_folder: Path) -> DataSource:
    if request.param == "shapes":
        return ShapesData(name="shapes")
    if request.param == "digits":
        return DigitsData(name="digits", resolution=16)
    return FolderData(name="folder", path=str(image_folder), resolution=8)


@pytest.fixture
def dataset(source: DataSource) -> Dataset:
    return load(source)


def test_images_are_float32_in_the_signed_unit_range(source: DataSource, dataset: Dataset) -> None:
    side, channels = source.resolution, source.channels
    for batch in (dataset.train(3, 5, 7), dataset.validation(2)):
        count = len(batch.captions)
        assert batch.images.shape == (count, channels, side, side)
        assert batch.images.dtype == np.float32
        assert batch.images.min() >= -1.0
        assert batch.images.max() <= 1.0
        assert all(batch.captions)
    assert len(dataset.train(3, 5, 7).captions) == 7
    assert dataset.train(0, 0, 0).images.shape == (0, channels, side, side)


def test_a_sample_does_not_depend_on_the_batch_cut(source: DataSource, dataset: Dataset) -> None:
    whole = dataset.train(1, 10, 40)
    for cut in (1, 7, 39):
        parts = dataset.train(1, 10, cut), dataset.train(1, 10 + cut, 40 - cut)
        assert np.array_equal(np.concatenate([part.images for part in parts]), whole.images)
        assert parts[0].captions + parts[1].captions == whole.captions
    again = load(source).train(1, 10, 40)
    assert np.array_equal(again.images, whole.images)
    assert again.captions == whole.captions


def test_seeds_give_different_streams(dataset: Dataset) -> None:
    assert not np.array_equal(dataset.train(0, 0, 16).images, dataset.train(1, 0, 16).images)


def test_validation_is_fixed_and_the_first_images_stay_first(dataset: Dataset) -> None:
    long, short = dataset.validation(16), dataset.validation(1)
    assert np.array_equal(long.images[:1], short.images)
    assert long.captions[:1] == short.captions


def test_training_never_shows_a_held_out_image(dataset: Dataset) -> None:
    held_out = {image.tobytes() for image in dataset.validation(256).images}
    for seed in range(3):
        assert held_out.isdisjoint(image.tobytes() for image in dataset.train(seed, 0, 3000).images)


def test_a_position_before_the_stream_is_refused(dataset: Dataset) -> None:
    for seed, first, count in ((-1, 0, 1), (0, -1, 1), (0, 0, -1)):
        with pytest.raises(ValueError, match="must be 0 or more"):
            dataset.train(seed, first, count)


def test_every_epoch_is_a_fresh_permutation() -> None:
    epochs = shuffled_stream(seed=5, first=0, count=300, size=100).reshape(3, 100)
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(100))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], shuffled_stream(seed=6, first=0, count=100, size=100))


def test_counter_based_numbers_are_uniform_and_uncorrelated() -> None:
    u = uniform(np.arange(20_000)[:, None], np.arange(8))
    # 160,000 and 20,000 draws: five standard errors.
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / u.size) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / u.size) ** 0.5
    off_diagonal = np.corrcoef(u.T)[~np.eye(8, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / 20_000**0.5
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 5 / 20_000**0.5
    assert hash64(1, 2) != hash64(2, 1)


def test_identity_holds_what_differs_from_the_defaults() -> None:
    assert ShapesData(name="shapes").identity() == {"name": "shapes"}
    assert ShapesData(name="shapes", resolution=16).identity() == {"name": "shapes"}
    assert ShapesData(name="shapes", resolution=32).identity() == {"name": "shapes", "resolution": 32}
    assert DigitsData(name="digits", resolution=24).identity() == {"name": "digits", "resolution": 24}


def test_the_name_chooses_the_data_set_and_unknown_keys_are_refused() -> None:
    spec = Holder.model_validate({"data": {"name": "digits"}}).data
    assert spec == DigitsData(name="digits", resolution=8)
    for wrong in ({"name": "cats"}, {"name": "shapes", "resolutoin": 16}, {"resolution": 16}, {"name": "folder"}):
        with pytest.raises(ValidationError):
            Holder.model_validate({"data": wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "shapes", "resolution": 7},
        {"name": "shapes", "resolution": 257},
        {"name": "shapes", "resolution": "16"},
        {"name": "shapes", "max_objects": 5},
        {"name": "shapes", "max_objects": True},
        {"name": "digits", "resolution": 12},
        {"name": "folder", "path": ""},
        {"name": "folder", "path": "x", "validation_fraction": 0.0},
        {"name": "folder", "path": "x", "validation_fraction": 0.6},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Holder.model_validate({"data": wrong})


def test_specifications_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ShapesData(name="shapes").resolution = 32  # type: ignore[misc]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, rfscale.data; print(*sorted({'torch', 'ray', 'PIL', 'sklearn', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
