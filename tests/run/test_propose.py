"""`rfscale plan --budget`: a pilot's curves become the next sweep file, which costs the budget and runs as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from synthetic_sweep import FakeTrial, World, world_trials, write_sweep
from typer.testing import CliRunner

from analysis.laws import FitError
from analysis.table.read import SweepTable, read_sweep
from rfscale import names
from rfscale.cli import app
from rfscale.run.propose import Proposal, Target, propose_sweep
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import load_sweep, parse_sweep

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
    assert {t.training.learning_rate for t in sweep.trials} == {2e-3}
    assert proposal.design.log_sd_after < proposal.design.log_sd_before


def test_a_budget_of_a_tuned_sweep_pays_for_every_value(table: SweepTable) -> None:
    training = {**PILOT["training"], "learning_rate": [1e-3, 2e-3, 4e-3]}
    pilot = {**PILOT, "training": training, "tune": ["training.learning_rate"]}
    proposal = propose_sweep(parse_sweep(pilot), pilot, table, 1e14, "rf")
    assert total_flops(yaml.safe_load(proposal.to_yaml())) == pytest.approx(1e14, rel=0.02)
    assert sum(run.train_flops for run in proposal.runs) == pytest.approx(1e14, rel=0.02)
    assert "each of them is 3 trainings, one for every tuned value" in proposal.text()


def test_the_target_is_what_is_predicted(table: SweepTable) -> None:
    near = propose_sweep(parse_sweep(PILOT), PILOT, table, 1e14, "rf", Target(5, 600))
    far = propose_sweep(parse_sweep(PILOT), PILOT, table, 1e14, "rf", Target(12, 6000))
    assert near.design.target["D"] == 600 * 64
    assert float(far.design.prediction.value[0]) < float(near.design.prediction.value[0])
    assert far.design.log_sd_before > near.design.log_sd_before


def depths(proposal: Proposal) -> set[int]:
    """Of the file that is written, not of the text."""
    return {trial.model.depth for trial in parse_sweep(yaml.safe_load(proposal.to_yaml())).trials}


@pytest.mark.parametrize(("budget", "held"), [(3e13, False), (7e13, True)])
def test_an_optimum_beyond_the_pilot_names_the_trials_to_add_and_whether_they_are_proposed(
    table: SweepTable, budget: float, held: bool
) -> None:
    proposal = propose_sweep(parse_sweep(PILOT), PILOT, table, budget, "rf")
    assert "no minimum inside the pilot's sizes (depth 1 to 4)" in proposal.optimum
    named = re.search(r"added trials of depth (\d+)(?: and (\d+))?, which", proposal.optimum)
    assert named is not None
    add = {int(depth) for depth in named.groups() if depth}
    assert min(add) > 4  # depth 4 is in the pilot already
    assert (add <= depths(proposal)) is held
    assert ("which are among the runs proposed" in proposal.optimum) is held
    assert ("which the runs proposed are not" in proposal.optimum) is not held


def test_an_optimum_inside_the_pilot_needs_no_advice(table: SweepTable) -> None:
    inside = propose_sweep(parse_sweep(PILOT), PILOT, table, 1e13, "rf").optimum
    assert re.search(r"spent best at depth [23] for \d+ steps, inside the pilot's sizes", inside)
    assert inside.endswith(", but 2.5 times as long as its longest training."), "that length is the law's alone"


@pytest.mark.parametrize("budget", [1e15, 1e22])
def test_the_end_of_the_sizes_offered_is_not_called_an_optimum(table: SweepTable, budget: float) -> None:
    optimum = propose_sweep(parse_sweep(PILOT), PILOT, table, budget, "rf").optimum
    assert "is not known: of the depths offered, 1 to 8, the largest is predicted to be best" in optimum
    assert "spent best at" not in optimum


def test_a_budget_that_is_not_spent_says_why(table: SweepTable) -> None:
    rich = propose_sweep(parse_sweep(PILOT), PILOT, table, 1e22, "rf")
    assert rich.design.flops < 1e17
    assert "a design has at most 32 runs, and their data are at most 4 times those offered" in rich.unspent
    assert "depths 1 to 8 (up to 2 times the pilot's deepest) and up to 9600 steps" in rich.unspent
    assert rich.unspent in rich.text()
    assert rich.to_dict()["unspent"] == rich.unspent
    assert max(run.steps for run in rich.runs) <= 4 * 9600
    assert propose_sweep(parse_sweep(PILOT), PILOT, table, 1e14, "rf").unspent == ""


def test_the_question_of_the_file_is_the_one_it_answers(table: SweepTable) -> None:
    proposal = propose_sweep(parse_sweep(PILOT), PILOT, table, 3e11, "rf", Target(5, 900))
    assert depths(proposal) == {1}
    question = proposal.sweep["question"]
    assert "at depth 5 after 900 steps, as predicted from pilot" in question
    assert "beyond" not in question


def test_the_runs_are_listed_as_they_stand_in_the_file(table: SweepTable) -> None:
    proposal = propose_sweep(parse_sweep(PILOT), PILOT, table, 1e14, "rf")
    trials = parse_sweep(yaml.safe_load(proposal.to_yaml())).trials
    listed = re.findall(r"^  (\d+) +(\d+) +(\d+) +([\d.e+]+) +\d+%$", proposal.text(), re.MULTILINE)
    assert len(listed) == len(proposal.runs)
    for depth, steps, seeds, flops in listed:
        same = [trial for trial in trials if (trial.model.depth, trial.training.steps) == (int(depth), int(steps))]
        assert len(same) == int(seeds)
        assert sum(float(t.parameters()["train_flops"]) for t in same) == pytest.approx(float(flops), rel=0.01)
    assert {(run["depth"], run["steps"]) for run in proposal.to_dict()["runs"]} == {
        (t.model.depth, t.training.steps) for t in trials
    }
    assert "[[" not in proposal.text()


def test_a_budget_that_buys_nothing_names_one_that_does(table: SweepTable) -> None:
    with pytest.raises(FitError, match="raise the budget to at least") as caught:
        propose_sweep(parse_sweep(PILOT), PILOT, table, 1.0, "rf")
    enough = float(str(caught.value).split()[-1].rstrip("."))
    assert propose_sweep(parse_sweep(PILOT), PILOT, table, enough, "rf").runs
    with pytest.raises(FitError, match="raise the budget"):
        propose_sweep(parse_sweep(PILOT), PILOT, table, 0.95 * enough, "rf")


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


def as_trained(trial: FakeTrial) -> FakeTrial:
    """Under the id that the pilot's file gives it."""
    where = (trial.params["formulation"], trial.params["depth"])
    (own,) = (t.trial_id for t in parse_sweep(PILOT).trials if (t.formulation, t.model.depth) == where)
    return replace(trial, trial_id=own, tags={**trial.tags, names.TAG_TRIAL_ID: own})


def test_the_command_writes_the_file_and_never_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store, path = tmp_path / "store", tmp_path / "pilot.yaml"
    store.mkdir()
    write_sweep(store, "pilot", world_trials(World({"rf": 1.0, "eps/linear": 0.6}, noise=0.01)), as_trained)
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
    for target in ("depth=6", "foo"):
        wrong = CliRunner().invoke(app, [*arguments[:-1], target])
        assert wrong.exit_code == 2
        assert "write it as depth=8,steps=2400" in wrong.stderr
