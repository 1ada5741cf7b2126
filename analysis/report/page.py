"""Table -> results -> figures -> one HTML page; the only file that writes figures.

`write_report` reads a sweep, compares its arms, fits its laws, draws the figures and writes a folder:
`report.html` (self-contained), the figures as PNG, and `trials.csv`, `curves.csv`, `rejected.csv`, `ranking.csv`,
`laws.csv`, and `quality.csv` where generated images were scored.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.compare import plot, wording, wording_trend
from analysis.compare.arms import Comparison, compare
from analysis.compare.cells import rung_labels
from analysis.laws import plot_ladder
from analysis.laws import wording as wording_laws
from analysis.laws.ladder import FURTHER, Ladder, ladder_laws
from analysis.quality import plot as plot_quality
from analysis.quality import wording as wording_quality
from analysis.quality.summary import Quality, assess
from analysis.style import PALETTE, Look, house_style, legend_beside, log_axis, looks, si
from analysis.table.read import SweepTable, read_sweep
from rfscale import names

DPI = 180
PIXELS_PER_INCH = 128
PAGE_WIDTH = 1150
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


@dataclass(frozen=True)
class Picture:
    """One figure as it goes into the page."""

    name: str
    caption: str
    png: bytes

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def width(self) -> int:
        """Pixels on the page: letters are of one size in all figures, unless a figure is wider than the page."""
        inches = int.from_bytes(self.png[16:20], "big") / DPI  # the width in a PNG's first chunk
        return min(PAGE_WIDTH, round(PIXELS_PER_INCH * inches))


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
    look = looks([s.arm for s in comparison.standings], comparison.reference)
    with house_style():
        figures = [*_figures(compared, comparison, ladder, look), *_quality_figures(quality, look)]
        pictures = [Picture(name, caption, _png(draw)) for name, caption, draw in figures]
    command = command or f"rfscale run experiments/{sweep}.yaml"
    page = _page(table, comparison, ladder, quality, pictures, command)
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        _write(folder / f"{picture.name}.png", picture.png)
    frames = {
        "trials": table.trials,
        "curves": table.curves,
        "rejected": table.rejected,
        "ranking": comparison.frame(),
        "laws": ladder.frame(),
    }
    if quality is not None:
        frames["quality"] = quality.scores
    for name, frame in frames.items():
        _write(folder / f"{name}.csv", frame.to_csv(index=False).encode())
    path = folder / "report.html"
    _write(path, page.encode())
    return Report(path, table, comparison, ladder, quality, _text(table, comparison, ladder, quality, path))


def _write(path: Path, content: bytes) -> None:
    """Under a temporary name, then renamed: a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _text(table: SweepTable, comparison: Comparison, ladder: Ladder, quality: Quality | None, path: Path) -> str:
    parts = [wording.ranking_text(comparison), wording_laws.laws_text(ladder, [s.arm for s in comparison.standings])]
    if quality is not None:
        parts.append(wording_quality.quality_text(quality))
    if len(table.rejected):
        n = len(table.rejected)
        parts.append(f"{n} run{'s were' if n > 1 else ' was'} left out; the report says why.")
    parts += [f"Note: {note}." for note in table.notes]
    return "\n\n".join([*parts, f"Report: {path}"])


# --- figures ----------------------------------------------------------------------------------------------------------

Draw = Callable[[], Axes | Figure]


def _figures(
    table: SweepTable, comparison: Comparison, ladder: Ladder, look: Mapping[str, Look]
) -> Iterator[tuple[str, str, Draw]]:
    """Name, caption and drawing of every figure that the data allow, in reading order."""
    reference, several = comparison.reference, len(comparison.standings) > 1
    many = len(comparison.standings) > plot_ladder.LAWS_UP_TO
    bands = f", {'band of the best:' if many else 'bands of'} two standard errors over seeds"
    bands = (
        f"{bands}."
        if comparison.n_seeds > 1
        else ". One seed, so no error bars: how far another would differ is not known."
    )
    leaving = (
        f" Lines of {comparison.noun}s far behind leave the axis." if len(comparison.standings) > len(PALETTE) else ""
    )
    yield (
        "loss_against_compute",
        f"Validation loss along every training against its compute ({ladder.description}). Markers: the end of "
        f"training. {plot_ladder.caption(ladder, 'C', look)} All sizes train for the same steps, so this is the loss "
        f"along the ladder, not the lowest loss that a budget can buy.",
        lambda: plot_ladder.plot_loss_against_compute(table, ladder, look=look),
    )
    yield (
        "loss_against_parameters",
        "Validation loss at the end of training against all trainable parameters. "
        + plot_ladder.caption(ladder, "N", look),
        lambda: plot_ladder.plot_loss_against_parameters(ladder, look=look),
    )
    if several:
        yield (
            "ranking",
            f"Each {comparison.noun}'s loss relative to {reference}, paired within size and seed. Colour: whether the "
            f"interval is below, around or above 0. {wording.sentence(comparison.basis)}",
            lambda: plot.plot_ranking(comparison),
        )
        yield (
            "compute_multiplier",
            f"The factor in training FLOPs at which each {comparison.noun} reaches the losses of {reference}, averaged "
            f"in logarithms over the losses of the last fourfold of compute. Sorted by this factor, not by the loss. "
            f"Colour: whether the interval is below, around or above 1.",
            lambda: plot.plot_compute_multiplier(comparison),
        )
    if comparison.trends:
        banded = "band of the best" if many else "bands"
        yield (
            "trend",
            f"Each {comparison.noun}'s loss in multiples of {reference}'s against size. Markers: means over seeds"
            f"{' with 95 % intervals' if comparison.spread == 'seeds' else ', without intervals'}; lines: the trend "
            f"in the logarithm of the size, dotted up to 10 times the largest; {banded}: 95 % interval"
            f"{'' if comparison.spread == 'seeds' else ', which a single seed cannot give'}.",
            lambda: plot.plot_trend(comparison, look=look),
        )
    yield (
        "learning_curves",
        "Validation loss (EMA weights) during training, one panel per size.",
        lambda: _learning_curves(table, comparison, look),
    )
    if several and (table.trials[[names.val_level(t) for t in names.LOSS_LEVELS]].notna().all(axis=None)):
        yield (
            "loss_per_level",
            f"Where the difference lies: velocity MSE at each noise level relative to {reference}, largest size"
            f"{bands}{leaving}",
            lambda: plot.plot_loss_levels(table, reference, look=look),
        )
    if several and len(table.profile):
        yield (
            "denoising_profile",
            f"Error of the denoised image over log-SNR relative to {reference}, largest size, last step"
            f"{bands} Every {comparison.noun} sees the same problem at a given log-SNR. The axis is made for log-SNRs "
            f"from {-plot.CENTRAL_LOGSNR:g} to {plot.CENTRAL_LOGSNR:g}, on which all of them train; lines may leave it "
            f"beyond.{leaving}",
            lambda: plot.plot_denoising_profile(table, reference, look=look),
        )


