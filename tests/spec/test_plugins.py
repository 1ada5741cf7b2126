"""Plug-ins: refused unless allowed, run end to end by the real command, part of the identity of what uses them; and one
of each kind, added by its own file alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import console_script, environment_in, files_in

from rfscale.registry import PluginError, allowing_plugins, load_plugin
from rfscale.spec.sweep_file import load_sweep
from rfscale.spec.trial import Trial

Mapping = dict[str, Any]
EXAMPLE = Path(__file__).resolve().parents[1] / "plugin_example.py"


@pytest.fixture
def sweep(tiny: Mapping, tmp_path: Path) -> Path:
    """A sweep of the example's backbone on its data, at two sizes."""
    shutil.copy(EXAMPLE, tmp_path / "mine.py")
    changes = {
        "plugins": ["mine.py"],
        "data": {"name": "stripes"},
        "model": {"backbone": "plain", "depths": [1, 2], "width": 8},
        "formulations": ["rf", "eps/linear"],
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**tiny, **changes}))
    return path


def test_the_example_is_short() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 65


@pytest.mark.parametrize("command", ["plan", "run", "train", "status", "report", "compare"])
def test_without_permission_it_is_refused_and_nothing_of_it_was_run(
    sweep: Path, rfscale: Callable[..., subprocess.CompletedProcess[str]], command: str
) -> None:
    (sweep.parent / "mine.py").write_text("open('it-was-run', 'w').close()")
    before = files_in(sweep.parent)
    done = rfscale(command, sweep, *(["abc"] if command == "train" else []))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "mine.py is a program, and a sweep file alone never runs one" in line
    assert "--allow-plugins" in line
    assert files_in(sweep.parent) == before


