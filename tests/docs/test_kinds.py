"""Pages of docs hold the tables of the registries, and `rfscale list` prints the same names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

from typer.testing import CliRunner

from rfscale.cli import app
from rfscale.registry import KINDS

DOCS = Path(__file__).resolve().parents[2] / "docs"


def kinds() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kinds", DOCS / "kinds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_what_the_registries_say() -> None:
    pages = kinds().PAGES
    assert {path.name for path in pages} == {"sweeps.md", "backbones.md"}
    for path in pages:
        assert path.read_text(encoding="utf-8") == kinds().page(path), "run python docs/kinds.py"


def test_list_prints_every_kind() -> None:
    done = CliRunner().invoke(app, ["list", "--json"])
    assert done.exit_code == 0
    printed = {kind: [row["name"] for row in rows] for kind, rows in json.loads(done.stdout).items()}
    assert printed == {name: kind.names() for name, kind in KINDS.items()}
    assert set(printed) == {"data", "text", "backbones", "schedules", "judges"}


def test_an_unknown_kind_is_refused() -> None:
    done = CliRunner().invoke(app, ["list", "animals"])
    assert done.exit_code == 2
    assert "there is no kind 'animals'" in done.stderr
