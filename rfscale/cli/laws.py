"""On any table: `fit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rfscale.cli.common import Json, app, check_picture, one_sentence, say
from rfscale.store import StoreError

if TYPE_CHECKING:
    from analysis.laws.command import TableFit


def _column(option: str, help_: str) -> Any:
    return typer.Option(option, metavar="COLUMN", help=help_)


Column = str | None
FormOption = Annotated[
    str,
    typer.Option(
        "--form",
        help="N, D, C, chinchilla, tied, kaplan, repeated, isoflop, power ... (a wrong one lists all) or a formula "
        'such as "E + A/N^a + B/D^b"',
    ),
]
Select = Annotated[
    str | None,
    typer.Option("--select", help="forms to compare by held-out error and to average, such as chinchilla,tied"),
]
Objective = Annotated[
    str | None,
    typer.Option("--objective", help="huber, lad or ls of the log residual, or raw: ls of the loss [default: huber]"),
]
Delta = Annotated[
    str | None, typer.Option("--delta", help="width of the Huber loss [default: from the residuals]; or chinchilla")
]
Bootstrap = Annotated[
    int | None, typer.Option("--bootstrap", min=0, help="resamples for the intervals [default: 1000]")
]
Degree = Annotated[int | None, typer.Option("--degree", min=2, max=3, help="isoflop: 2 parabola, 3 cubic [default: 2]")]
Window = Annotated[
    float | None,
    typer.Option("--window", help="isoflop: sizes within this factor of a budget's lowest point [default: 4]"),
]
Weights = Annotated[
    Literal["random", "fixed", "none"] | None,
    typer.Option("--weights", help="isoflop, power: random, fixed or none [default: random; power: fixed]"),
]


@app.command()
@one_sentence
def fit(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", readable=False, help="CSV file with a header row and one row per run")
    ],
    form: FormOption = "chinchilla",
    select: Select = None,
    n: Annotated[Column, _column("--N", "column of N, parameters")] = None,
    d: Annotated[Column, _column("--D", "column of D, samples or tokens")] = None,
    c: Annotated[Column, _column("--C", "column of C, training FLOPs")] = None,
    u: Annotated[Column, _column("--U", "column of U, unique samples (repeated)")] = None,
    x: Annotated[Column, _column("--x", "column of x (--form power)")] = None,
    y: Annotated[Column, _column("--y", "column of y (--form power)")] = None,
    sd: Annotated[Column, _column("--sd", "column of the sd of log y (power)")] = None,
    loss: Annotated[Column, _column("--loss", "column of the loss")] = None,
    where: Annotated[str, typer.Option("--where", help='rows to use, such as "kept == 1 and N > 1e6"')] = "",
    objective: Objective = None,
    delta: Delta = None,
    bootstrap: Bootstrap = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="seed of the bootstrap [default: 42]")] = None,
    group: Annotated[Column, _column("--group", "rows of one group are resampled together (one run)")] = None,
    weight: Annotated[Column, _column("--weight", "weights of the rows")] = None,
    fixed: Annotated[str | None, typer.Option("--fixed", help="parameters held, such as E=1.69")] = None,
    predict: Annotated[
        list[str] | None, typer.Option("--predict", help="a point, such as N=1e10,D=2e11; repeatable")
    ] = None,
    degree: Degree = None,
    window: Window = None,
    weights: Weights = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", readable=False, help="file for a figure of the fit: .png, .svg or .pdf")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit a scaling law to any table of runs.

    Intervals on parameters and predictions, a held-out test on the largest runs, and what the answer is sensitive to.
    """
    from analysis.laws.command import fit_table, parse_point, select_table

    if plot is not None:
        check_picture(plot, "--plot")
    given = {"N": n, "D": d, "C": c, "U": u, "x": x, "y": y, "sd": sd, "loss": loss}
    columns = {variable: column for variable, column in given.items() if column is not None}
    points = [parse_point(point) for point in predict or []]
    if select is not None:
        _refuse_beside_select(
            objective=objective, delta=delta, bootstrap=bootstrap, seed=seed, weight=weight, fixed=fixed,
            degree=degree, window=window, weights=weights, plot=plot,
        )  # fmt: skip
        forms = [name.strip() for name in select.split(",")]
        chosen = select_table(table, forms, columns, where_=where, group=group, predict=points)
        if as_json:
            typer.echo(chosen.to_json())
        else:
            say(chosen.to_text())
        return
    found = fit_table(
        table,
        form,
        columns,
        where_=where,
        objective=objective,
        delta=_delta(delta),
        bootstrap=bootstrap,
        seed=seed,
        group=group,
        weight=weight,
        fixed=parse_point(fixed, "E=1.69") if fixed is not None else None,
        predict=points,
        degree=degree,
        window=window,
        weights=weights,
    )
    _show_fit(found, plot, as_json)


def _show_fit(found: TableFit, plot: Path | None, as_json: bool) -> None:
    if as_json:
        typer.echo(found.to_json())
    else:
        say(found.to_text())
    if plot is None:
        return
    from analysis.laws.plot import plot_fit
    from analysis.report.pictures import save_figure

    try:
        save_figure(lambda: plot_fit(found.result, columns=found.columns, predictions=found.predictions), plot)
    except OSError as error:
        raise StoreError(f"cannot write {plot}: {error.strerror}; name another file with --plot") from error
    if not as_json:
        typer.echo(f"\nFigure: {plot}")


def _refuse_beside_select(**options: object) -> None:
    """Options that a comparison of forms would not heed."""
    from analysis.laws import FitError

    for name, value in options.items():
        if value is not None:
            raise FitError(f"--{name} does not apply beside --select: leave it out.")


def _delta(text: str | None) -> float | str | None:
    """A number where it is one; the engine names what else is allowed."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
