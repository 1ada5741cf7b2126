"""The Python interface: `rfscale.load`, `rfscale.plan`, `rfscale.run` and `rfscale.open`. See docs/python.md.

    sweep = rfscale.load("experiments/quickstart.yaml", seeds=[0, 1], **{"training.steps": 1000})
    rfscale.plan(sweep)
    rfscale.run(sweep, "runs").report
    rfscale.open("runs", "quickstart").compare()

A sweep is given as its file, as a mapping that says the same, or loaded. Fields beside it are those of the command line
(`rfscale.spec.overrides`): a keyword is a key, a mapping is merged into its section, and None takes a key out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rfscale.paths import expanded
from rfscale.quoting import quoted
from rfscale.run.imports import Imported
from rfscale.run.imports import import_runs as runs_into
from rfscale.run.imports import named as imported_runs
from rfscale.run.imports.mapping import mapped
from rfscale.run.origin import recorded
from rfscale.run.planned import Plan
from rfscale.run.publish import read_published
from rfscale.run.results import Results
from rfscale.run.study import Ran, Study, open_store
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import allowing_absent_data, load_sweep
from rfscale.store import Store, StoreError

Given = str | Path | Mapping[str, Any] | Sweep
Place = str | Path | Store | None

_ENDINGS = (".yaml", ".yml")


def load(sweep: Given, /, **fields: Any) -> Sweep:
    """The sweep and its trials; nothing is trained or written. Raises SweepError."""
    if not isinstance(sweep, Sweep):
        return load_sweep(sweep, fields)
    if fields:
        raise SweepError(f"sweep {sweep.name} is loaded already; give the fields where it is loaded")
    return sweep


def plan(sweep: Given, store: Place = None, /, **fields: Any) -> Plan:
    """Every trial, what it costs and where it stands. Errors as of `Study.plan`; writes nothing.

    Of data that are not on this machine the ids are open (`trial.data.known` is False).
    """
    with allowing_absent_data():
        given = load(sweep, **fields)
    return Study(given, _store(store)).plan()


def run(
    sweep: Given,
    store: Place = None,
    /,
    *,
    address: str | None = None,
    race: bool = False,
    budget: float = math.inf,
    enough: float = 0.0,
    quiet: bool = False,
    **fields: Any,
) -> Ran:
    """Train what is missing, judge where the sweep asks for it, and write the report; `quiet`: show no progress.

    The same call goes on with a sweep that was stopped. `address`, `race`, `budget` and `enough` (of a race) and errors
    as of `Study.run`.
    """
    study = Study(load(sweep, **fields), _store(store))
    if quiet:
        return study.run(address=address, race=race, budget=budget, enough=enough)
    from rich.console import Console

    from rfscale.run.progress import Terminal

    return study.run(address=address, race=race, budget=budget, enough=enough, watch=Terminal(Console()))


def open_study(store: Place, sweep: Given, /, **fields: Any) -> Study:
    """A sweep with the store of its results, by default $RFSCALE_STORE or ./runs.

    `sweep` may also be the name of one that was run in the store, which needs no file. Raises SweepError, StoreError.
    """
    place = _store(store)
    named = isinstance(sweep, str) and not sweep.endswith(_ENDINGS) and not Path(sweep).is_file()
    if named and not fields:
        return Study(recorded(str(sweep), place), place)
    return Study(load(sweep, **fields), place)


def import_runs(source: str | Path, store: Place = None, /, **columns: str | Sequence[str]) -> Imported:
    """Take the runs of a published folder, or of a CSV or parquet file, into a store; `columns` are the options of
    `rfscale import`, such as `loss="final_loss", run=["width", "depth"]`. Raises StoreError, SweepError and FitError.
    """
    return runs_into(expanded(source, "the source"), _store(store), mapped(columns), lambda what, done, total: None)


def open_results(where: Place, name: str | None = None, /) -> Results:
    """Results without their trainings: of a published folder, or of the runs that were imported into a store under a
    name. Raises StoreError and TableError."""
    if name is None:
        if isinstance(where, Store) or where is None:
            raise StoreError("give a published folder, or a store and the name of imported runs")
        return read_published(expanded(where, "the folder"))
    place = _store(where)
    found = imported_runs(name, place)
    if found is None:
        raise StoreError(
            f"the store {place.address} has no imported runs {quoted(name)}; `rfscale import` takes them in"
        )
    return found


def _store(given: Place) -> Store:
    if isinstance(given, Store):
        return given
    return open_store(expanded(given, "the store") if given is not None else None)
