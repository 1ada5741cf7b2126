"""During: `run`, `train`, `status`."""

from __future__ import annotations

import os
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
    noted,
    one_sentence,
    open_store,
    print_json,
    print_notes,
    print_table,
    said_of,
    trial_row,
    with_resources,
    write_report,
)
from rfscale.cli.judging import check_judges, judge_trials, ready_judges, stop_on_failures
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import load_sweep


@app.command()
@one_sentence
def run(
    sweep: SweepFile,
    store: StoreFolder = None,
    address: Address = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Train what is missing, then write the report.

    Judges the images too where the sweep has a `quality:` section.
    Trials run in parallel on Ray and are logged to MLflow. The same command resumes a sweep that was stopped.
    """
    from rfscale.run.launch import Outcome, launch, to_train
    from rfscale.run.mirror import Mirror, check_reachable
    from rfscale.run.progress import Display

    definition, place = with_resources(load_sweep(sweep), cpus, gpus), open_store(store)
    definition = noted(definition, decode=True)
    if definition.quality is not None:
        check_judges(definition, definition.quality)
    check_reachable(mlflow_uri(place))
    place.check_writable()

    missing = to_train(definition, place)
    screen = console()
    screen.print(
        f"{definition.name}: {len(definition.trials)} trials, {len(missing)} to train", highlight=False, markup=False
    )
    print_notes(definition)
    if definition.quality is not None and missing:
        ready_judges(definition, definition.quality, place)
    mirror = Mirror(definition, place)
    outcome = Outcome()
    if missing:
        display = Display(definition, place, screen)
        with mirror.in_background(), display.shown():
            outcome = launch(
                definition,
                place,
                address=address,
                tick=lambda now, ids: display.update(now, ids, _note(mirror.trouble)),
            )
    else:
        mirror.finish()
    unjudged: dict[str, str] = {}
    if definition.quality is not None:
        finished = [t for t in definition.trials if place.trial(t.trial_id).state().status == names.FINISHED]
        try:
            unjudged = judge_trials(definition, definition.quality, finished, place, address)
        except RuntimeError:  # no judge, no Ray, no MLflow: what was trained has its report all the same
            write_report(definition, place)
            raise
    write_report(definition, place)
    failed = [
        f"{trial_id} ({state.reason})"
        for trial_id, state in outcome.unfinished.items()
        if state.status != names.DIVERGED
    ]
    if failed:
        typer.echo(
            f"rfscale: {len(failed)} trials failed: {'; '.join(failed)}. The same command tries them again.", err=True
        )
    stop_on_failures(unjudged)
    if failed:
        raise typer.Exit(1)


@app.command()
@one_sentence
def train(
    sweep: SweepFile,
    trial_id: Annotated[
        str, typer.Argument(metavar="TRIAL_ID", help="id of the trial, or its first digits; `rfscale plan` lists them")
    ],
    store: StoreFolder = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Train one trial in this process, without Ray or MLflow.

    For a debugger, or a machine that has only torch. The same command resumes a trial that was stopped.
    """
    definition, place = with_resources(load_sweep(sweep), cpus, gpus), open_store(store)
    trial = definition.trial(trial_id)
    folder = place.trial(trial.trial_id)
    if folder.state().status == names.FINISHED:
        typer.echo(f"trial {trial.trial_id} is finished already: val/loss {folder.state().loss:.4f}")
        return
    trial.data.check(decode=True)
    place.check_writable()
    import torch

    from rfscale.train.loop import train as train_trial

    if definition.resources.gpus and not torch.cuda.is_available():
        raise SweepError("the sweep asks for a GPU and torch sees none here; add --gpus 0 to train on the CPU")
    torch.set_num_threads(max(1, min(int(definition.resources.cpus), os.cpu_count() or 1)))
    every = max(1, trial.training.steps // 20)

    def progress(step: int, loss: float) -> None:
        if step % every == 0 or step == trial.training.steps:
            typer.echo(f"step {step}/{trial.training.steps}  train loss {loss:.4f}")

    keep = definition.quality is not None and definition.quality.checkpoints == "all"
    train_trial(trial, folder, definition.resources, definition.samples, progress, keep_weights=keep)
    state = folder.state()
    if state.status != names.FINISHED:
        typer.echo(f"rfscale: trial {trial.trial_id} {state.status}: {state.reason}", err=True)
        raise typer.Exit(1)
    typer.echo(f"trial {trial.trial_id} finished: val/loss {state.loss:.4f}, files in {folder.path}")


@app.command()
@one_sentence
def status(sweep: SweepFile, store: StoreFolder = None, as_json: Json = False) -> None:
    """Show how far each trial came, and its loss.

    The loss is val/loss where the trial is finished, else its last training loss.
    """
    definition, place = load_sweep(sweep), open_store(store)
    rows = []
    for trial in definition.trials:
        state = place.trial(trial.trial_id).state()
        rows.append(
            {
                **trial_row(trial),
                "step": state.step,
                "loss": _finite(state.loss),
                "status": state.status,
                "reason": state.reason,
            }
        )
    count = {status: sum(row["status"] == status for row in rows) for status in names.STATUSES}
    if as_json:
        print_json({"sweep": definition.name, "trials": rows, "totals": count})
        return
    print_table(
        definition.name, ("trial_id", "formulation", "depth", "seed", "step", "steps", "loss", "status", "reason"), rows
    )
    typer.echo(", ".join(f"{number} {status}" for status, number in count.items() if number))
    typer.echo(said_of(place))
    typer.echo("loss: val/loss where finished, else the last training loss, which formulations do not share")


def _note(trouble: str) -> str:
    return f"MLflow does not answer, points wait in the store: {trouble}" if trouble else ""


def _finite(value: float) -> float | None:
    return value if value == value else None
