"""By hand: `exclude`, `include`, `retry`. Each is a line of the store's ledger."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from rfscale.cli.common import Json, StoreFolder, app, one_sentence, print_json
from rfscale.run.study import open_store
from rfscale.store import StoreError
from rfscale.store.ledger import EXCLUDED, INCLUDED, RETRIED, Entry

LONGEST_WHY = 500

TrialId = Annotated[str, typer.Argument(metavar="TRIAL_ID", help="id of a trial in the store, or its first digits")]


@app.command()
@one_sentence
def exclude(
    trial_id: TrialId,
    why: Annotated[str, typer.Option("--why", help="the reason, as the report gives it")],
    store: StoreFolder = None,
    as_json: Json = False,
) -> None:
    """Leave a trial out of every fit and comparison.

    The report lists it with the reason, and with who said so and when. Nothing of the trial is changed.
    """
    place = open_store(store)
    folder = place.find(trial_id)
    said = " ".join(why.split())
    if not said or len(said) > LONGEST_WHY:
        raise StoreError(f"--why has {len(said)} characters; give a reason of 1 to {LONGEST_WHY}")
    entry = place.ledger.add(folder.path.name, EXCLUDED, said)
    _show(entry, "; `rfscale include` takes it back", as_json)


@app.command()
@one_sentence
def include(trial_id: TrialId, store: StoreFolder = None, as_json: Json = False) -> None:
    """Take back that a trial was left out."""
    place = open_store(store)
    folder = place.find(trial_id)
    if folder.path.name not in place.ledger.excluded():
        raise StoreError(f"trial {folder.path.name} is not excluded, so there is nothing to take back")
    entry = place.ledger.add(folder.path.name, INCLUDED)
    _show(entry, "", as_json)


@app.command()
@one_sentence
def retry(trial_id: TrialId, store: StoreFolder = None, as_json: Json = False) -> None:
    """Have the next run train a trial anew, from step 0.

    For one that diverged, say, which is not tried again by itself. What it measured is kept beside its journal.
    """
    place = open_store(store)
    folder = place.find(trial_id)
    folder.start_over()
    entry = place.ledger.add(folder.path.name, RETRIED)
    _show(entry, ": the next `rfscale run` of its sweep trains it from step 0", as_json)


def _show(entry: Entry, what_now: str, as_json: bool) -> None:
    if as_json:
        print_json(asdict(entry))
    else:
        typer.echo(f"trial {entry.trial_id} {entry.sentence}{what_now}")