def _quality_figures(quality: Quality | None, look: Mapping[str, Look]) -> Iterator[tuple[str, str, Draw]]:
    """The figures of sample quality that the scores allow."""
    if quality is None or not plot_quality.shown(quality):
        return
    yield (
        "quality_against_loss",
        "Validation loss against each metric at the end of training, one point per trial. Bars: one standard error of "
        "the score, over its images. Dashed: a curve fitted to the points; the table below says of which shape. "
        "Dotted: what true images score.",
        lambda: plot_quality.panels_loss_against_quality(quality, look),
    )
    if plot_quality.with_steps(quality):
        yield (
            "quality_against_steps",
            f"What the number of solver steps costs at the largest size (the paper's Fig. 3). {_points(quality)}",
            lambda: plot_quality.panels_quality_against_steps(quality, look),
        )
    yield (
        "quality_against_compute",
        f"Sample quality at the end of training against training compute, along the sizes. {_points(quality)}",
        lambda: plot_quality.panels_quality_against_compute(quality, look),
    )


def _points(quality: Quality) -> str:
    """What a point and its bar are, with one seed and with several."""
    if quality.scores.groupby(["arm", "size"])["seed"].nunique().max() == 1:
        return "Points: single trials; bars: one standard error over the images. Another seed may differ by more."
    return (
        "Points: means over seeds; bars: one standard error of that mean, or over the images where there is one seed."
    )


def _learning_curves(table: SweepTable, comparison: Comparison, look: Mapping[str, Look]) -> Figure:
    labels = [size.label for size in comparison.sizes]
    columns = len(labels) if len(labels) <= 3 else 2
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(3.3 * columns + 1.9, 2.5 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, ax in enumerate(grid.flat):
        if i < len(labels):
            plot.plot_learning_curves(table, labels[i], look=look, ax=ax)
            ax.set_ylabel("validation loss" if i % columns == 0 else "")
            ax.set_xlabel("training steps" if i + columns >= len(labels) else "")
        else:
            ax.set_axis_off()
    panels = list(grid.flat)[: len(labels)]
    low, high = min(ax.get_ylim()[0] for ax in panels), max(ax.get_ylim()[1] for ax in panels)
    for ax in panels:
        ax.set_ylim(low, high)
        log_axis(ax, "y")
        ax.label_outer(remove_inner_ticks=False)
    legend_beside(grid[0, -1], look)
    return figure


def save_figure(draw: Draw, path: Path) -> None:
    """Draw in the house style and write a PNG."""
    with house_style():
        _write(path, _png(draw))


def _png(draw: Draw) -> bytes:
    drawn = draw()
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    FigureCanvasAgg(figure)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.06)  # type: ignore[union-attr]
    return buffer.getvalue()


# --- the page ---------------------------------------------------------------------------------------------------------


def _page(
    table: SweepTable,
    comparison: Comparison,
    ladder: Ladder,
    quality: Quality | None,
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
        pictures={picture.name: picture for picture in pictures},
        answer=f"{wording.answer(comparison)} {wording_laws.answer(ladder, comparison.best.arm)}",
        law_words=wording_laws,
        words=wording,
        holds=wording_trend,
        quality=quality,
        told=wording_quality,
        trials=_trial_rows(table),
        trial_columns=list(TRIAL_COLUMNS),
        rejected=table.rejected.astype(object).where(table.rejected.notna(), wording.NOT_KNOWN).to_dict("records"),
        run=_run_facts(table, comparison, command),
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
