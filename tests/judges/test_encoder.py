"""The contrastive encoder: what it reads in a caption, its loss, its training to the bit, and its cache."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rfscale.data.counter import uniform
from rfscale.data.endless import COLOURS, validation_indices
from rfscale.data.raster import SHAPES
from rfscale.data.shapes import RELATIONS, render, scenes
from rfscale.judges.base import JudgeError
from rfscale.judges.cache import locked
from rfscale.judges.shapes import encoder as module
from rfscale.judges.shapes.encoder import (
    Recipe,
    clip_loss,
    load_encoder,
    train,
)
from rfscale.judges.shapes.phrases import foils, parse, reversed_relation

TINY = Recipe(16, 4, steps=3, batch=32)
NUMBER, COLOUR, SHAPE, ROLE, UNKNOWN = range(5)


def said(caption: str) -> list[tuple[int, ...]]:
    """The phrases of a caption without the padding."""
    return [tuple(phrase) for phrase in parse([caption])[0].tolist() if any(phrase)]


# --- what is read in a caption ----------------------------------------------------------------------------------------


def test_phrases_are_the_scene_graph() -> None:
    for scene in scenes(validation_indices(2000)):
        phrases = said(scene.caption)
        named = any(phrase[COLOUR] for phrase in phrases)
        found: Counter[tuple[str, str]] = Counter()
        for number, colour, shape, _, unknown in phrases:
            assert not unknown, scene.caption
            found[COLOURS[colour - 1] if colour else "", SHAPES[shape - 1]] += number
        assert found == Counter((item.colour if named else "", item.shape) for item in scene.objects), scene.caption
        roles = [RELATIONS[phrase[ROLE] - 1] for phrase in phrases if phrase[ROLE]]
        assert roles[:1] == ([scene.relation.word] if scene.relation else [])
        assert len(roles) == (2 if scene.relation else 0)


def test_order_counts_where_it_means_something_and_only_there() -> None:
    assert said("a ring left of a circle") != said("a circle left of a ring")
    assert sorted(said("a ring left of a circle")) == sorted(said("a circle right of a ring"))
    assert sorted(said("two rings above a circle")) == sorted(said("a circle below two rings"))
    assert sorted(said("a red ring and a blue circle")) == sorted(said("a blue circle and a red ring"))
    assert said("a red ring and a blue circle") != said("a blue ring and a red circle")


@pytest.mark.parametrize(
    "text", ["", "left", "of and", "a photo of a hovercraft", "two two two", "ring " * 40, "\ud800"]
)
def test_any_text_has_phrases_of_the_right_range(text: str) -> None:
    phrases = parse([text])
    assert phrases.shape == (1, 8, 5)
    assert (phrases >= 0).all()
    assert (phrases < np.array([5, 9, 6, 5, 2])).all()
    # No character is dropped: one that stands for nothing is a word that is not known.
    assert phrases[..., UNKNOWN].any() == ("hovercraft" in text or text == "\ud800")


def test_foils_say_something_else_and_little_of_it() -> None:
    captions = [scene.caption for scene in scenes(validation_indices(2000))]
    phrases = parse(captions)
    changed = foils(phrases, uniform(1, np.arange(2000)[:, None], np.arange(4)))
    kinds: Counter[tuple[int, ...]] = Counter()
    for before, after in zip(phrases.tolist(), changed.tolist(), strict=True):
        assert sorted(before) != sorted(after), "the foil means the same"
        slots = tuple(slot for a, b in zip(before, after, strict=True) for slot in range(5) if a[slot] != b[slot])
        kinds[slots] += 1
        if slots == (COLOUR, COLOUR):
            colours = [{phrase[COLOUR] for phrase in text} for text in (before, after)]
            assert colours[0] == colours[1]
        assert all((after[i][COLOUR] > 0) == (before[i][COLOUR] > 0) for i in range(8))
        assert all((after[i][SHAPE] > 0) == (before[i][SHAPE] > 0) for i in range(8))
    assert set(kinds) == {(NUMBER,), (COLOUR,), (SHAPE,), (COLOUR, COLOUR)}
    assert min(kinds.values()) > 200
    for slot, size in ((NUMBER, 4), (COLOUR, 8), (SHAPE, 5)):  # every value is drawn
        assert set(changed[..., slot].ravel().tolist()) == set(range(size + 1))


def test_the_reverse_of_a_relation() -> None:
    phrases = parse(["a red ring above two circles", "a ring left of a cross", "a ring"])
    reversed_phrases = reversed_relation(phrases)
    wanted = parse(["a red ring below two circles", "a ring right of a cross", "a ring"])
    assert np.array_equal(reversed_phrases, wanted)
    assert np.array_equal(reversed_relation(reversed_phrases), phrases)


# --- the loss ---------------------------------------------------------------------------------------------------------


def test_clip_loss_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    cosine = torch.rand(4, 7, generator=generator) * 2 - 1
    logits = 3.0 * cosine.double()
    rows = -(logits.diagonal() - logits.logsumexp(dim=1)).mean()
    columns = -(logits.diagonal() - logits[:, :4].logsumexp(dim=0)).mean()
    loss = clip_loss(cosine, torch.arange(7), torch.tensor(3.0).log())
    assert loss.item() == pytest.approx(((rows + columns) / 2).item(), rel=1e-5)


def test_a_text_that_equals_the_own_caption_is_not_wrong() -> None:
    cosine = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    assert clip_loss(cosine, torch.zeros(5, dtype=torch.long), torch.tensor(2.0)).item() == 0.0


# --- training ---------------------------------------------------------------------------------------------------------


def states(recipe: Recipe) -> dict[str, torch.Tensor]:
    images, texts = train(recipe)
    return {f"i{k}": v for k, v in images.state_dict().items()} | {f"t{k}": v for k, v in texts.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_training_is_the_same_to_the_bit_whatever_was_drawn_before() -> None:
    first = states(TINY)
    torch.rand(7)
    random = torch.get_rng_state()
    threads = torch.get_num_threads()
    assert equal(first, states(TINY))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert not equal(first, states(replace(TINY, seed=1)))


def test_progress_is_told_step_by_step() -> None:
    told: list[tuple[int, int]] = []
    train(TINY, lambda what, step, total: told.append((step, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("resolution", [8, 12, 32, 40])
def test_every_resolution_has_embeddings(resolution: int, tmp_path: Path) -> None:
    found = load_encoder(tmp_path, resolution, recipe=Recipe(resolution, 4, steps=1, batch=8))
    assert found.encode_images(render(scenes(validation_indices(3)), resolution)).shape == (3, 64)


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the tiny encoder."""
    path = tmp_path_factory.mktemp("judges")
    load_encoder(path, 16, recipe=TINY)
    return path


