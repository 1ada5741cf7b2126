"""Table -> results -> figures -> one HTML page.

`write_report` reads a sweep, compares its arms, fits its laws, draws the figures and writes a folder:
`report.html` (self-contained), every figure as PNG, SVG and PDF, and `trials.csv`, `curves.csv`, `rejected.csv`,
`ranking.csv`, `laws.csv`, `attention.csv` where attention was measured, `tuned.csv` where values were tuned,
`frontier.csv` where there is a law, and `quality.csv` where generated images were scored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from analysis.card import Card
from analysis.compare import costs, wording, wording_trend
from analysis.compare.arms import Comparison, compare
from analysis.compare.cells import rung_labels
from analysis.compare.raced import Raced, as_raced
from analysis.compare.spaces import apart_card
from analysis.compare.wording_cards import holds_card, winner_card
from analysis.html import shown
from analysis.laws import wording as wording_laws
from analysis.laws import wording_frontier
from analysis.laws.ahead import next_scale
from analysis.laws.frontiers import frontier
from analysis.laws.ladder import FURTHER, Ladder, ladder_laws
from analysis.laws.profiles import isoflops
from analysis.laws.wording_ahead import next_card
from analysis.quality import wording as wording_quality
from analysis.quality.summary import Quality, assess
from analysis.report import gallery as pictures_of
from analysis.report.beside import Painter
from analysis.report.figures import FIGURES, Results
from analysis.report.forest import Forest, forest, swatch
from analysis.report.gallery import Gallery
from analysis.report.nothing import rejected_rows, template, write_nothing
from analysis.report.palette import kept_places
from analysis.report.pictures import FORMATS, Drawn, write_file
from analysis.report.svg import Inline, inline
from analysis.stability import wording as wording_stability
from analysis.stability.growth import growth
from analysis.style import LEADING, house_style, looks, places_of, si
from analysis.table.attention import read_with_attention
from analysis.table.read import NoneUsableError, SweepTable, TableError
from analysis.tuning import wording as wording_tuning
from analysis.tuning.summary import tuning_of
from rfscale import names

TEMPLATE = "page.html"
_ENDED = (*names.OVER, names.DROPPED)  # how a trial that is left out may have ended for good


@dataclass(frozen=True)
class Picture:
    """One figure as it goes into the page and beside it. `files`: by format."""

    name: str
    section: str
    caption: str
    drawing: Inline
    files: Mapping[str, bytes]


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
    command: str = "",
    quality_setting: str | None = None,
    trials: Collection[str] | None = None,
    excluded: Mapping[str, str] | None = None,
    gallery: Gallery | None = None,
    looks_file: Path | None = None,
    forecasts: Sequence[str] = (),
    race: Raced | None = None,
    painter: Painter | None = None,
) -> Report:
    """Write the report of a sweep into `folder` (made if missing; older files of a report are replaced).

    `reference`: as in `compare`. `command`: what was typed for it, if anything. `quality_setting`: as in `assess`.
    `trials`, `excluded`: as in `read_sweep`. `gallery`: what the trials drew. `looks_file`: where the looks of arms
    are kept for all reports of a store. `forecasts`: the tally of those registered in the store, in sentences. `race`:
    how the sweep was raced and how that ended, if it was. Raises TableError where the sweep cannot be read or has no
    finished trial (its runs are then on a page of their own), CompareError for an unknown reference, QualityError for a
    setting at which nothing was scored. Where no law or no interval is possible the report says so in a sentence.
    """
    try:
        table, attention = read_with_attention(tracking_uri, sweep, trials, excluded)
    except NoneUsableError as error:
        where = write_nothing(error, sweep, Path(folder), command)
        raise TableError(f"{error}. The reasons are in {where}") from error
    return report_of(
        table,
        attention,
        folder,
        reference=reference,
        command=command,
        quality_setting=quality_setting,
        gallery=gallery,
        looks_file=looks_file,
        forecasts=forecasts,
        incomplete=incomplete_sentence(table, trials),
        race=race,
        painter=painter,
    )


def report_of(
    table: SweepTable,
    attention: pd.DataFrame,
    folder: str | Path,
    *,
    reference: str | None = None,
    command: str = "",
    quality_setting: str | None = None,
    gallery: Gallery | None = None,
    looks_file: Path | None = None,
    forecasts: Sequence[str] = (),
    incomplete: str = "",
    race: Raced | None = None,
    painter: Painter | None = None,
) -> Report:
    """`write_report` of what was read already. `attention`: as `read_attention` gives it; `incomplete`: a sentence
    where trials have still to end; `painter`: of `analysis.report.beside.painting`."""
    folder = Path(folder)
    comparison = compare(table, reference=reference)
    if race is not None:
        comparison = as_raced(comparison, table, race)
    compared = table.only(comparison.trial_ids)  # with tuned axes, the trials of the values chosen
    quality, grown = assess(compared, setting=quality_setting), growth(attention, compared)
    arms = [s.arm for s in comparison.standings]
    places = kept_places(looks_file, arms) if looks_file is not None else places_of(arms, {})
    look = looks(arms, comparison.reference, places)
    if painter is not None:
        painter.ask(Results.before_laws(compared, comparison, quality, grown, look), figures_named(laws=False))
    ladder = ladder_laws(compared, comparison.reference)
    tuning = tuning_of(table, comparison, ladder) if comparison.choices else None
    front, isoflop = frontier(ladder), isoflops(compared, ladder, comparison.best.arm)
    results = Results(compared, comparison, ladder, quality, grown, tuning, front, isoflop, look)
    pictures = _pictures(results, painter)
    on_page = [picture for picture in pictures if picture.drawing.markup]
    strips = pictures_of.shown(gallery, compared, arms) if gallery is not None else None
    ended = race.ended if race is not None else ""
    page = _page(results, table, on_page, strips, command, forecasts, incomplete, ended)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        for kind, content in picture.files.items():
            write_file(folder / f"{picture.name}.{kind}", content)
    frames = {
        "trials": table.trials,
        "curves": table.curves,
        "rejected": table.rejected,
        "ranking": comparison.frame(),
        "laws": ladder.frame(),
    }
    if results.growth is not None:
        frames["attention"] = results.growth.points
    if front is not None:
        frames["frontier"] = front.frame()
    if tuning is not None:
        frames["tuned"] = tuning.frame()
    if quality is not None:
        frames["quality"] = quality.scores
    for name, frame in frames.items():
        write_file(folder / f"{name}.csv", frame.to_csv(index=False).encode())
    path = folder / "report.html"
    write_file(path, page.encode())
    return Report(path, table, comparison, ladder, quality, _text(table, comparison, ladder, quality, path))


def _pictures(results: Results, painter: Painter | None) -> list[Picture]:
    """Every figure that the data allow, those without laws and half of the others by the painter where there is one."""
    of_laws = figures_named(laws=True)
    theirs = of_laws[: (len(of_laws) + 1) // 2] if painter is not None else []
    if painter is not None:
        painter.ask(results, theirs)
    with house_style():
        found = list(drawn(results, [name for name in of_laws if name not in theirs]))
        painted = painter.end() if painter is not None else None
        found += painted if painted is not None else drawn(results, [*theirs, *figures_named(laws=False)])
    places = {figure.name: i for i, figure in enumerate(FIGURES)}
    return sorted(found, key=lambda picture: places[picture.name])


def figures_named(laws: bool) -> list[str]:
    """The names of the figures that need the laws, or of the others."""
    return [figure.name for figure in FIGURES if figure.laws == laws]


def drawn(results: Results, names: Collection[str]) -> Iterator[Picture]:
    """The figures of these names that the data allow, within `house_style`."""
    numbers = {arm: i for i, arm in enumerate(results.look)}
    for figure in FIGURES:
        made = figure.make(results) if figure.name in names else None
        if made is None:
            continue
        caption, draw = made
        laid_out = Drawn.of(draw)
        files = {kind: laid_out.written(kind) for kind in FORMATS}
        drawing = Inline("", 0, frozenset(), ())
        if figure.on_page:
            drawing = inline(files["svg"], figure.name, caption, laid_out.bare, numbers)
        yield Picture(figure.name, figure.section, caption, drawing, files)


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
    results: Results,
    table: SweepTable,
    pictures: Collection[Picture],
    gallery: pictures_of.Shown | None,
    command: str,
    forecasts: Sequence[str],
    incomplete: str,
    ended: str,
) -> str:
    comparison, ladder = results.comparison, results.ladder
    laws = [ladder.law(arm) for arm in results.look]
    forests = [_forest(results, "ratio", "loss"), _forest(results, "compute_multiplier", "compute")]
    return template(TEMPLATE).render(
        table=table,
        comparison=comparison,
        ladder=ladder,
        laws=laws,
        misses=wording_laws.misses_sentence(ladder),
        law_notes=list(dict.fromkeys(map(wording_laws.status_words, laws))),
        further=FURTHER,
        pictures=[(picture, Markup(picture.drawing.markup)) for picture in pictures],
        cards=_cards(results, command),
        gallery=gallery,
        forecasts=forecasts,
        incomplete=incomplete,
        ended=ended,
        forests=[(Markup(f.axis), {arm: Markup(cell) for arm, cell in f.rows.items()}) for f in forests],
        arms=list(results.look),
        leading=LEADING,
        swatches={arm: Markup(swatch(look)) for arm, look in results.look.items()},
        law_words=wording_laws,
        words=wording,
        holds=wording_trend,
        quality=results.quality,
        told=wording_quality,
        growth=results.growth,
        grown=wording_stability,
        frontier=results.frontier,
        isoflops=results.isoflops,
        front=wording_frontier,
        tuning=results.tuning,
        tuned=wording_tuning,
        trials=_trial_rows(table),
        trial_columns=list(TRIAL_COLUMNS),
        rejected=rejected_rows(table.rejected),
        run=_run_facts(table, comparison, command),
        costs=costs.rows(table, comparison),
        costs_note=costs.note(comparison),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def incomplete_sentence(table: SweepTable, trials: Collection[str] | None) -> str:
    """Where trials of the sweep have still to end, how many are in the report; "" where none has, or nobody knows."""
    left_out = table.rejected
    ended = {*table.trials["trial_id"], *left_out.loc[left_out["status"].isin(_ENDED), "trial_id"]}
    left = len(set(trials or ()) - ended)
    if not left:
        return ""
    has = "1 has" if left == 1 else f"{left} have"
    return f"Incomplete: {len(table.trials)} of {len(trials or ())} trials so far; {has} still to finish."


def _cards(results: Results, command: str) -> list[Card]:
    """Who wins, whether it holds, and what comes next. `command`: that runs the sweep, if any."""
    comparison, best = results.comparison, results.comparison.best.arm
    if comparison.apart:
        ranks = results.quality.ranks if results.quality is not None else None
        return [apart_card(comparison, wording_quality.ranks_sentence(ranks) if ranks is not None else "")]
    ahead = next_scale(results.table, results.ladder, best)
    spent = float(results.table.trials["train_flops"].sum())
    return [winner_card(comparison), holds_card(comparison), next_card(ahead, best, spent, command)]


def _forest(results: Results, field: str, what: str) -> Forest:
    rows = [(s.arm, getattr(s, field)) for s in results.comparison.standings]
    return forest(rows, results.comparison.reference, what, results.look)


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
    "seconds": lambda row: wording.number(row[names.TRAIN_SECONDS], 3) + (" on a shared GPU" if _shared(row) else ""),
}


def _shared(row: pd.Series) -> bool:
    return bool(row.get("device_share", 1.0) < 1)


def _trial_rows(table: SweepTable) -> list[list[str]]:
    rows = table.trials.assign(size=rung_labels(table))
    return [[write(row) for write in TRIAL_COLUMNS.values()] for _, row in rows.iterrows()]


def _run_facts(table: SweepTable, comparison: Comparison, command: str) -> dict[str, str]:
    trials = table.trials
    seconds = trials[names.TRAIN_SECONDS].sum()
    facts = {
        "sweep": table.name,
        "command": command or wording.NOT_KNOWN,
        "trials": f"{len(trials)} used, {len(table.rejected)} left out",
        f"{comparison.noun}s": str(len(comparison.standings)),
        "sizes": ", ".join(dict.fromkeys(rung_labels(table))),
        "seeds": ", ".join(map(str, sorted(set(trials["seed"])))),
        "data": ", ".join(
            f"{d} at {r} pixels" if pd.notna(r) else str(d)  # of runs that were not trained here nothing else is known
            for d, r in dict.fromkeys(zip(trials["data"], trials["resolution"], strict=True))
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
    if pd.isna(low):
        return wording.NOT_KNOWN
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
