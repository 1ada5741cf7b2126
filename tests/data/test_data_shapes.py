"""The shapes world: scene graphs that captions tell truly, and pixels that cover the right area."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from rfscale.data import ShapesData, load
from rfscale.data.endless import BACKGROUND, COLOURS, PALETTE, train_indices, validation_indices
from rfscale.data.raster import AREAS, SHAPES, template
from rfscale.data.shapes import (
    GAP,
    RELATIONS,
    Relation,
    Scene,
    SceneObject,
    _distinct_codes,
    relative_position,
    render,
    scenes,
)
from rfscale.data.text import words

PLURALS = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross", "rings": "ring"}
NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}

# One batch and the captions of it, rounded to 8 bits; made by this code, whose pictures were looked at. A change here
# means that old trials and new ones saw different data.
GOLDEN = "cbef3f1950ac34eac27c03d5f05f4975472388feb727854b50be8083a85e7c3f"


@pytest.fixture(scope="module")
def world() -> list[Scene]:
    return scenes(validation_indices(4000))


def read_caption(caption: str) -> tuple[list[tuple[int, str | None, str]], str | None]:
    """An independent parser: the (number, colour, shape) of each group, and the relation between two of them."""
    relation = next((word for word in RELATIONS if f" {word} " in caption), None)
    groups = []
    for phrase in re.split(rf", | and | {relation} " if relation else ", | and ", caption):
        number, *colour, noun = phrase.split()
        singular = PLURALS.get(noun, noun)
        assert singular in SHAPES
        assert len(colour) <= 1
        assert (noun == singular) == (NUMBERS[number] == 1)
        groups.append((NUMBERS[number], colour[0] if colour else None, singular))
    return groups, relation


def is_so(word: str, a: SceneObject, b: SceneObject) -> bool:
    return {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[word]


def test_captions_account_for_every_object_and_no_other(world: list[Scene]) -> None:
    for scene in world:
        groups, _ = read_caption(scene.caption)
        named = groups[0][1] is not None
        told = {(colour, shape): number for number, colour, shape in groups}
        assert len(told) == len(groups)
        assert told == Counter((item.colour if named else None, item.shape) for item in scene.objects)


def test_relations_in_captions_are_true(world: list[Scene]) -> None:
    told = Counter()
    for scene in world:
        groups, word = read_caption(scene.caption)
        assert (word is None) == (scene.relation is None)
        if word and scene.relation:
            told[word] += 1
            subject = [scene.objects[i] for i in scene.relation.subject]
            reference = [scene.objects[i] for i in scene.relation.reference]
            assert len(subject) + len(reference) == len(scene.objects)
            assert [len(subject), len(reference)] == [group[0] for group in groups]
            for item, (_, colour, shape) in [(subject[0], groups[0]), (reference[0], groups[1])]:
                assert item.shape == shape
                assert colour in (None, item.colour)
            assert word == scene.relation.word
            assert all(is_so(word, a, b) for a in subject for b in reference)
    assert set(told) == set(RELATIONS)
    assert min(told.values()) > 100


def test_kinds_of_a_scene_are_distinct_and_equally_likely() -> None:
    u = np.random.default_rng(0).random((20_000, 3))
    codes = _distinct_codes(u, 5)
    assert all(len(set(row)) == 3 for row in codes.tolist())
    frequencies = np.unique(codes, axis=0, return_counts=True)[1] / len(u)
    assert len(frequencies) == 60
    assert np.abs(frequencies - 1 / 60).max() < 5 * (1 / 60 / len(u)) ** 0.5


def test_articles_agree(world: list[Scene]) -> None:
    text = "\n".join(scene.caption for scene in world)
    assert re.search(r"\ban orange\b", text)
    assert not re.search(r"\ba orange\b|\ban (?!orange)", text)


def test_captions_fit_the_text_encoder(world: list[Scene]) -> None:
    assert max(len(words(scene.caption)) for scene in world) <= 16


def test_objects_lie_inside_and_apart(world: list[Scene]) -> None:
    for scene in world:
        for item in scene.objects:
            assert item.size >= 0.2
            assert min(item.x, item.y) - item.size / 2 >= GAP / 2 - 1e-9
            assert max(item.x, item.y) + item.size / 2 <= 1 - GAP / 2 + 1e-9
        for a, b in itertools.combinations(scene.objects, 2):
            clear = max(abs(a.x - b.x), abs(a.y - b.y)) - (a.size + b.size) / 2
            assert clear >= GAP - 1e-9


@pytest.mark.parametrize("resolution", [16, 32])
def test_every_object_is_one_separate_blob(world: list[Scene], resolution: int) -> None:
    ground = np.array(BACKGROUND, dtype=np.float32)[:, None, None] / 127.5 - 1
    for scene in world[:500]:
        cover = sum(template(o.shape, resolution, o.x, o.y, o.size) for o in scene.objects)
        _, blobs = ndimage.label(cover > 0.5, structure=np.ones((3, 3)))
        assert blobs == len(scene.objects)
        image = render([scene], resolution)[0]
        assert np.array_equal(np.abs(image - ground).max(axis=0) > 1e-6, cover > 1e-6)


def test_colours_and_positions_are_where_the_scene_graph_says(world: list[Scene]) -> None:
    images = render(world[:300], 64)
    for scene, image in zip(world, images, strict=False):
        for item in scene.objects:
            # A point that belongs to every shape of this kind: the ring's body, elsewhere the middle.
            across = item.x - (0.37 * item.size if item.shape == "ring" else 0.0)
            pixel = image[:, int(item.y * 64), int(across * 64)]
            assert np.allclose((pixel + 1) * 127.5, PALETTE[item.colour], atol=1e-3)
        assert np.allclose((image[:, 0, 0] + 1) * 127.5, BACKGROUND, atol=1e-3)


def test_all_contents_occur(world: list[Scene]) -> None:
    assert Counter(len(scene.objects) for scene in world).keys() == {1, 2, 3, 4}
    pairs = Counter((item.shape, item.colour) for scene in world for item in scene.objects)
    assert len(pairs) == len(SHAPES) * len(COLOURS)
    expected = sum(pairs.values()) / len(pairs)
    assert 0.6 * expected < min(pairs.values())
    assert max(pairs.values()) < 1.4 * expected
    counts = Counter(len(scene.objects) for scene in scenes(range(500), max_objects=2))
    assert counts.keys() == {1, 2}


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_cover_approximates_the_area(shape: str) -> None:
    """Over random sub-pixel offsets, at the smallest size of the world at 16 px and at larger ones."""
    offsets = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2))
    for side, tolerance in ((4.0, 0.1), (8.0, 0.04), (32.0, 0.01)):
        area = AREAS[shape] * side**2
        measured = [template(shape, 48, 0.5 + dx / 48, 0.5 + dy / 48, side / 48).sum() for dx, dy in offsets]
        assert np.mean(measured) == pytest.approx(area, rel=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_shape_equals_its_supersampled_self(shape: str) -> None:
    """A picture drawn 16 times as fine and averaged down is the box-filtered truth."""
    fine = template(shape, 16 * 16, 0.51, 0.48, 0.7).reshape(16, 16, 16, 16).mean(axis=(1, 3))
    coarse = template(shape, 16, 0.51, 0.48, 0.7)
    assert np.abs(fine - coarse).max() < 0.2
    assert np.abs(fine - coarse).mean() < 0.01


def test_shapes_differ_at_the_smallest_size() -> None:
    """At 4 px no shape, at any sub-pixel offset, looks like another: mean cover difference over the bounding square."""
    offsets = np.linspace(-0.5, 0.5, 5)
    drawn = {
        shape: np.stack([template(shape, 8, 0.5 + x / 8, 0.5 + y / 8, 0.5) for x in offsets for y in offsets])
        for shape in SHAPES
    }
    for a, b in itertools.combinations(SHAPES, 2):
        assert np.abs(drawn[a] - drawn[b]).sum(axis=(1, 2)).min() / 16 > 0.1


def test_colours_are_well_apart() -> None:
    colours = np.array([*PALETTE.values(), BACKGROUND], dtype=float)
    for a, b in itertools.combinations(colours, 2):
        assert np.linalg.norm(a - b) > 100


def test_relative_position_is_genevals_rule() -> None:
    def at(x: float, y: float) -> SceneObject:
        return SceneObject("circle", "red", x, y, 0.2)

    middle = at(0.5, 0.5)
    assert relative_position(at(0.1, 0.5), middle) == {"left of"}
    assert relative_position(at(0.9, 0.5), middle) == {"right of"}
    assert relative_position(at(0.5, 0.1), middle) == {"above"}
    assert relative_position(at(0.1, 0.9), middle) == {"left of", "below"}
    assert relative_position(at(0.53, 0.5), middle) == frozenset()  # closer than a tenth of the sizes


def test_training_and_validation_use_different_indices() -> None:
    streams = [validation_indices(1000), train_indices(0, 0, 1000), train_indices(1, 0, 1000)]
    streams.append(train_indices(0, 2**40 - 1000, 1000))  # the very end of a stream
    streams.append(train_indices(2**23 - 1, 2**40 - 1000, 1000))
    assert len(np.unique(np.concatenate(streams))) == 5000
    for seed, first in ((2**23, 0), (0, 2**40)):
        with pytest.raises(ValueError, match="2\\^23 seeds"):
            train_indices(seed, first, 1)


def test_a_scene_can_be_built_by_hand() -> None:
    scene = Scene((SceneObject("square", "red", 0.5, 0.5, 0.5),), "a red square", None)
    image = (render([scene], 8)[0] + 1) * 127.5
    assert np.allclose(image[:, 2:6, 2:6].transpose(1, 2, 0), PALETTE["red"], atol=1e-3)
    assert np.allclose(image[:, [0, 1, 6, 7]].transpose(1, 2, 0), BACKGROUND, atol=1e-3)
    assert render([], 8).shape == (0, 3, 8, 8)
    assert Relation("above", (0,), (1,)) == Relation("above", (0,), (1,))


def fingerprint() -> str:
    batch = load(ShapesData(name="shapes")).train(0, 0, 64)
    pixels = np.floor((batch.images + 1) * 127.5 + 0.5 + 1e-3).astype(np.uint8)  # off the ties of a last-bit change
    return hashlib.sha256(pixels.tobytes() + "\n".join(batch.captions).encode()).hexdigest()


def test_golden_batch() -> None:
    assert fingerprint() == GOLDEN


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_another_process_makes_the_same_batch(hash_seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import test_data_shapes; print(test_data_shapes.fingerprint())"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        cwd=os.path.dirname(__file__),
    )
    assert done.stdout.strip() == fingerprint()
