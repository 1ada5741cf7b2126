"""`fit_table`: CSV in, text and JSON out; the row filter; what the package imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from measured_runs import COLUMNS, write_runs

from analysis.laws import FitError
from analysis.laws.command import fit_table, parse_point, read_csv
from analysis.laws.where import where


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_runs(tmp_path)


def test_text_and_json_of_a_table(table: Path) -> None:
    found = fit_table(
        table, "chinchilla", COLUMNS, where_="kept == 1", bootstrap=200, predict=[parse_point("N=1e11,D=1e13")]
    )
    assert (found.n_read, found.n_kept) == (38, 36)
    out = json.loads(found.to_json())
    keys = (
        "form n objective delta estimate standard_error interval status objective_value derived rollout sensitivity "
        "predictions"
    )
    assert set(keys.split()) <= set(out)
    assert out["n"] == 36
    assert out["estimate"]["alpha"] == pytest.approx(0.35, abs=0.02)
    assert {row["axis"] for row in out["rollout"]["rows"]} == {"N", "D", "C"}
    (prediction,) = out["predictions"]
    assert prediction["prediction_low"] < prediction["low"] < prediction["loss"] < prediction["high"]
    text = found.to_text()
    for part in ("36 of 38 rows where kept == 1", "status: converged", "alpha:", "[[Held-out]]", "[[Predictions]]"):
        assert part in text


def test_compute_alone_asks_for_the_best_size(table: Path, tmp_path: Path) -> None:
    found = fit_table(
        table, "chinchilla", COLUMNS, where_="kept == 1", bootstrap=100, checks=False, predict=[{"C": 1e22}]
    )
    (row,) = json.loads(found.to_json())["predictions"]
    assert row["N_opt"] * row["D_opt"] * 6 == pytest.approx(1e22)
    assert row["N_opt_low"] < row["N_opt"] < row["N_opt_high"]
    assert "N_opt = " in found.to_text()
    curves = tmp_path / "curves.csv"
    rows = ["C,N,loss"]
    for c in (1e18, 1e19, 1e20):
        for n in (c / 6) ** 0.5 * np.geomspace(0.3, 3.0, 7):
            rows.append(f"{c},{n},{1.7 + 400 * n**-0.35 + 400 * (c / 6 / n) ** -0.35}")
    curves.write_text("\n".join(rows), encoding="utf-8")
    iso = fit_table(curves, "isoflop", predict=[{"C": 1e21}])
    (best,) = json.loads(iso.to_json())["predictions"]
    assert best["N_opt"] == pytest.approx((1e21 / 6) ** 0.5, rel=0.02)
    with pytest.raises(FitError, match="write the point as C=1e21"):
        fit_table(curves, "isoflop", predict=[{"N": 1e8}])


def test_isoflop_and_power_of_a_table(table: Path) -> None:
    with pytest.raises(FitError, match="two are needed"):
        fit_table(table, "isoflop", {"C": "flops", "N": "size", "loss": "val/loss"}, where_="size > 1e9")
    found = fit_table(table, "power", {"x": "size", "y": "flops"}, where_="tokens < 1.1e9 and kept == 1")
    assert json.loads(found.to_json())["estimate"]["a"] == pytest.approx(1.0)
    assert "y = k x^a" in found.to_text()


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("kept == 1", [0, 1, 3]),
        ("kept != 1 or x < 2", [0, 2]),
        ("1 < x <= 3 and not kept == 0", [1]),
        ('family == "a" and (x > 1 or kept == 1)', [0, 2]),
        ("family in ['b', 'c']", [1, 3]),
        ("family not in ('b', 'c')", [0, 2]),
        ("`val/loss` >= -1", [0, 3]),
        ("x == kept", [0]),
    ],
)
def test_filter(expression: str, rows: list[int]) -> None:
    columns = {
        "kept": np.array([1.0, 1.0, 0.0, 1.0]),
        "x": np.array([1.0, 2.0, 3.0, 4.0]),
        "family": np.array(["a", "b", "a", "c"]),
        "val/loss": np.array([0.0, -2.0, np.nan, 5.0]),
    }
    assert np.flatnonzero(where(expression, columns)).tolist() == rows


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "x.__class__ == 1",
        "x + 1 == 2",
        "[x for x in (1,)] == 1",
        "lambda: 1",
        "x",
        "x is 1",
        "x == True",
        "x ==",
        "",
        "x[0] == 1",
        "(y := 1) == 1",
    ],
)
def test_filter_refuses_everything_else(expression: str) -> None:
    with pytest.raises(FitError, match="comparisons"):
        where(expression, {"x": np.array([1.0])})


def test_filter_names_its_mistakes() -> None:
    with pytest.raises(FitError, match="names column 'y'; there are x"):
        where("y == 1", {"x": np.array([1.0])})
    with pytest.raises(FitError, match="compares a number with text"):
        where("x == '1'", {"x": np.array([1.0])})


def test_tables_that_cannot_be_read(tmp_path: Path, table: Path) -> None:
    with pytest.raises(FitError, match="cannot read"):
        read_csv(tmp_path / "none.csv")
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("a,b\n1,2\n3\n", encoding="utf-8")
    with pytest.raises(FitError, match=r"line 3 of .* has 1 cells"):
        read_csv(ragged)
    with pytest.raises(FitError, match="no column 'N'; there are size"):
        fit_table(table, "chinchilla")
    with pytest.raises(FitError, match="--M does not apply to form 'chinchilla'"):
        fit_table(table, "chinchilla", COLUMNS | {"M": "size"})
    with pytest.raises(FitError, match="holds text"):
        fit_table(table, "chinchilla", COLUMNS | {"N": "family"})
    with pytest.raises(FitError, match="no row of"):
        fit_table(table, "chinchilla", COLUMNS, where_="kept == 7")
    with pytest.raises(FitError, match=r"column 'val/loss' is empty or nan on line 39 of .*runs.csv \(1 such line\)"):
        fit_table(table, "chinchilla", COLUMNS)


@pytest.mark.parametrize("text", ["N", "N=", "=1", "N=1e3,D", "N=x"])
def test_points_are_written_one_way(text: str) -> None:
    with pytest.raises(FitError, match="N=1e10,D=2e11"):
        parse_point(text)


def test_laws_import_neither_torch_nor_ray_nor_mlflow_nor_pandas() -> None:
    code = (
        "import sys, analysis.laws, analysis.laws.command, analysis.quality.correlate, analysis.quality.rank;"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pandas', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == "[]"


ODD_NAMES = {
    "params.n_params": np.array([1.0, 2.0, 3.0]),
    "metrics.val/loss": np.array([1.0, np.nan, 3.0]),
    "metrics.val/loss std": np.array([9.0, 9.0, 0.0]),
    "lambda": np.array([1.0, 2.0, 3.0]),
    "loss (val)": np.array([3.0, 2.0, 1.0]),
    "1": np.array([1.0, 0.0, 1.0]),
    "a=b": np.array([1.0, 1.0, 0.0]),
    "not": np.array([1.0, 1.0, 0.0]),
    "N": np.array([1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("metrics.val/loss > 0", [0, 2]),
        ("metrics.val/loss std > 1 and params.n_params < 2", [0]),
        ("lambda>1 and N == 3", [2]),
        ("not loss (val) >= 2", [2]),
        ("`loss (val)` >= 2 and `1` < 2", [0, 1]),
        ("`1` == 1", [0, 2]),
        ("`a=b` == 1 and `not` == 1 and not N == 1", [1]),
        ("N < 1000000000000000000000", [0, 1, 2]),
    ],
)
def test_a_column_with_an_odd_name_is_filtered_as_it_stands_or_in_backticks(expression: str, rows: list[int]) -> None:
    assert np.flatnonzero(where(expression, ODD_NAMES)).tolist() == rows


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("N > 1e7 & N < 1e9", "write and in place of &"),
        ("N > 1e7 || N < 1e9", "write or in place of |"),
        ("N = 1", "write == in place of ="),
        ("!N == 1", "write not in place of !"),
        ("params.size > 1", "there are `params.n_params`, `metrics.val/loss`"),
        ("val/loss > 1", "there is no such column"),
        ("N in 3", "write a list"),
        ("N ==", "goes in backticks"),
        ("N == 477190123456789012", 'put it in quotes, "477190123456789012"'),
        ("(" * 5000 + "N == 1" + ")" * 5000, "cannot read"),
    ],
)
def test_a_filter_that_cannot_be_read_is_told_what_to_write(expression: str, advice: str) -> None:
    with pytest.raises(FitError, match=advice) as caught:
        where(expression, ODD_NAMES)
    assert "Op" not in str(caught.value)
    assert len(str(caught.value)) < 900


NUMBERS_AS_TEXT = {
    "ppl": np.array(["1.00", "9.50", "10.00", "diverged"]),
    "size": np.array(["7B", "10M", "100M", "1,300"]),
    "day": np.array(["2026-01-02", "2026-01-10", "2026-02-01", ""]),
    "group": np.array(["g1", "g2", "g1", "g2"]),
    "id": np.array([1.0, 2.0, 3.0, 4.0]),
}


@pytest.mark.parametrize(
    ("expression", "advice"),
    [
        ("ppl > 3", "column ppl, which is text, since its cell 'diverged' is no number"),
        ('ppl > "3"', "column ppl, which is text, since its cell 'diverged' is no number"),
        ('"10M" < size', "column size, which is text, since its cell '7B' is no number"),
        ("'group' != 'g1'", "and no column: take the quotes off the column: group"),
        ('not "size" == "7B"', "and no column: take the quotes off the column: size"),
        ("1 < 2", "and no column: there are ppl, size, day, group, id"),
        ("id >= 477190123456789012", "has more digits than a number holds"),
    ],
)
def test_a_filter_that_would_keep_other_rows_than_were_meant_is_refused(expression: str, advice: str) -> None:
    with pytest.raises(FitError, match=re.escape(advice)):
        where(expression, NUMBERS_AS_TEXT, NUMBERS_AS_TEXT)


def test_text_that_is_no_number_has_its_order() -> None:
    assert where('day >= "2026-01-10"', NUMBERS_AS_TEXT).tolist() == [False, True, True, False]
    assert where('ppl != "diverged"', NUMBERS_AS_TEXT).tolist() == [True, True, True, False]


def test_labels_are_compared_and_grouped_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = [f"{10**k},{2 + 4 / k},{run}" for run in (477190123456789012, 477190123456789013) for k in range(6, 12)]
    path.write_text("\n".join(["N,loss,run", *rows]), encoding="utf-8")
    found = fit_table(path, "N", where_='run == "477190123456789013"', bootstrap=0, checks=False)
    assert found.n_kept == 6
    grouped = fit_table(path, "N", group="run", bootstrap=0, checks=False)
    assert "12 points in 2 groups" in grouped.to_text().replace("points: 12 in", "12 points in")
    path.write_text("\n".join(["N,loss,run", *rows, "1e5,3,", "1e5,3,"]), encoding="utf-8")
    with pytest.raises(FitError, match=r"'run', named by --group, is empty or nan on line 14 and 1 more"):
        fit_table(path, "N", group="run")


def test_advice_for_a_bad_cell_and_a_quoted_number_is_advice_that_works(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = [f"{n:g},{'inf' if n == 4e6 else 2 + 40 * n**-0.3}" for n in np.arange(1, 9) * 1e6]
    path.write_text("\n".join(["N,loss", *rows]), encoding="utf-8")
    with pytest.raises(FitError, match=r"inf on line 5 .* --where 'loss > 0 and loss < 1e308'"):
        fit_table(path, "N", checks=False, bootstrap=0)
    assert fit_table(path, "N", where_="loss > 0 and loss < 1e308", checks=False, bootstrap=0).n_kept == 7
    with pytest.raises(FitError, match="take the quotes off"):
        fit_table(path, "N", where_="N > '2e6'")


def test_a_column_of_compute_that_does_not_follow_n_d_is_said_to(tmp_path: Path) -> None:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    loss = 1.8 + 480 * n**-0.35 + 2100 * d**-0.37
    said = []
    for flops in (6 * n * d, n):
        table = np.column_stack([n, d, flops, loss])
        np.savetxt(tmp_path / "runs.csv", table, delimiter=",", header="N,D,C,loss", comments="")
        said.append("does not follow N D" in fit_table(tmp_path / "runs.csv", checks=False, bootstrap=0).to_text())
    assert said == [False, True]
