"""The glyphs world: words that captions spell truly, pictures made of the font alone, and words kept from training."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from rfscale.data import Captioned, DataSpec, GlyphsData, TextSpec, load, load_text_encoder
from rfscale.data.endless import BACKGROUND, COLOURS, PALETTE, train_indices, validation_indices
from rfscale.data.font import ALPHABET, BITMAPS, LETTER_HEIGHT, LETTER_WIDTH
from rfscale.data.glyphs import GRID, PITCH, STEP, Scene, draw, is_reserved, render, scenes
from rfscale.data.text import words
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import parse_sweep

# One batch of each split and their captions, in 8 bits; made by this code, whose pictures were looked at. A change here
# means that old trials and new ones saw different data.
GOLDEN = "0916bf573b6bae31b9a800b9ffc9005c522c392b6cd74da51fedd6875842f258"


@pytest.fixture(scope="module")
def held_out() -> list[Scene]:
    return scenes(validation_indices(4000))


@pytest.fixture(scope="module")
def trained() -> list[Scene]:
    return scenes(train_indices(0, 0, 20_000))


def pixels(batch: Captioned) -> np.ndarray:
    return np.floor((batch.images + 1) * 127.5 + 0.5).astype(np.uint8)


# --- the font ---------------------------------------------------------------------------------------------------------


def test_every_letter_touches_all_sides_of_its_box() -> None:
    """Else a word could stand at two places, or be as long as another, with the same ink."""
    assert BITMAPS.shape == (26, LETTER_HEIGHT, LETTER_WIDTH)
    assert BITMAPS[:, [0, -1], :].any(axis=2).all()
    assert BITMAPS[:, :, [0, -1]].any(axis=1).all()


def test_letters_differ_in_two_cells() -> None:
    for a, b in itertools.combinations(BITMAPS, 2):
        assert (a != b).sum() >= 2


# --- scenes and pictures ----------------------------------------------------------------------------------------------


def test_words_lie_inside_and_everything_occurs(trained: list[Scene]) -> None:
    for scene in trained:
        assert 0 <= scene.column <= GRID - (PITCH * len(scene.word) - 1)
        assert 0 <= scene.row <= GRID - LETTER_HEIGHT
        assert scene.column % STEP == scene.row % STEP == 0
    for seen, values in (
        (Counter(len(scene.word) for scene in trained), 4),
        (Counter(scene.colour for scene in trained), len(COLOURS)),
        (Counter("".join(scene.word for scene in trained)), len(ALPHABET)),
        (Counter(scene.row for scene in trained), 3),
        *((Counter(scene.column for scene in trained if len(scene.word) == n), 5 - n) for n in range(1, 5)),
    ):
        expected = seen.total() / values
        assert len(seen) == values
        assert max(abs(count - expected) for count in seen.values()) < 5 * expected**0.5


def test_letters_of_a_word_are_independent(trained: list[Scene]) -> None:
    """Each of the 676 pairs of neighbours is as frequent as any other: no letter can be guessed from the one before."""
    pairs = Counter(a + b for scene in trained for a, b in itertools.pairwise(scene.word))
    expected = pairs.total() / 26**2
    assert len(pairs) == 26**2
    chi_square = sum((count - expected) ** 2 / expected for count in pairs.values())
    # Reserving an eighth of the words makes the counts a little uneven: 5 standard deviations of chi square, and 10 %.
    assert chi_square < 1.1 * 675 + 5 * (2 * 675) ** 0.5


@pytest.mark.parametrize("max_letters", [1, 2, 3, 4])
def test_words_are_as_long_as_the_data_says(max_letters: int) -> None:
    for indices in (validation_indices(300), train_indices(1, 0, 300)):
        assert {len(scene.word) for scene in scenes(indices, max_letters)} == set(range(1, max_letters + 1))


@pytest.mark.parametrize("resolution", [16, 32, 48])
def test_a_picture_is_its_word_and_nothing_else(held_out: list[Scene], resolution: int) -> None:
    """Drawn again from the text art, pixel by pixel."""
    side = resolution // GRID
    for scene, image in zip(held_out[:60], render(held_out[:60], resolution), strict=True):
        expected = np.empty((resolution, resolution, 3), dtype=np.uint8)
        expected[:] = BACKGROUND
        for slot, letter in enumerate(scene.word):
            for y, x in np.argwhere(BITMAPS[ord(letter) - ord("A")]):
                top, left = side * (scene.row + y), side * (scene.column + 4 * slot + x)
                expected[top : top + side, left : left + side] = PALETTE[scene.colour]
        assert np.array_equal(((image + 1) * 127.5).round().transpose(1, 2, 0), expected)


def test_a_scene_can_be_built_by_hand() -> None:
    art = draw(["HI"], [1], [0])[0][:6, :9]
    assert ["".join(".#"[cell] for cell in row) for row in art.astype(int)] == [
        ".#.#.###.",
        ".#.#..#..",
        ".###..#..",
        ".#.#..#..",
        ".#.#.###.",
        ".........",
    ]
    assert Scene("HI", "red", 1, 0).caption == "the word H I in red"
    assert render([], 16).shape == (0, 3, 16, 16)


# --- captions ---------------------------------------------------------------------------------------------------------


def test_captions_spell_the_word_and_name_the_colour(held_out: list[Scene]) -> None:
    batch = load(GlyphsData(name="glyphs")).validation(200)
    assert batch.captions == tuple(scene.caption for scene in held_out[:200])
    for scene in held_out:
        the, word, *letters, preposition, colour = scene.caption.split()
        assert (the, word, preposition, colour) == ("the", "word", "in", scene.colour)
        assert "".join(letters) == scene.word


def test_the_text_encoder_sees_every_letter_at_its_place() -> None:
    """A letter is a token, at the same place whatever stands around it; and captions are not cut."""
    encoder = load_text_encoder(TextSpec())
    captions = [Scene(word, "red", 0, 0).caption for word in ("CAT", "DAG", "A", "WXYZ")]
    tokens, _ = encoder.encode(captions)
    assert encoder.truncated(captions) == 0
    assert words(captions[0]) == ["the", "word", "c", "a", "t", "in", "red"]
    assert np.array_equal(tokens[0, 3], tokens[1, 3])
    assert not np.array_equal(tokens[0, 2], tokens[1, 2])


def test_no_letter_is_a_word_of_the_caption() -> None:
    """`a` in `a word` would be the letter A to the text encoder."""
    assert all(len(word) > 1 for colour in COLOURS for word in words(Scene("", colour, 0, 0).caption))


# --- the split --------------------------------------------------------------------------------------------------------


def test_held_out_words_of_three_letters_are_never_trained(held_out: list[Scene], trained: list[Scene]) -> None:
    long = {scene.word for scene in held_out if len(scene.word) > 2}
    assert len(long) > 1000
    for seed in range(3):
        assert long.isdisjoint(scene.word for scene in scenes(train_indices(seed, 5000, 20_000)))
    # An eighth of the 26^3 words: as many distinct ones as 1000 draws from 2197 give.
    three = [scene.word for scene in held_out if len(scene.word) == 3]
    expected = 26**3 / 8 * (1 - (1 - 8 / 26**3) ** len(three))
    assert len(set(three)) == pytest.approx(expected, rel=0.08)
    # Short words stand on both sides.
    assert {s.word for s in held_out if len(s.word) == 1} == {s.word for s in trained if len(s.word) == 1}


def test_training_never_shows_a_held_out_picture(held_out: list[Scene], trained: list[Scene]) -> None:
    assert set(held_out).isdisjoint(trained)
    short = [scene for scene in held_out if len(scene.word) == 1]
    assert len(short) > 800  # of the 2496 pictures that 5000 trained ones would nearly all hold


def test_an_eighth_is_reserved() -> None:
    letters = np.stack(np.unravel_index(np.arange(26**3), (26, 26, 26)), axis=1)
    drawn = np.zeros((26**3, 8), dtype=np.int64)
    drawn[:, :3] = letters
    reserved = is_reserved(drawn, np.full(26**3, 3))
    assert reserved.mean() == pytest.approx(1 / 8, abs=5 * (7 / 64 / 26**3) ** 0.5)
    drawn[:, 4:7] = 1  # the place does not matter for a word of three letters, but for shorter ones
    assert np.array_equal(is_reserved(drawn, np.full(26**3, 3)), reserved)
    a_letter = np.zeros((100, 8), dtype=np.int64)
    a_letter[:, 4:7] = np.random.default_rng(0).integers(0, 8, (100, 3))
    assert 0 < is_reserved(a_letter, np.ones(100, dtype=np.int64)).sum() < 40


def test_a_scene_is_a_function_of_its_index_alone() -> None:
    indices = np.concatenate([validation_indices(50), train_indices(3, 7, 50)])
    whole = scenes(indices)
    shuffled = np.random.default_rng(0).permutation(100)
    assert [whole[i] for i in shuffled] == scenes(indices[shuffled])
    assert [scenes([index])[0] for index in indices.tolist()] == whole


def test_batches_keep_the_promises_of_a_data_set() -> None:
    dataset = load(GlyphsData(name="glyphs", resolution=32))
    whole = dataset.train(1, 10, 40)
    assert whole.images.shape == (40, 3, 32, 32)
    assert whole.images.dtype == np.float32
    assert -1 <= whole.images.min() < whole.images.max() <= 1
    parts = dataset.train(1, 10, 7), dataset.train(1, 17, 33)
    assert np.array_equal(np.concatenate([part.images for part in parts]), whole.images)
    assert parts[0].captions + parts[1].captions == whole.captions
    assert dataset.train(0, 0, 0).images.shape == (0, 3, 32, 32)
    assert dataset.validation(16).captions[:4] == dataset.validation(4).captions
    assert dataset.train(0, 0, 16).captions != dataset.train(1, 0, 16).captions


def fingerprint() -> str:
    dataset = load(GlyphsData(name="glyphs"))
    digest = hashlib.sha256()
    for batch in (dataset.train(0, 0, 64), dataset.validation(64)):
        digest.update(pixels(batch).tobytes() + "\n".join(batch.captions).encode())
    return digest.hexdigest()


def test_golden_batch() -> None:
    assert fingerprint() == GOLDEN


def test_another_process_makes_the_same_batch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import test_data_glyphs; print(test_data_glyphs.fingerprint())"],
        env={**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        cwd=os.path.dirname(__file__),
    )
    assert done.stdout.strip() == fingerprint()


# --- the specification ------------------------------------------------------------------------------------------------


def test_identity_holds_what_differs_from_the_defaults() -> None:
    assert GlyphsData(name="glyphs").identity() == {"name": "glyphs"}
    spec = GlyphsData(name="glyphs", resolution=32, max_letters=2)
    assert spec.identity() == {"name": "glyphs", "resolution": 32, "max_letters": 2}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resolution", 8),  # too small for four letters
        ("resolution", 24),  # cells of a pixel and a half
        ("resolution", 272),
        ("resolution", "16"),
        ("max_letters", 0),
        ("max_letters", 5),
        ("max_letters", True),
        ("max_leters", 3),
    ],
)
def test_a_wrong_key_or_value_is_one_sentence_that_names_it(tiny: dict[str, Any], key: str, value: object) -> None:
    wrong = {"name": "glyphs", key: value}
    with pytest.raises(ValidationError):
        TypeAdapter(DataSpec).validate_python(wrong)
    with pytest.raises(SweepError) as caught:
        parse_sweep(tiny | {"data": wrong})
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert key in sentence
    if key == "max_leters":
        assert "did you mean 'max_letters'" in sentence
