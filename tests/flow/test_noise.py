"""The noise: Philox against its published vectors, and pure functions of (seed, stream, step, sample)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rfscale.flow.noise import Stream, normal, philox, stratified, uniform

MASK = 0xFFFFFFFF


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def philox_by_integers(counter: Sequence[int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 as Salmon et al. (SC 2011) write it, in Python's exact integers."""
    left_high, left_low, right_high, right_low = counter[1], counter[0], counter[3], counter[2]
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * left_low, 0xCD9E8D57 * right_low
        left_low, left_high = (second >> 32) ^ left_high ^ k0, second & MASK
        right_low, right_high = (first >> 32) ^ right_high ^ k1, first & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return left_low, left_high, right_low, right_high


# --- the generator ----------------------------------------------------------------------------------------------------


# The known-answer vectors for philox4x32 with 10 rounds of Random123 (file kat_vectors).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    words = tuple(torch.tensor(int(word, 16)) for word in counter.split())
    low, high = (int(word, 16) for word in key.split())
    assert " ".join(f"{int(word):08x}" for word in philox(words, (low, high))) == answer


def test_philox_equals_exact_integers_for_whole_tensors() -> None:
    generator = np.random.default_rng(0)
    counters = generator.integers(0, 2**32, size=(500, 4))
    counters[:8] |= 0x80000000  # products that wrap into the sign bit of int64
    key = (0xDEADBEEF, 0xFFFFFFFE)
    found = torch.stack(philox(tuple(torch.from_numpy(counters).unbind(1)), key), dim=1)
    assert found.tolist() == [list(philox_by_integers(row, key)) for row in counters.tolist()]


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 7, 2**63 - 1])
@pytest.mark.parametrize("stream", list(Stream))
def test_uniform_is_the_first_word_of_its_own_counter(seed: int, stream: Stream) -> None:
    step, first = 123_456, 2**31
    found = uniform(seed, stream, step, first, 3)
    expected = [
        (philox_by_integers((0, first + i, step, int(stream)), (seed & MASK, seed >> 32))[0] + 0.5) / 2**32
        for i in range(3)
    ]
    assert found.dtype == torch.float64
    assert found.tolist() == expected


def test_normal_is_box_muller_of_the_words() -> None:
    """Two words make two numbers: (radius cos, radius sin), the cosines of a block of four words first."""
    size, seed, step, first = 10, 3, 5, 100
    found = normal(seed, Stream.NOISE, step, first, 4, (size,)).double()
    for i in range(4):
        expected = []
        for block in range(3):
            words = philox_by_integers((block, first + i, step, 0), (seed, 0))
            unit = [(float(np.float32(word)) + 0.5) / 2**32 for word in words]
            radius = [math.sqrt(-2 * math.log(x)) for x in unit[0::2]]
            angle = [2 * math.pi * x for x in unit[1::2]]
            expected += [r * math.cos(x) for r, x in zip(radius, angle, strict=True)]
            expected += [r * math.sin(x) for r, x in zip(radius, angle, strict=True)]
        assert found[i].tolist() == pytest.approx(expected[:size], abs=3e-6)


def test_streams_keep_their_numbers() -> None:
    """They are part of every result, stored or published."""
    assert {stream.name: int(stream) for stream in Stream} == {
        "NOISE": 0,
        "LEVEL": 1,
        "TEXT_DROPOUT": 2,
        "VALIDATION": 3,
        "GENERATION": 4,
        "ENCODER_DROPOUT": 5,
        "LATENT": 6,
    }


def test_golden_digests() -> None:
    """The words are integers and the uniforms exact in float64, so the bytes are the same on every machine."""
    numbers = torch.cat(
        [uniform(11, stream, step, 17, 64) for stream in list(Stream)[:5] for step in (0, 1, 1_000_000)]
        + [stratified(11, step, 64) for step in (0, 1, 1_000_000)]
    )
    digest = hashlib.sha256(numbers.numpy().astype("<f8").tobytes()).hexdigest()
    assert digest == "e162fb6d08ab29ea5cb052104c9bc112b53ab59da74de0a0a8b4c9d9f89fb6c2"


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed {seed} is outside 0 \.\. 2\^63 - 1; choose"):
        uniform(seed, Stream.NOISE, 0, 0, 1)


# --- the distribution -------------------------------------------------------------------------------------------------


def test_the_smallest_word_gives_the_largest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """sqrt(-2 ln 2^-33) = 6.76: a word of zeros stands for half a grid step. The largest word gives 0."""
    for word, radius in ((0, math.sqrt(66 * math.log(2))), (MASK, 0.0)):
        zeros = torch.zeros(1, 1, 4, dtype=torch.int64)
        zeros[..., 0::2] = word
        monkeypatch.setattr("rfscale.flow.noise._words", lambda *_, words=zeros: words)
        assert normal(0, Stream.NOISE, 0, 0, 1, (4,)).tolist() == [pytest.approx([radius, radius, 0, 0], abs=1e-6)]


