"""The text of a sweep whose data hold what encoders give: one shape, or its arms would be told different things."""

from __future__ import annotations

from collections.abc import Iterable

from rfscale.spec.sweep import SweepError
from rfscale.spec.trial import Trial


def check_stored_text(trials: Iterable[Trial], source: str) -> None:
    """Raises SweepError where two data sets were encoded by text encoders of different shapes."""
    first: Trial | None = None
    for trial in trials:
        if not trial.text.stored:
            continue
        first = first or trial
        if trial.text.spans != first.text.spans or trial.text.width != first.text.width:
            shown = [f"{_path(one)} ({one.text.length} x {one.text.width})" for one in (first, trial)]
            raise SweepError(
                f"{source}: the texts of the data {shown[0]} and {shown[1]} have different shapes, so a network for "
                "one cannot read the other; encode both with the same text encoders, or write two sweeps"
            )


def _path(trial: Trial) -> str:
    return str(getattr(trial.data, "path", trial.data.name))
