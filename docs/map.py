"""Writes docs/map.md: a line per source file, from the first sentence of its docstring.

    python docs/map.py

`tests/docs/test_map.py` holds the page to the code.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "map.md"

# Top to bottom as data flows: a file imports only from its own folder and from those below it.
FOLDERS = {
    "rfscale": ("cli", "run", "rating", "judges", "train", "validation", "store", "spec", "backbones", "flow", "data"),
    "analysis": ("report", "preference", "quality", "stability", "tuning", "compare", "laws", "table"),
}
HEAD = """# Map of the code

Written by `python docs/map.py` from the docstrings; do not edit. Data flows down: a file imports only from its own
folder and from the folders below it. `analysis` imports `rfscale.names` and nothing else of rfscale.
"""


def summary(path: Path) -> str:
    """The first paragraph of a file's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def table(files: list[Path]) -> str:
    rows = [f"| `{file.relative_to(ROOT)}` | {summary(file)} |" for file in files]
    return "\n".join(["| file | |", "|---|---|", *rows]) + "\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for package, folders in FOLDERS.items():
        parts.append(f"## {package}\n\n{summary(ROOT / package / '__init__.py')}\n")
        for name in folders:
            folder = ROOT / package / name
            files = [file for file in sorted(folder.rglob("*.py")) if file.name != "__init__.py"]
            parts.append(f"### {package}/{name}\n\n{summary(folder / '__init__.py')}\n\n{table(files)}")
        loose = [file for file in sorted((ROOT / package).glob("*.py")) if file.name != "__init__.py"]
        if loose:
            parts.append(f"### {package}\n\n{table(loose)}")
    parts.append(f"## benchmarks\n\n{table(sorted((ROOT / 'benchmarks').glob('*.py')))}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
