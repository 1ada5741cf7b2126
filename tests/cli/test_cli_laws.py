"""`rfscale fit`: the keys of its JSON, its flags, and one sentence for what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rfscale.cli import app

REFERENCE = Path(os.environ.get("RFSCALE_REFERENCE_DATA") or Path(__file__).parents[3] / "shared" / "data")
KEYS = {
    *("form", "n", "objective", "delta", "estimate", "standard_error", "interval", "status"),
    *("objective_value", "derived", "rollout", "sensitivity", "predictions"),
}


def fit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["fit", *map(str, arguments)])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A known surface, a column of runs, and rows that a filter must drop."""
    rng = np.random.default_rng(3)
    rows = ["params,tokens,final_loss,run,kept"]
    for i, (n, d) in enumerate((n, d) for n in np.geomspace(1e6, 1e9, 5) for d in np.geomspace(1e8, 1e11, 5)):
        loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(0.002 * rng.standard_normal())
        rows += [f"{n},{d},{loss},r{i % 5},1", f"{n},{d},{9 * loss},r{i % 5},0"]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


COLUMNS = ("--N", "params", "--D", "tokens", "--loss", "final_loss", "--where", "kept == 1", "--bootstrap", "200")


def test_the_json_has_the_promised_keys_and_recovers_the_surface(table: Path) -> None:
    done = fit(table, *COLUMNS, "--group", "run", "--predict", "N=1e10,D=1e12", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) >= KEYS
    assert found["n"] == 25
    assert set(found["estimate"]) == {"E", "A", "B", "alpha", "beta"}
    assert set(found["derived"]) >= {"a", "b"}
    assert found["estimate"]["alpha"] == pytest.approx(0.34, abs=0.03)
    assert found["estimate"]["E"] == pytest.approx(1.7, abs=0.05)
    (prediction,) = found["predictions"]
    assert prediction["low"] < 1.7 + 400 / 1e10**0.34 + 410 / 1e12**0.28 < prediction["high"]


def test_the_report_is_for_a_person_and_the_figure_is_written(table: Path, tmp_path: Path) -> None:
    done = fit(table, *COLUMNS, "--plot", tmp_path / "fit.pdf")
    assert done.exit_code == 0, done.output
    assert "25 of 50 rows where kept == 1" in done.stdout
    assert "alpha" in done.stdout
    assert (tmp_path / "fit.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("form", ["N", "tied", "kaplan"])
def test_every_form_is_one_flag(table: Path, form: str) -> None:
    done = fit(table, *COLUMNS[:2], *(COLUMNS[2:4] if form != "N" else ()), *COLUMNS[4:], "--form", form, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["form"] == form


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--form", "chinchila"), "chinchila"),
        (("--objective", "l2"), "l2"),
        (("--delta", "wide"), "wide"),
        (("--predict", "N:1"), "write it as N=1e10,D=2e11"),
        (("--group", "nobody"), "no column 'nobody'"),
        (("--where", "kept == 7"), "no row"),
        (("--where", "__import__('os')"), ""),
        (("--plot", "nowhere/at/all.png"), "no folder"),
    ],
)
def test_bad_input_is_one_sentence(table: Path, arguments: tuple[str, ...], words: str) -> None:
    done = fit(table, *COLUMNS, *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout


def test_a_missing_table_is_one_sentence(tmp_path: Path) -> None:
    done = fit(tmp_path / "none.csv")
    assert done.exit_code == 2
    assert "cannot read" in done.stderr


@pytest.mark.skipif(
    not (REFERENCE / "chinchilla.csv").exists(), reason="the reference tables are not beside the project"
)
def test_the_published_answer_comes_out_of_the_command() -> None:
    """Besiroglu et al. 2024: A 477.84, B 2143.86, E 1.81724, alpha .347313, beta .367183 (their optimiser's digits)."""
    arguments = ("--form", "chinchilla", "--N", "N", "--D", "D", "--loss", "loss", "--where", "kept_besiroglu == 1")
    done = fit(REFERENCE / "chinchilla.csv", *arguments, "--delta", "1e-3", "--bootstrap", "0", "--json")
    found = json.loads(done.stdout)
    assert found["n"] == 240
    assert found["objective_value"] <= 0.0010182741
    published = {"E": 1.817218, "A": 477.8259, "B": 2143.417, "alpha": 0.3473105, "beta": 0.3671724}
    for name, value in published.items():
        assert found["estimate"][name] == pytest.approx(value, rel=1e-5)
