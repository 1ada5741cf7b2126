"""Figures draw what the results say, in a style that does not leak."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from synthetic_sweep import World, world_trials, write_sweep

from analysis.compare import plot
from analysis.compare.arms import Comparison, Estimate, compare
from analysis.compare.cells import rung_labels
from analysis.laws import plot_ladder
from analysis.laws.ladder import Ladder, ladder_laws
from analysis.laws.misfit import HeldOut
from analysis.laws.plot_ladder import Variable
from analysis.style import PALETTE, house_style, log_axis, log_ticks, looks, new_axes, si, tick_label
from analysis.table.read import SweepTable, read_sweep

Results = tuple[SweepTable, Comparison, Ladder]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    world = World({"rf": 1.0, "better": 1.5, "worse": 0.8}, seeds=(0, 1, 2), noise=0.004, profile=True)
    table = read_sweep(write_sweep(tmp_path_factory.mktemp("plot"), "plot", world_trials(world)), "plot")
    return table, compare(table), ladder_laws(table)


FIGURES: dict[str, Callable[[Results, Axes | None], Axes]] = {
    "compute": lambda r, ax: plot_ladder.plot_loss_against_compute(r[0], r[2], ax=ax),
    "parameters": lambda r, ax: plot_ladder.plot_loss_against_parameters(r[2], ax=ax),
    "learning": lambda r, ax: plot.plot_learning_curves(r[0], "d = 4", ax=ax),
    "levels": lambda r, ax: plot.plot_loss_levels(r[0], "rf", ax=ax),
    "profile": lambda r, ax: plot.plot_denoising_profile(r[0], "rf", ax=ax),
    "ranking": lambda r, ax: plot.plot_ranking(r[1], ax=ax),
    "multiplier": lambda r, ax: plot.plot_compute_multiplier(r[1], ax=ax),
    "trend": lambda r, ax: plot.plot_trend(r[1], ax=ax),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_on_the_axes_given_and_leaves_no_setting_behind(results: Results, name: str) -> None:
    before = dict(mpl.rcParams)
    with house_style():
        given_axes = new_axes()
        assert FIGURES[name](results, given_axes) is given_axes
        fresh = FIGURES[name](results, None)
    assert fresh is not given_axes
    assert dict(mpl.rcParams) == before
    assert given_axes.get_xlabel()
    assert given_axes.get_ylabel() or given_axes.get_yticklabels()
    assert len([t for t in given_axes.get_xticklabels() if t.get_text()]) >= 2, "an axis without ticks says nothing"


def test_the_ends_of_training_are_where_they_were_measured(results: Results) -> None:
    table, _, ladder = results
    ax = plot_ladder.plot_loss_against_compute(table, ladder)
    drawn = {line.get_label(): line for line in ax.get_lines()}
    rows = table.trials[table.trials["arm"] == "better"]
    assert sorted(drawn["better"].get_xdata()) == sorted(rows["train_flops"])
    assert sorted(drawn["better"].get_ydata()) == sorted(rows["val/loss"])


def _dashed(ax: Axes) -> list[Line2D]:
    return [line for line in ax.get_lines() if line.get_linestyle() == "--" and len(np.asarray(line.get_xdata())) > 10]


@pytest.mark.parametrize(("variable", "figure"), [("C", "compute"), ("N", "parameters")])
def test_the_law_that_is_drawn_is_the_law_that_the_page_quotes(
    results: Results, monkeypatch: pytest.MonkeyPatch, variable: Variable, figure: str
) -> None:
    ladder = results[2]
    ax = FIGURES[figure](results, None)
    for law in ladder.laws:
        assert law.law is not None
        value = law.law.estimate(law.arm)
        n = np.geomspace(law.n.min(), law.n.max(), 80)
        drawn = value["E"] + value["A"] / n ** value["alpha"] + value["B"] / law.d_end ** value["beta"]
        assert any(np.allclose(line.get_ydata(), drawn) for line in _dashed(ax)), law.arm
        x = law.n if variable == "N" else law.flops
        for line in _dashed(ax):
            ends = np.asarray(line.get_xdata())[[0, -1]]
            assert ends == pytest.approx((x.min(), x.max())), "only over the sizes that were measured"
    assert len(_dashed(ax)) == 3
    told = [label for label in ax.get_legend_handles_labels()[1] if label.startswith("law of all arms")]
    assert told == ["law of all arms,\nand its 95 % band"]
    spans = [
        float(np.max(law.curve.high / law.curve.low))
        for law in plot_ladder.drawn_laws(ladder, variable, looks(["better", "rf", "worse"]))
    ]
    monkeypatch.setattr(plot_ladder, "BAND_SPAN", sorted(spans)[0] * 1.0001)
    labels = FIGURES[figure](results, None).get_legend_handles_labels()[1]
    assert any("and its 95 % band where\nwithin a factor of" in label for label in labels), "some have none"


def test_a_band_is_drawn_whole_or_not_at_all(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit that a band passes at its ends only, no part of it is drawn, and the legend names none."""
    ladder = results[2]
    spans = {}
    for law in ladder.laws:
        band = law.along_sizes(np.geomspace(law.n.min(), law.n.max(), 80))
        spans[law.arm] = band.high / band.low
    ax = plot_ladder.plot_loss_against_parameters(ladder)
    assert [len(c.get_paths()) for c in ax.collections if isinstance(c, PolyCollection)] == [1, 1, 1]
    monkeypatch.setattr(plot_ladder, "BAND_SPAN", max(map(np.min, spans.values())) * 1.0001)
    assert all(span.max() > plot_ladder.BAND_SPAN for span in spans.values())
    ax = plot_ladder.plot_loss_against_parameters(ladder)
    assert not [c for c in ax.collections if isinstance(c, PolyCollection)]
    assert "law of all arms" in ax.get_legend_handles_labels()[1]
    assert len(_dashed(ax)) == 3


