"""The frozen token embedding: a fixed random code that shows which words stand where."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydantic import ValidationError

from rfscale.data import TextSpec, load_text_encoder
from rfscale.data.text import HashTextEncoder, position_code, word_vector
from rfscale.data.words import words

CAPTION = "a red circle left of a blue square"
# Rounded to multiples of 2^-10 after adding a little, so that a last-bit difference between platforms does not count.
GOLDEN = "0dee08a002a7aa18e8627435a4e8dbad74e8aa4f852cee7fa78cf05ce2f512ae"


@pytest.fixture
def encoder() -> HashTextEncoder:
    return HashTextEncoder(length=16, width=64)


def test_shapes_and_types(encoder: HashTextEncoder) -> None:
    tokens, pooled = encoder.encode([CAPTION, "", "a cat"])
    assert tokens.shape == (3, 16, 64)
    assert pooled.shape == (3, 64)
    assert tokens.dtype == np.float32
    assert pooled.dtype == np.float32
    tokens, pooled = encoder.encode([])
    assert tokens.shape == (0, 16, 64)
    assert pooled.shape == (0, 64)


def test_the_empty_caption_is_all_zeros(encoder: HashTextEncoder) -> None:
    for caption in ("", "  ", "\u200b"):
        tokens, pooled = encoder.encode([caption])
        assert not tokens.any()
        assert not pooled.any()


def test_padding_is_zero_and_words_are_not(encoder: HashTextEncoder) -> None:
    tokens, _ = encoder.encode([CAPTION])
    assert np.abs(tokens[0, :8]).max(axis=1).min() > 0.5
    assert not tokens[0, 8:].any()


def test_words_are_lower_case_without_punctuation() -> None:
    assert words("A red, RED circle -- isn't it?") == ["a", "red", "red", "circle", "isnt", "it"]
    assert words("left_of 2 \ufb01sh, \u00c9t\u00e9") == ["left", "of", "2", "fish", "\u00e9t\u00e9"]


def test_spelling_that_does_not_matter_does_not_matter(encoder: HashTextEncoder) -> None:
    for one, other in zip(encoder.encode(["A red circle."]), encoder.encode(["a  RED, circle"]), strict=True):
        assert np.array_equal(one, other)


def test_word_vectors_are_standard_normal() -> None:
    vectors = np.stack([word_vector(f"word{number}", 64) for number in range(2000)])
    standard_error = vectors.size**-0.5
    assert abs(vectors.mean()) < 5 * standard_error
    assert abs(vectors.var() - 1) < 5 * 2**0.5 * standard_error
    assert abs((vectors**4).mean() - 3) < 5 * 96**0.5 * standard_error
    cosines = vectors @ vectors.T / 64
    assert np.abs(cosines[~np.eye(2000, dtype=bool)]).max() < 1


def test_tokens_and_pooled_have_unit_variance(encoder: HashTextEncoder) -> None:
    captions = [f"{word} {word}s of many kinds" for word in ("cat", "dog", "tree", "house", "river", "bird")]
    tokens, pooled = encoder.encode(captions)
    assert np.square(tokens[:, :5]).mean() == pytest.approx(1, abs=0.15)
    assert np.square(pooled).mean(axis=1) == pytest.approx(np.ones(6), abs=1e-5)


def test_a_token_is_its_word_plus_its_position(encoder: HashTextEncoder) -> None:
    tokens, _ = encoder.encode([CAPTION])
    expected = (word_vector("circle", 64) + position_code(16, 64)[2]) / 2**0.5
    assert np.allclose(tokens[0, 2], expected, atol=1e-6)


def test_positions_are_told_apart() -> None:
    code = position_code(77, 64)
    assert np.square(code).mean(axis=1) == pytest.approx(np.ones(77), abs=1e-5)
    distances = np.square(code[:, None] - code[None]).mean(axis=2)
    assert distances[~np.eye(77, dtype=bool)].min() > 0.05


def test_word_order_shows(encoder: HashTextEncoder) -> None:
    one, other = "a red circle above a blue square", "a blue square above a red circle"
    tokens, pooled = encoder.encode([one, other])
    # As a set, which is all that a permutation-equivariant attention sees:
    nearest = np.abs(tokens[0, :7, None] - tokens[1, None, :7]).mean(axis=2).min(axis=1)
    assert nearest.max() > 0.3
    assert np.abs(pooled[0] - pooled[1]).mean() > 0.2


def test_long_captions_are_cut_and_counted(encoder: HashTextEncoder) -> None:
    sixteen = " ".join(f"w{number}" for number in range(16))
    for one, other in zip(encoder.encode([sixteen]), encoder.encode([sixteen + " more"]), strict=True):
        assert np.array_equal(one, other)
    assert encoder.truncated([sixteen, sixteen + " more", "", sixteen + " still more"]) == 2


def test_a_caption_does_not_depend_on_its_batch(encoder: HashTextEncoder) -> None:
    captions = [f"a {size} {colour} cat" for size in ("small", "large") for colour in ("red", "blue", "pink")]
    together = encoder.encode(captions)
    fresh = HashTextEncoder(16, 64)
    for number in reversed(range(len(captions))):
        for part, whole in zip(fresh.encode([captions[number]]), together, strict=True):
            assert np.array_equal(part[0], whole[number])


def test_caches_are_bounded_and_forgetting_changes_nothing(
    encoder: HashTextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = [f"word{number} and word{number + 1}" for number in range(500)]
    expected = encoder.encode(captions)
    monkeypatch.setattr(HashTextEncoder, "_MAX_VECTORS", 50)
    small = HashTextEncoder(16, 64)
    for number, caption in enumerate(captions):
        for part, whole in zip(small.encode([caption]), expected, strict=True):
            assert np.array_equal(part[0], whole[number])
        assert len(small._rows) < 70


def test_threads_may_share_an_encoder(encoder: HashTextEncoder) -> None:
    captions = [[f"w{i * j} x{j} y{i}" for j in range(10)] for i in range(50)]
    interval = sys.getswitchinterval()
    expected = [HashTextEncoder(16, 64).encode(part) for part in captions]
    sys.setswitchinterval(1e-6)  # interrupt threads as often as possible
    try:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(encoder.encode, captions))
    finally:
        sys.setswitchinterval(interval)
    for found, truth in zip(results, expected, strict=True):
        assert np.array_equal(found[0], truth[0])
        assert np.array_equal(found[1], truth[1])


def test_the_specification_chooses_the_encoder() -> None:
    spec = TextSpec(length=8, width=32)
    encoder = load_text_encoder(spec)
    assert (encoder.length, encoder.width, encoder.pooled_width) == (8, 32, spec.pooled_width)
    assert TextSpec() == TextSpec(encoder="hash", length=16, width=64)
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize("wrong", [{"encoder": "clip"}, {"length": 0}, {"width": 63}, {"widht": 64}, {"width": "64"}])
def test_wrong_specifications_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TextSpec.model_validate(wrong)


def fingerprint() -> str:
    tokens, pooled = HashTextEncoder(16, 64).encode([CAPTION])
    rounded = np.floor(np.concatenate([tokens.ravel(), pooled.ravel()]) * 1024 + 0.25).astype(np.int32)
    return hashlib.sha256(rounded.tobytes()).hexdigest()


def test_golden_caption() -> None:
    assert fingerprint() == GOLDEN


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_another_process_encodes_the_same(hash_seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import test_text; print(test_text.fingerprint())"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        cwd=os.path.dirname(__file__),
    )
    assert done.stdout.strip() == fingerprint()


def test_two_encoders_give_two_readings_one_after_the_other() -> None:
    spec = TextSpec(length=10, width=32, encoders=2)
    assert (spec.parts, spec.pooled_width) == ((10, 10), 64)
    encoder = load_text_encoder(spec)
    assert (encoder.length, encoder.width, encoder.pooled_width) == (20, 32, 64)
    tokens, pooled = encoder.encode([CAPTION, "", "a cat"])
    first_tokens, first_pooled = HashTextEncoder(10, 32).encode([CAPTION, "", "a cat"])
    assert np.array_equal(tokens[:, :10], first_tokens)
    assert np.array_equal(pooled[:, :32], first_pooled)
    assert not tokens[1].any()
    assert not pooled[1].any()
    assert np.square(pooled[[0, 2], 32:]).mean(axis=1) == pytest.approx(np.ones(2), abs=1e-5)
    second = tokens[0, 10:18]  # of the 8 words: other vectors, the same positions
    assert np.abs(second - tokens[0, :8]).max(axis=1).min() > 0.5
    expected = (word_vector("circle", 32, salt=1) + position_code(10, 32)[2]) / 2**0.5
    np.testing.assert_allclose(second[2], expected, atol=1e-6)


def test_the_word_vectors_of_two_encoders_have_nothing_in_common() -> None:
    words = [f"word{number}" for number in range(500)]
    one, other = (np.stack([word_vector(word, 64, salt) for word in words]) for salt in (0, 1))
    assert abs((one * other).mean()) < 5 / 32_000**0.5
    assert abs(other.var() - 1) < 5 * (2 / 32_000) ** 0.5


def test_one_encoder_is_what_it_was_and_keeps_its_id() -> None:
    assert TextSpec(encoders=1).identity() == {}
    assert TextSpec(encoders=2).identity() == {"encoders": 2}
    assert isinstance(load_text_encoder(TextSpec()), HashTextEncoder)


def test_two_encoders_count_a_caption_once() -> None:
    encoder = load_text_encoder(TextSpec(length=8, encoders=2))
    captions = [CAPTION, CAPTION + " again", ""]
    assert encoder.truncated(captions) == 1
    assert encoder.unread(captions) == 1
