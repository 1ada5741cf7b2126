"""What a store's finished trials drew, as the report gets it; and the picture that says itself what it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from two_aspects import draw_folder

from rfscale.data import load
from rfscale.data.space import to_uint8
from rfscale.run import gallery
from rfscale.run.gallery import gallery_of
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import Store
from rfscale.validation.grid import read_grid
from rfscale.validation.samples import save_grid

DEFINITION = {
    "name": "drawn",
    "question": "What do they draw?",
    "data": {"name": "shapes", "resolution": 16},
    "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
    "formulations": ["rf", "eps/linear", "v/cos"],
    "training": {"steps": 4, "batch": 4},
}
TRIALS = parse_sweep(DEFINITION).trials
HELD_OUT = load(TRIALS[0].data).validation(10)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8), (3, 200, 200)])
def test_a_grid_is_read_back_as_it_was_drawn(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    captions = ["a ring", "", *(f"caption {i}" for i in range(4))]
    save_grid(images, captions, tmp_path / "grid.png")
    found = read_grid(tmp_path / "grid.png", shape[-1])
    assert [caption for _, caption in found] == captions
    for (pixels, _), image in zip(found, to_uint8(images.numpy()), strict=True):
        if shape[-1] < 160:
            np.testing.assert_array_equal(pixels, np.broadcast_to(image, pixels.shape))
        else:
            assert pixels.shape == (160, 160, 3), "it was made smaller when it was drawn"


def test_the_pictures_of_a_store_and_the_true_images(tmp_path: Path) -> None:
    store, drawn = Store(tmp_path), {}
    for i, trial in enumerate(TRIALS):
        path = store.trial(trial.trial_id).samples
        path.parent.mkdir(parents=True)
        drawn[trial.trial_id] = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(i)) * 2 - 1
        save_grid(drawn[trial.trial_id], HELD_OUT.captions, path)
    found = gallery_of(TRIALS, store)
    assert found is not None
    assert found.captions == HELD_OUT.captions[: gallery.CAPTIONS]
    assert set(found.drawn) == set(drawn)
    for trial_id, images in drawn.items():
        np.testing.assert_array_equal(found.drawn[trial_id], to_uint8(images.numpy())[: gallery.CAPTIONS])
    assert found.truth is not None
    np.testing.assert_array_equal(found.truth, to_uint8(HELD_OUT.images)[: gallery.CAPTIONS])

    # One drawn before pictures said what they show, one with other captions, one that is spoilt.
    first, second, third = (store.trial(trial.trial_id).samples for trial in TRIALS)
    with Image.open(first) as picture:
        picture.load()
        picture.info = {}
        picture.save(first)
    save_grid(drawn[TRIALS[1].trial_id], ["another"] * 10, second)
    third.write_bytes(b"\x89PNG")
    found = gallery_of(TRIALS, store)
    assert found is not None
    assert set(found.drawn) == {TRIALS[0].trial_id}
    assert found.left_out == 2
    assert found.captions == HELD_OUT.captions[: gallery.CAPTIONS], "they are those of the data"
    np.testing.assert_array_equal(
        found.drawn[TRIALS[0].trial_id], to_uint8(drawn[TRIALS[0].trial_id].numpy())[: gallery.CAPTIONS]
    )


def test_a_store_without_pictures_has_no_gallery(tmp_path: Path) -> None:
    assert gallery_of(TRIALS, Store(tmp_path)) is None
    assert gallery_of((), Store(tmp_path)) is None


def test_the_gallery_has_images_of_every_aspect_ratio(tmp_path: Path) -> None:
    draw_folder(tmp_path / "images", 80)
    data = {
        "name": "folder",
        "path": str(tmp_path / "images"),
        "resolution": 20,
        "buckets": [[16, 24], [24, 16]],
        "validation_fraction": 0.4,
    }
    (trial,) = parse_sweep({**DEFINITION, "data": data, "formulations": ["rf"]}).trials
    held_out = [bucket.validation(gallery.ENOUGH) for bucket in trial.data.load_buckets()]
    path = Store(tmp_path / "store").trial(trial.trial_id).samples
    path.parent.mkdir(parents=True)
    captions = [text for part in held_out for text in part.captions]
    save_grid([torch.as_tensor(image) for part in held_out for image in part.images], captions, path)
    found = gallery_of([trial], Store(tmp_path / "store"))
    assert found is not None
    assert found.truth is not None
    half = gallery.CAPTIONS // 2
    for images in (found.drawn[trial.trial_id], found.truth):
        assert [image.shape[:2] for image in images] == [(16, 24)] * half + [(24, 16)] * half
        np.testing.assert_array_equal(images[half], to_uint8(held_out[1].images)[0])
    assert found.captions == (*held_out[0].captions[:half], *held_out[1].captions[:half])
