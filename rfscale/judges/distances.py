"""Distances between two sets of image features, each with its standard error: FID, KID and FID-infinity.

Features are float "n d" (generated) and "m d" (reference), both finite; all sums are in float64. Every function raises
JudgeError for features that cannot be compared.

Standard errors are over images of both sets, to first order (the infinitesimal jackknife: how the value answers to a
change in the weight of one image). Against fresh draws they were 0.9 to 1.5 times the true spread, the larger figures
where the sets are nearly alike. The bootstrap was up to four times it, since images drawn twice make a covariance of
lower rank. Networks that are compared on one reference set share the reference's part of the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.linalg

from rfscale.judges.base import JudgeError, Score

Array = npt.NDArray[np.float64]

_PARTS = 3  # FID-infinity: both sets whole, in halves and in thirds
_FEWEST = 2 * _PARTS  # images, for two of them in each third


def distances(
    generated: npt.NDArray[np.floating], reference: npt.NDArray[np.floating], seed: int = 0
) -> Iterator[Score]:
    """`fid`, `kid` and `fid_infinity` of generated against reference features, with standard errors.

    `seed` decides which images stand together in the parts of FID-infinity, which is left out for fewer than 6 images.
    """
    x, y = _checked(generated, reference)
    value, of_x, of_y = _frechet(x, y)
    yield Score("fid", value, _standard_error(of_x, of_y))
    yield Score("kid", *kid(x, y))
    if min(len(x), len(y)) >= _FEWEST:
        yield Score("fid_infinity", *fid_infinity(x, y, seed))


def fid(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> float:
    """Frechet distance of the Gaussians with the means and covariances of `x` and `y` (Heusel et al. 2017, eq. 6):

        |mu_x - mu_y|^2 + tr S_x + tr S_y - 2 tr (S_x^1/2 S_y S_x^1/2)^1/2

    It falls with the number of images, about like 1/n + 1/m, so only values of the same n and m may be compared.
    """
    return _frechet(*_checked(x, y))[0]


def kid(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Kernel distance (Binkowski et al. 2018) and its standard error: the unbiased estimate of MMD^2

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j),   k(a, b) = (a.b / d + 1)^3,

    over all pairs of both whole sets. Being unbiased, it is negative half of the time for sets of one distribution.

    The variance is that of the estimate's Hoeffding decomposition: with f(x_i) and g(y_j) the first-order parts (twice
    the witness function) and s^2 the mean squares of what a kernel matrix holds beyond its row and column means,

        4 var f / n + 4 var g / m + 2 s_xx^2 / n(n-1) + 2 s_yy^2 / m(m-1) + 4 s_xy^2 / nm.

    The second-order terms are all there is when both sets come from one distribution; a jackknife counts them twice.
    """
    x, y = _checked(x, y)
    n, m = len(x), len(y)
    xx, yy, xy = _cubic(x, x), _cubic(y, y), _cubic(x, y)
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    x_x, y_y = xx.sum(1) / (n - 1), yy.sum(1) / (m - 1)  # mean kernel of each image with the others of its set
    x_y, y_x = xy.mean(1), xy.mean(0)
    value = x_x.mean() + y_y.mean() - 2.0 * xy.mean()

    s_xx, s_yy = _interaction(xx, x_x), _interaction(yy, y_y)
    s_xy = float(((xy - x_y[:, None] - y_x + xy.mean()) ** 2).sum() / ((n - 1) * (m - 1)))
    # The spread of the row means holds, besides the witness function, the noise of averages over n - 1 and m images.
    var_f = max((x_x - x_y).var(ddof=1) - s_xx / (n - 1) - s_xy / m, 0.0)
    var_g = max((y_y - y_x).var(ddof=1) - s_yy / (m - 1) - s_xy / n, 0.0)
    first = 4.0 * var_f / n + 4.0 * var_g / m
    second = 2.0 * s_xx / (n * (n - 1)) + 2.0 * s_yy / (m * (m - 1)) + 4.0 * s_xy / (n * m)
    return float(value), math.sqrt(first + second)


