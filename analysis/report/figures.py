"""The figures of the report, in reading order: a name, the section of the page, and what draws it.

To add one: a function from the results to its caption and drawing, and one line in `FIGURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from analysis import crowd
from analysis.compare import plot
from analysis.compare.arms import Comparison
from analysis.laws import plot_frontier, plot_ladder
from analysis.laws.frontiers import Frontier
from analysis.laws.ladder import Ladder
from analysis.laws.profiles import Isoflops
from analysis.quality import plot as plot_quality
from analysis.quality.summary import Quality
from analysis.report.pictures import Draw
from analysis.stability import plot as plot_stability
from analysis.stability.growth import Growth
from analysis.style import LEADING, Look, legend_beside, log_axis
from analysis.table.read import SweepTable
from analysis.tuning import plot as plot_tuning
from analysis.tuning.summary import Tuning
from rfscale import names


@dataclass(frozen=True)
class Results:
    """What a report is about: the trials compared, what was made of them, and how each arm is drawn."""

    table: SweepTable
    comparison: Comparison
    ladder: Ladder
    quality: Quality | None
    growth: Growth | None
    tuning: Tuning | None
    frontier: Frontier | None
    isoflops: Isoflops | None
    look: Mapping[str, Look]

    @classmethod
    def before_laws(
        cls,
        table: SweepTable,
        comparison: Comparison,
        quality: Quality | None,
        growth: Growth | None,
        look: Mapping[str, Look],
    ) -> Results:
        """What is known before the laws are fitted: enough for the figures that need none."""
        none = Ladder((), comparison.reference, (), "", frozenset())
        return cls(table, comparison, none, quality, growth, None, None, None, look)

    @property
    def ranked(self) -> bool:
        """Whether losses of several arms are set against each other."""
        return len(self.comparison.standings) > 1 and not self.comparison.apart

    @property
    def many(self) -> bool:
        return len(self.comparison.standings) > plot_ladder.LAWS_UP_TO


Section = Literal[
    "trend",
    "ranking",
    "laws",
    "frontier",
    "training",
    "attention",
    "tuned",
    "quality",
    "quality by size",
    "quality by steps",
]


@dataclass(frozen=True)
class ReportFigure:
    """`make` gives the caption and the drawing, or None where the data do not allow the figure.

    `on_page`: whether it stands in its section; one that the page shows in another way is only written beside it.
    `laws`: whether it needs the laws, or what was made of them.
    """

    name: str
    section: Section
    make: Callable[[Results], tuple[str, Draw] | None]
    on_page: bool = True
    laws: bool = False


def _crowd(r: Results) -> str:
    """What is not drawn, where there are many seeds."""
    return f" {crowd.SENTENCE}" if crowd.is_crowd(r.table.trials) else ""


def _loss_against_compute(r: Results) -> tuple[str, Draw]:
    return (
        f"Loss along every training against its compute ({r.ladder.description}). Marks: the end of training. "
        f"{plot_ladder.caption(r.ladder, 'C', r.look)} All sizes train for the same steps, so this is not the lowest "
        f"loss that a budget can buy.{_crowd(r)}",
        lambda: plot_ladder.plot_loss_against_compute(r.table, r.ladder, look=r.look),
    )


def _loss_against_parameters(r: Results) -> tuple[str, Draw]:
    return (
        f"Loss at the end of training against all trainable parameters. {plot_ladder.caption(r.ladder, 'N', r.look)}"
        f"{_crowd(r)}",
        lambda: plot_ladder.plot_loss_against_parameters(r.table, r.ladder, look=r.look),
    )


def _held_out(r: Results) -> tuple[str, Draw] | None:
    bars = plot_ladder.held_out_bars(r.ladder, list(r.look))
    if not bars:
        return None
    return (
        f"The largest size, {next(iter(bars.values())).label}, as the law of the smaller ones predicts it, with a 95 % "
        f"interval (an arrow: it goes on), beside what was measured there (open marks).",
        lambda: plot_ladder.plot_held_out(r.ladder, look=r.look),
    )


def _frontier(r: Results) -> tuple[str, Draw] | None:
    found = r.frontier
    if found is None:
        return None
    best = f" Of {next(iter(r.look))} alone." if len(found.arms) > plot_ladder.LAWS_UP_TO else ""
    return (
        "Loss, best size and best number of samples at each compute, as the law has them, and the FLOPs to equal loss "
        f"along it; dashed where compute, size or length is beyond the runs (marks). Bands: 95 %, where narrow "
        f"enough to say something.{best}",
        lambda: plot_frontier.panels_frontier(found, r.ladder, r.look),
    )


def _isoflops(r: Results) -> tuple[str, Draw] | None:
    found = r.isoflops
    if found is None or not found.profiles:
        return None
    return (
        f"Loss of {found.arm} against size at equal compute, read off the ends of its trainings. Lines: a parabola for "
        "each budget. Diamonds: its lowest point, where that is inside the sizes.",
        lambda: plot_frontier.plot_isoflops(found),
    )


def _ranking(r: Results) -> tuple[str, Draw] | None:
    if not r.ranked:
        return None
    return (
        f"Each {r.comparison.noun}'s loss relative to {r.comparison.reference}'s, paired within size and seed, and its "
        f"compute to the same loss. Filled marks: the 95 % interval leaves out 1.",
        lambda: plot.plot_ranking(r.comparison, look=r.look),
    )


def _trend(r: Results) -> tuple[str, Draw] | None:
    comparison = r.comparison
    if not comparison.trends:
        return None
    by_seeds = comparison.spread == "seeds"
    return (
        f"Each {comparison.noun}'s loss in multiples of {comparison.reference}'s against size. Marks: means "
        f"over seeds{' with 95 % intervals' if by_seeds else ', without intervals'}. Lines: the trend, dotted "
        f"up to 10 times the largest size. "
        + (f"{'Band of the best' if r.many else 'Bands'}: 95 %." if by_seeds else "One seed gives no band."),
        lambda: plot.plot_trend(comparison, look=r.look),
    )


def _learning_curves(r: Results) -> tuple[str, Draw]:
    return (
        f"Validation loss (EMA weights) during training, one panel per size.{_crowd(r)}",
        lambda: _panels_of_sizes(r.table, r.comparison, r.look),
    )


def _loss_per_level(r: Results) -> tuple[str, Draw] | None:
    if not r.ranked or not r.table.trials[[names.val_level(t) for t in names.LOSS_LEVELS]].notna().all(axis=None):
        return None
    return (
        f"Where the difference lies: velocity MSE at each noise level relative to {r.comparison.reference}, largest "
        f"size{_bands(r)}{_leaving(r)}",
        lambda: plot.plot_loss_levels(r.table, r.comparison.reference, look=r.look),
    )


def _denoising_profile(r: Results) -> tuple[str, Draw] | None:
    if not r.ranked or not len(r.table.profile):
        return None
    return (
        f"Error of the denoised image over log-SNR relative to {r.comparison.reference}, largest size, last step"
        f"{_bands(r)} Every {r.comparison.noun} sees the same problem at a given log-SNR. The axis is for "
        f"log-SNRs from {-plot.CENTRAL_LOGSNR:g} to {plot.CENTRAL_LOGSNR:g}, on which all of them train; "
        f"lines may leave it beyond.{_leaving(r)}",
        lambda: plot.plot_denoising_profile(r.table, r.comparison.reference, look=r.look),
    )


def _attention(r: Results) -> tuple[str, Draw] | None:
    growth = r.growth
    if growth is None:
        return None
    sizes = plot_stability.shown_sizes(growth)
    which = "" if len(sizes) == len(growth.sizes) else f" The {len(sizes)} largest sizes."
    if n := growth.unmeasured:
        which += f" {n} training{'s' if n > 1 else ''} diverged before the first point: no line, and in no mean."
    return (
        "Attention along training (the paper's Fig. 5), weights without EMA: the largest logit over all blocks, and "
        "the entropy of the block where it is lowest. Thin: single trainings; thick: their mean, for as long as all of "
        f"them go on. Cross: the last that was measured before a training diverged.{which}{_crowd(r)}",
        lambda: plot_stability.panels_attention(growth, r.look),
    )


def _tuned_loss(r: Results) -> tuple[str, Draw] | None:
    tuning = r.tuning
    if tuning is None:
        return None
    best = f" The {plot_tuning.MOST_ARMS} best {r.comparison.noun}s." if len(r.look) > plot_tuning.MOST_ARMS else ""
    return (
        "Loss at the end of training against each tuned value, a colour per rung, the smallest the darkest. Dots: "
        "means over seeds. Line: the fit near the best value. Diamond: its optimum, with a 95 % interval; dotted where "
        f"there is none.{best}",
        lambda: plot_tuning.panels_tuned(tuning, r.look),
    )


def _tuned_law(r: Results) -> tuple[str, Draw] | None:
    tuning = r.tuning
    if tuning is None or all(law.theta is None for law in tuning.laws):
        return None
    return (
        "The optima with their 95 % intervals against size. Dashed: the law, a line for each length.",
        lambda: plot_tuning.panels_law(tuning, r.look),
    )


def _quality_against_loss(r: Results) -> tuple[str, Draw] | None:
    quality = r.quality
    if quality is None or r.comparison.apart or not plot_quality.shown(quality):
        return None
    return (
        "Validation loss against each metric at the end of training, one point per trial, larger for larger models. "
        "Bars: one standard error over the images. Dashed: a curve fitted to the points. Dotted: true images.",
        lambda: plot_quality.panels_loss_against_quality(quality, r.look),
    )


def _quality_against_steps(r: Results) -> tuple[str, Draw] | None:
    quality = r.quality
    if quality is None or not plot_quality.shown(quality) or not plot_quality.with_steps(quality):
        return None
    return (
        f"What the number of solver steps costs at the largest size (the paper's Fig. 3). {_points(quality)}",
        lambda: plot_quality.panels_quality_against_steps(quality, r.look),
    )


def _quality_against_compute(r: Results) -> tuple[str, Draw] | None:
    quality = r.quality
    if quality is None or not plot_quality.shown(quality):
        return None
    return (
        f"Sample quality at the end of training against training compute, along the sizes. {_points(quality)}",
        lambda: plot_quality.panels_quality_against_compute(quality, r.look),
    )


FIGURES = (
    ReportFigure("trend", "trend", _trend),
    ReportFigure("ranking", "ranking", _ranking, on_page=False),
    ReportFigure("loss_against_compute", "laws", _loss_against_compute, laws=True),
    ReportFigure("loss_against_parameters", "laws", _loss_against_parameters, laws=True),
    ReportFigure("held_out", "laws", _held_out, laws=True),
    ReportFigure("frontier", "frontier", _frontier, laws=True),
    ReportFigure("isoflop", "frontier", _isoflops, laws=True),
    ReportFigure("quality_against_loss", "quality", _quality_against_loss),
    ReportFigure("quality_against_compute", "quality by size", _quality_against_compute),
    ReportFigure("quality_against_steps", "quality by steps", _quality_against_steps),
    ReportFigure("learning_curves", "training", _learning_curves),
    ReportFigure("loss_per_level", "training", _loss_per_level),
    ReportFigure("denoising_profile", "training", _denoising_profile),
    ReportFigure("attention", "attention", _attention),
    ReportFigure("tuned_loss", "tuned", _tuned_loss, laws=True),
    ReportFigure("tuned_law", "tuned", _tuned_law, laws=True),
)


# --- pieces of captions, and panels -----------------------------------------------------------------------------------


def _bands(r: Results) -> str:
    if r.comparison.n_seeds == 1:
        return ". One seed, so no error bars: how far another would differ is not known."
    return f", {'band of the best:' if r.many else 'bands of'} two standard errors over seeds."


def _leaving(r: Results) -> str:
    far = len(r.comparison.standings) > LEADING
    return f" Lines of {r.comparison.noun}s far behind leave the axis." if far else ""


def _points(quality: Quality) -> str:
    """What a point and its bar are, with one seed and with several."""
    if quality.scores.groupby(["arm", "size"])["seed"].nunique().max() == 1:
        return "Points: single trials; bars: one standard error over the images. Another seed may differ by more."
    return (
        "Points: means over seeds; bars: one standard error of that mean, or over the images where there is one seed."
    )


def _panels_of_sizes(table: SweepTable, comparison: Comparison, look: Mapping[str, Look]) -> Figure:
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
