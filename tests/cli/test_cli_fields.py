"""The command line: fields beside a sweep file, names, a first file, completion, and JSON of every command."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import environment_in, files_in
from typer.main import get_command
from typer.testing import CliRunner, Result

from rfscale.cli import app
from rfscale.run.origin import record
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store

Mapping = dict[str, Any]
WriteSweep = Callable[[Mapping | str], Path]
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
READERS = [name for name, command in COMMANDS.items() if any(p.name == "sweep" for p in command.params)]
STARTER = Path(inspect.getfile(load_sweep)).parents[1] / "cli" / "starter.yaml"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def planned(*arguments: str | Path) -> Mapping:
    done = invoke("plan", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


# --- fields -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_every_command_that_reads_a_sweep_takes_fields_and_a_name(
    name: str, tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    path, before = write_sweep(tiny), files_in(tmp_path)
    more = {"train": ["0"], "publish": [tmp_path / "out"], "export": [tmp_path / "out", "--to", "csv"]}
    for given in (["trainig.steps=9"], ["--name", "a", "trainig.steps=9"]):
        done = invoke(name, path, *more.get(name, ()), *given, "--store", tmp_path / "none")
        assert done.exit_code == 2
        assert "unknown key 'trainig'; did you mean 'training'?" in done.stderr
    assert files_in(tmp_path) == before


def test_plan_shows_the_edited_sweep(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path) -> None:
    path, store = write_sweep(tiny), ("--store", tmp_path / "none")
    found = planned(path, "training.steps=40", "seeds=[0,1]", *store, "--name", "longer")
    assert found["sweep"] == "longer"
    expected = load_sweep(write_sweep({**tiny, "training": {**tiny["training"], "steps": 40}, "seeds": [0, 1]}))
    assert [row["trial_id"] for row in found["trials"]] == [trial.trial_id for trial in expected.trials]
    write_sweep(tiny)
    done = invoke("plan", path, "name=a", "--name", "b", *store)
    assert (done.exit_code, done.stderr) == (
        2,
        "rfscale: the name is given twice, by --name and by name=; give it once\n",
    )
    done = invoke("train", path, "training.steps=9", *store)
    assert "'training.steps=9' is no id of a trial; write the id before the fields" in done.stderr


def test_two_files_of_one_name_are_refused_before_anything_is_done(
    tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    store.check_writable()
    first = write_sweep(tiny).rename(tmp_path / "first.yaml")
    record(load_sweep(first), store)
    second, before = write_sweep({**tiny, "seeds": [1]}), files_in(tmp_path)
    for name in ("plan", "run", "report", "evaluate"):
        done = invoke(name, second, "--store", store.root)
        assert done.exit_code == 2, name
        assert f"{first} and {second} are two sweeps of one name, tiny" in done.stderr
    assert files_in(tmp_path) == before
    assert planned(second, "--store", store.root, "--name", "second")["sweep"] == "second"


# --- a first file -----------------------------------------------------------------------------------------------------


def test_init_writes_a_file_that_can_be_planned_and_never_over_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("init").stdout == "sweep.yaml  (rfscale plan sweep.yaml)\n"
    assert json.loads(invoke("init", "mine", "--json").stdout) == {"file": "mine.yaml", "sweep": "mine"}
    assert planned("mine.yaml")["totals"]["trials"] == 12
    text = Path("mine.yaml").read_text()
    done = invoke("init", "mine.yaml")
    assert (done.exit_code, Path("mine.yaml").read_text()) == (2, text)
    assert "mine.yaml exists already and is left as it is; give another name" in done.stderr
    before = files_in(tmp_path)
    for name, said in (("a b", "is not a file name"), ("none/x", "name a file in a folder that is there")):
        done = invoke("init", name)
        assert done.exit_code == 2
        assert said in done.stderr
    assert files_in(tmp_path) == before


def test_every_other_choice_that_the_first_file_names_is_one(write_sweep: WriteSweep, tmp_path: Path) -> None:
    text = STARTER.read_text().format(name="mine", file="mine.yaml")
    lines = text.splitlines()
    others = [line.removeprefix("#- ") for line in lines if line.startswith("#- ")]
    assert len(others) >= 6
    for other in others:
        key = other.partition(":")[0]
        if "my-images" in other:
            continue  # a folder that a user makes
        kept, inside = [], False
        for line in lines:
            inside = line.startswith(f"{key}:") or (inside and line.startswith("  "))
            kept += [] if inside else [line]
        assert load_sweep(write_sweep("\n".join([*kept, other]))).trials, other


# --- starting it ------------------------------------------------------------------------------------------------------


def test_python_m_rfscale_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rfscale", "plan", "none.yaml"],
        cwd=tmp_path,
        env=environment_in(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rfscale: cannot read the sweep file none.yaml")


COMPLETED = """
import sys
from rfscale.cli import app
try:
    app(prog_name="rfscale")
except SystemExit:
    pass
heavy = {"torch", "ray", "mlflow", "pandas", "matplotlib", "scipy"}
print(sorted({name.split(".")[0] for name in sys.modules} & heavy))
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("rfscale sta", ["status"]),
        ("rfscale plan x.yaml training.le", ["training.learning_rate="]),
        ("rfscale train x.yaml 1234 see", ["seeds="]),
        ("rfscale run x.yaml --js", ["--json"]),
    ],
)
def test_the_shell_completes_and_loads_nothing_heavy(words: str, found: list[str], tmp_path: Path) -> None:
    asked = {
        "_RFSCALE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPLETED],
        env=environment_in(tmp_path) | asked | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [*found, "[]"], done.stderr


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_every_command_can_answer_in_json() -> None:
    without = [name for name, command in COMMANDS.items() if not any(p.name == "as_json" for p in command.params)]
    assert without == []


def test_train_and_sample_answer_in_json_alone(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path) -> None:
    path, store = write_sweep(tiny), ("--store", tmp_path / "store")
    (trial,) = load_sweep(path, {"training.steps": 4}).trials
    for how in ("trained now", "found as it is"):
        done = invoke("train", path, trial.trial_id[:6], "training.steps=4", *store, "--json")
        assert done.exit_code == 0, done.stderr
        answer = json.loads(done.stdout)
        assert (answer["trial_id"], answer["status"], answer["step"]) == (trial.trial_id, "finished", 4), how
        assert os.path.isdir(answer["files"])
    out = tmp_path / "s.png"
    done = invoke("sample", trial.trial_id, "--prompt", "a red circle", "--steps", "2", "--out", out, *store, "--json")
    assert json.loads(done.stdout) == {
        "file": str(out),
        "trial_id": trial.trial_id,
        "images": 4,
        "prompts": ["a red circle"],
    }
    assert out.exists()
