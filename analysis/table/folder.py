"""The table of a sweep as files of a folder, parquet and CSV, and back: the same table to the last bit.

tables/<name>.parquet, tables/<name>.csv    trials, curves, profile, rejected, quality, ceilings, attention
tables/sweep.json                           what the tables do not hold: the question, the roles, the versions
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.table.identity import Roles, typed
from analysis.table.read import SweepTable, TableError
from rfscale import names

TABLES = ("trials", "curves", "profile", "rejected", "quality", "ceilings")
"""The frames of a `SweepTable`, by their names there."""
ATTENTION = "attention"
FACTS = "sweep.json"
FORMAT = 1


@dataclass(frozen=True)
class Tables:
    """A sweep as it was read: its table, and what `read_attention` gave beside it. `race`: the fields of
    `analysis.compare.raced.Raced`, where it was raced."""

    table: SweepTable
    attention: pd.DataFrame
    race: Mapping[str, Any] | None = None

    def frames(self) -> dict[str, pd.DataFrame]:
        """By the names of the files."""
        return {**{name: getattr(self.table, name) for name in TABLES}, ATTENTION: self.attention}


def write_frame(frame: pd.DataFrame, folder: Path, name: str) -> None:
    """Both files of one table. Values of the identity, which may be numbers in one trial and text in another, are
    written as text."""
    written = frame.reset_index(drop=True)
    for column in written.columns:
        if column.startswith(names.IDENTITY):
            written[column] = written[column].map(lambda value: None if value is None else str(value)).astype(object)
    written.to_parquet(folder / f"{name}.parquet", index=False)
    written.to_csv(folder / f"{name}.csv", index=False)


def write_tables(tables: Tables, folder: Path) -> None:
    """All files, into a folder that is there."""
    for name, frame in tables.frames().items():
        write_frame(frame, folder, name)
    table = tables.table
    facts = {
        "format": FORMAT,
        "name": table.name,
        "question": table.question,
        "roles": asdict(table.roles),
        "commits": table.commits,
        "versions": table.versions,
        "devices": table.devices,
        "notes": table.notes,
        "race": tables.race,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def read_tables(folder: Path) -> Tables:
    """What `write_tables` wrote. Raises TableError for a folder that holds no such tables, or damaged ones."""
    facts = _facts(folder)
    frames = {name: _read_frame(folder / f"{name}.parquet") for name in (*TABLES, ATTENTION)}
    attention = frames.pop(ATTENTION)
    try:
        roles: dict[str, Any] = {k: v if isinstance(v, str) else tuple(v) for k, v in facts["roles"].items()}
        table = SweepTable(
            name=str(facts["name"]),
            tracking_uri=str(folder),
            question=str(facts["question"]),
            roles=Roles(**roles),
            commits=tuple(facts["commits"]),
            versions={package: tuple(found) for package, found in facts["versions"].items()},
            devices=tuple(facts["devices"]),
            notes=tuple(facts["notes"]),
            **frames,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / FACTS, error) from error
    race = facts.get("race")
    if race is not None and not isinstance(race, Mapping):
        raise _damaged(folder / FACTS, TypeError("race is no mapping"))
    return Tables(table, attention, race)


def _facts(folder: Path) -> Mapping[str, Any]:
    path = folder / FACTS
    try:
        facts = dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TableError(f"{folder.parent} is no published folder: it has no readable {folder.name}/{FACTS}; give one "
                         "that `rfscale publish` wrote") from error  # fmt: skip
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    if facts.get("format") != FORMAT:
        raise TableError(
            f"{path} has the format {facts.get('format')!r}, and this version of rfscale reads {FORMAT}; read it "
            "with the version that wrote it"
        )
    return facts


def _read_frame(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise _damaged(path, error) from error
    for column in frame.columns:
        if column.startswith(names.IDENTITY):
            values = [typed(text) if isinstance(text, str) else None for text in frame[column]]
            frame[column] = pd.Series(values, dtype=object)
    return frame


def _damaged(path: Path, error: Exception) -> TableError:
    return TableError(f"{path} is missing or damaged ({names.one_line(error, 200)}); get the folder again")
