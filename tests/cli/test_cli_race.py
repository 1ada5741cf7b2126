"""`plan --race`, with and without limits, and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from rfscale.cli import app

Mapping = dict[str, Any]


@pytest.fixture
def sweep(tiny: Mapping, tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    tiny["model"]["depths"] = [1, 2]
    path.write_text(yaml.safe_dump({**tiny, "formulations": ["rf", "eps/linear", "v/cos"], "seeds": [0, 1]}))
    return path


def invoke(command: str, sweep: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [command, str(sweep), *arguments, "--store", str(sweep.parent / "store")])


def test_a_race_is_planned_with_the_limits_that_it_would_be_run_with(sweep: Path) -> None:
    whole = json.loads(invoke("plan", sweep, "--race", "--json").stdout)
    budget = f"{0.5 * whole['train_flops']:g}"
    done = invoke("plan", sweep, "--race", "--budget", budget, "--enough", "0.5", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (whole["budget"], whole["enough"], whole["ended"], whole["dropped"]) == (None, None, None, [])
    assert (found["budget"], found["enough"]) == (float(budget), 0.5)
    assert found["expected_flops_90"] <= float(budget) < whole["expected_flops_90"]
    assert found["expected_arms_left"] >= whole["expected_arms_left"]
    assert 0.9 < whole["chance_best_is_left"] <= 1
    said = " ".join(invoke("plan", sweep, "--race", "--budget", budget, "--enough", "0.5").stdout.split())
    assert f"race with --enough 0.5 --budget {budget}: 4 blocks; about" in said
    assert "% that the best is one of them" in said
    assert not (sweep.parent / "store").exists(), "a plan writes nothing"


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("plan", ["--enough", "0.01"], "--enough has no effect without --race; add --race, or remove it"),
        ("plan", ["--enough", "0.01", "--budget", "1e12"], "--enough has no effect without --race"),
        ("plan", ["--race", "--enough", "2"], "--enough 2 is not possible; give a number above 0 and at most 1"),
        ("plan", ["--race", "--budget", "0.1"], "--budget 0.1 is not possible; give a number from 1 to 1e+30"),
        ("plan", ["--race", "--next"], "--next and --race ask for two different things"),
        (
            "plan",
            ["--race", "--budget", "1e12", "--target", "depth=8,steps=9"],
            "--target and --race ask for two different",
        ),
        ("run", ["--enough", "0.01"], "--enough has no effect without --race; add --race, or remove it"),
        ("run", ["--budget", "1e12"], "--budget has no effect without --race; add --race, or remove it"),
        ("run", ["--race", "--enough", "-1"], "--enough -1 is not possible"),
    ],
)
def test_what_has_no_effect_is_refused_in_a_sentence(
    sweep: Path, command: str, arguments: list[str], said: str
) -> None:
    done = invoke(command, sweep, *arguments)
    assert done.exit_code == 2
    assert (done.stderr.count("\n"), done.stderr[:9]) == (1, "rfscale: ")
    assert said in done.stderr
    assert not (sweep.parent / "store").exists()
