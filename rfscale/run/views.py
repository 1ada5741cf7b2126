"""What a person looks at in a study: tables, laws, predictions, figures, images and networks. Each loads what it needs.

study.trials; study.curves; study.law("rf"); study.predict("rf", depth=8, steps=2400)
study.plot.ranking(); study.gallery(); study.sample(trial_id, "a red circle"); study.model(trial_id)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rfscale import names
from rfscale.flow.formulations import FormulationError, canonical
from rfscale.quoting import quoted
from rfscale.run.figures import Figures
from rfscale.run.frames import curves_frame, trials_frame
from rfscale.run.images import Gallery, Images, draw, gallery, network
from rfscale.run.prediction import Target, first_of
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.trial import Trial
from rfscale.store import State, Store

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from analysis.laws.ladder import ArmLaw, Ladder
    from analysis.laws.result import Prediction
    from analysis.tuning.summary import Tuning
    from rfscale.run.study import Compared


class Views:
    """The part of a `Study` that shows; a `Study` gives it the sweep, the store, the states and the comparison."""

    __slots__ = ()
    sweep: Sweep
    store: Store

    def states(self) -> list[tuple[Trial, State]]:
        raise NotImplementedError

    def compare(self, *, reference: str | None = None, by: Sequence[str] = ()) -> Compared:
        raise NotImplementedError

    # --- tables -------------------------------------------------------------------------------------------------------

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial, by the store's files: its parameters, how far it came, its loss."""
        return trials_frame(self.sweep, self.states())

    @property
    def curves(self) -> pd.DataFrame:
        """Every number that was logged, by the store's files: `trial_id, arm, step, flops, key, value` and more."""
        return curves_frame(self.sweep, self.store)

    # --- laws ---------------------------------------------------------------------------------------------------------

    def laws(self, *, reference: str | None = None) -> Ladder:
        """One law for all arms. Raises as `compare` does."""
        from analysis.laws.ladder import ladder_laws

        found = self.compare(reference=reference)
        return ladder_laws(found.table.only(found.comparison.trial_ids), found.comparison.reference)

    def law(self, arm: str) -> ArmLaw:
        """The law as one arm has it, or the reason why there is none. Raises SweepError, and as `compare` does."""
        laws, name = self.laws(), self._arm(arm)
        found = next((law for law in laws.laws if law.arm == name), None)
        if found is None:
            there = ", ".join(law.arm for law in laws.laws)
            raise SweepError(f"arm {quoted(name)} of sweep {self.sweep.name} has no finished trial; there are {there}")
        return found

    def predict(
        self,
        arm: str,
        *,
        depth: int | None = None,
        steps: int | None = None,
        parameters: float | None = None,
        samples: float | None = None,
    ) -> Prediction:
        """The loss of another training: `depth` of the ladder, or `parameters`; for `steps`, or for `samples`.

        Raises SweepError, FitError where the arm has no law, and as `compare` does.
        """
        from analysis.laws.status import FitError

        name = self._arm(arm)
        n, d = Target(depth, parameters, steps, samples).of(first_of(self.sweep, name), name)
        law = self.law(name)
        if law.law is None:
            raise FitError(f"arm {name} has no law: {law.reason}")
        return law.law.predict(name, n, d)

    def tuning(self, *, reference: str | None = None) -> Tuning | None:
        """The optimum of every tuned axis, the laws that they follow, and what tuning moves; None where nothing is
        tuned. Raises as `compare` does."""
        from analysis.tuning.summary import tuned_axes

        return tuned_axes(self.compare(reference=reference).table, reference)

    def arms_of(self, ladder: Ladder, arm: str | None = None) -> tuple[str, ...]:
        """The arms of a ladder in the order of the file, or the one that is named. Raises SweepError."""
        there = {law.arm for law in ladder.laws}
        named = self.sweep.arms if arm is None else (self._arm(arm),)
        if not (found := tuple(name for name in named if name in there)):
            raise SweepError(f"arm {quoted(named[0])} of sweep {self.sweep.name} has no finished trial; name another")
        return found

    # --- pictures -----------------------------------------------------------------------------------------------------

    @property
    def plot(self) -> Figures:
        """The figures, such as `study.plot.ranking()`. What is kept of it, as in `p = study.plot`, reads once."""
        return Figures(self.compare, self.laws)

    def gallery(self, seed: int | None = None) -> Gallery:
        """The samples that finished trials have, by arm and rung, of one seed. Raises StoreError and SweepError."""
        return gallery(self.sweep, self.store, seed)

    def sample(
        self,
        trial: Trial | str,
        prompts: str | Sequence[str],
        *,
        count: int = 4,
        steps: int = 50,
        guidance: float = 2.5,
        seed: int = 0,
        ema: bool = True,
        size: tuple[int, int] | None = None,
        shift: float | None = None,
        without: Sequence[str] = (),
    ) -> Images:
        """Draw `count` images of each prompt by a finished trial, given as such or by its id.

        The rest as of `rfscale.run.images.draw_by`.
        """
        return draw(
            self.store,
            self._id(trial),
            [prompts] if isinstance(prompts, str) else prompts,
            count=count,
            steps=steps,
            guidance=guidance,
            seed=seed,
            ema=ema,
            size=size,
            shift=shift,
            without=without,
        )

    def model(self, trial: Trial | str, *, ema: bool = True, device: str = "cpu") -> nn.Module:
        """The trained network of a finished trial: velocity, noise or data of z and t, as its formulation has it.

        Raises SweepError and StoreError.
        """
        return network(self.store, self._id(trial), ema=ema, device=device)

    def _id(self, trial: Trial | str) -> str:
        return trial.trial_id if isinstance(trial, Trial) else self.sweep.trial(trial).trial_id

    def _arm(self, given: str) -> str:
        """The arm of a label, or of a formulation in any spelling. Raises SweepError."""
        try:
            name = canonical(given)
        except FormulationError:
            name = given
        for known in (given, name):
            if known in self.sweep.arms:
                return known
        there = ", ".join(self.sweep.arms)
        raise SweepError(f"sweep {self.sweep.name} has no arm {quoted(given)}; it has {there}")

    def _repr_html_(self) -> str:
        from analysis.html import shown

        states = [state for _, state in self.states()]
        count = {status: sum(state.status == status for state in states) for status in names.STATUSES}
        told = ", ".join(f"{number} {status}" for status, number in count.items() if number)
        return shown(f"{self.sweep.name}: {self.sweep.question}", f"{len(states)} trials: {told}. {self.store.address}")
