"""Tuned axes: planted optima and their law are found, with intervals that hold; what tuning moves; ends of lists."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.report.page import report_of
from analysis.table.attention import COLUMNS
from analysis.tuning.law import fit_law, fit_laws
from analysis.tuning.optimum import Optimum, coordinate, independent, optima, value_of
from analysis.tuning.summary import Tuning
from analysis.tuning.surface import Skew, Surface
from analysis.tuning.wording import exponent, law_sentences, rows
from benchmarks.tuned import KEY, World, coverage, exponents

NO_ATTENTION = pd.DataFrame(columns=list(COLUMNS))
EXACT = World(noise=0.0, seed_noise=0.0, seeds=1)


def table_of(world: World, draw: int = 0) -> tuple[Optimum, ...]:
    return optima(world.table(np.random.default_rng(draw)))


@pytest.mark.parametrize("skew", [0.0, 0.006], ids=["parabola", "skewed"])
def test_planted_optima_and_their_law_are_recovered_without_noise(skew: float) -> None:
    """A loss that is a polynomial of the form that is fitted: every optimum, and k, p and q, to rounding."""
    world = replace(EXACT, skew=skew, noise=1e-9)
    found = table_of(world)
    assert all(o.ok for o in found)
    for o in found:
        assert o.value == pytest.approx(world.best(o.n, o.d, o.arm), rel=1e-4)
    law = fit_law(KEY, found)
    assert law.exponent == pytest.approx({"N": world.p, "D": world.q}, abs=1e-4)
    n, d = 1e8, 1e6
    assert law.at("slow", n, d)[0] == pytest.approx(world.best(n, d, "slow"), rel=1e-3)


@pytest.mark.parametrize("world", [World(seed_noise=0.02), World(skew=0.006, lengths=(6e4,))], ids=["both", "skewed"])
def test_intervals_hold_planted_rates(world: World) -> None:
    """Share of the 95 % intervals that hold eta*; bounds are three binomial errors of so few tables apart. The table of
    200 is in docs/ladders.md."""
    found = coverage(world, 30, seed=7)
    assert 0.92 <= found["places"] <= 0.98  # of 300 places or more
    for name in ("N", "law"):
        assert found[name] >= 0.85, name


def test_exponents_are_biased_with_the_rate_held_and_not_with_it_tuned() -> None:
    ways = exponents(World(noise=0.001, seed_noise=0.0, seeds=1, arms=("rf",), curvature=0.05), 3)
    held, tuned = (np.array(ways[way])[:, 0].mean() / 0.40 for way in ("held", "tuned"))
    assert abs(tuned - 1) < 0.05 < 0.15 < abs(held - 1)


def test_an_optimum_at_the_end_of_its_list_is_said_and_in_no_law() -> None:
    world = replace(EXACT, noise=1e-6, rates=World().rates[4:])
    found = table_of(world)
    beyond = [o for o in found if world.best(o.n, o.d, o.arm) < world.rates[0] * 0.99]
    assert beyond
    assert all(o.where == "lowest" and math.isnan(o.value) for o in beyond)
    tuning = Tuning(found, (fit_law(KEY, found),), None)  # type: ignore[arg-type]
    assert any("At the end of its list" in line and "--next" in line for line in law_sentences(tuning))
    assert len(rows(tuning)) == len(found)


def test_what_is_flat_or_short_has_no_optimum_and_a_reason() -> None:
    flat = table_of(World(curvature=1e-6, noise=0.01))
    assert all(not o.ok and o.reason for o in flat if o.where == "unknown")
    assert sum(o.ok for o in flat) < 0.2 * len(flat)
    short = table_of(World(rates=World().rates[3:5]))
    assert {o.reason for o in short} == {"a parabola needs 3 values near the best one"}
    law = fit_law(KEY, short)
    assert "three optima" in law.reason
    assert law.exponent == {}


def test_two_axes_at_once_have_the_optimum_of_the_surface() -> None:
    """log L = (u - 1)^2 + (v - 2)^2 + (u - 1)(v - 2): the optimum is (1, 2), also where the axes lean on each other."""
    u, v = (g.ravel() for g in np.meshgrid(np.linspace(0, 2, 4), np.linspace(1, 3, 4)))
    y = (u - 1) ** 2 + (v - 2) ** 2 + (u - 1) * (v - 2)
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(800):
        surface = Surface.of(np.column_stack([u, v]), y + 0.02 * rng.standard_normal(16), np.zeros(16, int))
        skew = Skew.of([surface])
        assert skew.d == 0
        for j, truth in ((0, 1.0), (1, 2.0)):
            one = surface.optimum(j, skew)
            hits.append(one.interval[0] <= truth <= one.interval[1])
    assert 0.91 <= np.mean(hits) <= 0.98


def test_the_skew_is_shared_and_lowers_no_coverage_where_there_is_none() -> None:
    """With d = 0 planted its estimate is within three errors of 0, over many places."""
    x = np.log(World().rates)
    rng = np.random.default_rng(1)
    surfaces = [
        Surface.of(x[:, None], 0.03 * (x - m) ** 2 + 0.003 * rng.standard_normal(8), np.zeros(8, int))
        for m in np.linspace(x[2], x[5], 40)
    ]
    skew = Skew.of(surfaces)
    assert abs(skew.d) < 3 * skew.noise * math.sqrt(skew.unscaled)
    assert skew.noise == pytest.approx(0.003, rel=0.3)


def test_decays_are_measured_from_one_and_lengths_follow() -> None:
    assert value_of("training.ema_decay", float(coordinate("training.ema_decay", np.array(0.999)))) == pytest.approx(
        0.999
    )
    frame = pd.DataFrame(
        {
            "arm": "rf", "rung": "d = 1", "training.steps": [400, 200, 100], "training.batch": [16, 32, 64],
            "training.precision": ["fp32", "bf16", "fp32"],
        }
    )  # fmt: skip
    keys = ["training.steps", "training.precision", "training.batch"]
    assert independent(keys, frame) == ("training.batch",)


def test_where_size_and_length_grow_together_the_law_is_along_them() -> None:
    world = replace(EXACT, noise=1e-6)
    found = [o for o in table_of(world) if (o.n, o.d) in {(2e5, 2e4), (1.8e6, 6e4), (1.6e7, 1.8e5)}]
    law = fit_law(KEY, found)
    assert law.variables == ("N",) or not law.note
    together = fit_law(KEY, [replace(o, d=o.n / 30) for o in found])
    assert together.variables == ("N",)
    assert "grow together" in together.note


def planted(arm: str, power: float, seed: int) -> list[Optimum]:
    """Optima of a law N^power with an error of 5 % each, at four sizes."""
    rng = np.random.default_rng(seed)
    out = []
    for n in (2e4, 2e5, 6e5, 2e6):
        value = 0.01 * (n / 2e5) ** power * math.exp(0.05 * rng.standard_normal())
        sides = (value * math.exp(-0.1), value * math.exp(0.1))
        known = {"value": value, "interval": sides, "log_se": 0.05, "log_loss": -1.0}
        out.append(Optimum(KEY, arm, f"{n:.0f}", n, 6400.0, value, (0.002, 0.05), (1.0, 1.0), "inside", **known))
    return out


def test_arms_whose_exponents_differ_have_a_law_each() -> None:
    """A rate that stays where it is under mup, beside one that falls: their mean would be neither's."""
    found = [*planted("mup", 0.0, 1), *planted("one rate", -0.28, 2)]
    laws = {law.arms: law for law in fit_laws(KEY, found)}
    assert set(laws) == {("mup",), ("one rate",)}
    for arm, power in (("mup", 0.0), ("one rate", -0.28)):
        low, high = laws[arm,].interval["N"]
        assert low <= power <= high
        assert high - low < 0.2
    tuning = Tuning(tuple(found), tuple(laws.values()), None)  # type: ignore[arg-type]
    told = " ".join(law_sentences(tuning))
    assert "The learning rate that is best for mup: eta* = k N^" in told
    assert told.count("One exponent for all arms does not fit (p < 0.001).") == 1
    assert tuning.keys == (KEY,)