def test_normal_numbers_are_standard_normal() -> None:
    x = normal(1, Stream.NOISE, 0, 0, 500, (3, 8, 8)).double().flatten().numpy()
    n = len(x)
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    assert np.isfinite(x).all()


def test_pairs_of_box_muller_are_uncorrelated() -> None:
    """Within a block of four, of the numbers and of their squares: the two of a pair share a radius."""
    x = normal(2, Stream.NOISE, 0, 0, 40_000, (4,)).double()
    for values in (x, x.square()):
        correlation = torch.corrcoef(values.T) - torch.eye(4)
        assert correlation.abs().max() < 4.5 / math.sqrt(len(x))


def test_uniform_numbers_are_uniform_and_never_0_or_1() -> None:
    u = uniform(1, Stream.TEXT_DROPOUT, 3, 0, 50_000)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert float(u.min()) > 0
    assert float(u.max()) < 1


def test_streams_steps_samples_and_seeds_are_uncorrelated() -> None:
    shape, count = (4, 8, 8), 40
    draws = [
        normal(5, Stream.NOISE, 10, 0, count, shape),
        *(normal(5, stream, 10, 0, count, shape) for stream in Stream if stream is not Stream.NOISE),
        normal(5, Stream.NOISE, 11, 0, count, shape),  # the next step
        normal(5, Stream.NOISE, 10, count, count, shape),  # the next samples
        normal(5, Stream.NOISE, 10, 1, count, shape).flip(0),
        normal(6, Stream.NOISE, 10, 0, count, shape),  # the next seed
        normal(5 + 2**32, Stream.NOISE, 10, 0, count, shape),  # a seed that differs in its high word
    ]
    rows = torch.stack([draw.flatten() for draw in draws]).double()
    off_diagonal = torch.corrcoef(rows) - torch.eye(len(rows))
    assert off_diagonal.abs().max() < 4.5 / math.sqrt(rows.shape[1])


# --- a pure function of (seed, stream, step, sample) ------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (3, 16, 16)])
def test_any_slice_of_the_normals_is_the_slice_of_the_whole(shape: tuple[int, ...]) -> None:
    whole = normal(4, Stream.NOISE, 9, 0, 64, shape)
    assert whole.shape == (64, *shape)
    assert whole.dtype == torch.float32
    for first, count in ((0, 64), (0, 1), (1, 1), (5, 7), (31, 33), (63, 1), (10, 0)):
        assert torch.equal(normal(4, Stream.NOISE, 9, first, count, shape), whole[first : first + count])


def test_any_slice_of_the_uniforms_is_the_slice_of_the_whole() -> None:
    whole, levels = uniform(4, Stream.LEVEL, 9, 0, 64), stratified(4, 9, 64)
    for first, count in ((0, 64), (3, 5), (63, 1)):
        assert torch.equal(uniform(4, Stream.LEVEL, 9, first, count), whole[first : first + count])
        assert torch.equal(stratified(4, 9, 64, first, count), levels[first : first + count])
    assert torch.equal(stratified(4, 9, 64, 40), levels[40:])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_bits_do_not_depend_on_the_number_of_threads(count: int, threads: None) -> None:
    def draw() -> list[Tensor]:
        return [normal(1, Stream.NOISE, 2, 3, 101, (3, 33, 31)), stratified(1, 2, 200_003)]

    torch.set_num_threads(1)
    alone = draw()
    torch.set_num_threads(count)
    for one, many in zip(alone, draw(), strict=True):
        assert torch.equal(one, many)


# --- stratified levels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 1024])
def test_exactly_one_level_falls_into_each_stratum(batch: int) -> None:
    for step in range(20):
        u = stratified(3, step, batch)
        assert u.dtype == torch.float64
        assert (u * batch).floor().tolist() == list(range(batch))


def test_levels_are_uniform_within_their_strata_and_over_all() -> None:
    batch = 16
    u = torch.stack([stratified(3, step, batch) for step in range(1000)])
    within = u * batch - torch.arange(batch)
    assert stats.kstest(within.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(u[:, 5].numpy(), stats.uniform(5 / batch, 1 / batch).cdf).pvalue > 1e-3
    assert (torch.corrcoef(within.T) - torch.eye(batch)).abs().max() < 4.5 / math.sqrt(len(u))
    # The mean of a stratified batch varies 1 / batch^2 times as much as a single u does: 1/12 / batch^3.
    assert float(u.mean(1).var()) == pytest.approx(1 / 12 / batch**3, rel=0.15)


def test_levels_are_the_level_stream_of_their_step() -> None:
    u = stratified(3, 8, 32)
    assert torch.allclose(u * 32 - torch.arange(32), uniform(3, Stream.LEVEL, 8, 0, 32), atol=1e-13, rtol=0)
    assert not torch.equal(u, stratified(3, 9, 32))
    assert not torch.equal(u, stratified(4, 8, 32))