def test_embeddings_have_unit_length_and_features_unit_mean_square(cache: Path) -> None:
    found = load_encoder(cache, 16, recipe=TINY)
    world = scenes(validation_indices(300))  # more than one batch
    images = render(world, 16)
    pictures, features = found.encode_images(images), found.features(images)
    assert features.dtype == np.float64
    assert np.allclose((features**2).mean(axis=1), 1.0, atol=1e-5)
    assert np.allclose(features, 8.0 * pictures)
    captions = [scene.caption for scene in world]
    texts = found.encode_texts(captions)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1.0, atol=1e-5)
    assert np.allclose(texts[::-1], found.encode_texts(captions[::-1]), atol=1e-6)
    assert np.allclose(pictures[290:], found.encode_images(images[290:]), atol=1e-5)


def test_nothing_and_strange_texts_are_encoded(cache: Path) -> None:
    found = load_encoder(cache, 16, recipe=TINY)
    assert found.encode_texts([]).shape == (0, 64)
    assert found.encode_images(np.zeros((0, 3, 16, 16), dtype=np.float32)).shape == (0, 64)
    strange = found.encode_texts(["", "an oil painting of a hovercraft", "hovercraft", "a ring"])
    assert np.isfinite(strange).all()
    assert len(np.unique(strange.round(4), axis=0)) == 4


# --- the cache --------------------------------------------------------------------------------------------------------


def no_training(*_: object) -> None:
    raise AssertionError("trained although the cache has it")


