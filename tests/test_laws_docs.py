"""The Python of docs/fitting.md runs, and its table of forms is complete."""

from __future__ import annotations

import re
from pathlib import Path

from analysis.laws import FORMS

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "fitting.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/fitting.md", "exec"), names)
    assert abs(names["design"].flops / 2e20 - 1.0) < 0.02  # type: ignore[attr-defined]


def test_every_form_is_in_the_table() -> None:
    assert [name for name in FORMS if f"`{name}`" not in TEXT] == []
