"""What a sweep will do that its writer may not expect, a sentence each: `plan`, `run` and the report say it."""

from __future__ import annotations

from rfscale.data.notes import data_notes
from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial


def notes(sweep: Sweep) -> tuple[str, ...]:
    """The notes on the file itself, then those on its data. Opens no image. Raises DataError."""
    groups: dict[object, list[Trial]] = {}
    for trial in sweep.trials:
        groups.setdefault((trial.data, trial.text), []).append(trial)
    found = list(sweep.notes)
    for trials in groups.values():
        longest = max((trial.training for trial in trials), key=lambda training: training.samples)
        images = max(trial.evaluation.images for trial in trials)
        found += data_notes(trials[0].data, trials[0].text, images, longest.steps, longest.batch)
    return tuple(dict.fromkeys(found))
