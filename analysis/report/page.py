"""Table -> results -> figures -> one HTML page.

`write_report` reads a sweep, compares its arms, fits its laws, draws the figures and writes a folder:
`report.html` (self-contained), the figures as PNG, and `trials.csv`, `curves.csv`, `rejected.csv`, `ranking.csv`,
`laws.csv`, `attention.csv` where attention was measured, and `quality.csv` where generated images were scored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.compare import costs, wording, wording_trend
from analysis.compare.arms import Comparison, compare
from analysis.compare.cells import rung_labels
from analysis.html import shown
from analysis.laws import wording as wording_laws
from analysis.laws.ladder import FURTHER, Ladder, ladder_laws
from analysis.quality import wording as wording_quality
from analysis.quality.summary import Quality, assess
from analysis.report.figures import FIGURES, Results
from analysis.report.pictures import Picture, png_of, write_file
from analysis.stability import wording as wording_stability
from analysis.stability.growth import Growth, growth
from analysis.style import house_style, looks, si
from analysis.table.read import SweepTable, read_sweep
from rfscale import names

TEMPLATE = "page.html"


@dataclass(frozen=True)
class Report:
    """What was written and what it says. `text` is for the terminal."""

    path: Path
    table: SweepTable
    comparison: Comparison
    laws: Ladder
    quality: Quality | None
    text: str

    def _repr_html_(self) -> str:
        found = (part for part in (self.comparison, self.laws))
        return "".join(part._repr_html_() for part in found) + shown(f"Report: {self.path}")


def write_report(
    tracking_uri: str,
    sweep: str,
    folder: str | Path,
    *,
    reference: str | None = None,
    command: str | None = None,
    quality_setting: str | None = None,
    trials: Collection[str] | None = None,
) -> Report:
    """Write the report of a sweep into `folder` (made if missing; older files of a report are replaced).

    `reference`: as in `compare`. `command`: what made the sweep, shown as the way to run it again.
    `quality_setting`: as in `assess`. `trials`: as in `read_sweep`. Raises TableError where
    the sweep cannot be read or has no finished trial, CompareError for an unknown reference, QualityError for a setting
    at which nothing was scored. Where no law or no interval is possible the report says so in a sentence.
    """
    folder = Path(folder)
    table = read_sweep(tracking_uri, sweep, trials=trials)
    comparison = compare(table, reference=reference)
    compared = table.only(comparison.trial_ids)  # with tuned axes, the trials of the values chosen
    ladder = ladder_laws(compared, comparison.reference)
    quality = assess(compared, setting=quality_setting)
    grown = growth(tracking_uri, compared)
    look = looks([s.arm for s in comparison.standings], comparison.reference)
    with house_style():
        pictures = list(_pictures(Results(compared, comparison, ladder, quality, grown, look)))
    command = command or f"rfscale run experiments/{sweep}.yaml"
    page = _page(table, comparison, ladder, quality, grown, pictures, command)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        write_file(folder / f"{picture.name}.png", picture.png)
    frames = {
        "trials": table.trials,
        "curves": table.curves,
        "rejected": table.rejected,
        "ranking": comparison.frame(),
        "laws": ladder.frame(),
    }
    if grown is not None:
        frames["attention"] = grown.points
    if quality is not None:
        frames["quality"] = quality.scores
    for name, frame in frames.items():
        write_file(folder / f"{name}.csv", frame.to_csv(index=False).encode())
    path = folder / "report.html"
    write_file(path, page.encode())
    return Report(path, table, comparison, ladder, quality, _text(table, comparison, ladder, quality, path))


def _pictures(results: Results) -> Iterator[Picture]:
    """Every figure that the data allow, drawn."""
    for figure in FIGURES:
        made = figure.make(results)
        if made is not None:
            yield Picture(figure.name, figure.section, made[0], png_of(made[1]))


def _text(table: SweepTable, comparison: Comparison, ladder: Ladder, quality: Quality | None, path: Path) -> str:
    parts = [wording.ranking_text(comparison), wording_laws.laws_text(ladder, [s.arm for s in comparison.standings])]
    if quality is not None:
        parts.append(wording_quality.quality_text(quality))
    if len(table.rejected):
        n = len(table.rejected)
        parts.append(f"{n} run{'s were' if n > 1 else ' was'} left out; the report says why.")
    parts += [f"Note: {note}." for note in table.notes]
    return "\n\n".join([*parts, f"Report: {path}"])


# --- the page ---------------------------------------------------------------------------------------------------------


def _page(
    table: SweepTable,
    comparison: Comparison,
    ladder: Ladder,
    quality: Quality | None,
    grown: Growth | None,
    pictures: Sequence[Picture],
    command: str,
) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    order = [s.arm for s in comparison.standings]
    laws = [ladder.law(name) for name in order]
    return environment.get_template(TEMPLATE).render(
        table=table,
        comparison=comparison,
        ladder=ladder,
        laws=laws,
        misses=wording_laws.misses_sentence(ladder),
        law_notes=list(dict.fromkeys(map(wording_laws.status_words, laws))),
        further=FURTHER,
        pictures=pictures,
        answer=f"{wording.answer(comparison)} {wording_laws.answer(ladder, comparison.best.arm)}",
        law_words=wording_laws,
        words=wording,
        holds=wording_trend,
        quality=quality,
        told=wording_quality,
        growth=grown,
        grown=wording_stability,
        trials=_trial_rows(table),
        trial_columns=list(TRIAL_COLUMNS),
        rejected=table.rejected.astype(object).where(table.rejected.notna(), wording.NOT_KNOWN).to_dict("records"),
        run=_run_facts(table, comparison, command),
        costs=costs.rows(table, comparison),
        costs_note=costs.note(comparison),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


TRIAL_COLUMNS: dict[str, Callable[[pd.Series], str]] = {
    "trial": lambda row: str(row["trial_id"]),
    "arm": lambda row: str(row["arm"]),
    "size": lambda row: str(row["size"]),
    "parameters": lambda row: si(row["parameters"]),
    "training FLOPs": lambda row: f"{row['train_flops']:.3g}",
    "seed": lambda row: str(row["seed"]),
    "val/loss": lambda row: wording.number(row[names.VAL_LOSS]),
    "standard error": lambda row: wording.number(row[names.VAL_LOSS_SE], 2),
    "without EMA": lambda row: wording.number(row[names.VAL_LOSS_RAW]),
    "seconds": lambda row: wording.number(row[names.TRAIN_SECONDS], 3),
}


def _trial_rows(table: SweepTable) -> list[list[str]]:
    rows = table.trials.assign(size=rung_labels(table))
    return [[write(row) for write in TRIAL_COLUMNS.values()] for _, row in rows.iterrows()]


def _run_facts(table: SweepTable, comparison: Comparison, command: str) -> dict[str, str]:
    trials = table.trials
    seconds = trials[names.TRAIN_SECONDS].sum()
    facts = {
        "sweep": table.name,
        "command": command,
        "trials": f"{len(trials)} used, {len(table.rejected)} left out",
        f"{comparison.noun}s": str(len(comparison.standings)),
        "sizes": ", ".join(dict.fromkeys(rung_labels(table))),
        "seeds": ", ".join(map(str, sorted(set(trials["seed"])))),
        "data": ", ".join(
            f"{d} at {r} pixels" for d, r in dict.fromkeys(zip(trials["data"], trials["resolution"], strict=True))
        ),
        "training": f"{_span(trials['steps'])} steps of {_span(trials['batch'])} samples, learning rate "
        f"{_span(trials['learning_rate'])} ({', '.join(sorted(set(trials['lr_rule'])))} across widths), "
        f"{', '.join(sorted(set(trials['precision'])))}",
        "training FLOPs in all": f"{trials['train_flops'].sum():.3g}",
        "time in training steps": f"{seconds / 3600:.2f} h" if seconds > 0 else wording.NOT_KNOWN,
        "commit": ", ".join(table.commits) or wording.NOT_KNOWN,
        "versions": ", ".join(f"{p} {' or '.join(v)}" for p, v in table.versions.items()) or wording.NOT_KNOWN,
        "device": ", ".join(table.devices) or wording.NOT_KNOWN,
    }
    return facts


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
