"""Ahead: `predict`, `forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rfscale.cli.common import Json, StoreFolder, app, arm_named, check_picture, one_sentence, print_json, say
from rfscale.run.prediction import Target, ahead, at_compute, at_target
from rfscale.run.study import Study, open_store
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.store import StoreError

Arm = Annotated[str | None, typer.Option("--arm", help="this arm alone [default: all]")]
TARGET = "depth=8,steps=2400"


@app.command()
@one_sentence
def predict(
    sweep: Sweep,
    store: StoreFolder = None,
    depth: Annotated[int | None, typer.Option("--depth", help="size: a depth of the sweep's ladder")] = None,
    parameters: Annotated[float | None, typer.Option("--parameters", help="or all trainable parameters")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="length: training steps")] = None,
    samples: Annotated[float | None, typer.Option("--samples", help="or training samples")] = None,
    compute: Annotated[
        float | None, typer.Option("--compute", help="instead of both: training FLOPs, spent as the law has it best")
    ] = None,
    arm: Arm = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", readable=False, help="write a figure (.png, .svg or .pdf)")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict the loss of a training that was not run.

    For every arm, with the 95 % interval of the law and that of one more training, and the order of the arms with its
    probability. Without a size and a length: at 3 and 10 times the largest compute. What cannot be told is said, with
    the reason.
    """
    if plot is not None:
        check_picture(plot, "--plot")
    target = Target(depth, parameters, steps, samples)
    asked = target != Target()
    if asked and compute is not None:
        raise SweepError("--compute says size and length; leave out the others, or leave out --compute")
    if asked:
        target.check()
    study = Study(sweep, open_store(store))
    ladder = study.laws()
    arms = study.arms_of(ladder, arm_named(arm))
    if compute is not None:
        found = [at_compute(ladder, compute, arms)]
    else:
        found = [at_target(sweep, ladder, target, arms)] if asked else ahead(ladder, arms)
    if as_json:
        print_json({"sweep": sweep.name, "law": ladder.description, "targets": [one.to_dict() for one in found]})
    else:
        say("\n\n".join(one.text() for one in found))
    if plot is None:
        return
    if not any(at.told for one in found for at in one.arms):
        say(f"no figure is written to {plot}: nothing can be told", err=True)
        return
    from analysis.laws.plot_predict import plot_foreseen
    from analysis.report.pictures import save_figure

    try:
        save_figure(lambda: plot_foreseen(found), plot)
    except OSError as error:
        raise StoreError(f"cannot write {plot}: {error.strerror}; name another file with --plot") from error
    if not as_json:
        typer.echo(f"Figure: {plot}")


@app.command()
@one_sentence
def forecast(
    sweep: Sweep,
    store: StoreFolder = None,
    target: Annotated[str | None, typer.Option("--target", help=f"the training, such as {TARGET}")] = None,
    arm: Arm = None,
    register: Annotated[
        bool, typer.Option("--register", help="write it into the store, where it is scored once its target exists")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register predictions, and score them once measured.

    With --target: what would be registered, and with --register it is: prediction, interval, law, data, commit and
    time, in a file of which every line holds the hash of the line before. Without: every forecast ever registered in
    the store, its error, whether it was inside its interval, and the tally.
    """
    from rfscale.run.forecasts import forecasts, tally
    from rfscale.run.forecasts import register as written

    study = Study(sweep, open_store(store))
    if target is None:
        if register:
            raise SweepError(f"--register needs --target, the training that is meant, such as {TARGET}")
        known = tally(study.store)
        if as_json:
            print_json({"broken": known.broken, "forecasts": [one.to_dict() for one in known.forecasts]})
        else:
            say("\n".join(known.sentences) or f"no forecast is registered in {study.store.address}; add --target")
        return
    meant = _target(target)
    ladder = study.laws()
    arms = study.arms_of(ladder, arm_named(arm))
    found = at_target(sweep, ladder, meant, arms)
    records = forecasts(sweep, study.store, study.table(), ladder, meant, found)
    if register and not (records := written(study.store, records)):
        raise SweepError(f"that forecast, from the same data, is registered already in {study.store.forecasts}")
    if as_json:
        print_json({"registered": register, "forecasts": records})
        return
    say(found.text())
    said = f"registered in {study.store.forecasts}" if register else "not registered: add --register"
    typer.echo(f"{len(records)} forecast{'s' if len(records) > 1 else ''}, {said}")


def _target(text: str) -> Target:
    from analysis.laws.command import parse_point

    point = parse_point(text, TARGET)
    whole = ("depth", "steps")
    if set(point) - set(Target.__slots__) or not all(point[k] == int(point[k]) for k in whole if k in point):
        raise SweepError(f"--target {text!r} is not a training; write it as {TARGET}, or parameters=1e6,samples=5e6")
    depth, steps = (int(point[key]) if key in point else None for key in whole)
    given = Target(depth, point.get("parameters"), steps, point.get("samples"))
    given.check()
    return given
