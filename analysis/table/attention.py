"""The logits and entropies of the attention along every training of a sweep, those that diverged among them."""

from __future__ import annotations

import pandas as pd

from analysis.table.histories import Histories
from analysis.table.read import SweepTable, runs_of
from analysis.table.rows import OTHER_TRIAL
from analysis.table.store import reading
from rfscale import names

COLUMNS = ("trial_id", "arm", "status", "parameters", "train_flops", "step", "metric", "block", "value")


def diverged(table: SweepTable) -> pd.DataFrame:
    """The rejected trials that the sweep still asks for and that diverged, each once."""
    rejected = table.rejected
    chosen = (rejected["status"] == names.DIVERGED) & (rejected["reason"] != OTHER_TRIAL)
    return rejected[chosen].drop_duplicates("trial_id")


def read_attention(tracking_uri: str, table: SweepTable) -> pd.DataFrame:
    """What was logged for the trials of the table and for every trial of its sweep that diverged, a row per number:
    `trial_id, arm, status, parameters, train_flops, step, metric, block, value`.

    `metric` is one of `names.ATTENTION`; a value may be NaN or infinite. Empty where nothing was logged. Raises
    TrackingError.
    """
    used = set(table.trials["run_id"])
    lost = set(diverged(table)["trial_id"])
    rows = []
    with reading(tracking_uri) as client:
        runs = runs_of(client, tracking_uri, table.name)
        histories = Histories(client, runs)
        for run in runs:
            tags, params = run.data.tags, run.data.params
            trial_id, status = tags.get(names.TAG_TRIAL_ID, ""), tags.get(names.TAG_STATUS, "")
            if run.info.run_id not in used and not (status == names.DIVERGED and trial_id in lost):
                continue
            lost.discard(trial_id)  # of several runs of one trial the first counts
            arm = tags.get(names.TAG_ARM) or params.get("formulation", "")
            cost = float(params.get("parameters", "nan")), float(params.get("train_flops", "nan"))
            for key in sorted(run.data.metrics):
                place = names.parse_attention(key)
                if place is not None:
                    curve = sorted(histories.of(run.info.run_id, key).items())
                    rows += [(trial_id, arm, status, *cost, step, *place, value) for step, value in curve]
    return pd.DataFrame(rows, columns=list(COLUMNS))
