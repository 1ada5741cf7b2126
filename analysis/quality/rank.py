"""Which arm ranks first: the paper's non-dominated sorting, and how sure that is.

Esser et al. 2024, sec. 5.1: in each setting (solver steps x guidance x weights x data set) all arms are sorted
by (CLIP score, FID): those that no other beats in both are front 1, those only beaten by front 1 are front 2, and so
on; the rank is the front, averaged over the settings. Ranks depend on the pool: fronts over 18 arms are not
comparable with fronts over 61.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.status import FitError

Array = NDArray[np.float64]
TIED_BELOW = 0.95
"""Two arms are tied unless one has the better average rank in this share of the draws."""


@dataclass(frozen=True)
class RankResult:
    """Ranks of F arms over S settings. Without repeats or standard errors the probabilities are NaN.

    rank (F,): average front. by_setting (F, S). p_rank1 (F,): probability of front 1, averaged over settings. p_best
    (F,): probability of the lowest average rank (shared if tied). p_dominates (F, F): probability that row beats column
    in both metrics, averaged over settings. p_better (F, F): that row has the lower average rank, ties counting half.
    excluded: arms left out, with the reason.
    """

    names: tuple[str, ...]
    settings: tuple[str, ...]
    rank: Array
    by_setting: Array
    p_rank1: Array
    p_best: Array
    p_dominates: Array
    p_better: Array
    excluded: Mapping[str, str]

    @property
    def order(self) -> tuple[str, ...]:
        """Names by average rank, best first."""
        return tuple(self.names[i] for i in np.argsort(self.rank, kind="stable"))

    @property
    def tied_with_best(self) -> tuple[str, ...]:
        """Arms that the best is not better than with probability 0.95 (itself left out)."""
        best = int(np.argmin(self.rank))
        return tuple(
            name
            for i, name in enumerate(self.names)
            if i != best and not self.p_better[best, i] >= TIED_BELOW  # NaN: not known to be better
        )

    def average(self, settings: Sequence[str]) -> Array:
        """Average rank over some of the settings, (F,); the fronts are those of the whole pool."""
        missing = [name for name in settings if name not in self.settings]
        if missing or not settings:
            raise FitError(f"no settings {', '.join(missing) or 'given'}: there are {', '.join(self.settings)}.")
        return np.asarray(self.by_setting[:, [self.settings.index(name) for name in settings]].mean(axis=1))


def dominance(objectives: Array) -> NDArray[np.bool_]:
    """(.., F, k), all to be minimised -> (.., F, F): row is nowhere worse than column and somewhere better."""
    a, b = objectives[..., :, None, :], objectives[..., None, :, :]
    return np.asarray(np.all(a <= b, axis=-1) & np.any(a < b, axis=-1))


def fronts(dominates: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(.., F, F) -> (.., F): 1 for the non-dominated, 2 for those only dominated by front 1, ..."""
    rank = np.zeros(dominates.shape[:-1], dtype=np.intp)
    left = np.ones(dominates.shape[:-1], dtype=bool)
    front = 0
    while left.any():
        front += 1
        beaten = np.any(dominates & left[..., :, None], axis=-2)
        now = left & ~beaten
        rank[now] = front
        left &= ~now
    return rank


def rank(
    names: Sequence[str],
    clip: ArrayLike,
    fid: ArrayLike,
    *,
    settings: Sequence[str] | None = None,
    clip_se: ArrayLike | None = None,
    fid_se: ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 42,
) -> RankResult:
    """Rank arms by (CLIP score up, FID down).

    clip, fid: (F, S), or (F, S, R) with R repeats (training or sampling seeds), whose mean is ranked; a repeat that is
    missing (NaN) is not in it. The draws then are a multivariate t around the means, its covariance over all settings
    and both metrics pooled over the arms: a handful of repeats of one says too little about its own. Without
    repeats, standard errors (F, S) give normal draws. An arm without any value in a setting is left out and
    listed. Raises FitError for shapes that do not fit.
    """
    c, f = np.asarray(clip, dtype=np.float64), np.asarray(fid, dtype=np.float64)
    if c.shape != f.shape or c.ndim not in (2, 3) or len(c) != len(names):
        raise FitError(
            f"clip has shape {c.shape} and fid {f.shape} for {len(names)} names: both need one row per name and one "
            f"column per setting (and, if repeated, one layer per repeat)."
        )
    labels = tuple(settings) if settings is not None else tuple(f"setting {s + 1}" for s in range(c.shape[1]))
    if len(labels) != c.shape[1]:
        raise FitError(f"{len(labels)} setting names for {c.shape[1]} columns: give one each.")
    if (clip_se is None) != (fid_se is None):
        raise FitError("give standard errors for both CLIP and FID, or for neither.")
    repeated = c.ndim == 3
    keep, excluded = _complete(names, labels, c, f)
    stacked = np.stack([-c, f], axis=-1)[keep]  # (F, S[, R], 2), all to be minimised
    layers = stacked if repeated else stacked[:, :, None]
    there: NDArray[np.bool_] = np.asarray(np.isfinite(layers).all(axis=-1))  # (F, S, R)
    mean: Array = np.asarray(np.mean(layers, axis=2, where=there[..., None]))
    by_setting = np.stack([fronts(dominance(mean[:, s])) for s in range(mean.shape[1])], axis=1).astype(np.float64)
    sampled = None
    rng = np.random.default_rng(seed)
    if there.shape[2] > 1 and np.all(there.sum(axis=2).max(axis=0) > 1):
        sampled = mean + _deviations(layers, mean, there, draws, rng)
    elif clip_se is not None and fid_se is not None:
        se = np.stack([np.asarray(clip_se, dtype=np.float64), np.asarray(fid_se, dtype=np.float64)], axis=-1)[keep]
        if se.shape != mean.shape or not np.all(np.isfinite(se) & (se >= 0.0)):
            raise FitError("standard errors must be finite, not negative, and have the shape of the values.")
        # One draw for all settings of an arm: they share its training, prompts and noise, so that their errors
        # move together and averaging over settings removes little of them.
        sampled = mean + se * rng.normal(size=(draws, len(mean), 1, 2))
    kept = tuple(name for name, ok in zip(names, keep, strict=True) if ok)
    chances = _chances(sampled, len(kept))
    return RankResult(kept, labels, by_setting.mean(axis=1), by_setting, *chances, excluded)


