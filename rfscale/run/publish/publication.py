"""Publish: everything of a sweep into one new folder, whole or not at all; and such a folder read again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rfscale import __version__, names
from rfscale.run.fresh import check_fresh, fresh_folder
from rfscale.run.publish import about, cards
from rfscale.run.publish.choose import BEST, chosen
from rfscale.run.publish.models import write_model
from rfscale.run.results import Results
from rfscale.spec.trial import Trial
from rfscale.store import State, Store

if TYPE_CHECKING:
    import pandas as pd

    from analysis.report.page import Report
    from analysis.table.folder import Tables
    from rfscale.run.sharing import Sharing
    from rfscale.run.watch import Watch

TRUTH, LOOKS, SWEEP = "true.png", "looks.json", "sweep.yaml"
TRIAL_FILES = ("trial.json", "journal.jsonl", "result.json", "samples.png", "imported.json")
"""Of a trial's folder, but the judges' file."""


@dataclass(frozen=True, slots=True)
class Published:
    """What was published. `models`: ids of the trials whose weights are there; `unfinished`: trial id -> how it stands,
    of the trials that are not finished."""

    folder: Path
    trials: int
    models: tuple[str, ...]
    files: int
    unfinished: dict[str, str]


def publish(
    study: Sharing,
    folder: Path,
    *,
    weights: Sequence[str],
    licence: str,
    authors: Sequence[str],
    url: str,
    watch: Watch,
) -> Published:
    """Write the folder. Raises SweepError for an unknown choice, StoreError for a folder that is not empty and weights
    that are missing, and TableError where no trial is finished; nothing half-written remains."""
    about.check_licence(licence)
    check_fresh(folder)
    sweep, store = study.sweep, study.store
    tables, states = study.tables(watch), study.states()
    models = chosen(weights or [BEST], sweep, store, tables.table)
    unfinished = {trial.trial_id: state.status for trial, state in states if state.status != names.FINISHED}
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    with fresh_folder(folder) as made, watch.counting() as progress:
        report = _write_report(study, tables, made)
        frames = {**tables.frames(), "ranking": report.comparison.frame(), "laws": report.laws.frame()}
        entries = _write_tables(tables, frames, made / "tables")
        _write_sweep(study, made / SWEEP)
        _copy_trials(states, store, made / "trials")
        for done, trial in enumerate(models, start=1):
            _write_model(study, trial, tables, licence, made)
            progress("models", done, len(models))
        described = about.croissant(sweep, frames, entries, made, authors, licence, url, date)
        about.write_environment(tables.table, made)
        ids = tuple(trial.trial_id for trial in models)
        for name, text in {
            "README.md": cards.folder_page(sweep, __version__, unfinished, ids, licence),
            "LOG.md": cards.log_entry(sweep, report, study.command, unfinished, date),
            "LICENSE": about.licence_text(licence, sweep.name),
            "CITATION.cff": about.citation(sweep, authors, licence, url, date),
            "croissant.json": json.dumps(described, indent=1) + "\n",
        }.items():
            (made / name).write_text(text, encoding="utf-8")
        about.write_sums(made)
        files = sum(path.is_file() for path in made.rglob("*"))
    return Published(folder, len(tables.table.trials), ids, files, unfinished)


def read_published(folder: Path) -> Results:
    """The results of a published folder, checked against its checksums. Raises StoreError and TableError."""
    about.check_sums(folder)
    from analysis.table.folder import read_tables
    from rfscale.run.gallery import gallery_in

    tables = read_tables(folder / "tables")
    origin = f"published folder {folder}"
    gallery = gallery_in(folder / "trials", folder / "report" / TRUTH, tables.table)
    return Results(tables, origin, gallery, f"rfscale report --from {folder}", folder / "report" / LOOKS)


# --- parts ------------------------------------------------------------------------------------------------------------


def _write_report(study: Sharing, tables: Tables, made: Path) -> Report:
    """The page and its figures; its CSVs are among the tables."""
    from analysis.compare.raced import Raced
    from analysis.report.page import report_of
    from rfscale.run.gallery import gallery_of, save_truth

    folder = made / "report"
    folder.mkdir()
    if study.store.looks.exists():
        shutil.copy(study.store.looks, folder / LOOKS)
    gallery = gallery_of(study.finished(), study.store)
    report = report_of(
        tables.table,
        tables.attention,
        folder,
        command=study.command,
        gallery=gallery,
        looks_file=folder / LOOKS,
        race=None if tables.race is None else Raced(**tables.race),
    )
    for path in folder.glob("*.csv"):
        path.unlink()
    if gallery is not None:
        save_truth(gallery, folder / TRUTH)
    return report


def _write_tables(tables: Tables, frames: dict[str, pd.DataFrame], folder: Path) -> list[Any]:
    from analysis.table.dictionary import dictionary
    from analysis.table.folder import write_frame, write_tables

    folder.mkdir()
    write_tables(tables, folder)
    for name in frames.keys() - tables.frames().keys():
        write_frame(frames[name], folder, name)
    entries = dictionary(frames)
    about.write_dictionary(entries, folder)
    return entries


def _write_sweep(study: Sharing, path: Path) -> None:
    """The file itself; with fields given beside it, or without a file, what they say together."""
    origin = study.sweep.origin
    if origin.file is not None and not origin.fields and origin.file.is_file():
        shutil.copy(origin.file, path)
        return
    path.write_text(yaml.safe_dump(dict(origin.definition), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _copy_trials(states: Sequence[tuple[Trial, State]], store: Store, folder: Path) -> None:
    folder.mkdir()
    for trial, _ in states:
        source = store.trial(trial.trial_id)
        if not source.record.exists():
            continue
        target = folder / trial.trial_id
        target.mkdir()
        for name in TRIAL_FILES:
            if (source.path / name).exists():
                shutil.copyfile(source.path / name, target / name)
        if source.judges.exists():
            (target / "quality").mkdir()
            shutil.copyfile(source.judges, target / "quality" / source.judges.name)


def _write_model(study: Sharing, trial: Trial, tables: Tables, licence: str, made: Path) -> None:
    table, name = tables.table, f"models/{trial.trial_id}"
    layout = write_model(trial, study.store.trial(trial.trial_id), made / name)
    row = table.trials[table.trials["trial_id"] == trial.trial_id].iloc[0]
    measured = cards.Measured(
        {str(key): value for key, value in row.items()}, table.quality[table.quality["trial_id"] == trial.trial_id]
    )
    card = cards.model_card(study.sweep, trial, layout, measured, licence, name)
    (made / name / "README.md").write_text(card, encoding="utf-8")
