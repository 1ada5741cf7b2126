"""Sample quality: `evaluate`, `judge`."""

from __future__ import annotations

from typing import Annotated

import typer

from rfscale.cli.common import (
    Address,
    Cpus,
    Gpus,
    Json,
    StoreFolder,
    app,
    end,
    one_sentence,
    print_json,
    terminal,
    with_resources,
)
from rfscale.run.study import Study, open_store
from rfscale.spec.sweep import Sweep


@app.command()
@one_sentence
def evaluate(
    sweep: Sweep,
    store: StoreFolder = None,
    address: Address = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="score everything again, as after a change of a judge; new scores count",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge images of finished trials, then report.

    FID, KID, CLIP score, GenEval and what else the judges of the sweep's `quality:` section give. What is scored
    already is not scored again; the same command resumes.
    """
    study = Study(with_resources(sweep, cpus, gpus), open_store(store))
    end(study, study.evaluate(again=again, address=address, watch=terminal(as_json)), as_json)


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

    with terminal(as_json).counting() as progress:
        result = exam(resolution, max_objects, place.judges, progress=progress)
    if as_json:
        print_json(result.to_dict())
    else:
        typer.echo(result.text())