@pytest.mark.slow
def test_end_to_end(sweep: Path, rfscale: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A backbone and a data set of a user: plan, run in Ray's workers, compare, report."""
    planned = rfscale("plan", sweep, "--allow-plugins", "--json")
    assert planned.returncode == 0, planned.stderr
    trials = json.loads(planned.stdout)["trials"]
    assert {(row["data"], row["depth"], row["parameters"]) for row in trials} == {
        ("stripes", 1, 192 * 193),
        ("stripes", 2, 2 * 192 * 193),
    }
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # Ray's sockets want a short path
        done = rfscale("run", sweep, "--allow-plugins", TMPDIR=short)
    assert done.returncode == 0, done.stderr
    compared = rfscale("compare", sweep, "--allow-plugins", "--json")
    assert compared.returncode == 0, compared.stderr
    reported = rfscale("report", sweep, "--allow-plugins")
    assert reported.returncode == 0, reported.stderr
    record = json.loads((sweep.parent / "runs" / "trials" / trials[0]["trial_id"] / "trial.json").read_text())
    assert record["identity"]["model.backbone"] == "plain"
    assert record["identity"]["data.name"] == "stripes"
    assert len(json.loads(record["identity"]["plugins"])) == 1


CLASH = """
from rfscale.data.spec import DATA, ShapesData
@DATA.add
class Mine(ShapesData):
    name: str = 'shapes'
"""

IDS = """
import json, sys
from rfscale.registry import allowing_plugins
from rfscale.spec.sweep_file import load_sweep
from rfscale.spec.trial import Trial
with allowing_plugins():
    trials = load_sweep(sys.argv[1]).trials
    assert all(Trial.model_validate_json(trial.model_dump_json()) == trial for trial in trials)
print(json.dumps([trial.trial_id for trial in trials]))
"""


def ids(sweep: Path) -> list[str]:
    """In a process of its own: a plug-in stays for as long as its process."""
    command = [sys.executable, "-c", IDS, str(sweep)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment_in(sweep.parent))
    assert done.returncode == 0, done.stderr
    return [str(trial_id) for trial_id in json.loads(done.stdout)]


@pytest.mark.slow
def test_the_text_of_a_plugin_is_part_of_the_identity_and_its_place_is_not(sweep: Path, tmp_path: Path) -> None:
    first = ids(sweep)
    assert len(set(first)) == 4
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("sweep.yaml", "mine.py"):
        shutil.copy(tmp_path / name, moved / name)
    assert ids(moved / "sweep.yaml") == first
    with open(moved / "mine.py", "a") as file:
        file.write("\n# another text\n")
    assert not set(ids(moved / "sweep.yaml")) & set(first)


def test_a_trial_that_does_not_use_the_plugin_keeps_its_id(sweep: Path, tiny: Mapping) -> None:
    sweep.write_text(yaml.safe_dump({**tiny, "plugins": "mine.py"}))
    plain = sweep.with_name("plain.yaml")
    plain.write_text(yaml.safe_dump(tiny))
    assert ids(sweep) == [trial.trial_id for trial in load_sweep(plain).trials]


def test_a_record_that_names_a_plugin_runs_nothing_by_itself(tiny: Mapping, tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(tiny))
    record = load_sweep(plain).trials[0].model_dump(mode="json")
    bad = tmp_path / "bad.py"
    bad.write_text("raise SystemExit(3)")
    with pytest.raises(PluginError, match="is a program, and a sweep file alone never runs one"):
        Trial.model_validate({**record, "plugins": [{"path": str(bad), "sha256": "0" * 64}]})


def test_what_is_wrong_with_a_plugin_is_one_sentence(tmp_path: Path) -> None:
    broken, clash = tmp_path / "broken.py", tmp_path / "clash.py"
    broken.write_text("1 / 0")
    clash.write_text(
        "from rfscale.data.spec import DATA, ShapesData\n@DATA.add\nclass Mine(ShapesData):\n    name: str = 'shapes'"
    )
    with allowing_plugins():
        for path, said in (
            (tmp_path / "none.py", "cannot read the plug-in .*No such file"),
            (broken, "fails: .*ZeroDivisionError"),
            (clash, "data has a 'shapes' already"),
        ):
            with pytest.raises(PluginError, match=said):
                load_plugin(str(path))
        with pytest.raises(PluginError, match="has changed since the trial was planned"):
            load_plugin(str(broken), "0" * 64)


def test_an_installed_package_adds_one_by_an_entry_point(sweep: Path, tmp_path: Path) -> None:
    """What is installed was trusted by whoever installed it: no permission is asked, and it is in no identity."""
    site = tmp_path / "site"
    info = site / "stripes-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    points = "[rfscale.data]\nstripes = stripes:StripesData\n[rfscale.backbones]\nplain = stripes:PlainSpec\n"
    (info / "entry_points.txt").write_text(points)
    text = EXAMPLE.read_text(encoding="utf-8")
    (site / "stripes.py").write_text(text.replace("@DATA.add\n", "").replace("@BACKBONES.add\n", ""))
    definition = yaml.safe_load(sweep.read_text())
    del definition["plugins"]
    sweep.write_text(yaml.safe_dump(definition))
    environment = environment_in(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), environment.get("PYTHONPATH", "")]))
    command = console_script("plan", sweep, "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {row["data"] for row in json.loads(done.stdout)["trials"]} == {"stripes"}


# --- one of each kind, by its own file --------------------------------------------------------------------------------

ONE_OF_EACH = '''
from typing import Literal
from rfscale.backbones.base import BACKBONES
from rfscale.backbones.mmdit.spec import MMDiTSpec
from rfscale.data.spec import DATA, ShapesData
from rfscale.data.text import TEXT, TextSpec
from rfscale.flow.formulations import FAMILIES, Family
from rfscale.flow.noise_samplers import NoiseSampler
from rfscale.flow.paths import STRAIGHT
from rfscale.flow.targets import VELOCITY
from rfscale.judges import GlyphsJudge
from rfscale.spec.judging import JUDGES
from rfscale.spec.schedule import SCHEDULES, ScheduleSpec

@DATA.add
class Few(ShapesData):
    """Shapes, few of them."""
    name: Literal["few"] = "few"

@TEXT.add
class Short(TextSpec):
    """The first words."""
    encoder: Literal["short"] = "short"
    length: int = 4

@BACKBONES.add
class Twin(MMDiTSpec):
    """MM-DiT under another name."""
    backbone: Literal["twin"] = "twin"

@SCHEDULES.add
class Slope(ScheduleSpec):
    """Falls to `end` of its peak."""
    name: Literal["slope"] = "slope"
    end: float = 0.0

    def rate(self, step, peak, warmup_steps, steps):
        return peak * (1 + (self.end - 1) * step / steps)

@JUDGES.add
class Blind(GlyphsJudge):
    """Judges nothing."""
    name: Literal["blind"] = "blind"

    @property
    def label(self):
        return "blind"

    def check(self, data):
        pass

SQUARE = NoiseSampler("t = u^2", lambda u: u * u, lambda t: 0.5 / t.sqrt())
FAMILIES["rf/square"] = Family(STRAIGHT, VELOCITY, lambda: SQUARE, "mine")
'''


def test_one_of_each_kind_is_added_by_one_file(
    tiny: Mapping, tmp_path: Path, rfscale: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "one.py").write_text(ONE_OF_EACH)
    changes = {
        "plugins": "one.py",
        "data": {"name": "few", "resolution": 8},
        "text": {"encoder": ["short", "hash"]},
        "model": {**tiny["model"], "backbone": ["twin", "mmdit"]},
        "training": {**tiny["training"], "schedule": ["slope", "constant"]},
        "formulations": ["rf/square", "rf"],
        "quality": {"judges": ["blind"]},
    }
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({**tiny, **changes}))
    planned = rfscale("plan", path, "--allow-plugins", "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert len(plan["trials"]) == len(plan["arms"]) == 2**4
    assert plan["arms"][0] == "rf/square, backbone twin, encoder short, schedule slope"
    first = plan["trials"][0]["trial_id"]
    trained = rfscale("train", path, first, "--allow-plugins")
    assert trained.returncode == 0, trained.stderr
    record = json.loads((tmp_path / "runs" / "trials" / first / "trial.json").read_text())["identity"]
    keys = ("data.name", "text.encoder", "text.length", "model.backbone", "formulation", "training.schedule.name")
    assert [record[key] for key in keys] == ["few", "short", 4, "twin", "rf/square", "slope"]
    unknown = rfscale("plan", path)
    assert unknown.returncode == 2
