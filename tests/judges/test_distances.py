"""FID, KID and FID-infinity: known values, torchmetrics on the same features, and errors that simulations confirm."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from rfscale import names
from rfscale.judges import JudgeError
from rfscale.judges.distances import distances, fid, fid_infinity, kid

Array = npt.NDArray[np.float64]


class Same(torch.nn.Module):
    """A feature extractor for torchmetrics that is given features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def gaussian(
    rng: np.random.Generator, n: int, d: int, decay: float = 1.0, shift: float = 0.0, scale: float = 1.0
) -> Array:
    """Independent normal features whose variances fall like those of a real network's."""
    return np.asarray((rng.standard_normal((n, d)) * scale + shift) * np.arange(1, d + 1) ** (-decay / 2))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(300, 500, 16), (40, 60, 50)])
def test_fid_agrees_with_torchmetrics(rng: np.random.Generator, n: int, m: int, d: int) -> None:
    x, y = gaussian(rng, n, d, shift=0.3) @ rng.standard_normal((d, d)), gaussian(rng, m, d) @ rng.random((d, d))
    metric = FrechetInceptionDistance(feature=Same(d)).set_dtype(torch.float64)
    metric.update(torch.from_numpy(y), real=True)
    metric.update(torch.from_numpy(x), real=False)
    assert fid(x, y) == pytest.approx(metric.compute().item(), rel=1e-4)


def test_kid_agrees_with_torchmetrics(rng: np.random.Generator) -> None:
    x, y = gaussian(rng, 120, 24, shift=0.4), gaussian(rng, 120, 24)
    metric = KernelInceptionDistance(feature=Same(24), subsets=1, subset_size=120).set_dtype(torch.float64)
    metric.update(torch.from_numpy(y), real=True)
    metric.update(torch.from_numpy(x), real=False)
    assert kid(x, y)[0] == pytest.approx(metric.compute()[0].item(), rel=1e-4)


def test_kid_of_sets_of_other_sizes_is_the_mean_over_pairs(rng: np.random.Generator) -> None:
    x, y = gaussian(rng, 5, 3), gaussian(rng, 7, 3, shift=1.0)

    def k(a: Array, b: Array) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within_x = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y)[0] == pytest.approx(within_x + within_y - 2 * between)


def with_moments(rng: np.random.Generator, n: int, mean: Array, root: Array) -> Array:
    """Features whose sample mean is `mean` and whose sample covariance is root root^T, exactly."""
    x = rng.standard_normal((n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)).T)
    return np.asarray(x @ root.T + mean)


