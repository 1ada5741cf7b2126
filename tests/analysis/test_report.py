"""The report: self-contained, honest about what it cannot say, safe against what users write."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic_sweep import ALPHA, BETA, E, FakeTrial, World, world_trials, write_sweep

import analysis.report.page
import analysis.report.pictures
from analysis.laws.ladder import ladder_laws
from analysis.report.figures import FIGURES, ReportFigure, Results
from analysis.report.page import Report, write_report
from analysis.report.pictures import Draw
from analysis.table.read import TableError, read_sweep
from rfscale import names

THREE = {"rf": 1.0, "rf/lognorm(0.00,1.00)": 1.4, "eps/linear": 0.8}
EVIL = "<script>alert('owned')</script> & \"why\"?"


def _evil(trial: FakeTrial) -> FakeTrial:
    diverged = trial.params["depth"] == 2 and trial.params["formulation"] == "eps/linear"
    status = {names.TAG_STATUS: names.DIVERGED, names.TAG_REASON: EVIL} if diverged else {}
    return replace(trial, tags={**trial.tags, names.TAG_QUESTION: EVIL, **status})


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("report")
    world = World(THREE, noise=0.002, profile=True)
    uri = write_sweep(folder, "quick", world_trials(world), _evil)
    write_report(uri, "quick", folder / "out")
    return write_report(uri, "quick", folder / "out")  # again, over the first


def test_the_page_stands_alone(report: Report) -> None:
    page = report.path.read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)", page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert page.count("data:image/png;base64,") == 8


def test_what_users_write_is_text_and_not_markup(report: Report) -> None:
    page = report.path.read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;owned&#39;)") == 2  # the question and the reason


def test_the_folder_holds_the_figures_and_the_tables_and_nothing_half_written(report: Report) -> None:
    files = {path.name for path in report.path.parent.iterdir()}
    assert {"report.html", "trials.csv", "curves.csv", "rejected.csv", "ranking.csv"} <= files
    assert {"loss_against_compute.png", "learning_curves.png", "loss_per_level.png", "ranking.png"} <= files
    assert not [name for name in files if name.startswith(".")]
    trials = pd.read_csv(report.path.parent / "trials.csv")
    assert list(trials[names.VAL_LOSS]) == pytest.approx(list(report.table.trials[names.VAL_LOSS]))
    assert list(pd.read_csv(report.path.parent / "rejected.csv")["reason"]) == [EVIL]


def test_the_text_has_ranking_exponent_prediction_and_path(report: Report) -> None:
    text = report.text
    assert text.index("1.  rf/lognorm(0.00,1.00)") < text.index("2.  rf ") < text.index("3.  eps/linear")
    law = report.laws.law("rf/lognorm(0.00,1.00)")
    held, now = law.held_out, law.now
    assert held is not None
    assert now is not None
    assert f"by the law a FLOP is worth {now.compute[0]:.2f} [" in text
    assert re.search(r"alpha 0\.\d+ \[0\.\d+, 0\.\d+\]", text)
    assert re.search(r"d = 4: predicted 0\.\d+ \[0\.\d+, 0\.\d+\] from the smaller ones, measured", text)
    assert f"measured {held.measured:.4f}: {abs(100 * held.miss):.1f} % too" in text
    assert f"an interval of a factor of {held.width:.3g}" in text
    assert "1 run was left out; the report says why" in text
    assert text.endswith(str(report.path))
    assert "one seed" in text.lower()
    assert text.index("(d: blocks of the model)") < text.index("d = 4:"), "explained at its first place"


def test_the_captions_say_what_the_figures_of_the_laws_show(report: Report) -> None:
    page = report.path.read_text()
    assert page.count("Dashed: the law of all arms at the end of training, over the sizes that it was fitted to") == 4
    assert page.count("an arrow: the interval goes on beyond the figure") == 4, "in the caption, and as its alternative"
    laws = pd.read_csv(report.path.parent / "laws.csv")
    assert set(laws["arm"]) == set(THREE)
    assert laws["E"].nunique() == 1


def test_the_page_answers_and_says_how_it_was_run(report: Report) -> None:
    page = report.path.read_text()
    assert "rf/lognorm(0.00,1.00) has the lowest validation loss" in page
    assert "one seed cannot give an interval" in page
    assert "Does it hold as the model grows?" in page
    for symbol in ("L: val/loss.", "N: trainable parameters.", "d: blocks of the model."):
        assert symbol in page.split("<figure>")[0], "explained at its first place"
    for fact in (
        "rfscale run experiments/quick.yaml",
        "0123456789abcdef",
        "torch 2.13.0",
        "d = 1, d = 2, d = 3, d = 4",
    ):
        assert fact in page


def test_a_known_law_is_recovered_from_seeds_and_its_largest_size_predicted(tmp_path: Path) -> None:
    world = World({"rf": 1.0}, depths=(1, 2, 3, 4, 6, 8, 10), seeds=range(4), noise=0.002)
    law = ladder_laws(read_sweep(write_sweep(tmp_path, "law", world_trials(world)), "law")).law("rf")
    assert law.law is not None
    found = law.law.interval("rf")
    for name, truth in (("alpha", ALPHA), ("beta", BETA), ("E", E)):
        assert found[name][0] < truth < found[name][1], name
    assert law.held_out is not None
    assert law.held_out.label == "d = 10"
    assert law.held_out.inside
    assert law.held_out.width < 1.1
    assert law.status == "ok"


def test_an_exponent_of_few_sizes_is_that_of_the_law_with_its_floor_and_its_interval_holds_the_truth(
    tmp_path: Path,
) -> None:
    """Three sizes with many seeds: a law with E forced to 0 is sure of an exponent that is wrong."""
    world = World({"rf": 1.0}, depths=(1, 2, 4), seeds=range(8), noise=0.001)
    law = ladder_laws(read_sweep(write_sweep(tmp_path, "e", world_trials(world)), "e")).law("rf")
    assert law.law is not None
    low, high = law.law.interval("rf")["alpha"]
    assert low < ALPHA < high


@pytest.mark.parametrize(
    ("world", "words"),
    [
        (World(THREE, depths=(2,)), "at the one size; one seed cannot give an interval"),
        (World({"rf": 1.0}, depths=(2,)), "needs 3 sizes, there are 1"),
        (World(THREE, depths=(1, 2)), "needs 3 sizes, there are 2"),
        (World({"rf": 1.0}), "rf is the only formulation"),
        (World(THREE, depths=(1, 2, 3), steps=(200, 600)), "the longest of 2 ladders"),
    ],
)
def test_what_cannot_be_said_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World, words: str
) -> None:
    monkeypatch.setattr(analysis.report.pictures, "DPI", 30)
    uri = write_sweep(tmp_path, "thin", world_trials(world))
    report = write_report(uri, "thin", tmp_path / "out")
    assert words in report.path.read_text()


def test_a_sweep_without_a_finished_trial_writes_nothing(tmp_path: Path) -> None:
    def failed(trial: FakeTrial) -> FakeTrial:
        return replace(trial, tags={**trial.tags, names.TAG_STATUS: names.FAILED, names.TAG_REASON: "out of memory"})

    uri = write_sweep(tmp_path, "lost", world_trials(World(THREE)), failed)
    with pytest.raises(TableError, match="of 12, 12 failed; the first of them: out of memory"):
        write_report(uri, "lost", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_figure_is_added_by_one_function_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _losses(results: Results) -> tuple[str, Draw]:
        def draw() -> Figure:
            figure = Figure()
            figure.subplots().plot(results.table.trials[names.VAL_LOSS])
            return figure

        return "Every <b>loss</b>.", draw

    added = (*FIGURES, ReportFigure("losses", "ranking", _losses), ReportFigure("absent", "ranking", lambda _: None))
    monkeypatch.setattr(analysis.report.page, "FIGURES", added)
    uri = write_sweep(tmp_path, "quick", world_trials(World(THREE, noise=0.002)))
    page = write_report(uri, "quick", tmp_path / "out").path.read_text()
    assert "Every &lt;b&gt;loss&lt;/b&gt;." in page[page.index("<h2>Ranking") : page.index("<h2>Scaling laws")]
    assert (tmp_path / "out" / "losses.png").stat().st_size > 1000
    assert not (tmp_path / "out" / "absent.png").exists()
