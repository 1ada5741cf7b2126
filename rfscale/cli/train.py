"""During: `run`, `train`, `status`."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Annotated

import typer

from rfscale import names
from rfscale.cli.common import (
    Address,
    Cpus,
    Gpus,
    Json,
    StoreFolder,
    app,
    end,
    one_sentence,
    place_row,
    print_json,
    print_table,
    said_of,
    say,
    terminal,
    trial_row,
    tuned_fields,
    with_resources,
)
from rfscale.cli.race import limits_of, race_record, say_race
from rfscale.failures import FAILURES
from rfscale.run.imports import origin_of
from rfscale.run.imports.stored import status_rows
from rfscale.run.launch import StoppedError
from rfscale.run.race_record import left_out
from rfscale.run.results import Results
from rfscale.run.study import Study, open_store
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial
from rfscale.spec.trunks import trunk_of
from rfscale.store import Store, TrialFolder
from rfscale.train import placement
from rfscale.train.ranks import joined, world_size


@app.command()
@one_sentence
def run(
    sweep: Sweep,
    store: StoreFolder = None,
    address: Address = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    race: Annotated[
        bool, typer.Option("--race", help="block by block, dropping arms that can no longer be the best")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="with --race: begin no block that brings the race above these training FLOPs"),
    ] = None,
    enough: Annotated[
        float | None,
        typer.Option(
            "--enough", help="with --race: over once the leader is expected to be within this share of the best"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train what is missing, then write the report.

    Judges the images too where the sweep has a `quality:` section. With --race, the arms are trained one size and one
    seed at a time, the largest size last, and those that can no longer be the best at the largest size are trained no
    further; the store's ledger says which, when and why, and how the race ended. The same command with other limits
    goes on; without --race a later run trains what a race left out.
    Trials run in parallel on Ray and are logged to MLflow. The same command resumes a sweep that was stopped.
    """
    study = Study(with_resources(sweep, cpus, gpus), open_store(store))
    for option, value in (("--budget", budget), ("--enough", enough)):
        if value is not None and not race:
            raise SweepError(f"{option} has no effect without --race; add --race, or remove it")
    limits = limits_of(budget, enough)
    try:
        ran = study.run(address=address, race=race, budget=limits.budget, enough=limits.enough, watch=terminal(as_json))
        end(study, ran, as_json)
    except StoppedError as error:
        typer.echo(f"rfscale: {error}", err=True)
        raise typer.Exit(128 + signal.SIGTERM) from error


@app.command()
@one_sentence
def train(
    sweep: Sweep,
    trial_id: Annotated[
        str, typer.Argument(metavar="TRIAL_ID", help="id of the trial, or its first digits; `rfscale plan` lists them")
    ],
    store: StoreFolder = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    as_json: Json = False,
) -> None:
    """Train one trial in this process, without Ray or MLflow.

    For a debugger, or a machine that has only torch. Under torchrun the trial is trained by all of its processes:
    `torchrun --nproc-per-node 2 -m rfscale train SWEEP TRIAL_ID`. The same command resumes a trial that was stopped.
    SIGTERM makes it write a checkpoint and leave.
    """
    definition, place = with_resources(sweep, cpus, gpus), open_store(store)
    trial = definition.trial(trial_id)
    resources, processes = definition.resources.at(trial.model.depth), world_size()
    placement.check(resources.model_copy(update={"processes": processes}), trial.training.batch)
    folder = place.trial(trial.trial_id)
    if folder.state(thorough=True).status == names.FINISHED:
        _say_trained(trial, folder, "is finished already", as_json)
        return
    trial.data.check(decode=True)
    place.check_writable()
    import torch

    from rfscale.train.fitting import train_fitting
    from rfscale.train.stopping import heeding_sigterm

    if resources.gpus and not torch.cuda.is_available():
        raise SweepError("the sweep asks for a GPU and torch sees none here; add --gpus 0 to train on the CPU")
    if resources.processes > processes == 1:
        start = f"torchrun --nproc-per-node {resources.processes} -m rfscale train"
        typer.echo(
            f"note: the sweep gives this trial {resources.processes} processes, and this is one: `{start}`", err=True
        )
    torch.set_num_threads(max(1, min(int(resources.cpus), os.cpu_count() or 1)))
    keep = definition.quality is not None and definition.quality.checkpoints == "all"
    with heeding_sigterm() as stop, joined(gpu=bool(resources.gpus)) as ranks:
        ended = train_fitting(
            trial,
            folder,
            resources,
            definition.samples,
            _progress(trial, as_json),
            keep_weights=keep,
            stop=stop,
            trunk=trunk_of(definition, trial),
            ranks=ranks,
        )
        first = ranks.first
    if first:
        _say_ended(trial, folder, as_json)
    elif ended != names.FINISHED:
        raise typer.Exit(128 + signal.SIGTERM if ended == names.INTERRUPTED else 1)


