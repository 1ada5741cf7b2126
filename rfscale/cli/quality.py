"""Sample quality: `evaluate`, `judge`."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from rfscale import names
from rfscale.cli.common import (
    Cpus,
    Gpus,
    Json,
    StoreFolder,
    SweepFile,
    app,
    console,
    mlflow_uri,
    one_sentence,
    open_store,
    print_json,
    with_resources,
    write_report,
)
from rfscale.store import Store, StoreError
from rfscale.sweep import Quality, Sweep, Trial
from rfscale.sweep_file import load_sweep


@app.command()
@one_sentence
def evaluate(
    sweep: SweepFile,
    store: StoreFolder = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="join this Ray cluster instead of starting one here; 'auto' is that of here"),
    ] = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Judge the images of finished trials, then write the report.

    FID, KID, CLIP score, GenEval and what else the judges of the sweep's `quality:` section give. What is scored
    already is not scored again; the same command resumes.
    """
    definition, place = with_resources(load_sweep(sweep), cpus, gpus), open_store(store)
    quality = definition.quality or Quality()
    check_judges(definition, quality)
    mlflow_uri(place)
    place.check_writable()
    finished = [t for t in definition.trials if place.trial(t.trial_id).state().status == names.FINISHED]
    if not finished:
        raise StoreError(
            f"no trial of sweep {definition.name} in {place.root} is finished; `rfscale run {sweep}` trains them"
        )
    failed = judge_trials(definition, quality, finished, place, address)
    write_report(definition.name, place)
    stop_on_failures(failed)


@app.command()
@one_sentence
def judge(
    resolution: Annotated[int, typer.Option("--resolution", min=8, max=256, help="side of the images, pixels")] = 16,
    max_objects: Annotated[int, typer.Option("--max-objects", min=1, max=4, help="objects in an image")] = 4,
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Examine the judge of the shapes world: how well it knows true images, and how it takes bad ones.

    Trains what the judge needs where the store does not hold it, a minute or two on a CPU.
    """
    place = open_store(store)
    place.check_writable()
    from rfscale.judges.shapes import exam
    from rfscale.progress import Bars

    bars = Bars(console())
    with bars.shown():
        result = exam(resolution, max_objects, place.judges, progress=bars.show)
    if as_json:
        print_json({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.to_dict().items()})
    else:
        typer.echo(result.text())


# --- what `run` shares ------------------------------------------------------------------------------------------------


def check_judges(sweep: Sweep, quality: Quality) -> None:
    """Before anything is trained or drawn: every judge can score the data, and its files are there. JudgeError."""
    for data in {trial.data for trial in sweep.trials}:
        quality.judges_of(data)


def judge_trials(
    sweep: Sweep, quality: Quality, finished: list[Trial], store: Store, address: str | None
) -> dict[str, str]:
    """Score what is missing and mirror it to MLflow, with progress; returns the trials that failed, with reasons."""
    from rfscale.evaluate import missing, units
    from rfscale.judges import load_judge
    from rfscale.launch import Outcome, launch_evaluation
    from rfscale.progress import Bars
    from rfscale.tracking import Mirror

    screen = console()
    left = {t.trial_id: len(missing(t, store.trial(t.trial_id), quality)) for t in finished}
    todo = sorted((t for t in finished if left[t.trial_id]), key=lambda t: -t.shape.flops().forward)
    total = sum(len(units(t, quality)) for t in finished)
    screen.print(
        f"{sweep.name}: {len(finished)} trained, {sum(left.values())} of {total} evaluations to do",
        highlight=False,
        markup=False,
    )
    mirror = Mirror(sweep, store)
    if not todo:
        mirror.finish()
        return {}
    bars, wanted = Bars(screen), sum(left.values())
    with bars.shown():
        # Here first: what a judge must train is trained once, in view, and one that cannot score says so at once.
        for data in {trial.data for trial in todo}:
            for spec in quality.judges_of(data):
                load_judge(spec, data, store.judges, progress=bars.show)

    def tick(outcome: Outcome, running: set[str]) -> None:
        still = sum(len(missing(t, store.trial(t.trial_id), quality)) for t in todo)
        bars.show("evaluations", wanted - still, wanted)

    with mirror.in_background(), bars.shown():
        outcome = launch_evaluation(sweep, quality, todo, store, address=address, tick=tick)
    return {trial_id: state.reason for trial_id, state in outcome.unfinished.items()}


def stop_on_failures(failed: dict[str, str]) -> None:
    if failed:
        listed = "; ".join(f"{trial_id} ({reason})" for trial_id, reason in failed.items())
        typer.echo(
            f"rfscale: the evaluation of {len(failed)} trials failed: {listed}. The same command tries them again.",
            err=True,
        )
        raise typer.Exit(1)
