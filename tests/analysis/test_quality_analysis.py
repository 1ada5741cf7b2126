"""Sample quality of a sweep: read as logged, correlated and ranked as worked out by hand, and never a crash."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import mean

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from scipy import stats
from synthetic_sweep import (
    CEILINGS,
    GUIDANCE_50,
    JUDGE,
    STEPS_5,
    FakeTrial,
    World,
    true_clip,
    true_drop,
    true_fid,
    true_path,
    world_trials,
    write_sweep,
)

import analysis.report.pictures
from analysis.compare import numbers
from analysis.compare.arms import Estimate
from analysis.laws import FitError
from analysis.quality import plot as plot_quality
from analysis.quality import wording as wording_quality
from analysis.quality.correlate import LINKS
from analysis.quality.correlate import Estimate as Statistic
from analysis.quality.means import Setting, error_bar, mean_over, own_interval, pooled_means, share_interval
from analysis.quality.rank import dominance, fronts
from analysis.quality.summary import Quality, QualityError, Relation, assess, choose_setting
from analysis.quality.tables import at_steps, few_steps, ranks
from analysis.report.page import write_report
from analysis.style import house_style
from analysis.table.read import SweepTable, TableError, read_sweep
from analysis.table.scores import read_scores
from rfscale import names

THREE = {"rf": 1.0, "better": 1.4, "worse": 0.8}
SETTINGS = [(50, g) for g in GUIDANCE_50] + [(s, GUIDANCE_50[-1]) for s in STEPS_5]
S50 = names.setting_label(50, 2.5, "ema")
DIVERGED = ("worse", 2, 1)
UNSCORED = ("rf", 3, 0)  # without the scores at S50
NOT_FINITE = ("better", 1, 1)  # its FID at S50 is NaN


def _key(trial: FakeTrial) -> tuple[object, object, object]:
    return trial.params["formulation"], trial.params["depth"], trial.params["seed"]


def _edited(trial: FakeTrial) -> FakeTrial:
    if _key(trial) == DIVERGED:
        wild = [(k, s, 1e6 if names.parse_quality(k) else v) for k, s, v in trial.metrics]
        return replace(trial, metrics=wild, tags={**trial.tags, names.TAG_STATUS: names.DIVERGED})
    if _key(trial) == UNSCORED:
        return replace(trial, metrics=[m for m in trial.metrics if S50 not in m[0]])
    if _key(trial) == NOT_FINITE:
        fid = names.quality_key("fid", JUDGE, S50)
        return replace(trial, metrics=[(k, s, math.nan if k == fid and s == 600 else v) for k, s, v in trial.metrics])
    return trial


@pytest.fixture(scope="module")
def trials() -> list[FakeTrial]:
    """3 formulations x 4 sizes x 2 seeds x 6 settings x 2 weights, and EMA weights at one point on the way."""
    world = World(THREE, seeds=(0, 1), noise=0.004, quality=True, quality_noise=0.01, along=True)
    return list(map(_edited, world_trials(world)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, trials: list[FakeTrial]) -> SweepTable:
    return read_sweep(write_sweep(tmp_path_factory.mktemp("quality"), "quality", trials), "quality")


@pytest.fixture(scope="module")
def quality(table: SweepTable) -> Quality:
    found = assess(table)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Quality:
    """Without any noise, one seed: every number follows from the formulas of the synthetic world."""
    world = World(THREE, depths=(1, 2, 3), quality=True)
    found = assess(read_sweep(write_sweep(tmp_path_factory.mktemp("exact"), "exact", world_trials(world)), "exact"))
    assert found is not None
    return found


def _relation(quality: Quality, metric: str) -> Relation:
    found = quality.relation(metric)
    assert found is not None
    return found


def _logged(trials: list[FakeTrial], metric: str, step: int = 600, setting: str = S50) -> dict[tuple, float]:  # type: ignore[type-arg]
    """(formulation, depth, seed) -> what was logged, of the trials that may be used, finite values only."""
    key = names.quality_key(metric, JUDGE, setting) if metric != names.VAL_LOSS else metric
    found = {_key(t): v for t in trials if _key(t) != DIVERGED for k, s, v in t.metrics if (k, s) == (key, step)}
    return {trial: value for trial, value in found.items() if math.isfinite(value)}


# --- reading ----------------------------------------------------------------------------------------------------------


def test_every_score_is_read_as_logged_with_its_error_and_its_step(table: SweepTable, trials: list[FakeTrial]) -> None:
    trial = next(t for t in trials if _key(t) == ("rf", 2, 1))
    logged = {(k, s): v for k, s, v in trial.metrics}
    rows = table.quality[table.quality["trial_id"] == trial.trial_id]
    values = [k for k, _ in logged if names.parse_quality(k) and "_se/" not in k and not k.endswith("/true")]
    assert len(rows) == len(values)
    assert sorted(set(rows["step"])) == sorted({s for k, s in logged if k == names.quality_key("fid", JUDGE, S50)})
    for row in rows.itertuples():
        setting = names.setting_label(row.solver_steps, row.guidance, row.weights)
        assert row.value == logged[names.quality_key(row.metric, row.judge, setting), row.step]
        se = logged.get((names.quality_key(f"{row.metric}_se", row.judge, setting), row.step), math.nan)
        assert row.se == se or (math.isnan(row.se) and row.metric == "path_length")
    raw = rows[rows["weights"] == "raw"]
    assert set(raw["step"]) == {600}
    assert len(raw) == 10 * len(SETTINGS)


def test_scores_are_no_columns_of_the_trials_and_ceilings_stand_apart(table: SweepTable) -> None:
    assert not [c for c in table.trials.columns if "quality" in c]
    ceilings = table.ceilings.set_index(["judge", "metric"])["value"]
    assert dict(ceilings) == {(JUDGE, metric): value for metric, value in CEILINGS.items()}
    assert "true" not in set(table.quality["weights"])


def test_a_rejected_trial_has_no_score_anywhere(table: SweepTable, quality: Quality) -> None:
    assert len(table.trials) == 23
    assert set(table.quality["trial_id"]) == set(table.trials["trial_id"])
    assert table.quality["value"].max() < 1e3
    assert quality.n_trials == quality.n_all == 23


def test_a_history_is_asked_for_only_where_there_can_be_one() -> None:
    asked: list[str] = []

    def history(key: str) -> dict[int, float]:
        asked.append(key)
        return {100: 1.0, 200: 2.0} if "s50" in key else {200: 2.0}

    keys = [
        names.quality_key(m + e, "j", names.setting_label(s, g, w))
        for m in ("fid", "geneval") for e in ("", "_se") for s, g in SETTINGS for w in ("ema", "raw")
    ]  # fmt: skip
    found = read_scores(dict.fromkeys(keys, (200, 2.0)), history)
    assert not [key for key in asked if key.endswith("raw")]
    assert len(asked) == 6 + 3 * 4  # one of each EMA setting, and the four of each that has more than its last point
    assert [row for row in found.rows if row[0] == 100 and row[3] != 50] == []
    assert len([row for row in found.rows if row[0] == 100]) == 3 * 2


def test_a_sweep_without_scores_costs_no_call_and_has_no_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis.report.pictures, "DPI", 30)
    monkeypatch.setattr("analysis.table.scores.read_scores", lambda *_: pytest.fail("asked for scores"))
    report = write_report(
        write_sweep(tmp_path, "plain", world_trials(World({"rf": 1.0}, depths=(1,)))), "plain", tmp_path / "out"
    )
    assert report.table.quality.empty
    assert report.quality is None
    assert "Sample quality" not in report.path.read_text()
    assert not (tmp_path / "out" / "quality.csv").exists()


def test_a_setting_that_rfscale_does_not_write_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    def foreign(trial: FakeTrial) -> FakeTrial:
        return replace(trial, metrics=[*trial.metrics, ("quality/fid/mine/fast", 600, 1.0)])

    uri = write_sweep(tmp_path, "foreign", world_trials(World({"rf": 1.0}, depths=(1,))), foreign)
    with pytest.raises(TableError, match="a metric that rfscale does not write: 'fast' is no setting"):
        read_sweep(uri, "foreign")


# --- the setting ------------------------------------------------------------------------------------------------------


def _rows(entries: list[tuple[int, float, str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(entries, columns=["solver_steps", "guidance", "weights", "value"])
    return frame.assign(last=True, trial_id=frame.groupby(["solver_steps", "guidance", "weights"]).cumcount())


def test_the_setting_is_ema_fifty_steps_and_the_guidance_of_the_best_mean(quality: Quality) -> None:
    assert {r.setting for r in quality.relations if r.metric in ("fid", "clip_score")} == {Setting(50, 2.5, "ema")}
    rows = _rows([(50, 1.0, "ema", 9.0), (50, 5.0, "ema", 7.0), (50, 5.0, "raw", 100.0), (80, 1.0, "ema", 2.0)])
    assert choose_setting("fid", rows) == Setting(50, 5.0, "ema")
    assert choose_setting("clip_score", rows) == Setting(50, 1.0, "ema")
    assert choose_setting("fid", rows[rows["solver_steps"] != 50]) == Setting(80, 1.0, "ema")
    assert choose_setting("fid", rows[rows["weights"] == "raw"]) == Setting(50, 5.0, "raw")


def test_guidances_are_compared_on_the_trials_that_all_of_them_have() -> None:
    few = _rows([(50, 1.0, "ema", 9.0), (50, 1.0, "ema", 9.0), (50, 1.0, "ema", 9.0), (50, 5.0, "ema", 1.0)])
    assert choose_setting("fid", few) == Setting(50, 1.0, "ema"), "scored for a third of the trials"
    one_missing = _rows([(50, 1.0, "ema", 4.0), (50, 1.0, "ema", 90.0), (50, 5.0, "ema", 5.0)])
    assert choose_setting("fid", one_missing) == Setting(50, 1.0, "ema"), "4 < 5 in the trial that has both"


def test_another_setting_may_be_asked_for_and_an_unknown_one_is_named(table: SweepTable) -> None:
    found = assess(table, setting="s10-g5-raw")
    assert found is not None
    assert {r.setting.label for r in found.relations} == {t.setting.label for t in found.size_tables} == {"s10-g5-raw"}
    with pytest.raises(QualityError, match=r"'s7-g1-ema'; choose one of s10-g5-ema, .*s50-g5-raw"):
        assess(table, setting="s7-g1-ema")


# --- correlation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "n"), [("fid", 21), ("clip_score", 22), ("geneval", 22)])
def test_the_correlation_is_that_of_the_logged_numbers(
    quality: Quality, trials: list[FakeTrial], metric: str, n: int
) -> None:
    loss, score = _logged(trials, names.VAL_LOSS), _logged(trials, metric)
    both = [(loss[t], score[t]) for t in score]
    found = _relation(quality, metric).ends
    assert found is not None
    assert found.n == len(both) == n
    assert found.spearman.value == pytest.approx(stats.spearmanr(*zip(*both, strict=True)).statistic)
    assert found.kendall.value == pytest.approx(stats.kendalltau(*zip(*both, strict=True)).statistic)
    assert found.n_groups == 3  # formulations: what one has of its own it carries across sizes and seeds


@pytest.mark.parametrize(("metric", "sign", "n"), [("clip_score", 1, 6 * 3 + 2 * 1), ("fid", -1, 5 * 3 + 3 * 1)])
def test_decisions_are_between_formulations_of_one_size_and_seed(
    quality: Quality, trials: list[FakeTrial], metric: str, sign: int, n: int
) -> None:
    loss, score = _logged(trials, names.VAL_LOSS), _logged(trials, metric)
    pairs = [(a, b) for a, b in itertools.combinations(score, 2) if a[1:] == b[1:]]
    right = [(loss[a] < loss[b]) == (sign * score[a] > sign * score[b]) for a, b in pairs]
    found = _relation(quality, metric).ends
    assert found is not None
    assert found.decision.n == len(pairs) == n
    assert found.decision.value == pytest.approx(mean(right))
    wide = wording_quality.decision(found)
    assert wide.low <= min(found.decision.low, found.decision_clustered.low)
    assert wide.high >= max(found.decision.high, found.decision_clustered.high)


def test_along_the_way_every_scored_checkpoint_counts_with_the_loss_of_its_step(
    quality: Quality, trials: list[FakeTrial]
) -> None:
    relation = _relation(quality, "clip_score")
    steps = sorted(set(relation.points["step"]))
    assert len(steps) == 2
    for step in steps:
        loss, score = _logged(trials, names.VAL_LOSS, step), _logged(trials, "clip_score", step)
        rows = relation.points[relation.points["step"] == step]
        found = {(r.arm, int(r.size[-1]), r.seed): r for r in rows.itertuples()}
        assert {t: r.value for t, r in found.items()} == score
        assert {t: r.loss for t, r in found.items()} == pytest.approx({t: loss[t] for t in score})
    assert relation.along is not None
    assert relation.along.n == 2 * 22
    assert relation.along.n_groups == 3
    assert relation.along.decision.n == 2 * 20


def test_between_two_validations_the_loss_is_straight_in_log_log(table: SweepTable) -> None:
    curve = table.curves["key"] == names.VAL_LOSS
    step = min(table.quality["step"])
    gone = replace(
        table,
        curves=table.curves[~(curve & (table.curves["step"] == step))],
        quality=table.quality[table.quality["metric"] == "clip_score"],
    )
    found = assess(gone)
    assert found is not None
    points = _relation(found, "clip_score").points
    row = points[points["step"] == step].iloc[0]
    left = table.curves[curve & (table.curves["trial_id"] == row["trial_id"]) & (table.curves["step"] != step)]
    x, y = np.log(left[left["step"] > 0][["step", "value"]].sort_values("step").to_numpy(float)).T
    assert row["loss"] == pytest.approx(np.exp(np.interp(np.log(step), x, y)))


def test_the_curve_is_the_link_that_the_ends_chose(quality: Quality) -> None:
    relation = _relation(quality, "fid")
    assert relation.ends is not None
    ends = relation.points[relation.points["last"]]
    x, y = relation.curve
    assert (x[0], x[-1]) == pytest.approx((ends["loss"].min(), ends["loss"].max()))
    link = LINKS[relation.ends.link](ends["loss"].to_numpy(float), ends["value"].to_numpy(float))
    assert y == pytest.approx(link(x))


def test_missing_scores_are_named(quality: Quality, trials: list[FakeTrial]) -> None:
    ids = {_key(t): t.trial_id for t in trials}
    assert _relation(quality, "clip_score").missing == (ids[UNSCORED],)
    assert _relation(quality, "fid").missing == tuple(sorted((ids[UNSCORED], ids[NOT_FINITE])))
    told = wording_quality.coverage(quality)
    assert told.startswith("Scores of 23 of 23 trials.")
    one = f"CLIP score and GenEval ({JUDGE}) at {S50} are missing for 1 scored trial: {ids[UNSCORED]}."
    assert one in told, "metrics that lack the same trials are one sentence"
    assert told.count(ids[UNSCORED]) == 2


# --- the paper's tables -----------------------------------------------------------------------------------------------


def test_ranks_are_the_fronts_of_every_setting_and_size(exact: Quality) -> None:
    assert exact.ranks is not None
    result = exact.ranks.result
    assert exact.ranks.columns.keys() == {"5 steps", "50 steps", "d = 3"}
    assert len(result.settings) == 12 * 3
    assert set(exact.ranks.columns["5 steps"]) == {f"s5-g5-{w} at d = {d}" for w in ("ema", "raw") for d in (1, 2, 3)}
    assert set(exact.ranks.columns["50 steps"]) == {f"s50-g5-{w} at d = {d}" for w in ("ema", "raw") for d in (1, 2, 3)}
    assert result.order == ("better", "rf", "worse")  # both metrics follow the loss here, so the fronts are 1, 2, 3
    assert sorted(result.rank) == [1, 2, 3]
    assert np.isfinite(result.p_best).all()  # from the scores' own errors, as there is one seed


def test_with_gaps_the_fronts_are_those_of_the_means_over_the_seeds_there_are(
    quality: Quality, trials: list[FakeTrial]
) -> None:
    assert quality.ranks is not None
    result = quality.ranks.result
    assert len(result.settings) == 12 * 4
    assert set(result.names) == set(THREE)
    for i, place in enumerate(result.settings):
        setting, size = place.split(" at d = ")
        scores = [(sign, _logged(trials, m, setting=setting)) for sign, m in ((-1, "clip_score"), (1, "fid"))]
        points = []
        for name in result.names:
            seeds = [s for s in (0, 1) if all((name, int(size), s) in of for _, of in scores)]
            points.append([mean(sign * of[name, int(size), s] for s in seeds) for sign, of in scores])
        assert result.by_setting[:, i].tolist() == fronts(dominance(np.array(points))).tolist()


def test_a_formulation_without_scores_at_a_size_is_in_no_rank_and_is_named(
    quality: Quality,
) -> None:
    found = ranks(quality.scores.query("not (arm == 'worse' and depth == 3)"))
    assert found.result.names == ("better", "rf")
    assert "Left out: worse (no CLIP score or FID in 12 of 48 settings" in wording_quality.ranks_note(found)


def test_scores_at_25_steps_are_means_over_seeds_with_the_variance_of_all_formulations(
    quality: Quality, trials: list[FakeTrial]
) -> None:
    found = quality.at_steps
    assert found is not None
    assert found.setting == Setting(25, 5.0, "ema")
    assert (found.metrics, found.judges, found.spread) == (("clip_score", "fid"), (JUDGE, JUDGE), "seeds")
    clip = _logged(trials, "clip_score", setting="s25-g5-ema")
    seeds = {name: [clip[name, 4, s] for s in (0, 1)] for name in THREE}
    variance = sum((a - b) ** 2 / 2 for a, b in seeds.values()) / 3
    half = stats.t.ppf(0.975, 3) * math.sqrt(variance / 2)
    rows = [row for row in found.rows if row.size == "d = 4"]
    assert found.rows[: len(rows)] == tuple(rows), "the largest size first"
    for row in rows:
        m = row.means[0]
        assert m.n == 2
        assert (m.low, m.value, m.high) == pytest.approx(
            (mean(seeds[row.arm]) - half, mean(seeds[row.arm]), mean(seeds[row.arm]) + half)
        )


def test_with_one_seed_the_interval_is_that_of_the_images(exact: Quality) -> None:
    assert exact.at_steps is not None
    assert exact.at_steps.spread == "images"
    for m in (row.means[1] for row in exact.at_steps.rows):
        assert m.high - m.low == pytest.approx(2 * 1.959964 * 1.0)


def test_without_25_steps_the_nearest_number_is_taken(quality: Quality) -> None:
    assert at_steps(quality.scores.query("solver_steps != 25")).setting == Setting(10, 5.0, "ema")
    assert at_steps(quality.scores.query("solver_steps == 50")).setting == Setting(50, 5.0, "ema")


def test_few_steps_cost_what_they_were_made_to_cost(exact: Quality) -> None:
    found = exact.few_steps
    assert found is not None
    assert (found.guidance, found.most, found.steps) == (5.0, 50, (5, 10, 25))
    assert [row.size for row in found.rows] == ["d = 1", "d = 2", "d = 3"]
    for row in found.rows:
        for steps, drop in zip(found.steps, row.drops, strict=True):
            assert drop.value == pytest.approx(100 * true_drop(row.parameters, steps))
            assert drop.n == 3
        losses = exact.relations[0].points.query("size == @row.size and last")["loss"]
        assert row.path.value == pytest.approx(mean(true_path(loss) for loss in losses))
    n = np.log10([row.parameters for row in found.rows])
    for steps, trend in zip(found.steps, found.trend, strict=True):
        slope = np.polyfit(n, [100 * true_drop(10**x, steps) for x in n], 1)[0]
        assert (trend.low, trend.value, trend.high) == pytest.approx((slope, slope, slope))
        assert trend.n == 3


def test_the_interval_of_a_drop_is_over_trials(quality: Quality, trials: list[FakeTrial]) -> None:
    assert quality.few_steps is not None
    most, five = (_logged(trials, "clip_score", setting=f"s{s}-g5-ema") for s in (50, 5))
    drops = [100 * (1 - five[t] / most[t]) for t in five if t[1] == 2]
    assert len(drops) == 5  # one of six diverged
    drop = quality.few_steps.rows[1].drops[0]
    assert (drop.low, drop.high) == pytest.approx(stats.t.interval(0.95, 4, np.mean(drops), stats.sem(drops)))


def test_geneval_is_shown_by_task_and_size_beside_its_ceiling(quality: Quality, trials: list[FakeTrial]) -> None:
    (found,) = quality.size_tables
    assert found.title == "GenEval"
    assert found.metrics == ("geneval", *(f"geneval_{t}" for t in names.GENEVAL_TASKS))
    assert found.ceilings[0] == CEILINGS["geneval"]
    assert math.isnan(found.ceilings[1])
    counting = _logged(trials, "geneval_counting", setting=found.setting.label)
    place = found.metrics.index("geneval_counting")
    for depth in (1, 2, 3, 4):
        values = [v for (_, d, _), v in counting.items() if d == depth]
        assert found.rows[f"d = {depth}"][place].value == pytest.approx(mean(values))
    assert found.largest == "d = 4"
    values = [m[0].value for m in found.by_arm.values()]
    assert values == sorted(values, reverse=True)
    assert found.by_arm["rf"][place].value == pytest.approx(mean(counting["rf", 4, s] for s in (0, 1)))


def _spelling(trial: FakeTrial) -> FakeTrial:
    kept = [m for m in trial.metrics if not names.parse_quality(m[0])]
    words = [
        (names.quality_key(metric, "glyphs-64", names.setting_label(20, 2.0, "ema")), 600, 0.1 * trial.params["depth"])  # type: ignore[operator]
        for metric in ("spelling", "letters")
    ]
    return replace(trial, metrics=[*kept, *words, (names.quality_key("spelling_ceiling", "glyphs-64", "true"), 600, 1)])


def test_trials_that_agree_by_chance_are_not_certain() -> None:
    """A task that fails on all 40 images of three trials: the trials say nothing of the error, their own errors do."""
    rows = pd.DataFrame({"arm": ["rf"] * 3, "value": [0.0] * 3, "se": [0.03, 0.04, 0.05]})
    half = 1.959964 * (0.03**2 + 0.04**2 + 0.05**2) ** 0.5 / 3
    for found in (mean_over(rows["value"], rows["se"]), pooled_means(rows)["rf"]):
        assert (found.value, found.low, found.high) == (0.0, pytest.approx(-half), pytest.approx(half))
    apart = rows.assign(value=[0.0, 0.5, 1.0])
    between = 4.302653 * 0.5 / 3**0.5
    for found in (mean_over(apart["value"], apart["se"]), pooled_means(apart)["rf"], mean_over(apart["value"])):
        assert found.high - found.value == pytest.approx(between), "trials that differ more have the wider interval"
    unknown = rows.assign(se=math.nan)
    assert mean_over(unknown["value"], unknown["se"]).interval == (0.0, 0.0)


def _adjusted(hits: int, images: int) -> tuple[float, float]:
    """The adjusted share and its standard error, as `rfscale.judges.base.share` gives it."""
    p = (hits + 1.96**2 / 2) / (images + 1.96**2)
    return p, math.sqrt(p * (1 - p) / (images + 1.96**2))


@pytest.mark.parametrize(("hits", "images"), [(0, 40), (40, 40), (1, 40), (20, 40), (0, 1), (1, 1), (3, 5), (7, 2000)])
def test_the_interval_of_a_share_is_agresti_and_coulls(hits: int, images: int) -> None:
    p, se = _adjusted(hits, images)
    low, high = share_interval(np.array([hits / images]), np.array([se]))
    assert (low, high) == pytest.approx((max(0, p - 1.96 * se), min(1, p + 1.96 * se)), abs=1e-12)
    assert low <= hits / images <= high
    assert own_interval("spelling", np.array([hits / images]), np.array([se])) == (low, high)


def test_none_of_40_may_be_a_tenth() -> None:
    assert share_interval(np.zeros(1), np.array([_adjusted(0, 40)[1]])) == (0.0, pytest.approx(0.1044, abs=1e-4))


def test_the_mean_of_shares_is_the_share_of_all_their_images() -> None:
    errors = np.array([_adjusted(x, 40)[1] for x in (0, 10, 2)])
    p, se = _adjusted(12, 120)
    found = share_interval(np.array([0.0, 0.25, 0.05]), errors)
    assert found == pytest.approx((p - 1.96 * se, p + 1.96 * se))


def test_errors_that_no_share_has_and_unknown_ones() -> None:
    assert share_interval(np.array([0.5]), np.array([0.4])) == (0.0, 1.0), "fewer than no images"
    assert share_interval(np.array([1.0]), np.array([0.0])) == (1.0, 1.0)
    assert all(math.isnan(side) for side in share_interval(np.array([0.5]), np.array([math.nan])))


@pytest.mark.parametrize("metric", ["geneval", "geneval_position", "spelling"])
def test_no_mean_of_shares_has_an_interval_beyond_0_and_1_nor_inside_that_of_its_images(metric: str) -> None:
    rows = pd.DataFrame({"arm": list("aabb"), "value": [0.0, 0.3, 1.0, 0.9], "se": [_adjusted(0, 40)[1]] * 4})
    for found in (mean_over(rows["value"], rows["se"], metric), *pooled_means(rows, metric).values()):
        assert 0 <= found.low <= found.value <= found.high <= 1
    for value in (0.0, 0.4, 1.0):
        alike = pd.Series([value] * 3), pd.Series([_adjusted(round(40 * value), 40)[1]] * 3)
        found, own = mean_over(*alike, metric), own_interval(metric, *(x.to_numpy(float) for x in alike))
        assert found.interval == own
        assert own[1] - own[0] > 0.03
    one = own_interval("geneval", np.array([0.02]), np.array([0.03]))
    assert one == (0.0, pytest.approx(0.02 + 1.96 * 0.03))
    assert own_interval("fid", np.array([0.02]), np.array([0.03]))[0] < 0, "no share"


def test_bars_of_shares_stay_within_0_and_1(quality: Quality) -> None:
    value, se = pd.Series([0.0]), pd.Series([_adjusted(0, 40)[1]])
    assert error_bar("spelling", value, se) == (0.0, pytest.approx(sum(_adjusted(0, 40))))
    assert error_bar("geneval", value, se) == (0.0, se[0])
    assert error_bar("geneval", pd.Series([0.0, 0.1]), pd.Series([se[0]] * 2)) == (0.0, pytest.approx(0.1))
    low = _relation(quality, "geneval")
    low = replace(low, points=low.points.assign(value=0.01, se=0.02))
    for ax in (plot_quality.plot_loss_against_metric(low), plot_quality.plot_metric_against_compute(low)):
        bars = [seg for c in ax.collections if isinstance(c, LineCollection) for seg in c.get_segments()]
        assert bars
        assert min(float(y) for seg in bars for _, y in seg) >= -1e-12


def test_nothing_is_printed_as_minus_zero() -> None:
    told = [
        numbers.fixed(-0.001, (-0.004, 0.004), 2),
        numbers.number(-0.0),
        numbers.percent(Estimate(1.00001, (0.9999999, 1.2), 3)),
    ]
    assert told[:2] == ["0.00 [0.00, 0.00]", "0.000"]
    assert not any("-0.0 " in words or "-0.00" in words or "-0.0," in words for words in told)
    assert numbers.fixed(-0.006, (-0.1, 0.0), 2) == "-0.01 [-0.10, 0.00]"


def test_spelling_is_shown_against_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis.report.pictures, "DPI", 30)
    world = World({"rf": 1.0, "better": 1.3}, depths=(1, 2, 3))
    report = write_report(write_sweep(tmp_path, "words", world_trials(world), _spelling), "words", tmp_path / "out")
    assert report.quality is not None
    (found,) = report.quality.size_tables
    assert (found.title, found.metrics, found.ceilings[0]) == ("Spelling", ("spelling", "letters"), 1.0)
    assert [row[0].value for row in found.rows.values()] == pytest.approx([0.1, 0.2, 0.3])
    assert report.quality.reasons == {
        "ranks": "No judge of this sweep gave fid.",
        "at_steps": "No judge of this sweep gave clip_score or fid.",
        "few_steps": "No judge of this sweep gave clip_score.",
    }
    page = report.path.read_text()
    assert "Ranks: No judge of this sweep gave fid." in page
    assert "<h3>Spelling</h3>" in page


# --- what the data do not allow ---------------------------------------------------------------------------------------


def _no_correlation(*_: object, **__: object) -> None:
    raise FitError("no.")


@pytest.mark.parametrize(
    ("keep", "name", "words"),
    [
        ("metric != 'fid'", "ranks", "No judge of this sweep gave fid."),
        ("arm == 'rf'", "ranks", "1 arm is scored after its last step; ranking needs two."),
        ("not last", "ranks", "0 arms are scored after its last step; ranking needs two."),
        ("metric == 'geneval'", "at_steps", "No judge of this sweep gave clip_score or fid."),
        ("not last", "at_steps", "No score of the end of training is there yet."),
        ("solver_steps == 50", "few_steps", "not known at two numbers of steps with the same guidance"),
        ("weights == 'raw'", "few_steps", "not known at two numbers of steps with the same guidance"),
    ],
)
def test_a_table_that_cannot_be_made_has_its_reason(
    table: SweepTable, quality: Quality, monkeypatch: pytest.MonkeyPatch, keep: str, name: str, words: str
) -> None:
    monkeypatch.setattr("analysis.quality.summary.correlate", _no_correlation)
    kept = quality.scores.query(keep)[table.quality.columns]
    found = assess(replace(table, quality=kept))
    assert found is not None
    assert words in found.reasons[name]
    assert getattr(found, name) is None
    assert words in wording_quality.quality_text(found)
    assert wording_quality.answer(found)


def test_the_answer_speaks_of_every_headline_metric_and_says_what_may_be_chance(quality: Quality) -> None:
    lines = wording_quality.answer(quality)
    assert [line.split(" improves")[0] for line in lines[:3]] == ["FID", "CLIP score", "GenEval"]
    for line, metric in zip(lines, ("fid", "clip_score", "geneval"), strict=False):
        found = _relation(quality, metric).ends
        assert found is not None
        share = wording_quality.decision(found)
        assert wording_quality.estimate(found.spearman) in line
        assert f"the lower loss has the better {wording_quality.label(metric)} in" in line
        assert f"{wording_quality.decision_words(found)} of {share.n} pairs" in line
        assert ("which may be chance" in line) is (share.low <= 0.5 <= share.high)
    assert "average rank" in lines[3]
    assert S50 not in " ".join(lines)
    assert JUDGE not in " ".join(lines)


@pytest.mark.parametrize(
    ("metric", "spearman", "words"),
    [
        ("fid", (0.9, 0.5, 1.0), "FID improves as the loss falls"),
        ("fid", (-0.9, -1.0, -0.5), "FID gets worse as the loss falls"),
        ("clip_score", (-0.9, -1.0, -0.5), "CLIP score improves as the loss falls"),
        ("clip_score", (0.9, 0.5, 1.0), "CLIP score gets worse as the loss falls"),
        ("clip_score", (-0.4, -0.9, 0.3), "CLIP score is not shown to follow the loss"),
        (
            "fid",
            (0.9, math.nan, math.nan),
            "FID: whether the loss predicts it cannot be told, as",
        ),
    ],
)
def test_the_answer_minds_which_direction_is_better(
    quality: Quality, metric: str, spearman: tuple[float, float, float], words: str
) -> None:
    relation = _relation(quality, metric)
    assert relation.ends is not None
    coin = Statistic(0.6, 0.4, 0.8, 20)
    ends = replace(relation.ends, spearman=Statistic(*spearman, 20), decision=coin, decision_clustered=coin)
    told = wording_quality.relation_answer(replace(relation, ends=ends), several=True)
    assert told.startswith(
        words.replace("FID", f"FID by {JUDGE}") if metric == "fid" else words.replace("score", f"score by {JUDGE}")
    )
    if math.isfinite(spearman[1]):
        assert told.endswith("60 % [40, 80] of 20 pairs, which may be chance.")


def test_labels_and_curves_are_explained(quality: Quality) -> None:
    assert f"{JUDGE}: the judge" in wording_quality.labels_note(quality)
    assert f"{S50}: 50 steps at guidance 2.5, EMA weights" in wording_quality.labels_note(quality)
    used = {c.link for r in quality.relations for c in (r.ends, r.along) if c}
    note = wording_quality.curves_note(quality)
    assert wording_quality.CURVES.keys() == LINKS.keys()
    assert {name for name, shape in wording_quality.CURVES.items() if shape in note} == used
    assert wording_quality.labels_note(quality) in wording_quality.quality_text(quality)


@pytest.mark.parametrize(("gone", "column"), [(("d = 1", "d = 2", "d = 3"), False), (("d = 2",), True)])
def test_a_path_length_that_no_judge_gave_has_no_column_or_a_sentence(
    exact: Quality, gone: tuple[str, ...], column: bool
) -> None:
    missing = (exact.scores["metric"] == "path_length") & exact.scores["size"].isin(gone)
    found = few_steps(exact.scores[~missing])
    assert found.path_known is column
    told = f"{JUDGE} gave no path length" + (" where there is a –." if column else ".")
    assert wording_quality.few_steps_note(found).endswith(told)
    assert exact.few_steps is not None
    assert "path length" not in wording_quality.few_steps_note(exact.few_steps)


@pytest.mark.parametrize(("seeds", "words"), [((0,), "Points: single trials"), ((0, 1), "Points: means over seeds")])
def test_captions_say_what_points_and_bars_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: tuple[int, ...], words: str
) -> None:
    monkeypatch.setattr(analysis.report.pictures, "DPI", 30)
    world = World(THREE, depths=(1, 2), seeds=seeds, noise=0.004, quality=True, profile=True)
    metrics = [
        names.quality_key("path_length", JUDGE, names.setting_label(s, g, w))
        for s, g in SETTINGS
        for w in ("ema", "raw")
    ]

    def without_path(trial: FakeTrial) -> FakeTrial:
        return replace(trial, metrics=[m for m in trial.metrics if m[0] not in metrics])

    report = write_report(write_sweep(tmp_path, "seeds", world_trials(world), without_path), "seeds", tmp_path / "out")
    captions = re.findall("<figcaption>(.*?)</figcaption>", report.path.read_text())
    assert sum(words in caption for caption in captions) == 2
    assert sum("One seed, so no error bars: how far another would differ is not known." in c for c in captions) == 2 * (
        len(seeds) == 1
    )
    assert sum("two standard errors over seeds" in c for c in captions) == 2 * (len(seeds) > 1)
    assert sum("lines may leave it beyond" in c for c in captions) == 1
    page = report.path.read_text()
    assert '<th class="n">path length' not in page
    assert f"{JUDGE} gave no path length." in page
    assert 'href="#quality"' in page
    assert 'id="quality"' in page


def test_few_models_and_constant_metrics_give_a_reason_and_no_correlation(table: SweepTable, quality: Quality) -> None:
    one = assess(replace(table, quality=quality.scores.query("arm == 'rf'")[table.quality.columns]))
    assert one is not None
    assert _relation(one, "fid").ends is None
    assert _relation(one, "fid").ends_reason == (
        "4 models (arm and size) are scored, and a correlation needs 5 or more"
    )
    assert "no correlation with val/loss: 4 models" in wording_quality.quality_text(one)
    same = assess(replace(table, quality=table.quality.assign(value=0.5)))
    assert same is not None
    assert "the same at every point" in _relation(same, "fid").ends_reason
    with house_style():
        assert "few models" in plot_quality.plot_loss_against_metric(_relation(one, "fid")).get_title(loc="left")


# --- figures and report -----------------------------------------------------------------------------------------------


def test_the_scatter_has_every_trial_its_error_and_the_link(quality: Quality) -> None:
    relation = _relation(quality, "clip_score")
    before = dict(mpl.rcParams)
    with house_style():
        ax = plot_quality.plot_loss_against_metric(relation)
    assert dict(mpl.rcParams) == before
    ends = relation.points[relation.points["last"]]
    drawn = {
        (x, y) for c in ax.containers for x, y in zip(*c.lines[0].get_data(), strict=True)  # type: ignore[attr-defined]
    }  # fmt: skip
    assert drawn == set(zip(ends["loss"], ends["value"], strict=True))
    bars = [seg for c in ax.collections if isinstance(c, LineCollection) for seg in c.get_segments()]
    assert {round(float(seg[1][1] - seg[0][1]), 9) for seg in bars} == {2 * 0.002}
    dashed = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert dashed[0].get_ydata() == pytest.approx(relation.curve[1])
    assert any("true images 0.42" in text.get_text() for text in ax.texts)


def test_the_figure_over_solver_steps_shows_means_over_seeds_at_the_largest_size(
    quality: Quality, trials: list[FakeTrial]
) -> None:
    ax = plot_quality.plot_metric_against_steps(quality, "fid", JUDGE)
    line = next(c for c in ax.containers if c.get_label() == "better").lines[0]  # type: ignore[attr-defined]
    assert list(line.get_xdata()) == [5, 10, 25, 50]
    wanted = [
        mean(_logged(trials, "fid", setting=f"s{s}-g5-ema")["better", 4, seed] for seed in (0, 1))
        for s in (5, 10, 25, 50)
    ]
    assert list(line.get_ydata()) == pytest.approx(wanted)


def test_the_report_has_its_section_figures_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis.report.pictures, "DPI", 30)
    world = World(THREE, depths=(1, 2), seeds=(0, 1), noise=0.004, quality=True, along=True)
    uri = write_sweep(tmp_path, "small", world_trials(world), _edited)
    report = write_report(uri, "small", tmp_path / "out")
    page, folder = report.path.read_text(), report.path.parent
    assert page.index('<h2 id="laws">Scaling laws</h2>') < page.index('<h2 id="quality">Sample quality</h2>')
    for name in ("quality_against_loss", "quality_against_steps", "quality_against_compute"):
        assert (folder / f"{name}.png").exists()
    scores = pd.read_csv(folder / "quality.csv")
    assert len(scores) == len(report.table.quality)
    assert {"trial_id", "arm", "formulation", "metric", "judge", "solver_steps", "value", "se", "ceiling"} <= set(
        scores
    )
    assert not [c for c in pd.read_csv(folder / "trials.csv") if "quality" in c]
    assert report.quality is not None
    found = _relation(report.quality, "clip_score").ends
    assert found is not None
    assert found.n == 11
    assert wording_quality.estimate(found.spearman) in page
    assert f"Spearman with val/loss {wording_quality.estimate(found.spearman)} over 11 trials" in report.text
    assert "Average rank by (CLIP score, FID), 1 is best" in report.text
    assert page.count("<td>checkpoints</td>") == len(report.quality.relations) == 3


def test_formulas_of_the_synthetic_world_are_what_was_logged(exact: Quality) -> None:
    """Guards the tests above: without noise the scores are the formulas."""
    for row in exact.scores.query("metric == 'fid' or metric == 'clip_score'").itertuples():
        truth = true_fid if row.metric == "fid" else true_clip
        loss = exact.relations[0].points.set_index("trial_id")["loss"][row.trial_id]
        assert row.value == pytest.approx(truth(loss, row.parameters, row.solver_steps, row.guidance, row.weights))


def test_no_error_of_a_fit_leaves_the_analysis(table: SweepTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.quality.summary.correlate", _no_correlation)
    monkeypatch.setattr("analysis.quality.tables.rank", _no_correlation)
    found = assess(table)
    assert found is not None
    assert {r.ends_reason for r in found.relations} == {"no"}
    assert found.reasons == {"ranks": "no."}
