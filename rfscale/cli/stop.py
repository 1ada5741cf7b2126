"""`stop`: the launchers of a sweep end, asked from another terminal."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from rfscale import names
from rfscale.cli.common import Json, StoreFolder, app, one_sentence, print_json, say
from rfscale.run.stop import ask, launched
from rfscale.run.study import Study, open_store
from rfscale.spec.sweep import Sweep

POLL_SECONDS = 0.5


@app.command()
@one_sentence
def stop(
    sweep: Sweep,
    now: Annotated[
        bool, typer.Option("--now", help="do not train to the end what runs: it writes a checkpoint and leaves")
    ] = False,
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Stop `rfscale run` of a sweep from another terminal.

    Trials that run are trained to their end and no other is begun. Waits until that is so. The next `rfscale run` goes
    on with the rest.
    """
    study = Study(sweep, open_store(store))
    there = launched(study.store, sweep.name)
    if there:
        ask(study.store, sweep.name, now=now)
        how = "writes a checkpoint and leaves" if now else "is trained to its end"
        say(f"asked: what runs {how}, and nothing else is begun", err=as_json)
        _wait(study, as_json)
    states = [state for _, state in study.states()]
    count = {status: sum(state.status == status for state in states) for status in names.STATUSES}
    if as_json:
        print_json({"sweep": sweep.name, "was_running": there, "trials": len(states), "totals": count})
        return
    done = f"{count[names.FINISHED]} of {len(states)} trials are done"
    if not there:
        say(f"nothing to stop: no `rfscale run` of {sweep.name} works on {study.store.address} ({done})")
    else:
        say(f"stopped: {done}; `rfscale run` goes on with the rest")
    if count[names.RUNNING]:
        say(f"{count[names.RUNNING]} trials run all the same, in processes of no `rfscale run`: end those themselves")


def _wait(study: Study, as_json: bool) -> None:
    """Until no launcher is left, saying how many trials run whenever that changes."""
    before = -1
    while launched(study.store, study.sweep.name):
        running = sum(state.status == names.RUNNING for _, state in study.states())
        if running != before:
            say(f"{running} {'trial runs' if running == 1 else 'trials run'}", err=as_json)
            before = running
        time.sleep(POLL_SECONDS)
