"""Before training wide: `coordcheck`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rfscale.cli.common import (
    Json,
    StoreFolder,
    app,
    check_picture,
    one_sentence,
    print_json,
    print_table,
    say,
    terminal,
)
from rfscale.run.widths import RULES, SEEDS, STEPS, WITHIN, coordinate_check
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.store import StoreError

_LEAST, _MOST = 4, 8192
_MOST_STEPS, _MOST_SEEDS = 1000, 100


@app.command()
@one_sentence
def coordcheck(
    sweep: Sweep,
    store: StoreFolder = None,
    widths: Annotated[
        str | None,
        typer.Option(
            "--widths", help="by commas, multiples of the width of a head [default: those near 32, 64, 128, 256, 512]"
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="training steps before the activations are measured")] = STEPS,
    seeds: Annotated[int, typer.Option("--seeds", help="seeds at every width")] = SEEDS,
    plot: Annotated[
        Path | None, typer.Option("--plot", readable=False, help="write a figure (.png, .svg or .pdf)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that activations do not grow with width.

    The sweep's first trial is trained for a few steps at every width, under `lr_rule: mup` and under one rate for all.
    Under mup the mean size of what leaves each layer stays within a factor of 1.5, so a learning rate that is tuned at
    one width holds at the others; under one rate it does not. Heads keep their width. A store is only where a sweep is
    found by its name: nothing goes into it.
    """
    if plot is not None:
        check_picture(plot, "--plot")
    for option, value, most in (("--steps", steps, _MOST_STEPS), ("--seeds", seeds, _MOST_SEEDS)):
        if not 1 <= value <= most:
            raise SweepError(f"{option} {value} is no number from 1 to {most:,}; give one")
    check = coordinate_check(sweep, None if widths is None else _widths(widths), steps, seeds, terminal(as_json))
    if as_json:
        print_json(check.to_dict())
    else:
        growth = {rule: check.growth(rule) for rule in RULES}
        rows = [
            {
                "place": place,
                **{f"mup, {w}": f"{size:.3g}" for w, size in zip(check.widths, check.sizes["mup"][place], strict=True)},
                **{f"x {rule}": f"{growth[rule].get(place, float('nan')):.2f}" for rule in RULES},
            }
            for place in check.sizes["mup"]
        ]
        spare = tuple(f"mup, {w}" for w in check.widths[1:-1])
        print_table(f"{check.sweep}: largest size over the smallest (x)", tuple(rows[0]), rows, spare)
        for line in check.sentences():
            say(line)
        say("passed: under mup no place changes by more" if check.passed else f"not within {WITHIN:g} under mup")
    if plot is None:
        return
    from analysis.report.pictures import save_figure
    from analysis.tuning.plot_widths import plot_widths

    try:
        save_figure(lambda: plot_widths(check.frame(), WITHIN), plot)
    except OSError as error:
        raise StoreError(f"cannot write {plot}: {error.strerror}; name another file with --plot") from error
    if not as_json:
        typer.echo(f"Figure: {plot}")


def _widths(given: str) -> tuple[int, ...]:
    """Raises SweepError."""
    try:
        found = tuple(sorted({int(part) for part in given.split(",")}))
    except ValueError:
        found = ()
    if len(found) < 2 or found[0] < _LEAST or found[-1] > _MOST:
        raise SweepError(
            f"--widths {given!r} are no widths; give two or more whole numbers from {_LEAST} to {_MOST:,} by commas, "
            "such as 32,64,128"
        )
    return found
