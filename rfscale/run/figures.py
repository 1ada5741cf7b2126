"""The figures of a study, one by one: `study.plot.ranking()`. Reads the results once; loads matplotlib when called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rfscale.quoting import quoted
from rfscale.spec.sweep import SweepError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.laws.ladder import Ladder
    from analysis.style import Look
    from rfscale.run.study import Compared


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure: shown in a notebook, written by `save`, and open to changes in `axes`."""

    axes: Axes

    def save(self, path: str | Path) -> Path:
        """Write it; the ending of the name says as what. Raises as matplotlib does."""
        from analysis.report.pictures import save_figure

        save_figure(lambda: self.axes, Path(path))
        return Path(path)

    def _repr_png_(self) -> bytes:
        from analysis.report.pictures import png_of
        from analysis.style import house_style

        with house_style():
            return png_of(lambda: self.axes)


class Figures:
    """The figures of one study, all of the same reading of its results."""

    def __init__(self, compared: Callable[[], Compared], laws: Callable[[], Ladder]) -> None:
        self._compare, self._fit = compared, laws

    @cached_property
    def _compared(self) -> Compared:
        return self._compare()

    @cached_property
    def _laws(self) -> Ladder:
        return self._fit()

    @cached_property
    def _look(self) -> dict[str, Look]:
        from analysis.style import looks

        found = self._compared.comparison
        return dict(looks([standing.arm for standing in found.standings], found.reference))

    def curves(self, rung: str | None = None) -> Drawing:
        """val/loss against steps at one rung, by default the last; a wrong one is told which there are."""
        from analysis.compare.cells import rung_labels
        from analysis.compare.plot import plot_learning_curves

        table = self._compared.table
        there = list(dict.fromkeys(rung_labels(table)))
        if rung is not None and rung not in there:
            raise SweepError(f"there is no rung {quoted(rung)}; choose one of {', '.join(there)}")
        return _drawn(lambda: plot_learning_curves(table, rung or there[-1], look=self._look))

    def ranking(self) -> Drawing:
        """The loss of every arm relative to the reference, with intervals; its compute to equal loss beside it."""
        from analysis.compare.plot import plot_ranking

        return _drawn(lambda: plot_ranking(self._compared.comparison, look=self._look).axes[0])

    def compute_multiplier(self) -> Drawing:
        """The factor in training FLOPs at which each arm reaches the loss of the reference, with intervals."""
        from analysis.compare.plot import plot_ranking

        return _drawn(lambda: plot_ranking(self._compared.comparison, look=self._look).axes[1])

    def trend(self) -> Drawing:
        """The loss of every arm relative to the reference against model size."""
        from analysis.compare.plot import plot_trend

        return _drawn(lambda: plot_trend(self._compared.comparison, look=self._look))

    def profile(self) -> Drawing:
        """The denoising error of every arm over log-SNR, relative to the reference."""
        from analysis.compare.plot import plot_denoising_profile

        found = self._compared
        return _drawn(lambda: plot_denoising_profile(found.table, found.comparison.reference, look=self._look))

    def compute(self) -> Drawing:
        """val/loss against training compute, with the laws."""
        from analysis.laws.plot_ladder import plot_loss_against_compute

        return _drawn(lambda: plot_loss_against_compute(self._compared.table, self._laws, look=self._look))

    def parameters(self) -> Drawing:
        """val/loss at the end of training against parameters, with the laws."""
        from analysis.laws.plot_ladder import plot_loss_against_parameters

        return _drawn(lambda: plot_loss_against_parameters(self._compared.table, self._laws, look=self._look))

    def tuned(self, arm: str | None = None, axis: str | None = None) -> Drawing:
        """Loss against a tuned value, a line per rung with its optimum marked; of one arm, by default the best, and of
        one tuned axis, by default the first. Raises SweepError where nothing is tuned."""
        from analysis.tuning.plot import plot_tuned
        from analysis.tuning.summary import tuning_of

        found = self._compared
        tuning = tuning_of(found.table, found.comparison, self._laws)
        if tuning is None:
            raise SweepError("no axis with numbers is tuned in this sweep; name one under tune:")
        name, key = arm or found.comparison.best.arm, axis or tuning.keys[0]
        shown = [optimum for optimum in tuning.optima if (optimum.arm, optimum.key) == (name, key)]
        if not shown:
            arms = ", ".join(dict.fromkeys(optimum.arm for optimum in tuning.optima))
            raise SweepError(
                f"there is no tuned axis {quoted(key)} of arm {quoted(name)}; there are {', '.join(tuning.keys)} "
                f"of {arms}"
            )
        return _drawn(lambda: plot_tuned(shown))


def _drawn(draw: Callable[[], Axes]) -> Drawing:
    from analysis.style import house_style

    with house_style():
        return Drawing(draw())
