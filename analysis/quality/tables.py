"""The paper's tables of sample quality for a sweep: ranks (Table 1), scores at 25 steps (Table 2), few steps (Table 6).

They read the tidy scores that `quality.assess` makes: one row per score with the facts of its trial beside it. A table
that the scores do not allow raises FitError; `or_reason` turns that into a sentence for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.laws.status import FitError
from analysis.quality.means import (
    Mean,
    Setting,
    at,
    ends_of,
    judge_of,
    mean_over,
    pooled_means,
    shared_guidance,
    sizes_of,
)
from analysis.quality.rank import RankResult, rank
from rfscale import names

Array = NDArray[np.float64]
Table = TypeVar("Table")

TABLE_2_STEPS = 25


@dataclass(frozen=True)
class Ranks:
    """Average fronts of (CLIP score, FID). `columns`: title -> the settings of `result` averaged in it.

    `left_out`: settings (of a size) that fewer than half of the arms were scored at, in no rank.
    """

    clip_judge: str
    fid_judge: str
    result: RankResult
    columns: Mapping[str, tuple[str, ...]]
    seeds: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class AtStepsRow:
    """Scores of one arm at one size, in the order of `AtSteps.metrics`."""

    arm: str
    size: str
    parameters: float
    means: tuple[Mean, ...]


@dataclass(frozen=True)
class AtSteps:
    """The paper's Table 2: CLIP score and FID of every arm and size, the largest size first.

    `spread`: what the intervals are over, "seeds" (variance pooled over the arms of a size) or "images" (the
    standard error of the score itself, with a single seed).
    """

    setting: Setting
    metrics: tuple[str, ...]
    judges: tuple[str, ...]
    rows: tuple[AtStepsRow, ...]
    spread: str


@dataclass(frozen=True)
class FewStepsRow:
    """One size: `drops` in per cent of the CLIP score per number of steps, and the path length (n = 0: none)."""

    size: str
    parameters: float
    drops: tuple[Mean, ...]
    path: Mean


@dataclass(frozen=True)
class FewSteps:
    """The paper's Table 6: what fewer solver steps cost, by size, averaged over arms and seeds.

    Drop = 100 (C(most) - C(steps)) / C(most) of each trial at one guidance with EMA weights: the same prompts and
    noise at every number of steps. `trend`: change of the drop, in points per tenfold parameters, of each arm
    and seed across its sizes, then averaged.
    """

    judge: str
    guidance: float
    most: int
    steps: tuple[int, ...]
    rows: tuple[FewStepsRow, ...]
    trend: tuple[Mean, ...]
    arms: tuple[str, ...]

    @property
    def path_known(self) -> bool:
        """Whether this judge gave a path length at any size."""
        return any(row.path.n for row in self.rows)


@dataclass(frozen=True)
class SizeTable:
    """Scores by size, averaged over arms and seeds, and by arm at the largest size, best first.

    `rows` and `by_arm`: label -> one mean per metric. `ceilings`: what true images score, NaN if not known.
    """

    title: str
    judge: str
    setting: Setting
    metrics: tuple[str, ...]
    ceilings: tuple[float, ...]
    rows: Mapping[str, tuple[Mean, ...]]
    largest: str
    by_arm: Mapping[str, tuple[Mean, ...]]


def or_reason(make: Callable[[pd.DataFrame], Table], scores: pd.DataFrame) -> tuple[Table | None, str]:
    """A table, or the sentence why there is none."""
    try:
        return make(scores), ""
    except FitError as error:
        return None, str(error)


# --- Table 1 ----------------------------------------------------------------------------------------------------------


def ranks(scores: pd.DataFrame) -> Ranks:
    """The paper's Table 1: fronts of (CLIP score, FID) in every setting of every size, averaged; seeds are repeats.

    Columns as in the paper: all settings, the fewest and the most steps at the guidance they share, and here also the
    largest size. Raises FitError where it cannot be made.
    """
    fid_judge = judge_of(scores, "fid")
    clip_judge = judge_of(scores, "clip_score", prefer=fid_judge)
    both = pd.concat([ends_of(scores, "clip_score", clip_judge), ends_of(scores, "fid", fid_judge)])
    both = both.assign(place=_place(both))
    arms = sorted(set(both["arm"]))
    if len(arms) < 2:
        n = len(arms)
        raise FitError(f"{n} arm{' is' if n == 1 else 's are'} scored after its last step; ranking needs two.")
    cover = both.groupby(["place", "metric"])["arm"].nunique().unstack(fill_value=0).min(axis=1)
    kept = cover[cover >= max(2.0, len(arms) / 2)].index
    if kept.empty:
        raise FitError("No setting has CLIP score and FID of two arms.")
    used = both[both["place"].isin(kept)]
    facts = used.drop_duplicates("place").sort_values(["parameters", "solver_steps", "guidance", "weights"])
    places, seeds = list(facts["place"]), sorted(set(used["seed"]))
    arrays = {
        (metric, column): _cube(used[used["metric"] == metric], column, arms, places, seeds)
        for metric in ("clip_score", "fid")
        for column in ("value", "se")
    }
    # Without a second seed the standard errors of the scores say how sure a rank is, where they are known.
    whole = np.all([np.isfinite(arrays[m, "value"][..., 0]).all(axis=1) for m in ("clip_score", "fid")], axis=0)
    known = len(seeds) == 1 and all(np.all(np.isfinite(arrays[m, "se"][whole])) for m in ("clip_score", "fid"))
    result = rank(
        arms,
        arrays["clip_score", "value"],
        arrays["fid", "value"],
        settings=places,
        clip_se=arrays["clip_score", "se"][..., 0] if known else None,
        fid_se=arrays["fid", "se"][..., 0] if known else None,
    )
    left_out = tuple(sorted(set(both["place"]) - set(places)))
    return Ranks(clip_judge, fid_judge, result, _rank_columns(facts), len(seeds), left_out)


def _place(rows: pd.DataFrame) -> pd.Series:
    """A label of size and setting."""
    labels = [
        names.setting_label(s, g, w)
        for s, g, w in zip(rows["solver_steps"], rows["guidance"], rows["weights"], strict=True)
    ]
    return pd.Series(labels, index=rows.index) + " at " + rows["size"]


def _cube(rows: pd.DataFrame, column: str, arms: list[str], places: list[str], seeds: list[int]) -> Array:
    """(arm, place, seed), NaN where nothing was scored."""
    out = np.full((len(arms), len(places), len(seeds)), np.nan)
    for name, place, seed, value in zip(rows["arm"], rows["place"], rows["seed"], rows[column], strict=True):
        out[arms.index(name), places.index(place), seeds.index(seed)] = value
    return out


def _rank_columns(facts: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    shared = facts[facts["guidance"] == shared_guidance(facts)]
    steps = sorted(set(shared["solver_steps"]))
    columns = {}
    if len(steps) > 1:
        columns = {f"{s} steps": tuple(shared[shared["solver_steps"] == s]["place"]) for s in (steps[0], steps[-1])}
    sizes = sizes_of(facts)
    if len(sizes) > 1:
        columns[sizes[-1]] = tuple(facts[facts["size"] == sizes[-1]]["place"])
    return columns


# --- Table 2 ----------------------------------------------------------------------------------------------------------


def at_steps(scores: pd.DataFrame) -> AtSteps:
    """The paper's Table 2: CLIP score and FID at 25 steps, or the number nearest to it, with EMA weights if scored.

    Raises FitError if there is neither metric.
    """
    metrics = [m for m in ("clip_score", "fid") if (scores["metric"] == m).any()]
    if not metrics:
        raise FitError("No judge of this sweep gave clip_score or fid.")
    judges = [judge_of(scores, m, prefer=judge_of(scores, metrics[-1])) for m in metrics]
    rows = pd.concat([ends_of(scores, m, j) for m, j in zip(metrics, judges, strict=True)])
    if rows.empty:
        raise FitError("No score of the end of training is there yet.")
    weights = "ema" if (rows["weights"] == "ema").any() else "raw"
    rows = rows[rows["weights"] == weights]
    steps = min(set(rows["solver_steps"]), key=lambda s: (abs(s - TABLE_2_STEPS), s))
    guidances = set(rows[rows["solver_steps"] == steps]["guidance"])
    shared = shared_guidance(rows)
    setting = Setting(int(steps), shared if shared in guidances else max(guidances), weights)
    rows = at(rows, setting)
    spread = "seeds" if rows.groupby(["metric", "arm", "size"])["seed"].nunique().max() > 1 else "images"
    made = []
    for size in reversed(sizes_of(rows)):
        here = rows[rows["size"] == size]
        means = [pooled_means(here[here["metric"] == m], m) for m in metrics]
        for name in sorted(set(here["arm"])):
            missing = Mean(np.nan, np.nan, np.nan, 0)
            found = tuple(m.get(name, missing) for m in means)
            made.append(AtStepsRow(name, size, float(here["parameters"].iloc[0]), found))
    return AtSteps(setting, tuple(metrics), tuple(judges), tuple(made), spread)


# --- Table 6 ----------------------------------------------------------------------------------------------------------


def few_steps(scores: pd.DataFrame) -> FewSteps:
    """The paper's Table 6: relative CLIP-score drop against the most steps, and the path length, by size.

    Raises FitError where CLIP score was not taken at two numbers of steps of one guidance with EMA weights.
    """
    judge = judge_of(scores, "clip_score")
    rows = ends_of(scores, "clip_score", judge)
    rows = rows[rows["weights"] == "ema"]
    if rows.empty or rows.groupby("guidance")["solver_steps"].nunique().max() < 2:
        raise FitError("The CLIP score of EMA weights is not known at two numbers of steps with the same guidance.")
    guidance = shared_guidance(rows)
    facts = ["trial_id", "arm", "size", "parameters", "seed"]
    wide = rows[rows["guidance"] == guidance].pivot_table(index=facts, columns="solver_steps", values="value")
    most = int(max(wide.columns))
    fewer = tuple(s for s in sorted(map(int, wide.columns)) if s != most)
    drops = (100 * (1 - wide[list(fewer)].div(wide[most], axis=0))).reset_index()
    paths = at(ends_of(scores, "path_length", judge), Setting(most, guidance, "ema"))
    made = []
    for size in sizes_of(drops):
        here = drops[drops["size"] == size]
        path = paths[paths["size"] == size]["value"]
        means = tuple(mean_over(here[s].dropna()) for s in fewer)
        made.append(FewStepsRow(size, float(here["parameters"].iloc[0]), means, mean_over(path)))
    trend = tuple(mean_over(_slopes(drops, s)) for s in fewer)
    return FewSteps(judge, guidance, most, fewer, tuple(made), trend, tuple(sorted(set(drops["arm"]))))


def _slopes(drops: pd.DataFrame, steps: int) -> pd.Series:
    """Of each arm and seed: least-squares slope of the drop over log10 of the parameters."""
    slopes = []
    for _, line in drops.dropna(subset=[steps]).groupby(["arm", "seed"]):
        if line["parameters"].nunique() > 1:
            slopes.append(float(np.polyfit(np.log10(line["parameters"].to_numpy(float)), line[steps], 1)[0]))
    return pd.Series(slopes, dtype=float)


# --- GenEval by task, spelling by size --------------------------------------------------------------------------------

SIZE_TABLES = {
    "GenEval": ("geneval", *(f"geneval_{task}" for task in names.GENEVAL_TASKS)),
    "Spelling": ("spelling", "letters"),
}
"""Title -> the metrics beside each other; the first decides on the setting."""


def size_tables(
    scores: pd.DataFrame, chosen: Mapping[tuple[str, str], Setting], ceilings: Mapping[tuple[str, str], float]
) -> Iterator[SizeTable]:
    """One table per title and judge that gave its first metric; `chosen`: the setting of (metric, judge)."""
    for title, metrics in SIZE_TABLES.items():
        for (metric, judge), setting in chosen.items():
            if metric != metrics[0]:
                continue
            rows = at(scores[(scores["judge"] == judge) & scores["last"] & np.isfinite(scores["value"])], setting)
            shown = tuple(m for m in metrics if (rows["metric"] == m).any())
            sizes = sizes_of(rows[rows["metric"] == metric])
            large = rows[rows["size"] == sizes[-1]]
            yield SizeTable(
                title=title,
                judge=judge,
                setting=setting,
                metrics=shown,
                ceilings=tuple(ceilings.get((m, judge), np.nan) for m in shown),
                rows={size: _row(rows[rows["size"] == size], shown) for size in sizes},
                largest=sizes[-1],
                by_arm=_by_arm(large, shown),
            )


def _by_arm(rows: pd.DataFrame, metrics: tuple[str, ...]) -> dict[str, tuple[Mean, ...]]:
    """Best first by the first metric; all metrics with a size table are better when higher."""
    pooled = [pooled_means(rows[rows["metric"] == m], m) for m in metrics]
    missing = Mean(np.nan, np.nan, np.nan, 0)
    found = {name: tuple(p.get(name, missing) for p in pooled) for name in sorted(set(rows["arm"]))}
    return dict(sorted(found.items(), key=lambda item: -np.nan_to_num(item[1][0].value, nan=-np.inf)))


def _row(rows: pd.DataFrame, metrics: tuple[str, ...]) -> tuple[Mean, ...]:
    found = ((m, rows[rows["metric"] == m]) for m in metrics)
    return tuple(mean_over(of["value"], of["se"], m) for m, of in found)
