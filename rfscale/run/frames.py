"""What a store has of a sweep, as tables. From its files alone, so also while it runs; loads pandas when called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rfscale.spec.sweep import Sweep
from rfscale.spec.trial import Trial
from rfscale.store import State, Store

if TYPE_CHECKING:
    import pandas as pd


def trials_frame(sweep: Sweep, states: Sequence[tuple[Trial, State]]) -> pd.DataFrame:
    """One row per trial: `trial_id, arm`, the tuned values, `names.PARAMS`, `step, loss, status, reason`.

    `loss` is `val/loss` where the trial is finished, else its last training loss, which formulations do not share.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "trial_id": trial.trial_id,
            "arm": sweep.placing(trial).arm,
            **dict(sweep.placing(trial).tuned),
            **trial.parameters(),
            "step": state.step,
            "loss": state.loss,
            "status": state.status,
            "reason": state.reason,
        }
        for trial, state in states
    )


def curves_frame(sweep: Sweep, store: Store) -> pd.DataFrame:
    """All that was logged, a row for each number: `trial_id, arm, depth, seed, step, samples, flops, key, value`.

    `samples` and `flops` are those of training up to the step; `key` is one of `names.METRICS`, a level of the profile
    or a score. What a journal holds twice, as after a second judging, stands once, with its last value.
    """
    import pandas as pd

    columns = ("trial_id", "arm", "depth", "seed", "step", "samples", "flops", "key", "value")
    rows = []
    for trial in sweep.trials:
        arm, per_sample = sweep.placing(trial).arm, trial.shape.flops().train
        points, _ = store.trial(trial.trial_id).points()
        values = {(point.step, key): value for point in points for key, value in point.metrics.items()}
        for (step, key), value in values.items():
            samples = step * trial.training.batch
            place = (trial.trial_id, arm, trial.model.depth, trial.seed)
            rows.append((*place, step, samples, samples * per_sample, key, value))
    return pd.DataFrame(rows, columns=list(columns))
