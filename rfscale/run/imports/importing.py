"""`rfscale import`: a publication, or anybody's table, into a store. What is there already stays as it is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rfscale import names
from rfscale.quoting import quoted
from rfscale.run import origin as sweeps
from rfscale.run.imports.mapping import Mapped
from rfscale.run.imports.origin import FILE, Origin, notes_on
from rfscale.run.imports.rows import read_runs
from rfscale.run.imports.stored import check_index, write_index, write_run
from rfscale.run.publish.about import check_sums
from rfscale.run.publish.models import load_published
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import load_sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store, StoreError, TrialFolder, read_json, write_json
from rfscale.store.files import sha256

Progress = Callable[[str, int, int], None]
_NAME = re.compile(r"[\w][\w.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Imported:
    """What was imported. `kept`: trials that were in the store already, which stay as they are; `left`: trials of the
    publication that were not finished there. `sweep`: the file or the name that `rfscale report` takes."""

    name: str
    sweep: str
    origin: Origin
    added: tuple[str, ...]
    kept: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...]


def import_runs(source: Path, store: Store, asked: Mapped, progress: Progress) -> Imported:
    """Take the runs of a published folder, or of a CSV or parquet file, into a store.

    Raises StoreError for a folder or a store that cannot be used, FitError for a table that cannot, SweepError for
    columns that are not named, and TrackingError.
    """
    if not source.exists():
        raise StoreError(f"there is no {source}; give a published folder, or a CSV or parquet file of runs")
    if store.remote is not None:
        raise StoreError(f"runs are imported into a folder, which {store.address} is not; give one with --store")
    if source.is_dir():
        if asked != Mapped():
            raise SweepError(f"{source} is a folder, whose columns are known; leave out the options that name columns")
        return _import_published(source, store, progress)
    return _import_table(source, store, asked, progress)


# --- anybody's table --------------------------------------------------------------------------------------------------


def _import_table(source: Path, store: Store, asked: Mapped, progress: Progress) -> Imported:
    name = asked.name or source.stem
    if not _NAME.fullmatch(name):
        raise SweepError(
            f"{quoted(name)} is no name for runs; give one of letters, digits, dots and dashes with --name"
        )
    read = read_runs(source, asked)
    origin = Origin.now(source, sha256(source))
    check_index(name, store, origin)
    if store.sweep(name).exists():
        raise StoreError(f"the store {store.root} has a sweep of the name {name}; give these runs another with --name")
    store.check_writable()
    added, kept = [], []
    for done, run in enumerate(read.runs, start=1):
        folder = store.trial(run.trial_id)
        if folder.path.exists():
            kept.append(run.trial_id)
        else:
            write_run(run, folder, origin)
            added.append(run.trial_id)
        progress("runs", done, len(read.runs))
    question = asked.question or f"What do the runs of {source.name} say?"
    arms = {run.trial_id: run.arm for run in read.runs}
    write_index(name, question, arms, read.columns, read.notes, store, origin)
    return Imported(name, name, origin, tuple(added), tuple(kept), (), read.notes)


# --- a publication ----------------------------------------------------------------------------------------------------


def _import_published(source: Path, store: Store, progress: Progress) -> Imported:
    from rfscale.run.tracking.mirror import Mirror, check_reachable, tracking_uri

    origin = Origin.now(source, check_sums(source, without=None))
    sweep = load_sweep(source / "sweep.yaml")
    known = {trial.trial_id: trial for trial in sweep.trials}
    sweeps.check_name(sweep, store)
    check_reachable(tracking_uri(store))
    found = sorted(path for path in (source / "trials").iterdir() if path.is_dir())
    for path in found:
        _check_trial(path, known)
    store.check_writable()
    added, kept, left = [], [], []
    for done, path in enumerate(found, start=1):
        folder = store.trial(path.name)
        result = read_json(path / "result.json")
        if folder.record.exists():
            kept.append(path.name)
        elif result is None or result["status"] not in names.OVER:
            left.append(path.name)
        else:
            _take(path, source / "models" / path.name, known[path.name], folder, origin)
            added.append(path.name)
        progress("trials", done, len(found))
    sweeps.record(sweep, store)
    notes = notes_on([trial.trial_id for trial in sweep.trials], store)
    told = sweep.model_copy(update={"notes": tuple(dict.fromkeys([*sweep.notes, *notes]))})
    Mirror(told, store).finish()
    return Imported(sweep.name, str(source / "sweep.yaml"), origin, tuple(added), tuple(kept), tuple(left), notes)


def _check_trial(path: Path, known: dict[str, Trial]) -> None:
    """The folder is of the trial whose id it has. Raises StoreError."""
    record = read_json(path / "trial.json")
    if record is None or path.name not in known:
        raise StoreError(f"{path} is no trial of the published sweep; get the folder again")
    if Trial.model_validate(record["trial"]).trial_id != path.name:
        raise StoreError(f"{path / 'trial.json'} describes another trial than {path.name}; get the folder again")


def _take(path: Path, model: Path, trial: Trial, folder: TrialFolder, origin: Origin) -> None:
    """One trial into the store, whole or not at all; with its EMA weights, where they are published."""
    temporary = folder.path.with_name(f".{folder.path.name}.import")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(path, temporary)
    (temporary / FILE).unlink(missing_ok=True)  # of an earlier import: this one is from the publication
    made = TrialFolder(temporary)
    files, sums = {}, {}
    if model.is_dir():
        from safetensors.torch import save_file

        from rfscale.train.weights import tensors

        save_file(tensors(load_published(model)), made.weights(), metadata={"trial_id": trial.trial_id})
        files[made.weights().name] = made.weights().stat().st_size
        sums[made.weights().name] = sha256(made.weights())
    result = read_json(made.result) or {}
    write_json(made.result, {**result, "files": files, "sha256": sums})
    origin.write(temporary)
    temporary.replace(folder.path)


def said_of(found: Imported) -> dict[str, object]:
    """For --json."""
    return {
        "name": found.name,
        "sweep": found.sweep,
        "source": found.origin.source,
        "sha256": found.origin.sha256,
        "added": list(found.added),
        "kept": list(found.kept),
        "left_out": list(found.left),
        "notes": list(found.notes),
    }
