"""The Python and the commands of docs/fitting.md run, and its table of forms is complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.laws import FORMS
from rfscale.cli import app

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "fitting.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs_from_top_to_bottom() -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "docs/fitting.md", "exec"), names)
    assert abs(names["design"].flops / 2e20 - 1.0) < 0.02  # type: ignore[attr-defined]


def test_every_form_is_in_the_table() -> None:
    assert [name for name in FORMS if f"`{name}`" not in TEXT] == []


COMMANDS = re.findall(r"^    rfscale (fit .*)$", TEXT, re.MULTILINE)


@pytest.fixture
def runs_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One table for all commands: budgets with a minimum inside, two seeds."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = ["params,tokens,loss,flops,seed,status,run"]
    for c in np.geomspace(1e18, 1e21, 4):
        for n in (c / 6 / 20) ** 0.5 * np.geomspace(0.2, 5.0, 7):
            for seed in (0, 1):
                d = c / 6 / n
                loss = (1.8 + 480 * n**-0.35 + 2100 * d**-0.37) * np.exp(0.001 * rng.normal())
                lines.append(f"{n},{d},{loss},{c},{seed},finished,{len(lines)}")
    Path("runs.csv").write_text("\n".join(lines), encoding="utf-8")


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_run(runs_csv: None, command: str) -> None:
    done = CliRunner().invoke(
        app, [*shlex.split(command), *(["--bootstrap", "50"] if "isoflop" not in command else [])]
    )
    assert done.exit_code == 0, done.output
