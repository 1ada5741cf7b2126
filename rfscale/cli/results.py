"""After: `report`, `compare`, `sample`, `ui`."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rfscale import names
from rfscale.cli.common import (
    Json,
    Reference,
    StoreFolder,
    app,
    arm_named,
    check_option,
    check_picture,
    one_sentence,
    print_json,
    said_by,
    said_of_arms,
    said_of_report,
    say,
    terminal,
)
from rfscale.numbers import Real
from rfscale.run import rolling
from rfscale.run.images import DRAWN, draw, sides_of
from rfscale.run.publish import read_published
from rfscale.run.results import Results
from rfscale.run.study import Study, open_store
from rfscale.run.watch import SILENT
from rfscale.spec.sweep import Sweep, SweepError

RARE_COLLECTIONS = (100_000, 20, 20)
"""Of cyclic garbage: with Python's own numbers it is a sixth of the time of a report, whose objects are kept anyhow."""
EVERY = Real(1.0, 86_400.0)
"""Seconds between two looks of `report --watch`."""
From = Annotated[
    Path | None,
    typer.Option("--from", readable=False, help="published folder (`rfscale publish`) in place of a sweep and a store"),
]


@app.command()
@one_sentence
def report(
    sweep: Sweep | Results | None = None,
    store: StoreFolder = None,
    source: From = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", readable=False, help="with --from: folder to make [default: NAME-report]"),
    ] = None,
    setting: Annotated[
        str | None,
        typer.Option(
            "--setting",
            help="sample quality at this setting, such as s50-g2.5-ema [default: EMA, 50 steps or the most, the "
            "guidance with the best mean]",
        ),
    ] = None,
    reference: Reference = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="write it again whenever more has finished, until all has, or Ctrl-C")
    ] = False,
    every: Annotated[float, typer.Option("--every", help="with --watch: seconds between two looks")] = 60.0,
    as_json: Json = False,
) -> None:
    """Write the report: figures, tables and one HTML page.

    It goes to <store>/reports/<name of the sweep>/report.html. With --from it is made from a published folder alone,
    with the same digits, and without a store.
    """
    gc.set_threshold(*RARE_COLLECTIONS)
    results = results_of(sweep, source)
    if watch and (as_json or results is not None):
        beside = "--json" if as_json else "--from" if source is not None else "imported runs, which have all ended"
        raise SweepError(f"--watch goes with a sweep that is trained here, not with {beside}; leave it out")
    check_option("--every", every, EVERY)
    if results is not None:
        made = results.report(out, setting=setting, reference=arm_named(reference))
        if as_json:
            print_json(said_of_report(results.name, results.command, made))
        else:
            say(made.text)
        return
    if out is not None:
        raise SweepError("--out goes with --from; the report of a sweep goes into its store")
    assert isinstance(sweep, Sweep)  # `results_of` says so
    study = Study(sweep, open_store(store))
    if watch:
        with suppress(KeyboardInterrupt):
            again = partial(study.report, setting=setting, reference=arm_named(reference))
            rolling.watched(sweep, study.store, lambda: again().path, say, every)
    elif as_json:
        print_json(said_by(study, study.report(setting=setting, reference=arm_named(reference))))
    else:
        study.report(setting=setting, reference=arm_named(reference), watch=terminal())


