"""The judge of the glyphs world, itself judged: what it reads of true, spoilt and meaningless pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from rfscale import names
from rfscale.data import GlyphsData, ShapesData, load
from rfscale.data.base import FloatArray
from rfscale.data.endless import BACKGROUND, signed_unit, validation_indices
from rfscale.data.glyphs import Scene, render, scenes
from rfscale.judges import GlyphsJudge, JudgeError, Score, load_judge
from rfscale.judges.glyphs import judge as judge_module
from rfscale.judges.glyphs.judge import grade, letters_in_place, read

GROUND = signed_unit(BACKGROUND)[:, None, None]


@pytest.fixture(scope="module")
def world() -> list[Scene]:
    return scenes(validation_indices(2000))


@pytest.fixture(scope="module")
def images(world: list[Scene]) -> FloatArray:
    return render(world, 16)


def spelled(images: FloatArray, world: Sequence[Scene]) -> float:
    """Share of pictures whose word is read exactly."""
    return float(np.mean([a == scene.word for a, scene in zip(read(images), world, strict=True)]))


def noise(images: FloatArray, deviation: float) -> FloatArray:
    normal = np.random.default_rng(0).standard_normal(images.shape)
    return (images + deviation * normal).astype(np.float32)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_true_renders_are_read_exactly(world: list[Scene], resolution: int) -> None:
    count = 2000 if resolution < 64 else 200
    assert spelled(render(world[:count], resolution), world[:count]) == 1.0


@pytest.mark.parametrize(("deviation", "least"), [(0.1, 0.999), (0.2, 0.99), (0.3, 0.95)])
def test_mild_noise_does_no_harm(images: FloatArray, world: list[Scene], deviation: float, least: float) -> None:
    assert spelled(noise(images, deviation), world) >= least


def test_mild_blur_and_half_drawn_ink_do_no_harm(images: FloatArray, world: list[Scene]) -> None:
    assert spelled(ndimage.gaussian_filter(images, (0, 0, 0.5, 0.5)), world) >= 0.99
    assert spelled((0.6 * (images - GROUND) + GROUND).astype(np.float32), world) >= 0.99
    assert spelled(images[:, [1, 2, 0]], world) >= 0.99  # other colours, the same words


def test_spoiling_a_picture_never_helps(images: FloatArray, world: list[Scene]) -> None:
    for spoil in (
        [noise(images, deviation) for deviation in (0.0, 0.3, 0.4, 0.5)],
        [ndimage.gaussian_filter(images, (0, 0, width, width)) for width in (0.5, 0.7, 0.9, 1.2)],
    ):
        shares = [spelled(spoilt, world) for spoilt in spoil]
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] < 0.2


def test_pictures_without_a_word_hold_none(images: FloatArray) -> None:
    for empty in (
        noise(np.zeros_like(images), 1.0),
        np.random.default_rng(0).uniform(-1, 1, images.shape).astype(np.float32),
        np.broadcast_to(GROUND, images.shape).copy(),
        np.ones_like(images),
        np.full_like(images, np.nan),
        np.full_like(images, np.inf),
    ):
        assert sum(word != "" for word in read(empty)) <= 2


def test_each_letter_is_read_in_its_own_colour() -> None:
    """A picture whose letters have changed colour still spells its word."""
    parts = [
        render([Scene(letter, colour, 1 + 4 * i, 6)], 16)
        for i, (letter, colour) in enumerate(zip("WORD", ("red", "white", "purple", "green"), strict=True))
    ]
    assert read(sum(part - GROUND for part in parts) + GROUND) == ["WORD"]


def test_two_thirds_of_a_word_is_not_the_word() -> None:
    image = render([Scene("CAT", "white", 2, 3)], 16)
    image[:, :, :, 10:] = GROUND
    assert read(image) == ["CA"]


def test_a_stray_blot_does_not_lengthen_a_word() -> None:
    image = render([Scene("GO", "yellow", 0, 5)], 16)
    image[0, :, 7, 9:11] = render([Scene("I", "yellow", 0, 0)], 16)[0, :, 0, :2]
    assert read(image) == ["GO"]


# --- grading ----------------------------------------------------------------------------------------------------------


def test_letters_count_at_their_place_from_the_left() -> None:
    assert [letters_in_place(a, "CAT") for a in ("CAT", "CA", "CATS", "AT", "TAC", "")] == [3, 2, 3, 0, 1, 0]


def test_grades_of_a_hand_made_list() -> None:
    spelling, letters = grade(["CAT", "DO", "", "XAX"], ["CAT", "DOG", "I", "MAX"])
    assert (spelling.name, letters.name) == ("spelling", "letters")
    assert {spelling.name, letters.name} <= names.QUALITY.keys()
    assert spelling.value == 1 / 4
    assert letters.value == (3 + 2 + 0 + 2) / (3 + 3 + 1 + 3)


def test_no_error_is_nothing() -> None:
    for words in (["AB"] * 50, ["XY"] * 50):
        assert all(score.se > 1e-3 for score in grade(words, ["AB"] * 50))


def test_the_error_of_letters_is_that_of_repeated_experiments() -> None:
    """Words right or wrong as a whole: letters are not independent, and the error must know it."""
    generator = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(400):
        words = ["ABCD"[:n] for n in generator.integers(1, 5, 100)]
        readings = [word if right else "" for word, right in zip(words, generator.random(100) < 0.4, strict=True)]
        _, letters = grade(readings, words)
        values.append(letters.value)
        errors.append(letters.se)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)


# --- the judge --------------------------------------------------------------------------------------------------------


def scored(
    judge_images: int, draw: str, tmp_path: Path, resolution: int = 16, max_letters: int = 4
) -> dict[str, Score]:
    """Scores of a network that draws `true` images, those of `shuffled` captions, or `noise`."""
    data = GlyphsData(name="glyphs", resolution=resolution, max_letters=max_letters)
    judge = load_judge(GlyphsJudge(images=judge_images), data, tmp_path)

    def generate(captions: Sequence[str]) -> FloatArray:
        truth = load(data).validation(judge_images)
        assert tuple(captions) == truth.captions
        if draw == "noise":
            return noise(np.zeros_like(truth.images), 1.0)
        return truth.images if draw == "true" else np.roll(truth.images, 1, axis=0)

    return {score.name: score for score in judge.score(generate)}


@pytest.mark.parametrize(("resolution", "max_letters"), [(16, 4), (32, 4), (16, 1)])
def test_true_images_score_one_and_so_does_the_ceiling(tmp_path: Path, resolution: int, max_letters: int) -> None:
    for score in scored(200, "true", tmp_path, resolution, max_letters).values():
        assert score.value == score.ceiling == 1.0
        assert 0 < score.se < 0.01


def test_images_of_other_captions_score_chance(tmp_path: Path) -> None:
    """By chance two words are equal when both have one letter, and the same: 1/4 x 1/4 x 1/26, and little more.

    The k-th letter is there in (5 - k) / 4 of the captions and of the words read; where both have it, one in 26 agrees.
    """
    n = 2000
    scores = scored(n, "shuffled", tmp_path)
    expected = sum(1 / 16 / 26**k for k in range(1, 5))
    assert abs(scores["spelling"].value - expected) < 5 * (expected / n) ** 0.5
    reach = np.array([1, 3 / 4, 2 / 4, 1 / 4])
    assert scores["letters"].value == pytest.approx(np.square(reach).sum() / reach.sum() / 26, abs=0.012)


def test_noise_scores_nothing_with_an_error(tmp_path: Path) -> None:
    for score in scored(200, "noise", tmp_path).values():
        assert score.value == 0.0
        assert score.ceiling == 1.0
        assert 0 < score.se < 0.01


def test_the_identity_is_plain_json_and_names_the_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = GlyphsData(name="glyphs")
    judge = load_judge(GlyphsJudge(images=8), data, tmp_path)
    identity = judge.identity
    assert json.loads(json.dumps(identity)) == identity
    assert judge.label == "glyphs-8"
    assert load_judge(GlyphsJudge(images=8), data, tmp_path).identity == identity
    monkeypatch.setattr(judge_module, "BITMAPS", ~judge_module.BITMAPS)
    assert load_judge(GlyphsJudge(images=8), data, tmp_path).identity != identity
    assert not list(tmp_path.iterdir())


def test_a_judge_that_cannot_read_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    font = judge_module._FONT.copy()
    font[[0, 1]] = font[[1, 0]]  # takes A for B
    monkeypatch.setattr(judge_module, "_FONT", font)
    with pytest.raises(
        JudgeError, match=r"reads \d\d\.\d% of 2000 true renders of 16 pixels exactly and must read 99.5%"
    ):
        load_judge(GlyphsJudge(), GlyphsData(name="glyphs"), tmp_path)


def test_other_data_and_other_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="cannot score data `shapes`"):
        load_judge(GlyphsJudge(), ShapesData(name="shapes"), tmp_path)
    judge = load_judge(GlyphsJudge(images=4), GlyphsData(name="glyphs"), tmp_path)
    with pytest.raises(JudgeError, match=r"was given images of shape \(4, 3, 8, 8\); it needs \(4, 3, 16, 16\)"):
        list(judge.score(lambda captions: np.zeros((len(captions), 3, 8, 8), dtype=np.float32)))