def _progress(trial: Trial, as_json: bool) -> Callable[[int, float], None]:
    """Says how far it came, twenty times."""
    every = max(1, trial.training.steps // 20)

    def progress(step: int, loss: float) -> None:
        if step % every == 0 or step == trial.training.steps:
            typer.echo(f"step {step}/{trial.training.steps}  train loss {loss:.4f}", err=as_json)

    return progress


def _say_ended(trial: Trial, folder: TrialFolder, as_json: bool) -> None:
    for note in folder.notes():
        typer.echo(f"note: {note}", err=as_json)
    state = folder.state()
    if state.status == names.INTERRUPTED:
        told = f"trial {trial.trial_id} {state.status}: {state.reason}; the same command goes on from there"
        typer.echo(f"rfscale: {told}", err=True)
        raise typer.Exit(128 + signal.SIGTERM)  # as of a process that the signal ended
    if state.status != names.FINISHED:
        if as_json:
            _say_trained(trial, folder, state.status, as_json)
        say(f"rfscale: trial {trial.trial_id} {state.status}: {state.reason}", err=True)
        raise typer.Exit(1)
    _say_trained(trial, folder, "finished", as_json)


def _say_trained(trial: Trial, folder: TrialFolder, how: str, as_json: bool) -> None:
    state = folder.state()
    if as_json:
        print_json(
            {
                "trial_id": trial.trial_id,
                "status": state.status,
                "step": state.step,
                "loss": state.loss,
                "reason": state.reason,
                "files": str(folder.path),
            }
        )
    else:
        typer.echo(f"trial {trial.trial_id} {how}: val/loss {state.loss:.4f}, files in {folder.path}")


@app.command()
@one_sentence
def status(
    sweep: Sweep | Results | None = None,
    store: StoreFolder = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="a live table of what runs, until the sweep is done or Ctrl-C")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how far each trial came, and its loss.

    The loss is val/loss where the trial is finished, else its last training loss. With --watch, a table of what runs
    where, how fast, for how long still, and of what is in trouble; it fits the terminal and ends with the sweep. It
    reads the store alone, so it can be started and ended at any time, on any machine that sees the store.
    """
    if not isinstance(sweep, Sweep):
        if watch:
            raise SweepError("--watch shows what trains, and imported runs do not; leave it out")
        _say_imported(sweep, open_store(store), as_json)
        return
    study = Study(sweep, open_store(store))
    if watch:
        _watch(study, as_json)
        return
    gone, states = left_out(study.sweep, study.store), study.states()
    rows = [
        {
            **(trial_row if as_json else place_row)(trial, study.sweep),
            "step": state.step,
            "loss": state.loss,
            "status": names.LEFT_OUT if trial.trial_id in gone else state.status,
            **said_of_failure("" if trial.trial_id in gone else state.failure),
            "reason": gone.get(trial.trial_id)
            or state.reason
            or str(origin_of(study.store.trial(trial.trial_id)) or ""),
        }
        for trial, state in states
    ]
    count = {status: sum(row["status"] == status for row in rows) for status in names.STATUSES}
    if as_json:
        print_json({"sweep": study.sweep.name, "trials": rows, "totals": count, **race_record(study)})
        return
    failure = ("failure",) if any(row["failure"] for row in rows) else ()
    fields = (*tuned_fields(study.sweep), "depth", "seed", "step", "steps", "loss", "status", *failure, "reason")
    print_table(study.sweep.name, ("trial_id", "arm", *fields), rows)
    for trial, state in states:
        if state.status in (names.FAILED, names.DIVERGED, names.INCOMPLETE):
            log = study.store.trial(trial.trial_id).log
            if log.exists():
                typer.echo(f"log of {trial.trial_id}: {log}")
    typer.echo(", ".join(f"{number} {status}" for status, number in count.items() if number))
    for kind, number in Counter(row["failure"] for row in rows if row["failure"]).most_common():
        say(f"{number} {kind}: {FAILURES[kind].then}" if kind in FAILURES else f"{number} {kind}")
    say_race(study)
    typer.echo(said_of(study.store))
    say("loss: val/loss where finished, else the last training loss, which formulations do not share")


def said_of_failure(failure: str) -> dict[str, str]:
    """The class in which a trial ended badly, "" for none, and what happens next."""
    return {"failure": failure, "then": FAILURES[failure].then if failure in FAILURES else ""}


def _say_imported(results: Results | None, store: Store, as_json: bool) -> None:
    """The same of runs that were imported from a table."""
    if results is None:
        raise SweepError("give a sweep file, or the name of imported runs")
    rows = status_rows(results.name, store)
    if as_json:
        print_json({"sweep": results.name, "trials": rows, "totals": {names.FINISHED: len(rows)}})
        return
    columns = ("trial_id", "arm", "parameters", "samples", "seed", "loss", "status")
    print_table(results.name, columns, rows)
    say(results.origin)
    typer.echo(said_of(store))


def _watch(study: Study, as_json: bool) -> None:
    if as_json:
        raise SweepError("--watch draws a table for people, and --json is for programs; give one of them")
    from rich.console import Console

    from rfscale.run.board import Board
    from rfscale.run.live import watch
    from rfscale.run.rates import kept

    console = Console()
    if not console.is_terminal:  # one look, for a file or a pipe
        board = Board(study.sweep, study.store, kept(study.store))
        board.look()
        Console(width=120).print(board.shown(120, 2 * len(study.sweep.trials) + 20))
        say("standard output is no terminal, so this is one look; `rfscale status` lists every trial")
        return
    board = watch(study.sweep, study.store, console)
    page = study.store.report(study.sweep.name) / "report.html"
    if board.over and page.exists():
        say(f"report: {page}")