def _with_held_out(ladder: Ladder, interval: tuple[float, float]) -> Ladder:
    """The ladder with this interval for the largest size of every arm."""
    held = HeldOut("d = 4", 1.0, 0.25, interval, 0.25, 1, 3)
    return replace(ladder, laws=tuple(replace(law, held_out=held) for law in ladder.laws))


@pytest.mark.parametrize(
    ("interval", "arrows"), [((0.2, 0.3), ""), ((0.001, 0.3), "v"), ((0.2, 9.0), "^"), ((0.001, 9.0), "v^")]
)
def test_a_bar_that_leaves_the_axis_ends_in_an_arrow_at_its_edge(
    results: Results, interval: tuple[float, float], arrows: str
) -> None:
    table, _, ladder = results
    changed = _with_held_out(ladder, interval)
    for ax in (
        plot_ladder.plot_loss_against_parameters(changed),
        plot_ladder.plot_loss_against_compute(table, changed),
    ):
        edges = dict(zip("v^", ax.get_ylim(), strict=True))
        # formulations have markers too, but theirs are several points or have a label
        found = [
            (str(line.get_marker()), float(np.asarray(line.get_ydata())[0]))
            for line in ax.get_lines()
            if line.get_marker() in ("v", "^")
            and str(line.get_label()).startswith("_")
            and line.get_markerfacecolor() != "none"  # the measured loss beside its prediction
        ]
        assert sorted(found) == sorted([(arrow, edges[arrow]) for arrow in arrows] * 3)
        assert any("95 % interval; open mark:\nmeasured" in label for label in ax.get_legend_handles_labels()[1])


def test_the_trend_figure_shows_the_points_the_line_and_ten_times_the_largest_size(results: Results) -> None:
    comparison = results[1]
    ax = plot.plot_trend(comparison)
    lines = {str(line.get_linestyle()): line for line in ax.get_lines() if line.get_color() == PALETTE[0]}
    (trend,) = [t for t in comparison.trends if t.arm == comparison.standings[0].arm]
    ahead = np.asarray(lines[":"].get_xdata(), float).max()
    assert ahead == pytest.approx(trend.ahead[-1].at)
    assert np.asarray(lines[":"].get_ydata(), float)[-1] == pytest.approx(trend.ahead[-1].ratio.estimate)
    points = np.asarray(lines["None"].get_ydata(), float)
    assert points == pytest.approx([p.ratio.estimate for p in trend.points])


def test_the_ranking_figure_shows_the_intervals_of_the_comparison(results: Results) -> None:
    comparison = results[1]
    ax = plot.plot_ranking(comparison)
    ends = [tuple(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata()) == 2]
    for s in comparison.standings:
        wanted = tuple(100 * (side - 1) for side in s.ratio.interval)
        assert any(np.allclose(wanted, end) for end in ends), s.arm
    assert [t.get_text() for t in ax.get_yticklabels()] == [s.arm for s in comparison.standings]


