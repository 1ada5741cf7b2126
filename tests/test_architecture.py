"""The imports, as the design has them: what may import what, what starts fast, and what no file may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import REPOSITORY

from rfscale import names
from rfscale.spec.sweep import Samples
from rfscale.spec.sweep_file import parse_sweep
from rfscale.store import TrialFolder
from rfscale.train.loop import train

# Data flows down: a file of rfscale imports only from its own folder and from rows below it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),  # `python -m rfscale`
    ("cli",),  # parse, call, print
    ("run",),  # launch (the only file with Ray), mirror and places (all that writes MLflow), progress, the next sweep
    ("rating",),  # asks people about the images of finished trials
    ("judges",),  # score the images of finished trials
    ("train",),  # one trial: needs torch, and neither Ray nor MLflow
    ("validation",),  # what is measured of a network while it trains
    ("store",),  # the files of a trial: no torch
    ("spec",),  # sweep file -> sweep -> trials -> identity: no torch, no Ray
    ("backbones",),  # networks, and their costs without torch
    ("flow",),  # paths, targets, noise samplers, formulations, solver
    ("data",),  # what is trained on
    ("registry",),  # how a choice is named, listed and built
    ("environment", "numbers", "paths"),  # facts, and what any spec is made of
    ("failures",),  # the classes in which a trial ends badly
    ("names", "quoting"),
)

PACKAGES = ("rfscale", "analysis")
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, at_run_time: bool = False) -> Iterator[str]:
    """Every imported module, as written; those under TYPE_CHECKING are left out on request."""
    tree = tree_of(path)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if at_run_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped |= {inner for child in node.body for inner in ast.walk(child)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_packages(path: Path, at_run_time: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(path, at_run_time)}


def layer_of(module: str) -> tuple[int, str]:
    """The row of `rfscale.x...` and its name x there."""
    name = module.split(".")[1]
    for number, row in enumerate(LAYERS):
        if name in row:
            return number, name
    raise AssertionError(f"rfscale/{name} stands in no row of the table; give it its place and the reason")


def test_the_table_lists_every_file_of_rfscale_and_no_other() -> None:
    there = {
        path.stem
        for path in (REPOSITORY / "rfscale").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(name for row in LAYERS for name in row) == sorted(there - {"__init__"})


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(REPOSITORY / "rfscale")], ids=module_of)
def test_imports_go_down(path: Path) -> None:
    if module_of(path) == "rfscale":
        assert not [name for name in imports(path, at_run_time=True) if name.startswith("rfscale")]
        return
    row, name = layer_of(module_of(path))
    for imported in imports(path, at_run_time=True):
        if imported.startswith("rfscale.") and imported != "rfscale.__version__":
            other_row, other = layer_of(imported)
            assert other == name or other_row > row, f"{module_of(path)} imports {imported}, not below it"


def test_only_the_command_line_and_run_import_analysis() -> None:
    users = {module_of(path) for path in FILES if "analysis" in imported_packages(path)}
    assert {name for name in users if name.startswith("rfscale")} <= {
        "rfscale.cli.common",
        "rfscale.cli.coordcheck",
        "rfscale.cli.laws",
        "rfscale.cli.plan",
        "rfscale.cli.predict",
        "rfscale.cli.rate",
        "rfscale.cli.results",
        "rfscale.run.extend",
        "rfscale.run.figures",
        "rfscale.run.forecasts",
        "rfscale.run.hosts",
        "rfscale.run.gallery",
        "rfscale.run.tracking.database",
        "rfscale.run.tracking.mirror",
        "rfscale.run.tracking.places",
        "rfscale.run.tracking.runs",
        "rfscale.run.planned",
        "rfscale.run.prediction",
        "rfscale.run.progress",
        "rfscale.run.propose",
        "rfscale.run.imports.rows",
        "rfscale.run.imports.stored",
        "rfscale.run.sharing",
        "rfscale.run.publish.about",
        "rfscale.run.publish.cards",
        "rfscale.run.publish.choose",
        "rfscale.run.publish.publication",
        "rfscale.run.race",
        "rfscale.run.race_blocks",
        "rfscale.run.race_cost",
        "rfscale.run.race_record",
        "rfscale.run.results",
        "rfscale.run.study",
        "rfscale.run.tracking.summary",
        "rfscale.run.views",
        "rfscale.run.watch",
    }


def test_analysis_imports_only_names_of_rfscale_and_nothing_heavy() -> None:
    for path in FILES:
        if module_of(path).startswith("analysis"):
            assert all(n.startswith("rfscale.names") for n in imports(path) if n.split(".")[0] == "rfscale"), path
            assert not imported_packages(path) & {"torch", "ray", "safetensors", "diffusers", "typer"}, path


def test_one_adapter_per_outside_system() -> None:
    users = {
        package: {module_of(path) for path in FILES if package in imported_packages(path)}
        for package in ("ray", "mlflow", "sqlalchemy", "alembic", "diffusers")
    }
    assert users == {
        "ray": {"rfscale.run.launch"},
        "mlflow": {
            *(f"rfscale.run.tracking.{name}" for name in ("copies", "database", "logged", "places", "runs", "sending")),
            *(f"rfscale.run.tracking.{name}" for name in ("summary", "together")),
            *(f"analysis.table.{name}" for name in ("histories", "read", "rows", "runs", "store")),
        },
        "sqlalchemy": {
            *(f"analysis.table.{name}" for name in ("histories", "runs", "store")),
            "rfscale.run.tracking.together",
        },
        "alembic": {"analysis.table.store"},
        "diffusers": {"rfscale.train.autoencoder"},
    }


def test_modules_that_plan_import_no_torch() -> None:
    for name in (
        "cli/common",
        "cli/plan",
        "cli/train",
        "cli/results",
        "cli/rate",
        "cli/laws",
        "cli/publish",
        "spec/sweep",
        "spec/sweep_file",
        "flow/presets",
        "store/folder",
        "backbones/mmdit/cost",
        "names",
        "run/launch",
        "run/study",
        "run/export",
        "run/results",
        "run/publish/publication",
        "run/tasks",
        "train/placement",
        "train/schedule",
        "run/tracking/mirror",
        "run/progress",
        "environment",
    ):
        tree = tree_of(REPOSITORY / "rfscale" / f"{name}.py")
        top = {
            ast.unparse(node).split()[1].split(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        assert not top & {"torch", "ray", "mlflow", "pandas", "matplotlib"}, name


LOADED = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
if len(sys.argv) > 2:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "ray", "mlflow", "rfscale"}))
"""


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (("analysis", "and all of its modules"), "['rfscale']"),
        (("rfscale.cli",), "['rfscale']"),
        (("rfscale.train.loop",), "['rfscale', 'torch']"),
    ],
    ids=["analysis", "cli", "train"],
)
def test_what_an_import_loads(arguments: tuple[str, ...], loaded: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == loaded, done.stderr


# --- what no file may do ----------------------------------------------------------------------------------------------


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_nothing_that_is_read_can_run_code(path: Path) -> None:
    if module_of(path) != "analysis.report.beside":  # it reads what its own child wrote into their pipe, and no file
        assert not imported_packages(path) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    text = path.read_text(encoding="utf-8")
    for name, call in calls(path):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in ("eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load"), name
        assert keywords.get("shell") != "True"
        assert keywords.get("allow_pickle") != "True"
        if name == "torch.load":
            assert keywords.get("weights_only") == "True"
        if name == "yaml.load":
            loader = keywords.get("Loader") or ast.unparse(call.args[1])
            assert loader.endswith("SafeLoader") or f"class {loader}(yaml.SafeLoader)" in text


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_error_is_swallowed_in_silence(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (broad and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body))


# --- keys -------------------------------------------------------------------------------------------------------------

_LEGAL = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. :/")


def test_every_key_is_a_legal_mlflow_name() -> None:
    tags = [value for name, value in vars(names).items() if name.startswith("TAG_")]
    attention = [names.attention_key(metric, names.attention_block(3, "cross")) for metric in names.ATTENTION]
    levels = (names.denoising_level(-10.0), names.val_level(0.125))
    for key in (*names.METRICS, *names.SYSTEM, *names.PARAMS, *tags, *attention, *levels):
        assert key
        assert set(key) <= _LEGAL, key
        assert len(key) <= 250
        assert not key.startswith(("/", ".")), key
        assert all(part not in ("", ".", "..") for part in key.split("/")), key
    assert not names.METRICS.keys() & names.PARAMS.keys()


def test_a_real_trial_writes_declared_keys_only(tiny: dict[str, object], tmp_path: Path) -> None:
    (trial,) = parse_sweep(tiny).trials
    folder = TrialFolder(tmp_path / "t")
    train(trial, folder, samples=Samples(images=0))
    written = {key for point in folder.points()[0] for key in point.metrics}
    level = names.denoising_level(0.0).removesuffix("0.00")
    profile = {
        key for key in written if key.startswith(level) and names.denoising_level(float(key[len(level) :])) == key
    }
    attention = {key for key in written if (names.parse_attention(key) or ("",))[0] in names.ATTENTION}
    measured = written - profile - attention
    assert measured - names.SYSTEM.keys() == names.METRICS.keys(), "declared and written differ"
    assert measured & names.SYSTEM.keys() == {names.CPU_USE, names.MEMORY_USE, names.PROCESS_MEMORY}, "no GPU here"
    assert profile
    assert len(attention) == len(names.ATTENTION) * trial.model.depth
    assert set(trial.parameters()) == names.PARAMS.keys()
