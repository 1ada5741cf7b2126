"""The runs of a table in a store: trial folders with journals, and read from them again."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale import names
from rfscale.run.imports.origin import Origin, notes_on, origin_of
from rfscale.run.imports.rows import ForeignRun
from rfscale.run.results import Results
from rfscale.store import Journal, Store, StoreError, TrialFolder, read_json, write_json

if TYPE_CHECKING:
    from analysis.table.folder import Tables

UNKNOWN = "not known"
"""In the place of a parameter that is text."""


def index(name: str, store: Store) -> Path:
    """The file that says which runs a name means."""
    return store.root / "imports" / f"{name}.json"


def write_run(run: ForeignRun, folder: TrialFolder, origin: Origin) -> None:
    """A folder of a trial with what is known of it; it is there whole or not at all."""
    temporary = folder.path.with_name(f".{folder.path.name}.import")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    made = TrialFolder(temporary)
    last = run.points[-1]
    write_json(
        made.record,
        {
            "trial_id": run.trial_id,
            "identity": dict(run.identity),
            "parameters": {
                "parameters": run.parameters,
                "train_flops_per_step": run.flops_per_step,
                "train_flops": run.flops_per_step * run.steps,
                "steps": run.steps,
                "batch": run.batch,
                "samples": run.steps * run.batch,
                "seed": run.seed,
            },
            "lines": run.lines,
        },
    )
    journal = Journal(made.journal)
    for point in run.points:
        journal.log(point.step, {names.VAL_LOSS: point.loss})
    journal.close()
    end = {
        "status": names.FINISHED,
        "step": last.step,
        "reason": "",
        "metrics": {names.VAL_LOSS: last.loss},
        "files": {},
    }
    write_json(made.result, end)
    origin.write(temporary)
    temporary.replace(folder.path)


def named(given: Path | str, store: Store) -> Results | None:
    """The imported runs of that name, None where the store has none. Raises StoreError where they are damaged."""
    name = str(given)
    if Path(name).name != name or not (found := read_json(index(name, store))):
        return None
    try:
        origin = Origin(**found["origin"])
        tables = _tables(found, store)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoreError(f"{index(name, store)} is damaged; remove it, and import the runs again") from error
    return Results(
        tables,
        f"{name}: {origin}",
        command=f"rfscale report {name} --store {store.root}",
        looks=store.looks,
        home=store.report(name),
    )


def status_rows(name: str, store: Store) -> list[dict[str, Any]]:
    """How each imported run of a name stands, as `rfscale status` shows trials."""
    found = read_json(index(name, store)) or {}
    rows = []
    for trial_id, arm in dict(found.get("trials", {})).items():
        folder = store.trial(trial_id)
        record, state = read_json(folder.record) or {}, folder.state()
        given = record.get("parameters", {})
        rows.append(
            {
                "trial_id": trial_id,
                "arm": arm,
                **{key: given.get(key) for key in ("parameters", "samples", "seed")},
                "step": state.step,
                "loss": state.loss,
                "status": state.status,
                "reason": state.reason or str(origin_of(folder) or ""),
            }
        )
    return rows


def _tables(found: dict[str, Any], store: Store) -> Tables:
    import pandas as pd

    from analysis.table.attention import COLUMNS
    from analysis.table.folder import Tables
    from analysis.table.identity import Roles, column
    from analysis.table.read import CEILING_COLUMNS, CURVE_COLUMNS, QUALITY_COLUMNS, SweepTable
    from analysis.table.rows import REJECTED_COLUMNS

    records = {trial_id: read_json(store.trial(trial_id).record) for trial_id in found["trials"]}
    missing = [trial_id for trial_id, record in records.items() if record is None]
    if missing:
        raise StoreError(
            f"the store {store.root} has no trial {missing[0]} of the imported runs {found['name']}; import them again"
        )
    rows, curves = [], []
    for trial_id, record in records.items():
        assert record is not None
        given = record["parameters"]
        points, _ = store.trial(trial_id).points()
        for point in points:
            place = (trial_id, point.step, point.step * given["batch"], point.step * given["train_flops_per_step"])
            curves += [(*place, key, value) for key, value in point.metrics.items()]
        row = {"trial_id": trial_id, "run_id": trial_id, "status": names.FINISHED, "arm": found["trials"][trial_id]}
        row |= {key: _parameter(key, known.kind, given, found["name"]) for key, known in names.PARAMS.items()}
        row |= dict.fromkeys(names.METRICS, math.nan) | {names.VAL_LOSS: points[-1].metrics[names.VAL_LOSS]}
        rows.append({**row, **{column(key): value for key, value in record["identity"].items()}})
    order = ["parameters", "arm", "steps", "seed", "trial_id"]
    trials = pd.DataFrame(rows).sort_values(order, ignore_index=True)
    identity = [name for name in trials.columns if name.startswith(names.IDENTITY)]
    for name in identity:
        trials[name] = pd.Series([_native(v) for v in trials[name]], dtype=object)
    keys = [name.removeprefix(names.IDENTITY) for name in identity]
    roles = Roles(
        arm=tuple(key for key in keys if key.startswith("arm.")) or ("arm",),
        rung=tuple(key for key in keys if key.startswith(("model.", "training.", "run."))),
        seed=("seed",),
    )
    rejected = pd.DataFrame([], columns=[*REJECTED_COLUMNS, *identity]).astype({"depth": "Int64", "seed": "Int64"})
    table = SweepTable(
        name=found["name"],
        tracking_uri=str(store.root),
        question=found["question"],
        roles=roles,
        trials=trials,
        curves=pd.DataFrame(curves, columns=list(CURVE_COLUMNS)),
        profile=pd.DataFrame([], columns=["trial_id", "logsnr", "value"]),
        rejected=rejected,
        quality=pd.DataFrame([], columns=list(QUALITY_COLUMNS)),
        ceilings=pd.DataFrame([], columns=list(CEILING_COLUMNS)),
        commits=(),
        versions={},
        devices=(),
        notes=(*notes_on(found["trials"], store), _measure(found), *found["notes"]),
    )
    return Tables(table, pd.DataFrame([], columns=list(COLUMNS)))


def _measure(found: dict[str, Any]) -> str:
    return (
        f"val/loss is the column {found['columns']['loss']} of that table: what this page says of velocity MSE and of "
        "images is not about it"
    )


def _parameter(key: str, kind: str, given: dict[str, Any], name: str) -> Any:
    if key in given:
        return given[key]
    if key == "data":
        return name
    return UNKNOWN if kind == "text" else math.nan


def _native(value: Any) -> Any:
    """As JSON has it; pandas made NaN of what is missing, and floats of whole numbers beside it."""
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return None
    return int(value) if float(value).is_integer() and abs(value) < 2**62 else float(value)


def check_index(name: str, store: Store, origin: Origin) -> None:
    """One name is one table. Raises StoreError where another one has it."""
    found = read_json(index(name, store))
    if found is not None and found["origin"]["sha256"] != origin.sha256:
        raise StoreError(
            f"the store {store.root} has imported runs of the name {name} from {found['origin']['source']}, which held "
            "something else; give these another name with --name"
        )


def write_index(
    name: str,
    question: str,
    arms: dict[str, str],
    columns: dict[str, Any],
    notes: tuple[str, ...],
    store: Store,
    origin: Origin,
) -> None:
    """What the name means from now on."""
    path = index(name, store)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"source": origin.source, "sha256": origin.sha256, "on": origin.on}
    write_json(path, {"name": name, "question": question, "origin": kept, "columns": json.loads(json.dumps(columns)),
                      "notes": list(notes), "trials": arms})  # fmt: skip
