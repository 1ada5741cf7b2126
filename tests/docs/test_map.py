"""docs/map.md has a line for every source file, as its docstring says."""

from __future__ import annotations

import runpy

from conftest import REPOSITORY


def test_the_map_is_what_the_docstrings_say() -> None:
    made = runpy.run_path(str(REPOSITORY / "docs" / "map.py"))
    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), "run `python docs/map.py`"


def test_every_file_is_on_the_map_with_a_sentence() -> None:
    made = runpy.run_path(str(REPOSITORY / "docs" / "map.py"))
    lines = {line.split("`")[1]: line for line in made["page"]().splitlines() if line.startswith("| `")}
    for package in ("rfscale", "analysis"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if path.name == "__init__.py":
                assert made["summary"](path), f"{path} has no docstring"
            else:
                assert len(lines[str(path.relative_to(REPOSITORY))].split("| ")[2].split()) > 2, path
