"""Where to start: variable projection on a grid of exponents (Golub & Pereyra 1973).

For given exponents a sum of power laws is linear in its coefficients. Weighting by 1 / L makes the relative residual
stand for the logarithmic one, so at each node of the grid the coefficients are a non-negative least-squares problem of
at most three columns, solved in closed form. Every local minimum of the grid is a start; the true objective decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product

import numpy as np

from analysis.laws.forms import Array, Curve, Form, PowerLaws

NODES = {0: 1, 1: 64, 2: 24, 3: 9}
"""Grid nodes per exponent, by the number of free exponents; 5 for more."""
EXPONENT_RANGE = (0.02, 2.5)
MAX_STARTS = 8


def starts(
    form: Form,
    log_x: Mapping[str, Array],
    centre: Mapping[str, float],
    log_loss: Array,
    weight: Array,
    fixed: Mapping[str, float],
) -> Array:
    """Starting points (S, p_free) in internal coordinates, the most promising first."""
    if isinstance(form, Curve):
        u = {name: log_x[name] - (centre[name] if form.centred else 0.0) for name in form.variables}
        found = form.starts(u, log_loss)
        return np.unique(found[:, [name not in fixed for name in form.parameters]], axis=0)
    return _grid_minima(form, log_x, centre, log_loss, weight, fixed)


def _grid_minima(
    form: PowerLaws,
    log_x: Mapping[str, Array],
    centre: Mapping[str, float],
    log_loss: Array,
    weight: Array,
    fixed: Mapping[str, float],
) -> Array:
    exponents = [name for name in form.exponents if name not in fixed]
    per_axis = NODES.get(len(exponents), 5)
    axes = [_axis(per_axis, name in form.rising) for name in exponents]
    # With every exponent held there is one node, without coordinates.
    nodes = np.array(list(product(*axes))).reshape(per_axis ** len(exponents), len(exponents))
    columns, target = _columns(form, log_x, centre, log_loss, fixed, nodes, exponents)
    rss, coefficients = _nonnegative(columns, target, weight)
    shape = (per_axis,) * len(exponents)
    order = _local_minima(rss.reshape(shape))[:MAX_STARTS]
    # A coefficient at zero has no logarithm: start it at a tenth of the loss, the objective decides.
    size = np.where(coefficients[order] > 1e-3, coefficients[order], 0.1)
    free = [term for term in form.terms if term.coefficient not in fixed]
    lowest = float(np.min(log_loss))
    columns_of_theta = [
        np.log(size[:, k]) + lowest if term.powers else size[:, k] * np.exp(lowest) for k, term in enumerate(free)
    ]
    log_c = np.stack(columns_of_theta, axis=1) if free else np.empty((len(order), 0))
    return np.concatenate([log_c, nodes[order]], axis=1)


def _axis(nodes: int, either_sign: bool) -> Array:
    """The grid of one exponent."""
    if not either_sign:
        return np.geomspace(*EXPONENT_RANGE, nodes)
    half = np.geomspace(*EXPONENT_RANGE, -(-nodes // 2))
    return np.sort(np.concatenate([-half, half]))[:nodes]


def _columns(
    form: PowerLaws,
    log_x: Mapping[str, Array],
    centre: Mapping[str, float],
    log_loss: Array,
    fixed: Mapping[str, float],
    nodes: Array,
    exponents: list[str],
) -> tuple[list[Array], Array]:
    """Relative columns x^-e min(L) / L of the free coefficients [(nodes, n)], and the target 1 - fixed terms."""
    inverse = np.exp(-log_loss)
    target = np.ones((len(nodes), len(log_loss)))
    columns = []
    for term in form.terms:
        is_fixed = term.coefficient in fixed
        log_term = np.zeros((len(nodes), len(log_loss)))
        for variable, exponent in term.powers:
            e = np.full(len(nodes), fixed[exponent]) if exponent in fixed else nodes[:, exponents.index(exponent)]
            log_term += form.sign(exponent) * e[:, None] * (log_x[variable] - (0.0 if is_fixed else centre[variable]))
        if is_fixed:
            target -= fixed[term.coefficient] * np.exp(log_term) * inverse
        else:
            columns.append(np.exp(log_term + np.min(log_loss)) * inverse)
    return columns, target


def _nonnegative(columns: list[Array], target: Array, weight: Array) -> tuple[Array, Array]:
    """Non-negative least squares at every node: the best of all subsets of columns. (nodes,), (nodes, K)."""
    n_nodes, k = target.shape[0], len(columns)
    best = np.full(n_nodes, np.inf)
    coefficients = np.zeros((n_nodes, k))
    if k == 0:
        return np.sum(weight * target**2, axis=1), coefficients
    stack = np.stack(columns, axis=1)  # (nodes, K, n)
    gram = (stack * weight) @ stack.transpose(0, 2, 1)
    cross = (stack @ (weight * target)[:, :, None])[:, :, 0]
    total = np.sum(weight * target**2, axis=1)
    for size in range(k, 0, -1):
        for subset in map(list, combinations(range(k), size)):
            a = gram[:, subset][:, :, subset]
            a = a + 1e-12 * np.einsum("rii->r", a)[:, None, None] * np.eye(size)
            b = cross[:, subset]
            c = np.linalg.solve(a, b[:, :, None])[:, :, 0]
            rss = np.maximum(total - np.einsum("ri,ri->r", b, c), 0.0)
            take = np.all(c >= 0.0, axis=1) & (rss < best)
            best[take] = rss[take]
            coefficients[take] = 0.0
            coefficients[np.ix_(take, subset)] = c[take]
    return best, coefficients


def _local_minima(surface: Array) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Flat indices of the nodes not above any neighbour (diagonal ones too), best first."""
    if surface.ndim == 0:
        return np.array([0], dtype=np.intp)
    padded = np.pad(surface, 1, constant_values=np.inf)
    is_minimum = np.isfinite(surface)
    for shift in product((0, 1, 2), repeat=surface.ndim):
        neighbour = padded[tuple(slice(s, s + size) for s, size in zip(shift, surface.shape, strict=True))]
        is_minimum &= surface <= neighbour
    found = np.flatnonzero(is_minimum)
    if found.size == 0:
        return np.array([0], dtype=np.intp)
    return found[np.argsort(surface.ravel()[found], kind="stable")]
