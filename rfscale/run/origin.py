"""Which sweep a name means in a store, where it came from, and the command that runs it again.

A store keeps one report and one MLflow experiment for each name, so two sweeps of one name would overwrite each other.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rfscale.spec.overrides import edited, parse_fields
from rfscale.spec.sweep import Origin, Sweep, SweepError
from rfscale.spec.sweep_file import parse_sweep, read_mapping
from rfscale.store import Store, StoreError, default_store, read_json, write_json


def record(sweep: Sweep, store: Store) -> None:
    """Keep what the name means now: the whole definition, so that the sweep can be opened without its file."""
    origin = sweep.origin
    path = store.sweep(sweep.name)
    path.parent.mkdir(exist_ok=True)
    write_json(
        path,
        {
            "command": command(sweep, store),
            "file": str(origin.file.resolve()) if origin.file is not None else None,
            "folder": str(origin.folder.resolve()),
            "fields": origin.fields,
            "trials": [trial.trial_id for trial in sweep.trials],
            "definition": origin.definition,
        },
    )
    store.share(path)


def recorded(name: str, store: Store) -> Sweep:
    """The sweep that was last run under a name. Raises StoreError where there is none, and SweepError."""
    found = _record(name, store)
    if found is None:
        there = sorted(path.stem for path in store.sweep(name).parent.glob("*.json"))
        known = f"it has {', '.join(there)}" if there else "it has none yet; give the sweep file"
        raise StoreError(f"the store {store.address} has no sweep {name}; {known}")
    folder, definition = Path(found["folder"]), found["definition"]
    sweep = parse_sweep(definition, f"sweep {name} of the store {store.address}", folder)
    file = Path(found["file"]) if found["file"] is not None else None
    return sweep.model_copy(update={"origin": Origin(file, folder, tuple(found["fields"]), definition)})


def check_name(sweep: Sweep, store: Store) -> None:
    """One name is one sweep: raises StoreError where another file of this name was run in the store.

    A file that was edited, moved or copied as it is goes on; so does one whose name is given beside it.
    """
    found = _record(sweep.name, store)
    file = sweep.origin.file
    if found is None or found["file"] is None or file is None or "name" in parse_fields(sweep.origin.fields):
        return
    other = Path(found["file"])
    if other == file.resolve() or set(found["trials"]) == {trial.trial_id for trial in sweep.trials}:
        return
    if _name_in(other, found["fields"]) != sweep.name:  # it was moved, or has another name by now
        return
    raise StoreError(
        f"{other} and {file.resolve()} are two sweeps of one name, {sweep.name}, and the store {store.address} has the "
        "results of the first, so that each report would replace the other's; give the second another name with --name "
        f"NAME, or put it in the place of the first with --name {sweep.name}"
    )


def command(sweep: Sweep, store: Store) -> str:
    """The command line that runs the sweep, as it was given: its file and the fields beside it."""
    origin = sweep.origin
    if origin.file is None:
        return shlex.join(["python", "-c", f'import rfscale; rfscale.open("{store.address}", "{sweep.name}").run()'])
    there = [] if store.address == str(default_store()) else ["--store", store.address]
    return shlex.join(["rfscale", "run", str(origin.file), *origin.fields, *there])


def _record(name: str, store: Store) -> dict[str, Any] | None:
    found = read_json(store.sweep(name)) if Path(name).name == name else None
    if found is not None and not found.keys() >= {"file", "folder", "fields", "trials", "definition"}:
        raise StoreError(f"{store.sweep(name)} is damaged; remove it, and run the sweep again")
    return found


def _name_in(file: Path, fields: list[str]) -> Any:
    """The name that a file has now; None where it is no sweep file any more."""
    try:
        return edited(read_mapping(file), parse_fields(fields), str(file)).get("name")
    except SweepError:
        return None