def test_fid_of_known_gaussians(rng: np.random.Generator) -> None:
    """With S_x = Q A Q^T and S_y = Q B Q^T the distance is |mu_x - mu_y|^2 + sum (sqrt a - sqrt b)^2."""
    q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    a, b = rng.uniform(0.1, 4.0, 6), rng.uniform(0.1, 4.0, 6)
    mean_x, mean_y = rng.standard_normal(6), rng.standard_normal(6)
    x = with_moments(rng, 50, mean_x, q * np.sqrt(a))
    y = with_moments(rng, 80, mean_y, q * np.sqrt(b))
    expected = ((mean_x - mean_y) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert fid(x, y) == pytest.approx(expected, rel=1e-10)


def test_fid_with_fewer_images_than_features_is_that_of_the_space_they_span(rng: np.random.Generator) -> None:
    low_x, low_y = gaussian(rng, 30, 5, shift=0.2), gaussian(rng, 25, 5)
    q, _ = np.linalg.qr(rng.standard_normal((90, 5)))
    expected = fid(low_x, low_y)  # n > d
    assert fid(low_x @ q.T, low_y @ q.T) == pytest.approx(expected, rel=1e-9)  # n < d and of rank 5


@pytest.mark.parametrize(("n", "d"), [(60, 8), (20, 64)])
def test_identical_sets(rng: np.random.Generator, n: int, d: int) -> None:
    x = gaussian(rng, n, d)
    assert fid(x, x[::-1]) == pytest.approx(0.0, abs=1e-10)


def test_symmetric(rng: np.random.Generator) -> None:
    x, y = gaussian(rng, 60, 8, shift=0.5), gaussian(rng, 90, 8)
    assert fid(x, y) == pytest.approx(fid(y, x), rel=1e-12)
    for score, swapped in zip(distances(x, y), distances(y, x), strict=True):
        if score.name != "fid_infinity":  # which parts stand together depends on the order
            assert (score.value, score.se) == pytest.approx((swapped.value, swapped.se), rel=1e-9)


def test_fid_infinity_takes_the_bias_off(rng: np.random.Generator) -> None:
    """At n = 1000 from one distribution, FID is far from its true value, 0, and FID-infinity is within its error."""
    x, y = gaussian(rng, 1000, 48, decay=0.0), gaussian(rng, 1000, 48, decay=0.0)
    value, se = fid_infinity(x, y)
    assert value < fid(x, y)
    assert abs(value) < 3 * se
    assert fid(x, y) > 8 * se


def test_fid_infinity_of_far_gaussians(rng: np.random.Generator) -> None:
    x, y = gaussian(rng, 800, 16, decay=0.0, shift=0.5, scale=1.5), gaussian(rng, 1600, 16, decay=0.0)
    value, se = fid_infinity(x, y)
    assert abs(value - 16 * (0.25 + 0.25)) < 3 * se


def test_fid_infinity_is_the_intercept_over_the_parts(rng: np.random.Generator) -> None:
    """Features of which every part has the same moments have the same FID at every size, and no slope."""
    block_x, block_y = gaussian(rng, 4, 3, shift=1.0), gaussian(rng, 4, 3)
    x, y = np.tile(block_x, (600, 1)), np.tile(block_y, (600, 1))
    value, _ = fid_infinity(x, y)
    assert value == pytest.approx(fid(x, y), rel=0.02)


def test_fid_infinity_is_a_function_of_the_seed(rng: np.random.Generator) -> None:
    x, y = gaussian(rng, 60, 8), gaussian(rng, 60, 8)
    assert fid_infinity(x, y, seed=1) == fid_infinity(x, y, seed=1)
    assert fid_infinity(x, y, seed=1) != fid_infinity(x, y, seed=2)


# --- standard errors, against the spread over fresh draws -------------------------------------------------------------

# (n, m, d, shift, scale): one distribution; near; far; fewer images than features.
DRAWS = [(150, 300, 16, 0.0, 1.0), (150, 300, 16, 0.3, 1.1), (150, 150, 16, 1.0, 2.0), (60, 120, 90, 0.3, 1.2)]


@cache
def simulated(n: int, m: int, d: int, shift: float, scale: float) -> dict[str, Array]:
    """(value, se) of every metric for fresh draws."""
    rng = np.random.default_rng(11)
    found: dict[str, list[tuple[float, float]]] = {"fid": [], "kid": [], "fid_infinity": []}
    for _ in range(120):
        for score in distances(gaussian(rng, n, d, shift=shift, scale=scale), gaussian(rng, m, d)):
            found[score.name].append((score.value, score.se))
    return {name: np.array(pairs) for name, pairs in found.items()}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("metric", ["fid", "kid", "fid_infinity"])
def test_standard_error(metric: str, draw: tuple[int, int, int, float, float]) -> None:
    """Not below 0.8 of the spread, and at most 1.6 of it: first-order errors count second-order terms twice."""
    values, errors = simulated(*draw)[metric].T
    assert 0.8 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.6


def test_kid_is_unbiased_and_its_interval_covers() -> None:
    rng = np.random.default_rng(3)
    found = np.array([kid(gaussian(rng, 100, 12), gaussian(rng, 200, 12)) for _ in range(200)])
    assert abs(found[:, 0].mean()) < 3 * found[:, 0].std() / math.sqrt(200)
    assert np.mean(np.abs(found[:, 0]) < 2 * found[:, 1]) >= 0.93


# --- what a judge sees ------------------------------------------------------------------------------------------------


def test_scores_have_names_and_errors(rng: np.random.Generator) -> None:
    x, y = gaussian(rng, 40, 6).astype(np.float32), gaussian(rng, 50, 6).astype(np.float32)
    scores = list(distances(x, y, seed=3))
    assert [score.name for score in scores] == ["fid", "kid", "fid_infinity"]
    assert {score.name for score in scores} <= names.QUALITY.keys()
    assert scores[0].value == fid(x, y)
    assert (scores[1].value, scores[1].se) == kid(x, y)
    assert (scores[2].value, scores[2].se) == fid_infinity(x, y, seed=3)
    assert all(score.se > 0 and math.isnan(score.ceiling) for score in scores)


def test_few_images_have_no_fid_infinity(rng: np.random.Generator) -> None:
    x, y = gaussian(rng, 5, 3), gaussian(rng, 50, 3)
    assert [score.name for score in distances(x, y)] == ["fid", "kid"]
    with pytest.raises(JudgeError, match="6 or more"):
        fid_infinity(x, y)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((4, 2), np.nan), np.ones((4, 2)), "generated features hold NaN"),
        (np.ones((4, 2)), np.full((4, 2), np.inf), "reference features hold NaN or infinity"),
        (np.ones((1, 2)), np.ones((4, 2)), "give 2 or more images"),
        (np.ones(4), np.ones((4, 2)), r"shape \(4,\)"),
        (np.ones((4, 2)), np.ones((4, 3)), "2 numbers per image and reference features 3"),
    ],
    ids=["nan", "infinite", "one", "flat", "other"],
)
def test_features_that_cannot_be_compared(x: Array, y: Array, message: str) -> None:
    for distance in (fid, kid, fid_infinity, lambda a, b: list(distances(a, b))):
        with pytest.raises(JudgeError, match=message):
            distance(x, y)
