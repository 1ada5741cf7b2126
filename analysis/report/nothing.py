"""The page of a sweep of which no trial can be used: what became of its runs, and what to do."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from analysis.card import Card
from analysis.compare.numbers import NOT_KNOWN
from analysis.report.pictures import write_file
from analysis.table.read import NoneUsableError
from rfscale import names


def template(name: str) -> Template:
    """One of this folder."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)  # fmt: skip


def write_nothing(error: NoneUsableError, sweep: str, folder: Path, command: str) -> Path:
    """Write the page and its CSV into the folder, and say where it is."""
    page = template("nothing.html").render(
        name=sweep,
        question=error.question,
        cards=_cards(error.rejected, command),
        counts=_counts(error.rejected),
        rejected=rejected_rows(error.rejected),
        command=command,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "rejected.csv", error.rejected.to_csv(index=False).encode())
    path = folder / "report.html"
    write_file(path, page.encode())
    return path


def rejected_rows(rejected: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of the list of what was left out, as a page has them."""
    shown = rejected.astype(object).where(rejected.notna(), NOT_KNOWN)
    return [{str(key): value for key, value in row.items()} for row in shown.to_dict("records")]


def _counts(rejected: pd.DataFrame) -> list[tuple[str, list[tuple[str, int]]]]:
    """Of each arm, how many runs have which status."""
    found: dict[str, Counter[str]] = {}
    for arm, status in zip(rejected["arm"], rejected["status"], strict=True):
        found.setdefault(str(arm), Counter())[str(status) or "without status"] += 1
    return [(arm, counted.most_common()) for arm, counted in sorted(found.items())]


def _cards(rejected: pd.DataFrame, command: str) -> list[Card]:
    n, lost = len(rejected), int((rejected["status"] == names.DIVERGED).sum())
    runs = f"{n} run{'s' if n > 1 else ''}"
    if lost == n:
        answer = f"{'All' if n > 1 else 'The'} {runs} diverged"
        what = "The same command gives the same. Lower training.learning_rate, or lengthen training.warmup_steps."
        return [
            Card("Which arm wins?", "Nothing to compare", False, (f"{answer}: no loss at the end of training.",)),
            Card("What to do?", "A lower learning rate", False, (what,)),
        ]
    said = ", ".join(
        f"{count} {status or 'without status'}" for status, count in rejected["status"].value_counts().items()
    )
    return [
        Card("Which arm wins?", "Nothing to compare yet", False, (f"No run of {n} is usable: {said}.",)),
        Card("What to do?", "Run it on", False, ("The same command goes on where it stopped.",), command=command),
    ]