def fid_infinity(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating], seed: int = 0) -> tuple[float, float]:
    """FID extrapolated to infinitely many images, linear in 1/n (Chong and Forsyth 2020), and its standard error.

    FID at n/k images is the mean over k disjoint parts of both sets, for k = 1, 2, 3; the value is the intercept at
    k = 0 of the least-squares line. Chong and Forsyth hold a reference of 50,000 images fixed; ours is as small as the
    generated set, so it shrinks in the same proportion and its bias goes too. FID is linear in 1/n only while n/3
    exceeds the number of features that matter, so with fewer images some bias stays. Needs 6 images or more in each.
    """
    x, y = _checked(x, y)
    n, m = len(x), len(y)
    if min(n, m) < _FEWEST:
        raise JudgeError(
            f"FID-infinity of {n} and {m} images: it needs {_FEWEST} or more of each; generate more images"
        )
    rng = np.random.default_rng(seed)
    order_x, order_y = rng.permutation(n), rng.permutation(m)
    counts = np.arange(1, _PARTS + 1)
    weights = np.linalg.pinv(np.stack([np.ones(_PARTS), counts], axis=1))[0]  # intercept of the least-squares line
    value, of_x, of_y = 0.0, np.zeros(n), np.zeros(m)
    for parts, weight in zip(counts.tolist(), weights.tolist(), strict=True):
        share = weight / parts
        for i, j in zip(np.array_split(order_x, parts), np.array_split(order_y, parts), strict=True):
            part, of_i, of_j = _frechet(x[i], y[j])
            value += share * part
            of_x[i] += share * of_i * n / len(i)
            of_y[j] += share * of_j * m / len(j)
    return value, _standard_error(of_x, of_y)


def _frechet(x: Array, y: Array) -> tuple[float, Array, Array]:
    """FID, and the influence on it of each image of `x` "n" and of `y` "m", each of mean 0.

    With A and B the centred features over sqrt(n - 1) and sqrt(m - 1), tr (S_x^1/2 S_y S_x^1/2)^1/2 is the nuclear norm
    of A B^T: no matrix root, no covariance, nothing squared, and n < d is as good as n > d. When the weight of image i
    changes by the factor 1 + e, row i of A does by sqrt(1 + e), and the norm by e/2 times the entry i of the diagonal
    of (A B^T B A^T)^1/2.
    """
    n, m = len(x), len(y)
    mean_x, mean_y = x.mean(0), y.mean(0)
    gap = mean_x - mean_y
    a, b = (x - mean_x) / math.sqrt(n - 1), (y - mean_y) / math.sqrt(m - 1)
    square_a, square_b = (a * a).sum(1), (b * b).sum(1)
    base_a, core_a = _core(a)
    base_b, core_b = _core(b)
    u, sigma, v = scipy.linalg.svd(core_a @ core_b.T, full_matrices=False)
    value = gap @ gap + square_a.sum() + square_b.sum() - 2.0 * sigma.sum()
    u, v = _lift(base_a, u), _lift(base_b, v.T)
    of_x = 2.0 * (x - mean_x) @ gap + n * (square_a - (u * u) @ sigma)
    of_y = -2.0 * (y - mean_y) @ gap + m * (square_b - (v * v) @ sigma)
    return max(float(value), 0.0), of_x - of_x.mean(), of_y - of_y.mean()


def _core(a: Array) -> tuple[Array | None, Array]:
    """(Q, R) of a tall matrix; a wide one is its own core."""
    if a.shape[0] <= a.shape[1]:
        return None, a
    q, r = scipy.linalg.qr(a, mode="economic")
    return q, r


def _lift(base: Array | None, vectors: Array) -> Array:
    return vectors if base is None else base @ vectors


def _standard_error(of_x: Array, of_y: Array) -> float:
    """Square root of var / n + var / m of the influences."""
    return math.sqrt(float(of_x.var(ddof=1)) / len(of_x) + float(of_y.var(ddof=1)) / len(of_y))


def _cubic(a: Array, b: Array) -> Array:
    base: Array = a @ b.T / a.shape[1] + 1.0
    return base * base * base  # ten times as fast as ** 3


def _interaction(kernel: Array, rows: Array) -> float:
    """Mean square, off the diagonal, of a kernel matrix without its row and column means."""
    centred = kernel - rows[:, None] - rows + rows.mean()
    np.fill_diagonal(centred, 0.0)
    n = len(rows)
    return float((centred**2).sum() / (n * (n - 1)))


def _checked(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> tuple[Array, Array]:
    for name, features in (("generated", x), ("reference", y)):
        if features.ndim != 2 or features.shape[0] < 2 or features.shape[1] < 1:
            raise JudgeError(f"{name} features have the shape {features.shape}; give 2 or more images, as (images, d)")
        if not np.isfinite(features).all():
            raise JudgeError(f"{name} features hold NaN or infinity; look at the images, the network may have diverged")
    if x.shape[1] != y.shape[1]:
        raise JudgeError(
            f"generated features have {x.shape[1]} numbers per image and reference features {y.shape[1]}; "
            "both must come from one network"
        )
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
