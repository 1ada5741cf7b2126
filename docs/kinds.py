"""Writes the tables of every kind of choice into docs/sweeps.md, from the registries.

    python docs/kinds.py

`tests/docs/test_kinds.py` holds the page to the code.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from rfscale.registry import KINDS, Kind

PAGE = Path(__file__).with_name("sweeps.md")
BEGIN, END = "<!-- kinds: written by docs/kinds.py -->\n", "<!-- end of kinds -->\n"


def tables() -> str:
    importlib.import_module("rfscale.spec.sweep_file")  # with every kind of a sweep file
    return "\n".join(_table(kind) for kind in KINDS.values())


def _table(kind: Kind) -> str:
    rows = []
    for row in kind.table():
        keys = ", ".join(f"`{key}` ({field['default']})" for key, field in row["fields"].items())
        rows.append(f"| `{row['name']}` | {keys or 'none'} | {row['summary']} |")
    head = [f"{kind.title}, under `{kind.section}` as `{kind.tag}`", "", "| name | keys (default) | what it is |"]
    return "\n".join([*head, "|---|---|---|", *rows]) + "\n"


def page() -> str:
    """The page as it should be."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + tables() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
