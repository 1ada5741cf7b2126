"""Figures draw what they are given, on the axes they are given."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.laws import FitError, FitResult, fit, fit_power, isoflop, profile
from analysis.laws.plot import FIGURES, plot_fit, plot_law, plot_pairs, plot_profile, plot_rollout, plot_surface
from analysis.style import house_style


@pytest.fixture(scope="module")
def surface() -> FitResult:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    noise = np.random.default_rng(0).normal(size=36)
    loss = (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * np.exp(0.004 * noise)
    return fit("chinchilla", {"N": n, "D": d, "loss": loss}, bootstrap=100)


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_of_a_fit_draws_on_the_given_axes(name: str, surface: FitResult) -> None:
    ax = Figure().subplots()
    assert FIGURES[name](surface, ax=ax) is ax
    assert ax.has_data()
    ax.figure.canvas.draw()
    assert isinstance(FIGURES[name](surface), Axes)


def test_law_of_one_variable_shows_every_run_and_ends_beyond_the_largest(surface: FitResult) -> None:
    c = 6 * surface.problem.x["N"] * surface.problem.x["D"]
    result = fit("C", {"C": c, "loss": surface.problem.loss}, bootstrap=50, checks=False)
    ax = plot_law(result)
    drawn = sum(len(line.get_xdata()) for line in ax.get_lines() if line.get_linestyle() == "None")
    assert drawn == 36
    assert ax.get_xlim()[1] > 2 * c.max()


def test_isoflop_shows_minima_on_their_curves() -> None:
    rows = []
    for c in (1e18, 1e19, 1e20):
        n = (c / 6) ** 0.5 * np.geomspace(0.2, 5.0, 7)
        rows.append(np.stack([np.full(7, c), n, 1.7 + 400 * n**-0.35 + 400 * (c / 6 / n) ** -0.35]))
    c, n, loss = np.concatenate(rows, axis=1)
    result = isoflop({"C": c, "N": n, "loss": loss})
    ax = plot_fit(result)
    diamonds = next(line for line in ax.get_lines() if line.get_marker() == "D")
    assert len(diamonds.get_xdata()) == 3
    assert isinstance(plot_fit(result.size), Axes)


def test_profile_is_lowest_at_the_estimate(surface: FitResult) -> None:
    ax = plot_profile(profile(surface, "alpha"))
    curve = ax.get_lines()[0]
    lowest = curve.get_xdata()[np.argmin(curve.get_ydata())]
    assert lowest == pytest.approx(surface.estimate["alpha"], rel=0.05)


def test_what_cannot_be_drawn_says_so(surface: FitResult) -> None:
    with pytest.raises(FitError, match="no bootstrap draws of 'gamma'"):
        plot_pairs(surface, x="gamma")
    bare = fit("N", {"N": [1e6, 1e7, 1e8], "loss": [0.9, 0.7, 0.6]}, checks=False)
    with pytest.raises(FitError, match="no held-out test"):
        plot_rollout(bare)


def test_the_legend_of_the_surface_covers_nothing_of_it(surface: FitResult) -> None:
    with house_style():
        ax = plot_surface(surface)
        FigureCanvasAgg(ax.figure).draw()
        legend = ax.get_legend().get_window_extent()
        assert legend.y0 >= ax.get_window_extent().y1
        assert legend.width < ax.get_window_extent().width
        labels = [text for text in ax.texts if text.get_text()]
        assert labels
        assert not [text for text in labels if text.get_window_extent().overlaps(legend)]


@pytest.mark.parametrize("factor", [None, 2.5])
def test_the_runs_of_a_surface_stand_at_measured_compute_where_there_is_any(factor: float | None) -> None:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    data = {"N": n, "D": d, "loss": 1.8 + 480 * n**-0.35 + 2100 * d**-0.37}
    result = fit("chinchilla", data if factor is None else {**data, "C": factor * n * d}, bootstrap=0, checks=False)
    ax = plot_surface(result)
    dots = next(c for c in ax.collections if len(c.get_offsets()) == 36)
    np.testing.assert_allclose(dots.get_offsets()[:, 0], (factor or 6.0) * n * d)
    assert ("6 N D (FLOPs), not measured" in ax.get_xlabel()) is (factor is None)
    frontier = ax.get_lines()[0]  # N_opt at each compute: at the same N D it is the same size
    size = float(np.interp(np.log(1e20), np.log(frontier.get_xdata() / (factor or 6.0)), np.log(frontier.get_ydata())))
    e = result.estimate
    best = (e["alpha"] * e["A"] / (e["beta"] * e["B"])) ** (1 / (e["alpha"] + e["beta"])) * 1e20 ** result.derived["a"]
    assert np.exp(size) == pytest.approx(best, rel=0.01)


def test_a_power_law_names_its_axes_and_its_band() -> None:
    x = np.geomspace(1e18, 1e21, 5)
    result = fit_power(x, 3.0 * x**0.5 * np.array([1.0, 1.1, 0.9, 1.05, 1.0]))
    ax = plot_fit(result, columns={"x": "flops", "y": "N_opt"})
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("flops", "N_opt")
    names = ["line, 95 %", f"$a = {result.exponent:.3f}$", "points"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names
    two = plot_fit(fit_power(x[:2], x[:2]))
    assert "line, 95 %" not in [text.get_text() for text in two.get_legend().get_texts()]


def test_the_legend_of_the_surface_names_the_band_that_is_drawn_and_the_predictions(surface: FitResult) -> None:
    asked = [surface.predict({"N": 1e11, "D": 1e13}), surface.predict({"N": 1e8, "D": 1e13})]
    ax = plot_fit(surface, predictions=asked)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names[1] == "its 95 % band"
    assert [name.split(":")[0] for name in names[2:]] == ["predicted", "predicted"]
    assert f"{asked[0].value[0]:.4g}" in names[2]
    stars = [line for line in ax.get_lines() if line.get_marker() in "*P"]
    assert [float(line.get_xdata()[0]) for line in stars] == pytest.approx([6e24, 6e21])
    assert [float(line.get_ydata()[0]) for line in stars] == [1e11, 1e8]
    assert ax.get_xlim()[1] > 6e24
    band = next(c for c in ax.collections if c.get_label() == "its 95 % band")
    shown = ax.get_legend().legend_handles[1]
    assert shown.get_facecolor() == pytest.approx(band.get_facecolor()[0])


def test_a_curve_shows_its_predictions_with_their_intervals() -> None:
    n = np.geomspace(1e6, 1e9, 14)
    loss = (1.7 + 400 * n**-0.34) * np.exp(0.003 * np.random.default_rng(0).normal(size=14))
    result = fit("N", {"N": n, "loss": loss}, bootstrap=50, checks=False)
    asked = result.predict({"N": 1e11})
    ax = plot_fit(result, predictions=[asked])
    star = next(line for line in ax.get_lines() if line.get_marker() == "*")
    assert (float(star.get_xdata()[0]), float(star.get_ydata()[0])) == (1e11, asked.value[0])
    assert ax.get_xlim()[1] > 1e11
    bars = [path for c in ax.collections for path in c.get_paths() if len(path.vertices) == 2]
    (bar,) = bars
    assert bar.vertices[:, 1].tolist() == pytest.approx([asked.prediction_low[0], asked.prediction_high[0]])


def test_where_size_and_data_are_not_told_apart_no_surface_is_drawn() -> None:
    n = np.geomspace(1e7, 1e10, 12)
    loss = (1.8 + 480 * n**-0.35 + 2100 * (20 * n) ** -0.37) * np.exp(0.004 * np.random.default_rng(0).normal(size=12))
    ax = plot_fit(fit("chinchilla", {"N": n, "D": 20 * n, "loss": loss}))
    assert ax.get_xlabel() == "predicted loss"
