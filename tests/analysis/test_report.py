"""The report: self-contained, honest about what it cannot say, safe against what users write."""

from __future__ import annotations

import json
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
from analysis.report.palette import kept_places
from analysis.report.pictures import Draw
from analysis.style import PALETTE
from analysis.table.read import read_sweep
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
    return write_report(uri, "quick", folder / "out", command="rfscale report quick.yaml")  # again, over the first


def test_the_page_stands_alone(report: Report) -> None:
    page = report.path.read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|#)", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\")|@import|url\((?!#)", page)
    assert page.count('<svg class="fig"') + page.count('class="fig"') >= 7
    ids = re.findall(r"\sid=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids)), "several figures stand in one page"
    for pointed in set(re.findall(r"href=\"#([^\"]+)\"|url\(#([^)]+)\)", page)):
        assert set(filter(None, pointed)) <= set(ids)


def test_what_users_write_is_text_and_not_markup(report: Report) -> None:
    page = report.path.read_text()
    assert page.count("<script") == page.count("</script>") == 1, "the page's own"
    assert page.count("&lt;script&gt;alert(&#39;owned&#39;)") == 2  # the question and the reason


def test_the_folder_holds_the_figures_and_the_tables_and_nothing_half_written(report: Report) -> None:
    files = {path.name for path in report.path.parent.iterdir()}
    assert {"report.html", "trials.csv", "curves.csv", "rejected.csv", "ranking.csv"} <= files
    for name in ("loss_against_compute", "learning_curves", "loss_per_level", "ranking", "held_out", "trend"):
        assert {f"{name}.png", f"{name}.svg", f"{name}.pdf"} <= files
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for ending, start in starts.items():
        assert (report.path.parent / f"trend{ending}").read_bytes().startswith(start)
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
    assert page.count("Dashed: the law at the end of training, over the sizes that it was fitted to") == 4, (
        "in two captions, and as the alternatives of the figures"
    )
    assert page.count("The largest size, d = 4, as the law of the smaller ones predicts it") == 2
    laws = pd.read_csv(report.path.parent / "laws.csv")
    assert set(laws["arm"]) == set(THREE)
    assert laws["E"].nunique() == 1


def test_the_page_answers_and_says_how_it_was_run(report: Report) -> None:
    page = report.path.read_text()
    first = page.split("<nav")[0]
    for card in ("Which formulation wins?", "Does it hold as models grow?", "What does the next scale give?"):
        assert card in first
    assert "rf/lognorm(0.00,1.00) is lowest, untested" in first
    assert "One seed gives no interval, so this may be chance." in first
    assert "d: blocks of the model." in first, "explained at its first place"
    for fact in ("rfscale report quick.yaml", "0123456789abcdef", "torch 2.13.0", "d = 1, d = 2, d = 3, d = 4"):
        assert fact in page
    assert "experiments/quick.yaml" not in page, "no command that nobody typed"


def test_every_mark_says_what_it_is(report: Report) -> None:
    page = report.path.read_text()
    figure = page[page.index('<figure id="fig-loss_against_parameters"') :]
    figure = figure[: figure.index("</figure>")]
    drawing, text = figure.split("Values as text")
    for _, row in report.table.trials.iterrows():
        title = (
            f"{row['arm']}, d = {row['depth']}, seed {row['seed']}: {row[names.VAL_LOSS]:#.4g} (standard error 0.0020)"
        )
        assert f"<title>{title}, trial {row['trial_id']}</title>" in drawing
        assert f"<li>{title}, trial {row['trial_id']}</li>" in text, "the alternative in words"
    assert 'role="img" aria-label="Loss at the end of training against all trainable parameters.' in drawing
    assert set(re.findall(r'data-arm="(\d)"', drawing)) == {"0", "1", "2"}
    legend = page[: page.index('<figure id="fig-loss_against_compute"')]
    assert set(re.findall(r'data-isolate="(\d)"', legend[legend.rindex('class="legend"') :])) == {"0", "1", "2"}


def test_a_sweep_has_the_looks_that_its_arms_have_in_other_reports_of_the_store(tmp_path: Path) -> None:
    uri = write_sweep(tmp_path, "thin", world_trials(World(THREE, depths=(2,))))
    file = tmp_path / "reports" / "looks.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"rf": 3, "another": 0}))
    page = write_report(uri, "thin", tmp_path / "out", looks_file=file).path.read_text()
    kept = json.loads(file.read_text())
    assert (kept["rf"], kept["another"]) == (3, 0)
    assert set(kept) == {*THREE, "another"}
    assert len(set(kept.values())) == 4
    assert PALETTE[3] in page
    file.write_text("[1, 2")
    assert set(kept_places(file, ["rf"])) == {"rf"}, "a spoilt file is made anew"


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
        (World(THREE, depths=(2,)), "at the one size"),
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


def test_a_figure_is_added_by_one_function_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _losses(results: Results) -> tuple[str, Draw]:
        def draw() -> Figure:
            figure = Figure()
            figure.subplots().plot(results.table.trials[names.VAL_LOSS])
            return figure

        return "Every <b>loss</b>.", draw

    added = (*FIGURES, ReportFigure("losses", "trend", _losses), ReportFigure("absent", "trend", lambda _: None))
    monkeypatch.setattr(analysis.report.page, "FIGURES", added)
    uri = write_sweep(tmp_path, "quick", world_trials(World(THREE, noise=0.002)))
    page = write_report(uri, "quick", tmp_path / "out").path.read_text()
    assert "Every &lt;b&gt;loss&lt;/b&gt;." in page[page.index('<h2 id="trend"') : page.index('<h2 id="ranking"')]
    assert (tmp_path / "out" / "losses.png").stat().st_size > 1000
    assert not (tmp_path / "out" / "absent.png").exists()
