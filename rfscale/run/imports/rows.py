"""A CSV or parquet file of anybody's runs -> trainings with their points, checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale import names
from rfscale.quoting import quoted
from rfscale.run.imports.mapping import COLUMNS, LISTS, Mapped
from rfscale.spec.sweep import SweepError

if TYPE_CHECKING:
    from analysis.laws.table import Table

SIX = 6
"""FLOPs of training per parameter and sample where the table does not say: the usual 6 N D of transformers."""
LARGEST = 2**62


@dataclass(frozen=True, slots=True)
class Point:
    """One row: its training step (the samples, where the table has no steps), and the loss there."""

    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """One training. `identity`: what tells it apart, under dotted keys; `batch`: samples of a step."""

    trial_id: str
    arm: str
    parameters: float
    batch: int
    flops_per_step: float
    seed: int
    identity: Mapping[str, Any]
    points: tuple[Point, ...]
    lines: tuple[int, ...]

    @property
    def steps(self) -> int:
        return self.points[-1].step


@dataclass(frozen=True, slots=True)
class Read:
    """What was read. `columns`: what was taken for what; `notes`: what the table did not say, a sentence each."""

    runs: tuple[ForeignRun, ...]
    columns: dict[str, Any]
    notes: tuple[str, ...]
    rows: int


def read_runs(path: Path, asked: Mapped) -> Read:
    """The trainings of a file. Raises FitError for what is no such file, a column that is not there and a cell that is
    no positive number, with its line, and SweepError for rows that cannot be told apart."""
    whole = _read(path)
    table = whole.where(asked.where) if asked.where else whole
    columns = {key: column for key in COLUMNS if (column := getattr(asked, key) or _same_name(key, table))}
    there = f"there are {', '.join(table.cells)}"
    for key in ("loss", "parameters"):
        if key not in columns:
            raise SweepError(
                f"which column of {path} has the {key}? name it with --{key}; there are {', '.join(table.cells)}"
            )
    if "samples" not in columns and "flops" not in columns:
        there = ", ".join(table.cells)
        raise SweepError(
            f"{path} needs samples or tokens of training: name their column with --samples; there are {there}"
        )
    numbers = {key: table.numbers(column, f"--{key}") for key, column in columns.items() if key != "seed"}
    notes = []
    if "samples" not in numbers:
        numbers["samples"] = numbers["flops"] / (SIX * numbers["parameters"])
        notes.append("the table has no samples: they are FLOPs / (6 N)")
    if "flops" not in numbers:
        numbers["flops"] = SIX * numbers["parameters"] * numbers["samples"]
        notes.append("the table has no FLOPs: they are 6 N D")
    texts = {key: [table.labels(column, f"--{key}") for column in getattr(asked, key)] for key in LISTS}
    seeds = table.labels(columns["seed"], "--seed") if "seed" in columns else None
    grouped: dict[tuple[Any, ...], list[int]] = {}
    for i in range(len(table)):
        arm = tuple(str(column[i]) for column in texts["arm"])
        size = tuple(str(column[i]) for column in texts["size"])
        named = tuple(str(column[i]) for column in texts["run"])
        seed = str(seeds[i]) if seeds is not None else "0"
        # Without a name of the training every row is one; with it the rows of one are points along it.
        length = () if named else (float(numbers["samples"][i]),)
        place = (arm, size, named, seed, float(numbers["parameters"][i]), *length)
        if not named and place in grouped:
            raise SweepError(
                f"lines {table.lines[grouped[place][0]]} and {table.lines[i]} of {path} are the same training by what "
                "is mapped; name what tells them apart with --arm, --size, --seed or --run"
            )
        grouped.setdefault(place, []).append(i)
    runs = tuple(_run(key, rows, numbers, asked, table, path) for key, rows in grouped.items())
    told = {**columns, **{key: list(getattr(asked, key)) for key in LISTS if getattr(asked, key)}}
    return Read(runs, told, tuple(notes), len(table))


def _read(path: Path) -> Table:
    from analysis.laws.status import FitError
    from analysis.laws.table import Table, read_table

    if path.suffix.lower() != ".parquet":
        return read_table(path)
    import numpy as np
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise FitError(
            f"cannot read {path}: it is no parquet file ({names.one_line(error, 100)}); give one."
        ) from error
    if not len(frame):
        raise FitError(f"{path} has no rows: one per run is needed.")
    cells = {
        str(name): np.array(["" if pd.isna(v) else str(v) for v in frame[name]], dtype=np.str_)
        for name in frame.columns
    }
    return Table(str(path), cells, np.arange(1, len(frame) + 1))


def _same_name(key: str, table: Table) -> str | None:
    same = {"loss": names.VAL_LOSS, "flops": "train_flops"}
    return next((name for name in (key, same.get(key, key)) if name in table.cells), None)


def _run(
    key: tuple[Any, ...], rows: list[int], numbers: Mapping[str, Any], asked: Mapped, table: Table, path: Path
) -> ForeignRun:
    arm, size, named, seed, parameters = key[:5]
    rows = sorted(rows, key=lambda i: float(numbers["samples"][i]))
    samples = [_whole(float(numbers["samples"][i]), table.lines[i], path) for i in rows]
    steps = [_whole(float(numbers["step"][i]), table.lines[i], path) for i in rows] if "step" in numbers else samples
    for a, b, i in zip(steps[:-1], steps[1:], rows[1:], strict=True):
        if b <= a:
            raise SweepError(
                f"line {table.lines[i]} of {path} is a second point of its training at step {b}; keep one of them"
            )
    batch = round(samples[-1] / steps[-1])
    if batch < 1 or any(abs(batch * step - n) > 1e-3 * n for step, n in zip(steps, samples, strict=True)):
        raise SweepError(
            f"the training that ends on line {table.lines[rows[-1]]} of {path} has no whole and constant number of "
            "samples per step; leave out --step, and points are placed by their samples"
        )
    flops, known = float(numbers["flops"][rows[-1]]), {*asked.size, *asked.arm}
    fields = {
        **{f"arm.{name}": _value(v) for name, v in zip(asked.arm, arm, strict=True)},
        **{f"model.{name}": _value(v) for name, v in zip(asked.size, size, strict=True)},
        **{f"run.{name}": _value(v) for name, v in zip(asked.run, named, strict=True) if name not in known},
        "model.parameters": _value(repr(parameters)),
        "training.samples": samples[-1],
        "seed": int(seed) if seed.isdigit() else seed,
    }
    points = tuple(Point(step, float(numbers["loss"][i])) for step, i in zip(steps, rows, strict=True))
    # The losses are part of the id: another table with other numbers for the same sizes is other runs.
    text = json.dumps([fields, [(p.step, p.loss) for p in points]], sort_keys=True)
    return ForeignRun(
        trial_id=hashlib.sha256(text.encode()).hexdigest()[:12],
        arm=", ".join(arm) or asked.name or path.stem,
        parameters=round(parameters) if parameters.is_integer() else parameters,
        batch=batch,
        flops_per_step=flops / steps[-1],
        seed=int(seed) if seed.isdigit() else int(hashlib.sha256(seed.encode()).hexdigest()[:6], 16),
        identity=fields,
        points=points,
        lines=tuple(int(table.lines[i]) for i in rows),
    )


def _whole(value: float, line: int, path: Path) -> int:
    if not 0.5 <= value < LARGEST:
        raise SweepError(f"line {line} of {path} is at {quoted(value)} samples or steps; give a number of at least 1")
    return round(value)


def _value(text: str) -> str | int | float:
    """A number where it is one."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() and abs(number) < LARGEST else number
