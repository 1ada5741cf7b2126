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
from analysis.laws.misfit import HeldOut, Miss
from analysis.laws.plot_ladder import Variable
from analysis.style import FAINT, PALETTE, house_style, log_axis, log_ticks, looks, new_axes, places_of, si, tick_label
from analysis.table.read import SweepTable, read_sweep

Results = tuple[SweepTable, Comparison, Ladder]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    world = World({"rf": 1.0, "better": 1.5, "worse": 0.8}, seeds=(0, 1, 2), noise=0.004, profile=True)
    table = read_sweep(write_sweep(tmp_path_factory.mktemp("plot"), "plot", world_trials(world)), "plot")
    return table, compare(table), ladder_laws(table)


FIGURES: dict[str, Callable[[Results, Axes | None], Axes]] = {
    "compute": lambda r, ax: plot_ladder.plot_loss_against_compute(r[0], r[2], ax=ax),
    "parameters": lambda r, ax: plot_ladder.plot_loss_against_parameters(r[0], r[2], ax=ax),
    "held out": lambda r, ax: plot_ladder.plot_held_out(r[2], ax=ax),
    "learning": lambda r, ax: plot.plot_learning_curves(r[0], "d = 4", ax=ax),
    "levels": lambda r, ax: plot.plot_loss_levels(r[0], "rf", ax=ax),
    "profile": lambda r, ax: plot.plot_denoising_profile(r[0], "rf", ax=ax),
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
    ax = plot_ladder.plot_loss_against_parameters(results[0], ladder)
    assert [len(c.get_paths()) for c in ax.collections if isinstance(c, PolyCollection)] == [1, 1, 1]
    monkeypatch.setattr(plot_ladder, "BAND_SPAN", max(map(np.min, spans.values())) * 1.0001)
    assert all(span.max() > plot_ladder.BAND_SPAN for span in spans.values())
    ax = plot_ladder.plot_loss_against_parameters(results[0], ladder)
    assert not [c for c in ax.collections if isinstance(c, PolyCollection)]
    assert "law of all arms" in ax.get_legend_handles_labels()[1]
    assert len(_dashed(ax)) == 3


def _with_held_out(ladder: Ladder, interval: tuple[float, float]) -> Ladder:
    """The ladder with this interval for the largest size of every arm."""
    held = HeldOut("d = 4", 1.0, 0.25, interval, 0.25, 1, 3)
    return replace(ladder, laws=tuple(replace(law, held_out=held) for law in ladder.laws))


@pytest.mark.parametrize(
    ("interval", "arrows"), [((0.2, 0.3), ""), ((0.001, 0.3), "<"), ((0.2, 9.0), ">"), ((0.001, 9.0), "<>")]
)
def test_a_bar_that_leaves_the_axis_ends_in_an_arrow_at_its_edge(
    results: Results, interval: tuple[float, float], arrows: str
) -> None:
    ax = plot_ladder.plot_held_out(_with_held_out(results[2], interval))
    edges = dict(zip("<>", ax.get_xlim(), strict=True))
    found = [
        (str(line.get_marker()), float(np.asarray(line.get_xdata())[0]))
        for line in ax.get_lines()
        if line.get_marker() in ("<", ">")
    ]
    assert sorted(found) == sorted([(arrow, edges[arrow]) for arrow in arrows] * 3)
    (left, right), inside = ax.get_xlim(), [side for side in interval if 0.1 < side < 1]
    assert all(left < side < right for side in (0.25, *inside)), "what was predicted and measured is on the axis"


def test_the_held_out_figure_shows_what_was_predicted_beside_what_was_measured(results: Results) -> None:
    ladder = results[2]
    ax = plot_ladder.plot_held_out(ladder)
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert set(rows) == {law.arm for law in ladder.laws}
    points = {(float(np.asarray(m.get_xdata())[0]), float(np.asarray(m.get_ydata())[0])) for m in ax.get_lines()}
    for y, arm in enumerate(rows):
        held = ladder.law(arm).held_out
        assert held is not None
        assert {(held.predicted, y), (held.measured, y)} <= points, arm


def test_a_law_that_misses_its_losses_is_not_drawn_and_the_caption_says_so(results: Results) -> None:
    table, _, ladder = results
    laws = tuple(
        replace(law, miss=Miss("d = 1", 0.2, 0.001, "seeds")) if law.arm == "worse" else law for law in ladder.laws
    )
    changed, look = replace(ladder, laws=laws), looks(["better", "rf", "worse"])
    assert [law.arm for law in plot_ladder.drawn_laws(changed, "N", look)] == ["better", "rf"]
    assert len(_dashed(plot_ladder.plot_loss_against_compute(table, changed, look=look))) == 2
    assert "No line for worse: the law misses these losses" in plot_ladder.caption(changed, "N", look)
    assert "No line" not in plot_ladder.caption(ladder, "N", look)


def test_the_trend_figure_shows_the_points_the_line_and_ten_times_the_largest_size(results: Results) -> None:
    comparison = results[1]
    ax = plot.plot_trend(comparison)
    colour = looks([s.arm for s in comparison.standings], comparison.reference)[comparison.best.arm].colour
    lines = {str(line.get_linestyle()): line for line in ax.get_lines() if line.get_color() == colour}
    (trend,) = [t for t in comparison.trends if t.arm == comparison.standings[0].arm]
    ahead = np.asarray(lines[":"].get_xdata(), float).max()
    assert ahead == pytest.approx(trend.ahead[-1].at)
    assert np.asarray(lines[":"].get_ydata(), float)[-1] == pytest.approx(trend.ahead[-1].ratio.estimate)
    points = np.asarray(lines["None"].get_ydata(), float)
    assert points == pytest.approx([p.ratio.estimate for p in trend.points])


def test_the_ranking_figure_shows_the_intervals_of_the_comparison(results: Results) -> None:
    comparison = results[1]
    loss, compute = plot.plot_ranking(comparison).axes
    for ax, field in ((loss, "ratio"), (compute, "compute_multiplier")):
        ends = [tuple(line.get_xdata()) for line in ax.get_lines() if len(line.get_xdata()) == 2]
        for s in comparison.standings:
            wanted = getattr(s, field).interval
            assert s.arm == comparison.reference or any(np.allclose(wanted, end) for end in ends), s.arm
    assert [t.get_text() for t in loss.get_yticklabels()] == [s.arm for s in comparison.standings]


def test_forests_have_the_looks_of_the_arms_and_fill_marks_whose_interval_leaves_out_1(results: Results) -> None:
    template = results[1].standings[0]
    estimates = {"c": (0.8, 0.7, 0.9), "d": (0.95, 0.8, 1.1), "rf": (1.0, 1.0, 1.0), "a": (1.2, 1.1, 1.3)}
    estimates |= {"e": (1.1, math.nan, math.nan), "f": (math.nan, math.nan, math.nan)}
    made = tuple(
        replace(template, arm=name, ratio=Estimate(v, side, 3), compute_multiplier=Estimate(v, side, 3))
        for name, (v, *sides) in estimates.items()
        for side in [(sides[0], sides[1])]
    )
    comparison, look = replace(results[1], standings=made, reference="rf"), looks(list(estimates))
    for ax in plot.plot_ranking(comparison, look=look).axes:
        marks = {int(np.asarray(m.get_ydata())[0]): m for m in ax.get_lines() if len(np.asarray(m.get_xdata())) == 1}
        assert set(marks) == {0, 1, 2, 3, 4}, "what is not known is not drawn"
        for y, arm in enumerate(list(estimates)[:5]):
            assert (marks[y].get_color(), marks[y].get_marker()) == (look[arm].colour, look[arm].marker)
        assert [marks[y].get_markerfacecolor() != "white" for y in range(5)] == [True, False, True, True, False]
        ends = [line for line in ax.get_lines() if len(set(np.asarray(line.get_ydata()))) == 1 < len(line.get_xdata())]
        assert len(ends) == 3, "no interval of the reference, and none where none is known"


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


def test_an_arm_has_one_look_by_its_name_whatever_its_rank() -> None:
    names = [f"f{i}" for i in range(20)]
    one, other = looks(names, "f15"), looks(names[::-1], "f15")
    for name in names:
        assert (one[name].colour, one[name].marker) == (other[name].colour, other[name].marker)
    assert len({(look.colour, look.marker) for look in one.values()}) == 20
    few = looks(names[: len(PALETTE)])
    assert len({look.colour for look in few.values()}) == len(PALETTE), "no colour twice before all are in use"
    assert [name for name, look in one.items() if look.shown] == ["f0", "f1", "f2", "f3", "f4", "f5", "f15"]
    assert {look.alpha for look in one.values()} == {1.0, FAINT}


def test_arms_that_come_later_move_none_that_are_there() -> None:
    names = [f"arm {i}" for i in range(30)]
    places: dict[str, int] = {}
    for i in range(0, 30, 7):
        before = dict(places)
        places = places_of(names[i : i + 7], places)
        assert before.items() <= places.items()
    assert len(set(places.values())) == 30
    assert set(range(2 * len(PALETTE))) < set(places.values()), "no colour a third time before all were there twice"
    assert places_of(names[::-1], {}) == places_of(names, {})


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
