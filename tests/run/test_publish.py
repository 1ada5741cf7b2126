"""`rfscale publish`: one folder that others can read, check, cite and load; and the report made from it alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file
from small_study import DEFINITION, small_study
from synthetic_sweep import World, world_trials, write_sweep
from typer.testing import CliRunner

import rfscale
from analysis.compare.arms import compare
from analysis.laws.ladder import ladder_laws
from analysis.table.attention import read_attention
from analysis.table.dictionary import UNKNOWN, dictionary
from analysis.table.folder import Tables, read_tables, write_tables
from analysis.table.read import TableError, read_sweep
from rfscale import names
from rfscale.cli import app
from rfscale.data.batch import encode
from rfscale.data.text import load_text_encoder
from rfscale.flow.formulations import formulation
from rfscale.flow.solver import generate
from rfscale.run.publish import publication, read_published
from rfscale.run.publish.about import check_sums
from rfscale.run.publish.models import layout_of, load_published, write_model
from rfscale.run.study import Study
from rfscale.spec.sweep import SweepError
from rfscale.store import StoreError, TrialFolder
from rfscale.train.weights import tensors


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two arms at two sizes, two seeds, of which the last trial is not trained; one with a timestep shift."""
    return small_study(tmp_path_factory.mktemp("publish"), untrained=1)


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "small"
    done = study.publish(path, weights="all", authors=["Ada Lovelace", "Analysts"], url="https://a.org/small")
    assert (done.trials, len(done.models)) == (7, 7)
    assert list(done.unfinished.values()) == [names.NEW]
    assert done.files == sum(file.is_file() for file in path.rglob("*"))
    return path


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_table_comes_back_from_its_files_to_the_last_bit(tmp_path: Path) -> None:
    world = World({"rf": 1.0, "eps/linear": 0.8}, depths=(1, 2), noise=0.003, profile=True, quality=True)
    uri = write_sweep(tmp_path, "world", world_trials(world))
    table = read_sweep(uri, "world")
    tables = Tables(table, read_attention(uri, table))
    (tmp_path / "tables").mkdir()
    write_tables(tables, tmp_path / "tables")
    again = read_tables(tmp_path / "tables")
    for name, frame in tables.frames().items():
        pd.testing.assert_frame_equal(again.frames()[name], frame.reset_index(drop=True), check_exact=True)
        read = pd.read_csv(tmp_path / "tables" / f"{name}.csv")
        assert list(read.columns) == list(frame.columns)
        assert len(read) == len(frame)
        for column in frame.select_dtypes("number"):
            assert np.array_equal(read[column].to_numpy(float), frame[column].to_numpy(float), equal_nan=True)
    same = ("name", "question", "roles", "commits", "versions", "devices", "notes")
    assert all(getattr(again.table, field) == getattr(table, field) for field in same)


def test_every_column_has_a_meaning(tmp_path: Path) -> None:
    world = World({"rf": 1.0, "eps/linear": 0.8}, depths=(1, 2), noise=0.003, profile=True, quality=True)
    uri = write_sweep(tmp_path, "world", world_trials(world))
    table = read_sweep(uri, "world")
    found = compare(table)
    frames = Tables(table, read_attention(uri, table)).frames()
    frames |= {"ranking": found.frame(), "laws": ladder_laws(table).frame()}
    entries = dictionary(frames)
    assert [e for e in entries if not e.meaning or e.meaning == UNKNOWN] == []
    assert {(e.table, e.column) for e in entries} >= {(n, c) for n, frame in frames.items() for c in frame.columns}
    by_column = {(e.table, e.column): e for e in entries}
    assert by_column["trials", names.VAL_LOSS].unit == "MSE"
    assert by_column["trials", "train_flops"].unit == "FLOP"
    assert by_column["ranking", "ratio_low"].meaning.startswith("lower end of the 95 % interval of ratio")
    assert by_column["curves", f"key = {names.VAL_LOSS}"].better == "lower"


def test_the_dictionary_of_a_folder_is_that_of_its_tables(folder: Path) -> None:
    told = pd.read_csv(folder / "tables" / "dictionary.csv", keep_default_na=False)
    known = set(zip(told["table"], told["column"], strict=True))
    for path in (folder / "tables").glob("*.parquet"):
        frame = pd.read_parquet(path)
        assert {(path.stem, column) for column in frame.columns} <= known
    assert UNKNOWN not in set(told["meaning"])


