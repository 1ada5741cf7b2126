"""docs/formulations.md: its Python runs, its families exist, and what it says to add to rfscale/flow works."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, console_script, environment_in

from rfscale import names
from rfscale.flow.formulations import FAMILIES

TEXT = (REPOSITORY / "docs" / "formulations.md").read_text(encoding="utf-8")
READING, SAMPLER, ENTRY = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_of_a_reading_runs_and_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    """To two digits: other versions of PyTorch may round otherwise."""
    variables: dict[str, object] = {"__name__": "docs"}
    exec(compile(READING, "docs/formulations.md", "exec"), variables)
    printed = capsys.readouterr().out.splitlines()
    said = re.findall(r"^    (\S+ +[\d.]+ \+- .* covered)$", TEXT, re.MULTILINE)
    assert len(printed) == len(said) == 6
    for found, line in zip(printed, said, strict=True):
        # name, value, "+-", standard error, effective samples, "effective", "samples,", covered, "%", "covered"
        assert found.split()[0] == line.split()[0]
        for column in (1, 3, 4, 7):
            assert float(found.split()[column]) == pytest.approx(float(line.split()[column]), rel=0.02, abs=2e-3)
    values = {line.split()[0]: float(line.split()[1]) for line in printed}
    assert values["v/cos"] / values["rf"] == pytest.approx(2 / math.pi, rel=0.01)


def test_every_yardstick_of_validation_is_explained() -> None:
    for key in names.METRICS:
        if key.startswith("val/") and not key.startswith("val/velocity_mse/"):
            assert f"`{key}`" in TEXT
    assert f"`{names.val_level(0.125)}` .. `t0.875`" in TEXT
    assert f"`{names.denoising_level(0.0).removesuffix('0.00')}...`" in TEXT


# --- adding a formulation ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and of the tests of formulations, with the page's lines at the places that it names."""
    copy = tmp_path_factory.mktemp("extended")
    shutil.copytree(REPOSITORY / "rfscale", copy / "rfscale", ignore=shutil.ignore_patterns("__pycache__"))
    flow = copy / "rfscale" / "flow"
    with open(flow / "noise_samplers.py", "a", encoding="utf-8") as file:
        file.write(f"\n\n{SAMPLER}")
    text, place = (flow / "formulations.py").read_text(encoding="utf-8"), "\n}\n\n_NAME ="
    assert text.count(place) == 1
    (flow / "formulations.py").write_text(text.replace(place, f"\n{ENTRY.rstrip()}{place}"), encoding="utf-8")
    (copy / "tests").mkdir()
    for name in ("conftest.py", "test_flow.py", "test_importance.py"):
        shutil.copy(next((REPOSITORY / "tests").rglob(name)), copy / "tests")
    return copy


def run_extended(command: list[str], extended: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = environment_in(folder) | {"PYTHONPATH": str(extended)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_example_is_not_there_yet() -> None:
    assert "rf/beta" not in FAMILIES


@pytest.mark.slow
def test_the_added_formulation_passes_the_tests_of_all_others(extended: Path, tmp_path: Path) -> None:
    """KS against the density, derivative of the quantile function, order of the draws, weights: nothing is skipped."""
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(extended / "tests")]
    done = run_extended([*pytest_command, f"--rootdir={extended}", "-k", "beta or 61 or signature"], extended, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout[-3000:]
    assert int(passed[1]) >= 10


def test_the_added_formulation_is_listed_planned_and_trained(
    extended: Path, tmp_path: Path, tiny: dict[str, object]
) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(tiny | {"formulations": ["rf/beta(2, 2.0)", {"rf/beta": {"a": 2, "b": [2]}}]}))
    listed = run_extended(console_script("formulations"), extended, tmp_path)
    assert "rf/beta(a,b)    (a in [2, 2], b in [2, 2])" in listed.stdout, listed.stderr
    store = tmp_path / "store"
    plan = run_extended(console_script("plan", sweep, "--store", store, "--json"), extended, tmp_path)
    (planned,) = json.loads(plan.stdout)["trials"]
    assert planned["formulation"] == "rf/beta(2.00,2.00)"
    trained = run_extended(console_script("train", sweep, planned["trial_id"], "--store", store), extended, tmp_path)
    assert trained.returncode == 0, trained.stderr
    (result,) = store.glob("trials/*/result.json")
    metrics = json.loads(result.read_text())["metrics"]
    assert 0 < metrics[names.VAL_LOSS] < 3
    assert 0 < metrics[names.VAL_OBJECTIVE] < 3


def test_other_parameters_of_the_added_formulation_are_refused(extended: Path, tmp_path: Path) -> None:
    program = "from rfscale.flow.formulations import canonical; canonical('rf/beta(3, 2)')"
    done = run_extended([sys.executable, "-c", program], extended, tmp_path)
    assert "rf/beta: a = 3 is outside [2, 2]; choose a in that range" in done.stderr
    assert os.fspath(extended) in done.stderr, "the copy was not what ran"
