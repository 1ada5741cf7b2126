"""`rfscale fit` as a user meets it: what is refused, with which line of the file and which remedy; figures; compute."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from measured_runs import COLUMNS, write_runs
from typer.testing import CliRunner

from analysis.laws import FORMS
from analysis.laws.command import fit_table, read_csv
from analysis.laws.table import read_table
from rfscale.cli import app


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_runs(tmp_path)


def fit_command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["fit", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The one sentence of a refusal."""
    done = fit_command(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


OF_LAWS = [
    ("--objective", "nope"),
    ("--objective", "huber"),
    ("--delta", "1e-3"),
    ("--bootstrap", "100"),
    ("--seed", "1"),
    ("--group", "family"),
    ("--weight", "nope"),
    ("--fixed", "E=1"),
]


@pytest.mark.parametrize(("option", "value"), OF_LAWS)
@pytest.mark.parametrize("form", ["isoflop", "power"])
def test_an_option_without_effect_is_refused(table: Path, form: str, option: str, value: str) -> None:
    variables = {
        "isoflop": ("--C", "flops", "--N", "size", "--loss", "val/loss"),
        "power": ("--x", "size", "--y", "flops"),
    }
    assert f"{option} does not apply to form {form!r}" in refused(
        table, "--form", form, *variables[form], option, value
    )


LAW = ("--N", "size", "--D", "tokens", "--loss", "val/loss", "--where", "kept == 1", "--bootstrap", "0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--form", "power", "--x", "size", "--y", "flops", "--predict", "x=1e22"), "--predict does not apply to form"),
        (("--form", "chinchilla", "--sd", "size"), "--sd does not apply to form 'chinchilla', which takes --N, --D"),
        (("--form", "N", "--D", "tokens"), "leave it out, or choose a form that takes it: D, D_E0, chinchilla"),
        ((*LAW, "--objective", "nope"), "use one of huber, lad, ls"),
        ((*LAW, "--weight", "nope"), "there is no column 'nope'; there are size, tokens, val/loss"),
        ((*LAW, "--weight", "nope"), "name it with --weight"),
        ((*LAW, "--weight", "family"), "column 'family' holds text, 'good' on line 2 of"),
        ((*LAW, "--group", "nope"), "name it with --group"),
        ((*LAW, "--fixed", "E"), "write it as E=1.69"),
        ((*LAW, "--fixed", ""), "write it as E=1.69"),
        ((*LAW, "--fixed", "E=1.5,E=1.6"), "gives E twice"),
        ((*LAW, "--predict", "N=1e10"), "a law of N and D: write the point as N=1e10,D=2e11, or as C=1e21"),
        ((*LAW, "--predict", "N=1e10,D=1e10,Q=1"), "--predict gives N, D, Q"),
        ((*LAW, "--predict", "C=-1"), "--predict has C=-1: give positive finite numbers"),
        ((*LAW, "--predict", "N=nan,D=1e9"), "--predict has N=nan"),
        (("--form", "isoflop", "--predict", "C=inf"), "--predict has C=inf"),
        ((*LAW, "--predict", "nope"), "write it as N=1e10,D=2e11"),
        (
            ("--loss", "val/loss"),
            "there is no column 'N'; there are size, tokens, val/loss, kept, family, flops: name it",
        ),
        (("--loss", "val/loss"), "name it with --N"),
    ],
)
def test_the_remedy_of_a_refusal_is_one_that_exists(table: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(table, *arguments)


def test_an_unknown_form_lists_all_that_can_be_fitted(table: Path) -> None:
    said = refused(table, "--form", "nope")
    assert all(f" {name}," in said or f" {name}." in said for name in (*FORMS, "isoflop", "power"))
    assert "Form value" not in said


@pytest.mark.parametrize(("n_points", "simpler"), [(4, "tied"), (3, "tied_E0")])
def test_the_simpler_form_advised_is_one_that_these_points_can_carry(
    tmp_path: Path, n_points: int, simpler: str
) -> None:
    path = tmp_path / "few.csv"
    rows = [f"{10**k},{3 * 10 ** (k + 2 + k % 2)},{2 + 4 / k}" for k in range(6, 6 + n_points)]
    path.write_text("\n".join(["N,D,loss", *rows]), encoding="utf-8")
    assert f"or use the simpler form '{simpler}'" in refused(path)
    assert fit_command(path, "--form", simpler).exit_code == 0


def test_points_on_one_line_are_advised_a_law_in_one_variable(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("N,D,loss\n1e6,1e8,3\n1e7,1e9,2.5\n", encoding="utf-8")
    assert "or use the simpler form 'N_E0'" in refused(path)
    assert fit_command(path, "--form", "N_E0").exit_code == 0


# --- lines of the file ------------------------------------------------------------------------------------------------


def with_cell(table: Path, line: int, column: int, cell: str) -> Path:
    """The table with another cell on a line of the file, counted from 1 as an editor does."""
    lines = table.read_text(encoding="utf-8").split("\n")
    cells = lines[line - 1].split(",")
    cells[column] = cell
    lines[line - 1] = ",".join(cells)
    table.write_text("\n".join(lines), encoding="utf-8")
    return table


@pytest.mark.parametrize("where_", ["kept == 1", "kept == 1 and size > 2e7"])
@pytest.mark.parametrize(
    ("column", "cell", "found"),
    [(2, "nan", "empty or nan"), (2, "", "empty or nan"), (0, "inf", "inf"), (1, "-1", "-1.0")],
)
def test_a_bad_number_is_on_the_line_of_the_file_with_and_without_a_filter(
    table: Path, where_: str, column: int, cell: str, found: str
) -> None:
    name = ("size", "tokens", "val/loss")[column]
    options = ("--N", "size", "--D", "tokens", "--loss", "val/loss", "--where", where_)
    said = refused(with_cell(table, 20, column, cell), *options)
    assert f"column {name!r} is {found} on line 20 of {table} (1 such line)" in said


def test_the_remedy_for_a_bad_number_is_a_filter_that_works(table: Path) -> None:
    said = refused(with_cell(table, 20, 2, ""), *LAW)
    condition = said.split("--where '")[1].split("'")[0]
    kept = ("--N", "size", "--D", "tokens", "--loss", "val/loss", "--bootstrap", "0")
    assert fit_command(table, *kept, "--where", f"kept == 1 and {condition}").exit_code == 0


def test_a_bad_weight_and_a_text_are_on_the_line_of_the_file(table: Path) -> None:
    said = refused(with_cell(table, 6, 3, "-1"), *LAW[:6], "--where", "family == 'good'", "--weight", "kept")
    assert "column 'kept' is -1.0 on line 6" in said
    assert "column 'tokens' holds text, 'n/a' on line 9" in refused(with_cell(table, 9, 1, "n/a"), *LAW)


def test_a_column_is_one_of_numbers_once_its_text_is_filtered_out(table: Path) -> None:
    with_cell(table, 39, 2, "diverged")
    found = fit_table(table, "chinchilla", COLUMNS, where_="family == 'good'", bootstrap=0, checks=False)
    assert found.n_kept == 36


def test_lines_are_counted_over_blank_lines_and_cells_of_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text('N,note,loss\n\n1e6,"two\nlines",2\n\n1e7,x,nan\n', encoding="utf-8")
    assert read_table(path).lines.tolist() == [3, 6]
    assert "on line 6 of" in refused(path, "--form", "N")
    path.write_text('N,note,loss\n\n1e6,"two\nlines",2\n\n1e7,x\n', encoding="utf-8")
    assert "line 6 of" in refused(path, "--form", "N")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("params,loss,params\n1,2,3\n", "'params' 2 times, as columns 1 and 3: rename all but one"),
        ("params;loss\n1;2\n", "separated by semicolons: separate them by commas"),
        ("params\tloss\n1\t2\n", "separated by tabs: separate them by commas"),
        ("params,loss\n", "has no rows"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    assert words in refused(path, "--N", "params", "--form", "N")


def test_a_missing_file_and_columns_without_a_name(tmp_path: Path) -> None:
    assert "no such file or directory; give the path of a CSV file" in refused(tmp_path / "nofile.csv")
    path = tmp_path / "index.csv"
    path.write_text(",N,loss,\n0,1,2,\n1,2,1,\n", encoding="utf-8")
    assert list(read_csv(path)) == ["N", "loss"]


# --- compute ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def image_runs(tmp_path: Path) -> Path:
    """Runs whose compute is 2.5 N D: far from 6."""
    path = tmp_path / "image.csv"
    lines = ["N,D,loss,flops"]
    for n in np.geomspace(1e7, 1e10, 6):
        for d in np.geomspace(1e9, 1e12, 6):
            lines.append(f"{n},{d},{1.8 + 480 * n**-0.35 + 2100 * d**-0.37},{2.5 * n * d}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_measured_compute_is_used_and_assumed_compute_is_said_to_be(image_runs: Path) -> None:
    options = {"predict": [{"C": 1e22}], "bootstrap": 0, "checks": False}
    assumed = fit_table(image_runs, "chinchilla", **options)  # type: ignore[arg-type]
    measured = fit_table(image_runs, "chinchilla", {"C": "flops"}, **options)  # type: ignore[arg-type]
    given = fit_table(image_runs, "chinchilla", {"C": "flops"}, flops_per_nd=3.0, **options)  # type: ignore[arg-type]
    assert "compute: C = 3 N D, as given." in given.to_text().split("\n")
    for found, factor in ((assumed, 6.0), (measured, 2.5), (given, 3.0)):
        (row,) = found.optima
        assert row["N_opt"] * row["D_opt"] == pytest.approx(1e22 / factor)
        assert found.to_dict()["compute"]["flops_per_nd"] == pytest.approx(factor)  # type: ignore[index]
    (line,) = [line for line in assumed.to_text().split("\n") if line.startswith("compute:")]
    assert "C = 6 N D is assumed" in line
    assert "--C" in line
    (line,) = [line for line in measured.to_text().split("\n") if line.startswith("compute:")]
    assert "C = 2.5 N D, the geometric mean of column 'flops' (2.5 to 2.5 over the runs)" in line


def test_isoflop_says_that_data_were_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    rows = ["C,N,D,loss"]
    for c in (1e18, 1e19, 1e20):
        for n in (c / 2.5) ** 0.5 * np.geomspace(0.3, 3.0, 7):
            d = c / 2.5 / n
            rows.append(f"{c},{n},{d},{1.7 + 400 * n**-0.35 + 400 * d**-0.35}")
    path.write_text("\n".join(rows), encoding="utf-8")
    known = fit_table(path, "isoflop")
    assert "assumed" not in known.to_text()
    path.write_text("\n".join(rows).replace("D", "tokens"), encoding="utf-8")
    unknown = fit_table(path, "isoflop")
    assert sum("D = C / (6 N) is assumed" in line for line in unknown.to_text().split("\n")) == 1
    assert known.result.to_dict()["compute"] == {"flops_per_nd": None}
    assert unknown.result.to_dict()["compute"] == {"flops_per_nd": 6.0}
    assert fit_table(path, "isoflop", {"D": "tokens"}).to_text() == known.to_text()


# --- power laws and figures -------------------------------------------------------------------------------------------


def test_standard_deviations_are_named_only_where_they_were_given(table: Path) -> None:
    table.write_text(table.read_text().replace("kept", "error"), encoding="utf-8")
    options = ("--form", "power", "--x", "size", "--y", "flops", "--where", "error == 1 and tokens < 1.1e9")
    plain, weighted = fit_command(table, *options).stdout, fit_command(table, *options, "--sd", "error").stdout
    for word in ("weighted", "deviations given"):
        assert word not in plain
        assert word in weighted
    assert "standard deviation of log y around the line" in plain


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "is a folder; name a file in it, such as "),
        ("fit.foo", "write "),
        ("fit", "is no name of a PNG, SVG or PDF file"),
        ("none/fit.png", "there is no folder "),
        ("locked/fit.png", "cannot be written to; name a file in another one with --plot"),
    ],
)
def test_a_figure_that_cannot_be_written_is_refused_before_the_table_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "locked").mkdir()
    may = os.access
    # The tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and may(path, mode))
    assert words in refused(tmp_path / "no-such-table.csv", "--plot", tmp_path / name)


def test_a_figure_that_fails_to_be_written_keeps_the_numbers(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("analysis.report.pictures.save_figure", full)
    done = fit_command(table, "--form", "power", "--x", "size", "--y", "flops", "--plot", table.with_name("a.png"))
    assert done.exit_code == 2
    assert "y = k x^a" in done.stdout
    assert "No space left on device; name another file with --plot" in done.stderr


def test_the_figure_of_a_power_law_has_the_columns_on_its_axes(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("analysis.report.pictures.save_figure", lambda draw, path: drawn.append(draw()))
    options = ("--form", "power", "--x", "size", "--y", "flops")
    assert fit_command(table, *options, "--plot", table.with_name("fit.png")).exit_code == 0
    assert (drawn[0].get_xlabel(), drawn[0].get_ylabel()) == ("size", "flops")
