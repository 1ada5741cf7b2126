"""Writes the tables of every kind of choice into docs/sweeps.md, and that of the backbones into docs/backbones.md, from
the registries.

    python docs/kinds.py

`tests/docs/test_kinds.py` holds the pages to the code.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from rfscale.backbones.base import BACKBONES, BackboneSpec
from rfscale.registry import KINDS, Kind

PAGES = tuple(Path(__file__).with_name(name) for name in ("sweeps.md", "backbones.md"))
BEGIN, END = "<!-- kinds: written by docs/kinds.py -->\n", "<!-- end of kinds -->\n"


def tables() -> str:
    importlib.import_module("rfscale.spec.sweep_file")  # with every kind of a sweep file
    return "\n".join(_table(kind) for kind in sorted(KINDS.values(), key=lambda kind: kind.section))


def _table(kind: Kind) -> str:
    rows = []
    for row in kind.table():
        keys = ", ".join(f"`{key}` ({field['default']})" for key, field in row["fields"].items())
        rows.append(f"| `{row['name']}` | {keys or 'none'} | {row['summary']} |")
    head = [f"{kind.title}, under `{kind.section}` as `{kind.tag}`", "", "| name | keys (default) | what it is |"]
    return "\n".join([*head, "|---|---|---|", *rows]) + "\n"


def blocks() -> str:
    head = ["| name | a block | FLOPs | parameters | source |", "|---|---|---|---|---|"]
    rows = []
    for name in BACKBONES.names():
        spec = BACKBONES.get(name)
        assert issubclass(spec, BackboneSpec)
        rows.append(
            f"| `{name}` | {spec.equation} | {spec.block_flops} | {spec.block_parameters} | {spec.source} |",
        )
    return "\n".join([*head, *rows]) + "\n"


def page(path: Path) -> str:
    """The page as it should be."""
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + (tables() if path == PAGES[0] else blocks()) + END + rest.split(END)[1]


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page(path), encoding="utf-8")
