"""Sample quality: `evaluate`, `judge`."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from rfscale import names
from rfscale.cli.common import (
    Address,
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
from rfscale.cli.judging import check_judges, judge_trials, stop_on_failures
from rfscale.spec.sweep import Quality
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import StoreError


@app.command()
@one_sentence
def evaluate(
    sweep: SweepFile,
    store: StoreFolder = None,
    address: Address = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    again: Annotated[
        bool, typer.Option("--again", help="score all anew, such as after a change of a judge; the later scores count")
    ] = False,
) -> None:
    """Judge the images of finished trials, then write the report.

    FID, KID, CLIP score, GenEval and what else the judges of the sweep's `quality:` section give. What is scored
    already is not scored again; the same command resumes.
    """
    from rfscale.run.mirror import check_reachable

    definition, place = with_resources(load_sweep(sweep), cpus, gpus), open_store(store)
    quality = definition.quality or Quality()
    check_judges(definition, quality)
    check_reachable(mlflow_uri(place))
    finished = [t for t in definition.trials if place.trial(t.trial_id).state().status == names.FINISHED]
    if not finished:
        raise StoreError(
            f"no trial of sweep {definition.name} in {place.root} is finished; `rfscale run {sweep}` trains them"
        )
    place.check_writable()
    if again:
        from rfscale.judges.evaluate import forget

        for trial in finished:
            forget(trial, place.trial(trial.trial_id), quality)
    failed = judge_trials(definition, quality, finished, place, address)
    write_report(definition, place)
    stop_on_failures(failed)


@app.command()
@one_sentence
def judge(
    resolution: Annotated[int, typer.Option("--resolution", min=8, max=256, help="side of the images, pixels")] = 16,
    max_objects: Annotated[int, typer.Option("--max-objects", min=1, max=4, help="objects in an image")] = 4,
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Examine the judge of the shapes world.

    How well it knows true images, and how it takes spoilt ones. Trains what the judge needs where the store does not
    hold it, a minute or two on a CPU.
    """
    place = open_store(store)
    place.check_writable()
    from rfscale.judges.shapes.judge import exam
    from rfscale.run.progress import Bars

    bars = Bars(console())
    with bars.shown():
        result = exam(resolution, max_objects, place.judges, progress=bars.show)
    if as_json:
        print_json({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in result.to_dict().items()})
    else:
        typer.echo(result.text())