def test_arms_of_one_exponent_share_it_but_for_chance() -> None:
    shared = [len(fit_laws(KEY, [*planted("a", -0.2, i), *planted("b", -0.2, 1000 + i)])) == 1 for i in range(300)]
    assert np.mean(shared) > 0.97  # 99 % are meant


def test_an_arm_with_too_few_optima_has_no_law_of_its_own() -> None:
    found = [*planted("mup", 0.0, 1), *planted("one rate", -0.28, 2)[:2]]
    assert [law.arms for law in fit_laws(KEY, found)] == [("mup", "one rate")]


def test_the_report_has_the_optima_the_laws_and_what_tuning_moves(tmp_path: Path) -> None:
    world = World(arms=("rf",), seeds=1, sizes=World().sizes[:4], lengths=World().lengths[:3])
    report = report_of(world.table(np.random.default_rng(0)), NO_ATTENTION, tmp_path)
    page = report.path.read_text()
    for told in (
        "The learning rate that is best: eta* = k N^",
        "Held there instead",
        'id="fig-tuned_loss"',
        "tuned.csv",
    ):
        assert told in page, told
    assert list(pd.read_csv(tmp_path / "tuned.csv")["arm"]) == ["rf"] * 12


@pytest.mark.parametrize(
    ("value", "sides", "said"),
    [
        (0.628, (0.496, 0.781), "0.628 [0.496, 0.781]"),
        (8.0, (0.136, 1.656), "not told [0.136, 1.656]"),
        (0.628, (math.nan, math.nan), "0.628"),
    ],
)
def test_an_exponent_outside_its_interval_is_no_estimate(value: float, sides: tuple[float, float], said: str) -> None:
    """8 is the end of the search for an exponent; its interval is that of the resamples, which did not run there."""
    assert exponent(value, sides) == said
