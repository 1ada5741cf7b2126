"""`rfscale import`: publications and anybody's tables in a store, each run with a word on where it is from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from measured_runs import COLUMNS as MEASURED
from measured_runs import write_runs
from small_study import small_study
from typer.testing import CliRunner

import rfscale
from analysis.laws.command import fit_table
from analysis.laws.status import FitError
from rfscale import names
from rfscale.cli import app
from rfscale.run.imports import notes_on, origin_of
from rfscale.run.imports.mapping import Mapped, read_mapping
from rfscale.run.study import Study
from rfscale.spec.sweep import SweepError
from rfscale.store import Store, StoreError, read_json


def called(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def said(done: Any) -> str:
    assert done.exit_code == 2, done.output
    return " ".join(done.stderr.split())


NO_SAMPLES = "needs samples or tokens of training: name their column with --samples"
ROW = "loss,parameters,samples\n1,2,"


# --- anybody's table --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemstones() -> Path:
    folder = os.environ.get("RFSCALE_REFERENCE_DATA", Path(__file__).parents[3] / "shared" / "data")
    path = Path(folder) / "gemstones_hot.csv"
    if not path.exists():
        pytest.skip("no public data: set RFSCALE_REFERENCE_DATA")
    return path


def test_the_gemstones_have_the_law_that_fit_gives_them(gemstones: Path, tmp_path: Path) -> None:
    """22 shapes of language models, ten points each (McLeish et al. 2025): every exponent as from the file itself."""
    arguments = ["--loss", "final_loss", "--parameters", "params_active_precise", "--samples", "tokens"]
    shapes = ["--run", "width,depth", "--size", "width,depth", "--name", "gemstones"]
    done = called("import", gemstones, "--store", tmp_path / "store", *arguments, *shapes)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("gemstones: 22 runs imported from ")
    assert "note: the table has no FLOPs: they are 6 N D" in done.stdout
    results = rfscale.open_results(tmp_path / "store", "gemstones")
    columns = {"N": "params_active_precise", "D": "tokens", "loss": "final_loss"}
    expected = fit_table(gemstones, "chinchilla", columns, bootstrap=0, checks=False).result
    found = results.fit(bootstrap=0, checks=False, groups=None)
    for name, value in expected.estimate.items():  # type: ignore[union-attr]
        assert found.estimate[name] == pytest.approx(value, rel=1e-6), name
    assert len(results.curves) == 220
    assert set(results.trials["arm"]) == {"gemstones"}


def test_rows_become_trials_with_a_journal_and_an_origin(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    frame = pd.DataFrame(
        [(a, n, 10 * s, 6 * n * 10 * s, s, seed, 3 - 0.1 * s + 0.01 * seed + (a == "b"))
         for a in "ab" for n in (1000, 2000) for seed in (0, 1) for s in (1, 2, 3)],
        columns=["method", "N", "seen", "cost", "step", "seed", "loss"],
    )  # fmt: skip
    frame.sample(frac=1, random_state=0).to_csv(path, index=False)
    given = {"arm": "method", "parameters": "N", "samples": "seen", "flops": "cost", "run": ["method", "N", "seed"]}
    done = rfscale.import_runs(path, tmp_path / "store", **given)  # type: ignore[arg-type]
    assert (len(done.added), done.kept, done.name, done.notes) == (8, (), "theirs", ())
    store = Store(tmp_path / "store")
    for trial_id in done.added:
        folder = store.trial(trial_id)
        state = folder.state()
        assert (state.status, state.step) == (names.FINISHED, 3)
        points, _ = folder.points()
        assert [point.step for point in points] == [1, 2, 3]
        origin = origin_of(folder)
        assert origin is not None
        assert origin.source == str(path.resolve())
        assert str(origin).endswith("not trained here")
    results = rfscale.open_results(store, "theirs")
    trials = results.trials
    assert list(trials.columns[:4]) == ["trial_id", "run_id", "status", "arm"]
    assert set(trials["batch"]) == {10}
    assert list(trials["train_flops"]) == [6 * n * 30 for n in trials["parameters"]]
    compared = results.compare().comparison
    assert [standing.arm for standing in compared.standings] == ["a", "b"]
    assert [standing.n for standing in compared.standings] == [4, 4]
    assert any(note.startswith("8 of the 8 trials were imported from") for note in results.table.notes)
    rfscale.import_runs(path, store, name="other", **(given | {"arm": "N"}))  # type: ignore[arg-type]
    assert set(rfscale.open_results(store, "theirs").trials["arm"]) == {"a", "b"}
    again = rfscale.import_runs(path, store, **given)  # type: ignore[arg-type]
    assert (again.added, sorted(again.kept)) == ((), sorted(done.added))


def test_without_run_every_row_is_a_training_and_laws_are_those_of_fit(tmp_path: Path) -> None:
    path = write_runs(tmp_path)
    columns = {"parameters": "size", "samples": "tokens", "loss": "val/loss", "flops": "flops"}
    done = rfscale.import_runs(path, tmp_path / "store", where="kept == 1", name="measured", **columns)
    assert len(done.added) == 36
    expected = fit_table(path, "chinchilla", MEASURED, where_="kept == 1", bootstrap=0, checks=False).result
    found = rfscale.open_results(tmp_path / "store", "measured").fit(bootstrap=0, checks=False)
    for name, value in expected.estimate.items():  # type: ignore[union-attr]
        assert found.estimate[name] == pytest.approx(value, rel=1e-5), name


def test_the_same_rows_under_two_names_are_the_same_trials_with_arms_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("loss,parameters,samples\n1,2,3\n2,3,4\n")
    shutil.copy(tmp_path / "one.csv", tmp_path / "two.csv")
    first, second = (rfscale.import_runs(tmp_path / f"{name}.csv", tmp_path / "store") for name in ("one", "two"))
    assert (sorted(second.kept), second.added) == (sorted(first.added), ())
    for name in ("one", "two"):
        results = rfscale.open_results(tmp_path / "store", name)
        assert set(results.trials["arm"]) == {name}
        assert results.table.notes[0].startswith(f"2 of the 2 trials were imported from {tmp_path / 'one.csv'}")


def test_parquet_and_a_file_of_columns_say_the_same(tmp_path: Path) -> None:
    frame = pd.DataFrame({"N": [10, 20], "D": [5.0, 5.0], "L": [2.0, 1.5], "who": ["x", "x"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "columns.yaml").write_text("parameters: N\nsamples: D\nloss: L\narm: [who]\n")
    ids = []
    for name in ("a.csv", "a.parquet"):
        store = tmp_path / f"store-{name}"
        done = called("import", tmp_path / name, "--columns", tmp_path / "columns.yaml", "--store", store, "--json")
        assert done.exit_code == 0, done.stderr
        ids.append(sorted(json.loads(done.stdout)["added"]))
    assert ids[0] == ids[1]
    assert Mapped(loss="X").over(read_mapping(tmp_path / "columns.yaml")) == Mapped("X", "N", "D", arm=("who",))


def test_report_and_status_take_the_name(tmp_path: Path) -> None:
    rows = [(n, d, 1 + 20 * n**-0.3 + 30 * d**-0.4) for n in (1e3, 3e3, 1e4, 3e4) for d in (1e5, 3e5, 1e6)]
    path = tmp_path / "grid.csv"
    pd.DataFrame(rows, columns=["parameters", "samples", "loss"]).to_csv(path, index=False)
    store = tmp_path / "store"
    assert called("import", path, "--store", store).exit_code == 0
    results = rfscale.open_results(store, "grid")
    law = results.law("grid")
    assert law.law is not None
    assert (law.points, law.law.estimate("grid")["alpha"]) == (12, pytest.approx(0.3, abs=1e-3))
    assert any(note.startswith("val/loss is the column loss of that table") for note in results.table.notes)
    status = called("status", "grid", "--store", store)
    assert status.exit_code == 0, status.stderr
    assert "imported from" in status.stdout
    assert "not trained here" in " ".join(status.stdout.split())
    told = json.loads(called("status", "grid", "--store", store, "--json").stdout)
    assert (told["totals"], len(told["trials"])) == ({"finished": 12}, 12)
    assert "imported from" in told["trials"][0]["reason"]
    done = called("report", "grid", "--store", store, "--out", tmp_path / "page")
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "page" / "report.html").read_text()
    assert "imported from" in page
    assert "nan" not in page.lower().replace("nanmean", "")
    compared = json.loads(called("compare", "grid", "--store", store, "--json").stdout)
    assert compared["standings"][0]["arm"] == "grid"
    assert called("report", "grid", "--store", store).exit_code == 0  # into the store
    assert (store / "reports" / "grid" / "laws.csv").read_bytes() == (tmp_path / "page" / "laws.csv").read_bytes()
    assert "cannot read the sweep file grid" in said(called("plan", "grid", "--store", store))


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("a,b\n1,2\n", [], "which column of {} has the loss? name it with --loss; there are a, b"),
        ("loss,b\n1,2\n", [], "which column of {} has the parameters? name it with --parameters; there are loss, b"),
        (
            "loss,N\n1,2\n",
            ["--parameters", "N"],
            "needs samples or tokens of training: name their column with --samples",
        ),
        ("loss,parameters,samples\n1,2,3\n1,2,3\n", [], "lines 2 and 3 of {} are the same training by what is mapped"),
        ("loss,parameters,samples\nx,2,3\n", [], "column 'loss' holds text, 'x' on line 2"),
        ("loss,parameters,samples\n-1,2,3\n", [], "column 'loss' is -1.0 on line 2"),
        (
            "loss,parameters,samples\n1,2,0.1\n",
            [],
            "line 2 of {} is at 0.1 samples or steps; give a number of at least 1",
        ),
        ("loss,parameters,samples\n1,2,3\n", ["--arm", "who"], "there is no column 'who'"),
        ("loss,parameters,samples\n1,2,3\n", ["--name", "a/b"], "'a/b' is no name for runs"),
        (
            "loss,parameters,samples,r\n1,2,3,x\n2,2,3,x\n",
            ["--run", "r"],
            "is a second point of its training at step 3",
        ),
        (
            "loss,parameters,samples,step,r\n1,2,30,1,x\n1,2,40,2,x\n",
            ["--run", "r"],
            "has no whole and constant number of samples per step; leave out --step",
        ),
        ("", [], "has no rows"),
    ],
)
def test_bad_tables_are_one_sentence_and_nothing_is_written(
    tmp_path: Path, text: str, more: Sequence[str], sentence: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    told = said(called("import", path, "--store", tmp_path / "store", *more))
    assert sentence.format(path) in told
    assert not (tmp_path / "store").exists()


def test_names_and_sources_are_not_mixed_up(tmp_path: Path) -> None:
    path, store = tmp_path / "t.csv", tmp_path / "store"
    path.write_text("loss,parameters,samples\n1,2,3\n")
    rfscale.import_runs(path, store)
    path.write_text("loss,parameters,samples\n1.5,2,3\n")
    with pytest.raises(StoreError, match=r"has imported runs of the name t from .*; give these another name"):
        rfscale.import_runs(path, store)
    other = rfscale.import_runs(path, store, name="other")
    assert len(other.added) == 1
    with pytest.raises(SweepError, match="unknown key 'los'; there are loss, parameters"):
        rfscale.import_runs(path, store, los="x")
    with pytest.raises(StoreError, match=r"there is no .*nothing; give a published folder, or a CSV"):
        rfscale.import_runs(tmp_path / "nothing", store)
    with pytest.raises(StoreError, match="has no imported runs 'them'"):
        rfscale.open_results(store, "them")
    (tmp_path / "x.parquet").write_text("PAR1")
    with pytest.raises(FitError, match="it is no parquet file"):
        rfscale.import_runs(tmp_path / "x.parquet", store)
    told = said(called("sample", other.added[0], "--prompt", "a", "--store", store))
    assert "was imported from a table, without a network" in told


# --- a publication ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return small_study(tmp_path_factory.mktemp("trained"), untrained=1)


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "small"
    study.publish(path, weights="rf")
    return path


def test_a_publication_is_taken_in_with_the_same_digits(study: Study, folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = called("import", folder, "--store", store)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("small: 7 runs imported from ")
    theirs = rfscale.open(store, "small")
    assert theirs.sweep == study.sweep
    assert theirs.compare().comparison.to_dict() == study.compare().comparison.to_dict()
    assert theirs.laws().frame().equals(study.laws().frame())
    assert theirs.trials["loss"].equals(study.trials["loss"])
    note = "7 of the 8 trials were imported from"
    assert any(note in one for one in theirs.plan().sweep.notes)
    assert any(note in one for one in theirs.table().notes)
    assert notes_on(study.ids, study.store) == ()
    assert {one.status for one in theirs.plan().trials} == {names.FINISHED, names.NEW}
    status = called("status", folder / "sweep.yaml", "--store", store)
    assert status.stdout.count("not trained here") == 7
    first = next(trial for trial in study.sweep.trials if trial.formulation == "rf")
    assert np.array_equal(theirs.sample(first, "a red circle", steps=2).pixels,
                          study.sample(first, "a red circle", steps=2).pixels)  # fmt: skip
    other = next(trial for trial in study.sweep.trials if trial.formulation != "rf")
    with pytest.raises(StoreError, match="was imported, and its weights were not published"):
        theirs.sample(other, "a red circle")
    again = rfscale.import_runs(folder, store)
    assert (again.added, len(again.kept)) == ((), 7)
    report = theirs.report()
    assert note in report.path.read_text()


def test_what_was_trained_here_stays_and_is_not_called_imported(study: Study, folder: Path, tmp_path: Path) -> None:
    first, second = study.sweep.trials[:2]
    store = Store(tmp_path / "store")
    shutil.copytree(study.store.trial(first.trial_id).path, store.trial(first.trial_id).path)
    before = store.trial(first.trial_id).result.read_bytes()
    done = rfscale.import_runs(folder, store)
    assert done.kept == (first.trial_id,)
    assert store.trial(first.trial_id).result.read_bytes() == before
    assert origin_of(store.trial(first.trial_id)) is None
    assert origin_of(store.trial(second.trial_id)) is not None
    assert "6 of the 8 trials" in done.notes[0]


def test_a_folder_that_changed_is_refused_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    for name in ("journal.jsonl", "trial.json"):
        other = tmp_path / name
        shutil.copytree(folder, other)
        path = next(other.glob(f"trials/*/{name}"))
        path.write_text(path.read_text() + "\n")
        with pytest.raises(StoreError, match="is missing or has changed since it was published"):
            rfscale.import_runs(other, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(SweepError, match="is a folder, whose columns are known"):
        rfscale.import_runs(folder, tmp_path / "store", loss="x")
    with pytest.raises(StoreError, match="is no published folder"):
        rfscale.import_runs(tmp_path, tmp_path / "store")


def test_a_trial_under_anothers_id_is_refused(folder: Path, tmp_path: Path) -> None:
    from rfscale.run.publish.about import write_sums

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    one, two = sorted((other / "trials").iterdir())[:2]
    shutil.copy(one / "trial.json", two / "trial.json")
    write_sums(other)
    with pytest.raises(StoreError, match=f"describes another trial than {two.name}"):
        rfscale.import_runs(other, tmp_path / "store")
    assert read_json(tmp_path / "store" / "trials" / one.name / "trial.json") is None
