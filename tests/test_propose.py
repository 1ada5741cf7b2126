"""`rfscale plan --budget`: a pilot's curves become the next sweep file, which costs the budget and runs as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from synthetic_sweep import World, world_trials, write_sweep
from typer.testing import CliRunner

from analysis.laws import FitError
from analysis.table import SweepTable, read_sweep
from rfscale.cli import app
from rfscale.propose import Target, propose_sweep
from rfscale.sweep import SweepError
from rfscale.sweep_file import load_sweep, parse_sweep

PILOT: Mapping = {
    "name": "pilot",
    "question": "What would a larger one give?",
    "data": {"name": "shapes", "resolution": 16},
    "model": {"depths": [1, 2, 3, 4], "width_per_depth": 24, "patch": 2},
    "formulations": ["rf", "eps/linear"],
    "training": {"samples": 600 * 64, "batch": 64, "learning_rate": 2e-3},
    "seeds": [0],
}


def total_flops(definition: Mapping) -> float:
    return sum(float(t.parameters()["train_flops"]) for t in parse_sweep(definition).trials)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SweepTable:
    world = World({"rf": 1.0, "eps/linear": 0.6}, noise=0.01)
    return read_sweep(write_sweep(tmp_path_factory.mktemp("pilot"), "pilot", world_trials(world)), "pilot")


@pytest.mark.parametrize("budget", [3e13, 1e14, 1e15])
def test_the_proposed_sweep_costs_the_budget_and_is_a_sweep(table: SweepTable, budget: float) -> None:
    proposal = propose_sweep(parse_sweep(PILOT), PILOT, table, budget, "rf")
    definition = yaml.safe_load(proposal.to_yaml())
    sweep = parse_sweep(definition)
    assert total_flops(definition) == pytest.approx(budget, rel=0.02)
    assert {t.formulation for t in sweep.trials} == {"rf"}
    assert sweep.name != "pilot"
    assert sweep.duplicates == 0
    assert {t.learning_rate for t in sweep.trials} == {2e-3}
    assert proposal.design.log_sd_after < proposal.design.log_sd_before


def test_the_target_is_what_is_predicted(table: SweepTable) -> None:
    near = propose_sweep(parse_sweep(PILOT), PILOT, table, 1e14, "rf", Target(5, 600))
    far = propose_sweep(parse_sweep(PILOT), PILOT, table, 1e14, "rf", Target(12, 6000))
    assert near.design.target["D"] == 600 * 64
    assert float(far.design.prediction.value[0]) < float(near.design.prediction.value[0])
    assert far.design.log_sd_before > near.design.log_sd_before


def test_an_optimum_beyond_the_pilot_names_the_trials_to_add(table: SweepTable) -> None:
    sweep = parse_sweep(PILOT)
    assert (
        "no minimum inside the pilot's sizes (depth 1 to 4)" in propose_sweep(sweep, PILOT, table, 1e15, "rf").optimum
    )
    assert "added trials of depth" in propose_sweep(sweep, PILOT, table, 1e15, "rf").optimum


def test_a_grid_of_the_pilot_does_not_leak_into_the_proposal(table: SweepTable) -> None:
    pilot = {k: v for k, v in PILOT.items() if k != "seeds"} | {"grids": [{"seeds": [0]}, {"seeds": [1, 2]}]}
    proposal = propose_sweep(parse_sweep(pilot), pilot, table, 1e14, "rf")
    assert total_flops(proposal.sweep) == pytest.approx(1e14, rel=0.02)


@pytest.mark.parametrize(
    ("budget", "formulation", "error", "words"),
    [
        (1e14, "v/cos", SweepError, "does not train 'v/cos'; choose one of rf, eps/linear"),
        (1.0, "rf", FitError, "cheapest"),
        (-1.0, "rf", FitError, "positive number of FLOPs"),
    ],
)
def test_what_cannot_be_proposed_is_said(
    table: SweepTable, budget: float, formulation: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        propose_sweep(parse_sweep(PILOT), PILOT, table, budget, formulation)


def test_the_command_writes_the_file_and_never_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store, path = tmp_path / "store", tmp_path / "pilot.yaml"
    store.mkdir()
    write_sweep(store, "pilot", world_trials(World({"rf": 1.0, "eps/linear": 0.6}, noise=0.01)))
    path.write_text(yaml.safe_dump(dict(PILOT)))
    arguments = ["plan", str(path), "--store", str(store), "--budget", "1e14", "--target", "depth=6,steps=1200"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "predicted loss" in done.stdout
    assert sum(float(t.parameters()["train_flops"]) for t in load_sweep(tmp_path / "pilot-next.yaml").trials) == (
        pytest.approx(1e14, rel=0.02)
    )
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    as_json = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "other.yaml"), "--json"])
    assert json.loads(as_json.stdout)["prediction"]["loss"] > 0
    wrong = CliRunner().invoke(app, [*arguments[:-1], "depth=6"])
    assert wrong.exit_code == 2
    assert "write it as depth=8,steps=2400" in wrong.stderr