def test_forests_are_sorted_by_what_they_plot_and_coloured_by_the_side_of_the_interval(results: Results) -> None:
    standings = results[1].standings
    template = standings[0]
    estimates = {"a": (1.2, 1.1, 1.3), "rf": (1.0, 1.0, 1.0), "c": (0.8, 0.7, 0.9), "d": (0.95, 0.8, 1.1)}
    estimates |= {"e": (1.1, math.nan, math.nan), "f": (math.nan, math.nan, math.nan)}
    made = tuple(
        replace(
            template,
            arm=name,
            formulation=name,
            ratio=Estimate(v, (low, high), 3),
            compute_multiplier=Estimate(v, (low, high), 3),
        )
        for name, (v, low, high) in estimates.items()
    )
    comparison = replace(results[1], standings=made, reference="rf")
    for draw, middle in ((plot.plot_ranking, 0), (plot.plot_compute_multiplier, 1)):
        ax = draw(comparison)
        assert [t.get_text() for t in ax.get_yticklabels()] == ["c", "d", "rf", "e", "a", "f"]
        marks = {int(np.asarray(m.get_ydata())[0]): m for m in ax.get_lines() if len(np.asarray(m.get_xdata())) == 1}
        told = [str(marks[y].get_label()) for y in range(5)]
        assert told == [
            f"interval below {middle}", f"around {middle}", "reference", "no interval", f"above {middle}"
        ]  # fmt: skip
        assert len({marks[y].get_color() for y in (0, 1, 2, 4)}) == 4
        legend = ax.get_legend()
        assert legend is not None
        assert [t.get_text() for t in legend.get_texts()] == [told[0], told[1], told[4], told[3]]
    assert "sorted by it" in ax.get_xlabel()


def test_the_low_end_of_a_logarithmic_axis_has_a_tick() -> None:
    assert log_ticks(0.118, 0.26, 5) == pytest.approx([0.12, 0.15, 0.2, 0.25])
    assert log_ticks(1.01, 5.1) == pytest.approx([1.5, 2, 3, 4, 5])


def test_the_levels_are_relative_to_the_reference(results: Results) -> None:
    table = results[0]
    ax = plot.plot_loss_levels(table, "rf")
    drawn = {str(line.get_label()): line for line in ax.get_lines()}
    largest = table.trials[rung_labels(table) == "d = 4"].set_index(["arm", "seed"])["val/velocity_mse/t0.500"]
    ratio = np.exp(np.mean(np.log(largest["worse"] / largest["rf"])))
    assert drawn["worse"].get_ydata()[3] == pytest.approx(100 * (ratio - 1))


def test_seven_formulations_have_seven_colours_and_of_more_the_best_and_the_reference_stand_out() -> None:
    few = looks(list("abcdefg"))
    assert len({look.colour for look in few.values()}) == len({look.marker for look in few.values()}) == 7
    many = looks([f"f{i}" for i in range(20)], reference="f15")
    assert [name for name, look in many.items() if look.shown] == ["f0", "f1", "f2", "f3", "f4", "f5", "f15"]
    assert len({look.colour for look in many.values() if look.shown}) == len(PALETTE)


@settings(max_examples=200, deadline=None)
@given(st.floats(-6, 20), st.floats(0.02, 6))
def test_a_logarithmic_axis_always_has_a_few_ticks_inside(exponent: float, decades: float) -> None:
    low, high = 10.0**exponent, 10.0 ** (exponent + decades)
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 12
    assert all(low * (1 - 1e-9) <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert len({tick_label(tick, "power") for tick in ticks}) == len(ticks), "two ticks must not read the same"


def test_ticks_are_read_as_written() -> None:
    assert log_ticks(0.2, 0.32) == pytest.approx([0.2, 0.22, 0.24, 0.26, 0.28, 0.3, 0.32])
    assert tick_label(3e13, "power") == r"$3{\times}10^{13}$"
    assert tick_label(1e9, "power") == "$10^{9}$"
    assert si(2_620_000) == "2.62 M"
    ax = new_axes()
    ax.set_xlim(3e5, 9e5)
    log_axis(ax, "x", "count")
    assert "400 k" in [t.get_text() for t in ax.get_xticklabels()]
    assert math.isclose(ax.get_xlim()[0], 3e5)