def test_a_cached_encoder_is_not_trained_again_and_is_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = states(TINY)
    first = load_encoder(tmp_path, 16, recipe=TINY)
    monkeypatch.setattr(module, "train", no_training)
    again = load_encoder(tmp_path, 16, recipe=TINY)
    assert again.checksum == first.checksum
    loaded = {f"i{k}": v for k, v in again._images.state_dict().items()}
    loaded |= {f"t{k}": v for k, v in again._texts.state_dict().items()}
    assert equal(loaded, fresh)
    assert sorted(path.name for path in tmp_path.iterdir()) == [TINY.folder, f"{TINY.folder}.lock"]
    with pytest.raises(AssertionError, match="trained"):
        load_encoder(tmp_path, 16, recipe=replace(TINY, steps=4))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip(folder / "encoder.safetensors"),
        lambda folder: (folder / "encoder.safetensors").write_bytes(b""),
        lambda folder: (folder / "encoder.safetensors").unlink(),
        lambda folder: (folder / "encoder.json").write_text('{"sha256": "12'),
        lambda folder: (folder / "encoder.json").write_text("[]"),
        lambda folder: (folder / "encoder.json").unlink(),
    ],
    ids=["bit", "empty", "no weights", "cut record", "strange record", "no record"],
)
def test_a_damaged_encoder_is_trained_again_with_a_warning(damage: object, tmp_path: Path) -> None:
    recipe = replace(TINY, steps=1, batch=8)
    checksum = load_encoder(tmp_path, 16, recipe=recipe).checksum
    folder = tmp_path / recipe.folder
    (folder / "exam-512.json").write_text("{}")  # whatever was computed with the damaged weights goes too
    damage(folder)  # type: ignore[operator]
    with pytest.warns(UserWarning, match="is damaged"):
        assert load_encoder(tmp_path, 16, recipe=recipe).checksum == checksum
    assert json.loads((folder / "encoder.json").read_text())["sha256"] == checksum
    assert not (folder / "exam-512.json").exists()


def test_a_training_that_was_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    def kill(what: str, step: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_encoder(tmp_path, 16, progress=kill, recipe=TINY)
    assert not (tmp_path / TINY.folder).exists()
    load_encoder(tmp_path, 16, recipe=TINY)  # the lock is free


TWO = """
import sys
from pathlib import Path
from rfscale.judges.shapes.encoder import Recipe, load_encoder
def told(what, step, total):
    if step == total:
        print("trained")
print(load_encoder(Path(sys.argv[1]), 16, progress=told, recipe=Recipe(16, 4, steps=3, batch=32)).checksum)
"""


def test_two_processes_train_once_and_end_with_the_same_encoder(tmp_path: Path, cache: Path) -> None:
    with locked(tmp_path / TINY.folder):  # neither begins before both have seen the empty cache, or nearly so
        both = [
            subprocess.Popen([sys.executable, "-c", TWO, str(tmp_path)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        with pytest.raises(subprocess.TimeoutExpired):
            both[0].wait(timeout=0.5)  # it waits for the lock
    lines = [line for process in both for line in process.communicate(timeout=120)[0].split()]
    assert [process.returncode for process in both] == [0, 0]
    assert lines.count("trained") == 1
    assert {line for line in lines if line != "trained"} == {load_encoder(cache, 16, recipe=TINY).checksum}


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JudgeError, match=r"cannot write the cache of the judges .*file.*; choose"):
        load_encoder(tmp_path / "file", 16, recipe=TINY)


def test_the_folder_follows_the_whole_recipe_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "resolution": 32,
        "max_objects": 3,
        "steps": 4,
        "batch": 33,
        "learning_rate": 0.1,
        "weight_decay": 0.1,
        "grid_weight": 0.5,
        "seed": 1,
    }
    assert set(changes) == set(Recipe.__slots__)
    folders = [replace(TINY, **{key: value}).folder for key, value in changes.items()]  # type: ignore[arg-type]
    assert len({TINY.folder, *folders}) == len(changes) + 1
    before = TINY.folder
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert TINY.folder != before