@app.command()
@one_sentence
def compare(
    sweep: Sweep | Results | None = None,
    store: StoreFolder = None,
    source: From = None,
    reference: Reference = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            help="compare the values of this field of what was trained, such as training.learning_rate, instead of the "
            "sweep's arms; may be repeated for fields that move together",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank the arms by val/loss, with intervals.

    The arms are the formulations, unless the sweep says otherwise. Says also what each costs in FLOPs at equal loss.
    Arms in different latent spaces have no losses to compare: what the judges say of them is shown instead, `judged` in
    JSON: average ranks, and CLIP score and FID with intervals.
    """
    results = results_of(sweep, source)
    if results is not None:
        found = results.compare(reference=arm_named(reference), by=by or ())
    else:
        assert isinstance(sweep, Sweep)  # `results_of` says so
        watch = SILENT if as_json else terminal()
        with watch.busy("comparing the arms"):
            found = Study(sweep, open_store(store)).compare(reference=arm_named(reference), by=by or (), watch=watch)
    if as_json:
        print_json(said_of_arms(found.comparison, found.table))
        return
    from analysis.compare.wording import ranking_text

    say(ranking_text(found.comparison))
    if found.comparison.apart:
        from analysis.quality.judged import judged_text

        say(judged_text(found.table))
    if len(found.table.rejected):
        typer.echo(f"runs left out: {len(found.table.rejected)}; the report says why")


@app.command()
@one_sentence
def sample(
    trial_id: Annotated[
        str, typer.Argument(metavar="TRIAL_ID", help="id of a finished trial in the store, or its first digits")
    ],
    prompt: Annotated[list[str], typer.Option("--prompt", help="what the images should show; may be repeated")],
    store: StoreFolder = None,
    out: Annotated[Path, typer.Option("--out", readable=False, help="PNG file to write")] = Path("sample.png"),
    count: Annotated[int, typer.Option("--count", help="images of each prompt")] = 4,
    steps: Annotated[int, typer.Option("--steps", help="steps of the ODE solver")] = 50,
    guidance: Annotated[float, typer.Option("--guidance", help="classifier-free guidance scale; 1 turns it off")] = 2.5,
    seed: Annotated[int, typer.Option("--seed", help="seed of the noise")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="weights as trained instead of their EMA")] = False,
    size: Annotated[
        str | None,
        typer.Option("--size", help="HEIGHTxWIDTH of the images in pixels, whole patches [default: as trained]"),
    ] = None,
    shift: Annotated[
        float | None,
        typer.Option(
            "--shift", help="timestep shift; for m pixels instead of n the paper takes sqrt(m/n) [default: as trained]"
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="text encoder to leave out, its part zeros; may be repeated [default: none]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a PNG grid of images from a trained trial."""
    check_picture(out, "--out", (".png",))
    asked = {"count": count, "steps": steps, "guidance": guidance, "seed": seed}
    for name, value in (asked if shift is None else {**asked, "shift": shift}).items():
        check_option(f"--{name}", value, DRAWN[name])
    images = draw(
        open_store(store),
        trial_id,
        prompt,
        count=count,
        steps=steps,
        guidance=guidance,
        seed=seed,
        ema=not raw,
        size=None if size is None else sides_of(size),
        shift=shift,
        without=without or (),
    )
    images.save(out)
    trial = images.trial
    if as_json:
        print_json({"file": str(out), "trial_id": trial.trial_id, "images": len(images), "prompts": prompt})
        return
    typer.echo(f"{len(images)} images of {trial.formulation}, depth {trial.model.depth}: {out}")


@app.command()
@one_sentence
def ui(
    store: StoreFolder = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="port of the page")] = 5000,
    as_json: Json = False,
) -> None:
    """Serve the MLflow UI on this store, on loopback only.

    The address that is printed opens at the sweep that was run last.
    """
    from analysis.table.store import SETTINGS, connect, keeps_files_itself
    from rfscale.run.tracking.mirror import tracking_uri

    uri = tracking_uri(open_store(store))
    if keeps_files_itself(uri):
        if as_json:
            print_json({"address": names.mask(uri)})
        else:
            typer.echo(f"MLFLOW_TRACKING_URI is set: open {names.mask(uri)}")
        return
    client = connect(uri)
    # Not as an argument: everybody on the machine can read the command line of a process, and a login in the address.
    os.environ |= {**SETTINGS, "MLFLOW_BACKEND_STORE_URI": uri}
    known = client.search_experiments(order_by=["last_update_time DESC"], filter_string="name != 'Default'")
    latest = [one for one in known if not one.name.endswith(names.REPORT_EXPERIMENT)]
    address = f"http://127.0.0.1:{port}" + (f"/#/experiments/{latest[0].experiment_id}" if latest else "")
    if as_json:
        print_json({"address": address})
    else:
        typer.echo(address)
    arguments = ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    arguments += ["--uvicorn-opts", "--log-level warning"]
    os.execv(sys.executable, [sys.executable, *arguments])


def results_of(sweep: Sweep | Results | None, source: Path | None) -> Results | None:
    """The results of a published folder or of imported runs, None for a sweep. Raises SweepError where neither or both
    are given, and as `read_published` does."""
    if (sweep is None) == (source is None):
        what = "both a sweep and --from are given; leave out one" if source else "give a sweep file, or --from DIR"
        raise SweepError(what)
    if source is not None:
        return read_published(source)
    return None if isinstance(sweep, Sweep) else sweep