def _complete(
    names: Sequence[str], settings: Sequence[str], clip: Array, fid: Array
) -> tuple[NDArray[np.bool_], dict[str, str]]:
    """Which arms have every value, and why the others are out."""
    there = np.isfinite(clip) & np.isfinite(fid)
    scored = np.asarray(there.any(axis=2)) if there.ndim == 3 else there
    excluded = {
        name: f"no CLIP score or FID in {int((~row).sum())} of {len(settings)} settings, "
        f"first {settings[int(row.argmin())]}"
        for name, row in zip(names, scored, strict=True)
        if not row.all()
    }
    keep = np.array([name not in excluded for name in names])
    if keep.sum() < 2:
        raise FitError(f"{int(keep.sum())} arms have every value, and ranking needs two: {excluded}.")
    return keep, excluded


def _deviations(layers: Array, mean: Array, there: NDArray[np.bool_], draws: int, rng: np.random.Generator) -> Array:
    """Draws of the error of the means, (draws, F, S, 2): multivariate t with the covariance pooled over arms.

    What all arms share in a repeat (data, noise) moves no rank, so it is taken out where no repeat is missing.
    """
    n_names, n_settings, n_repeats = there.shape
    residuals = np.where(there[..., None], layers - mean[:, :, None], 0.0)
    dof = there.sum(axis=(0, 2)) - n_names  # (S,)
    if there.all():
        residuals = residuals - residuals.mean(axis=0)
        dof = np.full(n_settings, (n_names - 1) * (n_repeats - 1))
    vectors = np.moveaxis(residuals, 2, 1).reshape(n_names * n_repeats, n_settings, 2)
    vectors = vectors / np.sqrt(dof)[:, None]
    normal = rng.standard_normal((draws, n_names, len(vectors)))
    least = int(dof.min())
    stretch = np.sqrt(least / rng.chisquare(least, size=(draws, 1, 1, 1)))
    errors = np.einsum("dfv,vsk->dfsk", normal, vectors, optimize=True)
    return np.asarray(stretch * errors / np.sqrt(there.sum(axis=2))[..., None])


def _chances(sampled: Array | None, n_names: int) -> tuple[Array, Array, Array, Array]:
    """p_rank1, p_best (F,), p_dominates, p_better (F, F)."""
    if sampled is None:
        unknown = np.full((n_names, n_names), np.nan)
        return unknown[0], unknown[0], unknown, unknown
    n_draws, _, n_settings, _ = sampled.shape
    first, wins = np.zeros(n_names), np.zeros((n_names, n_names))
    total = np.zeros((n_draws, n_names))
    for s in range(n_settings):
        beats = dominance(sampled[:, :, s])
        front = fronts(beats)
        wins += beats.mean(axis=0) / n_settings
        first += (front == 1).mean(axis=0) / n_settings
        total += front / n_settings
    lowest = total == total.min(axis=1, keepdims=True)
    best = (lowest / lowest.sum(axis=1, keepdims=True)).mean(axis=0)
    better = np.mean((total[:, :, None] < total[:, None, :]) + 0.5 * (total[:, :, None] == total[:, None, :]), axis=0)
    return first, best, wins, np.asarray(better)


def table_1(
    result: RankResult,
    columns: Mapping[str, Sequence[str]],
    *,
    families: Mapping[str, str] | None = None,
    best_per_family: int = 2,
) -> str:
    """The paper's Table 1 as Markdown: average rank over all settings and over each named subset of them.

    families: name -> family; then only the `best_per_family` best of each family in any column are printed, as the
    paper does.
    """
    values = {"all": result.rank} | {title: result.average(settings) for title, settings in columns.items()}
    shown = set(result.names)
    if families is not None:
        shown = set()
        for family in dict.fromkeys(families.get(name, name) for name in result.names):
            members = [i for i, name in enumerate(result.names) if families.get(name, name) == family]
            for column in values.values():
                best = sorted(members, key=lambda i: (column[i], i))[:best_per_family]
                shown |= {result.names[i] for i in best}
    width = max([len("arm"), *(len(name) for name in shown)])
    certain = bool(np.all(np.isfinite(result.p_best)))
    titles = [title.rjust(5) for title in (*values, *(["P(front 1)", "P(best)"] if certain else []))]
    lines = [
        f"| {'arm':<{width}} | " + " | ".join(titles) + " |",
        f"|{'-' * (width + 2)}|" + "|".join("-" * (len(title) + 1) + ":" for title in titles) + "|",
    ]
    for i in np.argsort(result.rank, kind="stable"):
        if result.names[i] not in shown:
            continue
        cells = [f"{column[i]:.2f}" for column in values.values()]
        if certain:
            cells += [f"{result.p_rank1[i]:.2f}", f"{result.p_best[i]:.2f}"]
        padded = " | ".join(cell.rjust(len(title)) for cell, title in zip(cells, titles, strict=True))
        lines.append(f"| {result.names[i]:<{width}} | {padded} |")
    lines += [f"Left out: {name} ({reason})." for name, reason in result.excluded.items()]
    return "\n".join(lines)