def test_a_report_from_the_folder_alone_has_the_digits_of_the_first(
    study: Study, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = study.report()
    alone = tmp_path / "moved"
    shutil.copytree(folder, alone)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    done = CliRunner().invoke(app, ["report", "--from", str(alone), "--out", str(tmp_path / "again")])
    assert done.exit_code == 0, done.stderr
    for path in first.path.parent.glob("*.csv"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
    page, again = first.path.read_text(), (tmp_path / "again" / "report.html").read_text()
    assert page.count("data:image/webp") == again.count("data:image/webp") > 0
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    mine = CliRunner().invoke(
        app, ["compare", str(study.sweep.origin.file), "--store", str(study.store.root), "--json"]
    )
    theirs = CliRunner().invoke(app, ["compare", "--from", str(alone), "--json"])
    assert mine.stdout == theirs.stdout != ""


def test_results_of_a_folder_are_used_from_python(study: Study, folder: Path) -> None:
    results = rfscale.open_results(str(folder))
    found = study.compare()
    assert results.name == "small"
    assert results.compare(reference="eps/linear").comparison.reference == "eps/linear"
    assert results.laws().frame().equals(study.laws().frame())
    assert results.law("rf").arm == "rf"
    with pytest.raises(SweepError, match="small has no arm 'rff'; it has eps/linear, rf"):
        results.law("rff")
    assert results.plot.ranking().axes.has_data()
    assert set(results.trials["trial_id"]) == set(found.table.trials["trial_id"])
    assert str(folder) in results._repr_html_()


# --- the rest of the folder -------------------------------------------------------------------------------------------


def test_checksums_hold_and_tell_what_changed(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    listed = {line.partition("  ")[2] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert listed == there - {"SHA256SUMS"}
    for name, change in (("tables/trials.parquet", b"x"), ("sweep.yaml", None)):
        other = tmp_path / name.replace("/", "-")
        shutil.copytree(folder, other)
        path = other / name
        path.unlink() if change is None else path.write_bytes(path.read_bytes() + change)
        with pytest.raises(StoreError, match="is missing or has changed since it was published; get the folder again"):
            check_sums(other)
    with pytest.raises(StoreError, match="is no published folder: it has no readable SHA256SUMS"):
        read_published(tmp_path)


def test_damaged_tables_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "tables", tmp_path / "tables")
    (tmp_path / "tables" / "curves.parquet").write_bytes(b"PAR1")
    with pytest.raises(TableError, match=r"curves\.parquet is missing or damaged .*; get the folder again"):
        read_tables(tmp_path / "tables")
    facts = tmp_path / "tables" / "sweep.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "format": 2}))
    with pytest.raises(TableError, match="has the format 2, and this version of rfscale reads 1"):
        read_tables(tmp_path / "tables")
    facts.write_text("[")
    with pytest.raises(TableError, match=r"sweep\.json is missing or damaged"):
        read_tables(tmp_path / "tables")
    with pytest.raises(TableError, match="is no published folder"):
        read_tables(tmp_path / "none")


def test_croissant_validates_and_gives_the_records(folder: Path) -> None:
    croissant = pytest.importorskip("mlcroissant")
    data = croissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert not list(data.metadata.ctx.issues.errors)
    trials = pd.read_parquet(folder / "tables" / "trials.parquet")
    records = list(data.records("trials"))
    assert [float(r[f"trials/{names.VAL_LOSS}"]) for r in records] == list(trials[names.VAL_LOSS])
    assert [r["trials/trial_id"].decode() for r in records] == list(trials["trial_id"])


def test_it_is_cited_and_says_what_is_missing(study: Study, folder: Path) -> None:
    cited = yaml.safe_load((folder / "CITATION.cff").read_text())
    assert cited["authors"] == [{"family-names": "Lovelace", "given-names": "Ada"}, {"name": "Analysts"}]
    assert (cited["license"], cited["url"], cited["cff-version"]) == ("CC-BY-4.0", "https://a.org/small", "1.2.0")
    last = study.sweep.trials[-1].trial_id
    for name in ("README.md", "LOG.md"):
        assert f"Not finished are 1 of 8 trials: 1 new ({last})." in (folder / name).read_text()
    log = (folder / "LOG.md").read_text()
    assert log.startswith("## 20")
    for standing in study.compare().comparison.standings:
        assert f"| {standing.arm} | {standing.mean:.4g} [" in log
    assert "CC-BY-4.0" in (folder / "LICENSE").read_text()
    found = json.loads((folder / "environment.json").read_text())
    assert found["trainings"]["versions"]["torch"] == [torch.__version__]
    assert (folder / "sweep.yaml").read_text() == study.sweep.origin.file.read_text()  # type: ignore[union-attr]
    assert rfscale.load(folder / "sweep.yaml") == study.sweep
    for trial in study.sweep.trials[:-1]:
        theirs, ours = folder / "trials" / trial.trial_id, study.store.trial(trial.trial_id)
        assert (theirs / "journal.jsonl").read_bytes() == ours.journal.read_bytes()
        assert (theirs / "trial.json").read_bytes() == ours.record.read_bytes()
    assert {png.stem for png in (folder / "report").glob("*.png")} >= {"ranking", "loss_against_compute"}


def test_fields_given_beside_the_file_are_in_the_published_sweep(study: Study, tmp_path: Path) -> None:
    file = study.sweep.origin.file
    assert file is not None
    one = rfscale.open(study.store, file, seeds=[0])
    one.publish(tmp_path / "one", weights="none", licence="CC0-1.0")
    assert rfscale.load(tmp_path / "one" / "sweep.yaml") == one.sweep
    assert not (tmp_path / "one" / "models").exists()
    assert "CC0-1.0" in (tmp_path / "one" / "LICENSE").read_text()


# --- weights ----------------------------------------------------------------------------------------------------------


def condition_of(trial: Any) -> Any:
    return encode(load_text_encoder(trial.text), ["a red circle", "two blue squares"])


@pytest.mark.parametrize("number", [0, 2])
def test_diffusers_loads_the_same_function(study: Study, folder: Path, number: int) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    diffusers = pytest.importorskip("diffusers")
    trial = study.sweep.trials[number]
    model, info = diffusers.SD3Transformer2DModel.from_pretrained(
        folder / "models" / trial.trial_id, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours, told = study.model(trial), condition_of(trial)
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([0.3, 0.9])
    with torch.no_grad():
        expected = ours(z, time, told)
        found = model(z, told.tokens, told.pooled, 1000 * time, return_dict=False)[0]
    assert expected.abs().max() > 1e-3
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_its_scheduler_draws_the_same_images(tmp_path: Path) -> None:
    """Euler steps of diffusers, with the sigmas that the card gives, against our solver, under a timestep shift."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    diffusers = pytest.importorskip("diffusers")
    shift, n = 3.0, 5
    training = {"steps": 4, "batch": 8, "timestep_shift": shift}
    one_size = {"depths": [1], "width_per_depth": 16, "patch": 4}
    changes = {"formulations": ["rf/lognorm(0,1)"], "seeds": [0], "training": training, "model": one_size}
    (trial,) = rfscale.load({**DEFINITION, **changes}).trials
    network, random = trial.model.build(trial.data, trial.text), torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # a trained one of a few steps is nearly constant in time
        torch.nn.init.normal_(parameter, std=0.3, generator=random)
    trained, path = TrialFolder(tmp_path / "trial"), tmp_path / "model"
    trained.path.mkdir()
    save_file(tensors(network), trained.weights())
    assert write_model(trial, trained, path).diffusers
    model = diffusers.SD3Transformer2DModel.from_pretrained(path)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(path, subfolder="scheduler")
    told, eps = condition_of(trial), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = generate(network, formulation(trial.formulation), eps, told, steps=n, shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / n, n))
    z = eps
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = model(z, told.tokens, told.pooled, t.expand(2), return_dict=False)[0]
            z = scheduler.step(output, t, z, return_dict=False)[0]
    unshifted = generate(network, formulation(trial.formulation), eps, told, steps=n)
    assert (unshifted - expected).abs().max() > 1e-2 * expected.abs().max()
    assert (z - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_diffusers_has_no_equal_of_is_published_in_our_layout(tmp_path: Path) -> None:
    study = small_study(tmp_path, model={"backbone": "dit", "depths": [1], "width_per_depth": 16, "patch": 4},
                        formulations=["eps/linear"], seeds=[0])  # fmt: skip
    (trial,) = study.sweep.trials
    study.publish(tmp_path / "out")
    path = tmp_path / "out" / "models" / trial.trial_id
    assert {file.name for file in path.iterdir()} == {"model.safetensors", "trial.json", "README.md"}
    card = (path / "README.md").read_text()
    assert "Not in the layout of diffusers: the backbone `dit` has no equal" in card
    assert "There is no scheduler beside it: the network of `eps/linear` predicts another target" in card
    assert "library_name: rfscale" in card
    assert_same(load_published(path), study.model(trial))


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not one.training


def test_a_published_model_is_loaded_as_ours(study: Study, folder: Path, tmp_path: Path) -> None:
    trial = study.sweep.trials[0]
    assert_same(rfscale.load_model(folder / "models" / trial.trial_id), study.model(trial))
    with pytest.raises(StoreError, match=r"is no published model .*; name a folder of models/"):
        rfscale.load_model(tmp_path)


def test_the_card_says_data_formulation_size_training_and_loss(study: Study, folder: Path) -> None:
    trial = study.sweep.trials[0]
    card = (folder / "models" / trial.trial_id / "README.md").read_text()
    row = study.table().trials.set_index("trial_id").loc[trial.trial_id]
    loss, half = row[names.VAL_LOSS], 1.959963984540054 * row[names.VAL_LOSS_SE]
    size = f"{trial.parameters()['parameters']:,}, of these"
    told = ["`shapes` at 8 pixels", "`rf`: path", size, "6 steps of 8", "from_pretrained(", 'subfolder="scheduler"']
    told += [f"`val/loss` {loss:.4g} [{loss - half:.4g}, {loss + half:.4g}]", "Its images were not judged."]
    for part in (*told, "license: cc-by-4.0"):
        assert part in card, part
    assert layout_of(trial).diffusers


def test_a_card_has_the_judges_scores_with_intervals(tmp_path: Path) -> None:
    from rfscale.run.publish.cards import _scores

    uri = write_sweep(tmp_path, "world", world_trials(World({"rf": 1.0}, depths=(1,), quality=True, along=True)))
    table = read_sweep(uri, "world")
    last = table.quality[(table.quality["step"] == 600) & (table.quality["weights"] == "ema")]
    told = _scores(table.quality)
    assert told.count("\n") == 1 + len(last)
    one = last[last["metric"] == "fid"].iloc[0]
    low = one.value - 1.959963984540054 * one.se
    assert f"| fid | `{one.judge}` | {one.solver_steps} | {one.guidance:g} | {one.value:.4g} [{low:.4g}," in told
    assert "(no interval is known)" in told  # of path_length


@pytest.mark.parametrize(
    ("which", "count"), [("none", 0), ("best", 1), (["rf"], 4), (["eps/linear", "best"], None), ("all", 7)]
)
def test_weights_are_those_asked_for(study: Study, which: str | list[str], count: int | None) -> None:
    from rfscale.run.publish.choose import chosen

    table = study.table()
    found = [t.trial_id for t in chosen([which] if isinstance(which, str) else which, study.sweep, study.store, table)]
    lowest = table.trials.sort_values(names.VAL_LOSS)["trial_id"].iloc[0]
    if which == "best":
        assert found == [lowest]
    if count is None:
        eps = set(table.trials.loc[table.trials["arm"] == "eps/linear", "trial_id"])
        assert set(found) == eps | {lowest}
    else:
        assert len(found) == count
    one = study.sweep.trials[0].trial_id
    assert [t.trial_id for t in chosen([one[:6]], study.sweep, study.store, table)] == [one]


# --- what cannot be ---------------------------------------------------------------------------------------------------


def test_bad_input_is_one_sentence_and_nothing_is_written(study: Study, folder: Path, tmp_path: Path) -> None:
    file, store = str(study.sweep.origin.file), str(study.store.root)
    last = study.sweep.trials[-1].trial_id
    out = tmp_path / "out"
    for more, said in (
        (
            ["--weights", "bset"],
            "--weights 'bset' is neither none, best or all, nor an arm (rf, eps/linear), nor the id",
        ),
        (["--weights", last], "is not finished; give the id of a finished trial"),
        (["--weights", "none", "--weights", "all"], "--weights none and other weights are both given"),
        (["--licence", "GPL"], "--licence 'GPL' is not known; choose one of CC-BY-4.0, CC0-1.0, Apache-2.0"),
    ):
        done = CliRunner().invoke(app, ["publish", file, str(out), *more, "--store", store])
        assert done.exit_code == 2
        assert said in " ".join(done.stderr.split())
        assert list(tmp_path.iterdir()) == []
    done = CliRunner().invoke(app, ["publish", file, str(folder), "--store", store])
    assert done.exit_code == 2
    assert "is not empty, and nothing is overwritten" in done.stderr
    for arguments, said in (
        (["report"], "give a sweep file, or --from DIR"),
        (["report", file, "--from", str(folder)], "both a sweep and --from are given; leave out one"),
        (["report", file, "--store", store, "--out", str(out)], "--out goes with --from"),
        (["compare", "--from", str(tmp_path)], "is no published folder"),
        (["report", "seeds=[0]", "--from", str(folder)], "both a sweep and --from|cannot read"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2, arguments
        assert any(part in " ".join(done.stderr.split()) for part in said.split("|")), done.stderr


def test_a_publication_that_fails_leaves_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publication, "write_model", fails)
    with pytest.raises(StoreError, match=r"cannot write .*No space left on device; nothing of it remains"):
        study.publish(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote(study: Study, tmp_path: Path) -> None:
    arguments = ["publish", str(study.sweep.origin.file), str(tmp_path / "out"), "--store", str(study.store.root)]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["trials"], len(told["models"]), len(told["unfinished"])) == (7, 1, 1)
    assert told["models"] == [path.name for path in (tmp_path / "out" / "models").iterdir()]
