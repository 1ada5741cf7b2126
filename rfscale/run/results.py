"""Results without their trainings: of a published folder, or of runs made elsewhere. Needs no store and no MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfscale.quoting import quoted
from rfscale.run.figures import Figures
from rfscale.run.fresh import fresh_folder
from rfscale.spec.sweep import SweepError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.compare.raced import Raced
    from analysis.laws.ladder import ArmLaw, Ladder
    from analysis.laws.result import FitResult
    from analysis.report.gallery import Gallery
    from analysis.report.page import Report
    from analysis.table.folder import Tables
    from analysis.table.read import SweepTable
    from analysis.tuning.summary import Tuning
    from rfscale.run.study import Compared


@dataclass(frozen=True)
class Results:
    """The tables of a sweep, and what its trials drew. `origin`: where they are from, in words; `looks`: the file of
    the colours and markers of its arms, where there is one; `home`: where its report lies, where it has such a place.
    """

    tables: Tables
    origin: str
    gallery: Gallery | None = None
    command: str = ""
    looks: Path | None = None
    home: Path | None = None

    @property
    def name(self) -> str:
        """Of the sweep."""
        return self.table.name

    @property
    def table(self) -> SweepTable:
        """One row per trial, and all else that was measured."""
        return self.tables.table

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial that can be used."""
        return self.table.trials

    @property
    def curves(self) -> pd.DataFrame:
        """The losses along every training."""
        return self.table.curves

    @property
    def race(self) -> Raced | None:
        """How the sweep was raced, if it was. Raises TableError where that is damaged."""
        from analysis.compare.raced import Raced
        from analysis.table.read import TableError

        if self.tables.race is None:
            return None
        try:
            return Raced(**self.tables.race)
        except TypeError as error:
            raise TableError(f"what {self.origin} says of its race is damaged ({error}); get it again") from error

    def compare(self, *, reference: str | None = None, by: Sequence[str] = ()) -> Compared:
        """The arms by `val/loss`; arguments as of `analysis.compare.arms.compare`. Raises CompareError."""
        from analysis.compare.arms import compare
        from analysis.compare.raced import as_raced
        from rfscale.run.study import Compared

        found, race = compare(self.table, reference=reference, by=by), self.race
        return Compared(found if race is None or by else as_raced(found, self.table, race), self.table)

    def laws(self, *, reference: str | None = None) -> Ladder:
        """One law for all arms. Raises as `compare` does."""
        from analysis.laws.ladder import ladder_laws

        found = self.compare(reference=reference).comparison
        return ladder_laws(self.table.only(found.trial_ids), found.reference)

    def law(self, arm: str) -> ArmLaw:
        """The law as one arm has it, or the reason why there is none. Raises SweepError for an unknown arm."""
        laws = self.laws().laws
        for law in laws:
            if law.arm == arm:
                return law
        raise SweepError(f"{self.name} has no arm {quoted(arm)}; it has {', '.join(law.arm for law in laws)}")

    def tuning(self, *, reference: str | None = None) -> Tuning | None:
        """The optimum of every tuned axis, as of a study."""
        from analysis.tuning.summary import tuned_axes

        return tuned_axes(self.table, reference)

    def fit(self, form: str = "chinchilla", **options: Any) -> FitResult:
        """A law of any form on every point of every curve, N, D, C and loss, as `analysis.fit`, whose options these
        are; the points of one training are resampled together. Raises FitError."""
        from analysis.laws import fit

        points = self.table.curve()
        columns = {"N": "parameters", "D": "samples", "C": "flops", "loss": "value"}
        data = {variable: points[column].to_numpy(float) for variable, column in columns.items()}
        groups = points["trial_id"].to_numpy(str)
        return fit(form, data, **{"groups": groups, **options})

    @property
    def plot(self) -> Figures:
        """The figures, such as `results.plot.ranking()`."""
        return Figures(self.compare, self.laws)

    def report(
        self, folder: str | Path | None = None, *, setting: str | None = None, reference: str | None = None
    ) -> Report:
        """Write the page, its figures and tables into a new folder; by default the store's for imported runs, where a
        new report replaces the one before, and ./NAME-report else. Raises CompareError, QualityError, StoreError."""
        if folder is None and self.home is not None:
            return self._write(self.home, self.looks, setting, reference)
        target = Path(folder or f"{self.name}-report")
        with fresh_folder(target) as made:
            looks = made / "looks.json"
            if self.looks is not None and self.looks.exists():
                shutil.copy(self.looks, looks)
            report = self._write(made, looks, setting, reference)
        path = target / report.path.name
        return replace(report, path=path, text=report.text.replace(str(report.path), str(path)))

    def _write(self, folder: Path, looks: Path | None, setting: str | None, reference: str | None) -> Report:
        from analysis.report.page import report_of

        return report_of(
            self.table,
            self.tables.attention,
            folder,
            reference=reference,
            command=self.command,
            quality_setting=setting,
            gallery=self.gallery,
            looks_file=looks,
            race=self.race,
        )

    def _repr_html_(self) -> str:
        from analysis.html import shown

        return shown(self.origin) + self.table._repr_html_()
